"""The drills: studies killed, damaged, written by two, copied; hostile and bad files. Every case
has to pass.

.venv/bin/python -m experiments.reliability.drill [--only kills damage ...] [--quick]   (or: make drills)

Trains small studies into a temporary folder, and writes how each drill goes into `results.json`,
case by case: what ends a drill loses none of it. A drill that is left out keeps its last figures
there. The exit code is 0 where every case passed, and 1 otherwise.
"""  # noqa: E501

import collections
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import track

from experiments.reliability import (
    commands,
    copies,
    damage,
    hostile,
    inputs,
    kills,
    small_study,
    workers,
    writers,
)
from experiments.reliability.small_study import Runs
from experiments.reliability.workers import Judge, Outcome
from hopmix.lab import store
from hopmix.lab.runtime.environment import environment

Name = Literal["kills", "damage", "writers", "copies", "hostile", "inputs"]
NAMES: tuple[Name, ...] = ("kills", "damage", "writers", "copies", "hostile", "inputs")
RESULTS = Path(__file__).with_name("results.json")
MOST_FAILURES = 100
"""How many failures of a drill are written down."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Kill, damage, copy and deceive small studies, and say what came of it."""

    only: tuple[Name, ...] = NAMES
    """The drills to run."""
    quick: bool = False
    """A few cases of each, and no figures written: to see that the drills themselves work."""
    numbers: tuple[int, ...] = ()
    """Only these cases, as they are counted from 0; no figures are written: to try again what did
    not pass.
    """
    jobs: int = 2
    """How many cases run side by side."""
    seed: int = 0
    """Of the moments, files and bits that are drawn."""
    out: Path = RESULTS
    """Where the figures go."""


@dataclasses.dataclass(frozen=True)
class Drill:
    """What is done `full` times, or `quick` times; `cases` makes so many of a seed and the runs of
    the small study.
    """

    judge: Judge
    full: int
    quick: int
    cases: Callable[[int, int, Runs], Sequence[Any]]


DRILLS: dict[Name, Drill] = {
    "kills": Drill(kills.judge, 60, 1, lambda count, seed, runs: kills.cases(count, seed)),
    "damage": Drill(damage.judge, 1000, 2, damage.cases),
    "writers": Drill(writers.judge, 20, 1, lambda count, seed, runs: writers.cases(count, seed)),
    "copies": Drill(copies.judge, 20, 1, lambda count, seed, runs: copies.cases(count, seed)),
    "hostile": Drill(hostile.judge, 1000, 2, lambda count, seed, runs: hostile.cases(count, seed)),
    "inputs": Drill(
        inputs.judge, 2000, 5, lambda count, seed, runs: inputs.cases(runs.ended.parents[1])[:count]
    ),
}


def run(name: Name, options: Options, runs: Runs, work: Path) -> Iterator[dict[str, Any]]:
    """Run a drill in a folder; what is to be known of it so far, after each case."""
    drill = DRILLS[name]
    begin = time.perf_counter()
    commit = environment()["commit"]
    cases = drill.cases(drill.quick if options.quick else drill.full, options.seed, runs)
    if options.numbers:
        cases = [cases[number] for number in options.numbers]
    shared = truth_of(runs, work) if name == "damage" else runs
    judged = workers.outcomes(drill.judge, cases, shared, work / name, options.jobs)
    found = []
    for outcome in track(judged, f"{name:8}", len(cases), console=Console(stderr=True)):
        found.append(outcome)
        if not outcome.passed:
            print(
                f"{name}: {outcome.name}: {outcome.how}: {outcome.seen}",
                file=sys.stderr,
                flush=True,
            )
        yield record(found, len(cases), time.perf_counter() - begin) | {"commit": commit}


def truth_of(runs: Runs, work: Path) -> damage.Truth:
    """What the commands give of whole runs, found out in a process of its own."""
    place = work / "truth"
    place.mkdir()
    with ProcessPoolExecutor(1, commands.PROCESSES, initializer=commands.prepare_process) as pool:
        return pool.submit(damage.truth, runs, place).result()


def record(found: Sequence[Outcome], planned: int, seconds: float) -> dict[str, Any]:
    """The figures of a drill, and its first failures."""
    failures = [outcome for outcome in found if not outcome.passed]
    return {
        "passed": len(found) - len(failures),
        "of": len(found),
        "planned": planned,
        "how": dict(collections.Counter(outcome.how for outcome in found).most_common()),
        "seconds": round(seconds),
        "failures": [outcome._asdict() for outcome in failures[:MOST_FAILURES]],
    }


def main(options: Options) -> int:
    """Run the drills and write their figures; the exit code."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="hopmix-drills-") as work:
        runs = small_study.make_runs(Path(work) / "runs")
        for name in options.only:
            figures = {}
            for figures in run(name, options, runs, Path(work)):
                keep(name, figures, options)
            wrong += figures["of"] - figures["passed"]
            print(f"{name:8} {figures['passed']} of {figures['of']}: {figures['how']}", flush=True)
    return 1 if wrong else 0


def keep(name: Name, figures: dict[str, Any], options: Options):
    """Put the figures of a drill in the place of its last ones."""
    if not options.quick and not options.numbers:
        before = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
        store.write_json(options.out, before | {name: figures})


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
