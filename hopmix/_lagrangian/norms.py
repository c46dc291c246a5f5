"""Norms: Lagrangians of groups whose units share a length."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hopmix._lagrangian.base import (
    AbstractLagrangian,
    Summands,
    broadcast_to_batch,
    if_convex,
    need_number,
)
from hopmix._lagrangian.groups import Axes, unit_radius
from hopmix._numerics.dtypes import need_floats, widened
from hopmix._numerics.norms import largest_row
from hopmix._numerics.special import in_single
from hopmix._numerics.tolerances import half_the_digits
from hopmix._types import Layer, Scalar, ScalarLike


class LayerNorm(AbstractLagrangian):
    r"""Layer normalisation over groups of $N$ entries:

    $$L(x) = \sum_{\text{groups}} \gamma N \sqrt{\operatorname{var}(x) + \epsilon} + \delta \cdot x, \qquad
      g = \gamma\,\frac{x - \bar x}{\sqrt{\operatorname{var}(x) + \epsilon}} + \delta.$$

    There is one square root *per group*; a single root of the total has another gradient. The scale
    $\gamma$ is one number: with a vector the map has no Lagrangian (see `Affine` for where a vector
    may stand).

    **Arguments:**

    - `axes`: the axes of one group. `(0, -1)` is the joint token-channel norm of a mixer, `(-1,)`
        the usual norm of each token, `None` the whole layer.
    - `scale`: $\gamma$; the Lagrangian is convex where it is not negative.
    - `shift`: $\delta$, of the rank of the layer and broadcast against it, or `None` for zero.
    - `eps`: $\epsilon \ge 0$; with 0 the gradient is undefined at constant states.

    **Source:** arXiv 2406.12220, section 2 (joint norm); Hoover et al. 2023 (arXiv 2302.07253) for
    scalar scales.
    """  # noqa: E501

    axes: Axes = eqx.field(static=True, default=None)
    scale: ScalarLike = 1.0
    shift: Layer | None = None
    eps: float = eqx.field(static=True, default=1e-6)
    is_norm: ClassVar[bool] = True

    def __check_init__(self):
        need_number("The scale of LayerNorm", self.scale)
        need_floats("The shift of LayerNorm", self.shift)
        if self.eps < 0:
            raise ValueError(f"LayerNorm needs eps >= 0, got {self.eps}; the usual value is 1e-6.")

    @property
    def curvature(self) -> tuple[float, float]:
        # The Hessian is (scale / s) times a matrix between 0 and the projector that removes the
        # mean; s >= sqrt(eps).
        scale = float(self.scale)
        size = abs(scale) / math.sqrt(self.eps) if self.eps else math.inf
        if scale >= 0:
            return (0.0, size)
        return (-size, 0.0)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        spreads = self.spreads(x)
        value = self.scale * (x.size // spreads.size) * jnp.sum(spreads)
        if self.shift is None:
            return value
        return value + jnp.sum(broadcast_to_batch(self.shift, x.ndim) * x)

    def activation(self, x: Layer) -> Layer:
        g = self.scale * _normalise(x, self.axes, self.eps)
        if self.shift is None:
            return g
        return g + broadcast_to_batch(self.shift, g.ndim)

    def energy_summands(self, x: Layer) -> Summands:
        spreads = self.spreads(x)
        return (-(self.scale * (x.size // spreads.size) * self.eps) / spreads,)

    def spreads(self, x: Layer) -> Layer:
        r"""The $\sqrt{\operatorname{var}(x) + \epsilon}$ of each group, of the rank of `x`."""
        return _length(_centre(x, self.axes), self.axes, self.eps, jnp.mean)

    def conjugate(self, g: Layer) -> Scalar:
        u = g if self.shift is None else g - broadcast_to_batch(self.shift, g.ndim)
        mean = jnp.mean(u, axis=self.axes, keepdims=True)
        square = jnp.mean((u**2), axis=self.axes, keepdims=True)
        slack = half_the_digits(g.dtype) * self.scale
        inside = (jnp.abs(mean) <= slack) & (square <= self.scale**2 + slack * self.scale)
        room = jnp.sqrt(self.eps * jnp.maximum(self.scale**2 - square, 0))
        return if_convex(
            self.scale, jnp.sum(jnp.where(inside, -(u.size // square.size) * room, jnp.inf))
        )

    def jumps(self, tiny: float) -> list[str]:
        return _undefined(self, tiny)

    def softness(self, x: np.ndarray) -> float:
        quietest = float(np.sqrt(np.min(np.var(x, axis=self.axes)) + self.eps))
        scale = float(self.scale)
        if scale > 0:
            return quietest / scale
        return math.inf

    def stays_soft(self, shape: tuple[int, ...]) -> bool:
        return _is_one_group(self.axes, shape) and (
            self.shift is None or not np.any(np.asarray(self.shift))
        )

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        if self.axes == (-1,) and len(shape) == 2:
            group = math.prod(shape[1:])
        else:
            group = math.prod(shape)
        if self.shift is None:
            shift = 0.0
        else:
            shift = largest_row(self.shift, shape)
        return abs(float(self.scale)) * math.sqrt(group) + shift

    def third_derivative_near(self, x: np.ndarray, reach: np.ndarray) -> np.ndarray:
        if self.axes is None:
            members = x.size
        else:
            members = math.prod(x.shape[axis] for axis in self.axes)
        centred = x - x.mean(axis=self.axes, keepdims=True)
        gain = float(self.scale) * math.sqrt(members)
        return _bend_of_norm(gain, centred, self.axes, self.eps * members, reach)


@partial(jax.checkpoint, static_argnums=(1, 2))
def _normalise(x: Layer, axes: Axes, eps: float) -> Layer:
    """Groups with mean 0 and variance 1; the way back computes the statistics again, as that of
    GELU does.
    """
    # Statistics in at least float32: a bfloat16 sum over a few hundred entries loses the mean.
    centred = _centre(widened(x), axes)
    unit, inverse = _inverse_spread(centred, axes, eps)
    return (centred * unit * inverse).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _inverse_spread(centred: Layer, axes: Axes, eps: float) -> tuple[Layer, Layer]:
    r"""A constant $u$ for each group and $1/\sqrt{u^2(\operatorname{var} + \epsilon)}$, of groups
    that have mean 0.

    All $u$ are 1 where no square leaves the range of the dtype, which costs only a look at the
    variances; there is a second pass over the entries where one does (under `jax.vmap` always), and
    none in derivatives.
    """
    bits = jnp.finfo(centred.dtype).maxexp
    square = jnp.mean(centred**2, axis=axes, keepdims=True) + eps
    high = ~jnp.isfinite(square)
    least = 2.0 ** (-25 * bits // 32)
    low = square < least

    def in_units() -> tuple[Layer, Layer]:
        unit = jnp.where(low, 2.0 ** (5 * bits // 8), 1.0)
        unit = jnp.where(high, 2.0 ** (-5 * bits // 8), unit).astype(centred.dtype)
        floor = jnp.where(
            low, math.ldexp(min(eps, least), 2 * (5 * bits // 8)), jnp.where(high, 0, eps)
        )
        return unit, jax.lax.rsqrt(
            jnp.mean((centred * unit) ** 2, axis=axes, keepdims=True) + floor
        )

    def as_they_are() -> tuple[Layer, Layer]:
        return jnp.ones_like(square), jax.lax.rsqrt(square)

    return jax.lax.cond(jnp.any(high | low), in_units, as_they_are)


@_inverse_spread.defjvp
def _inverse_spread_jvp(axes: Axes, eps: float, primals, tangents):
    (centred,) = primals
    (moved,) = tangents
    unit, inverse = _inverse_spread(centred, axes, eps)
    along = (centred * unit * inverse) * (moved * unit * inverse)
    return (unit, inverse), (
        jnp.zeros_like(unit),
        -inverse * jnp.mean(along, axis=axes, keepdims=True),
    )


def _centre(x: Layer, axes: Axes) -> Layer:
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    # A mean of large equal numbers is off by an ulp of them, which the norm would blow up; it is a
    # constant.
    return centred - jax.lax.stop_gradient(jnp.mean(centred, axis=axes, keepdims=True))


def _length(x: Layer, axes: Axes, eps: float, gather: Callable[..., Layer]) -> Layer:
    """The root of eps and the mean or the sum of squares, in a unit in which squares stay in the
    range of the dtype.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True))
    unit = jnp.maximum(largest, math.sqrt(eps))
    unit = jnp.where(
        unit > 1, 0.125 * unit, unit
    )  # so that no reciprocal, by which XLA divides, is subnormal
    unit = jnp.where(unit == 0, 1, unit)
    return unit * jnp.sqrt(
        gather((x / unit) ** 2, axis=axes, keepdims=True) + (math.sqrt(eps) / unit) ** 2
    )


