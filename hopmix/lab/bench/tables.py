"""What `hopmix bench` prints: a table of 80 columns for each benchmark, and where hopmix loses."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from hopmix.lab.bench.race import Limits, Row
from hopmix.lab.bench.suite import Benched

TITLES = {
    "step": "Training step, ms",
    "inference": "Inference, ms per batch",
    "ablation": "A whole ablation, ms",
    "descent": "Energy, force and descent, ms",
    "measuring": "Measuring, ms: ratio is the share of training",
    "data": "Data pipeline, ms",
    "start": "Start, ms",
    "memory": "Peak memory of loss and gradient, MiB",
    "growth": "Growth, ms per step",
}

OPTIONS = ("compiler_options_training", "compiler_options_measuring")


def rich_table(rows: Sequence[Row], limits: Limits | None) -> Table:
    """The table of one benchmark."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        title=TITLES[rows[0].benchmark],
        title_justify="left",
    )
    table.add_column("what", overflow="fold")
    table.add_column("hopmix", justify="right", no_wrap=True)
    table.add_column("against", overflow="fold")
    measured = [row for row in rows if row.shares(limits)]
    for heading in ("", "ratio", "spread", *(("peak", "band") if measured else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row), *(_shares(row, limits) if measured else ()))
    return table


def _cells(row: Row) -> tuple[str | Text, ...]:
    words = Text(row.name)
    own = number(row.median)
    if row.note:
        words.append(f"\n{row.note}", "bold red" if "DIFFERENT" in row.note else "dim")
    if row.ratio is None or row.other_median is None:
        return words, own, "", "", "", ""
    style = "bold red" if row.loses else "green" if row.wins else ""
    spread = f"{_ratio(min(row.ratios))}..{_ratio(max(row.ratios))}"
    return (
        words,
        own,
        Text(row.against),
        number(row.other_median),
        Text(_ratio(row.ratio), style),
        spread,
    )


def _shares(row: Row, limits: Limits | None) -> tuple[str, ...]:
    return tuple(f"{100 * share:.0f} %" for share in row.shares(limits) or ())


def number(value: float) -> str:
    """Three digits, or whole numbers where they are longer."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(value: float) -> str:
    if value >= 0.1:
        return f"{value:.2f}"
    return f"{value:.2g}"


def sentences(benched: Benched) -> list[str]:
    """What the columns mean, what the machine is, and where hopmix loses; each where it applies."""
    about = benched.machine
    limits = benched.limits
    rows = benched.rows
    machine = f"{about['cpu']}, {about['cores']} cores, {about['device']}"
    told = []
    if any(row.other for row in rows):
        told.append(
            "ratio: hopmix / against, median of the pairs, which ran in turn; spread: least and "
            "greatest ratio, green "
            "where all are below 1."
        )
    if limits is None:
        return [*told, f"{machine}."]
    if any(row.work for row in rows):
        told.append(
            "peak: share of the matrix-product peak that useful operations reach; band: share of "
            "the memory bandwidth "
            "that the matrices take, each counted once."
        )
    told.append(
        f"{machine}; matrix products {limits.flops / 1e9:,.0f} GFLOP/s, which varied by "
        f"{100 * limits.noise:.0f} %, "
        f"memory {limits.bandwidth / 1e9:,.1f} GB/s, by {100 * limits.bandwidth_noise:.0f} %."
    )
    if any(about[name] for name in OPTIONS):
        told.append(
            "Compiled with options of XLA that HOPMIX_COMPILER_OPTIONS=off leaves out; --json "
            "names them."
        )
    if any(row.race for row in rows):
        return [*told, losses(rows)]
    return told


def losses(rows: Sequence[Row]) -> str:
    """How many races hopmix wins in every pair, and by name those that it loses or that are
    undecided.
    """
    races = [row for row in rows if row.race and row.other]
    if not races:
        return "hopmix ran against nothing here; name a peer with --peer."
    named = lambda some: "; ".join(
        f"{r.benchmark} {r.name} against {r.against} ({_ratio(r.ratio)})" for r in some
    )
    lost = [r for r in races if r.loses]
    open_ = [r for r in races if r.undecided]
    told = [f"hopmix wins {sum(r.wins for r in races)} of {len(races)} races in every pair"]
    told += [f"loses {len(lost)}: {named(lost)}"] if lost else ["loses none"]
    told += [f"is ahead, but not in every pair, in {len(open_)}: {named(open_)}"] if open_ else []
    return ", ".join(told) + "."
