r"""Implicit functions: where a residual vanishes, as a differentiable function of what the residual
depends on.

$$r(x(\theta), \theta) = 0 \quad\Rightarrow\quad
  \frac{dx}{d\theta} = -\Big(\frac{\partial r}{\partial x}\Big)^{-1} \frac{\partial
  r}{\partial\theta}$$

Nothing in here raises or calls back to Python: what has no answer is NaN, so that programs can be
mapped, differentiated and exported. (Optimistix raises where the linear system of a gradient is
singular, and starts its iterations in the default dtype.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from hopmix._numerics.dtypes import solver_dtype
from hopmix._numerics.tolerances import LEFT, SOLVED, SWEPT, half_the_digits, rounding_of
from hopmix._types import Scalar

Vector = Float[Array, " n"]
Map = Callable[[Vector], Vector]

SWEEPS = 4096
"""How many sweeps towards a fixed point may take; from there on Newton's method goes on."""

WINDOW = 16
"""How many sweeps are judged together: the largest move of so many does not follow the phases of an
oscillation.
"""

NEWTON = 32
SQUARINGS = 16


def implicit_root(
    residual: Callable[[Any], Any], start: Any, find: Callable[[Any], tuple[Any, Any]]
) -> tuple[Any, Any]:
    """A root that is found in any way, with the derivatives of the implicit function.

    **Arguments:**

    - `residual`: $r$, from a tree of arrays to a tree of the same form; derivatives go to what it
      closes over.
    - `start`: where the search starts; not differentiated.
    - `find`: from the start to the root and anything else about it; not differentiated.

    **Returns:** what `find` returns. Where it is no root, derivatives are what the formula gives
    there. They take a matrix of the size of the root squared.
    """

    def as_float(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.astype(jnp.float32)

    def find_floats(_, x):
        root, about = find(x)
        return root, jax.tree.map(as_float, about)

    # JAX has derivatives only where all that is returned is a floating-point number.
    root, about = jax.lax.custom_root(residual, start, find_floats, solve_linear, has_aux=True)
    return root, jax.tree.map(
        lambda leaf, form: leaf.astype(form.dtype), about, jax.eval_shape(find, start)[1]
    )


def solve_linear(linear: Callable[[Any], Any], right: Any) -> Any:
    """The tree that a linear map of trees takes to another; NaN or infinite where there is none."""
    flat, unravel = ravel_pytree(right)
    matrix = _matrix(lambda v: ravel_pytree(linear(unravel(v)))[0], flat)
    dtype = solver_dtype(flat.dtype)
    return unravel(jnp.linalg.solve(matrix.astype(dtype), flat.astype(dtype)).astype(flat.dtype))


def spoil(tree: Any, bad: Bool[Array, ""]) -> Any:
    """A tree whose values and derivatives are NaN where it is bad."""
    factor = jnp.where(bad, jnp.nan, 1.0)  # a selected constant would have the derivative 0
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


def fixed_point(sweep: Callable[[Any], Any], start: Any) -> tuple[Any, Bool[Array, ""]]:
    r"""The fixed point that sweeps $x \leftarrow S(x)$ reach from a start, differentiated
    implicitly.

    Sweeps go on until they move the largest entry by at most 16 units in its last place, and those
    that are left can't matter: where moves shrink by $\rho$ in each sweep, and the last one is
    $\delta$, the way left is $\rho\,\delta/(1 - \rho)$, which is to be at most 100 such units.
    Where 4096 sweeps do not suffice, Newton's method finishes, so that slow contractions are as
    exact as fast ones: what is left is rounding, which any method blows up by $1/(1 - \rho)$. Its
    last step, about the error, must be small (ten times the square root of a unit in the last
    place), and the point must attract sweeps: $|S'(x)^k| < 1$ for a $k$ up to $2^{16}$.

    **Returns:** the fixed point, which is NaN, with derivatives of NaN, where sweeps do not come to
    rest; and whether they do.
    """
    _, unravel = ravel_pytree(start)
    flat_sweep = lambda v: ravel_pytree(sweep(unravel(v)))[0]
    residual = lambda v: flat_sweep(v) - v
    rest, at_rest = implicit_root(
        residual, ravel_pytree(start)[0], lambda v: _find(flat_sweep, residual, v)
    )
    return unravel(spoil(rest, ~at_rest)), at_rest


class _Walk(NamedTuple):
    """Where sweeps are, the largest move of the last window, a bound on the way that is left, and
    how many windows.
    """

    x: Vector
    move: Scalar
    left: Scalar
    windows: Array

    @property
    def is_close(self) -> Bool[Array, ""]:
        """Whether moves are rounding, and the way that is left is small, in units of the state,
        which is finite.
        """
        size = _largest(self.x)
        # Both: a fast error that has just gone hides a slow one from the rate, and the rate sees
        # what moves do not.
        settled = self.move <= rounding_of(size.dtype, SWEPT) * size
        return settled & (self.left <= rounding_of(size.dtype, LEFT) * size) & jnp.isfinite(size)


def _find(sweep: Map, residual: Map, start: Vector) -> tuple[Vector, Bool[Array, ""]]:
    walk = _walk(sweep, start)
    close = walk.is_close
    x, error = _newton(residual, walk.x, ~close)
    size = _largest(x)
    exact = (error <= 10 * half_the_digits(x.dtype) * size) & (
        _largest(residual(x)) <= rounding_of(x.dtype, SOLVED) * size
    )
    return x, close | (exact & _attracts(residual, x, ~close))


def _walk(sweep: Map, start: Vector) -> _Walk:
    def once(_, carry):
        x, move = carry
        swept = sweep(x)
        return swept, jnp.maximum(move, _largest(swept - x))

    def window(walk: _Walk) -> _Walk:
        x, move = jax.lax.fori_loop(0, WINDOW, once, (walk.x, jnp.zeros_like(walk.move)))
        rate = move / walk.move
        left = jnp.where(rate < 1, WINDOW * move * rate / (1 - rate), jnp.inf)
        return _Walk(x, move, jnp.where(move == 0, jnp.zeros_like(left), left), walk.windows + 1)

    def goes_on(walk: _Walk) -> Bool[Array, ""]:
        return ~walk.is_close & jnp.all(jnp.isfinite(walk.x)) & (walk.windows < SWEEPS // WINDOW)

    unknown = jnp.full((), jnp.nan, start.dtype)  # the first window has no rate
    return jax.lax.while_loop(goes_on, window, _Walk(start, unknown, unknown, jnp.zeros((), int)))


def _newton(residual: Map, start: Vector, needed: Bool[Array, ""]) -> tuple[Vector, Scalar]:
    """Newton's method as long as its steps halve at least, at most 32 of them, where it is needed;
    and the last step, which is about as large as the error.
    """

    def step(carry):
        x, size, _, steps = carry
        value, linear = jax.linearize(residual, x)
        move = solve_linear(linear, value)
        return x - move, _largest(move), size, steps + 1

    def goes_on(carry):
        _, size, before, steps = carry
        return needed & ((steps == 0) | ((size > 0) & (size < 0.5 * before) & (steps < NEWTON)))

    unknown = jnp.full((), jnp.inf, start.dtype)
    return jax.lax.while_loop(goes_on, step, (start, unknown, unknown, jnp.zeros((), int)))[:2]


def _attracts(residual: Map, x: Vector, needed: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether a power of the derivative of the sweep is smaller than 1 in norm, which some is if it
    contracts.
    """

    def row_sums(power: Float[Array, "n n"]) -> Scalar:
        return jnp.max(jnp.sum(jnp.abs(power), axis=1))

    def derivative(_):
        return _matrix(jax.linearize(residual, x)[1], x) + jnp.eye(x.size, dtype=x.dtype)

    def goes_on(carry):
        power, squarings = carry
        # Not below 1 also where it is NaN.
        return needed & ~(row_sums(power) < 1) & (squarings <= SQUARINGS)

    def square(carry):
        power, squarings = carry
        # In the loop, as the derivative takes a sweep for each entry, and is needed for slow
        # contractions alone.
        return jax.lax.cond(
            squarings == 0, derivative, lambda power: power @ power, power
        ), squarings + 1

    unknown = jnp.full((x.size, x.size), jnp.inf, x.dtype)
    return row_sums(jax.lax.while_loop(goes_on, square, (unknown, jnp.zeros((), int)))[0]) < 1


def _matrix(linear: Map, like: Vector) -> Float[Array, "n n"]:
    return jax.vmap(linear, out_axes=1)(jnp.eye(like.size, dtype=like.dtype))


def _largest(x: Vector) -> Scalar:
    return jnp.max(jnp.abs(x))
