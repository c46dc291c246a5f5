r"""How far a vector field is from a gradient: an index with and without forming Jacobians, a local
split, and work.

A field $f$ on states $x$ is a gradient with respect to activations $g = L'(x)$ where $M = HJ$ is
symmetric, with the Jacobian $J = \partial f/\partial x$ and the metric $H = \nabla^2 L(x)$ (claim
C07). Any function that keeps the shape of its array will do: a block, a stack of blocks, attention,
a model that knows nothing of hopmix. A residual layer enters as its displacement, `lambda x:
layer(x) - x`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._lagrangian import AbstractLagrangian
from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.magnitude import max_abs, safe_sqrt, working
from hopmix._types import Layer, PRNGKey, Scalar

Field: TypeAlias = Callable[[Layer], Layer]

LARGEST = 4096
"""Of how many entries a state may have for its Jacobian to be formed."""


def field_asymmetry(f: Field, x: Layer, lagrangian: AbstractLagrangian | None = None) -> Scalar:
    r"""The metric-aware asymmetry of a vector field at a state,

    $$a = \frac{|M - M^\top|_F}{2\,|M|_F}, \qquad M = HJ, \quad J = \frac{\partial f}{\partial x}, \quad
      H = \nabla^2 L(x).$$

    In [0, 1]: 0 where $f$ is the gradient of a scalar with respect to $g = L'(x)$, 1 where it only
    rotates ($M^\top = -M$), $\sqrt{1/2}$ for independent entries. $a^2$ is the share of $|M|^2$ in
    the antisymmetric part, and $1 - 2a^2$ the symmetry score of $M$. The raw Jacobian ($H = 1$) of
    a layer of an energy model is in general not symmetric. NaN where $M = 0$. Exact: the whole
    Jacobian is formed. Invariant under scales of $f$ and $L$ and orthogonal changes of basis.

    **Arguments:**

    - `f`: the field, from states to forces of the same shape.
    - `x`: the state, of at most 4096 entries.
    - `lagrangian`: the visible Lagrangian $L$; `None` for $H = 1$.

    **Raises:** `ValueError` if `f` changes the shape, or for larger states, for which
    `estimate_field_asymmetry` is.

    **Source:** `theory/C07-conservative.md`.
    """  # noqa: E501
    _check(f, x)
    if x.size > LARGEST:
        raise ValueError(
            f"The Jacobian of a state of {x.size:,} entries would have {x.size**2:,}; up to "
            f"{LARGEST:,} entries are "
            "exact, use `estimate_field_asymmetry(f, x, lagrangian, key=key)`."
        )
    jacobian = _in_units_of_largest(jax.jacfwd(f)(x).reshape(x.size, x.size))
    if lagrangian is not None:
        metric = _in_units_of_largest(jax.jacfwd(lagrangian.activation)(x).reshape(x.size, x.size))
        jacobian = _in_units_of_largest(metric @ jacobian)
    asymmetry = safe_sqrt(jnp.sum((jacobian - jacobian.T) ** 2)) / (
        2 * safe_sqrt(jnp.sum(jacobian**2))
    )
    return asymmetry.astype(x.dtype)


def _in_units_of_largest(a: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    a = working(a, "f")
    return a / max_abs(a)


class Estimate(NamedTuple):
    """A number that is estimated from random probes, and its standard error.

    - `value`: the mean of what probes tell.
    - `stderr`: its standard error.
    """

    value: Scalar
    stderr: Scalar


def estimate_field_asymmetry(
    f: Field,
    x: Layer,
    lagrangian: AbstractLagrangian | None = None,
    *,
    key: PRNGKey,
    probes: int = 32,
) -> Estimate:
    r"""`field_asymmetry` without forming a Jacobian: for random signs $\varepsilon$,

    $$\mathbb E\,|(M - M^\top)\varepsilon|^2 = |M - M^\top|_F^2, \qquad
      \tfrac12\,\mathbb E\,\big(|M\varepsilon|^2 + |M^\top\varepsilon|^2\big) = |M|_F^2,$$

    with one derivative forwards ($M\varepsilon = HJ\varepsilon$) and one backwards
    ($M^\top\varepsilon = J^\top H\varepsilon$) for each probe.

    **Arguments:**

    - `f`, `x`, `lagrangian`: as in `field_asymmetry`; `x` of any size, `f` with derivatives in both
      modes.
    - `key`: of the probes.
    - `probes`: how many, at least 2. The standard error falls with their square root; the bias of
        the ratio, of the order of 1/`probes`, is smaller.

    **Returns:** an `Estimate`, with the standard error by propagation of that of the two means. A
    gradient gives 0 up to rounding from any number of probes.

    **Raises:** `ValueError` if `f` changes the shape, or for fewer than 2 probes.

    **Source:** Hutchinson 1990; Laborieux & Zenke 2023 (arXiv 2309.02214) for the same probes of
    the raw Jacobian.
    """
    _check(f, x)
    if probes < 2:
        raise ValueError(f"A standard error needs probes >= 2, got {probes}.")

    def probe(key: PRNGKey) -> Float[Array, " 3"]:
        direction = jr.rademacher(key, x.shape, x.dtype)
        forwards, backwards = _products_in_units(f, x, lagrangian, direction)
        unit = jnp.maximum(forwards.root, backwards.root)
        ahead = forwards.entries * (forwards.root / unit) ** 2
        behind = backwards.entries * (backwards.root / unit) ** 2
        whole = 0.5 * (jnp.sum(ahead**2) + jnp.sum(behind**2))
        return jnp.stack([jnp.sum((ahead - behind) ** 2), whole, unit])

    gaps, wholes, sizes = jax.lax.map(probe, jr.split(key, probes)).T
    units = (sizes / max_abs(sizes)) ** 4
    gaps = gaps * units
    wholes = wholes * units
    gap = jnp.mean(gaps)
    whole = jnp.mean(wholes)
    value = 0.5 * safe_sqrt(gap / whole)
    # The logarithm of a ratio has the variance of the difference of its parts, each in units of its
    # mean.
    relative = gaps / jnp.where(gap > 0, gap, 1) - wholes / whole
    stderr = 0.5 * value * jnp.std(relative, ddof=1) / math.sqrt(probes)
    return Estimate(value.astype(x.dtype), stderr.astype(x.dtype))


class Split(NamedTuple):
    r"""The two parts of what a field does around a state; see `helmholtz_split`.

    - `gradient`: $\tfrac12(M + M^\top)\,\delta$, the part that has a potential.
    - `rotation`: $\tfrac12(M - M^\top)\,\delta$, the part that has none, orthogonal to $\delta$.
    """

    gradient: Layer
    rotation: Layer


def helmholtz_split(
    f: Field, x: Layer, direction: Layer, lagrangian: AbstractLagrangian | None = None
) -> Split:
    r"""The local Helmholtz split of a field: how the force changes along a direction $\delta$, as
    the gradient of a quadratic potential plus a rotation,

    $$H\,[f(x + \delta) - f(x)] = \tfrac12(M + M^\top)\,\delta + \tfrac12(M - M^\top)\,\delta + O(|\delta|^2).$$

    **Arguments:**

    - `f`, `x`, `lagrangian`: as in `estimate_field_asymmetry`.
    - `direction`: $\delta$, of the shape of `x`.

    **Returns:** a `Split`. The whole matrices are its values at unit vectors, by `jax.vmap`.

    **Raises:** `ValueError` if `f` changes the shape.

    **Source:** `theory/C07-conservative.md`.
    """  # noqa: E501
    _check(f, x)
    forwards, backwards = _products(f, x, lagrangian, direction)
    return Split(0.5 * forwards + 0.5 * backwards, 0.5 * forwards - 0.5 * backwards)


def work_along(
    f: Field, states: Float[Array, "states ..."], lagrangian: AbstractLagrangian | None = None
) -> Float[Array, " states"]:
    r"""The work $\int f \cdot dg$ of a field along a trajectory, from its start to each of its
    states.

    By the trapezoidal rule, $\sum_t \tfrac12 (f_t + f_{t+1}) \cdot (g_{t+1} - g_t)$, with an error
    of second order in the distance of states. Of a gradient it is what the potential has gained,
    whatever the path.

    **Arguments:**

    - `f`, `lagrangian`: as in `field_asymmetry`.
    - `states`: the trajectory, stacked on a first axis.

    **Returns:** the work done up to each state, 0 at the first.

    **Raises:** `ValueError` if `f` changes the shape.
    """
    _check(f, states[0])
    forces = jax.vmap(f)(states)
    activations = jax.vmap(_activation(lagrangian))(states)
    steps = (0.5 * forces[1:] + 0.5 * forces[:-1]) * jnp.diff(activations, axis=0)
    pieces = jnp.sum(steps, axis=tuple(range(1, states.ndim)))
    return jnp.concatenate([jnp.zeros(1, pieces.dtype), jnp.cumsum(pieces)])


class Loop(NamedTuple):
    r"""Work around a closed loop; see `loop_integral`.

    - `work`: $\oint f \cdot dg$, 0 for every loop if $f$ is a gradient.
    - `share`: of it in $\oint |f \cdot dg|$, in [-1, 1].
    """

    work: Scalar
    share: Scalar


def loop_integral(
    f: Field,
    x: Layer,
    first: Layer,
    second: Layer,
    lagrangian: AbstractLagrangian | None = None,
    *,
    nodes: int = 64,
) -> Loop:
    r"""The work of a field around the ellipse $x + \cos\theta\,a + \sin\theta\,b$.

    By the trapezoidal rule, which is exact up to rounding for smooth fields once the nodes resolve
    them; kinks leave an error of second order. For small ellipses it is $2\pi\;b \cdot \tfrac12(M -
    M^\top)\,a$.

    **Arguments:**

    - `f`, `x`, `lagrangian`: as in `field_asymmetry`; `x` is the centre.
    - `first`, `second`: the half-axes $a$ and $b$, of the shape of `x`.
    - `nodes`: how many points, at least 3.

    **Raises:** `ValueError` if `f` changes the shape, or for fewer than 3 nodes.
    """
    _check(f, x)
    if nodes < 3:
        raise ValueError(f"A loop needs nodes >= 3, got {nodes}; 64 is usual.")

    def move(angle: Scalar) -> tuple[Layer, Layer]:
        position = lambda angle: x + jnp.cos(angle) * first + jnp.sin(angle) * second
        activation = lambda angle: _activation(lagrangian)(position(angle))
        return f(position(angle)), jax.jvp(activation, (angle,), (jnp.ones_like(angle),))[1]

    angles = jnp.linspace(0, 2 * math.pi, nodes, endpoint=False, dtype=x.dtype)
    forces, velocities = jax.vmap(move)(angles)
    forces = working(forces, "f")
    velocities = working(velocities, "f")
    # In units of the largest, a product of two large or two small numbers stays in range; so does
    # the share.
    unit_f = max_abs(forces)
    unit_v = max_abs(velocities)
    powers = jnp.sum((forces / unit_f) * (velocities / unit_v), axis=tuple(range(1, forces.ndim)))
    work = jnp.sum(powers)
    size = jnp.sum(jnp.abs(powers))
    share = work / jnp.where(size > 0, size, 1)
    return Loop(
        (2 * math.pi / nodes * work * unit_f * unit_v).astype(x.dtype), share.astype(x.dtype)
    )


def _products(
    f: Field, x: Layer, lagrangian: AbstractLagrangian | None, direction: Layer
) -> tuple[Layer, Layer]:
    """M times a direction, and its transpose times it."""
    forwards = _lift(x, lagrangian, jax.jvp(f, (x,), (direction,))[1])
    (backwards,) = jax.vjp(f, x)[1](_lift(x, lagrangian, direction))
    return forwards, backwards


class _InUnits(NamedTuple):
    """Entries in units of the square of a root, which stays in range where the square may not."""

    entries: Layer
    root: Scalar


def _products_in_units(
    f: Field, x: Layer, lagrangian: AbstractLagrangian | None, direction: Layer
) -> tuple[_InUnits, _InUnits]:
    """M times a direction and its transpose times it, for a force and a metric of any size."""
    pushed = jax.jvp(f, (x,), (direction,))[1]
    forwards = _lift(x, lagrangian, pushed / max_abs(pushed))
    lifted = _lift(x, lagrangian, direction)
    (backwards,) = jax.vjp(f, x)[1](lifted / max_abs(lifted))
    return _in_units(forwards, max_abs(pushed)), _in_units(backwards, max_abs(lifted))


def _in_units(product: Layer, factor: Scalar) -> _InUnits:
    product = working(product, "f")
    own = max_abs(product)
    return _InUnits(product / own, jnp.sqrt(own) * jnp.sqrt(working(factor, "f")))


def _lift(x: Layer, lagrangian: AbstractLagrangian | None, vector: Layer) -> Layer:
    """The metric times a vector."""
    if lagrangian is None:
        return vector
    return lagrangian.hessian_vector_product(x, vector)


def _activation(lagrangian: AbstractLagrangian | None) -> Field:
    if lagrangian is None:
        return lambda x: x
    return lagrangian.activation


def _check(f: Field, x: Layer):
    need_floats("The state", x)
    out = jax.eval_shape(f, x)
    if out.shape != x.shape:
        raise ValueError(
            f"A vector field keeps the shape of its state: got {out.shape} from {x.shape}."
        )
