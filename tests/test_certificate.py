"""Certificates: what is proved is true, what is not proved is said, and the check finds a real
violation.
"""

# pyright: reportAssignmentType=false, reportIncompatibleMethodOverride=false

import dataclasses
import inspect
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    VISIBLE_SHAPE,
    assert_close,
    cast,
    coupling_of,
    dense_pair,
    make_block,
    mixing,
    normal,
    three_layers,
)

from hopmix import (
    GELU,
    AbstractLagrangian,
    AbstractSynapse,
    AssociativeMemory,
    Attention,
    Block,
    ChannelMixing,
    Coupling,
    Dense,
    HopfieldMemory,
    LayerNorm,
    LogSumReLU,
    Mixer,
    MixerConfig,
    Neurons,
    Quadratic,
    ReLU,
    SerialBlock,
    Sigmoid,
    Softmax,
    Tanh,
    TokenMixing,
    certify,
    derive_block,
    descend,
)
from hopmix._numerics.rounding import step_magnitudes


def relu_block(key, coupling: str = "symmetric", **memory) -> Block:
    return make_block(key, coupling, hidden=ReLU(), **memory)


def failures(assumptions) -> set[str]:
    return {a.statement for a in assumptions if a.verdict == "fails"}


# ---- What is proved ------------------------------------------------------------------------------


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
@pytest.mark.quick
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


def test_of_a_gelu_block_the_step_is_bounded(getkey):
    """K = 0.1289 * (|W_t|^2 + |W_c|^2) * gamma^2, and 2/(K l) with the curvature l =
    gamma'/sqrt(eps) of the norm.
    """
    block = make_block(getkey(), scale="none", bias=False, eps=0.01)
    certificate = certify(block)
    norms = [
        np.linalg.norm(coupling_of(block.potential.memory, n).up, 2) for n in ("token", "channel")
    ]
    concavity = 0.12890418 * sum(n**2 for n in norms)
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert failures(certificate.flow + certificate.step) == set()
    assert certificate.claim == "C01"
    assert certificate.concavity == pytest.approx(concavity, rel=1e-6)
    assert certificate.step_bound == pytest.approx(2 / (concavity * 10), rel=1e-6)
    memory = block.potential.memory
    careful = certify(derive_block(memory, ["token", "channel"], step=0.9 * certificate.step_bound))
    assert careful.descends_in_steps
    assert careful.claim == "C06"
    assert careful.check(getkey(), examples=8, steps=4).passed
    leaky = certify(derive_block(memory, ["token", "channel"], leak=0.7, step=0.01))
    assert leaky.step_bound == pytest.approx(2 / (concavity * 10 + 0.7), rel=1e-6)


def test_scales_count_in_the_concavity(getkey):
    plain = make_block(getkey(), scale="conservative", bias=False)
    scale = lambda b: b.potential.neurons.affine.scale
    one = eqx.tree_at(scale, plain, 1.0 * jnp.ones(VISIBLE_SHAPE))
    two = eqx.tree_at(scale, plain, 3.0 * jnp.ones(VISIBLE_SHAPE))
    assert certify(two).concavity == pytest.approx(9 * certify(one).concavity)


def test_the_bound_at_a_state_follows_its_spread(getkey):
    block = make_block(getkey(), norm="token", scale="none", bias=False)
    certificate = certify(block)
    x = normal(getkey(), VISIBLE_SHAPE)
    for scale in (1, 10):
        quietest = np.min(np.sqrt(np.var(scale * x, axis=1) + 1e-6))
        assert certificate.step_bound_at(scale * x) == pytest.approx(
            quietest / certificate.concavity
        )
    assert certificate.step_bound_at(jnp.zeros(VISIBLE_SHAPE)) == certificate.step_bound
    assert certify(relu_block(getkey())).step_bound_at(x) == math.inf


def test_of_a_memory_all_layers_move(getkey):
    certificate = certify(three_layers(getkey()))
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert certificate.step == ()
    assert math.isnan(certificate.step_bound)
    assert certificate.check(getkey(), examples=16).passed
    of_gelu = certify(mixing(getkey()))
    assert of_gelu.claim is None
    assert failures(of_gelu.flow) == {
        f"the Lagrangian of layer '{n}' is convex" for n in ("token", "channel")
    }


