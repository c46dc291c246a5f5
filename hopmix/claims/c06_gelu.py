r"""C06: how large a step may be when the potential is not convex, as with GELU hidden units.

Let $U + \tfrac K2 |g|^2$ be convex, and let the divergence of the visible Lagrangian be at least
$\tfrac12 \sum r(x')\,|g' - g|^2$ over groups of units, with a *softness* $r$ of each group. Then a
leaky step within [0, 1] lowers the energy if, in each group, $\eta \le (r + r')/(K +
\text{leak}\,r)$. Any Lagrangian has $r = 1/\ell$, its largest curvature; a layer norm has much
more, $r = \sqrt{\operatorname{var}(x) + \epsilon}/\gamma$.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import derive_block
from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm, Quadratic, SphericalNorm, Tanh
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._potential import Potential, eliminate
from hopmix._synapse import Bias, ChannelMixing, Dense, TokenMixing
from hopmix._types import Layer, PRNGKey, Scalar, ScalarLike
from hopmix.claims._claim import Claim, Measurement, share, where_it_fails
from hopmix.claims._draws import CHANNELS, TOKEN_HIDDEN, draw_systems, mixer
from hopmix.claims._mixer import BRANCHES, mixer_memory
from hopmix.claims._numbers import generator
from hopmix.claims.c01_descent import block_gap, dissipation, identity_gap

DEEPEST = -(2**0.5)
"""Where GELU falls most steeply, with a slope of -0.1289."""


class Sphere(NamedTuple):
    r"""A norm as an exact projection on a sphere, for each group; see `sphere_of`.

    - `softness`: $r = s/\gamma$, the distance of the state from the centre in units of the radius,
      over the radius.
    - `height`: the coordinate that completes a centred activation to a point on the sphere of
      radius $\gamma\sqrt N$.
    """

    softness: Layer
    height: Layer


def sphere_of(norm: LayerNorm | SphericalNorm, x: Layer) -> Sphere:
    r"""$r = s/\gamma$ and $\gamma\sqrt{N\epsilon}/s$ with $s = \sqrt{\operatorname{var}(x) +
    \epsilon}$ of each group.

    Of a spherical norm $r = s = \sqrt{|x|^2 + \epsilon}$ and $\sqrt\epsilon/s$.
    """
    if isinstance(norm, SphericalNorm):
        s = jnp.sqrt(jnp.sum(x**2, axis=norm.axes, keepdims=True) + norm.eps)
        return Sphere(s, norm.eps**0.5 / s)
    s = jnp.sqrt(jnp.var(x, axis=norm.axes, keepdims=True) + norm.eps)
    return Sphere(s / norm.scale, norm.scale * (norm.eps * (x.size // s.size)) ** 0.5 / s)


def norm_divergence(norm: LayerNorm | SphericalNorm, y: Layer, x: Layer) -> Scalar:
    r"""$D_L(y, x) = L(y) - L(x) - g(x) \cdot (y - x)$ of a norm: half the squared chord on its
    sphere, times $r(y)$.
    """
    there = sphere_of(norm, y)
    here = sphere_of(norm, x)
    chord = jnp.sum((norm.activation(y) - norm.activation(x)) ** 2, axis=norm.axes, keepdims=True)
    return 0.5 * jnp.sum(there.softness * (chord + (there.height - here.height) ** 2))


def softness_of(lagrangian: AbstractLagrangian, x: Layer) -> Layer:
    r"""$r(x)$ of each group, with $D_L(x, y) \ge \tfrac12 \sum r(x)\,|g(x) - g(y)|^2$ for all
    $y$.
    """
    if isinstance(lagrangian, LayerNorm | SphericalNorm):
        return sphere_of(lagrangian, x).softness
    return jnp.full((1,) * x.ndim, 1 / lagrangian.curvature[1], x.dtype)


def safe_step(
    lagrangian: AbstractLagrangian, x: Layer, concavity: ScalarLike, leak: ScalarLike = 0.0
) -> Scalar:
    r"""The largest step that is known to be safe from `x` before it is taken, $\min r/(K +
    \text{leak}\,r)$.

    Where the softness is the same everywhere, twice that, and at most 1/leak.
    """
    softness = softness_of(lagrangian, x)
    step = jnp.min(softness / (concavity + leak * softness))
    if isinstance(lagrangian, LayerNorm | SphericalNorm):
        return step
    return jnp.minimum(2 * step, jnp.where(leak > 0, 1 / jnp.where(leak > 0, leak, 1.0), jnp.inf))


def gelu_concavity(potential: Potential) -> Scalar:
    r"""$K = 0.1289\ldots\,\sum_h |W_h|_2^2$ of GELU layers: `concavity_bound`, for use inside
    `jax.vmap`.
    """
    synapses = potential.memory.synapses.values()
    ups = [s.coupling.up for s in synapses if isinstance(s, Dense | TokenMixing | ChannelMixing)]
    return -GELU().curvature[0] * jnp.sum(jnp.stack([jnp.linalg.norm(up, 2) ** 2 for up in ups]))


class Example(NamedTuple):
    """A memory with GELU units and a visible layer `"x"`, a state of it, a leak, and a step in
    units of `safe_step`.
    """

    memory: AssociativeMemory
    x: Layer
    leak: Scalar
    reach: Scalar


def biased_pair(weight: Scalar, visible: AbstractLagrangian | None = None) -> AssociativeMemory:
    r"""One visible unit and two GELU units with weights $\pm w$ and biases $-\sqrt2$.

    At $x = 0$ both units fall most steeply, and $U$ has a maximum that is as sharp as $K$ allows.
    """
    neurons = {
        "x": Neurons(Quadratic() if visible is None else visible, (1,)),
        "h": Neurons(GELU(), (2,)),
    }
    synapses = {
        "s": Dense(Coupling(jnp.stack([weight, -weight])[:, None])),
        "b": Bias(jnp.full(2, DEEPEST)),
    }
    return AssociativeMemory(neurons, synapses, {"s": ("x", "h"), "b": ("h",)})


ACROSS = np.asarray([1.0, 1.0, -1.0, -1.0]) / 2
ALONG = np.asarray([1.0, -1.0, 0.0, 0.0]) / 2**0.5


def sphere_pair(weight: Scalar) -> AssociativeMemory:
    r"""Four units behind a layer norm, and two GELU units with rows $-u_0/\sqrt2 \pm w\,u_1$ and no
    biases.

    $u_0$ and $u_1$ are orthogonal; at the state $u_0$, where $g = 2u_0$, the first part does what
    biases do in `biased_pair`.
    """
    rows = jnp.stack([sign * weight * ALONG + 0.5 * DEEPEST * ACROSS for sign in (1, -1)])
    neurons = {"x": Neurons(LayerNorm(), (4,)), "h": Neurons(GELU(), (2,))}
    return AssociativeMemory(neurons, {"s": Dense(Coupling(rows))}, {"s": ("x", "h")})


def joint_mixer(key: PRNGKey) -> AssociativeMemory:
    """A mixer with GELU units and a joint norm, without shift and biases."""
    return mixer(key, GELU())


def biased_mixer(key: PRNGKey) -> AssociativeMemory:
    """A mixer with GELU units and biases, and a norm of each token with scale and shift."""
    plain = mixer(key, GELU(), LayerNorm((-1,), 1.7, jr.normal(key, (1, CHANNELS))))
    biases = {
        "up": Bias(jr.normal(key, (TOKEN_HIDDEN, 1))),
        "down": Bias(jr.normal(key, (1, CHANNELS))),
    }
    ends = dict(plain.connections) | {"up": ("token",), "down": ("x",)}
    return AssociativeMemory(plain.neurons, plain.synapses | biases, ends)


def explicit_step(potential: Potential, x: Layer, leak: ScalarLike, step: ScalarLike) -> Layer:
    """What a block does, with a leak and a step that may differ from example to example."""
    return x + step * (potential.force(potential.neurons.lagrangian.activation(x)) - leak * x)


def step_gap(example: Example, stretch: float) -> Scalar:
    r"""By how much one step raises the energy beyond what is granted, relative to the energy:

    $$E(x') - E(x) \le -\tfrac12 \sum_{\text{groups}} \left[\frac{(1 - \text{leak}\,\eta)\,r + r'}{\eta} - K\right]
      |g' - g|^2.$$
    """  # noqa: E501
    memory, x, leak, reach = example
    potential = eliminate(memory, [name for name in memory.neurons if name != "x"])
    lagrangian = potential.neurons.lagrangian
    concavity = gelu_concavity(potential)
    step = stretch * reach * safe_step(lagrangian, x, concavity, leak)
    after = explicit_step(potential, x, leak, step)
    g = lagrangian.activation(x)
    g_after = lagrangian.activation(after)
    energies = [
        leak * potential.neurons.energy(y) - potential(h) for y, h in ((x, g), (after, g_after))
    ]
    here = softness_of(lagrangian, x)
    there = softness_of(lagrangian, after)
    slack = ((1 - leak * step) * here + there) / step - concavity
    granted = -0.5 * jnp.sum(jnp.maximum(slack, 0) * (g_after - g) ** 2)
    return (energies[1] - energies[0] - granted) / (jnp.abs(energies[0]) + jnp.abs(energies[1]))


@eqx.filter_jit
def step_gaps(examples: Example, stretch: float) -> Float[Array, " examples"]:
    """The gap of each of a stack of examples."""
    return eqx.filter_vmap(lambda e: step_gap(e, stretch))(examples)


def draw_examples(key: PRNGKey, number: int) -> list[Example]:
    """Stacks of four kinds: maxima of the potential without and with a norm, mixers with and
    without what moves it.
    """
    random = generator(key)
    some = lambda low, high: jnp.asarray(random.uniform(low, high, number))
    normal = lambda *shape: jnp.asarray(random.normal(size=(number, *shape)))
    weights = some(1, 10)
    still = jnp.zeros(number)
    near = ACROSS[None] + 1e-3 * normal(4)
    biased, states = draw_systems(biased_mixer, key, number)
    joint, joint_states = draw_systems(joint_mixer, key, number)
    # Behind one norm without shift and biases the softness never falls: a step may reach twice as
    # far.
    return [
        Example(eqx.filter_vmap(biased_pair)(weights), 0.1 * normal(1), some(0, 1), some(0.5, 1)),
        Example(
            eqx.filter_vmap(sphere_pair)(4 + weights),
            some(0.2, 5)[:, None] * near,
            still,
            some(1, 2),
        ),
        Example(biased, states["x"], some(0, 2), some(0.5, 1)),
        Example(joint, joint_states["x"], still, some(1, 2)),
    ]


# ---- What is not granted -------------------------------------------------------------------------


class CounterExample(NamedTuple):
    """A `smallest_mixer` and a state of it, and GELU units that take time, with their states."""

    mixer: AssociativeMemory
    x: Layer
    slow: AssociativeMemory
    h: Layer


def smallest_mixer(token: Float[Array, "1 2"], channel: Float[Array, "1 2"]) -> AssociativeMemory:
    """Two tokens of two channels, one hidden unit for each mixing, a joint norm, no biases: nothing
    is left out.
    """
    couplings = {"token": Coupling(token), "channel": Coupling(channel)}
    return mixer_memory(Neurons(LayerNorm(), (2, 2)), GELU(), couplings)


RISING = ([[4.0, 0.0]], [[4.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]])
"""Weights of both mixings, and a state, from which a step of size 1 raises the energy by 0.231."""


def slow_units(up: Float[Array, "hidden visible"]) -> AssociativeMemory:
    """Visible tanh units and GELU units with a time constant of their own."""
    neurons = {"v": Neurons(Tanh(), up.shape[1:]), "h": Neurons(GELU(), up.shape[:1], tau=0.7)}
    return AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})


def step_rise(memory: AssociativeMemory, x: Layer) -> Scalar:
    """By how much a residual step of size 1 of a mixer raises the energy."""
    block = derive_block(memory, BRANCHES)
    return block.energy(block(x)) - block.energy(x)


def visible_at_rest(memory: AssociativeMemory, h: Layer) -> dict[str, Layer]:
    r"""The state of `slow_units` whose visible layer follows the hidden one, $x =
    W^\top\mathrm{GELU}(x_h)$.
    """
    return {"v": memory.current("v", {"h": GELU().activation(h)}), "h": h}


def counter_gap(example: CounterExample) -> Scalar:
    r"""How far $\dot E$ is from $-\tau_h \sum \mathrm{GELU}' \dot x_h^2$ where hidden units take
    time, and from $-\dot x^\top H \dot x$ where they do not, relative; 1 unless the former is a
    rise and the mixer rises."""
    state = visible_at_rest(example.slow, example.h)
    fast = derive_block(example.slow, ["h"], leak=1.0)
    gap = jnp.maximum(identity_gap(example.slow, state), block_gap(fast, state["v"]))
    rises = (step_rise(example.mixer, example.x) > 0) & (dissipation(example.slow, state) < 0)
    return where_it_fails(rises, gap)


def draw_counter_examples(key: PRNGKey, number: int) -> CounterExample:
    """A stack of mixers close to the one of `RISING`, and of hidden states where all GELU units
    fall.
    """
    random = generator(key)
    noise = lambda *shape: jnp.asarray(random.normal(size=(number, *shape)))
    token, channel, x = (jnp.asarray(a)[None] + 0.003 * noise(*np.shape(a)) for a in RISING)
    h = jnp.asarray(random.uniform(-3, -1, (number, 4)))
    return CounterExample(
        eqx.filter_vmap(smallest_mixer)(token, channel),
        x,
        eqx.filter_vmap(slow_units)(noise(4, 3)),
        h,
    )


@eqx.filter_jit
def counter_gaps(examples: CounterExample) -> Float[Array, " examples"]:
    """The gap of each of a stack of counter-examples."""
    return eqx.filter_vmap(counter_gap)(examples)


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst rise over random states, steps within their bounds, and memories made to come close
    to them; and the counter-examples."""
    number = share(examples, 5)
    gaps = [step_gaps(stack, 1.0) for stack in draw_examples(key, number)]
    gaps += [counter_gaps(draw_counter_examples(jr.fold_in(key, 1), number))]
    return Measurement(float(jnp.maximum(jnp.max(jnp.concatenate(gaps)), 0)), 1e-12, 5 * number)


CLAIM = Claim(
    id="C06",
    statement="where U + K/2 |g|^2 is convex (GELU: K = 0.1289 sum |W|^2) steps to 2/(K l + leak), "
    "behind a norm to min (s + s')/(scale K + leak s), descend (1/leak at most); "
    "a 2 x 2 mixer rises at step 1, flows with tau_h > 0 can",
    source="hopmix",
    status="proved",
    page="C06-gelu.md",
    test="test_c06_gelu.py",
    what="rise in one step above what is granted, gap of the rates for tau_h > 0 and 0, "
    "relative; 1 unless the "
    "counter-examples rise",
    measure=measure,
)