class SphericalNorm(AbstractLagrangian):
    r"""Projection on the sphere, per group: $L(x) = \sum_{\text{groups}} \sqrt{|x|^2 + \epsilon}$,
    so $g = x/\sqrt{|x|^2 + \epsilon}$.

    **Arguments:**

    - `axes`: the axes of one group; `None` makes the whole layer one group.
    - `eps`: $\epsilon \ge 0$; with 0 the gradient is undefined at the origin.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996), model C.
    """

    axes: Axes = eqx.field(static=True, default=None)
    eps: float = eqx.field(static=True, default=1e-6)
    is_norm: ClassVar[bool] = True

    def __check_init__(self):
        if self.eps < 0:
            raise ValueError(
                f"SphericalNorm needs eps >= 0, got {self.eps}; the usual value is 1e-6."
            )

    @property
    def curvature(self) -> tuple[float, float]:
        return 0.0, 1 / math.sqrt(self.eps) if self.eps else math.inf

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(_length(x, self.axes, self.eps, jnp.sum))

    def activation(self, x: Layer) -> Layer:
        wide = widened(x)
        return (wide / _length(wide, self.axes, self.eps, jnp.sum)).astype(x.dtype)

    def energy_summands(self, x: Layer) -> Summands:
        return (-self.eps / _length(x, self.axes, self.eps, jnp.sum),)

    def conjugate(self, g: Layer) -> Scalar:
        square = jnp.sum(g**2, axis=self.axes, keepdims=True)
        room = jnp.sqrt(self.eps * jnp.maximum(1 - square, 0))
        return jnp.sum(jnp.where(square <= 1 + half_the_digits(g.dtype), -room, jnp.inf))

    @property
    def pushes_outward(self) -> bool:
        return True

    def jumps(self, tiny: float) -> list[str]:
        return _undefined(self, tiny)

    def softness(self, x: np.ndarray) -> float:
        square = np.sum(x**2, axis=self.axes)
        return float(np.sqrt(np.min(square) + self.eps))

    def stays_soft(self, shape: tuple[int, ...]) -> bool:
        return _is_one_group(self.axes, shape)

    def most_activation(self, units: int) -> float:
        del units
        return 0.0

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return unit_radius(self.axes, shape)

    def third_derivative_near(self, x: np.ndarray, reach: np.ndarray) -> np.ndarray:
        return _bend_of_norm(1.0, x, self.axes, self.eps, reach)


def _undefined(norm: LayerNorm | SphericalNorm, tiny: float) -> list[str]:
    if tiny <= norm.eps < math.inf:
        return []
    return [
        f"eps = {norm.eps:g} leaves {type(norm).__name__} undefined at constant states; 1e-6 is "
        f"usual"
    ]


def _is_one_group(axes: Axes, shape: tuple[int, ...]) -> bool:
    return axes is None or len(set(axis % len(shape) for axis in axes)) == len(shape)


def _bend_of_norm(
    gain: float, x: np.ndarray, axes: Axes, square: float, reach: np.ndarray
) -> np.ndarray:
    """The third derivative of gain * |(x, root)| in each group, with root^2 = square, near a
    state.
    """
    # |z| has the third derivative -3 a (1 - a^2) / |z|^2.
    shortest = math.sqrt(float(np.min(np.sum(x**2, axis=axes))))
    squares = np.maximum(shortest - reach, 0) ** 2 + square
    steepest = np.full_like(reach, np.inf)
    return np.divide(2 / math.sqrt(3) * gain, squares, out=steepest, where=squares > 0)
