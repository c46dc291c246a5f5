"""Tables of named objects that every invariant runs on, and one table of tolerances."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hopmix import (
    GELU,
    AbstractLagrangian,
    AbstractSynapse,
    Affine,
    AssociativeMemory,
    Bias,
    Block,
    ChannelMixing,
    Coupling,
    Dense,
    Entmax,
    Exponential,
    GhostMax,
    LayerNorm,
    LogSumReLU,
    Neurons,
    Quadratic,
    ReLU,
    RePU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
    TokenMixing,
    derive_block,
    trainable,
)

DTYPES = (jnp.float64, jnp.float32)
SHAPES = ((7,), (4, 3), (2, 5, 3))

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 5e-2}
"""The largest error in units of the largest expected magnitude; no test loosens it without a reason beside it."""


def largest(tree: Any) -> float:
    """The largest magnitude in a tree of arrays."""
    return max((float(np.max(np.abs(np.asarray(leaf, np.float64)))) for leaf in jax.tree.leaves(tree)), default=0.0)


def distance(actual: Any, expected: Any) -> float:
    """The largest difference, in units of the largest expected magnitude (of 1 where zero is expected)."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert jnp.shape(a) == jnp.shape(e), f"shape {jnp.shape(a)}, expected {jnp.shape(e)}"
    difference = jax.tree.map(lambda a, e: np.asarray(a, np.float64) - np.asarray(e, np.float64), actual, expected)
    return largest(difference) / (largest(expected) or 1.0)


def assert_close(actual: Any, expected: Any, tolerance: float | None = None) -> None:
    """Trees of arrays agree up to rounding, by `distance`; without a tolerance, the table's for the actual dtype."""
    if tolerance is None:
        tolerance = max(TOLERANCE[str(jnp.result_type(leaf))] for leaf in jax.tree.leaves(actual))
    error = distance(actual, expected)
    assert error <= tolerance, f"relative error {error:.3g} above {tolerance:.3g}"  # a NaN fails too


def normal(key: jax.Array, shape: tuple[int, ...] = (), dtype=jnp.float64) -> jax.Array:
    """Gaussian numbers by NumPy: `jr.normal` compiles a program for each shape, which is most of a test's time."""
    return jnp.asarray(np.random.default_rng(np.asarray(jr.key_data(key))).normal(size=shape), dtype)


