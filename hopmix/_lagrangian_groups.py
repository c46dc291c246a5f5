r"""Lagrangians of groups: units that compete (softmax and its kin) and units that share a norm.

Each takes `axes`, the axes of one group, and is the sum over groups of the Lagrangian of one group; `None` makes the
whole layer one group.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jaxtyping import Array, Bool

from hopmix._lagrangian import AbstractLagrangian, if_convex, need_number, spread
from hopmix._types import Layer, Scalar, ScalarLike

Axes = tuple[int, ...] | None


class Softmax(AbstractLagrangian):
    r"""Softmax units: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log \sum_i e^{\beta x_i}$, so
    $g = \mathrm{softmax}(\beta x)$ in each group.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996), model B; Ramsauer et al. 2020 (arXiv 2008.02217).
    """

    beta: ScalarLike = 1.0
    axes: Axes = eqx.field(static=True, default=None)

    def __check_init__(self):
        need_number("The beta of Softmax", self.beta)

    @property
    def curvature(self) -> tuple[float, float]:
        return _competing(self.beta)

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jax.nn.logsumexp(self.beta * x, axis=self.axes)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jax.nn.softmax(self.beta * x, axis=self.axes)

    def conjugate(self, g: Layer) -> Scalar:
        total = jnp.sum(jnp.where(_on_simplex(g, self.axes), jsp.xlogy(g, g), jnp.inf))
        return if_convex(self.beta, total / self.beta)


class GhostMax(AbstractLagrangian):
    r"""Softmax with a silent competitor: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log(1 + \sum_i e^{\beta x_i})$, so
    $g_i = e^{\beta x_i}/(1 + \sum_j e^{\beta x_j})$ in each group.

    The activations of a group add up to less than one: a group can say nothing.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Source:** the softmax of Krotov & Hopfield 2020 (arXiv 2008.06996) with one more state at zero.
    """

    beta: ScalarLike = 1.0
    axes: Axes = eqx.field(static=True, default=None)

    def __check_init__(self):
        need_number("The beta of GhostMax", self.beta)

    @property
    def curvature(self) -> tuple[float, float]:
        return _competing(self.beta)

    def __call__(self, x: Layer) -> Scalar:
        partition = jnp.logaddexp(jax.nn.logsumexp(self.beta * x, axis=self.axes), jnp.zeros((), x.dtype))
        return jnp.sum(partition) / self.beta

    def activation(self, x: Layer) -> Layer:
        # Not exp(beta x - log(...)): that difference of large numbers has lost its digits.
        top = jax.lax.stop_gradient(jax.nn.relu(jnp.max(self.beta * x, axis=self.axes, keepdims=True)))
        shares = jnp.exp(self.beta * x - top)
        return shares / (jnp.exp(-top) + jnp.sum(shares, axis=self.axes, keepdims=True))

    def conjugate(self, g: Layer) -> Scalar:
        rest = 1 - jnp.sum(g, axis=self.axes, keepdims=True)
        inside = jnp.all(g >= 0, axis=self.axes, keepdims=True) & (rest >= -_slack(g))
        terms = jnp.sum(jsp.xlogy(g, g), axis=self.axes, keepdims=True) + jsp.xlogy(jnp.maximum(rest, 0), rest)
        return if_convex(self.beta, jnp.sum(jnp.where(inside, terms, jnp.inf)) / self.beta)


class Entmax(AbstractLagrangian):
    r"""Sparse competition: in each group, $g$ maximises a linear score over the simplex $\Delta$,

    $$L(x) = \tfrac1\beta \sum_{\text{groups}} \max_{p \in \Delta}\, [\beta\,p \cdot x - \Omega_\alpha(p)], \qquad
      \Omega_\alpha(p) = \sum_i \frac{p_i^\alpha - p_i}{\alpha(\alpha - 1)},$$
    $$g_i = \max\big((\alpha - 1)\beta x_i - \theta,\ 0\big)^{1/(\alpha - 1)}, \qquad \sum_i g_i = 1.$$

    Low entries are exactly zero. $\alpha = 2$ is sparsemax; $\alpha \to 1$ is `Softmax`.

    **Arguments:**

    - `alpha`: $\alpha \in (1, 2]$.
    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Raises:** `ValueError` for `alpha` outside (1, 2].

    **Source:** Martins & Astudillo 2016 (arXiv 1602.02068); Peters, Niculae & Martins 2019 (arXiv 1905.05702).
    """

    alpha: float = eqx.field(static=True, default=2.0)
    beta: ScalarLike = 1.0
    axes: Axes = eqx.field(static=True, default=None)

    def __check_init__(self):
        need_number("The beta of Entmax", self.beta)
        if not 1 < self.alpha <= 2:
            raise ValueError(f"Entmax needs 1 < alpha <= 2, got {self.alpha}; alpha -> 1 is Softmax().")

    @property
    def curvature(self) -> tuple[float, float]:
        # The Jacobian of the maximiser is diag(s) - s s^T / sum(s) with s = g^(2 - alpha) <= 1.
        return (0.0, float(self.beta)) if float(self.beta) > 0 else (float(self.beta), 0.0)

    def __call__(self, x: Layer) -> Scalar:
        # The simplex makes the value of a group move with its top: what is left has no large numbers that cancel.
        top = self._top(x)
        g = self._maximiser(x, top)
        rest = g * (self.beta * x - top) - self._negentropy(g)
        return jnp.sum(jnp.sum(rest, axis=self.axes, keepdims=True) + top) / self.beta

    def activation(self, x: Layer) -> Layer:
        return self._maximiser(x, self._top(x))

    def conjugate(self, g: Layer) -> Scalar:
        total = jnp.sum(jnp.where(_on_simplex(g, self.axes), self._negentropy(g), jnp.inf))
        return if_convex(self.beta, total / self.beta)

    def _top(self, x: Layer) -> Layer:
        return jax.lax.stop_gradient(jnp.max(self.beta * x, axis=self.axes, keepdims=True))

    def _negentropy(self, g: Layer) -> Layer:
        return (_power(g, self.alpha) - g) / (self.alpha * (self.alpha - 1))

    def _powers(self, u: Layer) -> Layer:
        return _power(u, 1 / (self.alpha - 1))

    def _maximiser(self, x: Layer, top: Layer) -> Layer:
        """The theta of each group by bisection; two steps of Newton then make it exact and differentiable twice."""
        below = (self.alpha - 1) * (self.beta * x - top)  # near zero, where floating-point numbers are dense

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            too_low = jnp.sum(self._powers(below - middle), axis=self.axes, keepdims=True) > 1
            return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

        start = -jnp.ones_like(top), jnp.zeros_like(top)
        theta = jax.lax.stop_gradient(jax.lax.fori_loop(0, jnp.finfo(x.dtype).nmant, halve, start)[0])
        for _ in range(2):
            mass = jnp.sum(self._powers(below - theta), axis=self.axes, keepdims=True)
            slope = jax.jvp(self._powers, (below - theta,), (jnp.ones_like(below),))[1]
            theta = theta + (mass - 1) / jnp.sum(slope, axis=self.axes, keepdims=True)
        return self._powers(below - theta)


class LogSumReLU(AbstractLagrangian):
    r"""Compact kernels: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log m$ with
    $m = \epsilon + \sum_i \max(1 + \beta x_i, 0)$, so $g_i = 1/m$ where $1 + \beta x_i > 0$, and 0 elsewhere.

    With $x_i = -\tfrac12 |v - \xi_i|^2$ it is the log-sum-ReLU (Epanechnikov) energy of stored patterns $\xi_i$: a
    pattern acts only within the distance $\sqrt{2/\beta}$, and where it acts alone it is retrieved exactly. It is not
    convex.

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
        need_number("The beta of LogSumReLU", self.beta)
        if self.eps <= 0:
            raise ValueError(f"LogSumReLU needs eps > 0, got {self.eps}; the usual value is 1e-6.")

    @property
    def curvature(self) -> tuple[float, float]:
        return -math.inf, math.inf  # concave where the active units stay the same, kinked where one joins them

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jnp.log(self._mass(x))) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jnp.where(1 + self.beta * x > 0, 1 / self._mass(x), jnp.zeros((), x.dtype))

    def _mass(self, x: Layer) -> Layer:
        return self.eps + jnp.sum(jax.nn.relu(1 + self.beta * x), axis=self.axes, keepdims=True)


