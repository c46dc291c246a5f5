"""Competition: Lagrangians of groups whose units compete, softmax and its kin."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jaxtyping import Array, Bool, Float

from hopmix._lagrangian.base import (
    AbstractLagrangian,
    AbstractTempered,
    Summands,
    if_convex,
    need_number,
)
from hopmix._lagrangian.groups import Axes, unit_radius
from hopmix._numerics.norms import Disc, between
from hopmix._numerics.special import Wide, difference_of_logarithms, in_single, log1p_gap, wide
from hopmix._numerics.tolerances import half_the_digits
from hopmix._types import Layer, Scalar, ScalarLike


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
        return unit_radius(self.axes, shape)

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
        within = total <= 1 + half_the_digits(g.dtype)
        inside = jnp.all(g >= 0, axis=self.axes, keepdims=True) & within
        terms = jnp.sum(jsp.xlogy(g, g), axis=self.axes, keepdims=True) + _silent_entropy(total)
        return if_convex(self.beta, jnp.sum(jnp.where(inside, terms, jnp.inf)) / self.beta)

    def most_activation(self, units: int) -> float:
        return _most_of_groups(self.axes, units)

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return unit_radius(self.axes, shape)

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
        return unit_radius(self.axes, shape)


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
    whole = jnp.abs(total - 1) <= half_the_digits(g.dtype)
    return jnp.all(g >= 0, axis=axes, keepdims=True) & whole


def _most_of_groups(axes: Axes, units: int) -> float:
    """The sum of activations of a vector, each group of which has a sum of one at most."""
    if axes is None or axes:
        return 1.0
    return float(units)


def _third_cumulant(beta: ScalarLike) -> float:
    """That of numbers that differ by sqrt 2 at most."""
    return float(beta) ** 2 * math.sqrt(2 / 27)