@pytest.mark.parametrize("options", [{"leak": 1.0, "step": 1.5}, {"leak": 3.0, "step": 0.5}])
def test_a_leaky_step_that_overshoots_is_not_proved(options, getkey):
    """Behind a norm none is beyond a full step; that this one fails is not known either."""
    certificate = certify(relu_block(getkey(), options=options))
    assert certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert certificate.step_bound == 1 / options["leak"]
    assert {a.statement for a in certificate.step if a.verdict == "unknown"} == {
        "the step is within its bound"
    }
    assert failures(certificate.step) == set()


def one_hidden_layer(visible, hidden, up, **options) -> Block:
    neurons = {"v": Neurons(visible, (up.shape[1],)), "h": Neurons(hidden, (up.shape[0],))}
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})
    return derive_block(memory, ["h"], **options)


@pytest.mark.parametrize(
    "visible, most",
    [(Quadratic(), 2.0), (Tanh(), 1.0), (Quadratic() + 0.5 * Tanh(2.0), 1.5), (Softmax(), 1.0)],
)
def test_a_leaky_step_may_overshoot_by_the_ratio_of_curvatures(visible, most, getkey):
    """C05.4: leak * step up to 1 + mu/l."""
    block = one_hidden_layer(visible, ReLU(), normal(getkey(), (6, 5)), leak=0.5)
    assert certify(block).step_bound == pytest.approx(2 * most)
    careful = dataclasses.replace(block, step=2 * most)
    assert certify(careful).descends_in_steps
    assert certify(careful).check(getkey(), examples=64).passed


def test_overshooting_and_concavity_share_one_bound(getkey):
    """The larger of min(2/(K l + leak), 1/leak) and (1 + mu/l)/(K l + leak)."""
    up = normal(getkey(), (6, 5))
    concavity = 0.12890418 * np.linalg.norm(up, 2) ** 2
    linear = Quadratic()
    steep = Tanh(4.0)
    for leak in (1e-3, 1.0, 1e3):
        bounds = [
            certify(one_hidden_layer(units, GELU(), up, leak=leak)).step_bound
            for units in (linear, steep)
        ]
        assert bounds[0] == pytest.approx(2 / (concavity + leak), rel=1e-6)
        assert bounds[1] == pytest.approx(min(2 / (4 * concavity + leak), 1 / leak), rel=1e-6)


# ---- What is refused -----------------------------------------------------------------------------


def negative_scale(block: Block) -> Block:
    return eqx.tree_at(lambda b: b.potential.neurons.lagrangian.scale, block, jnp.asarray(-1.0))


def uneven_scale(block: Block, key) -> Block:
    return eqx.tree_at(
        lambda b: b.potential.neurons.affine.scale, block, 2 * normal(key, VISIBLE_SHAPE)
    )


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
@pytest.mark.quick
def test_what_breaks_a_theorem_is_refused(name, getkey):
    make, statements = REFUSED[name]
    certificate = certify(make(getkey()))
    assert not certificate.descends_in_flow
    assert not certificate.descends_in_steps
    assert math.isnan(certificate.step_bound)  # where nothing is proved, no step is
    assert failures(certificate.flow) == statements


@pytest.mark.parametrize("name", REFUSED)
def test_the_check_finds_the_violation(name, fixedkey):
    """None of the refusals is a formality: with random weights the energy does rise."""
    block = REFUSED[name][0](fixedkey())
    block = derive_block(block.potential.memory, block.potential.hidden, step=0.3)
    check = certify(block).check(fixedkey(), examples=256, steps=16)
    assert not check.passed
    assert check.worst_rise > 1e-6


def test_an_elementwise_scale_of_one_is_still_conservative(getkey):
    block = relu_block(getkey(), scale="elementwise")
    block = eqx.tree_at(lambda b: b.potential.neurons.affine.scale, block, jnp.ones(VISIBLE_SHAPE))
    certificate = certify(block)
    assert certificate.descends_in_steps
    assert certificate.check(getkey(), examples=16).passed


