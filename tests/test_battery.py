"""Every invariant on every memory, and thousands of random memories against plain automatic
differentiation.
"""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAGRANGIANS,
    MEMORIES,
    NOT_CONVEX,
    TOLERANCE,
    assert_close,
    cast,
    perturb,
    random_state,
)

import hopmix
from hopmix import AbstractLagrangian, AbstractSynapse, AssociativeMemory, Neurons
from hopmix.claims import _draws as draws

State = dict[str, jax.Array]

# ---- Energies and forces by plain automatic differentiation --------------------------------------


def activations(memory: AssociativeMemory, state: State) -> State:
    return {name: jax.grad(layer.lagrangian)(state[name]) for name, layer in memory.neurons.items()}


def read(layer: Neurons, g: jax.Array) -> jax.Array:
    return g if layer.affine is None else layer.affine.scale * g + layer.affine.shift


def written_out(memory: AssociativeMemory, state: State, g: State) -> jax.Array:
    r"""The energy $\sum_a [(x_a - I_a) \cdot g_a - L_a(x_a)] + \sum_s E_s$, states and activations
    as if independent.

    A Legendre transform has the derivative x in g, and so has x . g - L(x) where x is held: the
    force is minus the gradient of this function in g.
    """
    total = jnp.zeros((), jnp.result_type(*g.values()))
    for name, layer in memory.neurons.items():
        drive = jnp.zeros((), total.dtype) if layer.input is None else layer.input
        total += jnp.sum((state[name] - drive) * g[name]) - layer.lagrangian(state[name])
    outputs = {name: read(layer, g[name]) for name, layer in memory.neurons.items()}
    for name, layers in memory.connections:
        total += memory.synapses[name].energy(*(outputs[layer] for layer in layers))
    return total


class Computed(NamedTuple):
    """What a memory says of one state: its energy, the force, and H f, the force on the states."""

    energy: jax.Array
    force: State
    pushed: State


def compute(memory: AssociativeMemory, state: State) -> Computed:
    force = memory.force(state)
    layers = memory.neurons.items()
    pushed = {
        name: layer.lagrangian.hessian_vector_product(state[name], force[name])
        for name, layer in layers
    }
    return Computed(memory.energy(state), force, pushed)


def differentiate(memory: AssociativeMemory, state: State) -> tuple[jax.Array, State]:
    """Energy and force by plain automatic differentiation of the energy written out."""
    energy, gradient = jax.value_and_grad(lambda g: written_out(memory, state, g))(
        activations(memory, state)
    )
    return energy, jax.tree.map(jnp.negative, gradient)


def push(memory: AssociativeMemory, state: State) -> State:
    """Minus the derivative of the energy written out in the states."""
    slope = jax.grad(lambda x: written_out(memory, x, activations(memory, x)))(state)
    return jax.tree.map(jnp.negative, slope)


# ---- Every row, driven and clamped ---------------------------------------------------------------

