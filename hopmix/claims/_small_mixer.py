"""A small mixer with weights of any symmetry: what the claims about conservative and broken blocks
are measured on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm
from hopmix._neurons import Neurons
from hopmix._synapse import ChannelMixing, TokenMixing
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._mixer import BRANCHES, NO_BIASES, mixer_memory
from hopmix.claims._numbers import in_batches, normals

TOKENS = 3
CHANNELS = 4
HIDDEN = 5

Couple = Callable[[Float[Array, "hidden visible"], Float[Array, "visible hidden"]], Coupling]
"""Makes a coupling from up-weights and independent Gaussian numbers."""


def gained(up: Float[Array, "hidden visible"], noise: Float[Array, "visible hidden"]) -> Coupling:
    r"""$V = W^\top D$ with Gaussian gains $D$ of either sign."""
    return Coupling.from_weights(up, up.T * noise[:1])


def free(up: Float[Array, "hidden visible"], noise: Float[Array, "visible hidden"]) -> Coupling:
    r"""$V$ independent of $W$."""
    return Coupling.from_weights(up, noise)


class Weights(NamedTuple):
    """Gaussian numbers for a `small_mixer`: up-weights and as many others for each branch, and two
    biases.
    """

    token: Float[Array, "hidden tokens"]
    token_noise: Float[Array, "tokens hidden"]
    channel: Float[Array, "hidden channels"]
    channel_noise: Float[Array, "channels hidden"]
    up: Float[Array, "hidden 1"]
    down: Float[Array, "1 channels"]


def draw_weights(
    key: PRNGKey, states: int
) -> tuple[Weights, Float[Array, "{states} tokens channels"]]:
    """Gaussian weights, and states to go with them."""
    shapes = (
        (HIDDEN, TOKENS),
        (TOKENS, HIDDEN),
        (HIDDEN, CHANNELS),
        (CHANNELS, HIDDEN),
        (HIDDEN, 1),
        (1, CHANNELS),
    )
    shapes = (*shapes, (states, TOKENS, CHANNELS))
    *weights, x = normals(key, shapes)
    return Weights(*weights), x


def small_mixer(
    weights: Weights,
    couple: Couple,
    *,
    visible: Neurons | None = None,
    hidden: AbstractLagrangian | None = None,
    bias: bool = False,
    leak: float = 1.0,
) -> Block:
    """Token and channel mixing with given weights; a joint norm and GELU units unless others are
    given.
    """
    couplings = {
        "token": couple(weights.token, weights.token_noise),
        "channel": couple(weights.channel, weights.channel_noise),
    }
    memory = mixer_memory(
        Neurons(LayerNorm(), (TOKENS, CHANNELS)) if visible is None else visible,
        GELU() if hidden is None else hidden,
        couplings,
        {"token_up": weights.up, "channel_down": weights.down} if bias else NO_BIASES,
    )
    return derive_block(memory, BRANCHES, leak=leak)


def map_examples(
    draw: Callable[[PRNGKey], Any], gap: Callable[[Any], Scalar], key: PRNGKey, examples: int
) -> Float[Array, " {examples}"]:
    """A gap of each of many random examples, in bounded memory."""
    # Two programs: XLA would copy the drawing of random numbers, slow to compile, into every place
    # that uses them.
    return in_batches(gap, jax.jit(jax.vmap(draw))(jr.split(key, examples)))


def mixing_of(block: Block, name: str) -> TokenMixing | ChannelMixing:
    """The synapse of one branch."""
    synapse = block.potential.memory.synapses[name]
    assert isinstance(synapse, TokenMixing | ChannelMixing)
    return synapse


def gain_potential(block: Block, g: Layer) -> Scalar:
    r"""$\sum_\alpha D_\alpha \Phi(h_\alpha)$, the energy of a `small_mixer` of `gained` weights up
    to its sign.

    The gains are read off the weights; biases into hidden units are part of $h$, those into visible
    ones add $b\,g$.
    """
    outputs = {"x": g}
    total = jnp.zeros((), g.dtype)
    memory = block.potential.memory
    for name, axis in (("token", 0), ("channel", 1)):
        coupling = mixing_of(block, name).coupling
        lagrangian = memory.neurons[name].lagrangian
        value = jnp.vectorize(lagrangian)(memory.current(name, outputs))
        total = total + jnp.sum(
            value * jnp.expand_dims(coupling.down[0] / coupling.up[:, 0], 1 - axis)
        )
    down = memory.synapses.get("channel_down")
    return total - (down.energy(g) if down is not None else 0)
