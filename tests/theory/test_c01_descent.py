"""C01: the energy of a memory falls at the rate of the theorem, and what becomes of it when parts
are held. `theory/C01-descent.md`.
"""

import inspect
import math
import runpy
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, coupling_of, normal

import hopmix
from hopmix import (
    GELU,
    AbstractLagrangian,
    AbstractSynapse,
    AssociativeMemory,
    Coupling,
    Dense,
    HopfieldMemory,
    LayerNorm,
    LogSumReLU,
    Neurons,
    Quadratic,
    Softmax,
    SphericalNorm,
    certify,
    derive_block,
    flow,
)
from hopmix._dynamics import velocity
from hopmix.claims import c01_descent as claim
from hopmix.claims._draws import (
    CONVEX,
    chain,
    convolutional,
    draw_systems,
    mixer,
    pair,
    transformer,
    with_random_taus,
)

THEORY = Path(__file__).parents[2] / "theory"


NUMBER = 9
"""Of memories of each structure: the tests share their compiled programs."""


def gaps_of(memories: AssociativeMemory, states):
    """The gaps of memories in which nothing is held."""
    masks = claim.whole_groups(memories, jax.random.key(0), NUMBER)
    return claim.clamped_gaps(memories, jax.tree.map(jnp.zeros_like, masks), states)


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found
    assert found.examples == 56  # seven of each structure


@pytest.fixture(scope="module")
def memories() -> list[AssociativeMemory]:
    return [eqx.filter_eval_shape(structure, jax.random.key(0)) for structure in CONVEX]


def public(kind: type) -> set[type]:
    """The classes of this kind that users can make."""
    classes = {
        value
        for value in vars(hopmix).values()
        if inspect.isclass(value) and issubclass(value, kind)
    }
    return {each for each in classes if not inspect.isabstract(each)}


def test_the_examples_have_every_synapse(memories):
    synapses = [synapse for memory in memories for synapse in memory.synapses.values()]
    assert {type(synapse) for synapse in synapses} == public(AbstractSynapse)
    stored = [synapse for synapse in synapses if isinstance(synapse, HopfieldMemory)]
    assert {synapse.similarity for synapse in stored} == {"dot", "distance"}
    assert len({type(synapse.separation) for synapse in stored}) >= 3


def test_the_examples_have_every_convex_lagrangian(memories):
    layers = [layer for memory in memories for layer in memory.neurons.values()]
    found = {type(part) for layer in layers for part in (layer.lagrangian, *layer.lagrangian.parts)}
    scaled = {type(term) for layer in layers for term in getattr(layer.lagrangian, "terms", ())}
    assert found | scaled == public(AbstractLagrangian) - {GELU, LogSumReLU}
    assert any(layer.affine is not None for layer in layers)
    assert any(layer.input is not None for layer in layers)


def test_the_examples_have_any_time_constants(getkey):
    """Up to a decade to either side of 1, of each layer on its own: 160 of them miss an end once in
    10^18 times.
    """
    drawn = [eqx.filter_eval_shape(with_random_taus(chain, getkey()), getkey()) for _ in range(40)]
    taus = np.asarray([layer.tau for memory in drawn for layer in memory.neurons.values()])
    assert len(set(taus)) == 160
    assert 0.1 <= taus.min() < 0.3
    assert 3 < taus.max() <= 10


@pytest.mark.parametrize("script", ["rate_identity", "layer_norm"])
def test_the_derivation_holds_symbolically(script):
    runpy.run_path(str(THEORY / f"{script}.py"))["main"]()


def one_pair(key):
    return jax.tree.map(
        lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, draw_systems(pair, key, 1)
    )


def test_the_loss_of_energy_is_the_integral_of_the_dissipation():
    """E(T) - E(0) = -int sum_a tau_a x_a'.H_a x_a' dt, by quadrature along an accurate solution."""
    memory, state = one_pair(jax.random.key(6))
    points, weights = np.polynomial.legendre.leggauss(24)
    times = jnp.asarray([0.0, *(points + 1) / 2, 1.0])

    @jax.jit
    def along(state):
        saved = flow(memory, state, 1.0, saveat=diffrax.SaveAt(ts=times), rtol=1e-11, atol=1e-12).ys
        energies, losses = jax.vmap(lambda x: (memory.energy(x), claim.dissipation(memory, x)))(
            saved
        )
        return energies[-1] - energies[0], losses[1:-1]

    change, losses = along(state)
    assert change < -1e-2
    assert_close(-change, jnp.sum(jnp.asarray(weights / 2) * losses), 1e-8)


# ---- What the identity needs ---------------------------------------------------------------------


def loosened(memories: AssociativeMemory, key) -> AssociativeMemory:
    """The memories with down-weights that are another multiple of the transposed up-weights
    than 1.
    """
    is_coupling = lambda node: isinstance(node, Coupling)
    untie = lambda c: (
        eqx.tree_at(lambda c: c.tie, c, normal(key, c.tie.shape)) if is_coupling(c) else c
    )
    return jax.tree.map(untie, memories, is_leaf=is_coupling)


