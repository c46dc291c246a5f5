"""C16: small breaking keeps a stable rest, and the residual bounds the attractor.
`theory/C16-small-breaking.md`.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close
from scipy.optimize import brentq

from hopmix import Coupling, Quadratic, Tanh, couplings
from hopmix.claims import c16_small_breaking as claim
from hopmix.claims._small_mixer import draw_weights, free, small_mixer
from hopmix.symmetry import breaking_bound, breaking_size

QUARTER_TURN = np.asarray([[0.0, -1.0], [1.0, 0.0]])


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 16)
    assert found.passed, found
    assert found.examples == 16


# ---- One unit, where all is known ----------------------------------------------------------------


def one_unit(weight: float, x: float, leak: float = 1.0):
    """x' = w tanh(w x) - leak x + I, with the current I for which it rests at x."""
    return claim.resting_block(Quadratic(), Tanh(), jnp.asarray([[weight]]), jnp.asarray([x]), leak)


def force_of_one(
    weight: float, rest: float, breaking: float, x: np.ndarray, leak: float = 1.0
) -> np.ndarray:
    """The force of `one_unit` with a breaking, by NumPy."""
    current = leak * rest - weight * np.tanh(weight * rest)
    return (weight + breaking) * np.tanh(weight * x) - leak * x + current


@pytest.mark.parametrize("weight, x, leak", [(0.8, 0.5, 1.0), (1.2, 1.5, 0.9), (0.3, -2.0, 0.4)])
def test_the_bound_of_one_unit_by_hand(weight, x, leak):
    slope = 1 / math.cosh(weight * x) ** 2
    margin = leak - weight**2 * slope
    bend = weight**3 * 4 / math.sqrt(27)
    radius = np.linspace(0, margin / bend, 100_001)[1:]
    steepness = weight * slope + weight**2 * radius * 4 / math.sqrt(27)
    inside = (
        radius * (margin - bend * radius / 2) / (abs(math.tanh(weight * x)) + radius * steepness)
    )
    best = np.max(np.minimum((margin - bend * radius) / steepness, inside))
    found = breaking_bound(one_unit(weight, x, leak), jnp.asarray([x])).bound
    assert 0.999 * best < found <= best * (1 + 1e-9)


def test_what_one_unit_tolerates_of_its_own_breaking_by_hand():
    """A breaking that flattens the slope at the rest counts by what it may steepen elsewhere in the
    ball.
    """
    weight = 0.8
    x = 0.5
    size = 0.4
    third = 4 / math.sqrt(27)
    margin = 1 - weight**2 / math.cosh(weight * x) ** 2
    bend = weight**3 * third
    radius = np.linspace(0, margin / bend, 100_001)[1:]
    steepness = size * weight**2 * radius * third
    force = size * abs(math.tanh(weight * x)) + radius * steepness
    best = np.max(
        np.minimum(
            (margin - bend * radius) / steepness, radius * (margin - bend * radius / 2) / force
        )
    )
    block = claim.break_by(one_unit(weight, x), np.asarray([[-size]]))
    found = breaking_bound(block, jnp.asarray([x])).times
    assert 0.999 * best < found <= best * (1 + 1e-9)
    flat = np.max(radius * (margin - bend * radius / 2) / (size * abs(math.tanh(weight * x))))
    assert best < 0.99 * flat


def fold(weight: float, rest: float) -> float:
    """The breaking at which a stable rest of one unit on the left meets an unstable one, and both
    vanish.

    The force is convex for x < 0: it has two zeros there, or none, by the sign of its minimum.
    """
    x = np.linspace(-4, 0, 400_001)
    return brentq(
        lambda breaking: np.min(force_of_one(weight, rest, breaking, x)), -0.5, 0.0, xtol=1e-9
    )


@pytest.mark.parametrize("weight, rest", [(1.2, -0.6), (1.3, -0.6)])
def test_a_breaking_a_quarter_above_the_bound_makes_a_rest_vanish(weight, rest):
    found = breaking_bound(one_unit(weight, rest), jnp.asarray([rest]))
    lost = fold(weight, rest)
    assert found.bound < abs(lost) < 1.25 * found.bound
    near = np.linspace(rest - found.radius, rest + found.radius, 2001)
    zeros = lambda b: np.count_nonzero(np.diff(np.sign(force_of_one(weight, rest, b, near))))
    assert zeros(1.01 * lost) == 0
    assert zeros(-0.999 * found.bound) == 1


