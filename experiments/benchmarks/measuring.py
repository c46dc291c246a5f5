"""What measuring costs: the measurements of all members alone, against a whole interval, for each program of a study.

    .venv/bin/python experiments/benchmarks/measuring.py [--repetitions 7]

The default study on digits. "measuring" is everything an interval does beside training: validation losses and
accuracies of all members, all indices of asymmetry, and the energies of every block; at every fourth interval ("deep")
also spectra, vector fields and the rate of breaking. Their mean cost is set against training.
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
    begin, every = jnp.asarray(0, jnp.int32), study.config.deep
    shallow, deep = jnp.asarray(False), jnp.asarray(True)
    rows = []
    for layout, program, members in zip(study.programs, programs, states, strict=True):
        measure = jax.jit(layout.measure)
        timed(measure, members, begin, deep, study.dataset)  # the first calls compile and allocate
        _, (members, _) = timed(program, members, begin, shallow, study.dataset)
        times = {"measure_ms": [], "deep_ms": [], "interval_ms": []}
        for _ in range(repetitions):
            times["measure_ms"].append(timed(measure, members, begin, shallow, study.dataset)[0])
            times["deep_ms"].append(timed(measure, members, begin, deep, study.dataset)[0])
            seconds, (members, _) = timed(program, members, begin, shallow, study.dataset)
            times["interval_ms"].append(seconds)
        medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
        about = {"members": len(layout.members), "steps": layout.schedule.interval}
        rows.append({"arms": [arm.name for arm in layout.arms]} | about | medians)
    total = {name: sum(row[name] for row in rows) for name in ("measure_ms", "deep_ms", "interval_ms")}
    training = total["interval_ms"] - total["measure_ms"]
    mean = total["measure_ms"] + (total["deep_ms"] - total["measure_ms"]) / every
    shares = {"without_deep": total["measure_ms"] / training, f"deep_every_{every}": mean / training}
    print(json.dumps({"programs": rows, "share_of_training": shares}, indent=1))


if __name__ == "__main__":
    main()
