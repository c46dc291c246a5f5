"""Dynamics: the flow lowers the energy, explicit steps follow it, fixed points differentiate
implicitly.
"""

# pyright: reportCallIssue=false

import dataclasses
import re
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from helpers import (
    VISIBLE_SHAPE,
    assert_close,
    cast,
    coupling_of,
    dense_pair,
    differences,
    distance,
    largest,
    make_block,
    mixing,
    normal,
    perturb,
    random_state,
    three_layers,
)

from hopmix import (
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    Neurons,
    Quadratic,
    ReLU,
    Status,
    Tanh,
    derive_block,
    descend,
    flow,
    settle,
    velocity,
)

TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
TIMES = diffrax.SaveAt(ts=jnp.linspace(0, 2, 21))


def states(solution: diffrax.Solution) -> Any:
    """The saved states, which a solution may lack."""
    assert solution.result == diffrax.RESULTS.successful
    return solution.ys


def end(solution: diffrax.Solution) -> Any:
    """The last saved state."""
    return jax.tree.map(lambda leaf: leaf[-1], states(solution))


@pytest.mark.quick
def test_the_energy_of_a_memory_falls_along_its_flow(getkey):
    memory = three_layers(getkey())
    solution = flow(
        memory, random_state(memory, getkey()), 2.0, saveat=TIMES, rtol=1e-8, atol=1e-10
    )
    energies = jax.jit(jax.vmap(memory.energy))(states(solution))
    assert jnp.all(jnp.diff(energies) < 0)


@pytest.mark.parametrize("leak", [0.0, 1.0])
def test_the_energy_of_a_block_falls_along_its_flow(leak, getkey):
    """GELU is no obstacle: of a block only the visible layer moves."""
    block = make_block(getkey(), options={"leak": leak})
    solution = flow(
        block, normal(getkey(), VISIBLE_SHAPE), 2.0, saveat=TIMES, rtol=1e-8, atol=1e-10
    )
    assert jnp.all(jnp.diff(jax.jit(jax.vmap(block.energy))(states(solution))) < 0)


def test_the_flow_is_the_limit_of_many_small_steps(fixedkey):
    """The error of explicit steps halves with the step: first order."""
    memory = mixing(fixedkey(), "free")
    x = normal(fixedkey(), VISIBLE_SHAPE)
    exact = end(flow(derive_block(memory, ["token", "channel"], leak=0.5), x, 1.0, **TIGHT))
    blocks = [derive_block(memory, ["token", "channel"], leak=0.5, step=1 / n) for n in (64, 128)]
    ends = [
        jax.jit(lambda x, b=b, n=n: jax.lax.fori_loop(0, n, lambda _, x: b(x), x))(x)
        for b, n in zip(blocks, (64, 128))
    ]
    coarse, fine = (distance(end, exact) for end in ends)
    assert coarse < 0.05
    assert 1.8 < coarse / fine < 2.2


def paced(memory: AssociativeMemory, taus: dict[str, float]) -> AssociativeMemory:
    """The memory with other time constants."""
    neurons = {
        n: Neurons(o.lagrangian, o.shape, taus.get(n, o.tau), o.affine)
        for n, o in memory.neurons.items()
    }
    return AssociativeMemory(neurons, memory.synapses, dict(memory.connections))


def test_time_constants_set_the_pace(getkey):
    """Twice the time constants, twice the time; the saved states are the same."""
    memory = dense_pair(getkey())
    slower = paced(memory, {name: 2 * layer.tau for name, layer in memory.neurons.items()})
    state = random_state(memory, getkey())
    assert_close(
        end(flow(slower, state, 2.0, **TIGHT)), end(flow(memory, state, 1.0, **TIGHT)), 1e-7
    )


