"""Thousands of random memories of every structure: energies and forces agree with plain automatic differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from hopmix import AssociativeMemory
from hopmix.claims import _draws as draws

EACH = 400
CONVOLUTIONS = 40
"""Fewer: XLA turns a batch of kernels into grouped convolutions, which a CPU takes minutes for."""
structures = pytest.mark.parametrize("structure", draws.CONVEX, ids=lambda structure: structure.__name__)


def written_out(memory: AssociativeMemory, state: dict) -> jax.Array:
    """The energy from the Lagrangians' values alone: activations by autodiff, Legendre terms, synapses, inputs."""
    g = {name: jax.grad(layer.lagrangian)(state[name]) for name, layer in memory.neurons.items()}
    total = jnp.zeros(())
    for name, layer in memory.neurons.items():
        drive = jnp.zeros_like(g[name]) if layer.input is None else layer.input
        total += jnp.sum((state[name] - drive) * g[name]) - layer.lagrangian(state[name])
    for name, layers in memory.connections:
        total += memory.synapses[name].energy(*(g[layer] for layer in layers))
    return total


def compare(structure, key):
    memory = draws.draw_memory(structure, key)
    state = draws.draw_state(memory, key)
    # dE/dx = -H f: plain autodiff knows the left side, the explicit forces give the right one.
    force = memory.force(state)
    right = {n: -layer.lagrangian.hessian_vector_product(state[n], force[n]) for n, layer in memory.neurons.items()}
    return memory.energy(state), written_out(memory, state), jax.grad(partial(written_out, memory))(state), right


@structures
def test_energies_and_forces_agree_with_plain_autodiff(structure, getkey):
    examples = CONVOLUTIONS if structure is draws.convolutional else EACH
    found = jax.jit(jax.vmap(partial(compare, structure)))(jax.random.split(getkey(), examples))
    energies, expected, gradients, forces = found
    assert energies.shape == (examples,)
    assert np.all(np.abs(energies - expected) <= 1e-10 * np.maximum(1, np.abs(expected)))
    for name, gradient in gradients.items():
        assert_close(forces[name], gradient, 1e-10)
