"""Benchmarks: how fast hopmix trains, infers, measures and starts, beside a baseline."""

from hopmix.lab._moved import moved_names

__getattr__ = moved_names(__name__, "suite", "Benched", "benchmark", "run_bench", "sizes_of")
