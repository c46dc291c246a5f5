r"""C03: the three-layer memory with shared synapses is the layer of the parallel mixer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm, ReLU, SphericalNorm, Tanh
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._synapse import Bias, Dense
from hopmix._types import Layer, PRNGKey, Scalar, Tokens
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._mixer import BRANCHES, mixer_memory
from hopmix.claims._numbers import generator, in_batches

TOKENS = 4
CHANNELS = 6
TOKEN_HIDDEN = 5
CHANNEL_HIDDEN = 8
EPS = 1e-6


class Weights(NamedTuple):
    """Both mixings: up, down and the two biases of each."""

    w_s: Float[Array, "hidden tokens"]
    v_s: Float[Array, "tokens hidden"]
    b_s: Float[Array, "hidden 1"]
    c_s: Float[Array, "tokens 1"]
    w_c: Float[Array, "hidden channels"]
    v_c: Float[Array, "channels hidden"]
    b_c: Float[Array, "1 hidden"]
    c_c: Float[Array, "1 channels"]


SHAPES: tuple[tuple[int, int], ...] = (
    *((TOKEN_HIDDEN, TOKENS), (TOKENS, TOKEN_HIDDEN), (TOKEN_HIDDEN, 1), (TOKENS, 1)),
    *((CHANNEL_HIDDEN, CHANNELS), (CHANNELS, CHANNEL_HIDDEN), (1, CHANNEL_HIDDEN), (1, CHANNELS)),
)
"""Of the `Weights`, in their order."""


class Kind(NamedTuple):
    """A visible and a hidden Lagrangian, and their activations written out."""

    visible: AbstractLagrangian
    hidden: AbstractLagrangian
    norm: Callable[[Tokens], Tokens]
    phi: Callable[[Layer], Layer]


def _normalise(x: Tokens, axes: tuple[int, ...] | None) -> Tokens:
    mean = jnp.mean(x, axis=axes, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.mean((x - mean) ** 2, axis=axes, keepdims=True) + EPS)


KINDS = {
    "joint norm, GELU": Kind(
        LayerNorm(eps=EPS),
        GELU(),
        lambda x: _normalise(x, None),
        lambda h: jax.nn.gelu(h, approximate=False),
    ),
    "norm of each token, ReLU": Kind(
        LayerNorm((-1,), eps=EPS),
        ReLU(),
        lambda x: _normalise(x, (1,)),
        lambda h: jnp.maximum(h, 0),
    ),
    "sphere, tanh": Kind(
        SphericalNorm(eps=EPS),
        Tanh(),
        lambda x: x / jnp.sqrt(jnp.sum(x**2) + EPS),
        lambda h: jnp.tanh(h),
    ),
}


def memory_of(kind: Kind, weights: Weights) -> AssociativeMemory:
    """The memory tokens - visible - channels, with a Hopfield network of each channel and one of
    each token.
    """
    w = weights
    couplings = {
        "token": Coupling.from_weights(w.w_s, w.v_s),
        "channel": Coupling.from_weights(w.w_c, w.v_c),
    }
    biases = {"token_up": w.b_s, "token_down": w.c_s, "channel_up": w.b_c, "channel_down": w.c_c}
    return mixer_memory(Neurons(kind.visible, (TOKENS, CHANNELS)), kind.hidden, couplings, biases)


def dense_memory_of(kind: Kind, weights: Weights) -> AssociativeMemory:
    r"""The same without sharing: vectors, and all-to-all synapses with $W_s \otimes 1$ and $1
    \otimes W_c$.
    """
    shared = memory_of(kind, weights).neurons
    neurons = {
        name: Neurons(layer.lagrangian, (int(np.prod(layer.shape)),))
        for name, layer in shared.items()
    }
    everywhere = lambda bias, layer: Bias(jnp.broadcast_to(bias, shared[layer].shape).ravel())
    tokens = jnp.eye(TOKENS)
    channels = jnp.eye(CHANNELS)
    synapses = {
        "token": Dense(
            Coupling.from_weights(jnp.kron(weights.w_s, channels), jnp.kron(weights.v_s, channels))
        ),
        "channel": Dense(
            Coupling.from_weights(jnp.kron(tokens, weights.w_c), jnp.kron(tokens, weights.v_c))
        ),
        "token_up": everywhere(weights.b_s, "token"),
        "token_down": everywhere(weights.c_s, "x"),
        "channel_up": everywhere(weights.b_c, "channel"),
        "channel_down": everywhere(weights.c_c, "x"),
    }
    return AssociativeMemory(neurons, synapses, dict(memory_of(kind, weights).connections))


def written_out(kind: Kind, w: Weights, x: Tokens) -> Tokens:
    """The layer of the parallel mixer in plain array operations."""
    g = kind.norm(x)
    token = w.v_s @ kind.phi(w.w_s @ g + w.b_s) + w.c_s
    return x + token + kind.phi(g @ w.w_c.T + w.b_c) @ w.v_c.T + w.c_c


def potential_written_out(kind: Kind, w: Weights, g: Tokens) -> Scalar:
    r"""$U(g) = \sum \Phi(W_s g + b_s) + \sum \Phi(g W_c^\top + b_c) + c \cdot g$."""
    hidden = kind.hidden(w.w_s @ g + w.b_s) + kind.hidden(g @ w.w_c.T + w.b_c)
    return hidden + jnp.sum((w.c_s + w.c_c) * g)


def tied(weights: Weights) -> Weights:
    """The same up-weights with $V = W^\top$."""
    return weights._replace(v_s=weights.w_s.T, v_c=weights.w_c.T)


def layer_gap(kind: Kind, weights: Weights, x: Tokens, block: Block | None = None) -> Scalar:
    """How far the derived block is from the layer written out, relative to what the layer adds."""
    if block is None:
        block = derive_block(memory_of(kind, weights), BRANCHES)
    else:
        block = block
    expected = written_out(kind, weights, x)
    return jnp.max(jnp.abs(block(x) - expected)) / jnp.max(jnp.abs(expected - x))


def gradient_gap(kind: Kind, weights: Weights, x: Tokens) -> Scalar:
    r"""How far what the layer adds is from $\nabla U(g)$; zero for tied weights."""
    expected = jax.grad(lambda g: potential_written_out(kind, weights, g))(kind.norm(x))
    return jnp.max(jnp.abs(written_out(kind, weights, x) - x - expected)) / jnp.max(
        jnp.abs(expected)
    )


def sharing_gap(kind: Kind, weights: Weights, state: dict[str, Layer]) -> Scalar:
    """How far energy and forces are from those of the memory with all-to-all synapses."""
    shared = memory_of(kind, weights)
    dense = dense_memory_of(kind, weights)
    flat = {name: x.ravel() for name, x in state.items()}
    forces = shared.force(state)
    expected = dense.force(flat)
    gaps = [
        jnp.max(jnp.abs(forces[a].ravel() - f)) / jnp.max(jnp.abs(f)) for a, f in expected.items()
    ]
    energy = dense.energy(flat)
    return jnp.max(
        jnp.stack([*gaps, jnp.abs(shared.energy(state) - energy) / (1 + jnp.abs(energy))])
    )


class Example(NamedTuple):
    """Independent Gaussian weights and biases, and states of the three layers."""

    weights: Weights
    state: dict[str, Layer]


def draw_examples(key: PRNGKey, number: int) -> Example:
    """A stack of examples, by NumPy: there is nothing to compile."""
    random = generator(key)
    draw = lambda shape: jnp.asarray(random.normal(size=(number, *shape)))
    shapes = {
        "x": (TOKENS, CHANNELS),
        "token": (TOKEN_HIDDEN, CHANNELS),
        "channel": (TOKENS, CHANNEL_HIDDEN),
    }
    return Example(
        Weights(*map(draw, SHAPES)), {name: draw(shape) for name, shape in shapes.items()}
    )


def worst_gap(e: Example) -> Scalar:
    """The worst over all kinds of layers: free, tied, and (with the joint norm, which flattens) not
    shared.
    """
    gaps = [sharing_gap(KINDS["joint norm, GELU"], e.weights, e.state)]
    for kind in KINDS.values():
        x = e.state["x"]
        gaps += [layer_gap(kind, e.weights, x), layer_gap(kind, tied(e.weights), x)]
        gaps += [gradient_gap(kind, tied(e.weights), x)]
    return jnp.max(jnp.stack(gaps))


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst relative gap over random weights, biases and states."""
    gaps = in_batches(worst_gap, draw_examples(key, examples))
    return Measurement(float(jnp.max(gaps)), 1e-12, examples)


CLAIM = Claim(
    id="C03",
    statement="a memory tokens - visible - channels with shared synapses gives the layer "
    "x + V_s phi(W_s g) + phi(g W_c^T) V_c^T exactly, which is x + grad U(g) for tied weights",
    source="arXiv 2406.12220, section 5; exactness and sharing: hopmix",
    status="proved",
    page="C03-mixer.md",
    test="test_c03_mixer.py",
    what="relative gap of layer, gradient and unshared memory",
    measure=measure,
)