def signs_in_turn(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(1.0 - 2.0 * (np.indices(shape).sum(0) % 2))


def test_weights_tied_up_to_rounding_are_tied(getkey):
    block = relu_block(getkey(), "broken")
    ups = [coupling_of(block.potential.memory, name).up for name in ("token", "channel")]
    for size, tied in ((0.0, True), (1e-17, True), (1e-15, True), (1e-12, False)):
        # Entries with signs in turn: one factor for all would be a gain.
        small = eqx.tree_at(
            breakings, block, [size * up.T * signs_in_turn(up.T.shape) for up in ups]
        )
        assert certify(small).descends_in_flow is tied


def test_a_check_tells_rounding_from_asymmetry(getkey):
    """At large states softmax units hardly answer: what is left of H J is rounding, and no sign of
    anything.
    """
    neurons = {"v": Neurons(Softmax(), (5,)), "h": Neurons(Tanh(), (6,))}
    synapses = {"s": Dense(Coupling(normal(getkey(), (6, 5))))}
    memory = cast(AssociativeMemory(neurons, synapses, {"s": ("v", "h")}), jnp.float32)
    assert certify(memory).descends_in_flow
    assert (
        certify(derive_block(memory, ["h"], leak=1.0))
        .check(getkey(), examples=32, scale=100.0)
        .passed
    )


class Swirl(AbstractSynapse):
    """A user's synapse without couplings whose current is the gradient of nothing."""

    def energy(self, *activations):
        return jnp.zeros(())

    def current(self, into, activations):
        return jnp.asarray([3.0, 0.0])


def test_a_synapse_whose_current_is_no_gradient_is_found_out(getkey):
    neurons = {"v": Neurons(Quadratic(), (2,)), "h": Neurons(ReLU(), (3,))}
    synapses = {"swirl": Swirl(), "s": Dense(Coupling.symmetric(2, 3, key=getkey()))}
    memory = AssociativeMemory(neurons, synapses, {"swirl": ("v",), "s": ("v", "h")})
    for system in (memory, derive_block(memory, ["h"])):
        certificate = certify(system)
        assert not certificate.descends_in_flow
        assert not certificate.descends_in_steps
        assert failures(certificate.flow) == {"synapse 'swirl' is conservative"}


def test_a_serial_block_is_refused_and_found_out(fixedkey):
    config = MixerConfig(
        image=(4, 4, 1), patch=2, dim=4, depth=1, classes=2, block="serial", coupling="symmetric"
    )
    (block,) = Mixer(config, key=fixedkey()).blocks
    certificate = certify(block)
    assert certificate.claim is None
    assert failures(certificate.flow) == {"the layer is one step of one potential"}
    assert "use the parallel form" in str(certificate)
    check = certificate.check(fixedkey(), examples=16)
    assert not check.passed
    assert math.isnan(check.worst_rise)
    assert check.asymmetry > 0.01
    assert isinstance(block, SerialBlock)
    for part in block.parts:
        assert certify(part).descends_in_flow
        assert certify(part).check(fixedkey(), examples=16).asymmetry < 1e-12


@pytest.mark.quick
def test_other_things_are_no_systems():
    with pytest.raises(
        TypeError, match=r"No theorem covers a Linear: certify a Block or .*assert_energy_descends"
    ):
        inspect.unwrap(certify)(
            eqx.nn.Linear(2, 2, key=jax.random.key(0))
        )  # below the type checks of the tests


class TanhGELU(AbstractLagrangian):
    """A user's Lagrangian with the activation of another one."""

    curvature = (-0.13, 1.13)

    def __call__(self, x):
        return GELU()(x)

    def activation(self, x):
        return jax.nn.gelu(2 * x, approximate=True)


class Concave(AbstractLagrangian):
    """A user's Lagrangian that says it is convex and is not."""

    curvature = (0.0, 1.0)

    def __call__(self, x):
        return -0.5 * jnp.sum(x**2)

    def activation(self, x):
        return -x


class Bowl(Concave):
    """A user's Lagrangian that is what it says."""

    def __call__(self, x):
        return 0.5 * jnp.sum(x**2)

    def activation(self, x):
        return x


@pytest.mark.parametrize(
    "lagrangian, fails, unknown",
    [
        (TanhGELU(), {"the activation of layer 'v' is the gradient of its Lagrangian"}, 1),
        (Concave(), {"the Lagrangian of layer 'v' is convex"}, 1),
        (Bowl(), set(), 2),
        (Tanh() + Bowl(), set(), 2),
    ],
)
def test_lagrangians_of_users_are_tried(lagrangian, fails, unknown, getkey):
    neurons = {"v": Neurons(lagrangian, (5,)), "h": Neurons(ReLU(), (3,))}
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling.symmetric(5, 3, key=getkey()))}, {"s": ("v", "h")}
    )
    certificate = certify(derive_block(memory, ["h"]))
    assert certificate.claim is None
    assert fails <= failures(certificate.flow)
    assert len([a for a in certificate.flow if a.verdict == "unknown"]) == unknown


