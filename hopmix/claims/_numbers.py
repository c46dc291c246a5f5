"""Random numbers for the examples of a claim, and a function of each of many examples."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from hopmix._types import PRNGKey


def generator(key: PRNGKey) -> np.random.Generator:
    """Random numbers by NumPy, for which there is nothing to compile."""
    return np.random.default_rng(np.asarray(jr.key_data(key)))


def normals(key: PRNGKey, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Gaussian arrays of these shapes, drawn in a compiled program."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    # One draw for all: each call of `jr.normal` costs a second of compilation.
    parts = jnp.split(jr.normal(key, (int(ends[-1]),)), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def in_batches(gap: Callable[[Any], Array], examples: Any) -> Array:
    """What a function makes of each of a stack of examples, compiled once and in bounded memory."""
    number = len(jax.tree.leaves(examples)[0])
    return jax.jit(lambda e: jax.lax.map(gap, e, batch_size=min(number, 100)))(examples)