def cast(tree: Any, dtype) -> Any:
    """The tree with all floating arrays in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def perturb(tree: Any, key: jax.Array, amount: float = 0.3) -> Any:
    """The tree with noise on every parameter, so that no scale is 1 and no shift, bias or breaking is 0."""
    parameters, rest = eqx.partition(tree, trainable(tree))
    leaves, structure = jax.tree.flatten(parameters)
    random = np.random.default_rng(np.asarray(jr.key_data(key)))
    noisy = [jnp.asarray(np.asarray(leaf) + amount * random.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return eqx.combine(jax.tree.unflatten(structure, noisy), rest)


def differences(f: Callable[[jax.Array], jax.Array], x: jax.Array, h: float = 1e-5) -> jax.Array:
    """The gradient of a scalar function by central differences, one entry at a time."""
    steps = h * jnp.eye(x.size).reshape(x.size, *x.shape)
    return jax.jit(jax.vmap(lambda step: (f(x + step) - f(x - step)) / (2 * h)))(steps).reshape(x.shape)


# ---- Lagrangians: from a shape and a dtype, so that parameters can be arrays ------------------------------------


def _joint(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (0, -1) if len(shape) > 1 else (0,)


def _shift(shape: tuple[int, ...], dtype) -> jax.Array:
    return jnp.linspace(-1, 1, shape[-1], dtype=dtype).reshape((1,) * (len(shape) - 1) + (-1,))


LAGRANGIANS: dict[str, Callable[[tuple[int, ...], Any], AbstractLagrangian]] = {
    "quadratic": lambda shape, dtype: Quadratic(),
    "relu": lambda shape, dtype: ReLU(),
    "repu 3": lambda shape, dtype: RePU(3),
    "gelu": lambda shape, dtype: GELU(),
    "exponential": lambda shape, dtype: Exponential(),
    "exponential, beta": lambda shape, dtype: Exponential(jnp.asarray(0.4, dtype)),
    "tanh": lambda shape, dtype: Tanh(),
    "tanh, beta": lambda shape, dtype: Tanh(jnp.asarray(0.4, dtype)),
    "sigmoid": lambda shape, dtype: Sigmoid(),
    "sigmoid, beta": lambda shape, dtype: Sigmoid(jnp.asarray(2.5, dtype)),
    "softmax": lambda shape, dtype: Softmax(),
    "softmax, beta, last axis": lambda shape, dtype: Softmax(jnp.asarray(2.5, dtype), axes=(-1,)),
    "entmax": lambda shape, dtype: Entmax(),
    "entmax 1.5, beta, last axis": lambda shape, dtype: Entmax(1.5, jnp.asarray(0.8, dtype), (-1,)),
    "ghost-max": lambda shape, dtype: GhostMax(),
    "ghost-max, beta, last axis": lambda shape, dtype: GhostMax(jnp.asarray(2.5, dtype), (-1,)),
    "log-sum-relu": lambda shape, dtype: LogSumReLU(jnp.asarray(0.4, dtype), eps=0.5),
    "sum": lambda shape, dtype: ReLU() + jnp.asarray(0.1, dtype) * Quadratic() + LayerNorm((-1,)),
    "scaled": lambda shape, dtype: jnp.asarray(0.3, dtype) * Softmax(),
    "layer norm": lambda shape, dtype: LayerNorm(),
    "layer norm, joint": lambda shape, dtype: LayerNorm(_joint(shape)),
    "layer norm, last axis": lambda shape, dtype: LayerNorm((-1,)),
    "layer norm, scale and shift": lambda s, dtype: LayerNorm((-1,), jnp.asarray(1.7, dtype), _shift(s, dtype)),
    "layer norm, negative scale": lambda shape, dtype: LayerNorm((-1,), jnp.asarray(-0.5, dtype)),
    "spherical norm": lambda shape, dtype: SphericalNorm(),
    "spherical norm, last axis": lambda shape, dtype: SphericalNorm((-1,)),
}

NOT_CONVEX = {"gelu", "log-sum-relu", "layer norm, negative scale"}

# e^1000 is no number of either dtype: overflow at extreme states is in the nature of the function.
OVERFLOWING = {"exponential", "exponential, beta"}


# ---- Couplings and synapses -------------------------------------------------------------------------------------

COUPLINGS: dict[str, Callable[..., Coupling]] = {
    "symmetric": Coupling.symmetric,
    "broken": partial(Coupling.broken, breaking="xavier"),
    "free": Coupling.free,
}

TOKENS, CHANNELS = 4, 6
HIDDEN = {"token": 5, "channel": 8}
VISIBLE_SHAPE = (TOKENS, CHANNELS)
HIDDEN_SHAPE = {"token": (HIDDEN["token"], CHANNELS), "channel": (TOKENS, HIDDEN["channel"])}

BILINEAR: dict[str, tuple[type[Dense | TokenMixing | ChannelMixing], tuple[int, ...], tuple[int, ...]]] = {
    "dense": (Dense, (CHANNELS,), (HIDDEN["channel"],)),
    "token mixing": (TokenMixing, VISIBLE_SHAPE, HIDDEN_SHAPE["token"]),
    "channel mixing": (ChannelMixing, VISIBLE_SHAPE, HIDDEN_SHAPE["channel"]),
}
"""Class, visible and hidden shape; the coupling joins the first axes of a token mixing, the last of the others."""


def make_synapse(name: str, coupling: str, key: jax.Array) -> Dense | TokenMixing | ChannelMixing:
    kind, visible, hidden = BILINEAR[name]
    axis = 0 if kind is TokenMixing else -1
    return kind(COUPLINGS[coupling](visible[axis], hidden[axis], key=key))


# ---- Memories: from a key and a kind of coupling ----------------------------------------------------------------


def dense_pair(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    neurons = {"v": Neurons(Tanh(jnp.asarray(0.8)), (5,), tau=0.7), "h": Neurons(Sigmoid(), (3,), tau=2.1)}
    return AssociativeMemory(neurons, {"s": Dense(COUPLINGS[coupling](5, 3, key=key))}, {"s": ("v", "h")})


def three_layers(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """Three layers in a chain with a bias in the middle; the last layer competes."""
    neurons = {
        "a": Neurons(LayerNorm(), (4,), tau=1.3),
        "b": Neurons(ReLU(), (6,), tau=0.4),
        "c": Neurons(Softmax(jnp.asarray(1.5)), (3,), tau=0.9),
    }
    make = COUPLINGS[coupling]
    synapses: dict[str, AbstractSynapse] = {
        "ab": Dense(make(4, 6, key=jr.fold_in(key, 0))),
        "bc": Dense(make(6, 3, key=jr.fold_in(key, 1))),
        "bias": Bias(normal(jr.fold_in(key, 2), (6,))),
    }
    return AssociativeMemory(neurons, synapses, {"ab": ("a", "b"), "bc": ("b", "c"), "bias": ("b",)})


def hopfield(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """One layer coupled to itself: both ends of the synapse are the same neurons."""
    synapses = {"s": Dense(COUPLINGS[coupling](4, 4, key=key))}
    return AssociativeMemory({"v": Neurons(Tanh(), (4,), tau=0.6)}, synapses, {"s": ("v", "v")})


def hidden_affine(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    affine = Affine(1 + 0.5 * normal(jr.fold_in(key, 1), (3,)), normal(jr.fold_in(key, 2), (3,)))
    neurons = {"v": Neurons(Quadratic(), (5,)), "h": Neurons(Tanh(), (3,), affine=affine)}
    return AssociativeMemory(neurons, {"s": Dense(COUPLINGS[coupling](5, 3, key=key))}, {"s": ("v", "h")})


NORM_AXES = {"joint": (0, -1), "token": (-1,)}
NORM_SCALES = ("none", "scalar", "conservative", "elementwise")


def visible_neurons(norm: str, scale: str, eps: float = 1e-6) -> Neurons:
    parameters = VISIBLE_SHAPE if norm == "joint" else (1, CHANNELS)
    if scale == "none":
        return Neurons(LayerNorm(NORM_AXES[norm], eps=eps), VISIBLE_SHAPE)
    if scale == "scalar":
        return Neurons(LayerNorm(NORM_AXES[norm], jnp.ones(()), jnp.zeros(parameters), eps), VISIBLE_SHAPE)
    affine = Affine(jnp.ones(parameters), jnp.zeros(parameters), scale == "conservative")
    return Neurons(LayerNorm(NORM_AXES[norm], eps=eps), VISIBLE_SHAPE, affine=affine)


def mixing(
    key: jax.Array,
    coupling: str = "symmetric",
    *,
    norm: str = "joint",
    scale: str = "conservative",
    bias: bool = True,
    hidden: AbstractLagrangian | None = None,
    branches: Iterable[str] = ("token", "channel"),
    eps: float = 1e-6,
) -> AssociativeMemory:
    """The memory of a mixer's block, with noise on all its parameters."""
    neurons = {"visible": visible_neurons(norm, scale, eps)}
    synapses: dict[str, AbstractSynapse] = {}
    connections: dict[str, tuple[str, ...]] = {}
    for i, name in enumerate(branches):
        neurons[name] = Neurons(GELU() if hidden is None else hidden, HIDDEN_SHAPE[name])
        synapses[name] = make_synapse(f"{name} mixing", coupling, jr.fold_in(key, i))
        connections[name] = ("visible", name)
        if bias:
            up, down = ((HIDDEN[name], 1), (TOKENS, 1)) if name == "token" else ((1, HIDDEN[name]), (1, CHANNELS))
            synapses |= {f"{name}_up": Bias(jnp.zeros(up)), f"{name}_down": Bias(jnp.zeros(down))}
            connections |= {f"{name}_up": (name,), f"{name}_down": ("visible",)}
    return perturb(AssociativeMemory(neurons, synapses, connections), jr.fold_in(key, 2))