rows = pytest.mark.parametrize("name", MEMORIES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
EXAMPLES = 5


@functools.cache
def driven_and_clamped(name: str) -> AssociativeMemory:
    """A memory with an input to every layer and clamped entries in most."""
    memory = MEMORIES[name](jr.key(0))
    random = np.random.default_rng(0)
    shapes = {n: layer.shape for n, layer in memory.neurons.items()}
    inputs = {
        n: jnp.zeros(shape if len(shape) == 1 else (*shape[:-1], 1)) for n, shape in shapes.items()
    }
    masks = {n: jnp.asarray(random.random(shape) < 0.3) for n, shape in shapes.items()}
    return memory.drive(inputs).clamp(masks)


def draw(name: str, key: jax.Array, dtype=jnp.float64) -> tuple[AssociativeMemory, State]:
    """A memory with noise on all its parameters and inputs, and a stack of states."""
    memory = driven_and_clamped(name)
    states = random_state(memory, jr.fold_in(key, 1), examples=(EXAMPLES,))
    return cast((perturb(memory, jr.fold_in(key, 0)), states), dtype)


class Found(NamedTuple):
    """Of a stack of states, without clamps by `vmap`, and with them one state after another.

    - `plain`: energies and forces by `differentiate`.
    - `slope`: the derivative of the energy in the states.
    - `sizes`: of the terms of the energy, of which some cancel.
    """

    memory: AssociativeMemory
    free: Computed
    plain: tuple[jax.Array, State]
    slope: State
    sizes: jax.Array
    held_terms: dict[str, dict[str, jax.Array]]
    held_force: State


def size_of_terms(memory: AssociativeMemory, state: State) -> jax.Array:
    activations = memory.activations(state)
    terms = memory.energy_terms(state)
    products = [jnp.sum(jnp.abs(state[name] * g)) for name, g in activations.items()]
    return jnp.sum(jnp.stack([*products, *map(jnp.abs, jax.tree.leaves(terms))]))


@eqx.filter_jit  # all in one program, shared by the tests: compiling is most of the time
def evaluate(memory: AssociativeMemory, states: State) -> Found:
    free = memory.clamp(dict.fromkeys(memory.neurons))
    everything = lambda x: (
        compute(free, x),
        differentiate(free, x),
        jax.grad(free.energy)(x),
        size_of_terms(free, x),
    )
    together = jax.vmap(everything)(states)
    return Found(
        memory, *together, *jax.lax.map(lambda x: (memory.energy_terms(x), memory.force(x)), states)
    )


@rows
@dtypes
@pytest.mark.quick
def test_energies_and_forces_have_the_shapes_and_the_dtype_of_the_layers(name, dtype, getkey):
    memory, states = draw(name, getkey(), dtype)
    found = evaluate(memory, states)
    assert {leaf.dtype for leaf in jax.tree.leaves(found[1:])} == {jnp.dtype(dtype)}
    assert found.free.energy.shape == (EXAMPLES,)
    assert jax.tree.map(jnp.shape, found.free.force) == jax.tree.map(jnp.shape, states)


@rows
@dtypes
def test_the_energy_of_each_example_is_the_sum_of_its_terms(name, dtype, getkey):
    memory, states = draw(name, getkey(), dtype)
    found = evaluate(memory, states)
    layers = set(memory.neurons)
    names = {kind: set(terms) for kind, terms in found.held_terms.items()}
    assert names == {"neurons": layers, "inputs": layers, "synapses": set(memory.synapses)}
    assert_close(sum(jax.tree.leaves(found.held_terms)), found.free.energy, scale=found.sizes)
    assert_close(found.free.energy, found.plain[0], scale=found.sizes)


@rows
@dtypes
@pytest.mark.quick
def test_the_force_is_minus_the_gradient_in_the_activations(name, dtype, getkey):
    found = evaluate(*draw(name, getkey(), dtype))
    assert_close(found.free.force, found.plain[1])


@rows
@dtypes
def test_the_force_pushes_the_states_down_the_energy(name, dtype, getkey):
    """H f = -dE/dx."""
    found = evaluate(*draw(name, getkey(), dtype))
    assert_close(found.free.pushed, jax.tree.map(np.negative, found.slope))


@rows
@dtypes
@pytest.mark.quick
def test_the_energy_falls_at_the_rate_of_the_theorem(name, dtype, getkey):
    """dE/dt = dE/dx . x' = -sum tau x'.H x' with x' = f / tau."""
    memory, states = draw(name, getkey(), dtype)
    found = evaluate(memory, states)
    force, pushed, slope = jax.tree.map(
        np.float64, (found.free.force, found.free.pushed, found.slope)
    )
    rates = np.zeros(EXAMPLES)
    losses = np.zeros(EXAMPLES)
    for n, layer in memory.neurons.items():
        axes = tuple(range(1, states[n].ndim))
        velocity = force[n] / layer.tau
        curved = pushed[n] / layer.tau
        rates += np.sum(slope[n] * velocity, axis=axes)
        losses += layer.tau * np.sum(velocity * curved, axis=axes)
    assert_close(rates, -losses, TOLERANCE[dtype.__name__])


@rows
@dtypes
def test_clamped_entries_do_not_move_and_others_do_as_before(name, dtype, getkey):
    """With clamps one example after another, without them all at once: the same forces too."""
    memory, states = draw(name, getkey(), dtype)
    found = evaluate(memory, states)
    masks = {n: np.asarray(layer.clamped) for n, layer in memory.neurons.items()}
    assert any(np.any(mask) for mask in masks.values())
    assert not any(np.any(np.asarray(found.held_force[n])[:, mask]) for n, mask in masks.items())
    assert_close(
        found.held_force, {n: np.where(mask, 0, found.free.force[n]) for n, mask in masks.items()}
    )


@rows
def test_single_precision_computes_the_same(name, getkey):
    memory, states = draw(name, getkey())
    exact, found = (evaluate(*cast((memory, states), dtype)) for dtype in DTYPES)
    assert_close(found.free.energy, exact.free.energy, scale=exact.sizes)
    assert_close(found.free.force, exact.free.force)


@rows
def test_a_memory_is_a_pytree(name, getkey):
    """It goes through a compiled program as an argument and comes back the same."""
    memory, states = draw(name, getkey())
    leaves, structure = jax.tree.flatten(memory)
    assert eqx.tree_equal(jax.tree.unflatten(structure, leaves), memory)
    assert eqx.tree_equal(evaluate(memory, states).memory, memory)


# ---- Thousands of random memories ----------------------------------------------------------------

structures = pytest.mark.parametrize(
    "structure", draws.CONVEX, ids=lambda structure: structure.__name__
)
EACH = -(-4000 // len(draws.CONVEX))  # 4000 in all


@structures
@pytest.mark.quick
def test_random_memories_agree_with_plain_autodiff(structure, getkey):
    """One after another: a batch of kernels would become grouped convolutions, which a CPU takes
    minutes for.
    """
    memories, states = draws.draw_systems(structure, getkey(), EACH)
    numbers, rest = eqx.partition(memories, eqx.is_array)

    @jax.jit
    def run(numbers, states):
        return jax.lax.map(lambda one: both(eqx.combine(one[0], rest), one[1]), (numbers, states))

    def both(memory, state):
        return compute(memory, state), (*differentiate(memory, state), push(memory, state))

    ours, plain = (jax.tree.map(np.asarray, side) for side in run(numbers, states))
    assert jax.tree.leaves(ours)[0].shape == (EACH,)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        gap = np.max(np.abs(a - b).reshape(EACH, -1), axis=1)
        size = np.max(np.abs(b).reshape(EACH, -1), axis=1)
        assert np.all(
            gap <= 1e-10 * np.maximum(1, size)
        )  # of each memory by itself; a NaN fails too


def objects(tree) -> list:
    """All modules inside a tree, at any depth."""
    found: list = []
    jax.tree.map(lambda node: None, tree, is_leaf=lambda node: found.append(node) is not None)
    return found


def classes(kind: type) -> set[type]:
    """The public classes of a kind."""
    public = {c for c in vars(hopmix).values() if isinstance(c, type) and issubclass(c, kind)}
    return public - {kind}


def convex() -> set[type]:
    """The classes of Lagrangians of which a row of the table is convex."""
    made = (
        make((4, 3), jnp.float64) for name, make in LAGRANGIANS.items() if name not in NOT_CONVEX
    )
    return {type(node) for lagrangian in made for node in objects(lagrangian)} & classes(
        AbstractLagrangian
    )


@pytest.mark.quick
def test_the_table_has_every_lagrangian():
    made = {
        type(node) for make in LAGRANGIANS.values() for node in objects(make((4, 3), jnp.float64))
    }
    assert made >= classes(AbstractLagrangian)


@functools.cache
def drawn_memories() -> list[AssociativeMemory]:
    return [eqx.filter_eval_shape(structure, jr.key(0)) for structure in draws.CONVEX]


@pytest.mark.parametrize(
    "kind", sorted(classes(AbstractSynapse) | convex(), key=str), ids=lambda kind: kind.__name__
)
def test_random_memories_have_every_synapse_and_every_convex_lagrangian(kind):
    """A new class needs a structure in `hopmix.claims._draws.CONVEX`."""
    assert any(type(node) is kind for memory in drawn_memories() for node in objects(memory))


@pytest.mark.parametrize("part", ["affine", "input"])
def test_random_memories_have_affines_and_inputs(part):
    layers = [layer for memory in drawn_memories() for layer in memory.neurons.values()]
    assert any(getattr(layer, part) is not None for layer in layers)
