"""Synapses: their currents are minus the gradients of their energies where weights are tied, and only there."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from helpers import BILINEAR, COUPLINGS, assert_close, distance, make_synapse, normal

from hopmix import (
    AssociativeMemory,
    Bias,
    ChannelMixing,
    Coupling,
    Dense,
    HyperSynapse,
    Neurons,
    Tanh,
    TokenMixing,
)

synapses = pytest.mark.parametrize("name", BILINEAR)
kinds = pytest.mark.parametrize("kind", COUPLINGS)

FORMULAS = {
    "dense": ("hv,v->h", "vh,h->v"),
    "token mixing": ("hi,iI->hI", "ih,hI->iI"),
    "channel mixing": ("hI,iI->ih", "Ih,ih->iI"),
}


def activations(name: str, key: jax.Array, batch: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
    _, *shapes = BILINEAR[name]
    v, h = (normal(jr.fold_in(key, i), (s[0], *batch, *s[1:])) for i, s in enumerate(shapes))
    return v, h


@synapses
@kinds
def test_currents_have_the_form_of_the_docstring(name, kind, getkey):
    synapse, (v, h) = make_synapse(name, kind, getkey()), activations(name, getkey())
    up, down = FORMULAS[name]
    assert_close(synapse.current(1, (v, None)), jnp.einsum(up, synapse.coupling.up, v))
    assert_close(synapse.current(0, (None, h)), jnp.einsum(down, synapse.coupling.down, h))


@synapses
@kinds
def test_the_energy_is_the_symmetrised_interaction(name, kind, getkey):
    synapse, (v, h) = make_synapse(name, kind, getkey()), activations(name, getkey())
    up, down = (
        jnp.einsum(f, m, a) for f, m, a in zip(FORMULAS[name], (synapse.coupling.up, synapse.coupling.down), (v, h))
    )
    assert_close(synapse.energy(v, h), -0.5 * (jnp.sum(h * up) + jnp.sum(v * down)))
    if kind == "symmetric":
        assert_close(synapse.energy(v, h), -jnp.sum(h * up))


@eqx.filter_jit
def currents_and_gradient(synapse, v, h):
    gradient = jax.grad(synapse.energy, argnums=(0, 1))(v, h)
    return (synapse.current(0, (None, h)), synapse.current(1, (v, None))), jax.tree.map(jnp.negative, gradient)


@synapses
@kinds
def test_currents_are_minus_the_gradient_exactly_where_weights_are_tied(name, kind, getkey):
    synapse, (v, h) = make_synapse(name, kind, getkey()), activations(name, getkey())
    currents, gradient = currents_and_gradient(synapse, v, h)
    if kind == "symmetric":
        assert_close(currents, gradient)
    else:
        assert distance(currents, gradient) > 0.01
    # Minus the gradient is the current of the mean of both ways.
    mean = Coupling(0.5 * (synapse.coupling.up + synapse.coupling.down.T))
    both = eqx.tree_at(lambda s: s.coupling, synapse, mean)
    assert_close(gradient, (both.current(0, (None, h)), both.current(1, (v, None))))


@synapses
@pytest.mark.parametrize("batch", [(3,), (2, 3)], ids=str)
def test_a_token_major_batch_equals_vmap(name, batch, getkey):
    synapse, (v, h) = make_synapse(name, "free", getkey()), activations(name, getkey(), batch)

    def one_by_one(into, a):
        function = lambda x: synapse.current(into, (x, x))
        for _ in batch:
            function = jax.vmap(function, in_axes=1, out_axes=1)
        return function(a)

    fast = synapse.current(1, (v, None)), synapse.current(0, (None, h))
    assert_close(fast, jax.jit(lambda: (one_by_one(1, v), one_by_one(0, h)))())


@pytest.mark.parametrize("shape", [(4, 6), (4, 1), (1, 6), (1, 1)], ids=str)
def test_a_bias_is_a_constant_current(shape, getkey):
    bias, g = Bias(normal(getkey(), shape)), normal(getkey(), (4, 6))
    assert_close(bias.energy(g), -jnp.sum(bias.bias * g))
    current = jnp.broadcast_to(bias.current(0, (None,)), g.shape)
    assert_close(current, -jax.grad(bias.energy)(g))


def test_mixings_are_dense_couplings_shared_over_the_other_axis(getkey):
    """Section 2.4 of the paper: hidden units (alpha, I) and (i, beta), synapses that do not depend on I and i."""
    coupling = Coupling.free(4, 5, key=getkey())
    x, y = normal(getkey(), (4, 3)), normal(getkey(), (3, 4))
    dense = Dense(coupling)
    per_channel = jnp.stack([dense.current(1, (x[:, i], None)) for i in range(3)], axis=1)
    per_token = jnp.stack([dense.current(1, (y[i], None)) for i in range(3)])
    assert_close(TokenMixing(coupling).current(1, (x, None)), per_channel)
    assert_close(ChannelMixing(coupling).current(1, (y, None)), per_token)


def test_a_many_body_synapse_sends_minus_the_gradient_of_its_function(getkey):
    """E = -sum W_ijk a_i b_j c_k: the current into a is sum W_ijk b_j c_k, and so on."""
    weights, sizes = normal(getkey(), (3, 4, 2)), (3, 4, 2)
    a, b, c = (normal(getkey(), (n,)) for n in sizes)
    synapse = HyperSynapse(lambda a, b, c: -jnp.einsum("ijk,i,j,k->", weights, a, b, c))
    assert_close(synapse.energy(a, b, c), -jnp.einsum("ijk,i,j,k->", weights, a, b, c))
    for into, formula, others in ((0, "ijk,j,k->i", (b, c)), (1, "ijk,i,k->j", (a, c)), (2, "ijk,i,j->k", (a, b))):
        assert_close(synapse.current(into, (a, b, c)), jnp.einsum(formula, weights, *others))
    assert not synapse.is_explicit
    assert not synapse.takes_batch


def test_the_function_of_a_many_body_synapse_may_learn(getkey):
    """An Equinox module as function: its parameters are leaves of the memory and have gradients."""
    network = eqx.nn.MLP(4, "scalar", 8, 1, activation=jnp.tanh, key=getkey())
    neurons = {"v": Neurons(Tanh(), (4,))}
    memory = AssociativeMemory(neurons, {"s": HyperSynapse(network)}, {"s": ("v",)})
    state = {"v": normal(getkey(), (4,))}
    force = memory.force(state)["v"]
    assert_close(force, -jax.grad(network)(jnp.tanh(state["v"])) - state["v"])
    gradient = eqx.filter_grad(lambda m: jnp.sum(m.force(state)["v"] ** 2))(memory)
    assert all(jnp.any(layer.weight) for layer in gradient.synapses["s"].function.layers)
