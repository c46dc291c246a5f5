"""Assert that a Lagrangian, its activation and what it claims about itself belong together."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from hopmix._numerics.tolerances import half_the_digits
from hopmix.testing._rounding import nearby
from hopmix.testing._show import name_entry, show_state

TOLERANCE = {"float64": 1e-11, "float32": 3e-5}
"""Relative errors that count as agreement; 5e-2 in narrower types."""


def assert_lagrangian(
    lagrangian: Any, x: Any, *, convex: bool | None = None, tolerance: float | None = None
) -> None:
    r"""Assert at the state `x` that a Lagrangian and its activation belong together.

    That is: the value is one number; the activation is $g = \partial L/\partial x$ and its Jacobian
    is the Hessian $\partial^2 L/\partial x^2$, both by automatic differentiation, of the shape and
    the dtype of `x`; the Hessian is symmetric and, where $L$ is claimed convex, positive
    semidefinite. Where the Lagrangian has them, also: `hessian_vector_product` is $Hv$, the
    eigenvalues of $H$ lie within `curvature`, and `conjugate` at $g$ is $x \cdot g - L(x)$ (Fenchel
    and Young).

    **Arguments:**

    - `lagrangian`: of hopmix, or any object that is callable for $L$ and has `activation`, or a
        pair of functions `(value, activation)`.
    - `x`: one state, an array; its whole Hessian is formed.
    - `convex`: whether $L$ is claimed convex; by default `lagrangian.is_convex` where there is one.
    - `tolerance`: the error allowed, in units of the largest entry of gradient and Hessian, on top
        of what rounding of the state explains; by default 1e-11 in float64, 3e-5 in float32, 5e-2
        below.

    **Raises:** `AssertionError` with both values and the state.
    """
    x = jnp.asarray(x)
    value, activation = (
        lagrangian if isinstance(lagrangian, tuple) else (lagrangian, lagrangian.activation)
    )
    found = _derivatives(value, activation, nearby(x, 8))
    if tolerance is None:
        tolerance = TOLERANCE.get(str(x.dtype), 5e-2)
    else:
        tolerance = tolerance
    scale = max(float(np.max(np.abs(a[0]))) for a in (found.gradient, found.hessian))
    of_gradient = tolerance * scale + _noise(found.gradient)
    of_hessian = tolerance * scale + _noise(found.hessian)
    at_x = _Derivatives(*(a[0] for a in found))
    gradient = ("the gradient of the value", at_x.gradient)
    hessian = ("the Hessian of the value", at_x.hessian)
    _assert_equal(("The activation", at_x.activation), gradient, of_gradient, x)
    _assert_equal(("The Jacobian of the activation", at_x.jacobian), hessian, of_hessian, x)
    _assert_equal(("The Hessian", at_x.hessian), ("its transpose", at_x.hessian.T), of_hessian, x)
    if convex is None:
        convex = getattr(lagrangian, "is_convex", False)
    else:
        convex = convex
    _assert_curvature(lagrangian, at_x.hessian, of_hessian * x.size, bool(convex), x)
    _assert_products(lagrangian, at_x.hessian, of_hessian * x.size, x)
    _assert_conjugate(lagrangian, at_x, of_gradient, x)


class _Derivatives(NamedTuple):
    """Values and derivatives of flattened states."""

    value: np.ndarray
    gradient: np.ndarray
    activation: np.ndarray
    hessian: np.ndarray
    jacobian: np.ndarray


def _derivatives(value, activation, states: Array) -> _Derivatives:
    n = states.shape[0]
    size = states[0].size
    shapes = ((n,), (n, size), (n, size), (n, size, size), (n, size, size))
    found = _differentiate(value, activation, states)
    return _Derivatives(*(np.asarray(a, float).reshape(shape) for a, shape in zip(found, shapes)))


@eqx.filter_jit
def _differentiate(value, activation, states: Array) -> tuple[Array, ...]:
    value = partial(_checked_value, value)
    activation = partial(_checked_activation, activation)
    every = (value, jax.grad(value), activation, jax.hessian(value), jax.jacfwd(activation))
    return jax.vmap(lambda x: tuple(f(x) for f in every))(states)


def _noise(values: np.ndarray) -> float:
    """What rounding of the state explains."""
    return 8 * float(np.max(np.abs(values - values[0])))


Named = tuple[str, np.ndarray]


def _assert_equal(given: Named, expected: Named, allowed: float, x: Array) -> None:
    gap = np.abs(given[1] - expected[1])
    if not np.all(gap <= allowed):
        worst = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape)
        place = ", ".join(name_entry(x, int(i)) for i in worst)
        raise AssertionError(
            f"{given[0]} is not {expected[0]}: entry {place} is {given[1][worst]:.10g}, expected "
            f"{expected[1][worst]:.10g} (allowed difference "
            f"{allowed:.2g}).\nState:\n{show_state(x)}"
        )


def _assert_curvature(
    lagrangian: Any, hessian: np.ndarray, margin: float, convex: bool, x: Array
) -> None:
    eigenvalues = np.linalg.eigvalsh(0.5 * (hessian + hessian.T))
    lowest = float(eigenvalues[0])
    highest = float(eigenvalues[-1])
    if convex and lowest < -margin:
        raise AssertionError(
            f"Claimed convex, but the Hessian has the eigenvalue "
            f"{lowest:.6g}.\nState:\n{show_state(x)}"
        )
    bounds = getattr(lagrangian, "curvature", (-np.inf, np.inf))
    if lowest < bounds[0] - margin or highest > bounds[1] + margin:
        raise AssertionError(
            f"Eigenvalues of the Hessian from {lowest:.6g} to {highest:.6g} leave the claimed "
            f"curvature "
            f"({bounds[0]:.6g}, {bounds[1]:.6g}).\nState:\n{show_state(x)}"
        )


def _assert_products(lagrangian: Any, hessian: np.ndarray, margin: float, x: Array) -> None:
    if not hasattr(lagrangian, "hessian_vector_product"):
        return
    v = jr.rademacher(jr.key(0), x.shape, x.dtype)
    product = np.asarray(_product(lagrangian, x, v), float).ravel()
    expected = hessian @ np.asarray(v, float).ravel()
    _assert_equal(("The Hessian-vector product", product), ("H v", expected), margin, x)


def _assert_conjugate(lagrangian: Any, at_x: _Derivatives, of_gradient: float, x: Array) -> None:
    """Fenchel and Young; conjugates near the border of their domain are known to half the digits
    only.
    """
    if not hasattr(lagrangian, "conjugate"):
        return
    try:
        given = float(_conjugate(lagrangian, x))
    except NotImplementedError:
        return
    flat = np.asarray(x, float).ravel()
    expected = flat @ at_x.activation - at_x.value
    size = np.abs(flat) @ np.abs(at_x.activation) + np.abs(at_x.value)
    allowed = half_the_digits(x.dtype) * (1 + size) + of_gradient * np.sum(np.abs(flat))
    if not abs(given - expected) <= allowed:
        raise AssertionError(
            f"The conjugate at g is {given:.10g}, but x.g - L(x) is "
            f"{expected:.10g}.\nState:\n{show_state(x)}"
        )


@eqx.filter_jit
def _product(lagrangian: Any, x: Array, v: Array) -> Array:
    return lagrangian.hessian_vector_product(x, v)


@eqx.filter_jit
def _conjugate(lagrangian: Any, x: Array) -> Array:
    return lagrangian.conjugate(lagrangian.activation(x))


def _checked_value(value: Any, x: Array) -> Array:
    number = value(x)
    if number.shape != () or number.dtype != x.dtype:
        raise AssertionError(
            f"The value must be one number of {x.dtype}, got {number.dtype}{number.shape}."
        )
    return number


def _checked_activation(activation: Any, x: Array) -> Array:
    g = activation(x)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise AssertionError(
            f"The activation must be of {x.dtype}{x.shape} as the state, got {g.dtype}{g.shape}."
        )
    return g
