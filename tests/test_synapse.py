"""Synapses: what all of them have in common, and the closed forms of the bilinear and the many-body
ones.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    BILINEAR,
    COUPLINGS,
    DTYPES,
    SYNAPSES,
    assert_close,
    cast,
    distance,
    eighths,
    make_synapse,
    normal,
)

import hopmix
from hopmix import (
    AbstractSynapse,
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
from hopmix._synapse import mix_last

# ---- Every invariant on every row ----------------------------------------------------------------

rows = pytest.mark.parametrize("name", SYNAPSES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
BATCH = (2, 3)
EXAMPLES = 6


class Action(NamedTuple):
    """What a synapse does to activations: its energy, and a current into each of its layers."""

    energy: jax.Array
    currents: tuple[jax.Array, ...]


def send(synapse: AbstractSynapse, into: int, g: tuple, like: jax.Array) -> jax.Array:
    """A current in the shape of the activation that it enters; that of a bias only has to broadcast
    to it.
    """
    current = synapse.current(into, g)
    if isinstance(synapse, Bias):
        batch = (1,) * (like.ndim - current.ndim)
        return jnp.broadcast_to(
            current.reshape(current.shape[:1] + batch + current.shape[1:]), like.shape
        )
    assert current.shape == like.shape
    return current


def act(synapse: AbstractSynapse, g: tuple[jax.Array, ...]) -> Action:
    return Action(
        synapse.energy(*g), tuple(send(synapse, into, g, like) for into, like in enumerate(g))
    )


def act_on_batch(synapse: AbstractSynapse, stack: tuple[jax.Array, ...]) -> Action:
    """Of a token-major batch with two batch axes, brought back to a stack."""
    found = act(
        synapse,
        tuple(jnp.moveaxis(a, 0, 1).reshape(a.shape[1], *BATCH, *a.shape[2:]) for a in stack),
    )
    currents = (jnp.moveaxis(c.reshape(c.shape[0], -1, *c.shape[3:]), 1, 0) for c in found.currents)
    return Action(found.energy.reshape(-1), tuple(currents))


def act_blindly(synapse: AbstractSynapse, g: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The currents from the other activations alone."""
    others = ((*g[:into], None, *g[into + 1 :]) for into in range(len(g)))
    return tuple(send(synapse, into, seen, g[into]) for into, seen in enumerate(others))


class Found(NamedTuple):
    """Of a stack of activations: by `vmap`, one after another, as a token-major batch, and blindly
    for the first.
    """

    synapse: AbstractSynapse
    gradients: tuple[jax.Array, ...]
    together: Action
    one_by_one: Action
    as_batch: Action | None
    blind: tuple[jax.Array, ...] | None


@eqx.filter_jit  # all in one program, the synapse itself an argument: compiling is most of the time
def evaluate(synapse: AbstractSynapse, stack: tuple[jax.Array, ...]) -> Found:
    gradient = jax.grad(lambda g: synapse.energy(*g))  # refuses an energy that is not one number
    return Found(
        synapse,
        jax.vmap(gradient)(stack),
        jax.vmap(lambda g: act(synapse, g))(stack),
        jax.lax.map(lambda g: act(synapse, g), stack),
        act_on_batch(synapse, stack) if synapse.takes_batch else None,
        act_blindly(synapse, tuple(a[0] for a in stack)) if synapse.is_explicit else None,
    )


def draw(name: str, key: jax.Array, dtype=jnp.float64, scale: float = 1.0):
    """For each set of layers of a row: the synapse, and a stack of activations for each of its
    layers.
    """
    row = SYNAPSES[name]
    for i, shapes in enumerate(row.layers):
        keys = jr.split(jr.fold_in(key, i), len(shapes) + 1)
        stack = tuple(scale * eighths(k, (EXAMPLES, *shape)) for k, shape in zip(keys, shapes))
        yield cast((row.make(keys[-1], *shapes), stack), dtype)


@rows
@dtypes
@pytest.mark.quick
def test_energies_and_currents_have_the_shapes_and_the_dtype_of_the_layers(name, dtype, getkey):
    for synapse, stack in draw(name, getkey(), dtype):
        found = evaluate(synapse, stack).together
        assert (found.energy.shape, found.energy.dtype) == ((EXAMPLES,), dtype)
        assert [(c.shape, c.dtype) for c in found.currents] == [(a.shape, dtype) for a in stack]


@rows
@dtypes
@pytest.mark.quick
def test_currents_are_minus_the_gradient_where_tied(name, dtype, getkey):
    for synapse, stack in draw(name, getkey(), dtype):
        found = evaluate(synapse, stack)
        for current, gradient in zip(found.together.currents, found.gradients):
            if SYNAPSES[name].tied:
                assert_close(current, -gradient)


@rows
@dtypes
def test_no_energy_is_flat_and_untied_currents_are_not_its_gradient(name, dtype, fixedkey):
    for synapse, stack in draw(name, fixedkey(), dtype):
        found = evaluate(synapse, stack)
        for current, gradient in zip(found.together.currents, found.gradients):
            assert np.any(np.asarray(gradient))
            assert SYNAPSES[name].tied or distance(current, -gradient) > 0.01