def test_the_visible_state_of_a_fast_memory_follows_the_block(fixedkey):
    """The adiabatic limit: with half the hidden time constants the lag is half as large, and points
    the same way.
    """
    start = normal(fixedkey(), (5,))
    memory = dense_pair(fixedkey())
    block = derive_block(memory, ["h"], leak=1.0)
    options: dict[str, Any] = TIGHT | {"solver": diffrax.Kvaerno5()}
    expected = end(flow(block, start, 1.0, **options))
    lags = []
    for tau in (0.01, 0.005):
        fast = paced(memory, {"h": tau})
        settled = memory.current("h", {"v": block.activation(start)})
        lags.append(end(flow(fast, {"v": start, "h": settled}, 1.0, **options))["v"] - expected)
    assert_close(2 * lags[1], lags[0], 0.1)


def test_a_flow_that_runs_out_of_steps_says_so_in_its_result(getkey):
    memory = dense_pair(getkey())
    solution = flow(memory, random_state(memory, getkey()), 100.0, max_steps=3)
    assert solution.result == diffrax.RESULTS.max_steps_reached


# ---- Explicit steps ------------------------------------------------------------------------------


@pytest.mark.quick
def test_a_descent_records_states_and_energies(getkey):
    block = make_block(
        getkey(), hidden=ReLU(), options={"n_iter": 2, "step": 0.5}
    )  # descends at any step (C05)
    x = normal(getkey(), VISIBLE_SHAPE)
    descent = descend(block, x, 3)
    states = [x, block(x), block(block(x)), block(block(block(x)))]
    assert_close(descent.states, jnp.stack(states), 1e-11)
    assert_close(descent.energies, jnp.stack([block.energy(state) for state in states]), 1e-11)
    assert bool(descent.descends)


def test_a_descent_that_rises_is_called_so(fixedkey):
    """A norm of negative scale turns the gradient step uphill."""
    block = make_block(fixedkey(), scale="scalar", options={"step": 0.1})
    x = normal(fixedkey(), VISIBLE_SHAPE)
    scale = lambda b: b.potential.neurons.lagrangian.scale
    assert descend(eqx.tree_at(scale, block, jnp.asarray(1.0)), x, 4).descends
    assert not descend(eqx.tree_at(scale, block, jnp.asarray(-1.0)), x, 4).descends


def test_a_descent_into_nothing_does_not_descend(getkey):
    block = make_block(getkey())
    broken = jax.tree.map(
        lambda leaf: leaf * jnp.nan if eqx.is_inexact_array(leaf) else leaf, block
    )
    assert not descend(broken, normal(getkey(), VISIBLE_SHAPE), 2).descends


def test_the_status_of_a_descent_is_a_sentence(fixedkey):
    block = make_block(fixedkey(), scale="scalar", options={"step": 0.1})
    x = normal(fixedkey(), VISIBLE_SHAPE)
    scale = lambda b: b.potential.neurons.lagrangian.scale
    ends = {
        "never rose": descend(block, x, 4),
        "The energy rose": descend(eqx.tree_at(scale, block, jnp.asarray(-1.0)), x, 4),
        "stopped being a finite": descend(eqx.tree_at(scale, block, jnp.asarray(jnp.nan)), x, 4),
    }
    for words, descent in ends.items():
        assert words in Status[descent.status]


@pytest.mark.parametrize("step", [0.1, 30.0])
def test_backtracking_keeps_a_memory_descending(step, fixedkey):
    """Euler steps far beyond the time constants explode; halved until Armijo's rule holds they do
    not.
    """
    memory = three_layers(fixedkey())
    state = random_state(memory, fixedkey())
    plain = descend(memory, state, 12, step=step, backtrack=False)
    tracked = descend(memory, state, 12, step=step, backtrack=True)
    assert bool(plain.descends) is (step < 1)
    assert tracked.status == Status.descended
    assert tracked.energies[-1] < tracked.energies[0]
    if step < 1:  # nothing to halve: the same steps
        assert_close(tracked.states, plain.states)


