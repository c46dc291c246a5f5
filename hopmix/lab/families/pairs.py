"""Couplings of models that have none: two matrices that are paired by their paths."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hopmix._coupling import Coupling
from hopmix._tree import path_name
from hopmix.lab.errors import UsageError

TRANSPOSED = ".T"


class Side(NamedTuple):
    """One side of a pair: a path with stars, and whether the matrix is stored as its transpose."""

    path: str
    transposed: bool

    @classmethod
    def of(cls, text: str) -> "Side":
        """The side that a text names."""
        return cls(text.removesuffix(TRANSPOSED), text.endswith(TRANSPOSED))

    def matches(
        self, names: Iterable[str], *, anywhere: bool = False
    ) -> dict[tuple[str, ...], str]:
        """The names that it stands for, by what is in the place of each star; `anywhere` also those
        with something in front, by that too.
        """
        pattern = r"([^.]+)".join(map(re.escape, self.path.split("*")))
        if anywhere:
            pattern = rf"(.*\.)?{pattern}"
        found = {name: re.fullmatch(pattern, name) for name in names}
        return {match.groups(""): name for name, match in found.items() if match}


def paired_couplings(tree: PyTree, pairs: Sequence[str]) -> dict[str, Coupling]:
    """The couplings that pairs of paths make of a tree, by what both paths have in common.

    **Arguments:**

    - `tree`: a model; its matrices may have further axes in front.
    - `pairs`: "UP:DOWN", as in `Arm`.

    **Raises:** `UsageError` for a text that names no two matrices, a path that does not exist, and
    matrices whose shapes do not pair.
    """
    if not pairs:
        return {}
    leaves = matrices(tree)
    found: dict[str, Coupling] = {}
    seen: set[tuple[str, str]] = set()
    for text in pairs:
        up, down = _sides(text)
        ups = _existing(up, leaves, text)
        downs = _existing(down, leaves, text)
        for stars, path in ups.items():
            if stars not in downs:
                raise UsageError(
                    f"pairs: {path} of {text!r} has no partner with the same stars; both sides "
                    f"need them."
                )
            if (path, downs[stars]) in seen:
                raise UsageError(f"pairs: {path} and {downs[stars]} are paired twice; once is it.")
            seen.add((path, downs[stars]))
            name = _common(path, downs[stars])
            if name in found:
                name = f"{path}:{downs[stars]}"
            found[name] = _coupling(leaves, path, downs[stars], up, down)
    return found


def matrices(tree: PyTree) -> dict[str, Any]:
    """The arrays of at least two axes of a tree by their paths, such as `layers.0.weight`."""
    named = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {path: leaf for path, leaf in named.items() if len(getattr(leaf, "shape", ())) >= 2}


def _sides(text: str) -> tuple[Side, Side]:
    sides = [Side.of(side) for side in text.split(":")]
    if len(sides) != 2 or not all(side.path for side in sides):
        raise UsageError(f"pairs: got {text!r}; give 'UP:DOWN', the paths of two matrices.")
    return sides[0], sides[1]


def _existing(side: Side, leaves: Mapping[str, Any], text: str) -> dict[tuple[str, ...], str]:
    found = side.matches(leaves)
    if not found:
        close = get_close_matches(side.path, leaves, 3, 0) or ["none"]
        raise UsageError(
            f"pairs: the model has no matrix {side.path!r} of {text!r}; the nearest: "
            f"{', '.join(close)}."
        )
    return found


def _coupling(leaves: Mapping[str, Any], up: str, down: str, *sides: Side) -> Coupling:
    first, second = (
        jnp.swapaxes(leaves[path], -1, -2) if side.transposed else leaves[path]
        for path, side in zip((up, down), sides)
    )
    if first.shape[-2:] != second.shape[-2:][::-1]:
        raise UsageError(
            f"pairs: {up} is {_times(first)} and {down} is {_times(second)}, but V is visible x "
            f"hidden where W is hidden x visible; put {TRANSPOSED} behind the name of what is "
            f"stored as its transpose."
        )
    return _unchecked(first, second)


def _times(matrix: Any) -> str:
    return " x ".join(map(str, matrix.shape[-2:]))


def _unchecked(up: Any, down: Any) -> Coupling:
    # Matrices side by side, along leading axes, are no coupling that the constructor would take.
    empty = Coupling(jnp.zeros((1, 1)), breaking=jnp.zeros((1, 1)), tie=0.0)
    tie = jnp.zeros(up.shape[:-2], up.dtype)
    return eqx.tree_at(lambda one: (one.up, one.breaking, one.tie), empty, (up, down, tie))


def _common(first: str, second: str) -> str:
    """The pieces that both paths begin with, or both paths where there are none."""
    shared = []
    for one, other in zip(first.split("."), second.split(".")):
        if one != other:
            break
        shared.append(one)
    return ".".join(shared) or f"{first}:{second}"