def test_clamped_entries_must_be_whole_groups(getkey):
    memory = mixing(getkey(), norm="token", scale="none", hidden=ReLU())
    some = jnp.zeros(VISIBLE_SHAPE, bool).at[0, 0].set(True)
    rows = jnp.asarray([[True], [False], [False], [True]])
    for mask, holds in ((some, False), (rows, True), (jnp.ones((1, 1), bool), True)):
        certificate = certify(derive_block(memory.clamp({"visible": mask}), ["token", "channel"]))
        assert certificate.descends_in_flow is holds
        assert certificate.check(getkey(), examples=8).passed or not holds


def attention_block(key, **options) -> Block:
    neurons = {"x": Neurons(LayerNorm((-1,)), VISIBLE_SHAPE), "m": Neurons(ReLU(), (4, 8))}
    synapses = {
        "attention": Attention.random(6, 2, 3, key=key),
        "memory": ChannelMixing(Coupling.symmetric(6, 8, key=key)),
    }
    memory = AssociativeMemory(neurons, synapses, {"attention": ("x",), "memory": ("x", "m")})
    return derive_block(memory, ["m"], **options)


def test_of_an_energy_transformer_the_flow_and_small_steps_are_proved(getkey):
    certificate = certify(attention_block(getkey(), step=0.01))
    assert certificate.claim == "C13"
    assert not certificate.descends_in_steps
    assert 0 < certificate.step_bound < 0.01
    assert certificate.check(getkey(), examples=16).passed
    careful = certify(attention_block(getkey(), step=0.9 * certificate.step_bound))
    assert careful.step_claim == "C13"
    assert isinstance(careful.system, Block)
    potential = careful.system.potential
    x = LayerNorm((-1,)).activation(
        normal(getkey(), potential.neurons.shape)
    )  # each token of spread 1, not 0
    assert careful.step_bound_at(x) > 10 * careful.step_bound
    (attention,) = (s for s in potential.memory.synapses.values() if isinstance(s, Attention))
    assert_close(careful.concavity, float(attention.concavity(len(x))))


def test_stored_patterns_with_convex_separation_descend_in_steps(getkey):
    """The modern Hopfield network: leak 1, step 1 is its update, and it descends."""
    memory = HopfieldMemory(normal(getkey(), (9, 5)), Softmax(2.0))
    block = derive_block(
        AssociativeMemory({"v": Neurons(Quadratic(), (5,))}, {"m": memory}, {"m": ("v",)}),
        [],
        leak=1.0,
    )
    certificate = certify(block)
    assert certificate.claim == "C05"
    assert certificate.step_bound == 2  # linear units may overshoot
    assert certificate.check(getkey(), examples=64).passed


@pytest.mark.parametrize("size, verdict", [(0.1, "holds"), (3.0, "unknown")])
def test_joined_hidden_layers_need_one_rest(size, verdict, getkey):
    neurons = {
        "v": Neurons(Tanh(), (4,)),
        "m": Neurons(Tanh(), (5,)),
        "l": Neurons(Sigmoid(), (3,)),
    }
    synapses = {
        "vm": Dense(Coupling(normal(getkey(), (5, 4)))),
        "ml": Dense(Coupling(size * normal(getkey(), (3, 5)))),
    }
    memory = AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")})
    certificate = certify(derive_block(memory, ["m", "l"], step=0.1))
    assert certificate.flow[0].statement == "the joined hidden layers have one state of rest"
    assert certificate.flow[0].verdict == verdict
    assert certificate.descends_in_flow is (verdict == "holds")
    assert verdict == "unknown" or certificate.check(getkey(), examples=8).passed