def test_the_third_derivative_is_needed(monkeypatch):
    """With two thirds of what the slope loses in the ball, the bound would promise a rest that is
    gone.
    """
    weight = 1.3
    rest = -0.6
    honest = Tanh(1.0).third_derivative
    monkeypatch.setattr(Tanh, "third_derivative", honest / 1.5)
    assert breaking_bound(one_unit(weight, rest), jnp.asarray([rest])).bound > abs(
        fold(weight, rest)
    )


def test_a_degenerate_rest_vanishes_under_any_breaking():
    """Where w^2 / cosh^2(w x) = leak the force is -a (x - x*)^2: a breaking of 1e-6 of one sign
    leaves no zero.
    """
    weight = 1.5
    rest = math.acosh(weight) / weight
    found = breaking_bound(one_unit(weight, rest), jnp.asarray([rest]))
    assert math.isnan(found.bound)
    assert not found.persists
    assert "does not contract" in found.reason
    near = np.linspace(rest - 0.2, rest + 0.2, 40_001)
    assert np.max(force_of_one(weight, rest, -1e-6, near)) < 0
    assert np.max(force_of_one(weight, rest, 1e-6, near)) > 0
    assert math.isnan(breaking_bound(one_unit(weight, 0.0), jnp.zeros(1)).bound)  # a saddle


# ---- Linear units, where the bound is the best ---------------------------------------------------


@pytest.mark.parametrize("times, stable", [(0.999, True), (1.001, False)])
def test_no_larger_bound_holds_for_linear_units(times, stable, getkey):
    """The breaking c v u^T along the top singular vectors takes the top eigenvalue to zero."""
    up = np.asarray(jr.normal(getkey(), (3, 4)))
    left, sizes, right = np.linalg.svd(0.5 * up / np.linalg.norm(up, 2))
    up = (left * sizes) @ right[:3]
    x = jnp.asarray(np.linspace(-1, 1, 4))
    tied = claim.resting_block(Quadratic(), Quadratic(), jnp.asarray(up), x)
    bound = breaking_bound(tied, x).bound
    broken = claim.break_by(tied, times * bound * np.outer(right[0], left[:, 0]))
    assert (claim.find_rest(broken, x, 1).growth < 0) is stable
    assert breaking_bound(broken, x).persists is stable


# ---- The ball ------------------------------------------------------------------------------------


def test_the_flow_contracts_in_the_ball_and_stays_in_it(getkey):
    """Behind linear visible units all norms are the Euclidean one. Any breaking below the bound
    will do.
    """
    tied, x, direction = claim.draw(getkey(), 0)
    found = breaking_bound(tied, x)
    broken = claim.break_by(tied, 0.999 * found.bound * direction)
    rays = jr.normal(getkey(), (200, claim.VISIBLE))
    rays = found.radius * rays / jnp.linalg.norm(rays, axis=1, keepdims=True)
    shares = jr.uniform(getkey(), (200, 1))
    force = jax.jit(jax.vmap(broken.force))
    assert jnp.max(jnp.sum(rays * force(x[None] + rays), axis=1)) < 0
    inside = x[None] + shares * rays
    apart = inside[:100] - inside[100:]
    assert jnp.max(jnp.sum(apart * (force(inside[:100]) - force(inside[100:])), axis=1)) < 0


def test_a_state_that_is_no_rest_is_said_so(getkey):
    tied, x, _ = claim.draw(getkey(), 0)
    near = breaking_bound(tied, x + 1e-8)
    assert_close(jnp.asarray(near.bound), jnp.asarray(breaking_bound(tied, x).bound), 1e-3)
    far = breaking_bound(tied, x + 100.0)
    assert math.isnan(far.bound)
    assert "settle it first" in far.reason


# ---- The residual bounds the attractor -----------------------------------------------------------


def test_the_rate_of_the_tied_energy_in_a_mixer(getkey):
    """With GELU units, biases and free weights."""

    def measure(key):
        weights, x = draw_weights(key, 1)
        block = small_mixer(weights, free, bias=True, leak=0.7)
        return claim.rate_gap(block, x[0])

    assert jnp.max(jax.jit(jax.vmap(measure))(jr.split(getkey(), 50))) < 1e-11