def test_a_memory_takes_the_steps_of_euler(getkey):
    memory = dense_pair(getkey())
    state = random_state(memory, getkey())
    expected = {
        n: state[n] + 0.2 / memory.neurons[n].tau * f for n, f in memory.force(state).items()
    }
    descent = descend(memory, state, 1, step=0.2)
    assert_close(jax.tree.map(lambda a: a[1], descent.states), expected)
    assert_close(descent.energies, jnp.stack([memory.energy(state), memory.energy(expected)]))


def test_backtracking_on_a_field_that_climbs_stalls(fixedkey):
    block = make_block(fixedkey(), scale="scalar", options={"step": 0.1})
    x = normal(fixedkey(), VISIBLE_SHAPE)
    uphill = eqx.tree_at(lambda b: b.potential.neurons.lagrangian.scale, block, jnp.asarray(-1.0))
    descent = descend(uphill, x, 3, backtrack=True)
    assert descent.status == Status.stalled
    assert bool(descent.descends)
    assert_close(descent.states[-1], x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("start", [(50.0, 80.0), (0.5, 80.0), (1e30, -1e30), (0.1, 0.2)])
def test_backtracking_does_not_run_away_where_the_energy_is_flat(start, dtype):
    """Steps ten times the time constant, of saturated units, whose energies do not see where they
    go.
    """
    neurons = {"v": Neurons(Tanh(), (2,)), "h": Neurons(Tanh(), (2,))}
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling(jnp.eye(2, dtype=dtype)))}, {"s": ("v", "h")}
    )
    block = derive_block(memory, ["h"], leak=1.0, step=10.0)
    descent = descend(block, jnp.asarray(start, dtype), 60, backtrack=True)
    assert bool(descent.status == Status.descended)
    sizes = jnp.max(jnp.abs(descent.states), axis=1)
    assert np.all(sizes <= sizes[0] + 2)  # the weights and the activations are at most 1
    assert sizes[-1] < (1e-2 * sizes[0] if sizes[0] > 1 else sizes[0])


class Torn(Quadratic):
    """Its energy is a number, and the slope of that is none."""

    def energy_summands(self, x):
        return 0.5 * x**2, jnp.sqrt(x - x)


def test_a_slope_that_is_no_number_is_not_called_a_stall():
    neurons = {"v": Neurons(Torn(), (2,)), "h": Neurons(ReLU(), (2,))}
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(jnp.eye(2)))}, {"s": ("v", "h")})
    start = {"v": jnp.asarray([3.0, -2.0]), "h": jnp.zeros(2)}
    descent = descend(memory, start, 3, step=0.1, backtrack=True)
    assert np.all(np.isfinite(descent.energies))
    assert bool(descent.status == Status.not_finite)


def test_backtracking_stalls_on_a_climb_in_single_precision_too():
    """The smallest of its steps climb by less than rounding, which is no descent."""
    neurons = {"v": Neurons(-1.0 * Quadratic(), (2,)), "h": Neurons(ReLU(), (2,))}
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling(jnp.eye(2, dtype=jnp.float32)))}, {"s": ("v", "h")}
    )
    start = {"v": jnp.asarray([3.0, -2.0], jnp.float32), "h": jnp.zeros(2, jnp.float32)}
    descent = descend(memory, start, 3, step=0.1, backtrack=True)
    assert bool(descent.status == Status.stalled)
    assert_close(descent.states["v"][-1], start["v"], 0)


def test_a_flow_keeps_the_precision_of_its_state(getkey):
    memory = cast(dense_pair(getkey()), jnp.float32)
    state = cast(random_state(memory, getkey()), jnp.float32)
    solution = flow(memory, state, 1.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.ys)} == {jnp.dtype(jnp.float32)}


