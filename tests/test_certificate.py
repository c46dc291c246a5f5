"""Certificates: what is proved is true, what is not proved is said, and the check finds a real violation."""

import inspect
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from helpers import VISIBLE_SHAPE, assert_close, cast, coupling_of, dense_pair, make_block, mixing, normal, three_layers

from hopmix import (
    GELU,
    AbstractSynapse,
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    Mixer,
    MixerConfig,
    Neurons,
    Quadratic,
    ReLU,
    Tanh,
    TokenMixing,
    certify,
    derive_block,
    descend,
)


def relu_block(key, coupling: str = "symmetric", **memory) -> Block:
    return make_block(key, coupling, hidden=ReLU(), **memory)


def failures(assumptions) -> set[str]:
    return {a.statement for a in assumptions if a.verdict == "fails"}


# ---- What is proved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norm, options, bound",
    [
        ("joint", {"step": 0.1}, math.inf),
        ("token", {"step": 1.0}, math.inf),
        ("joint", {"step": 10.0}, math.inf),
        ("joint", {"step": 1.0, "leak": 1.0}, 1.0),
        ("token", {"step": 0.25, "leak": 2.0, "n_iter": 2}, 0.5),
    ],
)
def test_tied_blocks_of_convex_units_descend_in_every_step(norm, options, bound, getkey):
    block = relu_block(getkey(), norm=norm, options=options)
    certificate = certify(block)
    assert certificate.descends_in_flow
    assert certificate.descends_in_steps
    assert certificate.step_bound == bound
    check = certificate.check(getkey(), examples=32, steps=8)
    assert check.passed
    assert check.examples == 32
    assert check.worst_rise < 0 or check.worst_rise == pytest.approx(0, abs=1e-14)


def test_of_a_gelu_block_only_the_flow_is_proved(getkey):
    certificate = certify(make_block(getkey()))
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert math.isnan(certificate.step_bound)
    assert failures(certificate.flow) == set()
    assert failures(certificate.step) == {f"the Lagrangian of layer '{n}' is convex" for n in ("token", "channel")}


def test_of_a_memory_all_layers_move(getkey):
    certificate = certify(three_layers(getkey()))
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert certificate.step == ()
    assert math.isnan(certificate.step_bound)
    assert certificate.check(getkey(), examples=16).passed
    of_gelu = certify(mixing(getkey()))
    assert failures(of_gelu.flow) == {f"the Lagrangian of layer '{n}' is convex" for n in ("token", "channel")}


@pytest.mark.parametrize("options", [{"leak": 1.0, "step": 1.5}, {"leak": 3.0, "step": 0.5}])
def test_a_leaky_step_that_overshoots_is_not_proved(options, getkey):
    certificate = certify(relu_block(getkey(), options=options))
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert certificate.step_bound == 1 / options["leak"]
    assert failures(certificate.step) == {"leak * step is at most 1"}


# ---- What is refused --------------------------------------------------------------------------------------------


def negative_scale(block: Block) -> Block:
    return eqx.tree_at(lambda b: b.potential.neurons.lagrangian.scale, block, jnp.asarray(-1.0))


def uneven_scale(block: Block, key) -> Block:
    return eqx.tree_at(lambda b: b.potential.neurons.affine.scale, block, 2 * normal(key, VISIBLE_SHAPE))


def breakings(block: Block) -> list[jax.Array]:
    found = [coupling_of(block.potential.memory, name).breaking for name in block.potential.hidden]
    return [breaking for breaking in found if breaking is not None]


def untied(key, coupling: str) -> Block:
    """With a breaking several times as large as W: a small one is dangerous too, but rarely."""
    block = relu_block(key, coupling)
    return eqx.tree_at(breakings, block, [5 * breaking for breaking in breakings(block)])


