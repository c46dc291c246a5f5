"""Hypothesis strategies: small Lagrangians, couplings, memories and states.

Everything drawn is valid, and so is everything that it shrinks to: first fewer and smaller layers,
then simpler Lagrangians, then states with fewer and rounder entries. Entries of states are
multiples of scale/1024, so that nothing underflows or overflows; they are chosen one by one, with
or without noise. Weights are multiples of 1/8 from a seed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hopmix._coupling import Coupling
from hopmix._lagrangian import (
    GELU,
    AbstractLagrangian,
    Entmax,
    Exponential,
    GhostMax,
    LayerNorm,
    LogSumReLU,
    Quadratic,
    ReLU,
    RePU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
)
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.dtypes import precision_of
from hopmix._synapse import (
    AbstractSynapse,
    Attention,
    Bias,
    ChannelMixing,
    Convolution,
    Dense,
    HopfieldMemory,
    Pooling,
    TokenMixing,
)
from hopmix._system import AbstractSystem

Draw = Callable[
    [st.SearchStrategy], Any
]  # st.DrawFn is a protocol that nothing can be checked against
Kind = Literal["symmetric", "broken", "free"]
Lagrangians = st.SearchStrategy[AbstractLagrangian]
COUPLED = (ChannelMixing, TokenMixing, Convolution)
PARAMETERS = (1.0, 0.5, 2.0, 0.25)
TAUS = (1.0, 0.5, 2.0)


def lagrangians(
    *, convex: bool | None = None, elementwise: bool | None = None, dtype: Any = None
) -> st.SearchStrategy[AbstractLagrangian]:
    """Lagrangians of hopmix for layers of any shape (of at least one axis), alone or as a sum of
    two multiples.

    **Arguments:**

    - `convex`: `True` for convex ones alone, `False` for the others alone (`GELU`, `LogSumReLU`),
      `None` for both.
    - `elementwise`: `True` for independent units alone, `False` for groups alone (softmax and its
      kin, norms).
    - `dtype`: of the parameters, which are arrays; JAX's default float if `None`.
    """
    members = [row for row, *kind in _catalogue(dtype) if _matches((convex, elementwise), kind)]
    simple = st.one_of(members)
    if convex is False:
        return simple
    factor = _parameters(dtype)
    return simple | st.builds(lambda a, b, p, q: p * a + q * b, simple, simple, factor, factor)


def couplings(visible: int, hidden: int, *, kind: Kind | None = "symmetric", dtype: Any = None):
    """Couplings with weights between -1 and 1.

    **Arguments:**

    - `visible`, `hidden`: the numbers of units.
    - `kind`: `"symmetric"`, `"broken"` (tied plus a breaking), `"free"`, or `None` for any of the
      three.
    - `dtype`: of the weights; JAX's default float if `None`.
    """
    if kind is None:
        kinds = st.sampled_from(["symmetric", "broken", "free"])
    else:
        kinds = st.just(kind)
    up = _weights((hidden, visible), dtype)
    down = _weights((visible, hidden), dtype)
    broken = st.builds(Coupling, up, breaking=down)
    makes = {
        "symmetric": st.builds(Coupling, up),
        "broken": broken,
        "free": st.builds(Coupling.from_weights, up, down),
    }
    return kinds.flatmap(makes.__getitem__)


def memories(
    *, kind: Kind | None = "symmetric", convex: bool | None = True, dtype: Any = None
) -> st.SearchStrategy[AssociativeMemory]:
    """Memories of a visible layer `"x"` and one to three hidden layers `"h1"`, `"h2"`, ...

    Those of vectors are trees of dense synapses, with or without stored patterns and a bias. Those
    of tokens have mixings, convolutions and poolings, with or without attention and a bias. The
    first synapse, `"h1"`, always has a coupling. Activations are Lipschitz, so that no energy
    overflows; layers have up to 9 x 3 units.

    **Arguments:**

    - `kind`: of all couplings, as in `couplings`; tied by default.
    - `convex`: of all Lagrangians, as in `lagrangians`; convex by default.
    - `dtype`: of all parameters; JAX's default float if `None`.
    """
    # Made once: Hypothesis validates a new strategy at each draw.
    layers = lagrangians(convex=convex, dtype=dtype).filter(
        lambda x: math.isfinite(sum(x.curvature))
    )
    return _vector_memories(layers, kind, dtype) | _token_memories(layers, kind, dtype)


def states(of: Any, *, scale: float = 2.0, dtype: Any = None) -> st.SearchStrategy[Any]:
    """States with entries between -scale and scale.

    **Arguments:**

    - `of`: an `AssociativeMemory` (states map the names of its layers to arrays), a `Block`, or a
      shape.
    - `scale`: the largest magnitude of an entry.
    - `dtype`: by default that of the parameters; of a shape, JAX's default float.
    """
    if not isinstance(of, AbstractSystem):
        return _numbers(tuple(of), scale, dtype)
    dtype = precision_of(of) if dtype is None else dtype
    layers = of.map_layers(lambda layer: _numbers(layer.shape, scale, dtype))
    if isinstance(layers, dict):
        return st.fixed_dictionaries(layers)
    return layers


def _numbers(shape: tuple[int, ...], scale: float, dtype: Any) -> st.SearchStrategy[Array]:
    """Entries chosen one by one, plus noise or none: first the noise is shrunk away, then
    entries.
    """
    chosen = hnp.arrays(np.int64, shape, elements=st.integers(-1024, 1024))
    noise = _uniform(shape, 1024)
    counts = st.builds(lambda c, n: np.clip(c + n, -1024, 1024), chosen, st.just(0) | noise)
    return counts.map(lambda c: jnp.asarray(c * (scale / 1024), _float(dtype)))


def _weights(shape: tuple[int, ...], dtype: Any) -> st.SearchStrategy[Array]:
    return _uniform(shape, 8).map(lambda counts: jnp.asarray(counts / 8, _float(dtype)))


def _uniform(shape: tuple[int, ...], largest: int) -> st.SearchStrategy[np.ndarray]:
    # From a seed: shrinking hundreds of weights one by one would take minutes.
    draw = lambda seed: np.random.default_rng(seed).integers(
        -largest, largest, shape, endpoint=True
    )
    return st.integers(0, 2**16).map(draw)


def _parameters(dtype: Any) -> st.SearchStrategy[Array]:
    return st.sampled_from(PARAMETERS).map(lambda p: jnp.asarray(p, _float(dtype)))


def _float(dtype: Any) -> Any:
    if dtype is None:
        return jnp.result_type(float)
    return dtype


def _matches(wanted: tuple[bool | None, ...], kind: list[bool]) -> bool:
    return all(w is None or w == k for w, k in zip(wanted, kind))


def _catalogue(dtype: Any) -> Iterator[tuple[st.SearchStrategy[AbstractLagrangian], bool, bool]]:
    """The single Lagrangians from simple to intricate: a strategy, whether convex, whether
    elementwise.
    """
    beta = _parameters(dtype)
    axes = st.sampled_from([None, (-1,)])
    yield from ((st.just(simple), True, True) for simple in (Quadratic(), ReLU()))
    yield from ((st.builds(kind, beta), True, True) for kind in (Tanh, Sigmoid, Exponential))
    yield st.builds(RePU, st.integers(3, 4)), True, True
    yield from ((st.builds(kind, beta, axes), True, False) for kind in (Softmax, GhostMax))
    yield st.builds(SphericalNorm, axes), True, False
    yield st.builds(LayerNorm, axes, beta), True, False
    yield st.builds(Entmax, st.sampled_from([2.0, 1.5]), beta, axes), True, False
    yield st.just(GELU()), False, True
    yield st.builds(LogSumReLU, beta, axes=axes), False, False


# ---- Memories ------------------------------------------------------------------------------------


@st.composite
def _vector_memories(draw, layers: Lagrangians, kind: Kind | None, dtype: Any) -> AssociativeMemory:
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    names = ("x", "h1", "h2", "h3")[: len(sizes)]
    synapses: dict[str, AbstractSynapse] = {}
    connections: dict[str, tuple[str, ...]] = {}
    for i, child in enumerate(names[1:]):
        parent = draw(st.integers(0, i))
        synapses[child] = Dense(
            draw(couplings(sizes[parent], sizes[i + 1], kind=kind, dtype=dtype))
        )
        connections[child] = (names[parent], child)
    if draw(st.booleans()):
        patterns = draw(_weights((draw(st.integers(1, 3)), sizes[0]), dtype))
        synapses["patterns"] = HopfieldMemory(patterns, Softmax(draw(_parameters(dtype))))
        connections["patterns"] = ("x",)
    shapes = {name: (size,) for name, size in zip(names, sizes)}
    return _assemble(draw, layers, shapes, synapses, connections, dtype)


@st.composite
def _token_memories(draw, layers: Lagrangians, kind: Kind | None, dtype: Any) -> AssociativeMemory:
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    channels = draw(st.integers(1, 3))
    kinds = [
        draw(st.sampled_from(COUPLED)),
        *draw(st.lists(st.sampled_from((*COUPLED, Pooling)), max_size=2)),
    ]
    shapes: dict[str, tuple[int, ...]] = {"x": (math.prod(grid), channels)}
    synapses: dict[str, AbstractSynapse] = {}
    for name, synapse in zip(("h1", "h2", "h3"), kinds):
        synapses[name], shapes[name] = _branch(draw, synapse, grid, channels, kind, dtype)
    connections: dict[str, tuple[str, ...]] = {name: ("x", name) for name in synapses}
    if draw(st.booleans()):
        synapses["attention"] = _attention(draw, channels, dtype)
        connections["attention"] = ("x",)
    return _assemble(draw, layers, shapes, synapses, connections, dtype)


def _branch(
    draw: Draw, synapse: type, grid: tuple[int, int], channels: int, kind: Kind | None, dtype: Any
) -> tuple[AbstractSynapse, tuple[int, ...]]:
    """A synapse with the visible layer, and the shape of the hidden layer that it feeds."""
    tokens = math.prod(grid)
    units = draw(st.integers(1, 3))
    if synapse is Pooling:
        return Pooling(grid), (tokens, channels)
    if synapse is TokenMixing:
        return TokenMixing(draw(couplings(tokens, units, kind=kind, dtype=dtype))), (
            units,
            channels,
        )
    if synapse is ChannelMixing:
        return ChannelMixing(draw(couplings(channels, units, kind=kind, dtype=dtype))), (
            tokens,
            units,
        )
    return Convolution(draw(couplings(9 * channels, units, kind=kind, dtype=dtype)), grid), (
        tokens,
        units,
    )


def _attention(draw: Draw, channels: int, dtype: Any) -> Attention:
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), channels)
    queries = draw(_weights(shape, dtype))
    keys = draw(_weights(shape, dtype))
    return Attention(
        queries, keys, draw(_parameters(dtype)), draw(st.booleans()), draw(st.booleans())
    )


def _assemble(
    draw: Draw,
    layers: Lagrangians,
    shapes: dict[str, tuple[int, ...]],
    synapses: dict[str, AbstractSynapse],
    connections: dict[str, tuple[str, ...]],
    dtype: Any,
) -> AssociativeMemory:
    """The memory of these synapses, with or without a bias on one of the layers."""
    biased = draw(st.none() | st.sampled_from(sorted(shapes)))
    if biased is not None:
        synapses["bias"] = Bias(draw(_weights(shapes[biased], dtype)))
        connections["bias"] = (biased,)
    neurons = {
        name: Neurons(draw(layers), shape, draw(st.sampled_from(TAUS)))
        for name, shape in shapes.items()
    }
    return AssociativeMemory(neurons, synapses, connections)
