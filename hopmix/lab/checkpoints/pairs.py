"""Weights that the user pairs by name: patterns such as
`blocks.*.up.weight:blocks.*.down.weight`.
"""

from hopmix.lab.checkpoints.formats.weights import (
    AbstractWeights,
    fitting,
    listed,
    nearest,
    shortened,
)
from hopmix.lab.checkpoints.layers import Layer, LayerSet, Mismatch, pair, square
from hopmix.lab.checkpoints.layouts import NotMeasurable, matrix
from hopmix.lab.errors import UsageError
from hopmix.lab.families.pairs import Side


def check_patterns(patterns: tuple[str, ...]):
    """Raise `UsageError` for a text that names neither two weights nor one."""
    for text in patterns:
        sides = text.split(":")
        if len(sides) > 2 or not all(side.removesuffix(".T") for side in sides):
            raise UsageError(
                f"pairs: got {text!r}, but it must be 'UP:DOWN', two names, or one of a square "
                f"matrix."
            )
        if len({side.count("*") for side in sides}) > 1:
            raise UsageError(
                f"pairs: got {text!r}, but both names must have the same number of stars."
            )


def named_layers(
    weights: AbstractWeights, patterns: tuple[str, ...], *, breaking: bool = False
) -> LayerSet:
    """The layers that patterns name, in the order of the patterns and of the file.

    **Arguments:**

    - `patterns`: `UP:DOWN` for W (hidden x visible) and V (visible x hidden), or the name of a
      square matrix; `.T` behind a name for what is stored as the transpose.
    - `breaking`: the second weight is V - W^T.

    **Raises:** `UsageError` for a name that there isn't, and for shapes that don't pair, with the
    nearest that do.
    """
    layers = []
    for text in patterns:
        sides = [Side.of(side) for side in text.split(":")]
        layers += _named(weights, sides, breaking)
    return LayerSet(weights.source, layers, [])


def _named(weights: AbstractWeights, sides: list[Side], breaking: bool) -> list[Layer]:
    found = [side.matches(weights.tensors, anywhere=True) for side in sides]
    for side, names in zip(sides, found):
        if not names:
            close = nearest(side.path, weights.tensors)
            raise UsageError(
                f"pairs: no weight is named {side.path!r}; nearest: "
                f"{listed(weights.tensors, close)}."
            )
    return [
        _layer(weights, sides, [names.get(key) for names in found], breaking) for key in found[0]
    ]


def _layer(
    weights: AbstractWeights, sides: list[Side], names: list[str | None], breaking: bool
) -> Layer:
    try:
        own = [
            matrix(weights, _known(weights, names, i), transposed=side.transposed)
            for i, side in enumerate(sides)
        ]
        place, part = _place([m.name for m in own])
        if len(own) == 1:
            return square(place, part, *own)
        return pair(place, part, *own, breaking=breaking)
    except NotMeasurable as unfit:
        raise UsageError(f"pairs: {unfit}.") from None
    except Mismatch as mismatch:
        if sides[-1].transposed:
            wanted = mismatch.wanted[::-1]
        else:
            wanted = mismatch.wanted
        raise UsageError(
            f"pairs: {mismatch}; {fitting(weights.tensors, mismatch.name, wanted, mismatch.first)}."
        ) from None


def _known(weights: AbstractWeights, names: list[str | None], index: int) -> str:
    name = names[index]
    if name is None:
        close = listed(
            weights.tensors, nearest(str(names[0]), set(weights.tensors) - {str(names[0])})
        )
        raise UsageError(
            f"pairs: {names[0]} has no partner with the same stars; nearest names: {close}."
        )
    return name


def _place(names: list[str]) -> tuple[str, str]:
    """What the names have in common up to a dot, and the rest of the first one."""
    names = [name.removesuffix(".weight") for name in names]
    common, rest = shortened(names)
    return common, rest[0]
