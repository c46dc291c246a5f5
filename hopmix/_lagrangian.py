r"""Lagrangians: convex scalars whose gradients are activation functions.

A layer of neurons with state $x$ is described by a Lagrangian $L(x)$. Its activation is
$g = \partial L/\partial x$, and its energy is the Legendre transform $x \cdot g - L(x)$, whose derivative with
respect to $g$ is $x$. Every class here is callable for $L$ and has a closed form for $g$; no derivative with respect
to a parameter is overridden, so parameters that are arrays differentiate correctly through energies.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp

from hopmix._types import Layer, Scalar, ScalarLike


class AbstractLagrangian(eqx.Module):
    """A scalar function $L$ of the state of one layer.

    Subclasses give `__call__` (the value), `activation` (its gradient in closed form) and `is_convex`.
    """

    @abc.abstractmethod
    def __call__(self, x: Layer) -> Scalar:
        """The value $L(x)$; `x` may have any shape."""

    @abc.abstractmethod
    def activation(self, x: Layer) -> Layer:
        r"""The activation $g = \partial L/\partial x$, of the shape of `x`."""

    @property
    @abc.abstractmethod
    def is_convex(self) -> bool:
        """Whether $L$ is convex everywhere; parameters must be concrete numbers."""


class Quadratic(AbstractLagrangian):
    r"""Linear units: $L(x) = \tfrac12 \sum_i x_i^2$, so $g = x$.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996).
    """

    is_convex: ClassVar[bool] = True

    def __call__(self, x: Layer) -> Scalar:
        return 0.5 * jnp.sum(x**2)

    def activation(self, x: Layer) -> Layer:
        return x


class ReLU(AbstractLagrangian):
    r"""Rectified linear units: $L(x) = \tfrac12 \sum_i \max(x_i, 0)^2$, so $g = \max(x, 0)$.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164), the rectified polynomial with $n = 2$.
    """

    is_convex: ClassVar[bool] = True

    def __call__(self, x: Layer) -> Scalar:
        return 0.5 * jnp.sum(jax.nn.relu(x) ** 2)

    def activation(self, x: Layer) -> Layer:
        return jax.nn.relu(x)


class RePU(AbstractLagrangian):
    r"""Rectified polynomial units: $L(x) = \tfrac1n \sum_i \max(x_i, 0)^n$, so $g = \max(x, 0)^{n-1}$.

    **Arguments:**

    - `power`: the degree $n \ge 2$. In float32, $L$ overflows where $|x|^n$ exceeds 3e38.

    **Raises:** `ValueError` if `power` is below 2.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164).
    """

    power: int = eqx.field(static=True)
    is_convex: ClassVar[bool] = True

    def __check_init__(self):
        if self.power < 2:
            raise ValueError(f"RePU needs power >= 2 for a continuous activation, got {self.power}; use ReLU() for 2.")

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jax.nn.relu(x) ** self.power) / self.power

    def activation(self, x: Layer) -> Layer:
        return jax.nn.relu(x) ** (self.power - 1)


class GELU(AbstractLagrangian):
    r"""Gaussian error linear units, exact: $L(x) = \sum_i \Phi(x_i)$ with

    $$\Phi(x) = \tfrac14\left[x^2 + (x^2 - 1)\,\mathrm{erf}(x/\sqrt2) + x\sqrt{2/\pi}\,e^{-x^2/2}\right],$$

    so $g = \tfrac12 x\,(1 + \mathrm{erf}(x/\sqrt2))$. $\Phi'' \in [-0.1289, 1.1289]$: it is *not* convex.
    The tanh approximation of GELU is not the derivative of this function and is not offered.

    **Source:** arXiv 2406.12220, code of the authors; bounds in Hendrycks & Gimpel (arXiv 1606.08415).
    """

    is_convex: ClassVar[bool] = False

    def __call__(self, x: Layer) -> Scalar:
        # x^2 (1 + erf) is written with erfc: for x << 0 the difference of two large numbers would be left.
        half = x * jnp.sqrt(0.5).astype(x.dtype)
        gauss = x * jnp.exp(-(half**2)) * jnp.sqrt(2 / jnp.pi).astype(x.dtype)
        return 0.25 * jnp.sum(x**2 * jsp.erfc(-half) - jsp.erf(half) + gauss)

    def activation(self, x: Layer) -> Layer:
        return _gelu(x)


@jax.custom_jvp
def _gelu(x: Layer) -> Layer:
    return x * _normal_cdf(x)


@_gelu.defjvp
def _gelu_jvp(primals, tangents):
    # Written out so that training keeps one array of slopes for the way back, not the three that autodiff keeps.
    (x,), (tangent,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-0.5 * x**2) * jnp.sqrt(0.5 / jnp.pi).astype(x.dtype)
    return x * cdf, (cdf + x * density) * tangent


def _normal_cdf(x: Layer) -> Layer:
    # erf, not the erfc of `jax.nn.gelu`: twice as fast in XLA and equal to rounding of the largest term.
    return 0.5 * (1 + jsp.erf(x * jnp.sqrt(0.5).astype(x.dtype)))


class Exponential(AbstractLagrangian):
    r"""Exponential units: $L(x) = \tfrac1\beta \sum_i e^{\beta x_i}$, so $g = e^{\beta x}$.

    **Arguments:**

    - `beta`: inverse temperature $\beta$; the Lagrangian is convex where it is positive. In
        float32 the value overflows where $\beta x > 88$.

    **Source:** Demircigil et al. 2017 (arXiv 1702.01929).
    """

    beta: ScalarLike = 1.0

    @property
    def is_convex(self) -> bool:
        return bool(self.beta > 0)

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jnp.exp(self.beta * x)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jnp.exp(self.beta * x)


class Tanh(AbstractLagrangian):
    r"""Hyperbolic tangent units: $L(x) = \tfrac1\beta \sum_i \log\cosh(\beta x_i)$, so $g = \tanh(\beta x)$.

    **Arguments:**

    - `beta`: inverse temperature $\beta$; the Lagrangian is convex where it is positive.

    **Source:** Hopfield 1984 (graded responses).
    """

    beta: ScalarLike = 1.0

    @property
    def is_convex(self) -> bool:
        return bool(self.beta > 0)

    def __call__(self, x: Layer) -> Scalar:
        # log cosh z = |z| + log(1 + e^{-2|z|}) - log 2 never overflows; logaddexp is smooth at 0, |z| is not.
        z = self.beta * x
        return jnp.sum(jnp.logaddexp(z, -z) - jnp.log(2.0).astype(z.dtype)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jnp.tanh(self.beta * x)


class Sigmoid(AbstractLagrangian):
    r"""Logistic units: $L(x) = \tfrac1\beta \sum_i \log(1 + e^{\beta x_i})$, so $g = 1/(1 + e^{-\beta x})$.

    **Arguments:**

    - `beta`: inverse temperature $\beta$; the Lagrangian is convex where it is positive.

    **Source:** Hopfield 1984 (graded responses).
    """

    beta: ScalarLike = 1.0

    @property
    def is_convex(self) -> bool:
        return bool(self.beta > 0)

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jax.nn.softplus(self.beta * x)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jax.nn.sigmoid(self.beta * x)


class Softmax(AbstractLagrangian):
    r"""Softmax units: $L(x) = \tfrac1\beta \sum_{\text{groups}} \log \sum_i e^{\beta x_i}$, so
    $g = \mathrm{softmax}(\beta x)$ in each group.

    **Arguments:**

    - `beta`: inverse temperature $\beta$; the Lagrangian is convex where it is positive.
    - `axes`: the axes of one group; `None` makes the whole layer one group.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996), model B; Ramsauer et al. 2020 (arXiv 2008.02217).
    """

    beta: ScalarLike = 1.0
    axes: tuple[int, ...] | None = eqx.field(static=True, default=None)

    @property
    def is_convex(self) -> bool:
        return bool(self.beta > 0)

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jax.nn.logsumexp(self.beta * x, axis=self.axes)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jax.nn.softmax(self.beta * x, axis=self.axes)


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

    axes: tuple[int, ...] | None = eqx.field(static=True, default=None)
    scale: ScalarLike = 1.0
    shift: Layer | None = None
    eps: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        if self.eps < 0:
            raise ValueError(f"LayerNorm needs eps >= 0, got {self.eps}; the usual value is 1e-6.")

    @property
    def is_convex(self) -> bool:
        return bool(self.scale >= 0)

    def __call__(self, x: Layer) -> Scalar:
        root = jnp.sqrt(jnp.var(x, axis=self.axes) + self.eps)
        value = self.scale * (x.size // root.size) * jnp.sum(root)
        return value if self.shift is None else value + jnp.sum(spread(self.shift, x.ndim) * x)

    def activation(self, x: Layer) -> Layer:
        # Statistics in at least float32: a bfloat16 sum over a few hundred entries loses the mean.
        wide = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
        centred = wide - jnp.mean(wide, axis=self.axes, keepdims=True)
        g = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=self.axes, keepdims=True) + self.eps)
        g = self.scale * g.astype(x.dtype)
        return g if self.shift is None else g + spread(self.shift, g.ndim)


class SphericalNorm(AbstractLagrangian):
    r"""Projection on the sphere, per group: $L(x) = \sum_{\text{groups}} \sqrt{|x|^2 + \epsilon}$, so
    $g = x/\sqrt{|x|^2 + \epsilon}$.

    **Arguments:**

    - `axes`: the axes of one group; `None` makes the whole layer one group.
    - `eps`: $\epsilon \ge 0$; with 0 the gradient is undefined at the origin.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996), model C.
    """

    axes: tuple[int, ...] | None = eqx.field(static=True, default=None)
    eps: float = eqx.field(static=True, default=1e-6)
    is_convex: ClassVar[bool] = True

    def __check_init__(self):
        if self.eps < 0:
            raise ValueError(f"SphericalNorm needs eps >= 0, got {self.eps}; the usual value is 1e-6.")

    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jnp.sqrt(jnp.sum(x**2, axis=self.axes) + self.eps))

    def activation(self, x: Layer) -> Layer:
        return x * jax.lax.rsqrt(jnp.sum(x**2, axis=self.axes, keepdims=True) + self.eps)


def spread(parameter: Layer, ndim: int) -> Layer:
    """A parameter of the rank of one example, with the axes of a token-major batch put in after its first axis."""
    return parameter.reshape(parameter.shape[:1] + (1,) * (ndim - parameter.ndim) + parameter.shape[1:])
