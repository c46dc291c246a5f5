r"""C04: leaky and residual layers are one dynamics in two gauges, if the activation does not depend
on scale.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm, ReLU, SphericalNorm
from hopmix._neurons import Neurons
from hopmix._potential import Potential, eliminate
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._mixer import BRANCHES, mixer_memory
from hopmix.claims._numbers import generator, in_batches
from hopmix.claims._small_mixer import CHANNELS, HIDDEN, TOKENS

DEPTH = 24

Step = Float[Array, ""]
Steps = Float[Array, " depth"]
Map = Callable[[Layer], Layer]


def residual_gains(steps: Steps) -> Steps:
    r"""The gains $\kappa_t = \eta_t / \prod_{s \le t}(1 - \eta_s)$ of the residual stack that leaky
    steps are.
    """
    return steps / jnp.cumprod(1 - steps)


def leaky_steps(gains: Steps) -> Steps:
    r"""The steps $\eta_t = \kappa_t / (1 + \sum_{s \le t} \kappa_s)$ of the leaky stack that a
    residual one is.
    """
    return gains / (1 + jnp.cumsum(gains))


def shrinkage(steps: Steps) -> Float[Array, " depth_and_start"]:
    r"""The factors $a_t = \prod_{s < t}(1 - \eta_s)$ between the two, $x_t = a_t y_t$, from $a_0 =
    1$.
    """
    return jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - steps)])


def leaky(force: Map, x: Layer, steps: Steps) -> Float[Array, "depth_and_start ..."]:
    r"""The states of $x_{t+1} = (1 - \eta_t)\,x_t + \eta_t F(x_t)$."""
    return _stack(lambda x, step: (1 - step) * x + step * force(x), x, steps)


def residual(force: Map, y: Layer, gains: Steps) -> Float[Array, "depth_and_start ..."]:
    r"""The states of $y_{t+1} = y_t + \kappa_t F(y_t)$."""
    return _stack(lambda y, gain: y + gain * force(y), y, gains)


def _stack(
    layer: Callable[[Layer, Step], Layer], x: Layer, numbers: Steps
) -> Float[Array, "depth_and_start ..."]:
    last, states = jax.lax.scan(lambda x, number: (layer(x, number), x), x, numbers)
    return jnp.concatenate([states, last[None]])


def orbit_gap(force: Map, x: Layer, steps: Steps, gains: Steps) -> Scalar:
    r"""The largest gap of $x_t$ and $a_t y_t$ over all layers, relative to $x_t$."""
    states = leaky(force, x, steps)
    scaled = jax.vmap(jnp.multiply)(shrinkage(steps), residual(force, x, gains))
    axes = tuple(range(1, states.ndim))
    return jnp.max(
        jnp.max(jnp.abs(states - scaled), axis=axes) / jnp.max(jnp.abs(states), axis=axes)
    )


def step_gap(force: Map, x: Layer, steps: Steps) -> Scalar:
    r"""The same layer by layer, each from the leaky state: however chaotic the stack, rounding does
    not build up.
    """
    states = leaky(force, x, steps)
    factors = shrinkage(steps)
    scaled = jax.vmap(jnp.divide)(states, factors)
    found = jax.vmap(lambda y, gain: y + gain * force(y))(scaled[:-1], residual_gains(steps))
    axes = tuple(range(1, states.ndim))
    return jnp.max(
        jnp.max(jnp.abs(found - scaled[1:]), axis=axes) / jnp.max(jnp.abs(found), axis=axes)
    )


def energy_gap(potential: Potential, x: Layer) -> Scalar:
    r"""The layer energy $x \cdot g - L(x)$, by which the energies of the gauges differ, relative to
    $|x||g|$.
    """
    g = potential.neurons.lagrangian.activation(x)
    return jnp.abs(potential.neurons.energy(x)) / jnp.sqrt(jnp.sum(x**2) * jnp.sum(g**2))


class Example(NamedTuple):
    """Weights that need not be tied, a state, the steps of a leaky stack and the gains of a
    residual one.
    """

    w_s: Float[Array, "hidden tokens"]
    v_s: Float[Array, "tokens hidden"]
    w_c: Float[Array, "hidden channels"]
    v_c: Float[Array, "channels hidden"]
    x: Layer
    steps: Steps
    gains: Steps


def draw_examples(key: PRNGKey, number: int) -> Example:
    """Gaussian weights and states, steps up to 0.9, gains up to 2."""
    random = generator(key)
    shapes = (
        (HIDDEN, TOKENS),
        (TOKENS, HIDDEN),
        (HIDDEN, CHANNELS),
        (CHANNELS, HIDDEN),
        (TOKENS, CHANNELS),
    )
    arrays = [random.normal(size=(number, *shape)) for shape in shapes]
    numbers = [random.uniform(0, largest, (number, DEPTH)) for largest in (0.9, 2.0)]
    return Example(*map(jnp.asarray, arrays + numbers))


def potential_of(
    e: Example, norm: AbstractLagrangian, hidden: AbstractLagrangian, tie: float
) -> Potential:
    """What is left of the memory of a mixer behind this norm; tied weights for 1, free ones for
    0.
    """
    couplings = {
        "token": Coupling(e.w_s, breaking=(1 - tie) * e.v_s, tie=tie),
        "channel": Coupling(e.w_c, breaking=(1 - tie) * e.v_c, tie=tie),
    }
    return eliminate(mixer_memory(Neurons(norm, (TOKENS, CHANNELS)), hidden, couplings), BRANCHES)


def force_of(potential: Potential) -> Map:
    """The force of the branches as a function of the state."""
    return lambda x: potential.force(potential.neurons.lagrangian.activation(x))


EXACT: tuple[tuple[AbstractLagrangian, AbstractLagrangian], ...] = (
    (LayerNorm(eps=0.0), GELU()),
    (LayerNorm((-1,), scale=1.7, eps=0.0), ReLU()),
    (SphericalNorm(eps=0.0), GELU()),
)
"""Norms whose activation does not depend on the scale of the state, each with hidden units."""


def worst_gap(e: Example) -> Scalar:
    """The worst gap over norms: whole stacks of tied weights both ways, single layers of free ones,
    and energies.
    """
    gaps = []
    for norm, hidden in EXACT:
        tied = potential_of(e, norm, hidden, 1.0)
        free = potential_of(e, norm, hidden, 0.0)
        gaps += [orbit_gap(force_of(tied), e.x, e.steps, residual_gains(e.steps))]
        gaps += [orbit_gap(force_of(tied), e.x, leaky_steps(e.gains), e.gains)]
        gaps += [step_gap(force_of(free), e.x, e.steps), energy_gap(tied, e.x)]
    return jnp.max(jnp.stack(gaps))


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst relative gap over random stacks of 24 layers."""
    gaps = in_batches(worst_gap, draw_examples(key, examples))
    return Measurement(float(jnp.max(gaps)), 1e-10, examples)


CLAIM = Claim(
    id="C04",
    statement="behind an exact norm (eps = 0) a leaky stack with steps eta_t < 1 is a residual "
    "one with gains "
    "eta_t / prod_(s<=t) (1 - eta_s), and the energies are equal; every residual stack is a "
    "leaky one",
    source="hopmix; the algebra is that of weight decay behind a norm (Li & Arora, ICLR 2020)",
    status="proved",
    page="C04-gauge.md",
    test="test_c04_gauge.py",
    what="relative gap of the states in 24 layers, and of the energies",
    measure=measure,
)
