r"""Synapses: energies that couple the activations of one or more layers.

A synapse is a scalar function $E(g_1, g_2, \dots)$ of the activations that it joins, and sends the current
$-\partial E/\partial g_a$ into each of them; `HyperSynapse` takes any such function. A *bilinear* synapse carries
activity from a visible layer $v$ to a hidden layer $h$ by $W$ and back by $V$, which need not be $W^\top$. Its energy
is the symmetrised interaction

$$E(v, h) = -\tfrac12\left(h \cdot W v + v \cdot V h\right),$$

that is $-h \cdot W v$ for tied weights; its currents are $W v$ into the hidden and $V h$ into the visible layer. They
are minus the gradient of the energy exactly when $V = W^\top$.

Tokens are the first axis of an activation and channels the last; axes between them, if any, are a batch. In this
*token-major* layout both mixings of a batch and their weight gradients are plain 2-D matrix products without a
transpose.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._dtypes import make_of_floats, need_floats, of_floats
from hopmix._lagrangian import spread
from hopmix._rounding import state_magnitude
from hopmix._types import Energy, Layer, Scalar

Activations: TypeAlias = tuple[Any, ...]
"""One activation for each layer that a synapse joins; a layer whose activation is not known yet has `None`."""


class AbstractSynapse(eqx.Module):
    """An interaction of layers: its energy, and the current that it sends into each of them.

    Subclasses give `energy`; they override `current` where it is not minus the gradient, or has a faster form. Both
    refuse integers by a `ValueError`.

    - `is_explicit`: whether the current into a layer does not depend on the activation of that layer.
    - `takes_batch`: whether activations may be a token-major batch.
    """

    is_explicit: ClassVar[bool] = False
    takes_batch: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        make_of_floats(cls, ("energy", "current"))

    @abc.abstractmethod
    def energy(self, *activations: Layer) -> Energy:
        """The energy of the interaction at these activations; of a token-major batch, that of each example."""

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        r"""The sum of the magnitudes of all that `energy` adds up at these activations, of one example.

        By default $|E|$ and what relative errors of one unit can change in it, $\sum |g\,\partial E/\partial g|$, over
        the activations and the parameters.
        """
        parameters, rest = eqx.partition(self, eqx.is_inexact_array)
        energy = lambda inputs: eqx.combine(inputs[0], rest).energy(*inputs[1])
        return jnp.abs(self.energy(*activations)) + state_magnitude(energy, (parameters, activations))

    @of_floats
    def current(self, into: int, activations: Activations) -> Layer:
        r"""The current into the layer at position `into`, $-\partial E/\partial g$ where the synapse is conservative.

        Of an explicit synapse, the activation of the layer that the current enters may be `None`.
        """

        def total(g: Layer) -> Scalar:
            return jnp.sum(self.energy(*activations[:into], g, *activations[into + 1 :]))

        return -jax.grad(total)(activations[into])


class HyperSynapse(AbstractSynapse):
    r"""A many-body interaction given by any scalar function: $E(g_1, \dots, g_k) = f(g_1, \dots, g_k)$.

    **Arguments:**

    - `function`: $f$, from one activation for each joined layer to a number; an `equinox.Module` if it has parameters.

    **Source:** hypergraphs of Krotov 2021 (arXiv 2107.06446), Hoover et al. 2022 (HAMUX).
    """

    function: Callable[..., Scalar]

    def energy(self, *activations: Layer) -> Scalar:
        return self.function(*activations)


class Bias(AbstractSynapse):
    r"""A constant current into one layer: $E(g) = -\sum b\,g$.

    **Arguments:**

    - `bias`: $b$, of the rank of the layer and broadcast against it: (tokens, 1) for one number per token.

    It acts on the first of the layers it is connected with. Others, of the same rank, are only named: the bias counts
    as a part of what they send, so that stochastic depth drops it with them.

    **Raises:** `ValueError` for integers.
    """

    bias: Layer
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True

    def __check_init__(self):
        need_floats("`bias`", self.bias)

    def energy(self, *activations: Layer) -> Energy:
        return -inner(spread(self.bias, activations[0].ndim), activations[0], self.bias.ndim)

    def current(self, into: int, activations: Activations) -> Layer:
        del activations
        return jnp.zeros((1,) * self.bias.ndim, self.bias.dtype) if into else self.bias


class Dense(AbstractSynapse):
    r"""All-to-all coupling of two vectors: currents $W v$ and $V h$.

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, visible); the first connected layer is the visible one.

    **Source:** Krotov 2021 (arXiv 2107.06446).
    """

    coupling: Coupling
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True

    def energy(self, *activations: Float[Array, "_ *batch"]) -> Energy:
        return bilinear_energy(self, *activations, rank=1)

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        return bilinear_magnitude(self, *activations)

    def current(self, into: int, activations: Activations) -> Float[Array, "units *batch"]:
        v, h = activations
        return _mix_first(self.coupling.up, v) if into else _send_back(_mix_first, self.coupling, h)


class TokenMixing(AbstractSynapse):
    r"""Mixing over tokens, shared by all channels: currents $\sum_i W_{\alpha i} v_{iI}$ into the hidden and
    $\sum_\alpha V_{i\alpha} h_{\alpha I}$ into the visible layer.

    The visible layer has shape (tokens, channels), the hidden one (hidden, channels).

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, tokens).

    **Source:** arXiv 2406.12220, sections 2 and 5; Tolstikhin et al. 2021 (arXiv 2105.01601), equation 1.
    """

    coupling: Coupling
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True

    def energy(self, *activations: Float[Array, "_ *batch channels"]) -> Energy:
        return bilinear_energy(self, *activations)

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        return bilinear_magnitude(self, *activations)

    def current(self, into: int, activations: Activations) -> Float[Array, "units *batch channels"]:
        v, h = activations
        return _mix_first(self.coupling.up, v) if into else _send_back(_mix_first, self.coupling, h)


class ChannelMixing(AbstractSynapse):
    r"""Mixing over channels, shared by all tokens: currents $\sum_I W_{\beta I} v_{iI}$ into the hidden and
    $\sum_\beta V_{I\beta} h_{i\beta}$ into the visible layer.

    The visible layer has shape (tokens, channels), the hidden one (tokens, hidden).

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, channels).

    **Source:** arXiv 2406.12220, sections 2 and 5; Tolstikhin et al. 2021 (arXiv 2105.01601), equation 1.
    """

    coupling: Coupling
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True

    def energy(self, *activations: Float[Array, "tokens *batch _"]) -> Energy:
        return bilinear_energy(self, *activations)

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        return bilinear_magnitude(self, *activations)

    def current(self, into: int, activations: Activations) -> Float[Array, "tokens *batch units"]:
        v, h = activations
        return mix_last(self.coupling.up, v) if into else _send_back(mix_last, self.coupling, h)


# The reshapes matter: XLA's CPU backend is more than twice slower at the same products written with three axes.
def _mix_first(matrix: Float[Array, "out in"], x: Layer) -> Layer:
    return (matrix @ x.reshape(x.shape[0], -1)).reshape(matrix.shape[0], *x.shape[1:])


def mix_last(matrix: Float[Array, "out in"], x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
    """The matrix times the last axis of x."""
    # For the gradient of the matrix: XLA's CPU backend is 1.4 times as fast at x^T y as at y^T x where x is narrower,
    # and would turn the one into the other where it meets a transpose.
    wide = matrix.shape[0] > matrix.shape[1]
    turned = _apart(matrix.T if wide else matrix)
    rows = x.reshape(-1, x.shape[-1]) @ (turned if wide else turned.T)
    return rows.reshape(*x.shape[:-1], matrix.shape[0])


@jax.custom_jvp
def _apart(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """The same matrix, whose gradient is not fused with what becomes of it. (A barrier forwards would copy it.)"""
    return matrix


@_apart.defjvp
def _apart_jvp(primals, tangents):
    return primals[0], jax.lax.optimization_barrier(tangents[0])


def _send_back(mix: Callable[..., Layer], coupling: Coupling, h: Layer) -> Layer:
    """The current $V h$; of tied weights without forming $V$, which a loop of steps would do again in each."""
    if coupling.breaking is None:
        return jax.lax.stop_gradient(coupling.tie) * mix(coupling.up.T, h)
    return mix(coupling.down, h)


def bilinear_energy(synapse: AbstractSynapse, *activations: Layer, rank: int = 2) -> Energy:
    """The symmetrised interaction of two layers of this rank, from the currents between them."""
    v, h = activations
    upwards, downwards = synapse.current(1, (v, None)), synapse.current(0, (None, h))
    return -0.5 * (inner(h, upwards, rank) + inner(v, downwards, rank))


def bilinear_magnitude(synapse: AbstractSynapse, *activations: Layer) -> Scalar:
    r"""The magnitudes of all single products of `bilinear_energy`, $\tfrac12(|h| \cdot |W||v| + |v| \cdot |V||h|)$."""
    positive = lambda leaf: jnp.abs(leaf) if eqx.is_inexact_array(leaf) else leaf
    synapse, activations = jax.tree.map(positive, (synapse, activations))
    return -synapse.energy(*activations)


def inner(a: Layer, b: Layer, rank: int) -> Energy:
    """The inner product of two layers of this rank, or of each example of a token-major batch of them."""
    batch = range(1, 1 + a.ndim - rank)
    return jnp.sum(a * b, axis=tuple(axis for axis in range(a.ndim) if axis not in batch))
