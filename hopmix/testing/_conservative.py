"""Assert that a force is the gradient of something with respect to the activation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from hopmix._numerics.tolerances import CHANGES, conservative_field
from hopmix.testing._rounding import nearby
from hopmix.testing._show import name_entry, show_state

EXACT = 512
PROBES = 16
"""Up to how many entries of a state Jacobians are formed, and how many random vectors probe them
beyond that.
"""


Maps = tuple[Callable[[Any], Any], ...]


def assert_conservative(
    force: Callable[[Any], Any],
    x: Any,
    *,
    activation: Callable[[Any], Any] | None = None,
    lagrangian: Callable[[Any], Any] | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that at the state `x` a force is minus the gradient of an energy with respect to the
    activation $g(x)$.

    It is, in a simply connected region, if and only if $HJ$ is symmetric everywhere in it, with the
    Jacobian $J = \partial f/\partial x$ and the metric $H = \partial g/\partial x$, which must be
    symmetric itself: $g$ must be the gradient of a Lagrangian.

    **Arguments:**

    - `force`: $f$, from a state to a force of its form. A residual layer enters as `lambda x:
      layer(x) - x`.
    - `x`: one state, an array or a tree of arrays. Up to 512 entries Jacobians are exact; larger
        ones are tried on 16 random vectors, for which `force` must have a transposed derivative.
    - `activation`: $g$; or
    - `lagrangian`: $L$ with $g = L'(x)$. With neither, $H = 1$: the force is a gradient with
      respect to `x`.
    - `tolerance`: the largest asymmetry $|M - M^\top|_F / (2 |M|_F)$ of $M = HJ$, on top of what
        rounding of the state explains; 1e4 units of rounding if `None`.

    **Raises:** `AssertionError` with the asymmetry and the entries that differ most. `ValueError`
    if a function changes the form of the state, or both `activation` and `lagrangian` are given.

    **Source:** `theory/C07-conservative.md`.
    """
    if activation is not None and lagrangian is not None:
        raise ValueError("Give the activation or its Lagrangian, not both.")
    x = jax.tree.map(jnp.asarray, x)
    if tolerance is None:
        tolerance = conservative_field(jnp.result_type(*jax.tree.leaves(x)))
    metric = _Gradient(lagrangian) if activation is None else activation
    if activation is not None:
        _assert_symmetric(
            (activation,), x, "The activation is the gradient of no Lagrangian: dg/dx", tolerance
        )
    _assert_symmetric((force, metric), x, "The force is not conservative: HJ", tolerance)


class _Gradient(eqx.Module):
    """The activation of a Lagrangian, that of 1/2 |x|^2 if it is `None`."""

    lagrangian: Callable[[Any], Any] | None

    def __call__(self, x: Any) -> Any:
        if self.lagrangian is None:
            return x
        return jax.grad(self.lagrangian)(x)


class _Products(NamedTuple):
    """The products M v and M^T v with some vectors v, at a state (index 0) and at states that
    differ by rounding.
    """

    forward: np.ndarray
    transposed: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """(M - M^T) v."""
        return self.forward - self.transposed


def _assert_symmetric(maps: Maps, x: Any, what: str, tolerance: float) -> None:
    """Assert that the product of the Jacobians of maps, the last one leftmost, is symmetric."""
    exact = sum(leaf.size for leaf in jax.tree.leaves(x)) <= EXACT
    products = _products(maps, nearby(x, 4), exact)
    gap = _norm(products.gaps[0])
    size = _norm(np.stack([a[0] for a in products])) / 2**0.5
    rounding = CHANGES * max(_norm(gaps - products.gaps[0]) for gaps in products.gaps)
    if not gap <= 2 * tolerance * size + rounding:
        how = "exact" if exact else f"from {PROBES} random vectors"
        raise AssertionError(
            f"{what} is not symmetric. Its asymmetry is {gap / (2 * size or 1):.3g} ({how}), "
            f"where {tolerance:.2g} is "
            f"allowed.\n{_worst_pair(products, maps, x, exact)}\nState:\n{show_state(x)}"
        )


def _norm(a: np.ndarray) -> float:
    return float(np.linalg.norm(a))


def _products(maps: Maps, states: Any, exact: bool, unit: int | None = None) -> _Products:
    """The products with all unit vectors, with random ones if that is too much, or with one unit
    vector.
    """
    index = None if unit is None else jnp.asarray(unit)
    return _Products(*(np.asarray(a, float) for a in _multiply(maps, states, exact, index)))


@eqx.filter_jit
def _multiply(maps: Maps, states: Any, exact: bool, unit: Array | None) -> tuple[Array, Array]:
    return jax.vmap(lambda x: _multiply_at(maps, x, exact, unit))(states)


def _multiply_at(maps: Maps, x: Any, exact: bool, unit: Array | None) -> tuple[Array, Array]:
    flat, unravel = ravel_pytree(x)
    flattened = [lambda z, f=f: ravel_pytree(_checked(f, unravel(z)))[0] for f in maps]

    def forward(v):
        for f in flattened:
            v = jax.jvp(f, (flat,), (v,))[1]
        return v

    def transposed(v):
        for f in reversed(flattened):
            (v,) = jax.vjp(f, flat)[1](v)
        return v

    vectors = _vectors(flat, exact, unit)
    products = jax.vmap(forward)(vectors)
    return products, products.T if exact else jax.vmap(transposed)(vectors)


def _vectors(flat: Array, exact: bool, unit: Array | None) -> Array:
    if unit is not None:
        return jnp.zeros((1, flat.size), flat.dtype).at[0, unit].set(1)
    if exact:
        return jnp.eye(flat.size, dtype=flat.dtype)
    return jr.rademacher(jr.key(0), (PROBES, flat.size), flat.dtype)


def _worst_pair(products: _Products, maps: Maps, x: Any, exact: bool) -> str:
    """The entries M_ij and M_ji that differ most; of large states, those of the row where probes
    differ most.
    """
    i = int(np.argmax(np.max(np.abs(products.gaps[0]), axis=0)))
    if not exact:
        products = _products(maps, nearby(x, 0), exact, unit=i)
    place = (0, i if exact else 0)
    column = products[0][place]
    row = products[1][place]
    j = int(np.argmax(np.abs(column - row)))
    a = name_entry(x, i)
    b = name_entry(x, j)
    return f"Worst pair: entry ({a}, {b}) is {row[j]:.6g}, entry ({b}, {a}) is {column[j]:.6g}."


def _checked(f: Callable[[Any], Any], x: Any) -> Any:
    y = f(x)
    here = jax.tree.map(jnp.shape, x)
    there = jax.tree.map(jnp.shape, y)
    if here != there:
        raise ValueError(
            f"Forces and activations have the form of the state: got shapes {there} from {here}."
        )
    return y
