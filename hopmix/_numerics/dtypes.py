"""Dtypes: what is taken as numbers, and in which numbers linear algebra is done."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def need_floats(name: str, array: Any):
    """Refuse integers and booleans where real numbers are meant: they overflow and truncate without
    a word.

    Refuse lists and dictionaries too. What else has no dtype passes: Python's numbers, and what
    stands for an array while a tree is built.

    **Raises:** `ValueError`.
    """
    if isinstance(array, list | tuple | dict):
        raise ValueError(
            f"{name} must be one array, got a {type(array).__name__}; use jnp.asarray(x, float)."
        )
    dtype = getattr(array, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} must hold floating-point numbers, got {dtype}; use x.astype(float)."
        )


def of_floats(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that refuses integers, and lists, among its arrays and tuples of arrays; in
    `jax.jit` while it traces.

    **Raises:** `ValueError`.
    """

    @functools.wraps(method)
    def checked(self: Any, *given: Any, **named: Any) -> Any:
        name = f"What `{type(self).__name__}.{method.__name__}` takes"
        for argument in (*given, *named.values()):
            for array in argument if isinstance(argument, tuple) else (argument,):
                need_floats(name, array)
        return method(self, *given, **named)

    return checked


def make_of_floats(cls: type, names: Iterable[str]):
    """Have the methods of these names that a class itself defines refuse integers."""
    for name in names:
        method = vars(cls).get(name)
        if inspect.isfunction(method):
            setattr(cls, name, of_floats(method))


def need_mask(name: str, array: Any):
    """Refuse anything but booleans where entries are chosen.

    **Raises:** `ValueError`.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(f"{name} must hold booleans, got {dtype}; use x.astype(bool).")


def solver_dtype(dtype: Any) -> Any:
    """The dtype for solvers and linear algebra: at least float32, as no backend has them in half
    precision.
    """
    if jnp.finfo(dtype).bits < 32:
        return jnp.dtype(jnp.float32)
    return jnp.dtype(dtype)


def widened(a: Any) -> Any:
    """An array of half precision in float32; anything else as it is."""
    half = eqx.is_inexact_array(a) and jnp.finfo(a.dtype).bits < 32
    if half:
        return a.astype(jnp.float32)
    return a


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in another dtype."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def precision_of(system: Any) -> Any:
    """The floating-point type of a system's parameters, JAX's default if it has none."""
    return jnp.result_type(
        float, *(leaf for leaf in jax.tree.leaves(system) if eqx.is_inexact_array(leaf))
    )
