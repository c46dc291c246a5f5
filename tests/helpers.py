"""Tables of named objects that every invariant runs on, and one table of tolerances."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hopmix import (
    GELU,
    AbstractLagrangian,
    AbstractSynapse,
    Affine,
    AssociativeMemory,
    Attention,
    Bias,
    Block,
    ChannelMixing,
    Convolution,
    Coupling,
    Dense,
    Entmax,
    Exponential,
    GhostMax,
    HopfieldMemory,
    HyperSynapse,
    LayerNorm,
    LogSumReLU,
    Neurons,
    Pooling,
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
from hopmix._numerics.dtypes import cast as cast

DTYPES = (jnp.float64, jnp.float32)
SHAPES = ((7,), (4, 3), (2, 5, 3))

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 5e-2}
"""The largest error in units of the largest expected magnitude; no test loosens it without a reason
beside it.
"""


def largest(tree: Any) -> float:
    """The largest magnitude in a tree of arrays."""
    return max(
        (float(np.max(np.abs(np.asarray(leaf, np.float64)))) for leaf in jax.tree.leaves(tree)),
        default=0.0,
    )


def distance(actual: Any, expected: Any, scale: Any = 0.0) -> float:
    """The largest difference, in units of the largest expected magnitude, or of the scale where
    that is larger (of 1 where both are zero)."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert jnp.shape(a) == jnp.shape(e), f"shape {jnp.shape(a)}, expected {jnp.shape(e)}"
    difference = jax.tree.map(
        lambda a, e: np.asarray(a, np.float64) - np.asarray(e, np.float64), actual, expected
    )
    return largest(difference) / (max(largest(expected), largest(scale)) or 1.0)


def assert_close(
    actual: Any, expected: Any, tolerance: float | None = None, scale: Any = 0.0
) -> None:
    """Trees of arrays agree up to rounding, by `distance`; without a tolerance, the table's for the
    actual dtype.

    What is expected may be a sum in which terms cancel, one number above all: the scale is then the
    size of the terms, which rounding is relative to.
    """
    if tolerance is None:
        tolerance = max(TOLERANCE[str(jnp.result_type(leaf))] for leaf in jax.tree.leaves(actual))
    error = distance(actual, expected, scale)
    assert error <= tolerance, (
        f"relative error {error:.3g} above {tolerance:.3g}"
    )  # a NaN fails too


def normal(key: jax.Array, shape: tuple[int, ...] = (), dtype=jnp.float64) -> jax.Array:
    """Gaussian numbers by NumPy: `jr.normal` compiles a program for each shape, which is most of a
    test's time.
    """
    return jnp.asarray(
        np.random.default_rng(np.asarray(jr.key_data(key))).normal(size=shape), dtype
    )


