"""Rounding of a state: what a difference may be without meaning anything."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hopmix._numerics.tolerances import NUDGE, rounding_of


def nearby(x: Any, count: int) -> Any:
    """A state, and some that differ from it by a few units of rounding, stacked on a first axis.

    How much a result differs between them tells how many of its digits the state determines.
    """
    random = np.random.default_rng(0)

    def stack(leaf):
        noise = random.uniform(-NUDGE, NUDGE, (count + 1, *leaf.shape)) * rounding_of(leaf.dtype)
        noise[0] = 0
        return jnp.asarray(np.asarray(leaf, float) * (1 + noise), leaf.dtype)

    return jax.tree.map(stack, x)