def test_a_flow_takes_fixed_steps_and_gives_dense_output(getkey):
    memory = dense_pair(getkey())
    state = random_state(memory, getkey())
    euler = flow(memory, state, 0.4, solver=diffrax.Euler(), step=0.2)
    assert_close(
        end(euler), jax.tree.map(lambda a: a[2], descend(memory, state, 2, step=0.2).states), 1e-11
    )
    dense = flow(memory, state, 1.0, saveat=diffrax.SaveAt(dense=True), **TIGHT)
    assert_close(dense.evaluate(0.4), end(flow(memory, state, 0.4, **TIGHT)), 1e-6)


def test_steps_are_asked_of_memories_and_refused_for_blocks(getkey):
    memory = dense_pair(getkey())
    state = random_state(memory, getkey())
    block = contracting(getkey())
    for function in (lambda *a, **k: descend(*a, 2, **k), settle):
        with pytest.raises(
            ValueError, match="A memory needs `step`, in the unit of its time constants"
        ):
            function(memory, state)
        with pytest.raises(
            ValueError, match=r"A block has a step of its own, 0.8; give it to `derive_block`"
        ):
            function(block, jnp.zeros(5), step=0.1)


# ---- Fixed points --------------------------------------------------------------------------------


def contracting(key) -> Block:
    """Small weights make the leaky step a contraction."""
    memory = jax.tree.map(lambda leaf: 0.3 * leaf, dense_pair(key, "free"))
    return derive_block(perturb(memory, jr.fold_in(key, 1), 0.1), ["h"], leak=1.0, step=0.8)


@pytest.mark.quick
def test_settling_ends_in_a_fixed_point(getkey):
    block = contracting(getkey())
    x = 10 * normal(getkey(), (5,))
    settled = settle(block, x, rtol=1e-12, atol=1e-12)
    state = settled.state
    remaining = settled.residual
    assert settled.result == optx.RESULTS.successful
    assert settled.sentence.startswith(
        f"Settled after {int(settled.steps)} steps; the state moves by "
    )
    assert_close(block(state), state, 1e-10)
    assert float(remaining) == float(jnp.max(jnp.abs(velocity(block, state))))
    assert jnp.max(jnp.abs(block.force(state))) < 1e-10
    assert distance(x, state) > 0.1


@pytest.mark.parametrize("step", [1.0, 0.1, 1e-6])
def test_short_steps_do_not_pass_for_rest(step, getkey):
    """At rest is what moves slowly, not what takes short steps: with too few of them settling
    fails, and says so.
    """
    memory = jax.tree.map(
        lambda leaf: 0.3 * leaf, dense_pair(getkey())
    )  # far from a second state of rest
    block = dataclasses.replace(contracting(getkey()), step=step)
    for system, x, options in (
        (memory, random_state(memory, getkey()), {"step": 0.3 * step}),
        (block, normal(getkey(), (5,)), {}),
    ):
        settled = settle(system, x, rtol=1e-8, atol=1e-8, max_steps=4096, **options)
        slow = settled.residual < 1e-6
        assert bool(settled.result == optx.RESULTS.successful) == bool(slow)
        assert slow == (step > 1e-3)
        assert settled.sentence.startswith("Settled" if slow else "Not settled after 4096 steps")


def test_a_batch_has_a_sentence_for_each_example(getkey):
    block = contracting(getkey())
    states = normal(getkey(), (3, 5))
    settled = jax.vmap(lambda x: settle(block, x))(states)
    with pytest.raises(ValueError, match=r"Each example of a batch has a sentence of its own"):
        _ = settled.sentence
    assert jax.tree.map(lambda a: a[0], settled).sentence.startswith("Settled")


def test_steps_are_not_taken_back(getkey):
    with pytest.raises(ValueError, match=r"takes steps >= 0, got -3"):
        descend(make_block(getkey()), normal(getkey(), VISIBLE_SHAPE), -3)


