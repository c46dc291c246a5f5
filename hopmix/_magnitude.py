"""How large arrays are: the unit in which squares stay in float32, and roots that differentiate at 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._types import Scalar


def largest(a: Float[Array, "*shape"]) -> Scalar:
    """The size of the largest entry, 1 for none; a constant of differentiation."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))
    return jnp.where(size == 0, 1, size)


def root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with the derivative 0 at 0."""
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
