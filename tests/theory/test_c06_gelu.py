"""C06: GELU hidden units are safe up to a step that is known, and not beyond it.
`theory/C06-gelu.md`.
"""

import math
import runpy
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix import (
    GELU,
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    Quadratic,
    Sigmoid,
    SphericalNorm,
    Tanh,
    certify,
    concavity_bound,
    derive_block,
    descend,
)
from hopmix._dynamics import velocity
from hopmix.claims import c06_gelu as claim
from hopmix.claims._draws import draw_systems, mixer
from hopmix.claims._mixer import BRANCHES

THEORY = Path(__file__).parents[2] / "theory"
DEEPEST_SLOPE = math.erfc(1) / 2 - math.exp(-1) / math.sqrt(math.pi)


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 48)
    assert found.passed, found
    assert found.examples == 50


def test_the_measurement_fails_where_a_counter_example_does_not_rise(getkey):
    """A mixer of weights a quarter as large; hidden states at which GELU rises; and both as they
    should be.
    """
    right = claim.draw_counter_examples(getkey(), 12)
    assert jnp.max(claim.counter_gaps(right)) < 1e-12
    weak = jax.tree.map(
        lambda leaf: 0.25 * leaf if eqx.is_inexact_array(leaf) and leaf.ndim == 3 else leaf,
        right.mixer,
    )
    assert jnp.all(claim.counter_gaps(right._replace(mixer=weak)) == 1)
    assert jnp.all(claim.counter_gaps(right._replace(h=-right.h)) == 1)


@pytest.fixture
def maxima(getkey):
    """The claim's own examples close to the maxima of U, with all of the bound used up, without and
    behind a norm.
    """
    biased, sphere, *_ = claim.draw_examples(getkey(), 12)
    whole = lambda e, x, reach: eqx.tree_at(
        lambda e: (e.x, e.reach, e.leak), e, (x, jnp.full(12, reach), jnp.zeros(12))
    )
    tilted = jnp.tile(claim.ACROSS + 1e-3 * claim.ALONG, (12, 1))
    return whole(biased, jnp.full((12, 1), 1e-3), 1.0), whole(sphere, tilted, 2.0)


def test_no_step_above_one_over_the_leak_is_safe_behind_a_norm():
    """The state turns round though the step is below 2/(K l + leak): the bound of statement 3 needs
    its minimum.
    """
    neurons = {"x": Neurons(LayerNorm(eps=1e-10), (2,)), "h": Neurons(GELU(), (1,))}
    synapses = {"s": Dense(Coupling(jnp.asarray([[1e-2, -1e-2]])))}
    memory = AssociativeMemory(neurons, synapses, {"s": ("x", "h")})
    x = jnp.asarray([20.0, -20.0])
    leak = 100.0
    for step, rises in ((0.0099, False), (0.019, True)):
        block = derive_block(memory, ["h"], leak=leak, step=step)
        highest = neurons["x"].lagrangian.curvature[1]
        assert step < 2 / (concavity_bound(block.potential) * highest + leak)
        assert bool(block.energy(block(x)) > block.energy(x) + 1e-6) is rises


@pytest.mark.parametrize("kind", [0, 1])
def test_the_bounds_are_sharp(kind, maxima):
    """Two per cent beyond them the energy rises; so it would with a constant that is two per cent
    smaller.
    """
    assert jnp.max(claim.step_gaps(maxima[kind], 1.0)) <= 1e-12
    assert jnp.min(claim.step_gaps(maxima[kind], 1.02)) > 1e-9


# ---- The divergence of a norm --------------------------------------------------------------------

