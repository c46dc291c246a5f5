"""Random memories and states that claims are measured on."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._lagrangian import (
    AbstractLagrangian,
    Entmax,
    Exponential,
    GhostMax,
    LayerNorm,
    Quadratic,
    ReLU,
    RePU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
)
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Affine, Neurons
from hopmix._synapse import (
    AbstractSynapse,
    Attention,
    Bias,
    ChannelMixing,
    Convolution,
    Dense,
    HopfieldMemory,
    HyperSynapse,
    Pooling,
)
from hopmix._tree import trainable
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._mixer import mixer_memory
from hopmix.claims._numbers import generator, normals

Structure = Callable[[PRNGKey], AssociativeMemory]
TOKENS = 4
CHANNELS = 6
TOKEN_HIDDEN = 5
CHANNEL_HIDDEN = 8


def _tied(key: PRNGKey, visible: int, hidden: int, scale: float = 1.0) -> Coupling:
    return Coupling(scale * jr.normal(key, (hidden, visible)))


def pair(key: PRNGKey) -> AssociativeMemory:
    """Two layers and one dense synapse."""
    neurons = {"v": Neurons(Tanh(0.8), (5,), tau=0.7), "h": Neurons(Sigmoid(), (3,), tau=2.1)}
    return AssociativeMemory(neurons, {"s": Dense(_tied(key, 5, 3))}, {"s": ("v", "h")})


def chain(key: PRNGKey) -> AssociativeMemory:
    """Four layers in a chain, with a bias and an external input; the last layer competes."""
    keys = jr.split(key, 5)
    neurons = {
        "a": Neurons(LayerNorm(), (4,), tau=1.3),
        "b": Neurons(ReLU() + 0.1 * Quadratic(), (6,), tau=0.4),
        "c": Neurons(SphericalNorm(), (5,), tau=3.0, input=jr.normal(keys[4], (5,))),
        "d": Neurons(Softmax(1.5), (3,), tau=0.9),
    }
    sizes = (4, 6, 5, 3)
    synapses: dict[str, AbstractSynapse] = {
        f"{a}{b}": Dense(_tied(k, m, n))
        for a, b, k, m, n in zip("abc", "bcd", keys, sizes, sizes[1:])
    }
    synapses["bias"] = Bias(jr.normal(keys[3], (6,)))
    ends = {"ab": ("a", "b"), "bc": ("b", "c"), "cd": ("c", "d"), "bias": ("b",)}
    return AssociativeMemory(neurons, synapses, ends)


class Trilinear(eqx.Module):
    r"""The energy $-\sum_{ijk} W_{ijk} a_i b_j c_k$ of three layers."""

    weights: Float[Array, "i j k"]

    def __call__(self, a: Layer, b: Layer, c: Layer) -> Scalar:
        return -jnp.einsum("ijk,i,j,k->", self.weights, a, b, c)


def many_body(key: PRNGKey) -> AssociativeMemory:
    """Three layers joined by one interaction of third order."""
    weights = jr.normal(key, (3, 4, 2))
    neurons = {
        n: Neurons(Tanh(), (size,), tau=t) for n, size, t in zip("abc", (3, 4, 2), (0.5, 1.0, 2.0))
    }
    synapse = HyperSynapse(Trilinear(weights))
    return AssociativeMemory(neurons, {"s": synapse}, {"s": ("a", "b", "c")})


def mixer(
    key: PRNGKey,
    hidden: AbstractLagrangian | None = None,
    visible: AbstractLagrangian | None = None,
) -> AssociativeMemory:
    """The three-layer memory of the parallel mixer, tied; ReLU units behind a joint norm unless
    others are given.
    """
    keys = jr.split(key, 2)
    layer = Neurons(LayerNorm((0, -1)) if visible is None else visible, (TOKENS, CHANNELS), tau=1.5)
    couplings = {
        "token": _tied(keys[0], TOKENS, TOKEN_HIDDEN),
        "channel": _tied(keys[1], CHANNELS, CHANNEL_HIDDEN),
    }
    return mixer_memory(layer, ReLU() if hidden is None else hidden, couplings)


def transformer(
    key: PRNGKey, include_self: bool = False, causal: bool = False
) -> AssociativeMemory:
    """The memory of an Energy Transformer: attention of the tokens, and a Hopfield network of each
    token.
    """
    attention_key, memory_key = jr.split(key)
    neurons = {
        "x": Neurons(LayerNorm((-1,)), (TOKENS, CHANNELS)),
        "memory": Neurons(ReLU(), (TOKENS, CHANNEL_HIDDEN), tau=0.5),
    }
    attention = Attention.random(
        CHANNELS, 2, 3, key=attention_key, include_self=include_self, causal=causal
    )
    synapses = {
        "attention": attention,
        "memory": ChannelMixing(_tied(memory_key, CHANNELS, CHANNEL_HIDDEN)),
    }
    return AssociativeMemory(neurons, synapses, {"attention": ("x",), "memory": ("x", "memory")})


def convolutional(key: PRNGKey) -> AssociativeMemory:
    """A layer on a grid of 3 x 4 tokens with a convolution of stride 2."""
    neurons = {"x": Neurons(LayerNorm((0, -1)), (12, 2)), "h": Neurons(ReLU(), (4, 3), tau=0.3)}
    synapse = Convolution(_tied(key, 3 * 3 * 2, 3), grid=(3, 4), stride=2)
    return AssociativeMemory(neurons, {"s": synapse}, {"s": ("x", "h")})


def driven(key: PRNGKey) -> AssociativeMemory:
    """Sparsely competing and cubic hidden units, patterns stored in four ways, biases, an input,
    scale and shift.
    """
    separations = (Quadratic(), RePU(3), Exponential(0.5), Softmax())
    shapes = ((4, 5), (3, 5), (3,), *[(5,)] * 4, *[(6, 5)] * len(separations))
    va, vb, bias, back, scale, shift, current, *patterns = normals(key, shapes)
    neurons = {
        "v": Neurons(SphericalNorm(eps=0.3), (5,), affine=Affine(scale, shift), input=current),
        "a": Neurons(Entmax(1.5, 1.2), (4,), tau=0.8),
        "b": Neurons(RePU(3), (3,), tau=1.2),
    }
    stored = {f"patterns {i}": HopfieldMemory(p, separations[i]) for i, p in enumerate(patterns)}
    synapses: dict[str, AbstractSynapse] = {"va": Dense(Coupling(va)), "vb": Dense(Coupling(vb))}
    synapses |= {"bias": Bias(bias), "back": Bias(back), **stored}
    ends = {"va": ("v", "a"), "vb": ("v", "b"), "bias": ("b",), "back": ("v",)} | {
        name: ("v",) for name in stored
    }
    return AssociativeMemory(neurons, synapses, ends)


def pooled(key: PRNGKey) -> AssociativeMemory:
    """A grid of 2 x 3 tokens, pooled with strides 1 and 2, and patterns that attract by their
    distance.
    """
    shift, patterns = normals(key, ((1, 2), (3, 6, 2)))
    neurons = {
        "x": Neurons(LayerNorm((-1,), 1.7, shift), (6, 2), tau=1.4),
        "fine": Neurons(GhostMax(1.5, (-1,)), (6, 2), tau=0.5),
        "coarse": Neurons(Exponential(0.4), (2, 2), tau=1.1),
    }
    synapses = {
        "fine": Pooling((2, 3)),
        "coarse": Pooling((2, 3), stride=2),
        "patterns": HopfieldMemory(patterns, Softmax(), "distance"),
    }
    return AssociativeMemory(
        neurons, synapses, {"fine": ("x", "fine"), "coarse": ("x", "coarse"), "patterns": ("x",)}
    )


CONVEX: tuple[Structure, ...] = (
    pair,
    chain,
    many_body,
    mixer,
    transformer,
    convolutional,
    driven,
    pooled,
)
"""Together they have every kind of synapse, every convex Lagrangian, an input, and a scale behind a
layer.
"""


def with_random_taus(structure: Structure, key: PRNGKey) -> Structure:
    """The same memories with a time constant between 0.1 and 10 for each layer, uniform on a
    logarithmic scale.
    """
    random = generator(key)

    def paced(key: PRNGKey) -> AssociativeMemory:
        memory = structure(key)
        layers = {
            n: dataclasses.replace(a, tau=10 ** random.uniform(-1, 1))
            for n, a in memory.neurons.items()
        }
        return AssociativeMemory(layers, memory.synapses, dict(memory.connections))

    return paced


def draw_systems(
    structure: Structure, key: PRNGKey, number: int, scale: float = 1.5
) -> tuple[AssociativeMemory, dict[str, Layer]]:
    """Memories of one structure, stacked, with Gaussian numbers for all that trains, and a state of
    each.

    Drawn by NumPy: the draws of `draw_memory` take longer to compile than what is measured on them.
    """
    memory = eqx.filter_eval_shape(structure, key)
    random = generator(key)

    def fill(leaf, trains):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        shape = (number, *leaf.shape)
        return jnp.asarray(
            random.normal(size=shape) if trains else np.ones(shape), leaf.dtype
        )  # what is left is a tie

    drawn = jax.tree.map(fill, memory, trainable(memory))
    states = {
        n: jnp.asarray(scale * random.normal(size=(number, *a.shape)))
        for n, a in memory.neurons.items()
    }
    return drawn, states


def draw_memory(structure: Structure, key: PRNGKey) -> AssociativeMemory:
    """A memory with random parameters."""
    return structure(jr.fold_in(key, 0))


def draw_state(memory: AssociativeMemory, key: PRNGKey, scale: float = 1.5) -> dict[str, Layer]:
    """A Gaussian state of standard deviation `scale`."""
    keys = jr.split(jr.fold_in(key, 1), len(memory.neurons))
    return {
        name: scale * jr.normal(k, n.shape) for k, (name, n) in zip(keys, memory.neurons.items())
    }
