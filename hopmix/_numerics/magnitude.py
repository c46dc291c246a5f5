"""How large arrays are: the units in which squares stay in the range of a dtype, and roots that
differentiate at 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._numerics.dtypes import need_floats, widened
from hopmix._types import Scalar


def max_abs(a: Float[Array, "*shape"]) -> Scalar:
    """The size of the largest entry, 1 for none; a constant of differentiation."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))
    return jnp.where(size == 0, 1, size)


def safe_sqrt(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with the derivative 0 at 0."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def norm(a: Float[Array, "*shape"]) -> Scalar:
    """The Euclidean norm of all entries, wherever the dtype can hold it; that of `jnp.linalg`
    squares what it meets.
    """
    unit = max_abs(a)
    return unit * safe_sqrt(jnp.sum((a / unit) ** 2))


def working(a: Array, name: str) -> Array:
    """An array in the dtype to compute in: its own, float32 for narrower ones, whose squares and
    decompositions fail.

    **Raises:** `ValueError` for what holds no floating-point numbers.
    """
    need_floats(f"`{name}`", a)
    return widened(a)


class Rows(NamedTuple):
    """A matrix whose rows are in units of their own: row a is `sizes[a]` times `entries[a]`.

    The largest entry of each row is 1, or all are 0 and so is its size: no row hides another, and
    no square leaves the range of the dtype.
    """

    entries: Float[Array, "rows columns"]
    sizes: Float[Array, " rows"]


def in_own_units(a: Float[Array, "rows columns"]) -> Rows:
    """The rows of a matrix apart from their sizes, which are constants of differentiation."""
    sizes = jax.lax.stop_gradient(jnp.max(jnp.abs(a), axis=1))
    return Rows(a / jnp.where(sizes == 0, 1, sizes)[:, None], sizes)
