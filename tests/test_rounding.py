"""Rounding: what a comparison of two energies allows follows from their terms, on both sides and at
every scale.
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import MEMORIES, VISIBLE_SHAPE, assert_close, cast, make_block, normal, random_state

from hopmix import (
    GELU,
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    Exponential,
    HopfieldMemory,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Status,
    Tanh,
    certify,
    derive_block,
    descend,
)
from hopmix._numerics.rounding import allowed_rise, energy_magnitude, is_rounding, rounding_unit
from hopmix.testing import assert_energy_descends

dtypes = pytest.mark.parametrize(
    "dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__
)


def pair(up, visible=None, hidden=None) -> AssociativeMemory:
    """One coupling between two layers, of linear and of rectified units if nothing else is said."""
    visible = visible or Quadratic()
    hidden = hidden or ReLU()
    neurons = {"v": Neurons(visible, (up.shape[1],)), "h": Neurons(hidden, (up.shape[0],))}
    return AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})


# ---- The magnitude -------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_magnitude_counts_single_products(getkey):
    """Of a pair of quadratic layers, by NumPy: layers, |h| |W| |v|, the input, and the state times
    the slope.
    """
    up = np.asarray(normal(getkey(), (3, 4)))
    drive = np.asarray(normal(getkey(), (4,)))
    memory = pair(jnp.asarray(up), hidden=Quadratic()).drive({"v": jnp.asarray(drive)})
    v = np.asarray(normal(getkey(), (4,)))
    h = np.asarray(normal(getkey(), (3,)))
    layers = 0.5 * v @ v + 0.5 * h @ h
    terms = np.abs(h) @ np.abs(up) @ np.abs(v) + np.abs(drive) @ np.abs(v)
    slopes = np.abs(v * (v - drive - up.T @ h)).sum() + np.abs(h * (h - up @ v)).sum()
    found = memory.energy_magnitude({"v": jnp.asarray(v), "h": jnp.asarray(h)})
    assert_close(found, layers + terms + slopes)


@pytest.mark.parametrize("name", MEMORIES)
def test_no_energy_is_larger_than_its_magnitude(name, getkey):
    memory = MEMORIES[name](getkey())
    for scale in (1e-3, 1.0, 30.0):
        state = jax.tree.map(lambda a, s=scale: s * a, random_state(memory, getkey()))
        assert abs(memory.energy(state)) <= memory.energy_magnitude(state) * (1 + 1e-12)


def test_of_a_batch_each_example_has_its_magnitude(getkey):
    block = make_block(getkey())
    x = normal(getkey(), (VISIBLE_SHAPE[0], 3, VISIBLE_SHAPE[1]))
    expected = jnp.stack([block.energy_magnitude(x[:, i]) for i in range(3)])
    assert_close(block.energy_magnitude(x), expected)
    assert np.all(jnp.abs(block.energy(x)) <= expected)


def test_stored_patterns_count_the_products_of_their_similarities(getkey):
    """By default |E| and what relative errors of activations and parameters change: |xi s'(xi.g) g|
    twice.
    """
    patterns = np.asarray(normal(getkey(), (5, 4)))
    g = np.asarray(normal(getkey(), (4,)))
    memory = HopfieldMemory(jnp.asarray(patterns), Exponential(0.5))
    shares = np.exp(0.5 * patterns @ g)
    by_patterns = np.sum(np.abs(shares[:, None] * patterns * g[None]))
    by_state = np.sum(np.abs(g * (shares @ patterns)))
    # beta is a number of the type, not an array: it is not rounded
    assert_close(memory.energy_magnitude(jnp.asarray(g)), 2 * shares.sum() + by_patterns + by_state)


def test_magnitudes_of_half_precision_do_not_overflow():
    x = jnp.full((4096,), 60.0, jnp.float16)
    memory = AssociativeMemory({"v": Neurons(Quadratic(), x.shape)}, {}, {})
    found = energy_magnitude(memory, {"v": x})
    assert found.dtype == jnp.float32
    assert_close(found, 1.5 * 4096 * 3600)


# ---- Both sides of what is allowed ---------------------------------------------------------------


@dtypes
def test_the_allowance_is_in_units_of_the_terms(dtype):
    eps = float(jnp.finfo(dtype).eps)
    single = float(jnp.finfo(jnp.float32).eps)
    assert rounding_unit(dtype) == 8 * eps + 24 * min(eps, single)
    assert allowed_rise(jnp.asarray(3.0), jnp.asarray(5.0), dtype) == 8 * rounding_unit(dtype)
    wide = jnp.float32 if eps > single else dtype
    nothing = jnp.zeros((), dtype)
    for scale in (1e-2, 1.0, 1e2):
        before = {"m": jnp.asarray(scale * 3.0, wide)}
        after = {"m": jnp.asarray(scale * 5.0, wide)}
        for factor, expected in ((0.5, True), (2.0, False)):
            rise = jnp.asarray(factor * 8 * scale * rounding_unit(dtype), dtype)
            assert (
                bool(is_rounding(StandIn(), rise, (before, nothing), (after, nothing))) is expected
            )
    assert not is_rounding(
        StandIn(), jnp.asarray(jnp.nan, dtype), (before, nothing), (after, nothing)
    )


class StandIn:
    """A system whose states say their magnitude, which rounding of the state does not change."""

    def energy(self, state):
        return 0 * state["m"]

    def term_magnitude(self, state):
        return state["m"]


def overshooting(excess: float, dtype) -> Block:
    """A block of nothing but decay, x -> -(1 + excess) x, whose energy x^2/2 grows by (1 +
    excess)^2.
    """
    memory = pair(jnp.zeros((3, 5), dtype))
    return derive_block(memory, ["h"], leak=1.0, step=2 + excess)


@dtypes
@pytest.mark.parametrize("excess, rises", [(0.3, False), (12.0, True)])
def test_a_rise_beyond_rounding_is_seen_and_one_within_is_not(excess, rises, dtype, getkey):
    """The magnitude of x^2/2 is 3/2 x^2, and 5/2 after a step: allowed are 4 units of x^2, an
    excess of 4 units.
    """
    block = overshooting(excess * rounding_unit(dtype), dtype)
    for scale in (1e-2, 1.0, 30.0):
        x = jnp.asarray(scale * (1 + jnp.abs(normal(getkey(), (5,)))), dtype)
        descent = descend(block, x, 3)
        assert bool(descent.status == (Status.rose if rises else Status.descended))
        assert bool(descent.descends) is not rises
        assert certify(block).check_from(x[None], steps=3).passed is not rises
        if rises:
            with pytest.raises(AssertionError, match="The energy rises"):
                assert_energy_descends(block, block.energy, x[None], steps=3)
        else:
            assert_energy_descends(block, block.energy, x[None], steps=3)
            assert_energy_descends(block, lambda x, b=block: b.energy(x), x[None], steps=3)


@dtypes
def test_what_a_step_leaves_of_a_state_is_rounded_as_the_state_was(dtype):
    """A step of almost exactly 1/leak leaves rounding of x alone, x' = 0 up to eps x, and an energy
    above 0.
    """
    leak = 46.39570432087708
    up = -jnp.ones((3, 5), dtype)
    neurons = {"v": Neurons(ReLU(), (5,)), "h": Neurons(ReLU(), (3,))}
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})
    block = derive_block(memory, ["h"], leak=leak, step=1 / leak)
    assert certify(block).descends_in_steps
    x = -jnp.asarray([6.3, 2.1, 30.8, 0.7, 11.3], dtype)
    clamped = derive_block(memory.clamp({"v": jnp.zeros(5, bool)}), ["h"], leak=leak, step=1 / leak)
    for system in (block, clamped):
        assert descend(system, x, 3).descends
        assert certify(system).check_from(x[None], steps=3).passed
        assert_energy_descends(system, system.energy, x[None], steps=3)


def test_a_rise_is_compared_with_the_energies_at_hand():
    """A rise by half late in a descent is seen, however large the energy was at its start."""
    values = jnp.asarray([1e12, 1e3, 1.0, 1e-3, 1.5e-3], jnp.float32)
    energy = lambda x: jnp.interp(x["k"], jnp.arange(5, dtype=jnp.float32), values)
    with pytest.raises(AssertionError, match="rises in step 4"):
        assert_energy_descends(
            lambda x: {"k": x["k"] + 1}, energy, {"k": jnp.zeros(1, jnp.float32)}, steps=4
        )


def test_the_magnitude_may_be_given():
    """An energy whose terms cancel inside rises by their rounding; who knows the terms can say
    so.
    """
    energy = lambda x: jax.lax.stop_gradient((1e8 + x["k"] ** 2) - 1e8) + 0 * x["k"]
    states = {"k": jnp.asarray([0.9], jnp.float32)}
    step = lambda x: {"k": x["k"] + 2.3}
    with pytest.raises(AssertionError, match="The energy rises"):
        assert_energy_descends(step, energy, states, steps=1)
    assert_energy_descends(step, energy, states, steps=1, magnitude=lambda x: 2e8 + x["k"] ** 2)


@dtypes
@pytest.mark.parametrize(
    "visible", [Quadratic(), Tanh(), LayerNorm()], ids=lambda a: type(a).__name__
)
def test_a_proved_descent_is_never_said_to_rise(visible, dtype, getkey):
    """Leaky steps of convex units, until long after they have come to rest, with and without
    halving.
    """
    memory = cast(pair(0.3 * normal(getkey(), (6, 5)), visible, Tanh()), dtype)
    block = derive_block(memory, ["h"], leak=1.0, step=0.5)
    assert certify(block).descends_in_steps
    starts = [(scale * normal(getkey(), (5,))).astype(dtype) for scale in (1e-3, 1.0, 1e2)]
    for x in starts:
        assert bool(descend(block, x, 60).status == Status.descended)
    assert bool(descend(block, starts[1], 60, backtrack=True).descends)
    assert certify(block).check_from(jnp.stack(starts), steps=60).worst_rise <= rounding_unit(dtype)


def test_layer_norm_descends_from_large_states(getkey):
    """A certified leaky block of small weights: its energy is a small part of x.g and L."""
    random = np.random.default_rng(np.asarray(jr.key_data(getkey())))
    up = jnp.asarray(1e-3 * random.standard_normal((48, 24)), jnp.float32)
    block = derive_block(pair(up, LayerNorm(), GELU()), ["h"], leak=1.0, step=0.5)
    x = jnp.asarray(100 * random.standard_normal(24), jnp.float32)
    assert bool(descend(block, x, 30).status == Status.descended)


def test_a_run_away_is_not_called_a_rise():
    block = derive_block(pair(jnp.zeros((3, 5), jnp.float32)), ["h"], leak=1.0, step=1e6)
    descent = descend(block, jnp.ones(5, jnp.float32), 9)
    assert bool(descent.status == Status.not_finite)
    assert not certify(block).check_from(jnp.ones((1, 5), jnp.float32), steps=9).passed
    assert math.isinf(descent.energies[-1]) or math.isnan(descent.energies[-1])