def test_implicit_gradients_are_those_of_the_unrolled_steps(getkey):
    block = contracting(getkey())
    x = normal(getkey(), (5,))
    weights = normal(getkey(), (5,))
    up = lambda b: coupling_of(b.potential.memory, "s").up

    def settled(matrix):
        return jnp.sum(
            weights * settle(eqx.tree_at(up, block, matrix), x, rtol=1e-13, atol=1e-13)[0]
        )

    def unrolled(matrix):
        step = eqx.tree_at(up, block, matrix)
        return jnp.sum(weights * jax.lax.fori_loop(0, 100, lambda _, x: step(x), x))

    implicit = jax.jit(jax.grad(settled))(up(block))
    assert_close(implicit, jax.jit(jax.jacfwd(unrolled))(up(block)), 1e-9)
    assert_close(implicit, differences(unrolled, up(block), 1e-4), 1e-7)
    start = jax.grad(lambda x: jnp.sum(weights * settle(block, x)[0]))(x)
    assert not jnp.any(start)


def test_settling_that_does_not_converge_says_so_in_its_result(getkey):
    block = contracting(getkey())
    settled = settle(block, normal(getkey(), (5,)), rtol=1e-12, atol=1e-12, max_steps=2)
    assert settled.result == optx.RESULTS.nonlinear_max_steps_reached
    assert settled.residual > 1e-6
    assert_close(settled.residual, largest(velocity(block, settled.state)))
    assert settled.state.shape == (5,)
    assert re.match(
        r"Not settled after 2 steps \(The maximum number of steps .* Allow more steps",
        settled.sentence,
    )


def test_a_memory_settles_where_its_forces_vanish(getkey):
    memory = jax.tree.map(lambda leaf: 0.3 * leaf, three_layers(getkey()))
    settled = settle(
        memory, random_state(memory, getkey()), step=0.3, rtol=1e-12, atol=1e-12, max_steps=1000
    )
    assert settled.result == optx.RESULTS.successful
    assert largest(memory.force(settled.state)) < 1e-9


def test_a_block_without_leak_has_nowhere_to_settle(getkey):
    with pytest.raises(
        ValueError,
        match=r"A block with leak 0 has no fixed point in general; derive it with leak > 0",
    ):
        settle(make_block(getkey()), jnp.zeros(VISIBLE_SHAPE))


# ---- Fixed points: clamped entries, bad examples, and what rest is -------------------------------


def unrolled(system, state, steps: int, **options):
    """The end of many explicit steps, differentiable through all of them."""
    return jax.tree.map(lambda a: a[-1], descend(system, state, steps, **options).states)


CLAMPS: dict[str, Any] = {
    "some entries": {"v": [True, False, False, True, False]},
    "a whole layer": {"h": [True]},
    "a layer and some entries": {"v": [True], "h": [False, True, False]},
    "all": {"v": [True], "h": [True]},
}


@pytest.mark.parametrize("name", CLAMPS)
def test_gradients_of_a_clamped_memory_are_those_of_its_free_entries(name, getkey):
    """By the start, of which clamped entries alone count, and by the weights: as through all the
    steps.
    """
    held = {layer: jnp.asarray(mask) for layer, mask in CLAMPS[name].items()}
    memory = jax.tree.map(lambda leaf: 0.5 * leaf, dense_pair(getkey(), "free"))
    start = random_state(memory, getkey())
    weights = random_state(memory, getkey())
    up = coupling_of(memory, "s").up

    def loss(find, up, start):
        moved = eqx.tree_at(lambda m: coupling_of(m, "s").up, memory, up).clamp(held)
        end = find(moved, start)
        return sum(jnp.sum(weights[layer] * end[layer]) for layer in end)

    tight = lambda m, x: settle(m, x, step=0.4, rtol=1e-13, atol=1e-13, max_steps=4096).state
    slow = lambda m, x: unrolled(m, x, 400, step=0.4)
    found = jax.jit(jax.grad(lambda *a: loss(tight, *a), argnums=(0, 1)))(up, start)
    expected = jax.jit(jax.grad(lambda *a: loss(slow, *a), argnums=(0, 1)))(up, start)
    assert_close(found, expected, 1e-9)
    for layer, neurons in memory.clamp(held).neurons.items():
        assert not jnp.any(neurons.release(found[1][layer]))


