"""What `hopmix measure` says: sheets of numbers for the terminal, where they fit 80 columns, and
for the page.
"""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from hopmix.lab.checkpoints.formats.weights import shortened
from hopmix.lab.checkpoints.layers import Kind, Skipped
from hopmix.lab.checkpoints.measure import Index, Measured, OverSeeds, Report, Spread, over_seeds
from hopmix.lab.runtime.terminal import printable

KINDS: dict[Kind, str] = {
    "pair": "pairs W, V",
    "query-key": "queries and keys",
    "square": "square matrices",
}
SHOWN = 10
"""How many things that were not measured are told one by one."""


class Sheet(NamedTuple):
    """A table of texts: so many columns of words, then columns of numbers."""

    title: str
    words: int
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(report: Report) -> list[Sheet]:
    """One row for each layer, pairs and products apart; of a run one row for each arm, block and
    branch.
    """
    if any(one.layer.arm for one in report.measured):
        return [_run_sheet(over_seeds(report.measured))]
    common, names = labels(report.measured)
    named = list(zip(names, report.measured))
    heading = common.rpartition(".")[2] or "layer"
    pairs = [(name, one) for name, one in named if one.layer.kind == "pair"]
    products = [(name, one) for name, one in named if one.layer.kind != "pair"]
    return [
        sheet
        for sheet in (_pairs_sheet(heading, pairs), _products_sheet(heading, products))
        if sheet.rows
    ]


