"""Implicit functions: roots with derivatives, linear maps of trees, and NaN in the place of
errors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix._numerics.implicit import fixed_point, implicit_root, solve_linear, spoil


def square_root(a):
    """By twenty steps of Newton's method, and their number."""
    newton = lambda x: jax.lax.fori_loop(0, 20, lambda _, x: 0.5 * (x + a / x), x)
    return implicit_root(lambda x: x**2 - a, jnp.ones(()), lambda x: (newton(x), jnp.asarray(20)))


@pytest.mark.quick
def test_a_root_has_the_derivatives_of_the_implicit_function():
    """Of sqrt(a): 1 / (2 sqrt a) and -1 / (4 a sqrt a); what is told about it stays what it is."""
    a = jnp.asarray(3.0)
    root, steps = square_root(a)
    assert steps.dtype == jnp.asarray(20).dtype
    assert int(steps) == 20
    slope = jax.grad(lambda a: square_root(a)[0])
    assert_close((root, slope(a), jax.grad(slope)(a)), (3**0.5, 0.5 / 3**0.5, -0.25 / 3**1.5))
    assert_close(jax.jvp(lambda a: square_root(a)[0], (a,), (jnp.ones(()),))[1], 0.5 / 3**0.5)


def test_linear_maps_of_trees_are_inverted(getkey):
    matrix = normal(getkey(), (5, 5))
    right = normal(getkey(), (5,))
    split = lambda v: {"a": v[:2], "b": v[2:].reshape(3, 1)}
    join = lambda tree: jnp.concatenate([tree["a"], tree["b"].ravel()])
    found = solve_linear(lambda tree: split(matrix @ join(tree)), split(right))
    assert_close(join(found), np.linalg.solve(matrix, right), 1e-9 * np.linalg.cond(matrix))
    singular = solve_linear(lambda v: 0 * v, right)
    assert not jnp.any(jnp.isfinite(singular))


def test_what_is_spoilt_has_no_value_and_no_derivative():
    spoilt = lambda x, bad: spoil({"a": x}, jnp.asarray(bad))["a"]
    for bad in (True, False):
        value, slope = jax.value_and_grad(spoilt)(jnp.asarray(2.0), bad)
        assert bool(jnp.isnan(value)) is bad
        assert bool(jnp.isnan(slope)) is bad
    assert float(spoilt(jnp.asarray(2.0), False)) == 2.0


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_fixed_point_is_as_exact_at_every_scale(dtype, scale):
    """x = a + x / 2 of two entries is 2a, whatever the unit, and its derivative 2."""
    a = jnp.asarray([1.0, -0.25], dtype) * jnp.asarray(scale, dtype)
    solve = lambda a: fixed_point(lambda x: a + 0.5 * x, jnp.zeros(2, dtype))
    rest, at_rest = solve(a)
    assert bool(at_rest)
    assert_close(rest, 2 * a, 40 * float(jnp.finfo(dtype).eps))
    assert_close(jax.jacrev(lambda a: solve(a)[0])(a), 2 * np.eye(2))


def test_a_start_at_rest_stays():
    rest, at_rest = fixed_point(lambda x: 0.5 * x, jnp.zeros(3))
    assert bool(at_rest)
    assert not jnp.any(rest)


@pytest.mark.parametrize("factor", [2.0, 2.0**69, -3.0])
def test_a_map_that_runs_away_has_no_fixed_point(factor):
    """Though x = 1 + a x has a solution; with 2^69 the 16th sweep, the last of a window,
    overflows.
    """
    solve = lambda a: fixed_point(lambda x: 1 + a * x, jnp.zeros(1))
    rest, at_rest = solve(jnp.asarray(factor))
    assert not bool(at_rest)
    assert jnp.isnan(rest[0])
    assert jnp.isnan(jax.grad(lambda a: solve(a)[0][0])(jnp.asarray(factor)))
