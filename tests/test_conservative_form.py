"""Conservative form: which untied weights have an energy, that the form has their forces, and what
has none.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, cast, normal

from hopmix import (
    GELU,
    AbstractLagrangian,
    AbstractSynapse,
    Affine,
    AssociativeMemory,
    Bias,
    Block,
    ChannelMixing,
    Convolution,
    Coupling,
    Dense,
    HopfieldMemory,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Sigmoid,
    Softmax,
    Status,
    Tanh,
    TokenMixing,
    certify,
    derive_block,
    descend,
)
from hopmix._certificate.conservative_form import conservative_form, ties_of
from hopmix._lagrangian.gained import Gained
from hopmix.symmetry import radial_energy

GAINS = jnp.asarray([0.5, 2.0, 3.0])


def memory_of(
    *couplings: Coupling, visible: AbstractLagrangian | None = None, hidden=None, **layer
):
    """A vector layer and a hidden one, joined by these couplings."""
    units, size = couplings[0].up.shape
    neurons = {
        "v": Neurons(Tanh() if visible is None else visible, (size,)),
        "h": Neurons(ReLU() if hidden is None else hidden, (units,), **layer),
    }
    synapses: dict[str, AbstractSynapse] = {
        f"s{i}": Dense(coupling) for i, coupling in enumerate(couplings)
    }
    return AssociativeMemory(neurons, synapses, {name: ("v", "h") for name in synapses})


def gained(up, gains=GAINS) -> Coupling:
    return Coupling.from_weights(up, up.T * gains[None])


def gradient(block: Block, energy, x):
    """Minus the derivative of an energy with respect to the activations of tanh units."""
    return -jax.grad(energy)(x) / (1 - jnp.tanh(x) ** 2)


# ---- Gains ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [ReLU(), Sigmoid(2.0), GELU(), Tanh() + 0.5 * Quadratic()])
def test_weights_with_gains_are_certified_with_their_own_energy(hidden, getkey):
    memory = memory_of(
        gained(normal(getkey(), (3, 5))), hidden=hidden, input=normal(getkey(), (3,))
    )
    block = derive_block(memory, ["h"], leak=0.7, step=0.01)
    certificate = certify(block)
    x = normal(getkey(), (5,))
    assert certificate.descends_in_flow
    assert certificate.flow_claim == "C10"
    assert certificate.check(getkey(), examples=32).passed
    assert_close(gradient(block, certificate.energy, x), block.force(x), 1e-9)


def test_the_energy_of_the_block_itself_is_not_the_one_that_falls():
    """One unit w = 1, D = 2: the symmetrised energy has the slope phi + (D - 1)(phi + phi' g)/2,
    not D phi.
    """
    block = derive_block(
        memory_of(gained(jnp.ones((1, 1)), jnp.asarray([2.0])), hidden=Sigmoid()), ["h"], leak=0.5
    )
    x = jnp.asarray([0.7])
    g = jnp.tanh(x)
    phi = jax.nn.sigmoid(g)
    expected = phi + 0.5 * (phi + phi * (1 - phi) * g) - 0.5 * x
    assert_close(gradient(block, block.energy, x), expected)
    assert_close(gradient(block, certify(block).energy, x), 2 * phi - 0.5 * x)
    assert_close(block.force(x), 2 * phi - 0.5 * x)


def test_the_own_energy_of_gains_is_the_radial_one(getkey):
    """C10.2: the radial energy is that of every conservative block, up to a constant and its
    quadrature.
    """
    block = derive_block(
        memory_of(gained(normal(getkey(), (3, 5))), hidden=Sigmoid()), ["h"], leak=0.3
    )
    own = certify(block).energy
    a, b = normal(getkey(), (2, 5))
    assert_close(own(a) - own(b), radial_energy(block, a) - radial_energy(block, b), 1e-9)


def test_of_a_memory_with_gains_all_layers_move(getkey):
    memory = memory_of(gained(normal(getkey(), (3, 5))))
    certificate = certify(memory)
    state = {"v": normal(getkey(), (5,)), "h": normal(getkey(), (3,))}
    assert certificate.claim == "C10"
    assert isinstance(certificate.form, AssociativeMemory)
    assert_close(certificate.form.force(state), memory.force(state))
    rate = jax.jvp(certificate.energy, (state,), (memory.force(state),))[1]
    assert rate <= 0
    assert certificate.check(getkey(), examples=16).passed


def test_a_negative_gain_needs_the_hidden_units_to_follow_at_once(getkey):
    """D Phi is then concave: no matter for a block (C07), but not proved of a memory."""
    memory = memory_of(gained(normal(getkey(), (3, 5)), jnp.asarray([0.5, 2.0, -1.0])))
    assert not certify(memory).descends_in_flow
    block = derive_block(memory, ["h"], step=0.1)
    certificate = certify(block)
    assert certificate.descends_in_flow
    up = np.asarray(memory.synapses["s0"].coupling.up)  # pyright: ignore
    assert certificate.concavity == pytest.approx(np.linalg.norm(up, 2) ** 2)
    assert certificate.check(getkey(), examples=16).passed


@pytest.mark.parametrize("tie", [0.5, 3.0])
def test_a_share_of_tied_weights_is_a_gain_for_all(tie, getkey):
    """Units that compete too: V = c W^T is conservative with c Phi."""
    block = derive_block(
        memory_of(Coupling(normal(getkey(), (3, 5)), tie=tie), hidden=Softmax(2.0)), ["h"], leak=1.0
    )
    certificate = certify(block)
    x = normal(getkey(), (5,))
    assert certificate.descends_in_flow
    assert_close(gradient(block, certificate.energy, x), block.force(x), 1e-9)


def test_mixings_and_convolutions_have_gains_of_their_units(getkey):
    shape = (6, 4)
    grid = (2, 3)
    rows = {
        "t": (TokenMixing(gained(normal(getkey(), (3, 6)))), (3, 4)),
        "c": (ChannelMixing(gained(normal(getkey(), (3, 4)))), (6, 3)),
        "f": (Convolution(gained(normal(getkey(), (3, 36))), grid), (6, 3)),
    }
    neurons = {"x": Neurons(Tanh(), shape)} | {
        name: Neurons(Sigmoid(), s) for name, (_, s) in rows.items()
    }
    memory = AssociativeMemory(
        neurons, {n: s for n, (s, _) in rows.items()}, {n: ("x", n) for n in rows}
    )
    block = derive_block(memory, list(rows), leak=1.0)
    certificate = certify(block)
    x = normal(getkey(), shape)
    assert certificate.descends_in_flow
    assert_close(gradient(block, certificate.energy, x), block.force(x), 1e-9)
    batch = normal(getkey(), (6, 3, 4))
    assert isinstance(certificate.form, Block)
    assert_close(certificate.form(batch), block(batch), 1e-10)


def refused_gains(getkey) -> dict[str, AssociativeMemory]:
    up = normal(getkey(), (3, 5))
    plain = memory_of(gained(up))
    shared = AssociativeMemory(
        {**plain.neurons, "w": Neurons(Tanh(), (5,))},
        {**plain.synapses, "t": Dense(Coupling(normal(getkey(), (3, 5))))},
        {"s0": ("v", "h"), "t": ("w", "h")},
    )
    return {
        "units that compete": memory_of(gained(up), hidden=Softmax()),
        "another reader that is tied": shared,
        "stored patterns that read it": AssociativeMemory(
            plain.neurons,
            {**plain.synapses, "m": HopfieldMemory(normal(getkey(), (4, 3)), Softmax())},
            {"s0": ("v", "h"), "m": ("h",)},
        ),
        "not quite": memory_of(Coupling.from_weights(up, up.T * GAINS[None] + 1e-6)),
    }


@pytest.mark.parametrize(
    "name",
    [
        "units that compete",
        "stored patterns that read it",
        "another reader that is tied",
        "not quite",
    ],
)
@pytest.mark.quick
def test_gains_that_have_no_energy_are_refused(name, getkey):
    memory = refused_gains(getkey)[name]
    certificate = certify(memory)
    assert not certificate.descends_in_flow
    assert {a.verdict for a in certificate.flow} >= {"fails"}
    assert conservative_form(memory, ties_of(memory)) is memory
    assert (
        "is conservative for elementwise units that nothing else reads (C07)" in str(certificate)
    ) is (name != "not quite")


@pytest.mark.parametrize("conservative", [True, False])
@pytest.mark.parametrize("gains", [GAINS, jnp.ones(3)])
def test_scales_and_shifts_behind_gained_units_are_part_of_the_form(gains, conservative, getkey):
    """On both ways they stay what they are, on the way out alone a scale is a gain too."""
    affine = Affine(jnp.asarray([0.5, 2.0, -1.0]), normal(getkey(), (3,)), conservative)
    block = derive_block(
        memory_of(gained(normal(getkey(), (3, 5)), gains), hidden=Sigmoid(), affine=affine), ["h"]
    )
    certificate = certify(block)
    x = normal(getkey(), (5,))
    assert certificate.descends_in_flow
    assert_close(gradient(block, certificate.energy, x), block.force(x), 1e-9)
    assert certificate.check(getkey(), examples=16).passed


def two_mixings(token: Coupling, channel: Coupling) -> Block:
    """A token and a channel mixing from one layer into another."""
    shape = (token.up.shape[1], channel.up.shape[1])
    neurons = {"x": Neurons(Quadratic(), shape), "h": Neurons(ReLU(), shape)}
    synapses = {"t": TokenMixing(token), "c": ChannelMixing(channel)}
    memory = AssociativeMemory(neurons, synapses, {"t": ("x", "h"), "c": ("x", "h")})
    return derive_block(memory, ["h"], leak=1.0, step=0.02)


def test_gains_of_tokens_and_of_channels_are_not_the_same(getkey):
    """The same three numbers stand at rows here and at columns there; a number for all stands
    everywhere.
    """
    square = normal(getkey(), (2, 3, 3))
    uneven = jnp.asarray([0.01, 1.0, 10.0])
    refused = certify(two_mixings(gained(square[0], uneven), gained(square[1], uneven)))
    assert not refused.descends_in_flow
    twice = two_mixings(
        Coupling(normal(getkey(), (3, 3)), tie=2.0), Coupling(normal(getkey(), (4, 4)), tie=2.0)
    )
    certificate = certify(twice)
    assert certificate.descends_in_flow
    assert certificate.check(getkey(), examples=16).passed


def test_a_descent_records_the_energy_of_the_form(getkey):
    block = derive_block(
        memory_of(gained(normal(getkey(), (3, 5))), visible=Quadratic(), hidden=Tanh()),
        ["h"],
        leak=1.0,
    )
    block = dataclasses.replace(block, step=0.2)
    certificate = certify(block)
    x = 3 * normal(getkey(), (5,))
    assert certificate.descends_in_steps
    for backtrack in (False, True):
        descent = descend(block, x, 20, form=certificate.form, backtrack=backtrack)
        assert descent.status == Status.descended
        assert_close(descent.energies[3], certificate.energy(descent.states[3]), 1e-10)


@pytest.mark.quick
def test_gained_units_are_a_lagrangian(getkey):
    units = Gained(GELU(), jnp.asarray([[0.5], [-2.0], [3.0]]))
    x = normal(getkey(), (3, 4))
    assert_close(jax.grad(units)(x), units.activation(x))
    low, high = units.curvature
    assert low == pytest.approx(min(3 * GELU().curvature[0], -2 * GELU().curvature[1]))
    assert high == pytest.approx(3 * GELU().curvature[1])


# ---- Couplings that act together -----------------------------------------------------------------


def split(w, v, mask) -> tuple[Coupling, Coupling]:
    """Two couplings whose weights add up to W and V."""
    first = Coupling.from_weights(jnp.where(mask, w, 0), jnp.where(mask.T, 0, v))
    return first, Coupling.from_weights(jnp.where(mask, 0, w), jnp.where(mask.T, v, 0))


def test_couplings_that_are_tied_together_are_certified(getkey):
    up = normal(getkey(), (3, 5))
    mask = normal(getkey(), (3, 5)) > 0
    memory = memory_of(*split(up, up.T, mask))
    block = derive_block(memory, ["h"], leak=1.0, step=1.0)
    certificate = certify(block)
    x = normal(getkey(), (5,))
    assert certificate.descends_in_steps
    assert "synapses 's0' and 's1' together are symmetric, V = W^T" in str(certificate)
    assert_close(certificate.energy(x), block.energy(x))
    assert_close(gradient(block, block.energy, x), block.force(x), 1e-9)
    assert certify(memory).descends_in_flow
    one = AssociativeMemory(memory.neurons, {"s0": memory.synapses["s0"]}, {"s0": ("v", "h")})
    assert not certify(one).descends_in_flow


def test_a_coupling_the_other_way_round_is_its_transpose(getkey):
    """W from v to h in one synapse, V from h to v in another that names h first."""
    up = normal(getkey(), (3, 5))
    synapses = {
        "a": Dense(Coupling.from_weights(up, jnp.zeros((5, 3)))),
        "b": Dense(Coupling.from_weights(up.T, jnp.zeros((3, 5)))),
    }
    neurons = {"v": Neurons(Tanh(), (5,)), "h": Neurons(ReLU(), (3,))}
    memory = AssociativeMemory(neurons, synapses, {"a": ("v", "h"), "b": ("h", "v")})
    certificate = certify(derive_block(memory, ["h"], leak=1.0))
    assert certificate.descends_in_steps
    assert certificate.check(getkey(), examples=16).passed


def test_a_layer_joined_with_itself_needs_the_sum_of_both_ways(getkey):
    """The current is (W + V) g: V = W^T is enough, and not needed."""
    half = normal(getkey(), (4, 4))
    antisymmetric = half - half.T
    neurons = {"v": Neurons(Tanh(), (4,))}
    for w, v, expected in (
        (half, half.T, True),
        (half + antisymmetric, half.T - antisymmetric, True),
        (half, half, False),
    ):
        memory = AssociativeMemory(
            neurons, {"s": Dense(Coupling.from_weights(w, v))}, {"s": ("v", "v")}
        )
        certificate = certify(derive_block(memory, [], leak=1.0, step=0.01))
        assert certificate.descends_in_flow is expected
        assert certificate.check(getkey(), examples=16).passed is expected
        if expected:
            lowest = np.linalg.eigvalsh(half + half.T)[0]
            assert certificate.concavity == pytest.approx(max(0, -lowest))


def test_a_loop_counts_by_the_sum_of_both_ways(getkey):
    """A hidden layer that pulls itself by V = -3 or +3, W = 0: the pull is 3, and 0.5 with V =
    0.5.
    """
    neurons = {"v": Neurons(Quadratic(), (2,)), "h": Neurons(Tanh(), (2,))}
    for pull, expected in ((-3.0, False), (3.0, False), (0.5, True), (-0.5, True)):
        loop = Dense(Coupling.from_weights(jnp.zeros((2, 2)), pull * jnp.eye(2)))
        synapses = {"s": Dense(Coupling(normal(getkey(), (2, 2)))), "r": loop}
        memory = AssociativeMemory(neurons, synapses, {"s": ("v", "h"), "r": ("h", "h")})
        certificate = certify(derive_block(memory, ["h"], leak=1.0, step=0.9))
        assert certificate.descends_in_flow is expected
        assert not expected or certificate.check(getkey(), examples=16).passed


def convolved_loop(up, down, window) -> Block:
    synapses = {"s": Convolution(Coupling.from_weights(up, down), (2, 2), window)}
    memory = AssociativeMemory({"v": Neurons(Quadratic(), (4, 3))}, synapses, {"s": ("v", "v")})
    return derive_block(memory, [], leak=0.1, step=0.05)


def test_a_convolution_of_a_layer_with_itself(getkey):
    """Windows of one token are matrices: W + V = -9; of larger ones only V = W^T is known to be
    symmetric.
    """
    one = certify(convolved_loop(jnp.zeros((3, 3)), -9 * jnp.eye(3), (1, 1)))
    assert one.concavity == pytest.approx(9)
    assert one.descends_in_steps
    assert one.check(getkey(), examples=16).passed
    up = normal(getkey(), (3, 27))
    tied = certify(convolved_loop(up, up.T, (3, 3)))
    assert tied.descends_in_flow
    assert tied.check(getkey(), examples=16).passed
    free = certify(convolved_loop(up, normal(getkey(), (27, 3)), (3, 3)))
    assert {a.verdict for a in free.flow} == {"holds", "unknown"}


# ---- Scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-8, 1.0, 1e8, 1e19, 1e30])
@pytest.mark.quick
def test_tied_is_tied_and_free_is_free_at_every_scale(scale, dtype, getkey):
    up = (scale * normal(getkey(), (3, 5))).astype(dtype)
    assert certify(cast(memory_of(Coupling(up)), dtype)).descends_in_flow
    free = jnp.asarray([[1.0], [2.0], [-1.0], [0.0], [3.0]]) * jnp.asarray([[1.0, -1.0, 1.0]])
    down = up.T + (scale * free).astype(dtype)
    assert not certify(cast(memory_of(Coupling.from_weights(up, down)), dtype)).descends_in_flow


@pytest.mark.parametrize("small", [1e-3, 1e-9, 1e-30])
def test_a_large_row_does_not_hide_a_free_one(small, getkey):
    up = normal(getkey(), (3, 5)).at[1].multiply(small)
    down = up.T.at[:, 1].set(small * jnp.asarray([1.0, -2.0, 3.0, -4.0, 5.0]) + 2 * jnp.abs(up[1]))
    certificate = certify(memory_of(Coupling.from_weights(up, down)))
    assert not certificate.descends_in_flow
    assert certify(memory_of(Coupling.from_weights(up, up.T))).descends_in_flow


@pytest.mark.parametrize("hide", ["scale", "clamp"])
def test_a_large_column_does_not_hide_free_ones(hide, getkey):
    """What a large entry rounds off is all that counts behind a small scale, or where that entry is
    held.
    """
    up = jnp.asarray([[1e8, 1.0, -1.0]])
    down = jnp.asarray([[1e8], [-1.0], [2.0]])
    neurons = {"v": Neurons(Quadratic(), (3,)), "h": Neurons(ReLU(), (1,))}
    if hide == "scale":
        neurons["v"] = Neurons(
            Quadratic(), (3,), affine=Affine(jnp.asarray([1e-8, 1.0, 1.0]), jnp.zeros(3))
        )
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling.from_weights(up, down))}, {"s": ("v", "h")}
    )
    if hide == "clamp":
        memory = memory.clamp({"v": jnp.asarray([True, False, False])})
    assert not certify(derive_block(memory, ["h"], leak=1.0, step=0.5)).descends_in_flow


def test_units_without_weights_are_tied(getkey):
    up = normal(getkey(), (3, 5)).at[1].set(0)
    assert certify(memory_of(Coupling.from_weights(up, up.T))).descends_in_flow
    assert certify(memory_of(gained(up))).descends_in_flow
    assert not certify(
        memory_of(Coupling.from_weights(up, up.T.at[0, 1].set(1e-9)))
    ).descends_in_flow


def test_biases_stay_and_do_not_hinder(getkey):
    memory = memory_of(gained(normal(getkey(), (3, 5))))
    synapses = {**memory.synapses, "b": Bias(normal(getkey(), (3,)))}
    biased = AssociativeMemory(memory.neurons, synapses, {"s0": ("v", "h"), "b": ("h",)})
    block = derive_block(biased, ["h"], leak=1.0)
    certificate = certify(block)
    x = normal(getkey(), (5,))
    assert certificate.descends_in_flow
    assert_close(gradient(block, certificate.energy, x), block.force(x), 1e-9)


def test_what_is_tied_one_by_one_is_left_alone(getkey):
    memory = memory_of(Coupling(normal(getkey(), (3, 5))), visible=LayerNorm())
    block = derive_block(memory, ["h"])
    assert conservative_form(block, ties_of(memory)) is block
    assert certify(dataclasses.replace(block, step=0.5)).form.step == 0.5  # pyright: ignore
