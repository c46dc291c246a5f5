"""What the guards cost and what reading saves: the commands of two checkouts, given in turn.

.venv/bin/python -m experiments.reliability.timing --base CHECKOUT [--fashion FOLDER] [--turns 3]

Each command is a process of its own, with what it compiles kept from one run to the next. Medians
of wall clock and of processor time; the latter is what others on the machine disturb least.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import tyro

HERE = Path(__file__).resolve().parents[2]
STUDY = (
    *(
        "--data",
        "digits",
        "--arms",
        "free",
        "broken",
        "symmetric",
        "--lambdas",
        "0.01",
        "--seeds",
        "2",
    ),
    *("--dim", "16", "--depth", "2", "--epochs", "8"),
)
READ = """
import sys, time
from pathlib import Path
try:
    from hopmix.lab.report.data import read_run
except ImportError:  # where the lab had no rooms yet
    from hopmix.lab._report_data import read_run
run = Path(sys.argv[1])
read_run(run)
begin = time.process_time()
for _ in range(10):
    read_run(run)
print((time.process_time() - begin) / 10)
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Time this checkout against another one, in turn."""

    base: Path
    """The folder of the other checkout."""
    turns: int = 3
    """How often each command is given."""
    fashion: Path | None = None
    """A folder of Fashion-MNIST, to measure the memory of a study of one epoch; it takes minutes.
    """
    json: Path | None = None
    """Write the figures to this file as well."""


class Cost(NamedTuple):
    """What a process took: seconds of the clock and of the processor, and MiB resident at the
    most.
    """

    wall: float
    processor: float
    memory: float


def cost_of(tree: Path, words: list[str], cache: Path) -> Cost:
    """Give a command of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(tree), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, cwd=tree, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} in {tree} ended with {process.returncode}")
    return Cost(time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def reading_of(tree: Path, run: Path) -> Cost:
    """What reading a run takes, once everything is imported."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    words = [sys.executable, "-c", READ, str(run)]
    printed = subprocess.run(
        words, env=environment, cwd=tree, capture_output=True, text=True, check=True
    )
    seconds = float(printed.stdout)
    return Cost(seconds, seconds, 0.0)


def in_turn(name: str, measure: Callable[[Path], Cost], options: Options) -> dict[str, float | str]:
    """The medians of both checkouts, and the ratios of this one to the other."""
    costs = {tree: [] for tree in (options.base, HERE)}
    for _ in range(options.turns):
        for tree, found in costs.items():
            found.append(measure(tree))
    before, now = (
        Cost(*(median(part) for part in zip(*found, strict=True))) for found in costs.values()
    )
    ratios = {part: getattr(now, part) / (getattr(before, part) or 1) for part in Cost._fields}
    row = {"name": name} | {
        f"{part} before": round(getattr(before, part), 3) for part in Cost._fields
    }
    row |= {f"{part} now": round(getattr(now, part), 3) for part in Cost._fields}
    row |= {f"{part} ratio": round(ratio, 3) for part, ratio in ratios.items()}
    print(
        " ".join(
            f"{part} {getattr(before, part):.2f} -> {getattr(now, part):.2f}"
            for part in Cost._fields
        ),
        name,
    )
    return row


def main(options: Options):
    """Time everything."""
    cli = ["-m", "hopmix.lab.cli"]
    with tempfile.TemporaryDirectory() as work:
        cache = Path(work) / "cache"
        runs = {tree: Path(work) / str(i) / "run" for i, tree in enumerate((options.base, HERE))}

        def ablate(tree: Path) -> Cost:
            shutil.rmtree(runs[tree], ignore_errors=True)
            return cost_of(
                tree,
                [*cli, "ablate", *STUDY, "--out", str(runs[tree])],
                cache / runs[tree].parent.name,
            )

        def given(command: str) -> Callable[[Path], Cost]:
            return lambda tree: cost_of(
                tree, [*cli, command, str(runs[tree])], cache / runs[tree].parent.name
            )

        for tree in runs:  # what is compiled is kept from here on
            ablate(tree)
        rows = [
            in_turn("ablation", ablate, options),
            in_turn("resume of a finished study", given("resume"), options),
            in_turn("report", given("report"), options),
            in_turn("reading a run", lambda tree: reading_of(tree, runs[tree]), options),
        ]
        if options.fashion is not None:
            epoch = [
                "ablate",
                "--data",
                str(options.fashion),
                "--seeds",
                "3",
                "--epochs",
                "1",
                "--measurements",
                "1",
            ]
            clothes = lambda tree: cost_of(
                tree, [*cli, *epoch, "--out", tempfile.mkdtemp(dir=work) + "/run"], cache
            )
            rows.append(
                in_turn("Fashion-MNIST, one epoch", clothes, dataclasses.replace(options, turns=1))
            )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