@rows
@dtypes
@pytest.mark.quick
def test_together_is_one_by_one(name, dtype, getkey):
    """`vmap`, a loop and, where the synapse takes it, a token-major batch compute the same."""
    for synapse, stack in draw(name, getkey(), dtype):
        found = evaluate(synapse, stack)
        assert_close(found.together, found.one_by_one)
        assert (found.as_batch is not None) is synapse.takes_batch
        if found.as_batch is not None:
            assert_close(found.as_batch, found.together)


@rows
@dtypes
def test_an_explicit_current_does_without_the_activation_that_it_enters(name, dtype, getkey):
    for synapse, stack in draw(name, getkey(), dtype):
        found = evaluate(synapse, stack)
        assert (found.blind is not None) is synapse.is_explicit
        if found.blind is not None:
            assert_close(found.blind, tuple(c[0] for c in found.together.currents))


@rows
def test_single_precision_computes_the_same(name, getkey):
    for synapse, stack in draw(name, getkey()):
        exact, found = (evaluate(*cast((synapse, stack), dtype)).together for dtype in DTYPES)
        assert_close(found.energy, exact.energy)
        for current, expected in zip(found.currents, exact.currents):
            assert_close(current, expected)


@pytest.mark.parametrize("name", [name for name, row in SYNAPSES.items() if row.is_finite])
@dtypes
def test_large_activations_give_numbers(name, dtype, getkey):
    for synapse, stack in draw(name, getkey(), dtype, scale=1e3):
        found = evaluate(synapse, stack)
        assert all(
            np.all(np.isfinite(a)) for a in jax.tree.leaves((found.together, found.gradients))
        )


@rows
def test_a_synapse_is_a_pytree(name, getkey):
    """It goes through a compiled program as an argument and comes back the same."""
    for synapse, stack in draw(name, getkey()):
        leaves, structure = jax.tree.flatten(synapse)
        assert eqx.tree_equal(jax.tree.unflatten(structure, leaves), synapse)
        assert eqx.tree_equal(evaluate(synapse, stack).synapse, synapse)


def test_the_table_has_every_synapse():
    """A new class needs a row here, and runs through every invariant."""
    made = {type(synapse) for name in SYNAPSES for synapse, _ in draw(name, jr.key(0))}
    public = [
        c for c in vars(hopmix).values() if isinstance(c, type) and issubclass(c, AbstractSynapse)
    ]
    assert made == set(public) - {AbstractSynapse}


# ---- Closed forms --------------------------------------------------------------------------------

bilinear = pytest.mark.parametrize("name", BILINEAR)
kinds = pytest.mark.parametrize("kind", COUPLINGS)

FORMULAS = {
    "dense": ("hv,v->h", "vh,h->v"),
    "token mixing": ("hi,iI->hI", "ih,hI->iI"),
    "channel mixing": ("hI,iI->ih", "Ih,ih->iI"),
}


def activations(name: str, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, visible, hidden = BILINEAR[name]
    return normal(jr.fold_in(key, 0), visible), normal(jr.fold_in(key, 1), hidden)


@bilinear
@kinds
@pytest.mark.quick
def test_currents_have_the_form_of_the_docstring(name, kind, getkey):
    synapse = make_synapse(name, kind, getkey())
    (v, h) = activations(name, getkey())
    up, down = FORMULAS[name]
    assert_close(synapse.current(1, (v, None)), jnp.einsum(up, synapse.coupling.up, v))
    assert_close(synapse.current(0, (None, h)), jnp.einsum(down, synapse.coupling.down, h))


@bilinear
@kinds
def test_the_energy_is_the_symmetrised_interaction(name, kind, getkey):
    synapse = make_synapse(name, kind, getkey())
    (v, h) = activations(name, getkey())
    up, down = (
        jnp.einsum(f, m, a)
        for f, m, a in zip(FORMULAS[name], (synapse.coupling.up, synapse.coupling.down), (v, h))
    )
    size = jnp.sum(jnp.abs(h * up)) + jnp.sum(jnp.abs(v * down))
    assert_close(synapse.energy(v, h), -0.5 * (jnp.sum(h * up) + jnp.sum(v * down)), scale=size)
    if kind == "symmetric":
        assert_close(synapse.energy(v, h), -jnp.sum(h * up), scale=size)


@bilinear
@pytest.mark.parametrize("tie", [-0.5, 0.0, 0.3])
@pytest.mark.quick
def test_a_share_of_a_tie_sends_that_share_back(name, tie, getkey):
    """Without a breaking V is not formed; the currents and the energy are those of V written out,
    with W's gradient.
    """
    synapse = make_synapse(name, "symmetric", getkey())
    (v, h) = activations(name, getkey())
    up = synapse.coupling.up
    implicit = lambda up: eqx.tree_at(lambda s: s.coupling, synapse, Coupling(up, tie=tie))
    written = lambda up: eqx.tree_at(
        lambda s: s.coupling, synapse, Coupling.from_weights(up, tie * up.T)
    )
    both = lambda s: jnp.stack([s.energy(v, h), jnp.sum(jnp.sin(s.current(0, (None, h))))])
    found = jax.jit(
        lambda up, make=implicit: (
            both(implicit(up)),
            jax.jacrev(lambda up: both(implicit(up)))(up),
        )
    )(up)
    expected = jax.jit(
        lambda up, make=written: (both(written(up)), jax.jacrev(lambda up: both(written(up)))(up))
    )(up)
    assert_close(found, expected)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4), (1, 5), (5, 1)], ids=str)
