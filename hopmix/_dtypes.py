"""Dtypes: what is taken as numbers, and in which numbers linear algebra is done."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def need_floats(name: str, array: Any):
    """Refuse integers and booleans where real numbers are meant: they overflow and truncate without a word.

    What has no dtype passes: Python's numbers, and what stands for an array while a tree is built.

    **Raises:** `ValueError`.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must hold floating-point numbers, got {dtype}; use x.astype(float).")


def need_mask(name: str, array: Any):
    """Refuse anything but booleans where entries are chosen.

    **Raises:** `ValueError`.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(f"{name} must hold booleans, got {dtype}; use x.astype(bool).")


def solver_dtype(dtype: Any) -> Any:
    """The dtype for solvers and linear algebra: at least float32, as no backend has them in half precision."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def widened(a: Any) -> Any:
    """An array of half precision in float32; anything else as it is."""
    half = eqx.is_inexact_array(a) and jnp.finfo(a.dtype).bits < 32
    return a.astype(jnp.float32) if half else a


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def precision_of(system: Any) -> Any:
    """The floating-point type of a system's parameters, JAX's default if it has none."""
    return jnp.result_type(float, *(leaf for leaf in jax.tree.leaves(system) if eqx.is_inexact_array(leaf)))