def cycle(weight: float, turn: float, step: float, steps: int) -> np.ndarray:
    """A trajectory of x' = (w + turn R) tanh(w x) - x, R a quarter turn, by NumPy's own Runge-Kutta
    steps.
    """
    down = weight * np.eye(2) + turn * QUARTER_TURN
    force = lambda x: down @ np.tanh(weight * x) - x
    states = [np.asarray([0.1, 0.0])]
    for _ in range(steps):
        x = states[-1]
        a = force(x)
        b = force(x + step / 2 * a)
        c = force(x + step / 2 * b)
        d = force(x + step * c)
        states.append(x + step / 6 * (a + 2 * b + 2 * c + d))
    return np.asarray(states)


def test_a_limit_cycle_lies_within_the_bound():
    """Strongly broken: no rest is left, the state goes round, and the residual still bounds where
    and how fast.
    """
    weight = 1.3
    turn = 0.9
    step = 0.01
    path = cycle(weight, turn, step, 6000)[2000:]
    tied = weight * np.tanh(weight * path) - path
    residual = turn * np.tanh(weight * path) @ QUARTER_TURN.T
    energy = 0.5 * np.sum(path**2, axis=1) - np.sum(np.log(np.cosh(weight * path)), axis=1)
    square = lambda v: np.sum(v**2, axis=1)
    moving = square(tied + residual)
    assert np.min(moving) > 0.05
    assert np.ptp(np.unwrap(np.arctan2(path[:, 1], path[:, 0]))) > 20
    # The balance over time, exact up to what the energy has gained, and its two consequences on the
    # cycle.
    supplied = 0.5 * (square(residual) - square(tied) - moving)
    gained = step * (np.sum(supplied) - 0.5 * (supplied[0] + supplied[-1]))
    np.testing.assert_allclose(gained, energy[-1] - energy[0], atol=1e-4)
    assert np.mean(square(tied)) < np.mean(square(residual))
    assert np.mean(moving) < np.mean(square(residual))
    assert abs(np.mean(square(tied) + moving) / np.mean(square(residual)) - 1) < 0.02
    # The ceiling: the highest tied energy among states where the tied force is no larger than the
    # residual can be.
    largest = turn * math.sqrt(2)
    axis = np.linspace(-1, 1, 801) * (weight + turn) * math.sqrt(2)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    held = square(weight * np.tanh(weight * grid) - grid) <= largest**2
    heights = 0.5 * square(grid) - np.sum(np.log(np.cosh(weight * grid)), axis=1)
    assert np.max(energy) <= np.max(heights[held])
    assert np.max(np.linalg.norm(path, axis=1)) <= (weight + turn) * math.sqrt(
        2
    )  # the absorbing ball
    assert np.max(heights[held]) < 0.7 * np.max(heights)


def test_the_cycle_is_that_of_the_block():
    weight = 1.3
    turn = 0.9
    tied = claim.resting_block(Quadratic(), Tanh(), weight * jnp.eye(2), jnp.zeros(2), leak=1.0)
    block = claim.break_by(tied, turn * QUARTER_TURN)
    x = np.asarray([0.4, -1.1])
    by_hand = (weight * np.eye(2) + turn * QUARTER_TURN) @ np.tanh(weight * x) - x
    assert_close(block.force(jnp.asarray(x)), jnp.asarray(by_hand))
    assert breaking_size(block) == pytest.approx(turn)
    assert claim.find_rest(block, jnp.zeros(2), 1).growth > 0


def test_a_rest_of_the_broken_flow_is_where_both_are_equal(getkey):
    tied, x, direction = claim.draw(getkey(), 2)
    broken = claim.break_by(tied, 0.9 * breaking_bound(tied, x).bound * direction)
    sizes = claim.metric_sizes(broken, jnp.asarray(claim.find_rest(broken, x).state))
    assert_close(sizes.tied, sizes.residual, 1e-9)


def test_the_regulariser_bounds_the_size(getkey):
    """Spectral norms of both branches, below the root of what is charged for."""
    weights, _ = draw_weights(getkey(), 1)
    block = small_mixer(weights, free)
    pairs: list[Coupling] = couplings(block)
    gaps = [np.linalg.svd(np.asarray(pair.down - pair.up.T))[1] for pair in pairs]
    assert breaking_size(block) == pytest.approx(math.sqrt(sum(gap[0] ** 2 for gap in gaps)))
    assert breaking_size(block) < math.sqrt(sum(np.sum(gap**2) for gap in gaps))
