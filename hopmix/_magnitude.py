"""How large arrays are: the units in which squares stay in range, exactly by powers of two, and roots at 0."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpy.typing import DTypeLike

from hopmix._types import Scalar


def largest(a: Float[Array, "*shape"]) -> Scalar:
    """The size of the largest entry, 1 for none; a constant of differentiation."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))
    return jnp.where(size == 0, 1, size)


def root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with the derivative 0 at 0."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def norm(a: Float[Array, "*shape"]) -> Scalar:
    """The Euclidean norm of all entries, wherever the dtype can hold it; that of `jnp.linalg` squares what it meets."""
    unit = largest(a)
    return unit * root(jnp.sum((a / unit) ** 2))


def working(a: Array, name: str) -> Array:
    """An array in the dtype to compute in: its own, float32 for narrower ones, whose squares and decompositions fail.

    **Raises:** `TypeError` for what holds no floating-point numbers.
    """
    if not jnp.issubdtype(a.dtype, jnp.floating):
        raise TypeError(f"`{name}` must hold floating-point numbers, got {a.dtype}; convert it with astype(float).")
    return a.astype(jnp.float32) if jnp.finfo(a.dtype).bits < 32 else a


# ---- Powers of two: exact, and as exponents without a range -----------------------------------------------------

NOTHING = -(2**20)
"""The exponent of zero, below those of all numbers."""


def exponent(size: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """The exponent e of sizes with 2^e <= size < 2^(e + 1); `NOTHING` for zero."""
    info = jnp.finfo(size.dtype)
    bits = jax.lax.bitcast_convert_type(size, _integer(size.dtype))
    biased = (bits >> info.nmant) & (2**info.nexp - 1)
    found = jnp.maximum(biased - (info.maxexp - 1), info.minexp).astype(jnp.int32)
    return jnp.where(size == 0, NOTHING, found)


def power(exponents: Int[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """2^e exactly; 0 below the range of the dtype and its largest power of two above it."""
    info = jnp.finfo(dtype)
    biased = jnp.clip(exponents + (info.maxexp - 1), 0, 2**info.nexp - 2)
    return jax.lax.bitcast_convert_type(biased.astype(_integer(dtype)) << info.nmant, dtype)


def shifted(a: Float[Array, "*shape"], by: Int[Array, ""]) -> Float[Array, "*shape"]:
    """2^e times an array, infinite where it is too large; in two steps, as e may be twice the range of the dtype."""
    info = jnp.finfo(a.dtype)
    half = jnp.clip(by // 2, info.minexp, info.maxexp - 2)
    rest = jnp.clip(by - by // 2, info.minexp, info.maxexp - 2)
    return a * power(half, a.dtype) * power(rest, a.dtype)


class Rows(NamedTuple):
    """A matrix whose rows are in units of their own: row a is 2^(exponents[a]) times `entries[a]`.

    The largest entry of each row is in [1, 2), or 0, so that no row hides another and no square leaves the dtype.
    """

    entries: Float[Array, "rows columns"]
    exponents: Int[Array, " rows"]


def in_own_units(a: Float[Array, "rows columns"]) -> Rows:
    """The rows of a matrix apart from their sizes; exact, and the same for all multiples of a row by powers of two."""
    exponents = exponent(jax.lax.stop_gradient(jnp.max(jnp.abs(a), axis=1)))
    units = power(jnp.where(exponents == NOTHING, 0, exponents), a.dtype)
    return Rows(a / units[:, None], exponents)


def _integer(dtype: DTypeLike) -> DTypeLike:
    return jnp.int32 if jnp.finfo(dtype).bits == 32 else jnp.int64
