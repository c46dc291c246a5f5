"""What a user should see of the data before training: counts, classes, and where each split comes
from.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hopmix.lab.data.sources.source import Labels
from hopmix.lab.data.sources.words import escaped, short

FEW = 5
"""With fewer test images of a class its accuracy says next to nothing."""

SHOWN = 10


class Row(NamedTuple):
    """A split in the overview: its name, its labels, and how it came about."""

    split: str
    labels: Labels
    origin: str


def describe(
    name: str,
    image: tuple[int, int, int],
    classes: Sequence[str],
    rows: Sequence[Row],
    notes: Sequence[str],
) -> tuple[str, ...]:
    """Lines for the terminal: the classes, one line for each split, and what is unusual.

    **Arguments:**

    - `image`: height, width and colours; `rows`: the last one is that of the test split.
    """
    size = " x ".join(str(length) for length in image)
    listed = ", ".join(short(each) for each in classes[:SHOWN]) + (
        ", ..." if len(classes) > SHOWN else ""
    )
    head = (
        f"data: {escaped(name)}, images of {size} (height x width x colours), {len(classes)} "
        f"classes: {listed}"
    )
    lines = [
        f"  {row.split:<11}{len(row.labels):>9,} images, {_per_class(row, classes)}: {row.origin}"
        for row in rows
    ]
    told = [f"  note: {note}" for note in [*notes, *_few(rows[-1], classes)]]
    return tuple(escaped(line) for line in [head, *lines, *told])


def _counts(row: Row, classes: Sequence[str]) -> np.ndarray:
    return np.bincount(row.labels, minlength=len(classes))


def _per_class(row: Row, classes: Sequence[str]) -> str:
    counts = _counts(row, classes)
    low = counts.min()
    high = counts.max()
    if low == high:
        return f"{low:,} of each class"
    return f"{low:,} to {high:,} of a class"


def _few(test: Row, classes: Sequence[str]) -> list[str]:
    counts = _counts(test, classes)
    few = int((counts < FEW).sum())
    if not few:
        return []
    least = int(counts.argmin())
    return [
        f"{few} of {len(classes)} classes have fewer than {FEW} test images "
        f"({short(classes[least])}: "
        f"{counts[least]}); test accuracy says little of them"
    ]