UNTIED = {f"synapse '{name}' is symmetric, V = W^T" for name in ("token", "channel")}
REFUSED = {
    "free": (lambda key: untied(key, "free"), UNTIED),
    "broken": (lambda key: untied(key, "broken"), UNTIED),
    "elementwise scale": (
        lambda key: uneven_scale(relu_block(key, scale="elementwise"), key),
        {"the scale of layer 'visible' keeps the field conservative"},
    ),
    "negative scale": (
        lambda key: negative_scale(relu_block(key, scale="scalar")),
        {"the Lagrangian of layer 'visible' is convex"},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_a_theorem_is_refused(name, getkey):
    make, statements = REFUSED[name]
    certificate = certify(make(getkey()))
    assert not certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert math.isnan(certificate.step_bound)  # where nothing is proved, no step is
    assert failures(certificate.flow) == statements


@pytest.mark.parametrize("name", REFUSED)
def test_the_check_finds_the_violation(name, getkey):
    """None of the refusals is a formality: with random weights the energy does rise."""
    block = REFUSED[name][0](getkey())
    block = derive_block(block.potential.memory, block.potential.hidden, step=0.3)
    check = certify(block).check(getkey(), examples=256, steps=16)
    assert not check.passed
    assert check.worst_rise > 1e-6


def test_an_elementwise_scale_of_one_is_still_conservative(getkey):
    block = relu_block(getkey(), scale="elementwise")
    block = eqx.tree_at(lambda b: b.potential.neurons.affine.scale, block, jnp.ones(VISIBLE_SHAPE))
    certificate = certify(block)
    assert certificate.descends_in_steps
    assert certificate.check(getkey(), examples=16).passed


def test_weights_tied_up_to_rounding_are_tied(getkey):
    block = relu_block(getkey(), "broken")
    for size, tied in ((0.0, True), (1e-17, True), (1e-12, False)):
        small = eqx.tree_at(breakings, block, [size * jnp.ones_like(b) for b in breakings(block)])
        assert certify(small).descends_in_flow is tied


class Swirl(AbstractSynapse):
    """A user's synapse without couplings whose current is the gradient of nothing."""

    def energy(self, *activations):
        return jnp.zeros(())

    def current(self, into, activations):
        return jnp.asarray([3.0, 0.0])


def test_a_synapse_that_no_theorem_knows_is_unknown(getkey):
    neurons = {"v": Neurons(Quadratic(), (2,)), "h": Neurons(ReLU(), (3,))}
    synapses = {"swirl": Swirl(), "s": Dense(Coupling.symmetric(2, 3, key=getkey()))}
    memory = AssociativeMemory(neurons, synapses, {"swirl": ("v",), "s": ("v", "h")})
    for system in (memory, derive_block(memory, ["h"])):
        certificate = certify(system)
        assert not certificate.descends_in_flow
        assert not certificate.descends_in_steps
        assert [a.statement for a in certificate.flow if a.verdict == "unknown"] == ["synapse 'swirl' is conservative"]


def test_a_serial_block_is_no_gradient_step(getkey):
    config = MixerConfig(image=(4, 4, 1), patch=2, dim=4, depth=1, classes=2, block="serial", coupling="symmetric")
    (block,) = Mixer(config, key=getkey()).blocks
    with pytest.raises(TypeError, match=r"No theorem covers a SerialBlock: certify a Block .* use the parallel form"):
        inspect.unwrap(certify)(block)  # below the type checks of the tests, which would come first
    assert not isinstance(block, Block)
    assert all(certify(part).descends_in_flow for part in block.parts)


# ---- The negative test of the theory: GELU hidden units with a time constant of their own ------------------------


def finite_time_memory(hidden) -> AssociativeMemory:
    neurons = {"v": Neurons(Tanh(), (2,)), "h": Neurons(hidden, (4,), tau=1.0)}
    up = 0.3 * jnp.asarray([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.2], [0.8, 0.8]])
    return AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})