def freed(memories: AssociativeMemory, key) -> AssociativeMemory:
    """The memories of one dense synapse with independent down-weights."""
    down = normal(key, jnp.swapaxes(coupling_of(memories, "s").up, -1, -2).shape)
    return eqx.tree_at(
        lambda m: m.synapses["s"].coupling.breaking, loosened(memories, key), down, is_leaf=_is_none
    )


def _is_none(leaf) -> bool:
    return leaf is None


@pytest.mark.parametrize("structure", [pair, chain, mixer, transformer, convolutional])
def test_untied_weights_break_it(structure, fixedkey):
    memories, states = draw_systems(structure, fixedkey(), NUMBER)
    gaps = gaps_of(loosened(memories, fixedkey()), states)
    assert jnp.median(gaps) > 1e-2
    assert jnp.min(gaps) > 1e-6


def test_free_weights_break_it(fixedkey):
    memories, states = draw_systems(pair, fixedkey(), NUMBER)
    gaps = gaps_of(freed(memories, fixedkey()), states)
    assert jnp.median(gaps) > 1e-2
    assert jnp.min(gaps) > 1e-6


class WrongSign(Dense):
    """A synapse whose energy has the sign of another textbook; its currents are as they should
    be.
    """

    def energy(self, *activations):
        return -super().energy(*activations)


def test_a_wrong_sign_breaks_it(fixedkey):
    memories, states = draw_systems(pair, fixedkey(), NUMBER)
    flipped = eqx.tree_at(
        lambda m: m.synapses["s"], memories, WrongSign(coupling_of(memories, "s"))
    )
    assert jnp.max(gaps_of(memories, states)) < 1e-12
    assert jnp.median(gaps_of(flipped, states)) > 1e-2


def test_each_layer_counts_with_its_own_time_constant(fixedkey):
    """The velocities of one memory and the time constants of another do not add up."""
    memories, states = draw_systems(pair, fixedkey(), 20)
    slower = eqx.tree_at(
        lambda m: m.neurons["h"], memories, Neurons(memories.neurons["h"].lagrangian, (3,), tau=3.0)
    )

    @eqx.filter_jit
    @eqx.filter_vmap
    def gap(memory, other, state):
        return jnp.abs(rate_along_the_flow(memory, state) / claim.dissipation(other, state) + 1)

    assert jnp.max(gap(memories, memories, states)) < 1e-12
    assert jnp.median(gap(memories, slower, states)) > 1e-3


def alone(lagrangian: AbstractLagrangian, current, **options) -> AssociativeMemory:
    """One layer that is driven by a constant current and nothing else."""
    neurons = Neurons(lagrangian, np.shape(current), input=jnp.asarray(current, float), **options)
    return AssociativeMemory({"v": neurons}, {}, {})


@eqx.filter_jit
def rate_along_the_flow(memory: AssociativeMemory, state):
    return jax.jvp(memory.energy, (state,), (velocity(memory, state),))[1]


def rate_of(memory: AssociativeMemory, x) -> float:
    return float(rate_along_the_flow(memory, {"v": jnp.asarray(x, float)}))


def test_without_convexity_the_identity_holds_and_the_energy_rises():
    """A GELU unit at -sqrt 2, where its slope is the lowest, -0.1289: dE/dt = 2 * 0.1289 / tau."""
    memory = alone(GELU(), [0.0], tau=4.0)
    slope = 0.5 * math.erfc(1) - math.exp(-1) / math.sqrt(math.pi)
    state = {"v": jnp.asarray([-math.sqrt(2)])}
    assert_close(rate_of(memory, state["v"]), -0.5 * slope, 1e-12)
    assert_close(claim.dissipation(memory, state), 0.5 * slope, 1e-12)
    assert not certify(memory).descends_in_flow


def test_where_the_activations_rest_the_energy_does_though_states_move():
    """Softmax does not see a common shift: the states run off along it, and no energy is lost."""
    memory = alone(Softmax(), [2.0, 2.0, 2.0])
    states = [{"v": jnp.asarray([0.3, -0.2, 0.5]) + shift} for shift in (0.0, 1.0)]
    still = {"v": jnp.zeros(3)}
    assert_close(velocity(memory, still)["v"], jnp.full(3, 2.0))
    assert_close(rate_of(memory, still["v"]), 0.0, 1e-15)
    here, there = (memory.energy(state) for state in states)
    assert_close(here, there, 1e-14)


# ---- Blocks: eliminated layers are at rest and need not be convex --------------------------------


@eqx.filter_jit
def block_gaps(memories: AssociativeMemory, states):
    """The gaps of a residual and of a partly leaky block of each memory."""
    gap = lambda memory, x, leak: claim.block_gap(
        derive_block(memory, ["token", "channel"], leak=leak), x
    )
    return eqx.filter_vmap(lambda m, x: jnp.stack([gap(m, x, leak) for leak in (0.0, 0.7)]))(
        memories, states
    )


