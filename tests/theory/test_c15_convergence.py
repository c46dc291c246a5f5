"""C15: where trajectories end, and at which rate; and those that end nowhere.
`theory/C15-convergence.md`.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix import (
    GELU,
    AssociativeMemory,
    Bias,
    Block,
    Coupling,
    Dense,
    HyperSynapse,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Softmax,
    Tanh,
    derive_block,
    descend,
    flow,
    velocity,
)
from hopmix.claims import c15_convergence as c15
from hopmix.claims._draws import draw_memory, draw_state
from hopmix.claims._mixer import BRANCHES


def fixed(shape, scale=1.0, seed=0):
    """Gaussian numbers that are the same in every run: for examples that are studied at length."""
    return jnp.asarray(scale * np.random.default_rng((15, seed)).normal(size=shape))


def one(visible, hidden, up, **options) -> Block:
    """A block of leak 1 with one dense synapse and an input."""
    up = jnp.asarray(up, float)
    neurons = {"v": Neurons(visible, up.shape[1:], input=fixed(up.shape[1:], seed=9))}
    neurons["h"] = Neurons(hidden, up.shape[:1])
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})
    return derive_block(memory, ["h"], **({"leak": 1.0} | options))


def lone(lagrangian, bias, **options) -> Block:
    """A block of one layer and a bias."""
    bias = jnp.asarray(bias, float)
    memory = AssociativeMemory(
        {"v": Neurons(lagrangian, bias.shape)}, {"b": Bias(bias)}, {"b": ("v",)}
    )
    return derive_block(memory, [], **options)


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = c15.CLAIM.measure(getkey(), 24)
    assert found.passed, found
    assert found.examples == 24


def drawn(getkey, i=1):
    """Twenty examples, and the function that measures them, compiled anew."""
    return c15.draw_examples(getkey(), 20, *c15.PAIRS[i]), eqx.filter_jit(
        eqx.filter_vmap(lambda e: c15.gaps(e))
    )


@pytest.mark.parametrize("wrong, part", [("metric", 2), ("leak", 2), ("slope", 1)])
def test_wrong_theorems_are_caught(wrong, part, getkey, monkeypatch):
    """Strengths in another metric, or without the leak; a slope of the energy that is that of
    another step.
    """
    right = c15.linearised
    step = c15.explicit_step

    def changed(potential, x, leak):
        found = right(potential, x, leak)
        return found._replace(
            strengths=1.1 * found.strengths if wrong == "metric" else found.strengths - leak
        )

    if wrong == "slope":
        monkeypatch.setattr(
            c15, "explicit_step", lambda p, x, leak, eta: step(p, x, leak, 1.1 * eta)
        )
    else:
        monkeypatch.setattr(c15, "linearised", changed)
    examples, gaps = drawn(getkey)
    assert float(jnp.max(gaps(examples)[:, part])) > 1e-6


def test_more_decrease_than_proved_is_not_there():
    """Linear units that nothing drives: the energy falls from x^2/2 to (1 - s)^2 x^2/2, which is
    the bound.
    """
    memory = c15._two_layers(Quadratic(), Tanh(), jnp.zeros((1, 2)))
    potential = derive_block(memory, ["h"], leak=1.0).potential
    measured = jax.jit(partial(c15.step_gaps, potential))
    excess, slope = measured(jnp.asarray([1.0, -2.0]), jnp.asarray(1.0), jnp.asarray(0.6))
    assert abs(float(excess)) < 1e-15
    assert abs(float(slope)) < 1e-15


# ---- To the set of rests -------------------------------------------------------------------------


def test_a_flow_of_three_layers_comes_to_rest():
    """Time constants that differ, a softmax and a norm with blind directions, biases; from four
    states.
    """
    neurons = {
        "a": Neurons(Softmax(1.5), (3,), tau=0.7, input=fixed(3, seed=1)),
        "b": Neurons(Tanh(), (4,), tau=2.0),
        "c": Neurons(LayerNorm(eps=0.1), (5,), tau=0.4, input=fixed(5, seed=2)),
    }
    synapses = {
        "ab": Dense(Coupling(fixed((4, 3), seed=3))),
        "bc": Dense(Coupling(fixed((5, 4), seed=4))),
    }
    memory = AssociativeMemory(neurons, synapses, {"ab": ("a", "b"), "bc": ("b", "c")})
    starts = {
        name: fixed((4, *layer.shape), 3.0, seed=i)
        for i, (name, layer) in enumerate(neurons.items())
    }

    @jax.jit
    @jax.vmap
    def follow(start):
        end = {name: x[0] for name, x in flow(memory, start, 80.0, rtol=1e-9).ys.items()}
        return memory.energy(end) - memory.energy(start), velocity(memory, end)

    losses, speeds = follow(starts)
    assert jnp.all(losses < 0)
    assert max(float(jnp.max(jnp.abs(speed))) for speed in speeds.values()) < 1e-6


def test_the_energy_alone_does_not_see_the_blind_direction():
    r"""Softmax with a leak: a constant on top of a rest decays as $e^{-t}$ while the energy stands
    still.
    """
    rest = jnp.asarray([0.3, -0.1, 0.4])
    block = lone(Softmax(), rest, leak=1.0)
    moving = velocity(block, rest + 2.0)
    assert_close(moving, jnp.full(3, -2.0))
    assert abs(float(jax.jvp(block.energy, (rest + 2.0,), (moving,))[1])) < 1e-14
    assert_close(block.activation(rest + 2.0), block.activation(rest))


def test_without_a_leak_the_state_drifts_where_the_activation_rests():
    block = lone(Softmax(), [1.0, 1.0], leak=0.0, step=0.5)
    found = descend(block, jnp.asarray([0.2, -0.3]), 100)
    assert_close(found.states[-1], jnp.asarray([50.2, 49.7]))
    assert_close(block.activation(found.states[-1]), block.activation(found.states[0]))
    assert jnp.ptp(found.energies) < 1e-14


def test_without_a_bound_on_the_trajectory_there_is_no_limit():
    """Residual steps of tanh units descend for ever, and the state leaves every ball."""
    found = descend(lone(Tanh(), [1.0, -2.0], leak=0.0, step=0.5), jnp.zeros(2), 200)
    assert bool(found.descends)
    assert_close(found.states[-1], jnp.asarray([100.0, -200.0]))


def test_kinks_leave_the_set_of_rests():
    """ReLU visible units, silent at all of the rests that they reach: bounded steps tend to rests
    all the same.
    """
    block = lone(ReLU(), [-1.0, 0.5], leak=1.0, step=0.4)
    states = descend(block, jnp.asarray([3.0, -2.0]), 100).states
    assert_close(states[-1], jnp.asarray([-1.0, 0.5]), 1e-12)


# ---- To one rest ---------------------------------------------------------------------------------

CASES = {
    "tanh and GELU": (Tanh(0.8), GELU(), 0.5),
    "norm and GELU": (LayerNorm(eps=0.3), GELU(), 0.3),
    "softmax and tanh": (Softmax(1.5), Tanh(), 0.8),
    "linear and tanh": (Quadratic(), Tanh(), 0.9),
    "repulsion": (Quadratic(), -1.0 * Tanh(), 0.3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rate_of_a_trajectory_is_that_of_its_rest(case):
    """5000 steps to the rest, and then the ratio of the last distances that are no rounding."""
    visible, hidden, step = CASES[case]
    block = one(visible, hidden, fixed((4, 5), 0.6, seed=5), step=step)
    rest = descend(block, fixed(5, seed=6), 5000).states[-1]
    assert_close(block(rest), rest, 1e-14)
    factors = c15.step_factors(block, rest)
    assert -1 < float(jnp.min(factors)) <= float(jnp.max(factors)) < 1
    rate = float(c15.convergence_rate(block, rest))
    away = np.linalg.norm(
        descend(block, rest + 0.1 * fixed(5, seed=7), 400).states - rest[None], axis=1
    )
    last = int(np.flatnonzero(away > 1e-11)[-1])
    assert away[last] / away[last - 1] == pytest.approx(rate, rel=1e-3)
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvals(jax.jacfwd(block)(rest)).real)[::-1], factors, atol=1e-9
    )


def test_the_path_to_the_rest_has_a_finite_length():
    """Behind a norm, with two rests: the energy pays for all steps, a |g' - g|^2 each, and the
    steps add up.
    """
    block = one(LayerNorm(eps=0.3), GELU(), fixed((4, 5), 0.8, seed=8), step=0.2)
    found = descend(block, fixed(5, 3.0, seed=6), 600)
    moved = jnp.linalg.norm(jnp.diff(found.states, axis=0), axis=1)
    g = jax.vmap(block.activation)(found.states)
    concavity = 0.12890 * np.linalg.norm(fixed((4, 5), 0.8, seed=8), 2) ** 2
    least = 0.5 * ((2 - 0.2) / (0.2 / math.sqrt(0.3)) - concavity)
    assert least > 0
    assert float(found.energies[0] - found.energies[-1]) >= least * float(
        jnp.sum(jnp.diff(g, axis=0) ** 2)
    )
    assert float(jnp.sum(moved[300:])) < 1e-6 * float(jnp.sum(moved))


# ---- Behind an exact norm ------------------------------------------------------------------------


def test_residual_steps_grow_the_state_and_turn_the_activation_to_one_place():
    """A mixer of ReLU units: after 2000 steps the state is 1000 times as large, and the force
    nearly radial.
    """
    memory = draw_memory(c15.exact_mixer, jax.random.key(0))
    found = descend(
        derive_block(memory, BRANCHES), draw_state(memory, jax.random.key(1))["x"], 2000
    )
    block = derive_block(memory, BRANCHES)
    g = jax.vmap(block.activation)(found.states)
    assert bool(found.descends)
    assert float(jnp.std(found.states[-1]) / jnp.std(found.states[1000])) == pytest.approx(
        2, abs=0.1
    )
    late = float(jnp.linalg.norm(g[2 * 1000] - g[1000]))
    early = float(jnp.linalg.norm(g[2 * 10] - g[10]))
    assert late < early


def test_the_activation_turns_as_a_power_of_the_number_of_steps():
    r"""Linear hidden units: the eigenvectors of $M = W^\top W$ grow as $k^{m/m_1}$, so that the
    angle falls as $k^{m_2/m_1 - 1}$."""
    basis = np.linalg.qr(np.column_stack([np.ones(4), np.eye(4)[:, :3]]))[0][:, 1:]
    up = jnp.asarray(
        np.diag([2.0, math.sqrt(2.0), 1.0]) @ basis.T
    )  # m = 4, 2 and 1 on the centred states
    neurons = {"x": Neurons(LayerNorm(eps=0.0), (4,)), "h": Neurons(Quadratic(), (3,))}
    block = derive_block(
        AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("x", "h")}), ["h"]
    )
    states = descend(block, jnp.asarray(basis @ [1.0, 1.0, 1.0]), 40_000).states
    parts = np.asarray(states[np.asarray([10_000, 40_000])] @ basis)
    angles = parts[:, 1] / parts[:, 0]
    assert math.log(angles[1] / angles[0]) / math.log(4) == pytest.approx(-0.5, abs=0.01)


# ---- What is missing where it fails --------------------------------------------------------------


def test_a_flat_rest_is_reached_slower_than_by_any_rate():
    r"""$E = x^4/12$ and $\theta = 3/4$: the state falls as $(2\eta k/3)^{-1/2}$, and the predicted
    factor is 1.
    """
    block = c15.flat_block(0.5)
    states = np.asarray(descend(block, jnp.asarray([1.5]), 40_000).states)[:, 0]
    k = np.asarray([10_000, 40_000])
    np.testing.assert_allclose(states[k] * np.sqrt(2 * 0.5 * k / 3), 1, atol=2e-3)
    assert states[40_000] / states[39_999] > 1 - 1e-4
    assert float(c15.convergence_rate(block, jnp.zeros(1))) == pytest.approx(1, abs=1e-15)


def spiral(x):
    r"""$e^{-1/\rho}\,[1 - \tfrac{4r^4}{4r^4 + \rho^4} \sin(\theta - 1/\rho)]$, $\rho = 1 - r^2$:
    Palis & de Melo.
    """
    square = jnp.sum(x**2)
    inside = 1 - square
    turns = jnp.sin(jnp.arctan2(x[1], x[0]) - 1 / inside)
    return jnp.exp(-1 / inside) * (1 - 4 * square**2 / (4 * square**2 + inside**4) * turns)


def test_a_smooth_energy_that_is_not_analytic_has_a_trajectory_with_a_circle_of_limits():
    r"""The flow keeps to $\theta = 1/(1 - r^2)$, with $r \to 1$: bounded, descending, and round for
    ever.
    """
    memory = AssociativeMemory(
        {"x": Neurons(Quadratic(), (2,))}, {"s": HyperSynapse(spiral)}, {"s": ("x",)}
    )
    block = derive_block(memory, [])
    angles = jnp.linspace(2.0, 200.0, 2000)
    radii = jnp.sqrt(1 - 1 / angles)

    def curve(angle):
        return jnp.sqrt(1 - 1 / angle) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    points, tangents = jax.jit(jax.vmap(lambda a: jax.jvp(curve, (a,), (jnp.ones_like(a),))))(
        angles
    )
    forces = jax.jit(jax.vmap(block.force))(points)
    along = (
        jnp.sum(forces * tangents, axis=1)
        / jnp.linalg.norm(forces, axis=1)
        / jnp.linalg.norm(tangents, axis=1)
    )
    assert float(jnp.min(along)) > 1 - 1e-9  # the force is along the curve, outwards, for 31 turns
    assert float(jnp.max(radii)) < 1
    energies = jax.jit(jax.vmap(block.energy))(points)
    assert_close(jnp.log(energies), -angles, 1e-10)


def test_a_step_of_twice_the_decay_jumps_for_ever():
    """Leak * step = 2, no force: x and -x in turn, at one energy. A little less comes to rest."""
    states = descend(
        lone(Quadratic(), [0.0, 0.0], leak=1.0, step=2.0), jnp.asarray([1.0, -0.5]), 7
    ).states
    assert_close(states[1::2], -states[::2])
    less = descend(
        lone(Quadratic(), [0.0, 0.0], leak=1.0, step=1.9), jnp.asarray([1.0, -0.5]), 300
    ).states
    assert float(jnp.max(jnp.abs(less[-1]))) < 1e-12


@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_antisymmetric_weights_cycle_with_period_four(gain, getkey):
    r"""$x' = V \tanh x$, $V = -V^\top$: from almost everywhere to $(\pm p, \pm p)$ with $p = a
    \tanh p$, in turn.
    """
    block = derive_block(c15.turning_memory(0.0, gain), ["h"], leak=1.0)
    signs = jnp.sign(normal(getkey(), (2,)))
    states = descend(block, signs * (0.3 + jnp.abs(normal(getkey(), (2,)))), 403).states[-4:]
    p = float(jnp.abs(states[0, 0]))
    assert p == pytest.approx(gain * math.tanh(p), rel=1e-9)
    assert_close(jnp.abs(states), jnp.full((4, 2), p), 1e-9)
    assert_close(states[2:], -states[:2], 1e-9)


def test_broken_weights_make_a_flow_cycle(getkey):
    """V with a gain of 1.5 and a turn of 2: the only rest is the origin, which repels; the flow
    goes round.
    """
    block = derive_block(c15.turning_memory(1.5, 2.0), ["h"], leak=1.0)
    ends = jax.jit(lambda x: flow(block, x, 60.0, rtol=1e-8).ys[0])(normal(getkey(), (2,)) + 1e-3)
    speed = float(jnp.linalg.norm(velocity(block, ends)))
    assert speed > 1
    assert 1 < float(jnp.linalg.norm(ends)) < 4
