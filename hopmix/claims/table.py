"""The table of all claims, as `theory/README.md` shows it between two markers."""

import re
from collections.abc import Iterable

from hopmix.claims._claim import Claim, Measurement

BEGIN = "<!-- claims:begin -->"
END = "<!-- claims:end -->"
COLUMNS = (
    "claim",
    "statement",
    "source",
    "status",
    "tests",
    "what is measured",
    "error",
    "bound",
    "examples",
)

Measured = tuple[Claim, Measurement]


def markdown(measured: Iterable[Measured]) -> str:
    """The table in Markdown; links are relative to `theory/`."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(cells(*pair) for pair in measured)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cells(claim: Claim, measurement: Measurement) -> tuple[str, ...]:
    """One row of the table."""
    error = magnitude(measurement.error)
    return (
        f"[{claim.id}]({claim.page})",
        *map(plain, (claim.statement, claim.source, claim.status)),
        f"[{claim.test}](../tests/theory/{claim.test})",
        plain(claim.what),
        error if measurement.passed else f"**{error}: fails**",
        f"{measurement.bound:.3g}",
        str(measurement.examples),
    )


def magnitude(error: float) -> str:
    """An error with one significant digit: the digits after it are those of one machine."""
    return f"{error:.1g}"


def plain(text: str) -> str:
    """Text in which Markdown finds nothing to interpret."""
    return re.sub(r"[\\`*|<\[\]$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def replaced(document: str, table: str) -> str:
    """The document with this table between its markers.

    **Raises:** `ValueError` unless it has each marker once, in their order.
    """
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    if document.count(BEGIN) != 1 or document.count(END) != 1 or END not in rest:
        raise ValueError(
            f"the table stands between the lines {BEGIN} and {END}, once each; put them there."
        )
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