def linear_block(key, held) -> tuple[Block, jax.Array]:
    """Linear units: x = M x at free entries, M = V W."""
    down = 0.3 * normal(key, (5, 3))
    up = 0.3 * normal(jr.fold_in(key, 1), (3, 5))
    neurons = {
        "v": Neurons(Quadratic(), (5,), tau=3.0, clamped=held),
        "h": Neurons(Quadratic(), (3,)),
    }
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling.from_weights(up, down))}, {"s": ("v", "h")}
    )
    return derive_block(memory, ["h"], leak=1.0, step=0.5), down @ up


def test_a_clamped_linear_block_has_a_closed_form(getkey):
    """x_f = (1 - M_ff)^-1 M_fc x_c, and the matrix is the Jacobian by the clamped entries."""
    held = jnp.asarray([True, False, True, False, False])
    block, m = linear_block(getkey(), held)
    x = normal(getkey(), (5,))
    free = np.flatnonzero(~np.asarray(held))
    fixed = np.flatnonzero(np.asarray(held))
    m = np.asarray(m)
    solution = np.linalg.solve(np.eye(3) - m[np.ix_(free, free)], m[np.ix_(free, fixed)])
    end = lambda x: settle(block, x, rtol=1e-14, atol=1e-14, max_steps=4096).state
    assert_close(end(x)[free], solution @ np.asarray(x)[fixed], 1e-11)
    assert jnp.array_equal(end(x)[fixed], x[fixed])
    expected = np.zeros((5, 5))
    expected[np.ix_(free, fixed)] = solution
    expected[fixed, fixed] = 1
    assert_close(jax.jit(jax.jacrev(end))(x), expected, 1e-11)
    assert_close(jax.jit(jax.jacfwd(end))(x), expected, 1e-11)


def test_second_derivatives_of_a_rest_are_those_of_the_implicit_function(getkey):
    held = jnp.asarray([True, False, True, False, False])
    block = contracting(getkey())
    x = normal(getkey(), (5,))
    block = derive_block(block.potential.memory.clamp({"v": held}), ["h"], leak=1.0, step=0.8)
    end = lambda x: jnp.sum(settle(block, x, rtol=1e-13, atol=1e-13, max_steps=4096).state ** 2)
    through = lambda x: jnp.sum(unrolled(block, x, 120) ** 2)
    assert_close(jax.jit(jax.hessian(end))(x), jax.jit(jax.hessian(through))(x), 1e-8)


def pair_of_scale(up) -> AssociativeMemory:
    neurons = {"v": Neurons(Quadratic(), (4,)), "h": Neurons(Quadratic(), (4,))}
    return AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})


def test_a_bad_example_has_gradients_of_nan_and_leaves_the_others_alone(getkey):
    """Of three memories the second runs away, and the third starts from NaN."""
    ups = jnp.stack([0.2 * jnp.eye(4), 3.0 * jnp.eye(4), 0.2 * jnp.eye(4)])
    starts = {"v": normal(getkey(), (3, 4)).at[2, 1].set(jnp.nan), "h": normal(getkey(), (3, 4))}

    def loss(up, start):
        memory = pair_of_scale(up).clamp({"v": jnp.asarray([True, False, False, False])})
        settled = settle(memory, start, step=0.5, max_steps=4000, rtol=1e-12, atol=1e-12)
        return settled.state["h"][0], settled

    for transform in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
        gradients, settled = transform(jax.grad(loss, argnums=(0, 1), has_aux=True))(ups, starts)
        good = jax.tree.map(lambda a: a[0], (gradients, settled))
        alone = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
            ups[0], jax.tree.map(lambda a: a[0], starts)
        )
        assert_close(good[0], alone[0], 1e-12)
        assert_close(good[0][1]["v"][0], 0.2, 1e-9)  # h = 0.2 v
        assert good[1].sentence.startswith("Settled after")
        for i in (1, 2):
            (by_weights, by_start), last = jax.tree.map(lambda a, i=i: a[i], (gradients, settled))
            assert all(bool(jnp.all(jnp.isnan(a))) for a in (by_weights, *last.state.values()))
            assert jnp.isnan(by_start["v"][0])
            assert not jnp.any(by_start["v"][1:])
            assert not jnp.any(by_start["h"])
            assert last.result == optx.RESULTS.nonfinite
            assert "Nonfinite" in last.sentence


