"""Dynamics: the flow lowers the energy, explicit steps follow it, fixed points differentiate implicitly."""

# pyright: reportCallIssue=false

import dataclasses
import re
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
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

from hopmix import AssociativeMemory, Block, Neurons, ReLU, Status, derive_block, descend, flow, settle, velocity

TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
TIMES = diffrax.SaveAt(ts=jnp.linspace(0, 2, 21))


def states(solution: diffrax.Solution) -> Any:
    """The saved states, which a solution may lack."""
    assert solution.result == diffrax.RESULTS.successful
    return solution.ys


def end(solution: diffrax.Solution) -> Any:
    """The last saved state."""
    return jax.tree.map(lambda leaf: leaf[-1], states(solution))


def test_the_energy_of_a_memory_falls_along_its_flow(getkey):
    memory = three_layers(getkey())
    solution = flow(memory, random_state(memory, getkey()), 2.0, saveat=TIMES, rtol=1e-8, atol=1e-10)
    energies = jax.vmap(memory.energy)(states(solution))
    assert jnp.all(jnp.diff(energies) < 0)


@pytest.mark.parametrize("leak", [0.0, 1.0])
def test_the_energy_of_a_block_falls_along_its_flow(leak, getkey):
    """GELU is no obstacle: of a block only the visible layer moves."""
    block = make_block(getkey(), options={"leak": leak})
    solution = flow(block, normal(getkey(), VISIBLE_SHAPE), 2.0, saveat=TIMES, rtol=1e-8, atol=1e-10)
    assert jnp.all(jnp.diff(jax.vmap(block.energy)(states(solution))) < 0)


def test_the_flow_is_the_limit_of_many_small_steps(fixedkey):
    """The error of explicit steps halves with the step: first order."""
    memory, x = mixing(fixedkey(), "free"), normal(fixedkey(), VISIBLE_SHAPE)
    exact = end(flow(derive_block(memory, ["token", "channel"], leak=0.5), x, 1.0, **TIGHT))
    blocks = [derive_block(memory, ["token", "channel"], leak=0.5, step=1 / n) for n in (64, 128)]
    ends = [
        jax.jit(lambda x, b=b, n=n: jax.lax.fori_loop(0, n, lambda _, x: b(x), x))(x) for b, n in zip(blocks, (64, 128))
    ]
    coarse, fine = (distance(end, exact) for end in ends)
    assert coarse < 0.05
    assert 1.8 < coarse / fine < 2.2


def paced(memory: AssociativeMemory, taus: dict[str, float]) -> AssociativeMemory:
    """The memory with other time constants."""
    neurons = {n: Neurons(o.lagrangian, o.shape, taus.get(n, o.tau), o.affine) for n, o in memory.neurons.items()}
    return AssociativeMemory(neurons, memory.synapses, dict(memory.connections))


def test_time_constants_set_the_pace(getkey):
    """Twice the time constants, twice the time; the saved states are the same."""
    memory = dense_pair(getkey())
    slower = paced(memory, {name: 2 * layer.tau for name, layer in memory.neurons.items()})
    state = random_state(memory, getkey())
    assert_close(end(flow(slower, state, 2.0, **TIGHT)), end(flow(memory, state, 1.0, **TIGHT)), 1e-7)


def test_the_visible_state_of_a_fast_memory_follows_the_block(fixedkey):
    """The adiabatic limit: with half the hidden time constants the lag is half as large, and points the same way."""
    start, memory = normal(fixedkey(), (5,)), dense_pair(fixedkey())
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


# ---- Explicit steps ---------------------------------------------------------------------------------------------


def test_a_descent_records_states_and_energies(getkey):
    block = make_block(getkey(), hidden=ReLU(), options={"n_iter": 2, "step": 0.5})  # descends at any step (C05)
    x = normal(getkey(), VISIBLE_SHAPE)
    descent = descend(block, x, 3)
    states = [x, block(x), block(block(x)), block(block(block(x)))]
    assert_close(descent.states, jnp.stack(states), 1e-11)
    assert_close(descent.energies, jnp.stack([block.energy(state) for state in states]), 1e-11)
    assert bool(descent.descends)


