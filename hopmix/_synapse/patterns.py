"""HopfieldMemory: stored patterns as a synapse of one layer."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._assumptions import Assumption, is_known
from hopmix._lagrangian import AbstractLagrangian
from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.norms import Disc, between
from hopmix._synapse.base import AbstractSynapse
from hopmix._types import Layer, Scalar


class HopfieldMemory(AbstractSynapse):
    r"""Stored patterns $\xi_\mu$ that attract an activation: $E(g) = -L(s)$ with the similarities
    $s_\mu = \xi_\mu \cdot g$, or $s_\mu = -\tfrac12 |\xi_\mu - g|^2$.

    The *separation* $L$ is any Lagrangian: `Quadratic` is the classical memory, `RePU(n)` the dense
    one (rectified polynomial of degree n), `Exponential` the exponential one, `Softmax` log-sum-exp
    (modern Hopfield network), and `LogSumReLU` with distances the log-sum-ReLU memory. It is what a
    hidden layer with one unit per pattern leaves when it is eliminated.

    **Arguments:**

    - `patterns`: of shape (patterns, *shape of the layer).
    - `separation`: $L$.
    - `similarity`: `"dot"` or `"distance"`.

    **Raises:** `ValueError` for integers, for another similarity, and for rectified polynomials of
    distances, which are never positive: they would be silent.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164), 2020 (arXiv 2008.06996); Demircigil et
    al. 2017 (arXiv 1702.01929); Ramsauer et al. 2020 (arXiv 2008.02217); log-sum-ReLU: arXiv
    2506.10801.
    """

    patterns: Float[Array, "patterns ..."]
    separation: AbstractLagrangian
    similarity: Literal["dot", "distance"] = eqx.field(static=True, default="dot")
    takes_batch: ClassVar[bool] = False

    def __check_init__(self):
        need_floats("`patterns`", self.patterns)
        if self.similarity not in ("dot", "distance"):
            raise ValueError(f'similarity must be "dot" or "distance", got {self.similarity!r}.')
        if (
            self.similarity == "distance"
            and self.separation.is_rectified
            and is_known(self.separation)
        ):
            raise ValueError(
                f"{type(self.separation).__name__} of distances is zero everywhere; use dot "
                f"products, or `LogSumReLU`, "
                "`Softmax` or `Exponential` of distances."
            )

    def similarities(self, g: Layer) -> Float[Array, " patterns"]:
        r"""The similarity of an activation to each pattern.

        **Raises:** `ValueError` for integers, and for another shape than that of a pattern.
        """
        need_floats("The activation", g)
        if self.patterns.shape[1:] != g.shape:
            raise ValueError(
                f"Patterns of shape {self.patterns.shape[1:]} do not fit a layer of shape "
                f"{g.shape}."
            )
        if self.similarity == "dot":
            return jnp.tensordot(self.patterns, g, g.ndim)
        return -0.5 * jnp.sum((self.patterns - g[None]) ** 2, axis=tuple(range(1, g.ndim + 1)))

    def energy(self, *activations: Layer) -> Scalar:
        (g,) = activations
        return -self.separation(self.similarities(g))

    @property
    def made_of(self) -> tuple[AbstractLagrangian, ...]:
        return (self.separation,)

    def conservative(self, name: str, layers: Sequence[jax.ShapeDtypeStruct]) -> list[Assumption]:
        """It is, for a separation that is known."""
        del layers
        reason = "its current is minus the derivative of its energy"
        return [Assumption(f"synapse {name!r} is conservative", "holds", reason)]

    def own_concavity(self, shape: tuple[int, ...]) -> float:
        """Convex functions of dot products are convex; distances have the curvature -1 for each
        unit of activation.
        """
        del shape
        if not self.separation.is_convex:
            return math.inf
        if self.similarity == "dot":
            return 0.0
        return self.separation.most_activation(len(self.patterns))

    def own_disc(self, shape: tuple[int, ...], radius: float) -> Disc:
        del shape, radius
        patterns = np.asarray(self.patterns, float).reshape(len(self.patterns), -1)
        if self.similarity == "dot":
            low, high = self.separation.curvature
            square = float(np.linalg.norm(patterns, 2) ** 2)
            return between(min(low, 0.0) * square, max(high, 0.0) * square)
        return self.separation.distance_disc(patterns)