def test_gradients_before_rest_are_the_formula_at_the_last_state(getkey):
    """-(df/dx)^-1 df/dW, which needs no rest to have a value."""
    block = contracting(getkey())
    x = normal(getkey(), (5,))
    up = lambda b: coupling_of(b.potential.memory, "s").up
    end = lambda w: settle(eqx.tree_at(up, block, w), x, rtol=1e-12, atol=1e-12, max_steps=3).state
    last = end(up(block))
    by_state = jax.jit(jax.jacfwd(block.force))(last)
    by_weights = jax.jit(jax.jacfwd(lambda w: eqx.tree_at(up, block, w).force(last)))(up(block))
    expected = -np.linalg.solve(
        np.asarray(by_state), np.asarray(by_weights).reshape(5, -1)
    ).reshape(by_weights.shape)
    assert_close(jax.jit(jax.jacrev(end))(up(block)), expected, 1e-10)


@pytest.mark.parametrize("taus", [{"v": 1e-4, "h": 1e3}, {}])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_what_is_called_rest_moves_no_faster_than_promised(taus, dtype, getkey):
    """Each entry alone, per unit of time and per time constant, for any step; else it is not called
    rest.
    """
    memory = cast(paced(jax.tree.map(lambda leaf: 0.5 * leaf, dense_pair(getkey())), taus), dtype)
    state = cast(random_state(memory, getkey()), dtype)
    sentences = []
    for scale, rtol in ((0.5, 1e-5), (0.5, 1e-3), (0.01, 1e-5), (0.001, 1e-5), (0.01, 0.0)):
        step = scale * min(layer.tau for layer in memory.neurons.values())
        settled = settle(memory, state, step=step, rtol=rtol, atol=1e-5, max_steps=4000)
        forces = memory.force(settled.state)
        margins = []
        speeds = []
        blurs = []
        for name, layer in memory.neurons.items():
            x = np.abs(np.asarray(settled.state[name], np.float64))
            force = np.abs(np.asarray(forces[name], np.float64))
            # The force is computed anew, in another order: each of its terms is below 1 + |x|.
            rounding = 16 * float(jnp.finfo(dtype).eps) * (1 + x)
            margins.append((force - min(layer.tau, 1.0) * (1e-5 + rtol * x)) / rounding)
            speeds.append(np.max(force / layer.tau))
            blurs.append(np.max(rounding / layer.tau))
        if settled.result == optx.RESULTS.successful:
            assert np.max(np.concatenate(margins)) <= 1
        else:
            assert np.max(np.concatenate(margins)) >= -1
        assert abs(float(settled.residual) - max(speeds)) <= max(blurs)
        sentences.append(settled.sentence)
    if not taus:
        assert sentences[0].startswith("Settled after")


