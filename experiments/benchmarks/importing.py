"""Seconds that `import hopmix` adds to `import jax, equinox, optax`, each in fresh interpreters, in turn.

.venv/bin/python experiments/benchmarks/importing.py [--repetitions 7]
"""

import argparse
import json
import statistics
import subprocess
import sys

TIMED = """
import time
import jax, equinox, optax
begin = time.perf_counter()
import hopmix
print(time.perf_counter() - begin)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    command = [sys.executable, "-c", TIMED]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repetitions)
    ]
    print(json.dumps({"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}))


if __name__ == "__main__":
    main()
