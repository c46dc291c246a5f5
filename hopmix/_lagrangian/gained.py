"""Gained: elementwise units that send out their activation with a gain each."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from hopmix._lagrangian.base import AbstractLagrangian, broadcast_to_batch
from hopmix._types import Layer, Scalar


class Gained(AbstractLagrangian):
    r"""Elementwise units with a gain each: $L(x) = \sum_\alpha D_\alpha \Phi(x_\alpha)$, so $g =
    D\,\phi(x)$.

    With tied weights $W$ behind it the current $W^\top D\,\phi$ is that of the down-weights $V =
    W^\top D$.

    **Arguments:**

    - `lagrangian`: $\sum_\alpha \Phi(x_\alpha)$, elementwise.
    - `gains`: $D$, of the rank of the layer and broadcast against it.

    **Raises:** `ValueError` for units that are joined.

    **Source:** `theory/C10-pseudo-energy.md`.
    """

    is_elementwise: ClassVar[bool] = True
    lagrangian: AbstractLagrangian
    gains: Layer

    def __check_init__(self):
        if not all(part.is_elementwise for part in self.lagrangian.parts):
            raise ValueError(
                "Gained needs elementwise units; of units that are joined all gains are equal: "
                "use `*`."
            )

    @property
    def made_of(self) -> tuple[AbstractLagrangian, ...]:
        return (self.lagrangian,)

    @property
    def curvature(self) -> tuple[float, float]:
        gains = np.asarray(self.gains, float)
        lowest = (float(gains.min()) * self.lagrangian).curvature
        highest = (float(gains.max()) * self.lagrangian).curvature
        return min(lowest[0], highest[0]), max(lowest[1], highest[1])

    def __call__(self, x: Layer) -> Scalar:
        values = jax.vmap(self.lagrangian)(x.ravel()).reshape(x.shape)
        return jnp.sum(broadcast_to_batch(self.gains, x.ndim) * values)

    def activation(self, x: Layer) -> Layer:
        return broadcast_to_batch(self.gains, x.ndim) * self.lagrangian.activation(x)