def test_a_step_that_rounding_swallows_is_no_rest():
    """x <- x + 2^-30 (1 - x) from 0.5 in float32 stays where it is, with a force of a half."""
    neurons = {"v": Neurons(Quadratic(), (1,), input=jnp.ones(1, jnp.float32))}
    memory = AssociativeMemory(neurons, {}, {})
    settled = settle(memory, {"v": jnp.full((1,), 0.5, jnp.float32)}, step=2.0**-30)
    assert settled.result == optx.RESULTS.stagnation
    assert float(settled.residual) == 0.5
    assert int(settled.steps) == 1
    assert settled.sentence == (
        "Not settled after 1 steps (rounding to float32 swallows the steps); the state moves by "
        "0.5 per unit of time. "
        "Take longer steps, a larger tolerance, or numbers of a higher precision."
    )
    exact = settle(memory, {"v": jnp.ones(1, jnp.float32)}, step=2.0**-30, rtol=0.0, atol=0.0)
    assert exact.sentence == "Settled after 0 steps; the state moves by 0 per unit of time."


DTYPES = [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16]
HALF = {jnp.float64: 1e-12, jnp.float32: 2e-5, jnp.bfloat16: 0.05, jnp.float16: 0.006}


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_dtype_goes_in_and_the_same_comes_out(dtype, getkey):
    """Of steps, flows and fixed points and of their gradients, near the numbers of float64."""
    exact = contracting(getkey())
    x = normal(getkey(), (5,))
    block = cast(exact, dtype)
    start = x.astype(dtype)
    uses = {
        "settle": lambda b, x: settle(b, x, max_steps=100).state,
        "flow": lambda b, x: states(flow(b, x, 1.0)),
        "descend": lambda b, x: descend(b, x, 3).states,
        "gradient": lambda b, x: jax.grad(lambda x: jnp.sum(settle(b, x, max_steps=100).state))(x),
    }
    for name, use in uses.items():
        found = use(block, start)
        assert found.dtype == dtype, name
        assert_close(found, use(exact, x), HALF[dtype])
    loss = lambda b: jnp.sum(settle(b, start, max_steps=100).state)
    weights = eqx.filter_jit(eqx.filter_grad(loss))(block)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(weights, eqx.is_inexact_array))} == {
        jnp.dtype(dtype)
    }


def test_wider_weights_widen_the_state(getkey):
    """As in a call of the block, where dtypes may mix."""
    block = contracting(getkey())
    x = normal(getkey(), (5,)).astype(jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        for found in (
            settle(block, x).state,
            states(flow(block, x, 0.1)),
            descend(block, x, 2).states,
        ):
            assert found.dtype == block(x).dtype == jnp.float64


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda b, m, s: settle(m, s, step=0.0),
            r"Steps are > 0, got 0.0; a tenth of the smallest time constant is",
        ),
        (lambda b, m, s: descend(m, s, 2, step=-0.1), r"Steps are > 0, got -0.1"),
        (lambda b, m, s: flow(m, s, 1.0, step=jnp.nan), r"Steps are > 0, got nan"),
        (lambda b, m, s: flow(m, s, jnp.inf), r"`flow` takes a finite duration, got inf"),
        (lambda b, m, s: settle(b, s["v"], rtol=-1.0), r"`settle` takes rtol >= 0, got -1.0"),
        (lambda b, m, s: settle(b, s["v"], atol=jnp.nan), r"`settle` takes atol >= 0, got nan"),
        (lambda b, m, s: settle(b, s["v"], max_steps=-1), r"`settle` takes max_steps >= 0, got -1"),
    ],
)
@pytest.mark.quick
def test_steps_durations_and_tolerances_that_make_no_sense_are_named(call, message, getkey):
    block = contracting(getkey())
    memory = block.potential.memory
    with pytest.raises(ValueError, match=message):
        call(block, memory, random_state(memory, getkey()))


def test_a_flow_goes_back_in_time(getkey):
    memory = dense_pair(getkey())
    state = random_state(memory, getkey())
    there = end(flow(memory, state, 0.3, solver=diffrax.Tsit5(), step=0.01))
    assert_close(end(flow(memory, there, -0.3, solver=diffrax.Tsit5(), step=0.01)), state, 1e-8)
