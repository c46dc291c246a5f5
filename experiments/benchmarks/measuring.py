"""What measuring costs: the measurements of all members alone, against a whole interval, for each program of a study.

    .venv/bin/python experiments/benchmarks/measuring.py [--repetitions 7]

The default study on digits. "measuring" is everything an interval does beside training: validation losses and
accuracies of all members, all indices of asymmetry, and the energies of every block.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from hopmix.lab.config import StudyConfig
from hopmix.lab.study import compile_all, prepare


def timed(function, *arguments):
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - begin, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    study = prepare(StudyConfig())
    states = [program.initial() for program in study.programs]
    programs = compile_all(study, states, study.dataset)
    rows, begin = [], jnp.asarray(0, jnp.int32)
    for layout, program, members in zip(study.programs, programs, states, strict=True):
        measure = jax.jit(layout.measure)
        _, (members, _) = timed(program, members, begin, study.dataset)  # the first calls compile and allocate
        timed(measure, members, study.dataset)
        measuring, training = [], []
        for _ in range(repetitions):
            measuring.append(timed(measure, members, study.dataset)[0])
            seconds, (members, _) = timed(program, members, begin, study.dataset)
            training.append(seconds)
        rows.append(
            {
                "arms": [arm.name for arm in layout.arms],
                "members": len(layout.members),
                "steps": layout.schedule.interval,
                "measure_ms": 1e3 * statistics.median(measuring),
                "interval_ms": 1e3 * statistics.median(training),
            }
        )
    whole = sum(row["interval_ms"] for row in rows) - sum(row["measure_ms"] for row in rows)
    share = sum(row["measure_ms"] for row in rows) / whole
    print(json.dumps({"programs": rows, "measuring_share_of_training": share}, indent=1))


if __name__ == "__main__":
    main()
