"""Labels that are none, and labels that look like others."""

from collections.abc import Callable, Iterable

import numpy as np

from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError

NOTHING = ("", "nan", "none", "null")
"""What tables write, in any case, where there is no label."""


def refuse_missing(data: str, labels: np.ndarray, row: Callable[[int], str]):
    """Raise `UsageError` where a label in text stands for none.

    **Arguments:**

    - `row`: what messages call a row.
    """
    if labels.dtype.kind != "U":
        return
    values, first = np.unique(labels, return_index=True)
    missing = sorted(
        (place, value) for place, value in zip(first, values) if value.strip().casefold() in NOTHING
    )
    if missing:
        place, value = missing[0]
        told = f" ({str(value)!r})" if value.strip() else ""
        cure = ", or give that class another name" if value.strip() else ""
        raise UsageError(
            f"data = {data!r}: {row(int(place))} has no label{told}; remove such rows{cure}"
        )


def notes_on_labels(values: Iterable[object]) -> list[str]:
    """What to tell of the labels that occur: where -1 is a class, and where two are written much
    alike.
    """
    names = [str(value) for value in values]
    notes = []
    if "-1" in names:
        notes.append(
            "label -1 is a class of its own; where it stands for 'not labelled', remove those "
            "images"
        )
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_plain(name), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    return notes + [
        f"classes {list_names(group, 3)} are different ones, though written much alike"
        for group in alike[:3]
    ]


def _plain(name: str) -> str:
    """A name without what people write now so, now so: case, blanks around it, zeros before a
    number.
    """
    plain = name.strip().casefold()
    if plain.isdecimal() and plain.isascii() and len(plain) < 20:
        return str(int(plain))
    return plain
