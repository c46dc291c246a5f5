"""Elementwise Lagrangians: sums over single units, each with its own activation."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp

from hopmix._lagrangian.base import AbstractLagrangian, AbstractTempered, Summands, if_convex
from hopmix._numerics.special import (
    SATURATED,
    Wide,
    difference_of_exponentials,
    difference_of_log_cosh,
    difference_of_powers,
    difference_of_softplus,
    gaussian_lobe,
    in_single,
    log_cosh,
    logistic_energy,
    sum_in_pairs,
    tanh_energy,
    wide,
)
from hopmix._types import Layer, Scalar, ScalarLike


class Quadratic(AbstractLagrangian):
    r"""Linear units: $L(x) = \tfrac12 \sum_i x_i^2$, so $g = x$.

    **Source:** Krotov & Hopfield 2020 (arXiv 2008.06996).
    """

    is_elementwise: ClassVar[bool] = True

    @property
    def curvature(self) -> tuple[float, float]:
        return 1.0, 1.0

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return 0.5 * jnp.sum(x**2)

    def activation(self, x: Layer) -> Layer:
        return x

    def energy_summands(self, x: Layer) -> Summands:
        return (0.5 * x**2,)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return difference_of_powers(x, step, 2, rectified=False)

    def conjugate(self, g: Layer) -> Scalar:
        return 0.5 * jnp.sum(g**2)

    @property
    def pushes_outward(self) -> bool:
        return True

    def most_activation(self, units: int) -> float:
        del units
        return 0.0

    @property
    def third_derivative(self) -> float:
        return 0.0


class ReLU(AbstractLagrangian):
    r"""Rectified linear units: $L(x) = \tfrac12 \sum_i \max(x_i, 0)^2$, so $g = \max(x, 0)$.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164), the rectified polynomial with $n = 2$.
    """

    is_elementwise: ClassVar[bool] = True
    is_rectified: ClassVar[bool] = True

    @property
    def curvature(self) -> tuple[float, float]:
        return 0.0, 1.0

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return 0.5 * jnp.sum(jax.nn.relu(x) ** 2)

    def activation(self, x: Layer) -> Layer:
        return jax.nn.relu(x)

    def energy_summands(self, x: Layer) -> Summands:
        return (0.5 * jax.nn.relu(x) ** 2,)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return difference_of_powers(x, step, 2, rectified=True)

    def conjugate(self, g: Layer) -> Scalar:
        return jnp.sum(jnp.where(g >= 0, 0.5 * g**2, jnp.inf))

    @property
    def pushes_outward(self) -> bool:
        return True


class RePU(AbstractLagrangian):
    r"""Rectified polynomial units: $L(x) = \tfrac1n \sum_i \max(x_i, 0)^n$, so $g = \max(x,
    0)^{n-1}$.

    **Arguments:**

    - `power`: the degree $n \ge 2$. Value and energy overflow where $x^n$ does: in float32 above
      3e38.

    **Raises:** `ValueError` if `power` is below 2.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164).
    """

    is_elementwise: ClassVar[bool] = True
    is_rectified: ClassVar[bool] = True

    power: int = eqx.field(static=True)

    def __check_init__(self):
        if self.power < 2:
            raise ValueError(
                f"RePU needs power >= 2 for a continuous activation, got {self.power}; use "
                f"ReLU() for 2."
            )

    @property
    def curvature(self) -> tuple[float, float]:
        return 0.0, 1.0 if self.power == 2 else math.inf

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jax.nn.relu(x) ** self.power) / self.power

    def activation(self, x: Layer) -> Layer:
        return jax.nn.relu(x) ** (self.power - 1)

    def energy_summands(self, x: Layer) -> Summands:
        return ((1 - 1 / self.power) * jax.nn.relu(x) ** self.power,)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return difference_of_powers(x, step, self.power, rectified=True)

    def conjugate(self, g: Layer) -> Scalar:
        dual = self.power / (self.power - 1)
        return jnp.sum(jnp.where(g >= 0, jnp.abs(g) ** dual / dual, jnp.inf))

    @property
    def pushes_outward(self) -> bool:
        return True


class GELU(AbstractLagrangian):
    r"""Gaussian error linear units, exact: $L(x) = \sum_i \Phi(x_i)$ with

    $$\Phi(x) = \tfrac14\left[x^2 + (x^2 - 1)\,\mathrm{erf}(x/\sqrt2) + x\sqrt{2/\pi}\,e^{-x^2/2}\right],$$

    so $g = \tfrac12 x\,(1 + \mathrm{erf}(x/\sqrt2))$. $\Phi'' \in [-0.1289, 1.1289]$: it is *not*
    convex. The tanh approximation of GELU is not the derivative of this function and is not
    offered.

    **Source:** arXiv 2406.12220, code of the authors; bounds in Hendrycks & Gimpel (arXiv
    1606.08415).
    """  # noqa: E501

    is_elementwise: ClassVar[bool] = True

    @property
    def curvature(self) -> tuple[float, float]:
        # GELU' has its extremes at -sqrt 2 and sqrt 2.
        tail = 0.5 * math.erfc(1.0)
        density = math.exp(-1.0) / math.sqrt(math.pi)
        return tail - density, 1 - tail + density

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return 0.25 * jnp.sum(_gelu_square(x) - gaussian_lobe(x))

    def activation(self, x: Layer) -> Layer:
        return _gelu(x)

    def energy_summands(self, x: Layer) -> Summands:
        return 0.25 * _gelu_square(x), 0.25 * gaussian_lobe(x)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return _unit_by_unit(self, x, step)

    @property
    def pushes_outward(self) -> bool:
        return True

    @property
    def third_derivative(self) -> float:
        return math.sqrt(2 / math.pi)


def _gelu_square(x: Layer) -> Layer:
    # x^2 (1 + erf) is written with erfc: for x << 0 the difference of two large numbers would be
    # left, or 0 times inf.
    return x * (x * jsp.erfc(-x * math.sqrt(0.5)))


@jax.checkpoint
def _gelu(x: Layer) -> Layer:
    # The way back computes the slope from x again: that costs less than to write and read what
    # autodiff would keep.
    return x * _normal_cdf(x)


def _normal_cdf(x: Layer) -> Layer:
    # erf, not the erfc of `jax.nn.gelu`: twice as fast in XLA and equal to rounding of the largest
    # term.
    return 0.5 * (1 + jsp.erf(x * jnp.sqrt(0.5).astype(x.dtype)))


class Exponential(AbstractTempered):
    r"""Exponential units: $L(x) = \tfrac1\beta \sum_i e^{\beta x_i}$, so $g = e^{\beta x}$.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is
        positive. In float32 the value overflows where $\beta x > 88$.

    **Source:** Demircigil et al. 2017 (arXiv 1702.01929).
    """

    is_elementwise: ClassVar[bool] = True

    beta: ScalarLike = 1.0

    @property
    def curvature(self) -> tuple[float, float]:
        return _signed(self.beta, math.inf)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jnp.exp(self.beta * x)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jnp.exp(self.beta * x)

    def energy_summands(self, x: Layer) -> Summands:
        z = jnp.maximum(self.beta * x, -SATURATED)
        return ((z - 1) * jnp.exp(z) / self.beta,)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return difference_of_exponentials(x, step, self.beta)

    def conjugate(self, g: Layer) -> Scalar:
        return if_convex(
            self.beta, jnp.sum(jnp.where(g >= 0, _entropy(g) - g, jnp.inf)) / self.beta
        )

    def most_activation(self, units: int) -> float:
        return float(units)


class Tanh(AbstractTempered):
    r"""Hyperbolic tangent units: $L(x) = \tfrac1\beta \sum_i \log\cosh(\beta x_i)$, so $g =
    \tanh(\beta x)$.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is
      positive.

    **Source:** Hopfield 1984 (graded responses).
    """

    is_elementwise: ClassVar[bool] = True

    beta: ScalarLike = 1.0

    @property
    def curvature(self) -> tuple[float, float]:
        return _signed(self.beta, float(self.beta))

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(log_cosh(self.beta * x)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jnp.tanh(self.beta * x)

    def energy_summands(self, x: Layer) -> Summands:
        return (tanh_energy(self.beta * x) / self.beta,)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return difference_of_log_cosh(x, step, self.beta)

    def conjugate(self, g: Layer) -> Scalar:
        # (1 + g) log(1 + g) + (1 - g) log(1 - g), of which the parts that are odd in g cancel near
        # 0.
        small = jnp.clip(g, -0.5, 0.5)
        near = 2 * small * jnp.arctanh(small) + jnp.log1p(-(small**2))
        far = jsp.xlog1py(1 + g, g) + jsp.xlog1py(1 - g, -g)
        inside = 0.5 * jnp.where(jnp.abs(g) < 0.5, near, far)
        return if_convex(
            self.beta, jnp.sum(jnp.where(jnp.abs(g) <= 1, inside, jnp.inf)) / self.beta
        )

    @property
    def pushes_outward(self) -> bool:
        return self.is_convex

    def most_activation(self, units: int) -> float:
        del units
        return 0.0

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return math.sqrt(math.prod(shape[1:]))

    @property
    def third_derivative(self) -> float:
        return float(self.beta) ** 2 * 4 / math.sqrt(27)


class Sigmoid(AbstractTempered):
    r"""Logistic units: $L(x) = \tfrac1\beta \sum_i \log(1 + e^{\beta x_i})$, so $g = 1/(1 +
    e^{-\beta x})$.

    **Arguments:**

    - `beta`: inverse temperature $\beta$, one number; the Lagrangian is convex where it is
      positive.

    **Source:** Hopfield 1984 (graded responses).
    """

    is_elementwise: ClassVar[bool] = True

    beta: ScalarLike = 1.0

    @property
    def curvature(self) -> tuple[float, float]:
        return _signed(self.beta, 0.25 * float(self.beta))

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return jnp.sum(jax.nn.softplus(self.beta * x)) / self.beta

    def activation(self, x: Layer) -> Layer:
        return jax.nn.sigmoid(self.beta * x)

    def energy_summands(self, x: Layer) -> Summands:
        return (logistic_energy(self.beta * x) / self.beta,)

    def difference(self, x: Layer, step: Layer) -> Wide:
        return difference_of_softplus(x, step, self.beta)

    def conjugate(self, g: Layer) -> Scalar:
        inside = (g >= 0) & (g <= 1)
        total = jnp.sum(jnp.where(inside, _entropy(g) + jsp.xlog1py(1 - g, -g), jnp.inf))
        return if_convex(self.beta, total / self.beta)

    def most_activation(self, units: int) -> float:
        return 0.5 * units

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        return math.sqrt(math.prod(shape[1:]))

    @property
    def third_derivative(self) -> float:
        return float(self.beta) ** 2 / math.sqrt(108)


def _unit_by_unit(lagrangian: AbstractLagrangian, x: Layer, step: Layer) -> Wide:
    """The sum of the differences of independent units, which that of their sums would lose."""
    value = jax.vmap(lagrangian)
    return wide(sum_in_pairs(value((x + step).ravel()) - value(x.ravel())))


def _signed(beta: ScalarLike, size: float) -> tuple[float, float]:
    """The bounds of a curvature that has the sign of beta."""
    if float(beta) > 0:
        return (0.0, abs(size))
    return (-abs(size), 0.0)


def _entropy(p: Layer) -> Layer:
    r"""$p \log p$, 0 at 0."""
    return jsp.xlogy(p, p)
