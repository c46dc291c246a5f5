"""C03: the layer of the parallel mixer is a memory, exactly. `theory/C03-mixer.md`.

That the block is the authors' implementation, for their weights, is in
`tests/models/test_golden_blocks.py`.
"""

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_close, coupling_of

from hopmix import (
    AssociativeMemory,
    ChannelMixing,
    Coupling,
    Dense,
    Neurons,
    TokenMixing,
    derive_block,
)
from hopmix.claims import c03_mixer as claim
from hopmix.claims.c03_mixer import CHANNELS, KINDS, TOKENS, Kind, Weights

JOINT = KINDS["joint norm, GELU"]


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found


@pytest.fixture(scope="module")
def examples() -> claim.Example:
    return claim.draw_examples(jax.random.key(1), 20)


# ---- Every part fails where it should ------------------------------------------------------------


@pytest.fixture(scope="module")
def gaps():
    """The gaps of a layer with these weights: of a memory with others, and from the gradient of the
    potential.
    """

    def both(mine: Weights, theirs: Weights, x):
        block = derive_block(claim.memory_of(JOINT, theirs), ("token", "channel"))
        return claim.layer_gap(JOINT, mine, x, block), claim.gradient_gap(JOINT, mine, x)

    return jax.jit(jax.vmap(both))


@pytest.mark.parametrize("field", Weights._fields)
def test_every_weight_counts(field, gaps, examples):
    other = examples.weights._replace(**{field: 1.1 * getattr(examples.weights, field)})
    x = examples.state["x"]
    assert jnp.max(gaps(examples.weights, examples.weights, x)[0]) < 1e-13
    assert jnp.min(gaps(examples.weights, other, x)[0]) > 1e-4


def test_free_weights_are_a_layer_but_no_gradient(gaps, examples):
    x = examples.state["x"]
    tied = jax.vmap(claim.tied)(examples.weights)
    assert jnp.max(gaps(tied, tied, x)[1]) < 1e-13
    assert jnp.min(gaps(examples.weights, examples.weights, x)[1]) > 0.1


def test_every_setting_of_the_dial_is_the_layer_with_its_down_weights(examples):
    """V = tie W^T + breaking enters the layer as V, whatever it is made of."""

    @jax.jit
    @jax.vmap
    def both(tie, w, x):
        couplings = {
            "token": Coupling(w.w_s, breaking=w.v_s, tie=tie),
            "channel": Coupling(w.w_c, breaking=w.v_c, tie=tie),
        }
        memory = claim.memory_of(JOINT, w)
        synapses = memory.synapses | {"token": TokenMixing(couplings["token"])}
        synapses |= {"channel": ChannelMixing(couplings["channel"])}
        block = derive_block(
            AssociativeMemory(memory.neurons, synapses, dict(memory.connections)), list(couplings)
        )
        down = w._replace(v_s=tie * w.w_s.T + w.v_s, v_c=tie * w.w_c.T + w.v_c)
        return block(x), claim.written_out(JOINT, down, x)

    assert_close(*both(jnp.linspace(-0.5, 1.5, 20), examples.weights, examples.state["x"]))


# ---- Which restriction of the synapses it is -----------------------------------------------------


def summed_memory(kind: Kind, w: Weights) -> AssociativeMemory:
    """Version 2: hidden units that sum over the other axis; dense synapses W_s (x) 1^T and 1^T (x)
    W_c.
    """
    size = TOKENS * CHANNELS
    up = jnp.kron(w.w_s, jnp.ones((1, CHANNELS))), jnp.kron(jnp.ones((1, TOKENS)), w.w_c)
    neurons = {"visible": Neurons(kind.visible, (size,))}
    neurons |= {
        name: Neurons(kind.hidden, matrix.shape[:1])
        for name, matrix in zip(("token", "channel"), up)
    }
    synapses = {name: Dense(Coupling(matrix)) for name, matrix in zip(("token", "channel"), up)}
    return AssociativeMemory(neurons, synapses, {name: ("visible", name) for name in synapses})


def test_hidden_units_that_sum_over_the_other_axis_are_another_model(examples):
    """Both are memories, with energies of their own; only one of them is a mixer."""

    @jax.jit
    def three(e):
        w = claim.tied(e.weights)
        w = w._replace(
            **{name: jnp.zeros_like(getattr(w, name)) for name in ("b_s", "c_s", "b_c", "c_c")}
        )
        block = derive_block(summed_memory(JOINT, w), ["token", "channel"])
        x = e.state["x"]
        g = JOINT.norm(x)
        token = w.w_s.T @ JOINT.phi(w.w_s @ jnp.sum(g, 1, keepdims=True))
        channel = JOINT.phi(jnp.sum(g, 0, keepdims=True) @ w.w_c.T) @ w.w_c
        return (
            block(x.ravel()).reshape(x.shape),
            x + token + channel,
            claim.written_out(JOINT, w, x),
        )

    block, summed, mixer = three(jax.tree.map(lambda leaf: leaf[0], examples))
    assert_close(block, summed)
    assert jnp.max(jnp.abs(summed - mixer)) > 0.1


def test_unshared_synapses_are_no_mixer(examples):
    """One weight of the big matrix changed, and one hidden unit reads another thing than those it
    shared with.
    """

    @jax.jit
    def forces(e):
        dense = claim.dense_memory_of(JOINT, e.weights)
        coupling = coupling_of(dense, "token")
        changed = Dense(Coupling.from_weights(coupling.up.at[0, 0].add(0.1), coupling.down))
        other = AssociativeMemory(
            dense.neurons, dense.synapses | {"token": changed}, dict(dense.connections)
        )
        flat = {name: x.ravel() for name, x in e.state.items()}
        shared = claim.memory_of(JOINT, e.weights).force(e.state)["token"]
        return other.force(flat)["token"], shared.ravel()

    unshared, shared = forces(jax.tree.map(lambda leaf: leaf[0], examples))
    assert abs(unshared[0] - shared[0]) > 1e-4
    assert_close(unshared[1:], shared[1:])
