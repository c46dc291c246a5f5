"""Runtime: the process that a command runs in: compiler, memory, terminal, signals, network."""