def eighths(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gaussian numbers rounded to eighths: sums of their products are exact in single precision
    too.
    """
    return jnp.asarray(np.round(8 * np.asarray(normal(key, shape))) / 8)


def equations(jaxpr: jax.extend.core.Jaxpr) -> Iterator[jax.extend.core.JaxprEqn]:
    """All operations of a program, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def perturb(tree: Any, key: jax.Array, amount: float = 0.3) -> Any:
    """The tree with noise on every parameter, so that no scale is 1 and no shift, bias or breaking
    is 0.
    """
    parameters, rest = eqx.partition(tree, trainable(tree))
    leaves, structure = jax.tree.flatten(parameters)
    random = np.random.default_rng(np.asarray(jr.key_data(key)))
    noisy = [
        jnp.asarray(np.asarray(leaf) + amount * random.normal(size=leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
    return eqx.combine(jax.tree.unflatten(structure, noisy), rest)


def differences(f: Callable[[jax.Array], jax.Array], x: jax.Array, h: float = 1e-5) -> jax.Array:
    """The gradient of a scalar function by central differences, one entry at a time."""
    steps = h * jnp.eye(x.size).reshape(x.size, *x.shape)
    return jax.jit(jax.vmap(lambda step: (f(x + step) - f(x - step)) / (2 * h)))(steps).reshape(
        x.shape
    )


# ---- Lagrangians: from a shape and a dtype, so that parameters can be arrays ---------------------


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
    "layer norm, scale and shift": lambda s, dtype: LayerNorm(
        (-1,), jnp.asarray(1.7, dtype), _shift(s, dtype)
    ),
    "layer norm, negative scale": lambda shape, dtype: LayerNorm((-1,), jnp.asarray(-0.5, dtype)),
    "spherical norm": lambda shape, dtype: SphericalNorm(),
    "spherical norm, last axis": lambda shape, dtype: SphericalNorm((-1,)),
}

NOT_CONVEX = {"gelu", "log-sum-relu", "layer norm, negative scale"}

# e^1000 is no number of either dtype: overflow at extreme states is in the nature of the function.
OVERFLOWING = {"exponential", "exponential, beta"}


# ---- Couplings and synapses ----------------------------------------------------------------------

COUPLINGS: dict[str, Callable[..., Coupling]] = {
    "symmetric": Coupling.symmetric,
    "broken": partial(Coupling.broken, breaking="xavier"),
    "free": Coupling.free,
}

TOKENS = 4
CHANNELS = 6
HIDDEN = {"token": 5, "channel": 8}
VISIBLE_SHAPE = (TOKENS, CHANNELS)
HIDDEN_SHAPE = {"token": (HIDDEN["token"], CHANNELS), "channel": (TOKENS, HIDDEN["channel"])}

BILINEAR: dict[
    str, tuple[type[Dense | TokenMixing | ChannelMixing], tuple[int, ...], tuple[int, ...]]
] = {
    "dense": (Dense, (CHANNELS,), (HIDDEN["channel"],)),
    "token mixing": (TokenMixing, VISIBLE_SHAPE, HIDDEN_SHAPE["token"]),
    "channel mixing": (ChannelMixing, VISIBLE_SHAPE, HIDDEN_SHAPE["channel"]),
}
"""Class, visible and hidden shape; the coupling joins the first axes of a token mixing, the last of
the others.
"""


def make_synapse(name: str, coupling: str, key: jax.Array) -> Dense | TokenMixing | ChannelMixing:
    kind, visible, hidden = BILINEAR[name]
    axis = 0 if kind is TokenMixing else -1
    return kind(COUPLINGS[coupling](visible[axis], hidden[axis], key=key))


class Overlaps(eqx.Module):
    r"""A many-body energy of layers of any rank: $-\tfrac12 \sum_m \prod_k (w_{km} \cdot
    g_k)^2$.
    """

    weights: tuple[jax.Array, ...]

    def __call__(self, *activations: jax.Array) -> jax.Array:
        overlaps = (
            jnp.tensordot(w, g, g.ndim) for w, g in zip(self.weights, activations, strict=True)
        )
        return -0.5 * jnp.sum(math.prod(overlap**2 for overlap in overlaps))


SEPARATIONS: dict[str, AbstractLagrangian] = {
    "classical": Quadratic(),
    "rectified": ReLU(),
    "polynomial": RePU(3),
    "exponential": Exponential(0.25),
    "log-sum-exp": Softmax(2.0),
    "log-sum-relu": LogSumReLU(0.03, eps=0.1),
}
"""Log-sum-ReLU jumps where 1 + beta s = 0, at s = -33.3..: at no multiple of 1/128, which
similarities are made of.
"""

SILENT = {("rectified", "distance"), ("polynomial", "distance")}
"""Minus a squared distance is never positive, so that a rectifier of it is zero: these memories do
nothing.
"""

MASKS: dict[str, dict[str, bool]] = {
    "others": {},
    "others and itself": {"include_self": True},
    "earlier": {"causal": True},
    "earlier and itself": {"include_self": True, "causal": True},
}

Shape = tuple[int, ...]


class SynapseRow(NamedTuple):
    """A synapse made from a key and the shapes of the layers that it joins, and sets of layers to
    try it on.

    - `tied`: whether its currents are minus the gradient of its energy.
    - `is_finite`: whether currents and energy are numbers at activations of size 1000.
    """

    make: Callable[..., AbstractSynapse]
    layers: tuple[tuple[Shape, ...], ...]
    tied: bool = True
    is_finite: bool = True


ONE_LAYER = tuple((shape,) for shape in SHAPES)
GRID = (3, 4)
WINDOW = (2, 3)


def _attention(key: jax.Array, shape: Shape, **mask: bool) -> Attention:
    queries, keys = normal(key, (2, 3, 2, shape[-1])) / math.sqrt(shape[-1])
    return Attention(queries, keys, jnp.asarray(0.7), **mask)


def _patterns(key: jax.Array, shape: Shape, separation: str, similarity: Any) -> HopfieldMemory:
    return HopfieldMemory(eighths(key, (6, *shape)), SEPARATIONS[separation], similarity)


def _convolution(
    key: jax.Array, visible: Shape, hidden: Shape, coupling: str, stride: int
) -> Convolution:
    numbers = math.prod(WINDOW) * visible[-1]
    return Convolution(COUPLINGS[coupling](numbers, hidden[-1], key=key), GRID, WINDOW, stride)


def _hyper(key: jax.Array, *shapes: Shape) -> HyperSynapse:
    weights = (
        normal(jr.fold_in(key, k), (2, *shape)) / math.sqrt(math.prod(shape))
        for k, shape in enumerate(shapes)
    )
    return HyperSynapse(Overlaps(tuple(weights)))


def _strided(hidden: int, stride: int) -> tuple[Shape, Shape]:
    """A layer of two channels on the grid, and the layer that windows at this distance of each
    other feed.
    """
    return (math.prod(GRID), 2), (math.prod(-(-side // stride) for side in GRID), hidden)


SYNAPSES: dict[str, SynapseRow] = {
    **{
        f"{name}, {coupling}": SynapseRow(
            lambda key, *shapes, n=name, c=coupling: make_synapse(n, c, key),
            (BILINEAR[name][1:],),
            coupling == "symmetric",
        )
        for name in BILINEAR
        for coupling in COUPLINGS
    },
    **{
        f"attention to {name}": SynapseRow(partial(_attention, **mask), (((5, 4),),))
        for name, mask in MASKS.items()
    },
    **{
        f"patterns, {separation}, {similarity}": SynapseRow(
            partial(_patterns, separation=separation, similarity=similarity),
            ONE_LAYER,
            is_finite=(separation, similarity) != ("exponential", "dot"),  # e^1000 is no number
        )
        for similarity in ("dot", "distance")
        for separation in SEPARATIONS
        if (separation, similarity) not in SILENT
    },
    **{
        f"convolution, {coupling}, stride {stride}": SynapseRow(
            partial(_convolution, coupling=coupling, stride=stride),
            (_strided(3, stride),),
            coupling == "symmetric",
        )
        for coupling in COUPLINGS
        for stride in (1, 2)
    },
    **{
        f"pooling, stride {stride}": SynapseRow(
            lambda key, *_, s=stride: Pooling(GRID, WINDOW, s), (_strided(2, stride),)
        )
        for stride in (1, 2)
    },
    "bias": SynapseRow(lambda key, shape: Bias(normal(key, shape)), ONE_LAYER),
    "bias, first axis": SynapseRow(
        lambda key, s: Bias(normal(key, (s[0],) + (1,) * (len(s) - 1))), ONE_LAYER
    ),
    "bias, last axis": SynapseRow(
        lambda key, s: Bias(normal(key, (1,) * (len(s) - 1) + s[-1:])), ONE_LAYER
    ),
    "hyper, one layer": SynapseRow(_hyper, ONE_LAYER),
    "hyper, two layers": SynapseRow(_hyper, (((4,), (3,)), ((4, 3), (2, 5, 3)))),
    "hyper, three layers": SynapseRow(_hyper, (((3,), (4, 3), (2, 5, 3)),)),
}


# ---- Memories: from a key and a kind of coupling -------------------------------------------------


def dense_pair(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    neurons = {
        "v": Neurons(Tanh(jnp.asarray(0.8)), (5,), tau=0.7),
        "h": Neurons(Sigmoid(), (3,), tau=2.1),
    }
    return AssociativeMemory(
        neurons, {"s": Dense(COUPLINGS[coupling](5, 3, key=key))}, {"s": ("v", "h")}
    )


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
    return AssociativeMemory(
        neurons, synapses, {"ab": ("a", "b"), "bc": ("b", "c"), "bias": ("b",)}
    )


def hopfield(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """One layer coupled to itself: both ends of the synapse are the same neurons."""
    synapses = {"s": Dense(COUPLINGS[coupling](4, 4, key=key))}
    return AssociativeMemory({"v": Neurons(Tanh(), (4,), tau=0.6)}, synapses, {"s": ("v", "v")})


def hidden_affine(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    affine = Affine(1 + 0.5 * normal(jr.fold_in(key, 1), (3,)), normal(jr.fold_in(key, 2), (3,)))
    neurons = {"v": Neurons(Quadratic(), (5,)), "h": Neurons(Tanh(), (3,), affine=affine)}
    return AssociativeMemory(
        neurons, {"s": Dense(COUPLINGS[coupling](5, 3, key=key))}, {"s": ("v", "h")}
    )


NORM_AXES = {"joint": (0, -1), "token": (-1,)}
NORM_SCALES = ("none", "scalar", "conservative", "elementwise")


def visible_neurons(norm: str, scale: str, eps: float = 1e-6) -> Neurons:
    parameters = VISIBLE_SHAPE if norm == "joint" else (1, CHANNELS)
    if scale == "none":
        return Neurons(LayerNorm(NORM_AXES[norm], eps=eps), VISIBLE_SHAPE)
    if scale == "scalar":
        return Neurons(
            LayerNorm(NORM_AXES[norm], jnp.ones(()), jnp.zeros(parameters), eps), VISIBLE_SHAPE
        )
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
            up, down = (
                ((HIDDEN[name], 1), (TOKENS, 1))
                if name == "token"
                else ((1, HIDDEN[name]), (1, CHANNELS))
            )
            synapses |= {f"{name}_up": Bias(jnp.zeros(up)), f"{name}_down": Bias(jnp.zeros(down))}
            connections |= {f"{name}_up": (name,), f"{name}_down": ("visible",)}
    return perturb(AssociativeMemory(neurons, synapses, connections), jr.fold_in(key, 2))


def make_block(
    key: jax.Array, coupling: str = "symmetric", *, options: dict | None = None, **memory
) -> Block:
    """The block of a mixer, from `mixing` with `memory`, and from `derive_block` with `options`."""
    branches = tuple(memory.get("branches", ("token", "channel")))
    return derive_block(mixing(key, coupling, **memory), branches, **(options or {}))


def energy_transformer(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """Attention of normalised tokens with an elementwise scale, and a Hopfield network of each
    token.
    """
    affine = Affine(
        1 + 0.5 * normal(jr.fold_in(key, 0), VISIBLE_SHAPE),
        normal(jr.fold_in(key, 1), (1, CHANNELS)),
    )
    neurons = {
        "x": Neurons(LayerNorm((-1,)), VISIBLE_SHAPE, tau=1.4, affine=affine),
        "h": Neurons(ReLU(), HIDDEN_SHAPE["channel"], tau=0.5),
    }
    synapses: dict[str, AbstractSynapse] = {
        "attention": _attention(jr.fold_in(key, 2), VISIBLE_SHAPE, causal=True),
        "memory": make_synapse("channel mixing", coupling, jr.fold_in(key, 3)),
        "bias": Bias(normal(jr.fold_in(key, 4), (1, HIDDEN["channel"]))),
    }
    return AssociativeMemory(
        neurons, synapses, {"attention": ("x",), "memory": ("x", "h"), "bias": ("h",)}
    )


def patterns(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """Two stores of patterns on one layer, which competes, and a mixing of its tokens."""
    neurons = {
        "x": Neurons(GhostMax(jnp.asarray(1.5), (-1,)), VISIBLE_SHAPE, tau=0.8),
        "h": Neurons(Softmax(axes=(0,)), HIDDEN_SHAPE["token"], tau=1.1),
    }
    synapses: dict[str, AbstractSynapse] = {
        "near": _patterns(jr.fold_in(key, 0), VISIBLE_SHAPE, "log-sum-exp", "distance"),
        "similar": _patterns(jr.fold_in(key, 1), VISIBLE_SHAPE, "polynomial", "dot"),
        "mixing": make_synapse("token mixing", coupling, jr.fold_in(key, 2)),
    }
    return AssociativeMemory(
        neurons, synapses, {"near": ("x",), "similar": ("x",), "mixing": ("x", "h")}
    )


def on_a_grid(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """A convolution of stride 2 and an average pooling that read one layer."""
    (shape, features) = _strided(3, 2)
    (_, pooled) = _strided(2, 1)
    neurons = {
        "x": Neurons(LayerNorm((0, -1)), shape, tau=1.2),
        "features": Neurons(GELU(), features, tau=0.3),
        "pooled": Neurons(Softmax(jnp.asarray(1.5), axes=(-1,)), pooled, tau=0.6),
    }
    synapses = {
        "convolution": _convolution(key, shape, features, coupling, 2),
        "pooling": Pooling(GRID, WINDOW),
    }
    return AssociativeMemory(
        neurons, synapses, {"convolution": ("x", "features"), "pooling": ("x", "pooled")}
    )


def many_body(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """An interaction of three layers, one of a layer with itself, and a dense synapse."""
    neurons = {
        "a": Neurons(Tanh(), (5,), tau=0.5),
        "b": Neurons(Sigmoid(jnp.asarray(2.0)), (3,), tau=1.7),
        "c": Neurons(ReLU() + 0.2 * Quadratic(), (4,)),
    }
    synapses: dict[str, AbstractSynapse] = {
        "three": _hyper(jr.fold_in(key, 0), (5,), (3,), (4,)),
        "one": _hyper(jr.fold_in(key, 1), (3,)),
        "two": Dense(COUPLINGS[coupling](5, 3, key=jr.fold_in(key, 2))),
    }
    return AssociativeMemory(
        neurons, synapses, {"three": ("a", "b", "c"), "one": ("b",), "two": ("a", "b")}
    )


def three_axes(key: jax.Array, coupling: str = "symmetric") -> AssociativeMemory:
    """A layer with three axes: all that takes layers of any rank, and a pair of vectors joined with
    it.
    """
    shape = SHAPES[2]
    affine = Affine(
        1 + 0.5 * normal(jr.fold_in(key, 0), (1, 5, 3)), normal(jr.fold_in(key, 1), (2, 1, 1))
    )
    neurons = {
        "x": Neurons(SphericalNorm((1, 2)), shape, tau=0.7, affine=affine),
        "v": Neurons(Tanh(), (4,), tau=1.9),
        "h": Neurons(Exponential(0.3), (3,)),
    }
    synapses: dict[str, AbstractSynapse] = {
        "patterns": _patterns(jr.fold_in(key, 2), shape, "log-sum-exp", "dot"),
        "bias": Bias(normal(jr.fold_in(key, 3), (2, 1, 3))),
        "hyper": _hyper(jr.fold_in(key, 4), shape, (4,)),
        "dense": Dense(COUPLINGS[coupling](4, 3, key=jr.fold_in(key, 5))),
    }
    ends = {"patterns": ("x",), "bias": ("x",), "hyper": ("x", "v"), "dense": ("v", "h")}
    return AssociativeMemory(neurons, synapses, ends)


MEMORIES: dict[str, Callable[..., AssociativeMemory]] = {
    "dense pair": dense_pair,
    "three layers": three_layers,
    "hopfield": hopfield,
    "hidden affine": hidden_affine,
    "mixing, joint norm": mixing,
    "mixing, norm of each token": partial(mixing, norm="token", scale="scalar"),
    "energy transformer": energy_transformer,
    "patterns": patterns,
    "on a grid": on_a_grid,
    "many-body": many_body,
    "three axes": three_axes,
}
"""Without inputs and clamps, which the tests add: `MEMORIES[name](key, coupling)`."""


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


def random_state(
    memory: AssociativeMemory, key: jax.Array, scale: float = 1.0, examples: tuple[int, ...] = ()
) -> dict[str, jax.Array]:
    """A Gaussian state, or a stack of states."""
    keys = jr.split(key, len(memory.neurons))
    shapes = {name: (*examples, *layer.shape) for name, layer in memory.neurons.items()}
    return {name: scale * normal(k, shape) for k, (name, shape) in zip(keys, shapes.items())}
