r"""C17: when an explicit step contracts, at which rate, and in which metric.

The step $x' = (1 - s)\,x + \eta F(g)$, $s = \text{leak}\,\eta$, has a Lipschitz constant that
follows from those of the activation and of the force, tied or not
(`hopmix._certificate.contraction`). For conservative forces, $-K \le \nabla^2 U \le \Lambda$ with
$\Lambda \ge 0$, monotonicity says more: $\Lambda\ell < \text{leak}$ alone gives one rest, whatever
$K$ is, and each step $\eta \le 1/(\text{leak} + K\ell)$ brings the divergence $D_L(x, x^*)$ down by
the factor $1 - \eta\,(\text{leak} - \Lambda\ell)$.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._certificate.contraction import contraction_rate, step_lipschitz
from hopmix._coupling import Coupling
from hopmix._lagrangian import (
    GELU,
    AbstractLagrangian,
    Entmax,
    GhostMax,
    LayerNorm,
    Quadratic,
    ReLU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
)
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._potential import eliminate
from hopmix._synapse import Attention, ChannelMixing, Dense
from hopmix._synapse.attention import attention_disc
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, share, where_it_fails
from hopmix.claims._numbers import generator
from hopmix.claims.c06_gelu import explicit_step
from hopmix.claims.c13_transformer import exchange

TOKENS = 3
CHANNELS = 4
FAR = 400.0
"""A distance at which competitors have lost, to rounding."""

# ---- Activations ---------------------------------------------------------------------------------

# Each with a state where the slope is as steep as anywhere; the first two entries of competitors
# are tied.
STEEPEST: tuple[tuple[AbstractLagrangian, tuple[float, ...]], ...] = (
    (Tanh(1.7), (0.0,) * 4),
    (Sigmoid(3.0), (0.0,) * 4),
    (Softmax(1.3), (0.0, 0.0, -FAR, -FAR)),
    (GhostMax(1.3), (FAR, FAR, -FAR, -FAR)),
    (Entmax(2.0, 0.7), (0.0, 0.0, -FAR, -FAR)),
    (LayerNorm(None, 1.5, eps=0.4), (2.0,) * 4),
    (SphericalNorm(eps=0.3), (0.0,) * 4),
)


def slope_gaps(x: Float[Array, " four"]) -> Float[Array, " lagrangians"]:
    """By how much the norm of each Hessian exceeds its bound, and how far from it it is where it is
    steepest.
    """
    gaps = []
    for lagrangian, steep in STEEPEST:
        slope = lambda y, f=lagrangian.activation: jnp.linalg.norm(jax.jacfwd(f)(y), 2)
        highest = lagrangian.curvature[1]
        gaps += [slope(x) / highest - 1, jnp.abs(slope(jnp.asarray(steep)) / highest - 1)]
    return jnp.stack(gaps)


# ---- Attention on bounded tokens -----------------------------------------------------------------


class AttentionExample(NamedTuple):
    """Attention, tokens on a sphere, and the bounds for them."""

    attention: Attention
    g: Float[Array, "tokens channels"]
    low: Scalar
    high: Scalar
    read: Scalar


def read_lipschitz(attention: Attention, tokens: int, radius: float) -> float:
    r"""A Lipschitz constant of what tokens of size $R$ at most read, the usual attention with
    values made of keys: $\sum_h |M_h| \left[\sqrt n + \beta R^2 |M_h| (1 + \sqrt{n/2})\right]$,
    $M_h = W^{K\top}_h W^Q_h$, with $n$ tokens that attend to one token, at most."""
    products = np.einsum("hdc,hde->hce", np.asarray(attention.keys), np.asarray(attention.queries))
    norms = np.linalg.norm(products, 2, axis=(1, 2))
    listeners = tokens if attention.include_self else tokens - 1
    spread = float(attention.beta) * radius**2 * (1 + math.sqrt(listeners / 2))
    return float(np.sum(norms * (math.sqrt(listeners) + spread * norms)))


def attention_gap(example: AttentionExample) -> Scalar:
    """By how much the Hessian of attention, and the Jacobian of what is read, exceed their bounds;
    relative.
    """
    attention, g, low, high, read = example
    hessian = jax.hessian(lambda g: -attention.energy(g))(g).reshape(g.size, g.size)
    ends = jnp.linalg.eigvalsh(hessian)
    reads = jax.jacfwd(lambda g: exchange(attention, g).read)(g).reshape(g.size, g.size)
    excess = [
        (ends[-1] - high) / high,
        (low - ends[0]) / high,
        jnp.linalg.norm(reads, 2) / read - 1,
    ]
    return jnp.max(jnp.stack(excess))


def draw_attention(key: PRNGKey, number: int, include_self: bool, causal: bool) -> AttentionExample:
    """Two heads of random size and temperature, and tokens on a sphere of random radius."""
    random = generator(key)
    drawn = []
    for _ in range(number):
        queries, keys = jnp.asarray(
            random.normal(size=(2, 2, 2, CHANNELS)) * 10 ** random.uniform(-1, 0.5)
        )
        attention = Attention(
            queries, keys, jnp.asarray(random.uniform(0.1, 2)), include_self, causal
        )
        directions = random.normal(size=(TOKENS, CHANNELS))
        radius = float(random.uniform(0.2, 3))
        g = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        disc = attention_disc(attention, TOKENS, radius)
        bounds = (
            disc.centre - disc.radius,
            disc.centre + disc.radius,
            read_lipschitz(attention, TOKENS, radius),
        )
        drawn.append(AttentionExample(attention, g, *map(jnp.asarray, bounds)))
    return _stack(drawn)


def _stack(examples: list):
    return jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *examples
    )


# ---- Steps ---------------------------------------------------------------------------------------


def competing(ups: list[Array], downs: list[Array], tie: Scalar) -> AssociativeMemory:
    """Visible tanh units, with softmax and GELU units; V is a multiple of W^T and something
    else.
    """
    neurons = {
        "x": Neurons(Tanh(0.8), (5,)),
        "h": Neurons(Softmax(1.5), (4,)),
        "k": Neurons(GELU(), (3,)),
    }
    couplings = [Coupling(up, breaking=down, tie=tie) for up, down in zip(ups, downs)]
    synapses = {"xh": Dense(couplings[0]), "xk": Dense(couplings[1])}
    return AssociativeMemory(neurons, synapses, {"xh": ("x", "h"), "xk": ("x", "k")})


def rectified(ups: list[Array], downs: list[Array], tie: Scalar) -> AssociativeMemory:
    """Linear visible units and ReLU units."""
    neurons = {"x": Neurons(Quadratic(), (5,)), "h": Neurons(ReLU(), (4,))}
    synapses = {"xh": Dense(Coupling(ups[0], breaking=downs[0], tie=tie))}
    return AssociativeMemory(neurons, synapses, {"xh": ("x", "h")})


def attending(ups: list[Array], downs: list[Array], tie: Scalar) -> AssociativeMemory:
    """Tokens behind a norm that is not steep, with attention and ReLU units."""
    neurons = {"x": Neurons(LayerNorm((-1,), eps=1.0), (2, 5)), "h": Neurons(ReLU(), (2, 4))}
    heads = ups[1][None], ups[2][None]
    synapses = {
        "att": Attention(*heads, 0.5),
        "xh": ChannelMixing(Coupling(ups[0], breaking=downs[0], tie=tie)),
    }
    return AssociativeMemory(neurons, synapses, {"att": ("x",), "xh": ("x", "h")})


KINDS = ((competing, 1.2), (rectified, 1.6), (attending, 0.5))
"""Structures with the step of a block of leak 1: overshooting, and partial."""
SHAPES = ((4, 5), (3, 5), (3, 5))


def draw_blocks(key: PRNGKey, number: int, structure, step: float) -> Block:
    """A stack of blocks of leak 1 with V = +-W^T, broken by a random amount, and weights of random
    size.
    """
    random = generator(key)
    sizes = 10 ** random.uniform(-1.0, 0.0, number)
    broken = 10 ** random.uniform(-3, 0, number)
    some = lambda a, b: random.normal(size=(number, a, b)) * sizes[:, None, None]
    ups = [jnp.asarray(some(a, b)) for a, b in SHAPES]
    downs = [jnp.asarray(some(b, a) * broken[:, None, None]) for a, b in SHAPES]
    ties = jnp.asarray(random.choice([-1.0, 1.0], number))
    memories = eqx.filter_vmap(structure)(ups, downs, ties)
    hidden = [name for name in memories.neurons if name != "x"]
    return derive_block(memories, hidden, leak=1.0, step=step)


def each(blocks: Block) -> list[Block]:
    """The blocks of a stack."""
    dynamic, static = eqx.partition(blocks, eqx.is_array)
    leaves, structure = jax.tree.flatten(dynamic)
    rows = zip(*map(list, leaves), strict=True)
    return [eqx.combine(jax.tree.unflatten(structure, row), static) for row in rows]


def step_gap(block: Block, x: Layer, y: Layer, constant: Scalar) -> Scalar:
    """By how much a step moves two states, and any two close to the first, apart beyond what is
    granted; relative.
    """
    apart = jnp.linalg.norm(block(x) - block(y)) / jnp.linalg.norm(x - y)
    nearby = jnp.linalg.norm(jax.jacfwd(block)(x).reshape(x.size, x.size), 2)
    return jnp.maximum(apart, nearby) / constant - 1


def promise_gap(block: Block, x: Layer, rate: Scalar, steps: int = 300) -> Scalar:
    r"""By how much $|x' - x^*|$ exceeds $\tfrac{q}{1 - q} |x' - x|$ along the way to rest; where $q
    < 0.9$.
    """
    end, states = jax.lax.scan(lambda x, _: (block(x), x), x, None, length=steps)
    moved = jnp.sqrt(jnp.sum(jnp.diff(states, axis=0) ** 2, axis=range(1, states.ndim)))
    missing = jnp.sqrt(jnp.sum((states[1:] - end[None]) ** 2, axis=range(1, states.ndim)))
    gap = jnp.max(missing - rate / (1 - rate) * moved) / (1 + jnp.max(jnp.abs(states)))
    return jnp.where(rate < 0.9, gap, 0.0)


def promised_steps(rate: float, first: float, tolerance: float) -> int:
    """After how many calls a state that moved by `first` in the first one moves by `tolerance` at
    most.
    """
    return 1 + max(0, math.ceil(math.log(tolerance / first) / math.log(rate)))


@eqx.filter_jit
def step_gaps(
    blocks: Block, x: Layer, y: Layer, constants: Float[Array, " _"]
) -> Float[Array, "..."]:
    """Both gaps of each of a stack of blocks."""

    def gap(block, x, y, constant):
        return jnp.stack([step_gap(block, x, y, constant), promise_gap(block, x, constant)])

    return eqx.filter_vmap(gap)(blocks, x, y, constants)


# ---- Monotone forces -----------------------------------------------------------------------------


class Monotone(NamedTuple):
    """A memory with attraction, `up`, and repulsion, `away`, at leak 1, with a rest and another
    state.
    """

    up: Float[Array, "units visible"]
    away: Float[Array, "more visible"]
    rest: Float[Array, " visible"]
    x: Float[Array, " visible"]


VISIBLE = Tanh(0.8)
ATTRACTION = Softmax(1.5)
REPULSION = -1.0 * Tanh(2.0)


def attracted(example: Monotone) -> tuple[AssociativeMemory, Scalar, Scalar]:
    r"""The memory, at rest at `rest` by its input, with $K$ and $\Lambda$."""
    neurons = {
        "x": Neurons(VISIBLE, example.rest.shape),
        "h": Neurons(ATTRACTION, example.up.shape[:1]),
        "k": Neurons(REPULSION, example.away.shape[:1]),
    }
    synapses = {"xh": Dense(Coupling(example.up)), "xk": Dense(Coupling(example.away))}
    ends = {"xh": ("x", "h"), "xk": ("x", "k")}
    free = eliminate(AssociativeMemory(neurons, synapses, ends), ("h", "k"))
    current = example.rest - free.force(VISIBLE.activation(example.rest))
    neurons |= {"x": Neurons(VISIBLE, example.rest.shape, input=current)}
    concavity = -REPULSION.curvature[0] * jnp.linalg.norm(example.away, 2) ** 2
    smoothness = ATTRACTION.curvature[1] * jnp.linalg.norm(example.up, 2) ** 2
    return AssociativeMemory(neurons, synapses, ends), concavity, smoothness


def divergence(y: Layer, x: Layer) -> Scalar:
    """The Bregman divergence $D_L(y, x)$ of the visible units."""
    return VISIBLE(y) - VISIBLE(x) - jnp.sum(VISIBLE.activation(x) * (y - x))


def monotone_gap(example: Monotone) -> Scalar:
    r"""By how much a step misses the promised decrease of $D_L(x, x^*)$, and how much farther than
    $\ell\,|f|/(1 - \Lambda\ell)$ the activation is from rest; relative."""
    memory, concavity, smoothness = attracted(example)
    potential = eliminate(memory, ("h", "k"))
    highest = VISIBLE.curvature[1]
    margin = 1 - smoothness * highest
    step = 1 / (1 + concavity * highest)
    x = example.x
    rest = example.rest
    after = explicit_step(potential, x, 1.0, step)
    size = jnp.abs(VISIBLE(x)) + jnp.abs(VISIBLE(rest)) + jnp.sum(jnp.abs(x - rest))
    missed = (divergence(after, rest) - (1 - step * margin) * divergence(x, rest)) / size
    distance = jnp.linalg.norm(VISIBLE.activation(x) - VISIBLE.activation(rest))
    granted = highest / margin * jnp.linalg.norm(after - x) / step
    return jnp.maximum(missed, (distance - granted) / granted)


def draw_monotone(key: PRNGKey, number: int) -> Monotone:
    r"""Attraction with $\Lambda\ell$ between 0.05 and 0.95, and repulsion up to a hundred times as
    strong.
    """
    random = generator(key)
    normal = lambda *shape: random.normal(size=(number, *shape))
    up = normal(4, 5)
    away = normal(3, 5)
    bound = random.uniform(0.05, 0.95, number) / (ATTRACTION.curvature[1] * VISIBLE.curvature[1])
    up *= np.sqrt(bound / np.linalg.norm(up, 2, axis=(1, 2)) ** 2)[:, None, None]
    away *= (10 ** random.uniform(-1, 0.5, number))[:, None, None]
    return Monotone(*map(jnp.asarray, (up, away, 2 * normal(5), 3 * normal(5))))


# ---- What does not contract ----------------------------------------------------------------------


def lone_unit(weight: Scalar) -> Block:
    """One linear visible and one tanh unit; there are two more rests as soon as the squared weight
    is above 1.
    """
    neurons = {"x": Neurons(Quadratic(), (1,)), "h": Neurons(Tanh(), (1,))}
    synapses = {"s": Dense(Coupling(weight[None, None]))}
    memory = AssociativeMemory(neurons, synapses, {"s": ("x", "h")})
    return derive_block(memory, ["h"], leak=1.0, step=0.5)


def parts(weight: Scalar) -> Scalar:
    """By which factor a step takes two states close to zero, on either side of it, apart."""
    block = lone_unit(weight)
    small = jnp.full(1, 1e-3)
    return jnp.sum(block(small) - block(-small)) / jnp.sum(2 * small)


def loud_curvature(size: Scalar) -> Scalar:
    r"""The curvature of the attention of two tokens $(0, t)$ to each other and themselves, where
    the first one moves: $\beta t^2/4$ and more."""
    attention = Attention(jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)), 1.0, include_self=True)
    g = jnp.stack([jnp.zeros(()), size])[:, None]
    return -jax.hessian(attention.energy)(g)[0, 0, 0, 0]


def saturated_decay(size: Scalar) -> Scalar:
    r"""The share of $D_L(x, 0)$ that a step of 0.1 leaves of the concave $U = -\tfrac12 g^2$, leak
    1, $L = \log\cosh$.

    With the curvature -1 as a $\Lambda$ it would be 0.8; with $\Lambda = 0$ it is 0.9.
    """
    neurons = {"x": Neurons(Tanh(), (1,)), "h": Neurons(-1.0 * Quadratic(), (1,))}
    synapses = {"s": Dense(Coupling(jnp.ones((1, 1))))}
    block = derive_block(
        AssociativeMemory(neurons, synapses, {"s": ("x", "h")}), ["h"], leak=1.0, step=0.1
    )
    x = size[None]
    return Tanh()(block(x)) / Tanh()(x)


def counter_gap(weight: Scalar, size: Scalar, rate: Scalar) -> Scalar:
    r"""0 where no rate is promised and steps part, attention is steeper than any constant, and a
    $\Lambda$ below zero promises too much."""
    fails = (
        (rate == 1)
        & (parts(weight) > 1)
        & (loud_curvature(size) >= size**2 / 4)
        & (saturated_decay(size) > 0.8)
    )
    return where_it_fails(fails, jnp.zeros(()))


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst excess over all bounds, and the counter-examples."""
    number = share(examples, len(KINDS))
    keys = jr.split(key, 4 + len(KINDS))
    random = generator(keys[0])
    gaps = [_mapped(slope_gaps, jnp.asarray(3 * random.normal(size=(number, 4))))]
    for include_self, k in zip((True, False), keys[1:3]):
        attended = draw_attention(k, number, include_self, not include_self)
        gaps.append(_mapped(attention_gap, attended))
    gaps.append(_mapped(monotone_gap, draw_monotone(keys[3], number)))
    for (structure, step), k in zip(KINDS, keys[4:]):
        blocks = draw_blocks(k, number, structure, step)
        constants = jnp.asarray([step_lipschitz(block) for block in each(blocks)])
        shape = blocks.potential.neurons.shape
        x, y = 2 * jnp.asarray(random.normal(size=(2, number, *shape)))
        gaps.append(step_gaps(blocks, x, y, constants))
    weights = jnp.asarray(np.sqrt(1 + random.uniform(0.01, 0.1, number)))
    rates = jnp.asarray([contraction_rate(lone_unit(weight)) for weight in weights])
    sizes = jnp.asarray(10 ** random.uniform(1, 3, number))
    gaps.append(jax.jit(jax.vmap(counter_gap))(weights, sizes, rates))
    worst = float(jnp.max(jnp.concatenate([jnp.ravel(gap) for gap in gaps])))
    return Measurement(max(worst, 0.0), 1e-12, number * len(KINDS))


def _mapped(gap, examples) -> Array:
    return eqx.filter_jit(eqx.filter_vmap(gap))(examples)


CLAIM = Claim(
    id="C17",
    statement="a step contracts by |1 - s + step a m| + step (|a| d + r l), |F' - a| <= r, H in "
    "m +- d, tied or not; "
    "softmax is beta/2, attention K + beta R^2 c |M|^2 steep; one rest if leak > l max(F', 0), "
    "whatever min F'",
    source="Banach; Bauschke & Combettes 2017; Lu, Freund & Nesterov 2018; the constants of "
    "attention: hopmix",
    status="proved",
    page="C17-contraction.md",
    test="test_c17_contraction.py",
    what="largest excess over the bounds, or gap to them where they are attained; 1 unless the "
    "counter-examples fail",
    measure=measure,
)