def make_block(key: jax.Array, coupling: str = "symmetric", *, options: dict | None = None, **memory) -> Block:
    """The block of a mixer, from `mixing` with `memory`, and from `derive_block` with `options`."""
    branches = tuple(memory.get("branches", ("token", "channel")))
    return derive_block(mixing(key, coupling, **memory), branches, **(options or {}))


MEMORIES: dict[str, Callable[..., AssociativeMemory]] = {
    "dense pair": dense_pair,
    "three layers": three_layers,
    "hopfield": hopfield,
    "hidden affine": hidden_affine,
    "mixing, joint norm": mixing,
    "mixing, norm of each token": partial(mixing, norm="token", scale="scalar"),
}


def coupling_of(memory: AssociativeMemory, name: str) -> Coupling:
    """The coupling of one bilinear synapse of a memory."""
    synapse = memory.synapses[name]
    assert isinstance(synapse, Dense | TokenMixing | ChannelMixing)
    return synapse.coupling


def bias_of(memory: AssociativeMemory, name: str) -> jax.Array:
    """The current of one bias of a memory."""
    synapse = memory.synapses[name]
    assert isinstance(synapse, Bias)
    return synapse.bias


def affine_of(neurons: Neurons) -> Affine:
    """The scale and shift behind a layer that has them."""
    assert neurons.affine is not None
    return neurons.affine


def random_state(memory: AssociativeMemory, key: jax.Array, scale: float = 1.0) -> dict[str, jax.Array]:
    keys = jr.split(key, len(memory.neurons))
    return {name: scale * normal(k, layer.shape) for k, (name, layer) in zip(keys, memory.neurons.items())}