def test_a_descent_that_rises_is_called_so(fixedkey):
    """A norm of negative scale turns the gradient step uphill."""
    block, x = make_block(fixedkey(), scale="scalar", options={"step": 0.1}), normal(fixedkey(), VISIBLE_SHAPE)
    scale = lambda b: b.potential.neurons.lagrangian.scale
    assert descend(eqx.tree_at(scale, block, jnp.asarray(1.0)), x, 4).descends
    assert not descend(eqx.tree_at(scale, block, jnp.asarray(-1.0)), x, 4).descends


def test_a_descent_into_nothing_does_not_descend(getkey):
    block = make_block(getkey())
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan if eqx.is_inexact_array(leaf) else leaf, block)
    assert not descend(broken, normal(getkey(), VISIBLE_SHAPE), 2).descends


def test_the_status_of_a_descent_is_a_sentence(fixedkey):
    block, x = make_block(fixedkey(), scale="scalar", options={"step": 0.1}), normal(fixedkey(), VISIBLE_SHAPE)
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
    """Euler steps far beyond the time constants explode; halved until Armijo's rule holds they do not."""
    memory = three_layers(fixedkey())
    state = random_state(memory, fixedkey())
    plain, tracked = (descend(memory, state, 12, step=step, backtrack=b) for b in (False, True))
    assert bool(plain.descends) is (step < 1)
    assert tracked.status == Status.descended
    assert tracked.energies[-1] < tracked.energies[0]
    if step < 1:  # nothing to halve: the same steps
        assert_close(tracked.states, plain.states)


def test_a_memory_takes_the_steps_of_euler(getkey):
    memory = dense_pair(getkey())
    state = random_state(memory, getkey())
    expected = {n: state[n] + 0.2 / memory.neurons[n].tau * f for n, f in memory.force(state).items()}
    descent = descend(memory, state, 1, step=0.2)
    assert_close(jax.tree.map(lambda a: a[1], descent.states), expected)
    assert_close(descent.energies, jnp.stack([memory.energy(state), memory.energy(expected)]))


def test_backtracking_on_a_field_that_climbs_stalls(fixedkey):
    block, x = make_block(fixedkey(), scale="scalar", options={"step": 0.1}), normal(fixedkey(), VISIBLE_SHAPE)
    uphill = eqx.tree_at(lambda b: b.potential.neurons.lagrangian.scale, block, jnp.asarray(-1.0))
    descent = descend(uphill, x, 3, backtrack=True)
    assert descent.status == Status.stalled
    assert bool(descent.descends)
    assert_close(descent.states[-1], x)


def test_a_flow_keeps_the_precision_of_its_state(getkey):
    memory = cast(dense_pair(getkey()), jnp.float32)
    state = cast(random_state(memory, getkey()), jnp.float32)
    solution = flow(memory, state, 1.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.ys)} == {jnp.dtype(jnp.float32)}


def test_a_flow_takes_fixed_steps_and_gives_dense_output(getkey):
    memory = dense_pair(getkey())
    state = random_state(memory, getkey())
    euler = flow(memory, state, 0.4, solver=diffrax.Euler(), step=0.2)
    assert_close(end(euler), jax.tree.map(lambda a: a[2], descend(memory, state, 2, step=0.2).states), 1e-11)
    dense = flow(memory, state, 1.0, saveat=diffrax.SaveAt(dense=True), **TIGHT)
    assert_close(dense.evaluate(0.4), end(flow(memory, state, 0.4, **TIGHT)), 1e-6)


def test_steps_are_asked_of_memories_and_refused_for_blocks(getkey):
    memory = dense_pair(getkey())
    state, block = random_state(memory, getkey()), contracting(getkey())
    for function in (lambda *a, **k: descend(*a, 2, **k), settle):
        with pytest.raises(ValueError, match="A memory needs `step`, in the unit of its time constants"):
            function(memory, state)
        with pytest.raises(ValueError, match=r"A block has a step of its own, 0.8; give it to `derive_block`"):
            function(block, jnp.zeros(5), step=0.1)


# ---- Fixed points -----------------------------------------------------------------------------------------------


