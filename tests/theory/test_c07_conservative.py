"""C07: which force fields have an energy. `theory/C07-conservative.md`."""

import runpy
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix import (
    GELU,
    AbstractLagrangian,
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Softmax,
    derive_block,
)
from hopmix._dynamics import velocity
from hopmix.claims import c07_conservative as claim
from hopmix.claims._mixer import asymmetry
from hopmix.claims._small_mixer import draw_weights, gain_potential, gained, small_mixer

SCRIPT = Path(__file__).parents[2] / "theory" / "conservative_fields.py"


def dense(
    up, down, *, hidden: AbstractLagrangian | None = None, visible: AbstractLagrangian | None = None
) -> Block:
    """A block of one dense synapse with given weights."""
    up = jnp.asarray(up)
    down = jnp.asarray(down)
    neurons = {
        "v": Neurons(Quadratic() if visible is None else visible, up.shape[1:]),
        "h": Neurons(GELU() if hidden is None else hidden, up.shape[:1]),
    }
    synapses = {"s": Dense(Coupling.from_weights(up, down))}
    return derive_block(AssociativeMemory(neurons, synapses, {"s": ("v", "h")}), ["h"], leak=1.0)


indices = eqx.filter_jit(lambda block, states: jax.vmap(lambda x: asymmetry(block, x))(states))


def worst(up, down, states, **kind) -> float:
    return float(jnp.max(indices(dense(up, down, **kind), states)))


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found


@pytest.fixture(scope="module")
def examples() -> claim.Example:
    return jax.jit(jax.vmap(claim.draw_example))(jr.split(jr.key(3), 20))


def test_each_part_fails_on_what_it_excludes(examples):
    worst = jax.jit(jax.vmap(claim.worst_gap))
    assert jnp.max(worst(examples)) < 1e-10
    assert jnp.min(worst(examples._replace(conservative=examples.broken))) > 1e-3


def test_circulation_vanishes_for_conservative_weights_only(examples):
    def relative_circulation(block, x, a, b):
        works = [
            claim._work(block, *side) for side in ((x, a), (x + a, b), (x + a + b, -a), (x + b, -b))
        ]
        return jnp.abs(sum(works)) / sum(map(jnp.abs, works))

    measure = jax.jit(jax.vmap(relative_circulation))
    assert jnp.max(measure(examples.conservative, *examples[2:])) < 1e-10
    assert jnp.median(measure(examples.broken, *examples[2:])) > 1e-2


def test_the_curl_of_the_work_is_the_asymmetry_of_hj(fixedkey):
    """The third derivatives of L drop out: d(H f)/dx and HJ have the same antisymmetric part, but
    are not equal.
    """
    block = dense(normal(fixedkey(), (4, 6)), normal(fixedkey(), (6, 4)), visible=LayerNorm())
    lift = block.potential.neurons.lagrangian.hessian_vector_product

    @jax.jit
    def matrices(x):
        h = jax.jacfwd(block.activation)(x)
        j = jax.jacfwd(block.force)(x)
        return jax.jacfwd(lambda x: lift(x, block.force(x)))(x), h @ j

    full, hj = matrices(normal(fixedkey(), (6,)))
    assert_close(full - full.T, hj - hj.T, 1e-11)
    assert jnp.max(jnp.abs(full - hj)) > 1e-2


# ---- Calibrated values ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def table(script) -> dict:
    return script["measure"](jr.key(5), 30)


def test_the_raw_jacobian_is_never_symmetric(table):
    assert len(table) == 9
    for name, (raw, _) in table.items():
        assert jnp.min(raw) > 0.02, name


def test_which_blocks_are_conservative(table, script):
    for name, (_, metric) in table.items():
        if name in script["CONSERVATIVE"]:
            assert jnp.max(metric) < 1e-14, name
        else:
            assert jnp.min(metric) > 1e-3, name
            assert jnp.median(metric) > 0.05, name


# ---- Down-weights W^T D --------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [GELU(), ReLU()], ids=lambda h: type(h).__name__)
def test_the_energy_of_gains_of_either_sign_falls_along_the_flow(hidden, getkey):
    """Its rate is minus the dissipation; for the block's own pseudo-energy only with units of
    degree one.
    """

    weights, states = jax.jit(jax.vmap(lambda key: draw_weights(key, 1)))(jr.split(getkey(), 20))

    @jax.jit
    @jax.vmap
    def rates(weights, x):
        block = small_mixer(weights, gained, hidden=hidden)
        moving = velocity(block, x)
        neurons = block.potential.neurons
        energy = lambda x: neurons.energy(x) - gain_potential(block, block.activation(x))
        loss = jnp.sum(moving * neurons.lagrangian.hessian_vector_product(x, moving))
        return [jax.jvp(e, (x,), (moving,))[1] for e in (energy, block.energy)], loss

    (exact, own), loss = rates(weights, states[:, 0])
    np.testing.assert_allclose(exact, -loss, rtol=1e-9)
    assert (jnp.max(jnp.abs(own / loss + 1)) > 1e-3) == isinstance(hidden, GELU)


def test_gains_of_units_that_compete_are_not_conservative(fixedkey):
    """V = W^T D needs elementwise hidden units: with softmax the slopes of one unit depend on the
    others.
    """
    up = normal(fixedkey(), (4, 6))
    states = normal(fixedkey(), (20, 6))
    gains = jnp.asarray([[1.0, -1.0, 2.0, 0.5]])
    assert worst(up, up.T, states, hidden=Softmax()) < 1e-14
    assert worst(up, 3 * up.T, states, hidden=Softmax()) < 1e-14
    assert worst(up, up.T * gains, states, hidden=Softmax()) > 1e-2


