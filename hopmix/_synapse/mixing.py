"""Mixing: bilinear synapses, all-to-all or along one axis of a layer."""

from collections.abc import Callable
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._synapse.base import AbstractCoupled, Activations, bilinear_energy
from hopmix._types import Energy, Layer


class Dense(AbstractCoupled):
    r"""All-to-all coupling of two vectors: currents $W v$ and $V h$.

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, visible); the first connected layer is the visible one.

    **Source:** Krotov 2021 (arXiv 2107.06446).
    """

    is_matrix: ClassVar[bool] = True

    def energy(self, *activations: Float[Array, "_ *batch"]) -> Energy:
        return bilinear_energy(self, *activations, rank=1)

    def current(self, into: int, activations: Activations) -> Float[Array, "units *batch"]:
        v, h = activations
        if into:
            return _mix_first(self.coupling.up, v)
        return _apply_down(_mix_first, self.coupling, h)


class TokenMixing(AbstractCoupled):
    r"""Mixing over tokens, shared by all channels: currents $\sum_i W_{\alpha i} v_{iI}$ into the
    hidden and $\sum_\alpha V_{i\alpha} h_{\alpha I}$ into the visible layer.

    The visible layer has shape (tokens, channels), the hidden one (hidden, channels).

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, tokens).

    **Source:** arXiv 2406.12220, sections 2 and 5; Tolstikhin et al. 2021 (arXiv 2105.01601),
    equation 1.
    """

    is_matrix: ClassVar[bool] = True

    def energy(self, *activations: Float[Array, "_ *batch channels"]) -> Energy:
        return bilinear_energy(self, *activations)

    def current(self, into: int, activations: Activations) -> Float[Array, "units *batch channels"]:
        v, h = activations
        if into:
            return _mix_first(self.coupling.up, v)
        return _apply_down(_mix_first, self.coupling, h)


class ChannelMixing(AbstractCoupled):
    r"""Mixing over channels, shared by all tokens: currents $\sum_I W_{\beta I} v_{iI}$ into the
    hidden and $\sum_\beta V_{I\beta} h_{i\beta}$ into the visible layer.

    The visible layer has shape (tokens, channels), the hidden one (tokens, hidden).

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, channels).

    **Source:** arXiv 2406.12220, sections 2 and 5; Tolstikhin et al. 2021 (arXiv 2105.01601),
    equation 1.
    """

    is_matrix: ClassVar[bool] = True
    units_last: ClassVar[bool] = True

    def energy(self, *activations: Float[Array, "tokens *batch _"]) -> Energy:
        return bilinear_energy(self, *activations)

    def current(self, into: int, activations: Activations) -> Float[Array, "tokens *batch units"]:
        v, h = activations
        if into:
            return mix_last(self.coupling.up, v)
        return _apply_down(mix_last, self.coupling, h)


# The reshapes matter: XLA's CPU backend is more than twice slower at the same products written with
# three axes.
def _mix_first(matrix: Float[Array, "out in"], x: Layer) -> Layer:
    return (matrix @ x.reshape(x.shape[0], -1)).reshape(matrix.shape[0], *x.shape[1:])


def mix_last(
    matrix: Float[Array, "out in"], x: Float[Array, "*rows in"]
) -> Float[Array, "*rows out"]:
    """The matrix times the last axis of x."""
    # For the gradient of the matrix: XLA's CPU backend is 1.4 times as fast at x^T y as at y^T x
    # where x is narrower, and would turn the one into the other where it meets a transpose.
    wide = matrix.shape[0] > matrix.shape[1]
    transposed = _gradient_barrier(matrix.T if wide else matrix)
    rows = x.reshape(-1, x.shape[-1]) @ (transposed if wide else transposed.T)
    return rows.reshape(*x.shape[:-1], matrix.shape[0])


@jax.custom_jvp
def _gradient_barrier(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """The same matrix, whose gradient is not fused with what becomes of it. (A barrier forwards
    would copy it.)
    """
    return matrix


@_gradient_barrier.defjvp
def _apart_jvp(primals, tangents):
    return primals[0], jax.lax.optimization_barrier(tangents[0])


def _apply_down(mix: Callable[..., Layer], coupling: Coupling, h: Layer) -> Layer:
    """The current $V h$; of tied weights without forming $V$, which a loop of steps would do again
    in each.
    """
    if coupling.breaking is None:
        return jax.lax.stop_gradient(coupling.tie) * mix(coupling.up.T, h)
    return mix(coupling.down, h)