class LayerNorm(AbstractLagrangian):
    r"""Layer normalisation over groups of $N$ entries:

    $$L(x) = \sum_{\text{groups}} \gamma N \sqrt{\operatorname{var}(x) + \epsilon} + \delta \cdot x, \qquad
      g = \gamma\,\frac{x - \bar x}{\sqrt{\operatorname{var}(x) + \epsilon}} + \delta.$$

    There is one square root *per group*; a single root of the total has another gradient. The scale $\gamma$ is one
    number: with a vector the map has no Lagrangian (see `Affine` for where a vector may stand).

    **Arguments:**

    - `axes`: the axes of one group. `(0, -1)` is the joint token-channel norm of a mixer, `(-1,)` the usual norm of
        each token, `None` the whole layer.
    - `scale`: $\gamma$; the Lagrangian is convex where it is not negative.
    - `shift`: $\delta$, of the rank of the layer and broadcast against it, or `None` for zero.
    - `eps`: $\epsilon \ge 0$; with 0 the gradient is undefined at constant states.

    **Source:** arXiv 2406.12220, section 2 (joint norm); Hoover et al. 2023 (arXiv 2302.07253) for scalar scales.
    """

    axes: Axes = eqx.field(static=True, default=None)
    scale: ScalarLike = 1.0
    shift: Layer | None = None
    eps: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        need_number("The scale of LayerNorm", self.scale)
        if self.eps < 0:
            raise ValueError(f"LayerNorm needs eps >= 0, got {self.eps}; the usual value is 1e-6.")

    @property
    def curvature(self) -> tuple[float, float]:
        # The Hessian is (scale / s) times a matrix between 0 and the projector that removes the mean; s >= sqrt(eps).
        scale = float(self.scale)
        size = abs(scale) / math.sqrt(self.eps) if self.eps else math.inf
        return (0.0, size) if scale >= 0 else (-size, 0.0)

    def __call__(self, x: Layer) -> Scalar:
        root = jnp.sqrt(jnp.var(x, axis=self.axes) + self.eps)
        value = self.scale * (x.size // root.size) * jnp.sum(root)
        return value if self.shift is None else value + jnp.sum(spread(self.shift, x.ndim) * x)

    def activation(self, x: Layer) -> Layer:
        g = self.scale * _normalise(x, self.axes, self.eps)
        return g if self.shift is None else g + spread(self.shift, g.ndim)

    def conjugate(self, g: Layer) -> Scalar:
        u = g if self.shift is None else g - spread(self.shift, g.ndim)
        mean, square = (jnp.mean(v, axis=self.axes, keepdims=True) for v in (u, u**2))
        slack = _slack(g) * self.scale
        inside = (jnp.abs(mean) <= slack) & (square <= self.scale**2 + slack * self.scale)
        room = jnp.sqrt(self.eps * jnp.maximum(self.scale**2 - square, 0))
        return if_convex(self.scale, jnp.sum(jnp.where(inside, -(u.size // square.size) * room, jnp.inf)))


@partial(jax.checkpoint, static_argnums=(1, 2))
def _normalise(x: Layer, axes: Axes, eps: float) -> Layer:
    """Groups with mean 0 and variance 1; the way back computes the statistics again, as that of GELU does."""
    # Statistics in at least float32: a bfloat16 sum over a few hundred entries loses the mean.
    wide = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    centred = wide - jnp.mean(wide, axis=axes, keepdims=True)
    # A mean of large equal numbers is off by an ulp of them, which the norm would blow up; it is a constant.
    centred = centred - jax.lax.stop_gradient(jnp.mean(centred, axis=axes, keepdims=True))
    return (centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=axes, keepdims=True) + eps)).astype(x.dtype)


class SphericalNorm(AbstractLagrangian):
    r"""Projection on the sphere, per group: $L(x) = \sum_{\text{groups}} \sqrt{|x|^2 + \epsilon}$, so
    $g = x/\sqrt{|x|^2 + \epsilon}$.

    **Arguments:**

    - `axes`: the axes of one group; `None` makes the whole layer one group.
    - `eps`: $\epsilon \ge 0$; with 0 the gradient is undefined at the origin.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996), model C.
    """

    axes: Axes = eqx.field(static=True, default=None)
    eps: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        if self.eps < 0:
            raise ValueError(f"SphericalNorm needs eps >= 0, got {self.eps}; the usual value is 1e-6.")

    @property
    def curvature(self) -> tuple[float, float]:
        return 0.0, 1 / math.sqrt(self.eps) if self.eps else math.inf

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jnp.sqrt(jnp.sum(x**2, axis=self.axes) + self.eps))

    def activation(self, x: Layer) -> Layer:
        return x * jax.lax.rsqrt(jnp.sum(x**2, axis=self.axes, keepdims=True) + self.eps)

    def conjugate(self, g: Layer) -> Scalar:
        square = jnp.sum(g**2, axis=self.axes, keepdims=True)
        room = jnp.sqrt(self.eps * jnp.maximum(1 - square, 0))
        return jnp.sum(jnp.where(square <= 1 + _slack(g), -room, jnp.inf))


def _competing(beta: ScalarLike) -> tuple[float, float]:
    """The curvature of softmax: diag(p) - p p^T has no eigenvalue above 1/2."""
    half = 0.5 * float(beta)
    return (0.0, half) if half > 0 else (half, 0.0)


def _power(x: Layer, exponent: float) -> Layer:
    """The power of the positive part; its derivatives at and below zero are zero, not the NaN of 0 times infinity."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, jnp.ones_like(x)) ** exponent, jnp.zeros_like(x))


def _on_simplex(g: Layer, axes: Axes) -> Bool[Array, "..."]:
    total = jnp.sum(g, axis=axes, keepdims=True)
    return jnp.all(g >= 0, axis=axes, keepdims=True) & (jnp.abs(total - 1) <= _slack(g))


def _slack(g: Layer) -> float:
    return float(jnp.finfo(g.dtype).eps) ** 0.5