def contracting(key) -> Block:
    """Small weights make the leaky step a contraction."""
    memory = jax.tree.map(lambda leaf: 0.3 * leaf, dense_pair(key, "free"))
    return derive_block(perturb(memory, jr.fold_in(key, 1), 0.1), ["h"], leak=1.0, step=0.8)


def test_settling_ends_in_a_fixed_point(getkey):
    block, x = contracting(getkey()), 10 * normal(getkey(), (5,))
    settled = settle(block, x, rtol=1e-12, atol=1e-12)
    state, remaining = settled.state, settled.residual
    assert settled.result == optx.RESULTS.successful
    assert settled.sentence.startswith(f"Settled after {int(settled.steps)} steps; the state moves by ")
    assert_close(block(state), state, 1e-10)
    assert float(remaining) == float(jnp.max(jnp.abs(velocity(block, state))))
    assert jnp.max(jnp.abs(block.force(state))) < 1e-10
    assert distance(x, state) > 0.1


@pytest.mark.parametrize("step", [1.0, 0.1, 1e-6])
def test_short_steps_do_not_pass_for_rest(step, getkey):
    """At rest is what moves slowly, not what takes short steps: with too few of them settling fails, and says so."""
    memory = jax.tree.map(lambda leaf: 0.3 * leaf, dense_pair(getkey()))  # far from a second state of rest
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
    block, states = contracting(getkey()), normal(getkey(), (3, 5))
    settled = jax.vmap(lambda x: settle(block, x))(states)
    with pytest.raises(ValueError, match=r"Each example of a batch has a sentence of its own"):
        _ = settled.sentence
    assert jax.tree.map(lambda a: a[0], settled).sentence.startswith("Settled")


def test_steps_are_not_taken_back(getkey):
    with pytest.raises(ValueError, match=r"takes steps >= 0, got -3"):
        descend(make_block(getkey()), normal(getkey(), VISIBLE_SHAPE), -3)


def test_implicit_gradients_are_those_of_the_unrolled_steps(getkey):
    block, x, weights = contracting(getkey()), normal(getkey(), (5,)), normal(getkey(), (5,))
    up = lambda b: coupling_of(b.potential.memory, "s").up

    def settled(matrix):
        return jnp.sum(weights * settle(eqx.tree_at(up, block, matrix), x, rtol=1e-13, atol=1e-13)[0])

    def unrolled(matrix):
        step = eqx.tree_at(up, block, matrix)
        return jnp.sum(weights * jax.lax.fori_loop(0, 100, lambda _, x: step(x), x))

    implicit = jax.jit(jax.grad(settled))(up(block))
    assert_close(implicit, jax.jit(jax.jacfwd(unrolled))(up(block)), 1e-9)
    assert_close(implicit, differences(unrolled, up(block)), 1e-7)
    start = jax.grad(lambda x: jnp.sum(weights * settle(block, x)[0]))(x)
    assert not jnp.any(start)


def test_settling_that_does_not_converge_says_so_in_its_result(getkey):
    settled = settle(contracting(getkey()), normal(getkey(), (5,)), rtol=1e-12, atol=1e-12, max_steps=2)
    assert settled.result == optx.RESULTS.nonlinear_max_steps_reached
    assert settled.residual > 1e-6
    assert settled.state.shape == (5,)
    assert re.match(r"Not settled after 2 steps \(The maximum number of steps .* Allow more steps", settled.sentence)


def test_a_memory_settles_where_its_forces_vanish(getkey):
    memory = jax.tree.map(lambda leaf: 0.3 * leaf, three_layers(getkey()))
    settled = settle(memory, random_state(memory, getkey()), step=0.3, rtol=1e-12, atol=1e-12, max_steps=1000)
    assert settled.result == optx.RESULTS.successful
    assert largest(memory.force(settled.state)) < 1e-9


def test_a_block_without_leak_has_nowhere_to_settle(getkey):
    with pytest.raises(ValueError, match=r"A block with leak 0 has no fixed point in general; derive it with leak > 0"):
        settle(make_block(getkey()), jnp.zeros(VISIBLE_SHAPE))
