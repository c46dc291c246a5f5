"""Three ways to one layer: the fast path, automatic gradients of the energy, and the authors'
implementation.

`../shared/golden/paramixer_blocks.npz` holds outputs, input and weight gradients of the reference
of arXiv 2406.12220.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from golden import KINDS, configure, leaves, load_block
from helpers import assert_close, coupling_of

from hopmix import Block, Mixer, Potential, trainable

TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def tensors(shared):
    with np.load(shared / "golden" / "paramixer_blocks.npz") as file:
        return {name: jnp.asarray(file[name]) for name in file.files}


def fast(block, x):
    """The path of a model: the whole batch, token-major."""
    return block(x.transpose(1, 0, 2)).transpose(1, 0, 2)


def automatic(block, x):
    """One example at a time, every force a gradient by autodiff."""
    parts = (block,) if isinstance(block, Block) else block.parts

    def one(x):
        for _ in range(block.n_iter):
            for part in parts:
                x = x + differentiated(part.potential, part.activation(x))
        return x

    return jax.vmap(one)(x)


def differentiated(potential: Potential, g):
    """The gradient of the potential in what the synapses read, s = gamma * g + delta, if the
    weights are tied; of sum(phi(W s) . V^T r) in r otherwise."""
    memory = potential.memory
    s = potential.neurons.output(g)
    couplings = {name: coupling_of(memory, name) for name in potential.hidden}
    if all(coupling.breaking is None for coupling in couplings.values()):
        return jax.grad(eqx.tree_at(lambda p: p.neurons.affine, potential, None))(s)

    def interaction(r):
        phi = {name: memory.neurons[name].lagrangian for name in couplings}
        pairs = [
            (jax.grad(phi[n])(ascend(n, c.up, s)), ascend(n, c.down.T, r))
            for n, c in couplings.items()
        ]
        return sum((jnp.sum(up * down) for up, down in pairs), jnp.zeros(()))

    return jax.grad(interaction)(s)


def ascend(name: str, matrix, s):
    return matrix @ s if name == "token" else s @ matrix.T


@eqx.filter_jit
def outputs_and_gradients(path, block, x, weights):
    parameters, rest = eqx.partition(block, trainable(block))

    def loss(parameters, x):
        y = path(eqx.combine(parameters, rest), x)
        return jnp.sum(weights * y), y

    (_, y), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(parameters, x)
    return y, gradients


@pytest.mark.parametrize("path", [fast, automatic])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.quick
def test_a_block_is_the_reference(kind, iterations, path, tensors):
    tensor = lambda name: tensors[f"{kind}/n{iterations}/{name}"]
    (block,) = Mixer(configure(kind, depth=1, n_iter=iterations), key=jr.key(0)).blocks
    block = load_block(kind, block, lambda name: tensor(f"param/{name}"))
    y, (by_weights, by_x) = outputs_and_gradients(path, block, tensor("x"), tensor("r"))
    assert_close(y, tensor("y"), TOLERANCE)
    assert_close(by_x, tensor("grad_x"), TOLERANCE)
    compared = leaves(kind, by_weights)
    prefix = f"{kind}/n{iterations}/grad/"
    assert sorted(prefix + name for name, _ in compared) == sorted(
        name for name in tensors if name.startswith(prefix)
    )
    for name, gradient in compared:
        assert_close(gradient, tensor(f"grad/{name}"), TOLERANCE)


def test_the_kinds_differ(tensors):
    """Negative case: the reference's free weights in a block that ties them give another layer."""
    (block,) = Mixer(configure("asym", depth=1), key=jr.key(0)).blocks
    block = load_block("asym", block, lambda name: tensors[f"para/n1/param/{name}"])
    assert np.max(np.abs(fast(block, tensors["para/n1/x"]) - tensors["para/n1/y"])) > 0.1
