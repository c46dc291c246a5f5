"""Where measurements of couplings stand in the store: by block and branch, from their names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

FIRST = ("token", "channel")
"""Branches that come first, in this order."""


def branch_label(branch: str) -> str:
    """What pages call a branch: `token mixing` of mixers, the name itself in other models."""
    if branch in FIRST:
        return f"{branch} mixing"
    return branch


DIGITS = 6
"""A longer number in a name is not that of a block."""


class Place(NamedTuple):
    """The place of a coupling."""

    block: int
    branch: str


class Layout(NamedTuple):
    """The places of all couplings of a study.

    - `blocks`: their numbers, in order.
    - `branches`: their names, in order.
    - `places`: of each coupling, by its name.
    """

    blocks: tuple[int, ...]
    branches: tuple[str, ...]
    places: Mapping[str, Place]

    @classmethod
    def of(cls, names: Iterable[str], blocks: int = 0) -> "Layout":
        """The layout of couplings of these names, in models with so many blocks at least.

        The first number in a name is its block, or 0, and what follows the number its branch:
        `blocks.0.token` is the branch `token` of block 0. Where two couplings would share a place,
        the branch is all of the name but the number.
        """
        names = list(dict.fromkeys(names))
        places = {name: _short(name) for name in names}
        if len(set(places.values())) < len(places):
            places = {name: _long(name) for name in names}
        if len(set(places.values())) < len(places):
            places = {name: Place(0, name) for name in names}
        branches = dict.fromkeys(place.branch for place in places.values())
        ordered = [*(b for b in FIRST if b in branches), *(b for b in branches if b not in FIRST)]
        numbers = {*range(blocks), *(place.block for place in places.values())}
        return cls(tuple(sorted(numbers)), tuple(ordered), places)

    def arranged(
        self, names: Sequence[str], values: Shaped[np.ndarray, "members couplings *rest"]
    ) -> Shaped[np.ndarray, "members block branch *rest"]:
        """What was measured of the couplings of these names, by block and branch; NaN elsewhere."""
        members, _, *rest = values.shape
        shape = (members, len(self.blocks), len(self.branches), *rest)
        arranged = np.full(shape, np.nan, values.dtype)
        for i, name in enumerate(names):
            block, branch = self.places[name]
            arranged[:, self.blocks.index(block), self.branches.index(branch)] = values[:, i]
        return arranged


def _split(name: str) -> tuple[list[str], int | None, list[str]]:
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal() and part.isascii() and len(part) <= DIGITS:
            return parts[:i], int(part), parts[i + 1 :]
    return parts, None, []


def _short(name: str) -> Place:
    before, block, after = _split(name)
    return Place(block or 0, ".".join(after or before) or name)


def _long(name: str) -> Place:
    before, block, after = _split(name)
    return Place(block or 0, ".".join([*before, *after]) or name)