def test_products_and_their_derivatives_are_those_of_einsum(shape, getkey):
    """`mix_last` turns its matrix round for speed; values, both modes, second derivatives and maps
    stay the same.
    """
    matrix = normal(getkey(), shape)
    x = normal(getkey(), (2, 6, shape[1]))
    step = normal(getkey(), shape)

    def evaluate(product):
        loss = lambda matrix, x: jnp.sum(jnp.sin(product(matrix, x)))
        gradient = jax.grad(loss, argnums=(0, 1))
        forwards = jax.jvp(lambda matrix: loss(matrix, x), (matrix,), (step,))
        mapped = jax.vmap(gradient, (0, None))(jnp.stack([matrix, step]), x)
        return (
            product(matrix, x),
            gradient(matrix, x),
            forwards,
            jax.hessian(loss)(matrix, x),
            mapped,
        )

    plain = lambda matrix, x: jnp.einsum("oi,tbi->tbo", matrix, x)
    found = jax.jit(lambda product=mix_last: evaluate(mix_last))()
    expected = jax.jit(lambda product=plain: evaluate(plain))()
    assert_close(found, expected)


@bilinear
@kinds
def test_minus_the_gradient_is_the_current_of_the_mean_of_both_ways(name, kind, getkey):
    synapse = make_synapse(name, kind, getkey())
    (v, h) = activations(name, getkey())
    gradient = jax.jit(jax.grad(synapse.energy, argnums=(0, 1)))(v, h)
    mean = Coupling(0.5 * (synapse.coupling.up + synapse.coupling.down.T))
    both = eqx.tree_at(lambda s: s.coupling, synapse, mean)
    assert_close(gradient, (-both.current(0, (None, h)), -both.current(1, (v, None))))


@pytest.mark.parametrize(
    "shape", [(4,), (1,), (4, 6), (4, 1), (1, 6), (1, 1), (4, 6, 2), (1, 6, 1)], ids=str
)
def test_a_bias_is_a_constant_current(shape, getkey):
    """Into the first of its layers; into others that it only names it sends nothing."""
    bias = Bias(normal(getkey(), shape))
    g = normal(getkey(), (4, 6, 2)[: len(shape)])
    terms = np.asarray(bias.bias) * np.asarray(g)
    assert_close(bias.energy(g), -np.sum(terms), scale=np.sum(np.abs(terms)))
    assert_close(bias.energy(g, g), bias.energy(g))
    assert_close(bias.current(0, (None, g)), bias.bias)
    assert not jnp.any(bias.current(1, (g, None)))


def test_mixings_are_dense_couplings_shared_over_the_other_axis(getkey):
    """Section 2.4 of the paper: hidden units (alpha, I) and (i, beta), synapses that do not depend
    on I and i.
    """
    coupling = Coupling.free(4, 5, key=getkey())
    x = normal(getkey(), (4, 3))
    y = normal(getkey(), (3, 4))
    dense = Dense(coupling)
    per_channel = jnp.stack([dense.current(1, (x[:, i], None)) for i in range(3)], axis=1)
    per_token = jnp.stack([dense.current(1, (y[i], None)) for i in range(3)])
    assert_close(TokenMixing(coupling).current(1, (x, None)), per_channel)
    assert_close(ChannelMixing(coupling).current(1, (y, None)), per_token)


def test_a_many_body_synapse_sends_minus_the_gradient_of_its_function(getkey):
    """E = -sum W_ijk a_i b_j c_k: the current into a is sum W_ijk b_j c_k, and so on."""
    weights = normal(getkey(), (3, 4, 2))
    sizes = (3, 4, 2)
    a, b, c = (normal(getkey(), (n,)) for n in sizes)
    synapse = HyperSynapse(lambda a, b, c: -jnp.einsum("ijk,i,j,k->", weights, a, b, c))
    size = jnp.einsum("ijk,i,j,k->", *map(jnp.abs, (weights, a, b, c)))
    assert_close(synapse.energy(a, b, c), -jnp.einsum("ijk,i,j,k->", weights, a, b, c), scale=size)
    for into, formula, others in (
        (0, "ijk,j,k->i", (b, c)),
        (1, "ijk,i,k->j", (a, c)),
        (2, "ijk,i,j->k", (a, b)),
    ):
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
