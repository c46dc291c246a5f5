"""A small mixer with weights of any symmetry: what the claims about conservative and broken blocks are measured on."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._derive import Block, derive_block
from hopmix._lagrangian import GELU, AbstractLagrangian
from hopmix._lagrangian_groups import LayerNorm
from hopmix._memory import AssociativeMemory, Neurons
from hopmix._synapse import AbstractSynapse, Bias, ChannelMixing, TokenMixing
from hopmix._types import Layer, PRNGKey, Scalar

TOKENS, CHANNELS, HIDDEN = 3, 4, 5

Couple = Callable[[Float[Array, "hidden visible"], Float[Array, "visible hidden"]], Coupling]
"""Makes a coupling from up-weights and independent Gaussian numbers."""


def gained(up: Float[Array, "hidden visible"], noise: Float[Array, "visible hidden"]) -> Coupling:
    r"""$V = W^\top D$ with Gaussian gains $D$ of either sign."""
    return Coupling(up, up.T * noise[:1], 0.0)


def free(up: Float[Array, "hidden visible"], noise: Float[Array, "visible hidden"]) -> Coupling:
    r"""$V$ independent of $W$."""
    return Coupling(up, noise, 0.0)


class Weights(NamedTuple):
    """Gaussian numbers for a `small_mixer`: up-weights and as many others for each branch, and two biases."""

    token: Float[Array, "hidden tokens"]
    token_noise: Float[Array, "tokens hidden"]
    channel: Float[Array, "hidden channels"]
    channel_noise: Float[Array, "channels hidden"]
    up: Float[Array, "hidden 1"]
    down: Float[Array, "1 channels"]


def draw_weights(key: PRNGKey, states: int) -> tuple[Weights, Float[Array, "{states} tokens channels"]]:
    """Gaussian weights, and states to go with them."""
    shapes = ((HIDDEN, TOKENS), (TOKENS, HIDDEN), (HIDDEN, CHANNELS), (CHANNELS, HIDDEN), (HIDDEN, 1), (1, CHANNELS))
    shapes = (*shapes, (states, TOKENS, CHANNELS))
    # One draw for all: each call of `jr.normal` costs a second of compilation.
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = jnp.split(jr.normal(key, (ends[-1],)), ends[:-1])
    *weights, x = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
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
    """Token and channel mixing with given weights; a joint norm and GELU units unless others are given."""
    synapses: dict[str, AbstractSynapse] = {
        "token": TokenMixing(couple(weights.token, weights.token_noise)),
        "channel": ChannelMixing(couple(weights.channel, weights.channel_noise)),
    }
    connections: dict[str, tuple[str, ...]] = {"token": ("visible", "token"), "channel": ("visible", "channel")}
    if bias:
        synapses |= {"up": Bias(weights.up), "down": Bias(weights.down)}
        connections |= {"up": ("token",), "down": ("visible",)}
    units = GELU() if hidden is None else hidden
    neurons = {
        "visible": Neurons(LayerNorm(), (TOKENS, CHANNELS)) if visible is None else visible,
        "token": Neurons(units, (HIDDEN, CHANNELS)),
        "channel": Neurons(units, (TOKENS, HIDDEN)),
    }
    return derive_block(AssociativeMemory(neurons, synapses, connections), ("token", "channel"), leak=leak)


def map_examples(
    draw: Callable[[PRNGKey], Any], gap: Callable[[Any], Scalar], key: PRNGKey, examples: int
) -> Float[Array, " {examples}"]:
    """A gap of each of many random examples, in bounded memory."""
    # Two programs: XLA would copy the drawing of random numbers, slow to compile, into every place that uses them.
    drawn = jax.jit(jax.vmap(draw))(jr.split(key, examples))
    return jax.jit(lambda e: jax.lax.map(gap, e, batch_size=min(examples, 100)))(drawn)


def mixing_of(block: Block, name: str) -> TokenMixing | ChannelMixing:
    """The synapse of one branch."""
    synapse = block.potential.memory.synapses[name]
    assert isinstance(synapse, TokenMixing | ChannelMixing)
    return synapse


def gain_potential(block: Block, g: Layer) -> Scalar:
    r"""$\sum_\alpha D_\alpha \Phi(h_\alpha)$, the energy of a `small_mixer` of `gained` weights up to its sign.

    The gains are read off the weights; biases into hidden units are part of $h$, those into visible ones add $b\,g$.
    """
    outputs, total = {"visible": g}, jnp.zeros((), g.dtype)
    memory = block.potential.memory
    for name, axis in (("token", 0), ("channel", 1)):
        coupling, lagrangian = mixing_of(block, name).coupling, memory.neurons[name].lagrangian
        value = jnp.vectorize(lagrangian)(memory.current(name, outputs))
        total = total + jnp.sum(value * jnp.expand_dims(coupling.down[0] / coupling.up[:, 0], 1 - axis))
    down = memory.synapses.get("down")
    return total - (down.energy(g) if down is not None else 0)