def rich_table(sheet: Sheet) -> Table:
    """A sheet for the terminal."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title=sheet.title, title_justify="left"
    )
    for i, name in enumerate(sheet.head):
        if i < sheet.words:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*map(Text, row))  # as texts: a name in a file may look like a style
    return table


def labels(measured: Sequence[Measured]) -> tuple[str, list[str]]:
    """What the places of all layers begin with, and the rest of each with its part."""
    common, places = shortened([printable(one.layer.place) for one in measured])
    return common, [
        f"{place} {printable(one.layer.part)}".strip() for place, one in zip(places, measured)
    ]


def _pairs_sheet(heading: str, named: Sequence[tuple[str, Measured]]) -> Sheet:
    head = (heading, "n × h", "cosine", "unit", "null", "z", "p", "score", "null", "z", "p")
    return Sheet(
        "Pairs of weights W, V",
        1,
        head,
        [_pair_row(name, one.indices, _size(one)) for name, one in named],
    )


def _pair_row(name: str, indices: dict[str, Index], size: str) -> tuple[str, ...]:
    cosine = number(indices["cosine"].value)
    return name, size, cosine, *_tested(indices["unit_cosine"]), *_tested(indices["symmetry_score"])


def _products_sheet(heading: str, named: Sequence[tuple[str, Measured]]) -> Sheet:
    head = (heading, "n × h", "score", "null", "z", "p", "direct.", "z", "p", "complex", "depart.")
    return Sheet("Products M = VW", 1, head, [_product_row(name, one) for name, one in named])


def _product_row(name: str, one: Measured) -> tuple[str, ...]:
    score = one.indices["symmetry_score"]
    direction = one.indices["directionality"]
    spectrum = [
        number(one.spectrum.get(key, math.nan)) for key in ("complex_fraction", "departure")
    ]
    return (
        name,
        _size(one),
        *_tested(score),
        number(direction.value),
        z_score(direction.z),
        number(direction.p),
        *spectrum,
    )


def _run_sheet(rows: Sequence[OverSeeds]) -> Sheet:
    head = ("arm", "block", "n", "cosine", "unit", "null", "z", "score")
    arms = [row.layer.arm for row in rows]
    shown = [arm if i == 0 or arm != arms[i - 1] else "" for i, arm in enumerate(arms)]
    return Sheet(
        "Mean ± standard deviation over seeds",
        2,
        head,
        [_run_row(a, row) for a, row in zip(shown, rows)],
    )


def _run_row(arm: str, row: OverSeeds) -> tuple[str, ...]:
    cosine = row.indices["cosine"]
    unit = row.indices["unit_cosine"]
    score = row.indices["symmetry_score"]
    place = f"{row.layer.place.removeprefix('block ')} {row.layer.part}"
    return (
        arm,
        place,
        str(row.seeds),
        _spread(cosine),
        _spread(unit),
        number(unit.null),
        z_score(unit.z),
        _spread(score),
    )


def _spread(spread: Spread) -> str:
    return f"{number(spread.mean)} ± {number(spread.std)}"


def _size(one: Measured) -> str:
    return f"{one.layer.visible}×{one.layer.hidden}"


def _tested(index: Index) -> tuple[str, str, str, str]:
    return number(index.value), number(index.mean), z_score(index.z), number(index.p)


def number(value: float, digits: int = 3) -> str:
    """So many digits after the point, a dash for what is not known; no minus before a zero."""
    if math.isnan(value):
        return "-"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def z_score(value: float) -> str:
    """As many digits as there is room for."""
    return number(value, 0 if abs(value) >= 1000 else 1)


# ---- Sentences -----------------------------------------------------------------------------------


def sentences(report: Report, pairings: int) -> list[str]:
    """What is printed below the tables."""
    return [
        f"{len(report.measured)} layer{'s' * (len(report.measured) != 1)} of {report.source}.",
        medians(report),
        *legend(report, pairings),
        *omissions(report),
    ]


def medians(report: Report) -> str:
    """The median symmetry score of each kind of layers, the number that the literature compares; of
    a run, by arm.
    """
    scores: dict[str, list[float]] = {}
    for one in report.measured:
        if not one.layer.part.startswith("head "):  # it is a part of a product that is there too
            group = one.layer.arm or KINDS[one.layer.kind]
            if math.isfinite(score := one.indices["symmetry_score"].value):
                scores.setdefault(group, []).append(score)
    told = [
        f"{number(statistics.median(own))} of {len(own)} {group}" for group, own in scores.items()
    ]
    if told:
        return f"Median symmetry score: {'; '.join(told)}."
    return "No layer has a symmetry score."


def legend(report: Report, pairings: int) -> list[str]:
    """What the columns mean."""
    kinds = {one.layer.kind for one in report.measured}
    lines = []
    if "pair" in kinds:
        lines.append(
            "cosine: of V and Wᵀ, 1 where tied; unit: of each hidden unit's outgoing and "
            "incoming weights, weighted "
            "by their sizes. -1 is as symmetric as 1: V = -Wᵀ has cosines of -1 and the score 1."
        )
    lines.append(
        "score: ⟨M, Mᵀ⟩/|M|² of M = VW, 1 where M is symmetric, -1 where it is antisymmetric."
    )
    if kinds - {"pair"}:
        lines.append(
            "direct.: above 0 where columns of M stand out, below 0 where rows do; complex: "
            "share of the eigenvalues "
            "of M that are not real; depart.: departure from normality."
        )
    if any(one.layer.arm for one in report.measured):
        lines.append(
            "null is a mean over the seeds, z their sum over the root of their number; each "
            "seed's own z and p are in "
            "--json and on the page."
        )
    return [*lines, *_null_legend(kinds, pairings)]


def _null_legend(kinds: Collection[str], pairings: int) -> list[str]:
    if not pairings:
        return []
    if "square" in kinds:
        rows = ", of a square matrix with its rows in random order"
    else:
        rows = ""
    lines = [
        f"null, z, p: against {pairings} random pairings of the same hidden units{rows}; p is "
        f"two-sided and at least "
        f"{1 / (pairings + 1):.2g}. The layer counts as one of them, so that |z| is at most "
        f"{pairings / math.sqrt(pairings + 1):.3g}."
    ]
    if "pair" in kinds:
        lines.append(
            "Rescaling and turning hidden units (w to c w, v to v/c) keeps value, z and p of "
            "unit and score, and "
            "none of them of cosine."
        )
    if "query-key" in kinds:
        lines.append(
            "Queries and keys are compared with random rotations of the singular basis of M, so "
            "that a change of "
            "basis of a head keeps value, z and p."
        )
    return lines


def omissions(report: Report) -> list[str]:
    """What was left out of large layers, and what could not be measured at all."""
    counts = Counter(what for one in report.measured for what in one.left_out)
    lines = [
        f"Left out of {n} of {len(report.measured)} layers: {what}." for what, n in counts.items()
    ]
    if lines:
        lines.append("--full computes what was left out.")
    lines += [f"Not measured: {_told(one)}" for one in report.left_out[:SHOWN]] + _more(
        report.left_out
    )
    return lines + ([_others(report.others)] if report.others else [])


def _others(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
    if len(names) == 1:
        count = "1 other matrix is"
    else:
        count = f"{len(names)} other matrices are"
    return f"{count} in no layer of a known layout ({shown}); --pairs measures any two."


def _told(one: Skipped) -> str:
    return printable(f"{one.name}: {one.why}.")


def _more(left_out: Sequence[Skipped]) -> list[str]:
    if len(left_out) > SHOWN:
        return [f"Not measured: {len(left_out) - SHOWN} more, see --json."]
    return []
