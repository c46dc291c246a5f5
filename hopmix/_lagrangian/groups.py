"""Groups of units: their axes, and what Lagrangians of groups have in common.

Each takes `axes`, the axes of one group, and is the sum over groups of the Lagrangian of one group;
`None` makes the whole layer one group.
"""

import math

Axes = tuple[int, ...] | None


def unit_radius(axes: Axes, shape: tuple[int, ...]) -> float:
    """The largest norm of a token of activations, each group of which has a Euclidean norm of one
    at most.
    """
    whole = len(shape) == 2 and (axes is None or -1 in axes)
    if whole:
        return 1.0
    return math.sqrt(math.prod(shape[1:]))