@pytest.mark.parametrize("hidden, falls", [(GELU(), False), (ReLU(), True)])
def test_hidden_convexity_matters_once_hidden_units_take_time(hidden, falls, getkey):
    """Hidden states near -3 sit where GELU falls: the energy rises on their way to rest. ReLU units are safe."""
    memory = finite_time_memory(hidden)
    certificate = certify(memory)
    assert certificate.descends_in_flow is falls

    @jax.jit
    def rate(state):
        return jax.jvp(memory.energy, (state,), (memory.force(state),))[1]

    rates = [rate({"v": 0.1 * normal(getkey(), (2,)), "h": -3 + 0.1 * normal(getkey(), (4,))}) for _ in range(8)]
    assert bool(max(rates) <= 0) is falls
    assert certificate.check(getkey(), examples=64, steps=128, scale=3.0).passed is falls
    assert certify(derive_block(memory, ["h"], leak=1.0)).descends_in_flow


# ---- The rest ---------------------------------------------------------------------------------------------------


def test_a_certificate_reads_as_text(getkey):
    text = str(certify(make_block(getkey(), scale="elementwise", options={"leak": 0.5})))
    assert "energy descent along the flow: not proved" in text
    assert "energy descent in every step: not proved" in text
    assert "[holds] synapse 'token' is symmetric, V = W^T: |V - W^T|/|W| = 0" in text
    assert "[fails] the scale of layer 'visible' keeps the field conservative: elementwise on the way in only" in text
    assert "[fails] the Lagrangian of layer 'token' is convex: GELU" in text
    assert "in every step" not in str(certify(dense_pair(getkey())))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_precisions_certify(dtype, getkey):
    block, memory = cast((relu_block(getkey()), dense_pair(getkey())), dtype)
    assert certify(block).descends_in_steps
    assert certify(memory).descends_in_flow
    assert certify(block).check(getkey(), examples=4, steps=2).passed
    assert dtype == jnp.bfloat16 or certify(memory).check(getkey(), examples=4, steps=2).passed
    untied = cast(relu_block(getkey(), "broken"), dtype)
    assert not certify(untied).descends_in_flow


def test_a_check_of_energies_that_are_no_numbers_does_not_pass(getkey):
    block = jax.tree.map(lambda leaf: leaf * jnp.nan, relu_block(getkey()))
    certificate = certify(block)
    assert not certificate.descends_in_flow
    assert not certificate.check(getkey(), examples=2, steps=2).passed


def test_the_worst_rise_is_that_of_the_trajectories(getkey):
    """From the origin, where all examples start at scale 0, the check is a descent."""
    block = negative_scale(relu_block(getkey(), scale="scalar"))
    energies = descend(block, jnp.zeros(VISIBLE_SHAPE), 3).energies
    check = certify(block).check(getkey(), examples=2, steps=3, scale=0.0)
    assert_close(check.worst_rise, jnp.max(jnp.diff(energies)) / jnp.max(jnp.abs(energies)), 1e-10)


def test_a_subclass_with_other_currents_is_not_certified(getkey):
    """Which currents a subclass sends is not known, whatever its coupling says."""

    class Backwards(TokenMixing):
        def current(self, into, activations):
            return super().current(into, activations) * (1 if into else -1)

    block = relu_block(getkey(), "symmetric")
    mixing = lambda b: b.potential.memory.synapses["token"]
    bad = eqx.tree_at(mixing, block, Backwards(mixing(block).coupling))
    assert not certify(bad).descends_in_flow


def test_a_breaking_that_bfloat16_can_hold_is_seen(getkey):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), Coupling.broken(6, 12, key=getkey()))
    broken = eqx.tree_at(lambda c: c.breaking, half, 0.04 * half.up.T)
    neurons = {"v": Neurons(Quadratic(), (6,)), "h": Neurons(ReLU(), (12,))}
    memory = AssociativeMemory(neurons, {"s": Dense(broken)}, {"s": ("v", "h")})
    assert not certify(memory).descends_in_flow
    tied = AssociativeMemory(neurons, {"s": Dense(half)}, {"s": ("v", "h")})
    assert certify(tied).descends_in_flow