# ---- Single hidden units -------------------------------------------------------------------------


def test_every_unit_must_send_back_along_what_it_reads(fixedkey):
    up = normal(fixedkey(), (4, 6))
    states = normal(fixedkey(), (20, 6))
    gains = jnp.asarray([[1.0, -2.0, 0.0, 0.3]])
    assert worst(up, up.T * gains, states) < 1e-14
    turned = up.T.at[:, 1].set(up[1] + 0.1 * up[2])
    assert worst(up, turned, states) > 1e-3


def test_linear_units_are_an_exception():
    """For them V W symmetric is enough; GELU units with the same weights are not conservative."""
    up = np.eye(2)
    down = np.asarray([[1.0, 2.0], [2.0, -1.0]])
    states = normal(jr.key(1), (20, 2))
    assert worst(up, down, states, hidden=Quadratic()) < 1e-14
    assert worst(up, down, states, hidden=GELU()) > 1e-2


def test_units_that_are_linear_on_their_range_are_an_exception(getkey):
    """The same weights with ReLU units: an energy where all are active, none once the states meet
    the kinks.
    """
    up = np.eye(2)
    down = np.asarray([[1.0, 2.0], [2.0, -1.0]])
    active = 0.1 + jnp.abs(normal(getkey(), (20, 2)))
    assert worst(up, down, active, hidden=ReLU()) < 1e-14
    assert worst(up, down, active * jnp.asarray([[1.0, -1.0]]), hidden=ReLU()) > 0.1


@pytest.mark.parametrize("hidden", [GELU(), ReLU()], ids=lambda h: type(h).__name__)
def test_opposite_rows_are_an_exception(hidden, fixedkey):
    """phi(h) - phi(-h) = h: two units make a linear one, so that parallel rows have to be
    excluded.
    """
    a, b = normal(fixedkey(), (2, 6))
    up = jnp.stack([a, -a, b, -b])
    down = jnp.stack([b, -b, a, -a], axis=1)
    states = normal(fixedkey(), (20, 6))
    assert worst(up, down, states, hidden=hidden) < 1e-13
    assert worst(up[:3], down[:, :3], states, hidden=hidden) > 1e-3


def test_equal_rows_are_an_exception(fixedkey):
    """Units that read the same count together."""
    w, v = normal(fixedkey(), (2, 6))
    up = jnp.stack([w, w])
    states = normal(fixedkey(), (20, 6))
    assert worst(up, jnp.stack([w + v, w - v], axis=1), states) < 1e-13
    assert worst(up, jnp.stack([w + v, w + v], axis=1), states) > 1e-2


def test_behind_a_norm_a_constant_may_be_sent_for_free(fixedkey):
    """The mean of the force moves no activation: V = W^T D + 1 c^T is conservative under the norm,
    and only there.
    """
    up = normal(fixedkey(), (4, 6))
    c = normal(fixedkey(), (1, 4))
    states = normal(fixedkey(), (20, 6))
    down = up.T * jnp.asarray([[1.0, -2.0, 0.5, 0.3]]) + c
    assert worst(up, down, states, visible=LayerNorm()) < 1e-13
    assert worst(up, down, states) > 1e-2


# ---- Why the set of states must be simply connected ----------------------------------------------


def rotor(eps: float) -> Block:
    """Three units under a norm, linear hidden ones, and a force that turns the activation about (1,
    1, 1).
    """
    turn = np.asarray([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return dense(np.eye(3), 2 * np.eye(3) + turn, hidden=Quadratic(), visible=LayerNorm(eps=eps))


def circle(angles):
    """States around the axis (1, 1, 1), on the circle where all of this takes place."""
    plane = np.linalg.svd(np.ones((1, 3)))[2][1:]
    return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], 1) @ plane * np.sqrt(3))


def test_three_units_turn_for_ever_though_hj_is_symmetric():
    """With eps = 0 the states leave out the line of constants: around it the work does not
    vanish.
    """
    block = rotor(0.0)
    angles = np.linspace(0, 2 * np.pi, 65)
    states = circle(angles)
    assert jnp.max(indices(block, states)) < 1e-14
    work = jax.jit(jax.vmap(lambda start, side: claim._work(block, start, side)))
    # Activations turn on a circle of radius sqrt 3, along a force of sqrt 3.
    assert_close(abs(jnp.sum(work(states[:-1], jnp.diff(states, axis=0)))), 6 * np.pi, 1e-10)


def test_a_smoothed_norm_shows_it_only_near_constant_states():
    """With eps > 0 there is no hole, and HJ is far from symmetric where the hole was; at usual
    states it looks fine.
    """
    block = rotor(1e-6)
    states = circle(np.linspace(0, 2 * np.pi, 65))
    assert jnp.max(indices(block, states)) < 1e-5
    assert jnp.min(indices(block, 1e-3 * states)) > 0.1


def test_four_units_leave_no_room_for_this(fixedkey):
    """Behind the norm of four units the activations form a sphere, and the same rotation is seen
    everywhere.
    """
    turn = np.zeros((4, 4))
    turn[:2, 2:] = [[1, -1], [-1, 1]]
    block = dense(
        np.eye(4), np.eye(4) + turn - turn.T, hidden=Quadratic(), visible=LayerNorm(eps=0.0)
    )
    assert jnp.median(indices(block, normal(fixedkey(), (20, 4)))) > 1e-2
