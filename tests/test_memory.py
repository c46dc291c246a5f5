"""AssociativeMemory: one energy, and the force that lowers it."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    MEMORIES,
    TOKENS,
    VISIBLE_SHAPE,
    assert_close,
    cast,
    coupling_of,
    dense_pair,
    distance,
    hopfield,
    mixing,
    normal,
    random_state,
    three_layers,
)

from hopmix import (
    Affine,
    AssociativeMemory,
    Bias,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Sigmoid,
    SphericalNorm,
    Tanh,
    TokenMixing,
)

rows = pytest.mark.parametrize("name", MEMORIES)


def pushed(memory: AssociativeMemory, state, vectors):
    """H_a v_a for each layer: the Hessian of its Lagrangian on a vector, without forming it."""
    return {
        name: jax.jvp(layer.lagrangian.activation, (state[name],), (vectors[name],))[1]
        for name, layer in memory.neurons.items()
    }


class Analysis(NamedTuple):
    """What the theorem is about, at one state.

    - `gradient`, `pushed_force`: dE/dx and H f, which cancel where f = -dE/dg.
    - `rate`, `dissipation`: dE/dt along the flow by the chain rule, and - sum tau xdot.H xdot.
    """

    gradient: dict[str, jax.Array]
    pushed_force: dict[str, jax.Array]
    rate: jax.Array
    dissipation: jax.Array


@eqx.filter_jit  # shared by all tests: compiling is most of the time
def analyse(memory: AssociativeMemory, state) -> Analysis:
    force = memory.force(state)
    velocity = {name: force[name] / layer.tau for name, layer in memory.neurons.items()}
    rate = jax.jvp(memory.energy, (state,), (velocity,))[1]
    curved = pushed(memory, state, velocity)
    parts = [layer.tau * jnp.sum(velocity[n] * curved[n]) for n, layer in memory.neurons.items()]
    return Analysis(
        jax.grad(memory.energy)(state),
        pushed(memory, state, force),
        rate,
        -jnp.sum(jnp.stack(parts)),
    )


def negative(tree):
    return jax.tree.map(np.negative, tree)


@pytest.mark.parametrize("kind", ["broken", "free"])
@rows
def test_the_force_of_untied_weights_is_no_gradient(name, kind, fixedkey):
    memory = MEMORIES[name](fixedkey(), kind)
    found = analyse(memory, random_state(memory, fixedkey()))
    assert distance(found.pushed_force, negative(found.gradient)) > 1e-3


INVERSES = {
    "linear": (Quadratic(), lambda g: g),
    "tanh": (Tanh(1.0), jnp.arctanh),
    "sigmoid": (Sigmoid(1.0), lambda g: jnp.log(g) - jnp.log1p(-g)),
    "sphere": (SphericalNorm(eps=1.0), lambda g: g / jnp.sqrt(1 - jnp.sum(g**2))),
}


@pytest.mark.parametrize("kind", INVERSES)
@pytest.mark.quick
def test_the_force_is_minus_the_gradient_of_the_energy_written_in_activations(kind, getkey):
    """Where x = x(g) has a closed form, E is a function of g that autodiff can differentiate
    directly.
    """
    lagrangian, inverse = INVERSES[kind]
    neurons = {"v": Neurons(lagrangian, (4,)), "h": Neurons(Tanh(), (3,))}
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling.symmetric(4, 3, key=getkey()))}, {"s": ("v", "h")}
    )
    state = random_state(memory, getkey())

    @jax.jit
    def both(state):
        g = memory.activations(state)["v"]
        gradient = jax.grad(lambda g: memory.energy({"v": inverse(g), "h": state["h"]}))(g)
        return inverse(g), memory.force(state)["v"], -gradient

    x, force, expected = both(state)
    assert_close(x, state["v"], 1e-11)
    assert_close(force, expected, 1e-10)


def test_energy_terms_are_those_of_the_parts(getkey):
    memory = three_layers(getkey(), "free")
    state = random_state(memory, getkey())
    g = memory.activations(state)
    terms = memory.energy_terms(state)
    for layer, neurons in memory.neurons.items():
        assert_close(g[layer], neurons.lagrangian.activation(state[layer]))
        legendre = jnp.sum(state[layer] * g[layer]) - neurons.lagrangian(state[layer])
        assert_close(
            terms["neurons"][layer], legendre, scale=jnp.sum(jnp.abs(state[layer] * g[layer]))
        )
    assert_close(terms["synapses"]["ab"], memory.synapses["ab"].energy(g["a"], g["b"]))
    assert_close(terms["synapses"]["bias"], memory.synapses["bias"].energy(g["b"]))


@pytest.mark.parametrize("seed", range(4))
def test_the_rate_holds_for_all_time_constants(seed, getkey):
    taus = np.random.default_rng(seed).uniform(0.05, 20, 3)
    memory = three_layers(getkey())
    slow = {
        n: Neurons(layer.lagrangian, layer.shape, tau=float(t))
        for t, (n, layer) in zip(taus, memory.neurons.items())
    }
    memory = AssociativeMemory(slow, memory.synapses, dict(memory.connections))
    found = analyse(memory, random_state(memory, getkey()))
    assert_close(found.rate, found.dissipation, 1e-10)
    assert found.rate < 0


@pytest.mark.parametrize("kind", ["broken", "free"])
@rows
def test_the_rate_fails_for_untied_weights(name, kind, fixedkey):
    memory = MEMORIES[name](fixedkey(), kind)
    found = analyse(memory, random_state(memory, fixedkey()))
    assert distance(found.rate, found.dissipation) > 1e-6


def test_a_layer_without_synapses_decays(getkey):
    memory = AssociativeMemory({"v": Neurons(Quadratic(), (3,))}, {}, {})
    state = random_state(memory, getkey())
    assert_close(memory.force(state)["v"], -state["v"])
    assert_close(memory.energy(state), 0.5 * jnp.sum(state["v"] ** 2))


def test_a_layer_coupled_to_itself_feels_both_ends(getkey):
    memory = hopfield(getkey(), "free")
    state = random_state(memory, getkey())
    coupling = coupling_of(memory, "s")
    g = jnp.tanh(state["v"])
    assert_close(memory.force(state)["v"], coupling.up @ g + coupling.down @ g - state["v"])


evaluate = eqx.filter_jit(lambda memory, state: (memory.energy(state), memory.force(state)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_precisions_compute_the_same(dtype, getkey):
    memory = mixing(getkey())
    state = random_state(memory, getkey())
    energy, force = evaluate(*cast((memory, state), dtype))
    assert {energy.dtype, *(f.dtype for f in force.values())} == {jnp.dtype(dtype)}
    size = sum(jnp.sum(jnp.abs(state[name] * g)) for name, g in memory.activations(state).items())
    assert_close(
        (energy, force), evaluate(memory, state), None if dtype == jnp.float32 else 0.1, size
    )


# ---- Inputs and clamps ---------------------------------------------------------------------------


def test_a_driven_memory_keeps_the_rate_of_the_theorem(getkey):
    memory = three_layers(getkey())
    memory = memory.drive({"a": normal(getkey(), (4,)), "b": normal(getkey(), (1,))})
    found = analyse(memory, random_state(memory, getkey()))
    assert_close(found.rate, found.dissipation, 1e-10)


def test_inputs_and_states_batch_under_vmap(getkey):
    memory = dense_pair(getkey())
    states = {"v": normal(getkey(), (7, 5)), "h": normal(getkey(), (7, 3))}
    inputs = normal(getkey(), (7, 5))
    energy = lambda x, current: memory.drive({"v": current}).energy(x)
    energies = jax.jit(jax.vmap(energy))(states, inputs)
    one_by_one = [energy(jax.tree.map(lambda a, i=i: a[i], states), inputs[i]) for i in range(7)]
    assert_close(energies, jnp.stack(one_by_one))


@pytest.mark.quick
def test_clamped_entries_feel_no_force(getkey):
    memory = three_layers(getkey())
    state = random_state(memory, getkey())
    mask = jnp.asarray([True, False, False, True, False, False])
    clamped = memory.clamp({"b": mask, "c": jnp.asarray([True])})
    force = clamped.force(state)
    free = memory.force(state)
    assert_close(force["a"], free["a"])
    assert_close(force["b"], jnp.where(mask, 0, free["b"]))
    assert not jnp.any(force["c"])
    assert_close(clamped.energy(state), memory.energy(state))
    assert_close(clamped.clamp({"b": None, "c": None}).force(state), free)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.drive({"x": jnp.ones(5)}), r"The layers are \['h', 'v'\], got \['x'\]"),
        (lambda m: m.clamp({"x": jnp.ones(5, bool)}), r"The layers are \['h', 'v'\], got \['x'\]"),
        (
            lambda m: m.drive({"v": jnp.ones(4)}),
            r"The input must have the rank of the layer and broadcast to \(5,\)",
        ),
        (
            lambda m: m.clamp({"v": jnp.ones((), bool)}),
            r"The mask of clamped entries must have the rank of the layer",
        ),
    ],
)
def test_inputs_and_masks_that_do_not_fit_are_refused(change, message, getkey):
    with pytest.raises(ValueError, match=message):
        change(dense_pair(getkey()))


# ---- Scale and shift between a layer and its synapses --------------------------------------------


@pytest.mark.parametrize("conservative", [True, False])
def test_an_affine_scales_on_the_way_in_and_if_conservative_out(conservative, getkey):
    affine = Affine(normal(getkey(), VISIBLE_SHAPE), normal(getkey(), VISIBLE_SHAPE), conservative)
    g = normal(getkey(), VISIBLE_SHAPE)
    current = normal(getkey(), VISIBLE_SHAPE)
    neurons = Neurons(LayerNorm(), VISIBLE_SHAPE, affine=affine)
    assert_close(neurons.output(g), affine.scale * g + affine.shift)
    chain_rule = jax.vjp(neurons.output, g)[1](current)[0]
    assert_close(neurons.pull_back(current), chain_rule if conservative else current)


@pytest.mark.parametrize("norm", ["joint", "token"])
def test_an_elementwise_scale_breaks_the_rate(norm, fixedkey):
    memory = mixing(fixedkey(), norm=norm, scale="elementwise")
    found = analyse(memory, random_state(memory, fixedkey()))
    assert distance(found.rate, found.dissipation) > 1e-4


def test_a_constant_elementwise_scale_is_harmless_up_to_its_size(getkey):
    """Scale 1 everywhere: the reference's norm is conservative at initialisation, whatever the
    shift.
    """
    memory = mixing(getkey(), scale="elementwise")
    scale = lambda m: m.neurons["visible"].affine.scale
    memory = eqx.tree_at(scale, memory, jnp.ones(VISIBLE_SHAPE))
    found = analyse(memory, random_state(memory, getkey()))
    assert_close(found.rate, found.dissipation, 1e-10)


def test_a_token_major_batch_of_currents_equals_vmap(getkey):
    memory = mixing(getkey(), "free", norm="token")
    g = normal(getkey(), (TOKENS, 3, VISIBLE_SHAPE[1]))

    def into(name):
        return lambda g: memory.current(name, {"visible": memory.neurons["visible"].output(g)})

    for name in ("token", "channel"):
        current = into(name)
        assert_close(current(g), jax.jit(jax.vmap(current, in_axes=1, out_axes=1))(g))


# ---- Errors --------------------------------------------------------------------------------------


def pair(connections, synapses=("s",)):
    neurons = {"v": Neurons(Quadratic(), (2,)), "h": Neurons(ReLU(), (2,))}
    return AssociativeMemory(neurons, {name: Bias(jnp.zeros(2)) for name in synapses}, connections)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: pair({}),
            r"Each synapse needs one connection: synapses \['s'\], connections \[\]",
        ),
        (lambda: pair({"s": ("v",), "t": ("h",)}), r"synapses \['s'\], connections \['s', 't'\]"),
        (lambda: pair({"s": ("w",)}), r"Synapse 's' joins 'w', but the layers are \['h', 'v'\]"),
        (
            lambda: Neurons(Quadratic(), (3, 0)),
            r"Neurons need sizes of at least 1, got shape \(3, 0\)",
        ),
        (
            lambda: Neurons(Quadratic(), (3,), tau=0.0),
            r"Neurons need a number tau > 0, got 0.0; eliminate the layer",
        ),
        (lambda: Neurons(Quadratic(), (3,), tau=-1.0), r"Neurons need a number tau > 0, got -1.0"),
        (
            lambda: Neurons(LayerNorm((0, -1)), (4,)),
            r"The axes \(0, -1\) of LayerNorm are not 2 different axes of a layer of shape "
            r"\(4,\); write \(-1,\)",
        ),
        (
            lambda: AssociativeMemory(
                {"a": Neurons(Tanh(), (2, 5, 3)), "b": Neurons(Tanh(), (4, 5, 3))},
                {"s": TokenMixing(Coupling(jnp.ones((4, 2))))},
                {"s": ("a", "b")},
            ),
            r"The energy of synapse 's' .* must be one number, got shape \(5,\); mixings and "
            r"grids join layers",
        ),
    ],
)
@pytest.mark.quick
def test_bad_memories_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "state, message",
    [
        ({"v": jnp.zeros(5)}, r"The state lacks layer 'h'; it has \['v'\]"),
        (
            {"v": jnp.zeros(5), "h": jnp.zeros((2, 3))},
            r"Layer 'h' holds states of shape \(3,\), got \(2, 3\); batch with",
        ),
    ],
)
@pytest.mark.quick
def test_bad_states_are_named(state, message, getkey):
    memory = dense_pair(getkey())
    for method in (memory.energy, memory.force, memory.activations, memory.energy_terms):
        with pytest.raises(ValueError, match=message):
            method(state)


@pytest.mark.parametrize(
    "synapse, layers",
    [
        (Bias(jnp.ones(6)), ("v",)),
        (Bias(jnp.ones((5, 6))), ("v",)),
        (TokenMixing(Coupling(jnp.ones((3, 4)))), ("v",)),
        (TokenMixing(Coupling(jnp.ones((3, 5)))), ("v", "h")),
        (TokenMixing(Coupling(jnp.ones((2, 4)))), ("v", "h")),
    ],
)
def test_synapses_that_do_not_fit_their_layers_are_refused(synapse, layers):
    neurons = {"v": Neurons(Quadratic(), (4, 6)), "h": Neurons(ReLU(), (3, 6))}
    with pytest.raises(ValueError, match="Synapse 's'"):
        AssociativeMemory(neurons, {"s": synapse}, {"s": layers})


@pytest.mark.parametrize(
    "options",
    [
        {"lagrangian": LayerNorm(shift=jnp.ones(6))},
        {"lagrangian": Quadratic() + 2.0 * LayerNorm(shift=jnp.ones(6))},
        {"lagrangian": Quadratic(), "affine": Affine(jnp.ones(6), jnp.zeros((1, 6)))},
        {"lagrangian": Quadratic(), "affine": Affine(jnp.ones((4, 6)), jnp.zeros((1, 5)))},
    ],
)
def test_parameters_of_another_rank_or_shape_are_refused(options):
    with pytest.raises(ValueError, match="must have the rank of the layer"):
        Neurons(shape=(4, 6), **options)