NORMS = {
    "joint": LayerNorm(),
    "token, scale and shift": LayerNorm((-1,), 1.7, jnp.linspace(-1, 1, 5)[None]),
    "large eps": LayerNorm((-1,), 0.6, eps=0.7),
    "exact": LayerNorm((0,), eps=0.0),
    "sphere": SphericalNorm(eps=0.4),
    "exact sphere of each token": SphericalNorm((-1,), eps=0.0),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_divergence_of_a_norm_in_closed_form(name, getkey):
    norm = NORMS[name]

    @jax.jit
    def both(y, x):
        direct = norm(y) - norm(x) - jnp.sum(norm.activation(x) * (y - x))
        work = jnp.sum((y - x) * (norm.activation(y) - norm.activation(x)))
        shift = norm.activation(jnp.zeros_like(x)) if norm.eps else jnp.zeros_like(x)
        squares = jnp.sum((norm.activation(x) - shift) ** 2, axis=norm.axes, keepdims=True)
        radii = squares + claim.sphere_of(norm, x).height ** 2
        bound = 0.5 * sum(
            jnp.sum(claim.softness_of(norm, z) * (norm.activation(y) - norm.activation(x)) ** 2)
            for z in (x, y)
        )
        return (
            claim.norm_divergence(norm, y, x),
            claim.norm_divergence(norm, x, y),
            direct,
            work,
            bound,
            radii,
        )

    y = normal(getkey(), (4, 5))
    x = 0.3 * normal(getkey(), (4, 5))
    onward, backward, direct, work, bound, radii = both(y, x)
    assert_close(onward, direct, 1e-11)
    assert_close(onward + backward, work, 1e-11)
    assert bound <= work * (1 + 1e-12)
    size = x.size // radii.size if isinstance(norm, LayerNorm) else 1
    assert_close(radii, jnp.full_like(radii, getattr(norm, "scale", 1.0) ** 2 * size))


def test_the_bound_on_the_divergence_is_not_idle(getkey):
    r"""A softness twice as large would be wrong."""
    norm = LayerNorm()
    x = normal(getkey(), (6,))
    y = x + 1e-3 * normal(getkey(), (6,))
    chord = jnp.sum((norm.activation(y) - norm.activation(x)) ** 2)
    assert_close(
        norm(y) - norm(x) - norm.activation(x) @ (y - x),
        0.5 * claim.softness_of(norm, y)[0] * chord,
        1e-4,
    )


@pytest.mark.parametrize("lagrangian", [Tanh(1.5), Sigmoid(2.0), Quadratic()])
def test_elsewhere_the_softness_is_that_of_the_steepest_point(lagrangian, getkey):
    y = normal(getkey(), (5, 200))
    x = normal(getkey(), (5, 200))
    excess = lagrangian(y) - lagrangian(x) - jnp.sum(lagrangian.activation(x) * (y - x))
    chord = jnp.sum((lagrangian.activation(y) - lagrangian.activation(x)) ** 2)
    assert excess >= 0.5 * float(claim.softness_of(lagrangian, y)[0, 0]) * chord * (1 - 1e-12)


# ---- The constant, the step, and what `certify` says ---------------------------------------------


def sample(memories, states):
    return jax.tree.map(
        lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, (memories, states["x"])
    )


@pytest.fixture
def gelu_block(getkey):
    memory, x = sample(*draw_systems(claim.biased_mixer, getkey(), 1))
    return derive_block(memory, ["token", "channel"], step=0.2), x


def test_the_constant_is_that_of_the_library(gelu_block):
    block, x = gelu_block
    memory = block.potential.memory
    norms = [
        np.linalg.norm(memory.synapses[name].coupling.up, 2) ** 2 for name in ("token", "channel")
    ]
    assert_close(claim.gelu_concavity(block.potential), jnp.asarray(-DEEPEST_SLOPE * sum(norms)))
    assert_close(
        claim.gelu_concavity(block.potential), jnp.asarray(concavity_bound(block.potential))
    )
    bound = claim.safe_step(block.potential.neurons.lagrangian, x, concavity_bound(block.potential))
    assert certify(block).step_bound_at(x) == pytest.approx(float(bound))
    quietest = np.min(np.std(np.asarray(x), axis=-1))
    assert float(bound) == pytest.approx(
        quietest / (1.7 * concavity_bound(block.potential)), rel=1e-4
    )
    leaky = derive_block(memory, ["token", "channel"], leak=0.5, step=0.2)
    assert_close(claim.explicit_step(block.potential, x, 0.5, 0.2), leaky(x))


def test_the_constant_bounds_every_hessian(fixedkey):
    """And not by far, of this example."""
    memory, _ = sample(*draw_systems(claim.biased_mixer, fixedkey(), 1))
    block = derive_block(memory, ["token", "channel"])
    states = 2 * normal(fixedkey(), (20, 24))

    @jax.jit
    def lowest(potential, g):
        hessian = jax.vmap(jax.hessian(lambda g: potential(g.reshape(4, 6))))(g)
        return jnp.min(jnp.linalg.eigvalsh(hessian))

    found = lowest(block.potential, states)
    bound = concavity_bound(block.potential)
    assert -bound <= found < -0.02 * bound


@pytest.mark.parametrize("leak", [0.0, 1.0])
def test_the_global_bound_of_a_visible_layer_without_norm(leak):
    """2/(K l + leak), and 1/leak: what `certify` proves, sharp for linear units at the maximum of
    U.
    """
    memory = claim.biased_pair(jnp.asarray(2.0))
    bound = certify(derive_block(memory, ["h"], leak=leak)).step_bound
    concavity = -DEEPEST_SLOPE * 8
    assert bound == pytest.approx(min(2 / (concavity + leak), math.inf if leak == 0 else 1 / leak))
    rises = [
        rise(derive_block(memory, ["h"], leak=leak, step=c * bound), jnp.asarray([0.01]))
        for c in (0.99, 1.01)
    ]
    assert rises[0] < 0
    assert (rises[1] > 0) is (bound < 1 / (leak or 1e-9))


def test_the_worst_case_of_tanh_units_is_sharp_too():
    """Where tanh is steepest, at 0, it is linear."""
    memory = claim.biased_pair(jnp.asarray(2.0), Tanh(1.5))
    bound = certify(derive_block(memory, ["h"])).step_bound
    assert bound == pytest.approx(2 / (-DEEPEST_SLOPE * 8 * 1.5))
    rises = [
        rise(derive_block(memory, ["h"], step=c * bound), jnp.asarray([0.01])) for c in (0.98, 1.02)
    ]
    assert rises[0] < 0 < rises[1]


def rise(block: Block, x) -> float:
    return float(block.energy(block(x)) - block.energy(x))


# ---- Behind one norm, without shift and biases, one bound serves a whole trajectory --------------


def test_the_norm_of_a_bias_free_mixer_never_falls(getkey):
    r"""$F(g) \cdot g = \sum h\,\mathrm{GELU}(h) \ge 0$: the state is pushed outwards, and
    softer.
    """
    memory, x = sample(*draw_systems(claim.joint_mixer, getkey(), 1))
    norm = memory.neurons["x"].lagrangian
    concavity = concavity_bound(derive_block(memory, ["token", "channel"]).potential)
    step = 2 * float(claim.safe_step(norm, x, concavity))
    path = descend(derive_block(memory, ["token", "channel"], step=step), x, 40)
    roots = jax.vmap(lambda x: claim.softness_of(norm, x))(path.states)
    assert jnp.all(jnp.diff(roots.ravel()) >= 0)
    assert bool(path.descends)


# ---- Real counter-examples -----------------------------------------------------------------------


TOKEN, CHANNEL, CORNER = map(jnp.asarray, claim.RISING)


def smallest_block(**options) -> Block:
    """The block of two tokens of two channels that rises."""
    return derive_block(claim.smallest_mixer(TOKEN, CHANNEL), BRANCHES, **options)


def test_a_tied_mixer_of_two_by_two_rises_at_step_one():
    """The residual block of the paper with exact GELU, checked with the error function alone."""
    erf = lambda h: np.vectorize(math.erf)(h / math.sqrt(2))
    phi = lambda h: h * (1 + erf(h)) / 2
    value = lambda h: (
        (h**2 + (h**2 - 1) * erf(h) + h * math.sqrt(2 / math.pi) * np.exp(-(h**2) / 2)) / 4
    )
    norm = lambda x: (x - x.mean()) / math.sqrt(x.var() + 1e-6)
    wt = np.asarray([[4.0, 0.0]])
    wc = np.asarray([[4.0, 1.0]])
    x = np.asarray([[0.0, 0.0], [0.0, 1.0]])
    potential = lambda x: np.sum(value(wt @ norm(x))) + np.sum(value(norm(x) @ wc.T))
    g = norm(x)
    after = x + wt.T @ phi(wt @ g) + phi(g @ wc.T) @ wc
    assert potential(x) - potential(after) == pytest.approx(0.231358, abs=1e-6)
    block = smallest_block()
    assert_close(block(CORNER), jnp.asarray(after))
    assert rise(block, CORNER) == pytest.approx(0.231358, abs=1e-6)
    certificate = certify(block)
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert not certificate.check_from(CORNER[None], steps=1).passed


def test_within_its_bound_and_along_the_flow_it_descends():
    certificate = certify(smallest_block())
    step = certificate.step_bound_at(CORNER)
    assert step == pytest.approx(2 * math.sqrt(3) / 4 / (-DEEPEST_SLOPE * (16 + 17)), rel=1e-4)
    path = descend(smallest_block(step=step), CORNER, 20)
    assert bool(path.descends)
    assert jnp.max(rates(smallest_block(), CORNER[None])) < 0


@eqx.filter_jit
def rates(block: Block, states):
    """dE/dt along the flow of a block."""
    return jax.vmap(lambda x: jax.jvp(block.energy, (x,), (block.force(x),))[1])(states)


def test_hidden_units_with_a_time_constant_of_their_own_rise(getkey):
    r"""The visible layer at rest, $x = W^\top\mathrm{GELU}(x_h)$: then $\dot E = -\tau_h \sum
    \mathrm{GELU}' \dot x_h^2$ exactly, positive for hidden states between -3 and -1. The eliminated
    memory descends."""
    up = 0.1 * normal(getkey(), (4, 3))
    h = -1 - 2 * jnp.abs(jnp.sin(normal(getkey(), (4,))))
    memory = claim.slow_units(up)
    state = claim.visible_at_rest(memory, h)
    assert_close(state["v"], up.T @ GELU().activation(h))
    rate = jax.jit(lambda x: jax.jvp(memory.energy, (x,), (velocity(memory, x),))[1])(state)
    slopes = GELU().hessian_vector_product(h, jnp.ones(4))
    moving = velocity(memory, state)
    assert_close(moving["v"], jnp.zeros(3))
    assert_close(rate, -0.7 * jnp.sum(slopes * moving["h"] ** 2), 1e-10)
    assert rate > 1e-3
    assert jnp.max(rates(derive_block(memory, ["h"], leak=1.0), 3 * normal(getkey(), (50, 3)))) < 0


@pytest.mark.parametrize("units", [1, 3])
def test_one_visible_unit_without_biases_never_rises(units, getkey):
    r"""In one dimension $x\,U'(x) = \sum h\,\mathrm{GELU}(h) \ge 0$: $U$ grows away from 0 on both
    sides, and a residual step leads away from 0. A violation needs biases, or several visible
    units."""
    up = 5 * normal(getkey(), (units, 1))
    x = normal(getkey(), (200, 1))
    neurons = {"v": Neurons(Quadratic(), (1,)), "h": Neurons(GELU(), (units,))}
    block = derive_block(
        AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")}), ["h"], step=3.0
    )
    rises = jax.jit(jax.vmap(lambda x: block.energy(block(x)) - block.energy(x)))(x)
    assert jnp.max(rises) <= 1e-12


def test_a_random_check_finds_no_rise(fixedkey):
    """Gaussian weights, steps of 0.1 to 10: no rise beyond rounding in 3000 steps. It would have
    missed all of this.
    """
    memories, states = draw_systems(partial(mixer, hidden=GELU()), fixedkey(), 50)

    @eqx.filter_jit
    @eqx.filter_vmap
    def worst(memory, x):
        paths = [
            descend(derive_block(memory, ["token", "channel"], step=s), x, 20)
            for s in (0.1, 1.0, 10.0)
        ]
        return jnp.stack(
            [jnp.max(jnp.diff(p.energies)) / jnp.max(jnp.abs(p.energies)) for p in paths]
        )

    assert jnp.max(worst(memories, states["x"])) <= 1e-14


def test_the_facts_hold_symbolically():
    runpy.run_path(str(THEORY / "step_balance.py"))["main"]()
