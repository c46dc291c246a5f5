"""Rounding of a state: what a difference may be without meaning anything."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def nearby(x: Any, count: int) -> Any:
    """A state, and some that differ from it by at most eight units of rounding, stacked on a first
    axis.

    How much a result differs between them tells how many of its digits the state determines.
    """
    random = np.random.default_rng(0)

    def stack(leaf):
        noise = random.uniform(-8, 8, (count + 1, *leaf.shape)) * float(jnp.finfo(leaf.dtype).eps)
        noise[0] = 0
        return jnp.asarray(np.asarray(leaf, float) * (1 + noise), leaf.dtype)

    return jax.tree.map(stack, x)