# ---- The negative test of the theory: GELU hidden units with a time constant of their own --------


def finite_time_memory(hidden) -> AssociativeMemory:
    neurons = {"v": Neurons(Tanh(), (2,)), "h": Neurons(hidden, (4,), tau=1.0)}
    up = 0.3 * jnp.asarray([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.2], [0.8, 0.8]])
    return AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})


@pytest.mark.parametrize("hidden, falls", [(GELU(), False), (ReLU(), True)])
def test_hidden_convexity_matters_once_hidden_units_take_time(hidden, falls, fixedkey):
    """Hidden states near -3 sit where GELU falls: the energy rises on their way to rest. ReLU units
    are safe.
    """
    memory = finite_time_memory(hidden)
    certificate = certify(memory)
    assert certificate.descends_in_flow is falls

    @jax.jit
    def rate(state):
        return jax.jvp(memory.energy, (state,), (memory.force(state),))[1]

    rates = [
        rate({"v": 0.1 * normal(fixedkey(), (2,)), "h": -3 + 0.1 * normal(fixedkey(), (4,))})
        for _ in range(8)
    ]
    assert bool(max(rates) <= 0) is falls
    assert certificate.check(fixedkey(), examples=64, steps=128, scale=3.0).passed is falls
    assert certify(derive_block(memory, ["h"], leak=1.0)).descends_in_flow


# ---- The rest ------------------------------------------------------------------------------------


def test_a_certificate_reads_as_text(getkey):
    text = str(certify(make_block(getkey(), scale="elementwise", options={"leak": 0.5})))
    assert "energy descent along the flow: not proved" in text
    assert "energy descent in every step: not proved" in text
    assert "[holds] synapse 'token' is symmetric, V = W^T: entries differ by 0 at most" in text
    assert (
        "[fails] the scale of layer 'visible' keeps the field conservative: elementwise on the "
        "way in only" in text
    )
    assert "[unknown] explicit steps follow the flow: it needs all of the above" in text
    assert "convex: K" not in text
    assert "in every step" not in str(certify(dense_pair(getkey())))
    of_gelu = str(certify(make_block(getkey())))
    assert "energy descent in every step: not proved (steps up to 0.0" in of_gelu
    assert "[holds] U + K/2 |g|^2 is convex: K = " in of_gelu
    assert (
        "[unknown] the step is within its bound: 1, and descent from every state is proved for "
        "steps up" in of_gelu
    )
    of_relu = str(certify(relu_block(getkey())))
    assert "energy descent in every step: proved (C05), for steps of any size" in of_relu


@pytest.mark.parametrize(
    "coupling, options", [("free", {}), ("symmetric", {"scale": "elementwise"})]
)
def test_nothing_is_said_of_the_potential_of_what_is_refused(coupling, options, fixedkey):
    """For free weights U is the pseudo-energy, and far from convex though the units are."""
    block = relu_block(fixedkey(), coupling, **options)
    certificate = certify(block)
    assert not certificate.descends_in_flow
    assert math.isnan(certificate.concavity)
    assert math.isnan(certificate.step_bound)
    assert {a.verdict for a in certificate.step} == {"unknown"}
    assert "any size" not in str(certificate)
    if coupling == "free":
        g = normal(fixedkey(), VISIBLE_SHAPE)
        hessian = jax.jit(jax.hessian(block.potential))(g)
        assert np.linalg.eigvalsh(hessian.reshape(g.size, g.size)).min() < -0.1


