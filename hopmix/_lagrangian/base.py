r"""Lagrangians: convex scalars whose gradients are activation functions.

A layer of neurons with state $x$ is described by a Lagrangian $L(x)$. Its activation is $g =
\partial L/\partial x$, and its energy is the Legendre transform $x \cdot g - L(x)$, whose
derivative with respect to $g$ is $x$. Every class here is callable for $L$ and has a closed form
for $g$; no derivative with respect to a parameter is overridden, so parameters that are arrays
differentiate correctly through energies.

Lagrangians add and scale: `ReLU() + 0.1 * Quadratic()` is the leaky rectifier.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from hopmix._numerics.dtypes import make_of_floats, need_floats, of_floats
from hopmix._numerics.norms import UNKNOWN, Disc
from hopmix._numerics.special import (
    Wide,
    add,
    in_single,
    wide,
)
from hopmix._types import Layer, Scalar, ScalarLike

Summands = tuple[Float[Array, "..."], ...]
"""Arrays whose entries add up to an energy."""


class AbstractLagrangian(eqx.Module):
    """A scalar function $L$ of the state of one layer.

    Subclasses give `__call__` (the value), `activation` (its gradient in closed form) and
    `curvature`; `conjugate` and `energy_summands` where a closed form is known. All refuse integers
    by a `ValueError`: these overflow and truncate without a word. All else has a safe default,
    which is that nothing is known; what certificates ask for is believed of the Lagrangians of
    hopmix alone (`hopmix._assumptions`).

    - `is_elementwise`: whether it is a sum over single units. Others take a token-major batch only
        if they have `axes` that allow it; what does not say so is taken to join all of its units.
    - `is_rectified`: whether it is zero, and its activation too, where no unit is positive.
    - `is_norm`: whether what it sends is divided by a length of the groups of its state.
    - `has_exact_curvature`: whether its curvatures are attained, or only bounds.
    """

    is_elementwise: ClassVar[bool] = False
    is_rectified: ClassVar[bool] = False
    is_norm: ClassVar[bool] = False
    has_exact_curvature: ClassVar[bool] = True

    __array_ufunc__ = None  # so that a NumPy number times a Lagrangian asks the Lagrangian

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        make_of_floats(
            cls, ("__call__", "activation", "conjugate", "energy_summands", "difference")
        )
        # A closed form belongs to its own value and activation: who replaces one of these has
        # another energy.
        if {"__call__", "activation"} & set(vars(cls)):
            for name in {"energy_summands", "difference"} - set(vars(cls)):
                setattr(cls, name, AbstractLagrangian.__dict__[name])

    @abc.abstractmethod
    def __call__(self, x: Layer) -> Scalar:
        """The value $L(x)$; `x` may have any shape."""

    @abc.abstractmethod
    def activation(self, x: Layer) -> Layer:
        r"""The activation $g = \partial L/\partial x$, of the shape of `x`."""

    @property
    @abc.abstractmethod
    def curvature(self) -> tuple[float, float]:
        r"""Bounds $(\mu, \ell)$ on the eigenvalues of the Hessian $H = \partial^2 L/\partial x^2$
        over all states.

        $L$ is convex where $\mu \ge 0$; otherwise it is weakly convex with constant $-\mu$. The
        activation is Lipschitz with $\max(|\mu|, |\ell|)$. Parameters must be concrete numbers.
        """

    @property
    def is_convex(self) -> bool:
        """Whether $L$ is convex everywhere; parameters must be concrete numbers."""
        return self.curvature[0] >= 0

    @of_floats
    def hessian_vector_product(self, x: Layer, v: Layer) -> Layer:
        r"""$H(x)\,v$ with $H = \partial^2 L/\partial x^2$, without forming $H$.

        **Arguments:**

        - `x`, `v`: of one shape, that of the layer.
        """
        return jax.jvp(self.activation, (x,), (v,))[1]

    def energy_summands(self, x: Layer) -> Summands:
        r"""Arrays whose entries add up to the layer energy $x \cdot g - L(x)$.

        By default $x \odot g$ and $-L(x)$, two large numbers where $g$ saturates or is normalised.
        A closed form says the same without their difference.
        """
        return x * self.activation(x), -self(x)

    @of_floats
    @in_single
    def energy(self, x: Layer) -> Scalar:
        r"""The layer energy $x \cdot g - L(x)$ at $g = L'(x)$, by `energy_summands`."""
        first, *others = map(jnp.sum, self.energy_summands(x))
        return sum(others, first)

    def energy_magnitude(self, x: Layer) -> Scalar:
        """The sum of the magnitudes of all that `energy` adds up; its rounding is relative to
        this.
        """
        first, *others = map(jnp.abs, self.energy_summands(x))
        return sum(map(jnp.sum, others), jnp.sum(first))

    def difference(self, x: Layer, step: Layer) -> Wide:
        r"""$L(x + d) - L(x)$ for a step $d$, as a number that may be out of the range of its dtype.

        By default the difference of the two values; a closed form keeps the sign where both
        overflow, or where the difference is lost in them.
        """
        return wide(self(x + step) - self(x))

    def conjugate(self, g: Layer) -> Scalar:
        r"""The convex conjugate $L^*(g) = \sup_x\, [x \cdot g - L(x)]$, infinite outside its
        domain.

        At $g = L'(x)$ it is the layer energy $x \cdot g - L(x)$ if $L$ is convex. It is infinite
        everywhere for a convex Lagrangian turned concave by a negative parameter. Of groups that
        must sum to something, the sum is checked up to the square root of the rounding unit.

        **Arguments:**

        - `g`: of the shape of the layer.

        **Raises:** `NotImplementedError` where no closed form is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed convex conjugate here.")

    @property
    def parts(self) -> "tuple[AbstractLagrangian, ...]":
        """The Lagrangians that this one is made of by `+` and `*`; itself if it is not composed."""
        return (self,)

    def __add__(self, other: "AbstractLagrangian") -> "Sum":
        if isinstance(other, AbstractLagrangian):
            return Sum((*self._terms, *other._terms))
        return NotImplemented

    def __mul__(self, factor: ScalarLike) -> "Scaled":
        if isinstance(factor, AbstractLagrangian):
            return NotImplemented
        return Scaled(factor if isinstance(factor, jax.Array) else float(factor), self)

    __rmul__ = __mul__

    @property
    def _terms(self) -> "tuple[AbstractLagrangian, ...]":
        return (self,)

    # ---- What certificates ask -------------------------------------------------------------------

    @property
    def made_of(self) -> "tuple[AbstractLagrangian, ...]":
        """The Lagrangians that it is a function of."""
        return ()

    @property
    def divisor(self) -> ScalarLike:
        """What it divides by."""
        return 1.0

    def jumps(self, tiny: float) -> list[str]:
        """Where the activation is known not to be continuous; `tiny` is the smallest normal number
        of the precision.
        """
        del tiny
        return []

    @property
    def pushes_outward(self) -> bool:
        r"""Whether $x \cdot L'(x) \ge 0$ is known everywhere."""
        return False

    def softness(self, x: np.ndarray) -> float:
        """The least softness of its groups at a state (`hopmix._certificate.softness`); 0 where
        none is known.
        """
        del x
        return 0.0

    def stays_soft(self, shape: tuple[int, ...]) -> bool:
        """Whether no state of this shape becomes less soft as it is pushed along its activation."""
        del shape
        return False

    def most_activation(self, units: int) -> float:
        """The largest sum of activations of a vector that has no positive entry; infinite where it
        is not known.
        """
        del units
        return math.inf

    def activation_radius(self, shape: tuple[int, ...]) -> float:
        """The largest Euclidean norm of the activation of one token of a layer; infinite where it
        is not known.
        """
        del shape
        return math.inf

    def distance_disc(self, patterns: Float[np.ndarray, "patterns visible"]) -> Disc:
        r"""A disc around the mean Hessians of $L(s)$ with $s_\mu = -\tfrac12 |\xi_\mu - g|^2$, with
        respect to $g$.
        """
        del patterns
        return UNKNOWN

    @property
    def third_derivative(self) -> float:
        """A bound on the third derivative, a trilinear form of Euclidean vectors, over all states;
        or infinity.
        """
        return math.inf

    def third_derivative_near(self, x: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """A bound on the third derivative within these distances of a state."""
        del x
        return np.full_like(reach, self.third_derivative)


class AbstractTempered(AbstractLagrangian):
    r"""A Lagrangian with an inverse temperature, $L(x) = f(\beta x)/\beta$."""

    beta: eqx.AbstractVar[ScalarLike]

    def __check_init__(self):
        need_number(f"The beta of {type(self).__name__}", self.beta)

    @property
    def divisor(self) -> ScalarLike:
        return self.beta


class Sum(AbstractLagrangian):
    r"""The sum of Lagrangians, $L(x) = \sum_k L_k(x)$, so $g = \sum_k L_k'(x)$; made by `+`.

    **Arguments:**

    - `terms`: the $L_k$.
    """

    terms: tuple[AbstractLagrangian, ...]
    has_exact_curvature: ClassVar[bool] = False

    @property
    def curvature(self) -> tuple[float, float]:
        lowest, highest = zip(*(term.curvature for term in self.terms))
        return sum(lowest), sum(highest)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return sum((term(x) for term in self.terms[1:]), self.terms[0](x))

    def activation(self, x: Layer) -> Layer:
        return sum((term.activation(x) for term in self.terms[1:]), self.terms[0].activation(x))

    def energy_summands(self, x: Layer) -> Summands:
        return tuple(summand for term in self.terms for summand in term.energy_summands(x))

    def difference(self, x: Layer, step: Layer) -> Wide:
        return add(tuple(term.difference(x, step) for term in self.terms))

    @property
    def parts(self) -> tuple[AbstractLagrangian, ...]:
        return tuple(part for term in self.terms for part in term.parts)

    @property
    def made_of(self) -> tuple[AbstractLagrangian, ...]:
        return self.terms

    @property
    def _terms(self) -> tuple[AbstractLagrangian, ...]:
        return self.terms


class Scaled(AbstractLagrangian):
    r"""A multiple of a Lagrangian, $c\,L(x)$, so $g = c\,L'(x)$; made by `*`. The factor may be
    learnable.

    **Arguments:**

    - `factor`: $c$, one number.
    - `lagrangian`: $L$.
    """

    factor: ScalarLike
    lagrangian: AbstractLagrangian

    def __check_init__(self):
        need_number("The factor of a Lagrangian", self.factor)

    @property
    def curvature(self) -> tuple[float, float]:
        factor = float(self.factor)
        if factor == 0:
            return 0.0, 0.0  # not 0 * inf
        ends = [factor * end for end in self.lagrangian.curvature]
        return min(ends), max(ends)

    @in_single
    def __call__(self, x: Layer) -> Scalar:
        return self.factor * self.lagrangian(x)

    def activation(self, x: Layer) -> Layer:
        return self.factor * self.lagrangian.activation(x)

    def energy_summands(self, x: Layer) -> Summands:
        return tuple(self.factor * summand for summand in self.lagrangian.energy_summands(x))

    def difference(self, x: Layer, step: Layer) -> Wide:
        mantissa, exponent = self.lagrangian.difference(x, step)
        return Wide(self.factor * mantissa, exponent)

    def conjugate(self, g: Layer) -> Scalar:
        some = jnp.where(self.factor == 0, 1, self.factor)
        nothing = jnp.where(jnp.any(g != 0), jnp.inf, 0).astype(g.dtype)
        positive = if_convex(self.factor, some * self.lagrangian.conjugate(g / some))
        return jnp.where(self.factor == 0, nothing, positive)

    @property
    def parts(self) -> tuple[AbstractLagrangian, ...]:
        return self.lagrangian.parts

    @property
    def made_of(self) -> tuple[AbstractLagrangian, ...]:
        return (self.lagrangian,)


def if_convex(parameter: ScalarLike, conjugate: Scalar) -> Scalar:
    """A conjugate where the parameter that decides about convexity is positive; infinity where it
    is negative.
    """
    return jnp.where(parameter < 0, jnp.inf, conjugate)


def need_number(name: str, value: ScalarLike):
    """Refuse an elementwise parameter: the sum over a layer would no longer have the activation as
    its gradient. Refuse an array of integers too.

    **Raises:** `ValueError`.
    """
    need_floats(name, value)
    if jnp.ndim(value):
        raise ValueError(
            f"{name} must be one number, got shape {jnp.shape(value)}; an elementwise scale is "
            f"an `Affine` of the "
            "layer, and `jax.vmap` or `eqx.filter_vmap` makes several Lagrangians."
        )


def broadcast_to_batch(parameter: Shaped[Array, "..."], ndim: int) -> Shaped[Array, "..."]:
    """A parameter of the rank of one example, with the axes of a token-major batch put in after its
    first axis.
    """
    return parameter.reshape(
        parameter.shape[:1] + (1,) * (ndim - parameter.ndim) + parameter.shape[1:]
    )