def test_the_rate_of_a_block_is_that_of_its_visible_layer(fixedkey):
    memories, states = draw_systems(lambda key: mixer(key, GELU()), fixedkey(), 20)
    assert jnp.max(block_gaps(memories, states["x"])) < 1e-11
    assert jnp.min(block_gaps(loosened(memories, fixedkey()), states["x"])) > 1e-6


# ---- Clamping ------------------------------------------------------------------------------------

FIRST_ONLY = {2: [False, True], 3: [False, True, True]}
PARTLY_HELD = {
    "layer norm": (LayerNorm(eps=0.0), [2, 1, -1], [1, 0, -1], math.sqrt(6) / 12),
    "softmax": (Softmax(), [1, 2], [0, 0], 0.25),
    "spherical norm": (SphericalNorm(eps=0.0), [2, 3], [1, 1], math.sqrt(2) / 4),
}


def with_first_free(memory: AssociativeMemory) -> AssociativeMemory:
    return memory.clamp({"v": jnp.asarray(FIRST_ONLY[memory.neurons["v"].shape[0]])})


@pytest.mark.parametrize("kind", PARTLY_HELD)
def test_holding_a_part_of_a_group_may_raise_the_energy(kind):
    """Counter-examples that can be checked by hand; `theory/rate_identity.py` has the same rates
    symbolically.
    """
    lagrangian, current, x, rate = PARTLY_HELD[kind]
    memory = alone(lagrangian, current)
    assert rate_of(memory, x) < 0
    assert_close(rate_of(with_first_free(memory), x), rate, 1e-14)
    free = {a.statement for a in certify(memory).flow if a.verdict == "fails"}
    held = {a.statement for a in certify(with_first_free(memory)).flow if a.verdict == "fails"}
    assert held - free == {"the clamped entries of layer 'v' are whole groups of its Lagrangian"}


def test_the_rise_lasts():
    """Softmax of two units, one held: dE/dx_1 = (x_1 + 1) p_1 p_2 > 0 all the way from 0 to the
    rest at I_1 = 1.
    """
    memory = with_first_free(alone(Softmax(), [1, 2]))
    energies = [float(memory.energy({"v": jnp.asarray([x, 0.0])})) for x in np.linspace(0, 1, 11)]
    assert np.min(np.diff(energies)) > 0
    assert_close(memory.force({"v": jnp.asarray([1.0, 0.0])})["v"], jnp.zeros(2))


@pytest.fixture(scope="module")
def partly_held():
    """Layer norms of four units with random states and currents, two units held: rate, dissipation,
    and cross term.
    """
    mask = jnp.asarray([True, True, False, False])
    (states, currents) = normal(jax.random.key(2), (2, 1000, 4))

    def analyse(x, current):
        free = alone(LayerNorm(eps=0.0), jnp.zeros(4)).drive({"v": current})
        memory = free.clamp({"v": mask})
        state = {"v": x}
        pushed = memory.neurons["v"].lagrangian.hessian_vector_product(
            x, velocity(memory, state)["v"]
        )
        cross = jnp.sum(jnp.where(mask, free.force(state)["v"], 0.0) * pushed)
        return rate_along_the_flow(memory, state), claim.dissipation(memory, state), cross

    return jax.jit(jax.vmap(analyse))(states, currents)


def test_the_held_part_of_a_group_does_work(partly_held):
    """dE/dt = -sum tau x'.H x' - f_held . H x', with the force that the held entries do not
    follow.
    """
    rate, loss, cross = partly_held
    assert jnp.max(jnp.abs(rate + loss + cross) / (loss + jnp.abs(cross))) < 1e-11
    assert jnp.median(jnp.abs(cross) / loss) > 0.1


def test_how_often_that_raises_the_energy(partly_held):
    """In about a fifth of random states and currents of four units."""
    rate, loss, _ = partly_held
    assert 0.15 < jnp.mean(rate > 0) < 0.28
    assert jnp.min(loss) >= 0


def test_clamping_by_hand_equals_a_frozen_layer(getkey):
    """A whole layer that is held acts as an external current W g into its neighbour."""
    memory, state = one_pair(getkey())
    held = memory.clamp({"v": jnp.ones(1, bool)})
    g = memory.neurons["v"].lagrangian.activation(state["v"])
    rest = AssociativeMemory({"h": memory.neurons["h"]}, {}, {}).drive(
        {"h": coupling_of(memory, "s").up @ g}
    )
    assert_close(held.force(state)["h"], rest.force({"h": state["h"]})["h"])
    assert_close(held.force(state)["v"], jnp.zeros(5))
    alone_of = lambda h: rest.energy({"h": h}) - held.energy({"v": state["v"], "h": h})
    size = jnp.abs(held.energy(state)) + jnp.abs(rest.energy({"h": state["h"]}))
    assert_close(alone_of(state["h"]), alone_of(normal(getkey(), (3,))), scale=size)


def test_quadratic_layers_may_be_held_anywhere():
    memory = alone(Quadratic(), [3.0, -1.0])
    assert rate_of(with_first_free(memory), [1.0, 1.0]) == pytest.approx(-4.0)
    assert certify(with_first_free(memory)).descends_in_flow