def test_log_sum_relu_jumps_and_is_not_certified(getkey):
    """As the separation of stored patterns, and as a hidden layer; the energy does rise where a
    unit joins.
    """
    patterns = normal(getkey(), (6, 4))
    stored = AssociativeMemory(
        {"v": Neurons(Quadratic(), (4,))},
        {"m": HopfieldMemory(patterns, LogSumReLU(1.0), "distance")},
        {"m": ("v",)},
    )
    neurons = {"v": Neurons(Quadratic(), (4,)), "h": Neurons(LogSumReLU(1.0), (6,))}
    hidden = AssociativeMemory(neurons, {"s": Dense(Coupling(patterns))}, {"s": ("v", "h")})
    for system, name in (
        (stored, "current of synapse 'm'"),
        (derive_block(hidden, ["h"]), "activation of layer 'h'"),
    ):
        certificate = certify(system)
        assert not certificate.descends_in_flow
        assert f"the {name} is continuous" in failures(certificate.flow)
    smooth = AssociativeMemory(
        {"v": Neurons(Quadratic(), (4,))},
        {"m": HopfieldMemory(patterns, Softmax(1.0), "distance")},
        {"m": ("v",)},
    )
    assert certify(smooth).descends_in_flow


class Doubled(Block):
    """A block that is something else."""

    def __call__(self, x, key=None):
        return 2 * x


class Turned(AssociativeMemory):
    """A memory that climbs."""

    def force(self, state):
        return {name: -force for name, force in super().force(state).items()}


def test_what_overrides_methods_is_not_certified(getkey):
    block = relu_block(getkey())
    memory = dense_pair(getkey())
    doubled = Doubled(block.potential)
    turned = Turned(memory.neurons, memory.synapses, dict(memory.connections))  # pyright: ignore
    for system in (doubled, turned):
        certificate = certify(system)
        assert certificate.claim is None
        assert certificate.flow[0].verdict == "unknown"
        assert f"{type(system).__name__} may override any of its methods" in str(certificate)
    assert not certify(turned).check(getkey(), examples=4).passed


def test_a_small_rise_is_not_hidden_by_a_large_energy(getkey):
    """Rises are relative to the energies along their own trajectory."""
    block = make_block(getkey(), norm="token", scale="none", eps=1e-2, options={"step": 50.0})
    certificate = certify(block)
    key = getkey()
    states = [size * normal(key, (1, *VISIBLE_SHAPE)) for size in (1e-2, 1e6)]
    alone = certificate.check_from(states[0], steps=1).worst_rise
    together = certificate.check_from(jnp.concatenate(states), steps=1).worst_rise
    # A rise is a share of an energy: its rounding is that of numbers near 1, however small it is
    # itself.
    assert abs(together - max(alone, certificate.check_from(states[1], steps=1).worst_rise)) < 1e-14


@pytest.mark.parametrize("size, claim", [(0.05, "C05"), (3.0, None)])
def test_convex_hidden_layers_that_are_joined_descend_in_steps_where_they_have_one_rest(
    size, claim, getkey
):
    neurons = {
        "v": Neurons(Tanh(), (4,)),
        "m": Neurons(Tanh(), (5,)),
        "l": Neurons(Sigmoid(), (3,)),
    }
    synapses = {
        "vm": Dense(Coupling(normal(getkey(), (5, 4)))),
        "ml": Dense(Coupling(size * normal(getkey(), (3, 5)))),
    }
    memory = AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")})
    certificate = certify(derive_block(memory, ["m", "l"], step=20.0))
    assert certificate.claim == claim
    if claim:
        assert certificate.step_bound == math.inf
        assert certificate.check(getkey(), examples=16, steps=4).passed


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
    states, energies, *_ = descend(block, jnp.zeros(VISIBLE_SHAPE), 3)
    magnitudes = jax.jit(jax.vmap(partial(step_magnitudes, block)))
    before, after = magnitudes(states[:-1], states[1:])
    check = certify(block).check(getkey(), examples=2, steps=3, scale=0.0)
    assert_close(check.worst_rise, jnp.max(jnp.diff(energies) / (before + after)), 1e-10)


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
    half = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16), Coupling.broken(6, 12, key=getkey())
    )
    broken = eqx.tree_at(lambda c: c.breaking, half, 0.04 * half.up.T)
    neurons = {"v": Neurons(Quadratic(), (6,)), "h": Neurons(ReLU(), (12,))}
    memory = AssociativeMemory(neurons, {"s": Dense(broken)}, {"s": ("v", "h")})
    assert not certify(memory).descends_in_flow
    tied = AssociativeMemory(neurons, {"s": Dense(half)}, {"s": ("v", "h")})
    assert certify(tied).descends_in_flow
