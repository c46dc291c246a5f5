"""Names of splits: what an author calls the training, the validation and the test images."""

import re
from collections.abc import Iterable

from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError

SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""How a split may be spelled, in any case. Nothing else is a split's name, and no part of a name
ever is.
"""

SHARD = re.compile(r"[-_.]\d+(-of-\d+(-[0-9a-f]{16})?)?$")
"""What is behind a split's name where it has several files, as in `train-00000-of-00002`."""


WORDS = re.compile(r"[^\W\d_]+")
"""The words in a name."""

SPLIT_COLUMN = "split"
"""The column, in any case, that says the split of each row."""

FEW = 12
"""A column with more values than these names nobody's splits."""


def split_of(name: str) -> str | None:
    """The split that is called so: "train", "validation", "test", or `None`."""
    return next((split for split, names in SPELLINGS.items() if name.casefold() in names), None)


def named_splits(data: str, names: Iterable[str]) -> dict[str, str] | None:
    """The name that each split has, or `None` where not every name is that of a split.

    **Arguments:**

    - `names`: of all folders, or of all files, that may be splits.

    **Raises:** `UsageError` where two names stand for one split, or several for splits without one
    for training.
    """
    names = list(names)
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is None:
            return None
        if split in found:
            raise UsageError(
                f"data = {data!r}: {found[split]!r} and {name!r} are both names of the {split} "
                f"split; rename one"
            )
        found[split] = name
    if len(found) == 1 and "train" not in found:
        return None  # alone it is no split of anything
    if found and "train" not in found:
        raise UsageError(
            f"data = {data!r} has the splits {list_names(found.values())} but no 'train'; name "
            f"one of them so"
        )
    return found or None


def split_column(columns: Iterable[str]) -> str | None:
    """The name of the column of splits as it is written."""
    return next((name for name in columns if name.strip().casefold() == SPLIT_COLUMN), None)


def note_on_column(name: str, values: Iterable[str]) -> list[str]:
    """What to tell of a column that is not read, where some of its values are names of splits."""
    known = dict.fromkeys(value.strip() for value in values)
    named = [value for value in known if split_of(value)]
    others = [value for value in known if not split_of(value)]
    told = f"column {name!r} is not read"
    if split_column([name]):
        if named and others:
            beside = f" beside {list_names(named, 3)}"
        else:
            beside = ""
        return [f"{told}: it has {list_names(others or named, 2)}{beside}, which makes no split"]
    if not named or len(known) > FEW:
        return []
    beside = f" beside {list_names(others, 2)}" if others else ""
    return [
        f"{told}, but names splits ({list_names(named, 3)}{beside}); to use them, call it "
        f"{SPLIT_COLUMN!r}"
    ]


def note_on_names(what: str, names: Iterable[str], cure: str) -> list[str]:
    """What to tell of names of files or folders that make no splits, where some of them hold a
    split's name.
    """
    alike = [
        name for name in dict.fromkeys(names) if any(split_of(word) for word in WORDS.findall(name))
    ]
    if not alike:
        return []
    return [
        f"{what} {list_names(alike, 3)} are read as one pool, whatever splits they name; {cure}"
    ]
