r"""Lagrangians of groups: units that compete (softmax and its kin) and units that share a norm.

Each takes `axes`, the axes of one group, and is the sum over groups of the Lagrangian of one group;
`None` makes the whole layer one group.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jaxtyping import Array, Bool, Float

from hopmix._lagrangian import (
    AbstractLagrangian,
    AbstractTempered,
    Summands,
    if_convex,
    need_number,
    spread,
)
from hopmix._numerics.dtypes import need_floats, widened
from hopmix._numerics.norms import Disc, between, largest_row
from hopmix._numerics.special import Wide, difference_of_logarithms, in_single, log1p_gap, wide
from hopmix._types import Layer, Scalar, ScalarLike

Axes = tuple[int, ...] | None


class Softmax(AbstractTempered):
    r"""Softmax units: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log \sum_i e^{\beta x_i}$, so
    $g = \mathrm{softmax}(\beta x)$ in each group.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is
      positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996), model B; Ramsauer et al. 2020 (arXiv
    2008.02217).
    """

    beta: ScalarLike = 1.0
    axes: Axes = eqx.field(static=True, default=None)

    @property
    def curvature(self) -> tuple[float, float]:
        return _competing(self.beta)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        top = _top(x, self.axes, self.beta)
        return jnp.sum(top + jnp.log1p(_rivals(self.beta * (x - top), self.axes)) / self.beta)

    def activation(self, x: Layer) -> Layer:
        return jax.nn.softmax(self.beta * (x - _top(x, self.axes, self.beta)), axis=self.axes)

    def energy_summands(self, x: Layer) -> Summands:
        below = _finite(self.beta * (x - _top(x, self.axes, self.beta)))
        rivals = _rivals(below, self.axes)
        return below * jnp.exp(below) / (1 + rivals) / self.beta, -jnp.log1p(rivals) / self.beta

    def difference(self, x: Layer, step: Layer) -> Wide:
        return _difference(self, x, step, silent=False)

    def conjugate(self, g: Layer) -> Scalar:
        total = jnp.sum(
            jnp.where(_on_simplex(g, self.axes), g * _log_shares(g, self.axes), jnp.inf)
        )
        return if_convex(self.beta, total / self.beta)

    def most_activation(self, units: int) -> float:
        return _most_of_groups(self.axes, units)

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return _unit_radius(self.axes, shape)

    def distance_disc(self, patterns: Float[np.ndarray, "patterns visible"]) -> Disc:
        # Of each group of patterns, beta times their covariance, minus the identity. The
        # similarities have one axis: all patterns are one group, or without axes each is its own. A
        # variance is a quarter of a squared range, at most.
        if self.axes == ():
            return Disc(-float(len(patterns)), 0.0)
        gaps = patterns[:, None] - patterns[None]
        covariance = 0.25 * float(self.beta) * float(np.max(np.sum(gaps**2, axis=-1)))
        return between(min(covariance, 0.0) - 1, max(covariance, 0.0) - 1)

    @property
    def third_derivative(self) -> float:
        return _third_cumulant(self.beta)


class GhostMax(AbstractTempered):
    r"""Softmax with a silent competitor: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log(1 + \sum_i
    e^{\beta x_i})$, so $g_i = e^{\beta x_i}/(1 + \sum_j e^{\beta x_j})$ in each group.

    The activations of a group add up to less than one: a group can say nothing.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is
      positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Source:** the softmax of Krotov & Hopfield 2020 (arXiv 2008.06996) with one more state at
    zero.
    """

    beta: ScalarLike = 1.0
    axes: Axes = eqx.field(static=True, default=None)

    @property
    def curvature(self) -> tuple[float, float]:
        return _competing(self.beta)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        top = _top(x, self.axes, self.beta, silent=True)
        rivals = _rivals(self.beta * (x - top), self.axes, silent=self.beta * -top)
        return jnp.sum(top + jnp.log1p(rivals) / self.beta)

    def activation(self, x: Layer) -> Layer:
        # Not exp(beta x - log(...)): that difference of large numbers has lost its digits.
        top = _top(x, self.axes, self.beta, silent=True)
        shares = jnp.exp(self.beta * (x - top))
        return shares / (jnp.exp(self.beta * -top) + jnp.sum(shares, axis=self.axes, keepdims=True))

    def energy_summands(self, x: Layer) -> Summands:
        top = _top(x, self.axes, self.beta, silent=True)
        below = _finite(self.beta * (x - top))
        silent = _finite(self.beta * -top)
        rivals = _rivals(below, self.axes, silent)
        weighted = (a * jnp.exp(a) / (1 + rivals) / self.beta for a in (below, silent))
        return *weighted, -jnp.log1p(rivals) / self.beta

    def difference(self, x: Layer, step: Layer) -> Wide:
        return _difference(self, x, step, silent=True)

    def conjugate(self, g: Layer) -> Scalar:
        total = jnp.sum(g, axis=self.axes, keepdims=True)
        inside = jnp.all(g >= 0, axis=self.axes, keepdims=True) & (total <= 1 + _slack(g))
        terms = jnp.sum(jsp.xlogy(g, g), axis=self.axes, keepdims=True) + _silent_entropy(total)
        return if_convex(self.beta, jnp.sum(jnp.where(inside, terms, jnp.inf)) / self.beta)

    def most_activation(self, units: int) -> float:
        return _most_of_groups(self.axes, units)

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return _unit_radius(self.axes, shape)

    @property
    def third_derivative(self) -> float:
        return _third_cumulant(self.beta)


class Entmax(AbstractLagrangian):
    r"""Sparse competition: in each group, $g$ maximises a linear score over the simplex $\Delta$,

    $$L(x) = \tfrac1\beta \sum_{\text{groups}} \max_{p \in \Delta}\, [\beta\,p \cdot x - \Omega_\alpha(p)], \qquad
      \Omega_\alpha(p) = \sum_i \frac{p_i^\alpha - p_i}{\alpha(\alpha - 1)},$$
    $$g_i = \max\big((\alpha - 1)\beta x_i - \theta,\ 0\big)^{1/(\alpha - 1)}, \qquad \sum_i g_i = 1.$$

    Low entries are exactly zero. $\alpha = 2$ is sparsemax; $\alpha \to 1$ is `Softmax`.

    **Arguments:**

    - `alpha`: $\alpha \in (1, 2]$.
    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is
      positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Raises:** `ValueError` for `alpha` outside (1, 2].

    **Source:** Martins & Astudillo 2016 (arXiv 1602.02068); Peters, Niculae & Martins 2019 (arXiv
    1905.05702).
    """  # noqa: E501

    alpha: float = eqx.field(static=True, default=2.0)
    beta: ScalarLike = 1.0
    axes: Axes = eqx.field(static=True, default=None)

    def __check_init__(self):
        need_number("The beta of Entmax", self.beta)
        if not 1 < self.alpha <= 2:
            raise ValueError(
                f"Entmax needs 1 < alpha <= 2, got {self.alpha}; alpha -> 1 is Softmax()."
            )

    @property
    def divisor(self) -> ScalarLike:
        return self.beta

    @property
    def curvature(self) -> tuple[float, float]:
        # The Jacobian of the maximiser is diag(s) - s s^T / sum(s) with s = g^(2 - alpha) <= 1.
        if float(self.beta) > 0:
            return (0.0, float(self.beta))
        return (float(self.beta), 0.0)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        # The simplex makes the value of a group move with its top: what is left has no large
        # numbers that cancel.
        top = _top(x, self.axes, self.beta)
        below = _finite(self.beta * (x - top))
        g = self._maximiser(below)
        rest = jnp.sum(g * below - self._negentropy(g), axis=self.axes, keepdims=True)
        return jnp.sum(top + rest / self.beta)

    def activation(self, x: Layer) -> Layer:
        return self._maximiser(_finite(self.beta * (x - _top(x, self.axes, self.beta))))

    def energy_summands(self, x: Layer) -> Summands:
        return (self._negentropy(self.activation(x)) / self.beta,)

    def conjugate(self, g: Layer) -> Scalar:
        total = jnp.sum(jnp.where(_on_simplex(g, self.axes), self._negentropy(g), jnp.inf))
        return if_convex(self.beta, total / self.beta)

    def _negentropy(self, g: Layer) -> Layer:
        # p (p^(alpha - 1) - 1), of which p^(alpha - 1) - 1 would be lost in rounding for p near 1
        powers = jnp.expm1((self.alpha - 1) * _log_shares(g, self.axes))
        return g * powers / (self.alpha * (self.alpha - 1))

    def _powers(self, u: Layer) -> Layer:
        return _power(u, 1 / (self.alpha - 1))

    def _maximiser(self, below: Layer) -> Layer:
        """The theta of each group by bisection; two steps of Newton then make it exact and
        differentiable twice.
        """
        below = (self.alpha - 1) * below  # near zero, where floating-point numbers are dense

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            too_low = jnp.sum(self._powers(below - middle), axis=self.axes, keepdims=True) > 1
            return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

        high = jnp.zeros_like(jnp.max(below, axis=self.axes, keepdims=True))
        rounds = jnp.finfo(below.dtype).nmant
        theta = jax.lax.stop_gradient(jax.lax.fori_loop(0, rounds, halve, (high - 1, high))[0])
        for _ in range(2):
            mass = jnp.sum(self._powers(below - theta), axis=self.axes, keepdims=True)
            slope = jax.jvp(self._powers, (below - theta,), (jnp.ones_like(below),))[1]
            theta = theta + (mass - 1) / jnp.sum(slope, axis=self.axes, keepdims=True)
        return self._powers(below - theta)

    def most_activation(self, units: int) -> float:
        return _most_of_groups(self.axes, units)

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return _unit_radius(self.axes, shape)


class LogSumReLU(AbstractTempered):
    r"""Compact kernels: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log m$ with $m = \epsilon +
    \sum_i \max(1 + \beta x_i, 0)$, so $g_i = 1/m$ where $1 + \beta x_i > 0$, and 0 elsewhere.

    With $x_i = -\tfrac12 |v - \xi_i|^2$ it is the log-sum-ReLU (Epanechnikov) energy of stored
    patterns $\xi_i$: a pattern acts only within the distance $\sqrt{2/\beta}$, and where it acts
    alone it is retrieved exactly. It is not convex.

    **Arguments:**

    - `beta`: inverse temperature $\beta > 0$, one number.
    - `eps`: $\epsilon > 0$; the value is $\log(\epsilon)/\beta$ where no unit is active.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Raises:** `ValueError` if `eps` is not positive.

    **Source:** arXiv 2506.10801.
    """

    beta: ScalarLike = 1.0
    eps: float = eqx.field(static=True, default=1e-6)
    axes: Axes = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.eps <= 0:
            raise ValueError(f"LogSumReLU needs eps > 0, got {self.eps}; the usual value is 1e-6.")

    @property
    def curvature(self) -> tuple[float, float]:
        return (
            -math.inf,
            math.inf,
        )  # concave where the active units stay the same, kinked where one joins them

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(self._log_mass(x)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jnp.where(1 + self.beta * x > 0, 1 / self._mass(x), jnp.zeros((), x.dtype))

    def energy_summands(self, x: Layer) -> Summands:
        # beta E = (m - eps - n) / m - log m with n active units; where n = 1, without the 1 that
        # both parts have
        count = self._active(x, jnp.ones_like(x))
        alone = count == 1
        excess = jnp.where(alone, self._excess(x, count), jnp.zeros_like(count))
        share = jnp.where(
            alone,
            -log1p_gap(excess) - self.eps / (1 + excess),
            1 - (self.eps + count) / self._mass(x),
        )
        return share / self.beta, jnp.where(
            alone, jnp.zeros_like(count), -self._log_mass(x)
        ) / self.beta

    def _mass(self, x: Layer) -> Layer:
        return self.eps + jnp.sum(jax.nn.relu(1 + self.beta * x), axis=self.axes, keepdims=True)

    def _log_mass(self, x: Layer) -> Layer:
        mass = self._mass(x)
        excess = self._excess(x, self._active(x, jnp.ones_like(x)))
        near = jnp.abs(excess) < 0.5
        return jnp.where(near, jnp.log1p(jnp.where(near, excess, 0)), jnp.log(mass))

    def _excess(self, x: Layer, count: Layer) -> Layer:
        """The mass less 1, which the ones of the active units need not be added up for."""
        # eps comes last: XLA makes eps + (count - 1) one constant, eps - 1, in which eps has lost
        # its digits.
        return (count - 1) + self._active(x, self.beta * x) + self.eps

    def _active(self, x: Layer, values: Layer) -> Layer:
        inactive = jnp.zeros((), x.dtype)
        return jnp.sum(
            jnp.where(1 + self.beta * x > 0, values, inactive), axis=self.axes, keepdims=True
        )

    def jumps(self, tiny: float) -> list[str]:
        del tiny
        return [
            "log-sum-ReLU jumps where a unit joins or leaves: the rate of the energy holds "
            "between jumps"
        ]


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
        return value + jnp.sum(spread(self.shift, x.ndim) * x)

    def activation(self, x: Layer) -> Layer:
        g = self.scale * _normalise(x, self.axes, self.eps)
        if self.shift is None:
            return g
        return g + spread(self.shift, g.ndim)

    def energy_summands(self, x: Layer) -> Summands:
        spreads = self.spreads(x)
        return (-(self.scale * (x.size // spreads.size) * self.eps) / spreads,)

    def spreads(self, x: Layer) -> Layer:
        r"""The $\sqrt{\operatorname{var}(x) + \epsilon}$ of each group, of the rank of `x`."""
        return _length(_centre(x, self.axes), self.axes, self.eps, jnp.mean)

    def conjugate(self, g: Layer) -> Scalar:
        u = g if self.shift is None else g - spread(self.shift, g.ndim)
        mean = jnp.mean(u, axis=self.axes, keepdims=True)
        square = jnp.mean((u**2), axis=self.axes, keepdims=True)
        slack = _slack(g) * self.scale
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
        return jnp.sum(jnp.where(square <= 1 + _slack(g), -room, jnp.inf))

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
        return _unit_radius(self.axes, shape)

    def third_derivative_near(self, x: np.ndarray, reach: np.ndarray) -> np.ndarray:
        return _bend_of_norm(1.0, x, self.axes, self.eps, reach)


def _competing(beta: ScalarLike) -> tuple[float, float]:
    """The curvature of softmax: diag(p) - p p^T has no eigenvalue above 1/2."""
    half = 0.5 * float(beta)
    if half > 0:
        return (0.0, half)
    return (half, 0.0)


def _top(x: Layer, axes: Axes, beta: ScalarLike, silent: bool = False) -> Layer:
    """The entry of each group that wins the competition, the highest or, for a negative beta, the
    lowest; it is a constant of differentiation. A silent unit competes with 0."""
    highest = jnp.max(x, axis=axes, keepdims=True)
    lowest = jnp.min(x, axis=axes, keepdims=True)
    if silent:
        highest = jnp.maximum(highest, 0)
        lowest = jnp.minimum(lowest, 0)
    return jax.lax.stop_gradient(jnp.where(beta > 0, highest, lowest))


def _rivals(below: Layer, axes: Axes, silent: Layer | None = None) -> Layer:
    """The sum of exponentials of what lies below the top of each group, without the 1 of the top
    itself.
    """
    total = jnp.sum(_without_ones(below), axis=axes, keepdims=True)
    ties = jnp.sum(below == 0, axis=axes, keepdims=True, dtype=below.dtype)
    if silent is not None:
        total = total + _without_ones(silent)
        ties = ties + (silent == 0).astype(ties.dtype)
    return total + (ties - 1)


def _difference(lagrangian: Softmax | GhostMax, x: Layer, step: Layer, silent: bool) -> Wide:
    """The difference of the values of one group; of several, that of their sums."""
    direct = lagrangian(x + step) - lagrangian(x)
    top = _top(x, lagrangian.axes, lagrangian.beta, silent)
    if top.size > 1:
        return wide(direct)
    top = top.reshape(())
    beta = lagrangian.beta
    rivals = _rivals(beta * (x - top), None, beta * -top if silent else None)
    return difference_of_logarithms(x, step, beta, top, rivals.reshape(()), direct)


def _without_ones(below: Layer) -> Layer:
    """The exponential, 0 instead of 1; its derivatives are those of the exponential."""
    return jnp.where(below == 0, jnp.expm1(below), jnp.exp(below))


def _finite(below: Layer) -> Layer:
    """Distances from the top of a group, so that 0 times one of them is 0."""
    return jnp.maximum(below, float(jnp.finfo(below.dtype).min))


def _log_shares(g: Layer, axes: Axes) -> Layer:
    """The logarithms of entries of a simplex, 0 at 0; one near 1 is known by what is left for the
    others.
    """
    most = g > 0.75
    rest = jnp.sum(jnp.where(most, 0, g), axis=axes, keepdims=True)
    rest = jnp.where(rest < 0.5, rest, 0)
    return jnp.where(most, jnp.log1p(-rest), jnp.log(jnp.where(g > 0, g, 1)))


def _silent_entropy(total: Layer) -> Layer:
    r"""$p \log p$ of a silent unit that has what the others leave."""
    left = total < 1
    total = jnp.where(left, total, 0)
    return jnp.where(left, (1 - total) * jnp.log1p(-total), 0)


def _power(x: Layer, exponent: float) -> Layer:
    """The power of the positive part; its derivatives at and below zero are zero, not the NaN of 0
    times infinity.
    """
    positive = x > 0
    return jnp.where(
        positive, jnp.where(positive, x, jnp.ones_like(x)) ** exponent, jnp.zeros_like(x)
    )


def _on_simplex(g: Layer, axes: Axes) -> Bool[Array, "..."]:
    total = jnp.sum(g, axis=axes, keepdims=True)
    return jnp.all(g >= 0, axis=axes, keepdims=True) & (jnp.abs(total - 1) <= _slack(g))


def _slack(g: Layer) -> float:
    return float(jnp.finfo(g.dtype).eps) ** 0.5


# ---- What certificates ask -----------------------------------------------------------------------


def _undefined(norm: LayerNorm | SphericalNorm, tiny: float) -> list[str]:
    if tiny <= norm.eps < math.inf:
        return []
    return [
        f"eps = {norm.eps:g} leaves {type(norm).__name__} undefined at constant states; 1e-6 is "
        f"usual"
    ]


def _is_one_group(axes: Axes, shape: tuple[int, ...]) -> bool:
    return axes is None or len(set(axis % len(shape) for axis in axes)) == len(shape)


def _most_of_groups(axes: Axes, units: int) -> float:
    """The sum of activations of a vector, each group of which has a sum of one at most."""
    if axes is None or axes:
        return 1.0
    return float(units)


def _unit_radius(axes: Axes, shape: tuple[int, ...]) -> float:
    """The largest norm of a token of activations, each group of which has a Euclidean norm of one
    at most.
    """
    whole = len(shape) == 2 and (axes is None or -1 in axes)
    if whole:
        return 1.0
    return math.sqrt(math.prod(shape[1:]))


def _third_cumulant(beta: ScalarLike) -> float:
    """That of numbers that differ by sqrt 2 at most."""
    return float(beta) ** 2 * math.sqrt(2 / 27)


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
