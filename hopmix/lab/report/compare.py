"""Two runs side by side: accuracy and final indices of the arms that both have, and what else
differs.
"""

import dataclasses
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from rich.table import Table

from hopmix.lab.errors import UsageError
from hopmix.lab.report import html, words
from hopmix.lab.report.data import (
    Run,
    accuracy_by_seed,
    has_values,
    last_measured,
    read_run,
)
from hopmix.lab.report.files import resource
from hopmix.lab.report.sections.values import LEADING
from hopmix.lab.statistics import Summary, summarise
from hopmix.lab.store import replacing
from hopmix.symmetry.quantities import quantity

ACCURACY = "test accuracy, %"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One number of one arm in both runs: mean and standard error over the seeds of each."""

    arm: str
    what: str
    first: Summary
    second: Summary
    digits: int = 3

    @property
    def change(self) -> float:
        """The second mean less the first."""
        return self.second.mean - self.first.mean

    @property
    def error(self) -> float:
        """Its standard error, of two independent means; NaN where one of them has a single seed."""
        return math.hypot(self.first.stderr, self.second.stderr)

    @property
    def cells(self) -> list[str]:
        """Both numbers and their difference, as text."""
        sides = [(side.mean, side.stderr) for side in (self.first, self.second)]
        told = [words.with_error(mean, error, self.digits) for mean, error in sides]
        sign = "+" if round(self.change, self.digits) > 0 else ""
        return [*told, sign + words.with_error(self.change, self.error, self.digits)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two finished runs have in common and where they differ.

    - `names`: of their folders.
    - `differences`: by arm, the accuracy first.
    - `settings`: what was set differently, with the value of each run.
    - `alone`: for each run its arms that the other does not have.
    """

    names: tuple[str, str]
    differences: list[Difference]
    settings: Mapping[str, tuple[object, object]]
    alone: tuple[list[str], list[str]]


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare two finished runs by the names of their arms.

    **Arguments:**

    - `first`, `second`: directories that `hopmix ablate --out` wrote.

    **Raises:** `UsageError` if one is no run or has not ended, or if they have no arm in common.
    """
    runs = (_finished(first), _finished(second))
    common = [arm for arm in runs[0].arms if arm in runs[1].arms]
    if not common:
        told = " and ".join(f"{run.path} has {', '.join(run.arms)}" for run in runs)
        raise UsageError(f"no common arm: {told}; compare runs that share one.")
    alone = tuple([arm for arm in run.arms if arm not in common] for run in runs)
    differences = [one for arm in common for one in _differences(runs, arm)]
    return Comparison(_names(runs), differences, _settings(runs), (alone[0], alone[1]))


def _finished(path: Path) -> Run:
    run = read_run(path)
    if run.recorded:
        raise UsageError(f"{path}: a Recorder wrote it; what is compared are finished studies.")
    if not run.finished:
        planned = int(run.study.get("steps_total", 0))
        raise UsageError(
            f"{path}: not finished, step {run.last_step} of {planned}; go on with: hopmix resume"
        )
    return run


def _names(runs: tuple[Run, Run]) -> tuple[str, str]:
    """Of the folders; whole paths where two folders have one name."""
    first, second = (run.path.resolve() for run in runs)
    if first.name != second.name:
        return first.name, second.name
    return str(first), str(second)


def _differences(runs: tuple[Run, Run], arm: str) -> list[Difference]:
    first, second = (_summary(100 * accuracy_by_seed(run).sel(arm=arm).values) for run in runs)
    found = [Difference(arm, ACCURACY, first, second, digits=2)]
    for name in LEADING:
        about = quantity(name)
        if about is not None and all(has_values(run.metrics, name) for run in runs):
            first, second = (_final(run, arm, name) for run in runs)
            found.append(Difference(arm, about.label, first, second))
    return found


def _final(run: Run, arm: str, name: str) -> Summary:
    """Of an index at the last step it was measured at, averaged over blocks and branches."""
    last = last_measured(run.metrics[name]).sel(arm=arm)
    return _summary(last.mean([dim for dim in last.dims if dim != "seed"]).values)


def _summary(values: np.ndarray) -> Summary:
    return summarise(values.astype(float))


def _settings(runs: tuple[Run, Run]) -> dict[str, tuple[object, object]]:
    """The parts of the configurations that are not the same."""
    first, second = (_flat(run.study.get("config", {})) for run in runs)
    names = dict.fromkeys([*first, *second])
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(values: Mapping) -> dict[str, object]:
    """Nested settings as one level, with names like "model.dim"."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in _flat(value).items()}
        else:
            found[str(name)] = value
    return found


# ---- Terminal and page ---------------------------------------------------------------------------


def terminal_table(compared: Comparison) -> Table:
    """The differences for a terminal, each arm named once."""
    table = Table("arm", "what", *compared.names, "difference", title="Final values")
    shown = ""
    for one in compared.differences:
        table.add_row("" if one.arm == shown else one.arm, one.what, *one.cells)
        shown = one.arm
    return table


def sentences(compared: Comparison) -> list[str]:
    """What is said below the table, as text."""
    told = [
        f"Only in {name}: {', '.join(arms)}."
        for name, arms in zip(compared.names, compared.alone)
        if arms
    ]
    settings = [
        f"{name} {html.setting(pair[0])} → {html.setting(pair[1])}"
        for name, pair in compared.settings.items()
    ]
    told.append(f"Set differently: {'; '.join(settings)}." if settings else "Set alike.")
    return told


def write_comparison(compared: Comparison, folder: Path) -> Path:
    """Write `compare.html`, which needs no other file, into a folder and return its path."""
    page = folder / "compare.html"
    title = f"{compared.names[0]} and {compared.names[1]}"
    text = Template(resource("compare.html.tmpl")).substitute(
        title=escape(title),
        differences=_table(compared),
        settings=_settings_table(compared),
        sentences="\n".join(f"<p>{escape(line)}</p>" for line in sentences(compared)[:-1]),
        style=resource("report.css"),
    )
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return page


def _table(compared: Comparison) -> str:
    names = ("Arm", "What", *map(escape, compared.names), "Difference")
    rows = [_row(one) for one in compared.differences]
    return html.table("Final values of both runs", html.heads(names, words=2), rows)


def _row(one: Difference) -> str:
    cells = "".join(f"<td>{cell}</td>" for cell in one.cells)
    seeds = f'<span class="sub">n = {one.first.n} and {one.second.n}</span>'
    head = f'<th scope="row" class="words">{escape(one.arm)}{seeds}</th>'
    return f'<tr>{head}<td class="words">{one.what}</td>{cells}</tr>'


def _settings_table(compared: Comparison) -> str:
    if not compared.settings:
        return html.missing("Both runs were set alike.")
    rows = [_setting(name, pair) for name, pair in compared.settings.items()]
    names = ("Setting", *map(escape, compared.names))
    return html.table("What was set differently", html.heads(names, words=3), rows)


def _setting(name: str, pair: tuple[object, object]) -> str:
    cells = "".join(f'<td class="words">{escape(html.setting(one))}</td>' for one in pair)
    return f'<tr><th scope="row" class="words">{escape(name)}</th>{cells}</tr>'
