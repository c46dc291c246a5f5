"""Tolerances: what is taken for rounding, in units in the last place. (How much a computed energy
may rise has a module of its own, `hopmix._numerics.rounding`.)

| name | what differs by no more than this | relative to |
|---|---|---|
| `TIED` | $V$ and $W^\\top$ of tied weights, as a compiled program leaves them | the norm of $W$ |
| `WEIGHTS` | weights that are meant to be equal | their size |
| `NUDGE` | numbers that trials change, to see what rounding does | each number |
| `CHANGES` | results | the largest change that such nudges made |
| `SWEPT` | the last moves of sweeps that are at rest | the largest entry |
| `LEFT` | the way that is left to the fixed point of sweeps | the largest entry |
| `SOLVED` | both sides of a solved equation | the largest entry |
| `NORMS` | norms of rows of one product of matrices | the largest of them |
| `INDICES` | indices of symmetry of the same weights | one, or the index |
| `FIELD` | the asymmetry of a field that is a gradient | one |
"""

from typing import Any

import jax.numpy as jnp

TIED = 4
WEIGHTS = 8
NUDGE = 8
CHANGES = 8
SWEPT = 16
LEFT = 100
SOLVED = 1000
NORMS = 16
INDICES = 64
FIELD = 10_000


def rounding_of(dtype: Any, units: int = 1) -> float:
    """So many units in the last place of a dtype, relative to one."""
    return units * float(jnp.finfo(dtype).eps)


def half_the_digits(dtype: Any) -> float:
    """The square root of a unit in the last place: what is left of a root of a difference, and of a
    sum that is not known better.
    """
    return rounding_of(dtype) ** 0.5


def tied_weights(dtype: Any) -> float:
    """What equal weights differ by; half precision would let a visible breaking pass."""
    return min(rounding_of(dtype, WEIGHTS), 1e-6)


def conservative_field(dtype: Any) -> float:
    """The asymmetry that rounding explains; half precision would let anything pass."""
    return min(rounding_of(dtype, FIELD), 0.1)
