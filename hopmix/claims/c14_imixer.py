r"""C14: when iMixer's fixed-point iteration contracts.

Its token mixing inverts $1 - F$ by iterating $z \leftarrow z_0 + F(z)$ with $F(z) =
V_2\,\sigma(V_1\,\sigma(z) + v_1) + v_2$ and $\sigma$ = GELU. Both matrices are scaled to spectral
norm $c = 0.9$, which is not small enough: GELU is steeper than 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._lagrangian import GELU, AbstractLagrangian
from hopmix._types import PRNGKey, Scalar, ScalarLike
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._numbers import normals

INTERNAL = 4
HIDDEN = 6
UNITS = GELU()
STEEPEST = math.sqrt(2)  # where GELU has its largest slope
PUBLISHED = 0.9
"""The spectral norm $c$ that iMixer is trained with, for which $(cK)^2 = 1.0323$ is above 1."""


class ResidualMap(NamedTuple):
    r"""$F(z) = V_2\,\sigma(V_1\,\sigma(z) + v_1) + v_2$.

    **Arguments:**

    - `first`, `first_bias`: $V_1$ of shape (hidden, internal) and $v_1$.
    - `second`, `second_bias`: $V_2$ of shape (internal, hidden) and $v_2$.

    **Source:** Ota & Taki 2023 (arXiv 2304.13061).
    """

    first: Float[Array, "hidden internal"]
    first_bias: Float[Array, " hidden"]
    second: Float[Array, "internal hidden"]
    second_bias: Float[Array, " internal"]

    def __call__(self, z: Float[Array, " internal"]) -> Float[Array, " internal"]:
        hidden = self.first @ UNITS.activation(z) + self.first_bias
        return self.second @ UNITS.activation(hidden) + self.second_bias


def steepest_slope(units: AbstractLagrangian) -> float:
    r"""The Lipschitz constant of an activation, the largest $|L''|$; of GELU $K = 1 -
    \tfrac12\mathrm{erfc}(1) + e^{-1}/\sqrt\pi = 1.12890\ldots$"""
    return max(map(abs, units.curvature))


def contraction_factor(residual: ResidualMap) -> Scalar:
    r"""The bound $q = K^2\,|V_1|\,|V_2|$ on the Lipschitz constant of $F$, in spectral norms.

    $1 - F$ is certain to be invertible, and the iteration to converge, where $q < 1$; with $|V_1| =
    |V_2| = c$ that is $c < 1/K = 0.8858\ldots$ Biases can be chosen so that the bound is attained.
    """
    norms = jnp.linalg.norm(residual.first, 2) * jnp.linalg.norm(residual.second, 2)
    return steepest_slope(UNITS) ** 2 * norms


def steepest_biases(
    first: Float[Array, "hidden internal"], second: Float[Array, "internal hidden"]
) -> tuple[ResidualMap, Float[Array, " internal"]]:
    r"""The residual map with biases for which every GELU is steepest at one point, and that point,
    $z = \sqrt2$.

    The Jacobian there is $K^2\,V_2V_1$.
    """
    z = jnp.full(first.shape[1], STEEPEST)
    bias = STEEPEST - first @ UNITS.activation(z)
    return ResidualMap(first, bias, second, jnp.zeros(len(second))), z


def draw(key: PRNGKey) -> tuple[ResidualMap, Scalar, Float[Array, " internal"]]:
    r"""A random residual map with both spectral norms $c$, that $c$ uniform in (0.1, 0.88), and a
    random state.
    """
    shapes = ((HIDDEN, INTERNAL), (INTERNAL, HIDDEN), (HIDDEN,), (INTERNAL,), (INTERNAL,))
    first, second, *others = normals(key, shapes)
    first_bias, second_bias, state = (2 * part for part in others)
    c = jr.uniform(key, minval=0.1, maxval=0.88)
    return ResidualMap(with_norm(first, c), first_bias, with_norm(second, c), second_bias), c, state


def with_norm(
    matrix: Float[Array, "rows columns"], norm: ScalarLike
) -> Float[Array, "rows columns"]:
    """The multiple of a matrix that has this spectral norm."""
    return norm * matrix / jnp.linalg.norm(matrix, 2)


def convergence_excess(
    residual: ResidualMap, limit: Float[Array, " internal"], steps: int = 60
) -> Scalar:
    r"""By how much the iteration misses the promised rate, $|z_n - z^*| \le \frac{q^n}{1 - q}|z_1 -
    z_0|$.

    The worst over the steps, relative to $|z_1 - z_0|$. The problem is posed backwards: $z_0 = z^*
    - F(z^*)$ has the given limit $z^*$.
    """
    start = limit - residual(limit)
    q = contraction_factor(residual)
    states = jax.lax.scan(lambda z, _: (start + residual(z), z), start, None, length=steps)[1]
    first = jnp.linalg.norm(states[1] - start)
    promised = q ** jnp.arange(float(steps)) / (1 - q)
    return jnp.max(jnp.linalg.norm(states - limit[None], axis=1) / first - promised)


def attainment_gap(matrix: Float[Array, "hidden internal"], c: ScalarLike) -> Scalar:
    r"""How far the steepest place of a map with aligned matrices, $V_2 = V_1^\top$ of norm $c$, is
    from $(cK)^2$.
    """
    first = with_norm(matrix, c)
    steep, z = steepest_biases(first, first.T)
    return jnp.abs(jnp.linalg.norm(jax.jacfwd(steep)(z), 2) / (c * steepest_slope(UNITS)) ** 2 - 1)


def gaps(key: PRNGKey) -> Float[Array, " parts"]:
    """The excess over the bound and over the rate, and the gaps to attainment, of one random
    map.
    """
    residual, c, z = draw(key)
    slope = jnp.linalg.norm(jax.jacfwd(residual)(z), 2) - contraction_factor(residual)
    attained = [attainment_gap(residual.first, norm) for norm in (c, PUBLISHED)]
    return jnp.stack([slope, convergence_excess(residual, z), *attained])


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst violation over random maps; 0 where bound and rate are kept and the bound is
    attained, at the published norm too, where it is above 1."""
    found = jax.jit(lambda keys: jax.lax.map(gaps, keys, batch_size=500))(jr.split(key, examples))
    return Measurement(float(jnp.maximum(jnp.max(found), 0.0)), 1e-12, examples)


CLAIM = Claim(
    id="C14",
    statement="iMixer's residual map with spectral norms c contracts by the factor (1.1289 c)^2, "
    "attained for "
    "some biases: c < 0.8858 guarantees convergence at that rate, the published c = 0.9 does not",
    source="Ota & Taki 2023 (arXiv 2304.13061) for the map; the constant and the "
    "counter-example: hopmix",
    status="proved",
    page="C14-imixer.md",
    test="test_c14_imixer.py",
    what="largest excess over the bounds, or gap to the bound where it is attained",
    measure=measure,
)
