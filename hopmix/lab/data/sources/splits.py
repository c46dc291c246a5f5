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
"""How a split may be spelled, in any case. Nothing else is a split's name, and no part of a name ever is."""

SHARD = re.compile(r"[-_.]\d+(-of-\d+(-[0-9a-f]{16})?)?$")
"""What is behind a split's name where it has several files, as in `train-00000-of-00002`."""


def split_of(name: str) -> str | None:
    """The split that is called so: "train", "validation", "test", or `None`."""
    return next((split for split, names in SPELLINGS.items() if name.casefold() in names), None)


def named_splits(data: str, names: Iterable[str]) -> dict[str, str] | None:
    """The name that each split has, or `None` where not every name is that of a split.

    **Arguments:**

    - `names`: of all folders, or of all files, that may be splits.

    **Raises:** `UsageError` where two names stand for one split, or several for splits without one for training.
    """
    names = list(names)
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is None:
            return None
        if split in found:
            raise UsageError(
                f"data = {data!r}: {found[split]!r} and {name!r} are both names of the {split} split; rename one"
            )
        found[split] = name
    if len(found) == 1 and "train" not in found:
        return None  # alone it is no split of anything
    if found and "train" not in found:
        raise UsageError(
            f"data = {data!r} has the splits {list_names(found.values())} but no 'train'; name one of them so"
        )
    return found or None
