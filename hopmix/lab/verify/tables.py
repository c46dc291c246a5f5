"""What `hopmix verify` prints: tables that fit 80 columns, in words as well as in colours."""

import math
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from hopmix._numerics.rounding import rounding_unit
from hopmix.claims.table import magnitude
from hopmix.lab.verify.checks import STEPS, BlockCheck, Measured, RunCheck, Verdict

COLOURS: dict[Verdict, str] = {
    "holds": "green",
    "not certified": "yellow",
    "not conservative": "yellow",
    "contradicted": "bold red",
}


def claims_table(measured: Sequence[Measured]) -> Table:
    """One row for each claim."""
    table = _table("claim", "statement")
    for name in ("error", "bound", "examples", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for claim, (error, bound, examples, passed), seconds in (
        (m.claim, _numbers(m), m.seconds) for m in measured
    ):
        words = Text.assemble(claim.statement, (f"\nmeasured: {claim.what}", "dim"))
        if passed:
            verdict = Text("holds", "green")
        else:
            verdict = Text("fails", "bold red")
        table.add_row(claim.id, words, error, bound, examples, f"{seconds:.1f}", verdict)
    return table


def _numbers(measured: Measured) -> tuple[str, str, str, bool]:
    m = measured.measurement
    return magnitude(m.error), f"{m.bound:.3g}", f"{m.examples:,}", m.passed


def claims_sentence(measured: Sequence[Measured], seconds: float) -> str:
    """What came out, in one sentence."""
    failed = [m.claim.id for m in measured if not m.measurement.passed]
    if failed:
        return (
            f"{len(failed)} of {len(measured)} claims failed: {', '.join(failed)} "
            f"({seconds:.0f} s)."
        )
    if len(measured) > 1:
        holding = f"All {len(measured)} claims hold"
    else:
        holding = f"{measured[0].claim.id} holds"
    return f"{holding} ({seconds:.0f} s, float64)."


def blocks_table(worst: Sequence[BlockCheck]) -> Table:
    """One row for each arm and block, of which these are the worst over the seeds."""
    table = _table("arm")
    for name in ("block", "claim", "bound", "flow", "step", "rise", "asym."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    arm = None
    for check in worst:
        if arm not in (None, check.arm):
            table.add_section()
        table.add_row(Text(check.arm if check.arm != arm else ""), *_block_cells(check))
        arm = check.arm
    return table


def _block_cells(check: BlockCheck) -> tuple[str | Text, ...]:
    return (
        str(check.block),
        check.claim or "none",
        _short(check.step_bound),
        _percent(check.flow_rises),
        _percent(check.step_rises),
        "none" if check.worst_rise <= rounding_unit(np.float64) else _short(check.worst_rise),
        _short(check.asymmetry),
        Text(check.verdict, COLOURS[check.verdict]),
    )


def legend(checked: RunCheck) -> list[str]:
    """What the columns of `blocks_table` mean, and what is left out of it."""
    left_out = f"Left out, diverged in training: {'; '.join(checked.diverged)}."
    return [
        f"After {checked.step} training steps; worst over the seeds, from the states of "
        f"{checked.images} validation "
        "images; weights cast to float64.",
        "claim: the claim that covers the block as trained; bound: the largest step for which "
        "descent is proved from "
        "these states; flow, step: share of them whose energy rises along the flow, and in the "
        "step that the block "
        f"takes; rise: the largest beyond rounding in {STEPS} applications, relative to the two "
        f"energies compared or, "
        "where these are less, to all that they add up; asym.: "
        "asymmetry of the field, 0 for a gradient.",
        *([left_out] if checked.diverged else []),
    ]


def reasons(checks: Sequence[BlockCheck]) -> list[str]:
    """Why no claim covers an arm: a line for each that has such a block, of the block that is the
    least symmetric.
    """
    lines = []
    for arm in dict.fromkeys(check.arm for check in checks):
        own = [check for check in checks if check.arm == arm and check.claim is None]
        if own:
            worst = max(own, key=lambda check: check.asymmetry)
            lines.append(
                f"{arm}: {worst.verdict} (asymmetry {worst.asymmetry:.1g}); {worst.reason}"
            )
    return lines


def blocks_sentence(worst: Sequence[BlockCheck]) -> str:
    """What came out, in one sentence."""
    contradicted = [
        f"{check.arm} block {check.block}" for check in worst if check.verdict == "contradicted"
    ]
    if contradicted:
        return f"The numbers contradict the certificate of {', '.join(contradicted)}."
    held = sum(check.verdict == "holds" for check in worst)
    return (
        f"{held} of {len(worst)} blocks are certified, and the numbers agree with every "
        f"certificate."
    )


def _table(*names: str) -> Table:
    return Table(*names, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)


def _percent(share: float) -> str:
    if math.isnan(share):
        return "-"
    return f"{100 * share:.0f} %"


def _short(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "any" if math.isinf(value) else f"{value:.1g}"
