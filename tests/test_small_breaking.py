"""The bound on the breaking: its constants by other means, its symmetries, precision, and what is
not covered.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, cast, normal

from hopmix import (
    GELU,
    AbstractLagrangian,
    Affine,
    AssociativeMemory,
    Attention,
    Bias,
    Block,
    ChannelMixing,
    Coupling,
    Dense,
    GhostMax,
    HopfieldMemory,
    LayerNorm,
    Mixer,
    MixerConfig,
    Neurons,
    Quadratic,
    ReLU,
    SerialBlock,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
    TokenMixing,
    derive_block,
)
from hopmix._certificate import small_breaking as small
from hopmix.claims.c16_small_breaking import break_by, draw, find_rest
from hopmix.symmetry import breaking_bound, breaking_size, with_tied_weights

TOKENS = 3
CHANNELS = 4
HIDDEN = 5


def resting(
    key: jax.Array,
    visible: AbstractLagrangian | None = None,
    hidden: AbstractLagrangian | None = None,
    affine: Affine | None = None,
    size: float = 0.3,
    tau: float = 0.7,
) -> tuple[Block, jax.Array]:
    """A parallel mixer with leak 1, a small breaking, and a current for which the tied flow rests
    at a state.

    The entries of each token have variance 1, so that no norm is steep.
    """
    visible = Quadratic() if visible is None else visible
    hidden = Tanh() if hidden is None else hidden
    up, across, down, back, x = (
        np.asarray(normal(jax.random.fold_in(key, i), shape))
        for i, shape in enumerate(
            [(HIDDEN, TOKENS), (HIDDEN, CHANNELS), (TOKENS, HIDDEN), (CHANNELS, HIDDEN), (3, 4)]
        )
    )
    scaled = lambda a, by: jnp.asarray(by * a / np.linalg.norm(a, 2))
    token = Coupling(scaled(up, size), breaking=scaled(down, 1e-3))
    channel = Coupling(scaled(across, size), breaking=scaled(back, 2e-3))

    def make(current) -> Block:
        neurons = {
            "x": Neurons(visible, (TOKENS, CHANNELS), tau=tau, input=current, affine=affine),
            "token": Neurons(hidden, (HIDDEN, CHANNELS)),
            "channel": Neurons(hidden, (TOKENS, HIDDEN)),
        }
        synapses = {
            "token": TokenMixing(token),
            "channel": ChannelMixing(channel),
            "bias": Bias(jnp.linspace(-0.5, 0.5, HIDDEN)[None]),
        }
        ends = {"token": ("x", "token"), "channel": ("x", "channel"), "bias": ("channel",)}
        return derive_block(
            AssociativeMemory(neurons, synapses, ends), ["token", "channel"], leak=1.0
        )

    x = jnp.asarray(0.3 + x / np.std(x, axis=1, keepdims=True))
    block = make(jnp.zeros_like(x))
    return make(-with_tied_weights(block).force(x)), x


VISIBLE = {
    "linear": Quadratic(),
    "tanh": Tanh(0.7),
    "sigmoid": Sigmoid(1.5),
    "softmax": Softmax(1.2, (-1,)),
    "layer norm, joint": LayerNorm((0, -1), eps=1e-3),
    "layer norm, tokens, scale and shift": LayerNorm(
        (-1,), 0.8, jnp.linspace(-1, 1, CHANNELS)[None], 1e-3
    ),
    "spherical norm": SphericalNorm((-1,), 1e-3),
}
UNITS = {
    "linear": Quadratic(),
    "gelu": GELU(),
    "tanh": Tanh(1.3),
    "softmax": Softmax(1.4),
    "ghost": GhostMax(0.9),
}


# ---- The bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "visible, hidden", [*((v, "gelu") for v in VISIBLE), *(("linear", h) for h in UNITS)]
)
def test_the_rest_stays_where_it_is_promised(visible, hidden, getkey):
    block, x = resting(getkey(), VISIBLE[visible], UNITS[hidden], size=0.1)
    found = breaking_bound(block, x)
    assert found.persists, found
    rest = find_rest(block, x, 20)
    assert rest.left < 1e-12
    assert rest.growth < 0
    moved = np.linalg.norm(rest.state - np.asarray(x))
    assert 1e-3 * found.distance < moved <= found.distance


def test_a_block_tolerates_at_least_what_all_breakings_of_its_size_may(getkey):
    block, x = resting(getkey(), LayerNorm((0, -1), eps=1e-3), GELU(), size=0.1)
    found = breaking_bound(block, x)
    assert (
        found.breaking
        == pytest.approx(math.hypot(1e-3, 2e-3))
        == pytest.approx(breaking_size(block))
    )
    assert found.times >= found.bound / found.breaking
    tied = breaking_bound(with_tied_weights(block), x)
    assert tied.bound == pytest.approx(found.bound)
    assert tied.breaking == 0
    assert tied.times == math.inf
    assert tied.distance < 1e-12


@pytest.mark.quick
def test_the_own_breaking_counts_in_proportion(getkey):
    tied, x, direction = draw(getkey(), 0)
    times = [breaking_bound(break_by(tied, size * direction), x).times for size in (1e-3, 2e-3)]
    assert times[0] == pytest.approx(2 * times[1])


def test_a_mixing_of_one_channel_is_dense(getkey):
    dense, x, direction = draw(getkey(), 0)
    dense = break_by(dense, 0.01 * direction)
    memory = dense.potential.memory
    column = lambda n: dataclasses.replace(
        n, shape=(*n.shape, 1), input=None if n.input is None else n.input[:, None]
    )
    mixing = AssociativeMemory(
        {name: column(n) for name, n in memory.neurons.items()},
        {"s": TokenMixing(memory.synapses["s"].coupling)},
        {"s": ("x", "h")},
    )
    block = derive_block(mixing, ["h"], leak=dense.leak)
    found = breaking_bound(block, x[:, None])
    expected = breaking_bound(dense, x)
    for name in ("bound", "breaking", "times", "distance"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_a_constant_scale_stretches_weights_and_breaking_alike(getkey):
    """With s = c g on both ways, W and B are c times as large as they are written: the bound is c
    times as small.
    """
    key = getkey()
    c = 1.7
    one = jnp.ones((1, 1))
    scaled, x = resting(key, affine=Affine(c * one, 0 * one), size=0.3)
    plain, _ = resting(key, size=0.3 * c)
    assert breaking_bound(scaled, x).bound == pytest.approx(breaking_bound(plain, x).bound / c)


def test_time_constants_do_not_matter(getkey):
    key = getkey()
    block, x = resting(key)
    slow, _ = resting(key, tau=10.0)
    assert breaking_bound(slow, x).bound == pytest.approx(breaking_bound(block, x).bound)


def test_single_precision(getkey):
    block, x = resting(getkey(), LayerNorm((0, -1), eps=1e-3), GELU(), size=0.1)
    double = breaking_bound(block, x)
    single = breaking_bound(cast(block, jnp.float32), x.astype(jnp.float32))
    assert single.bound == pytest.approx(double.bound, rel=1e-3)
    assert single.times == pytest.approx(double.times, rel=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_takes_its_rounding_off_the_margin(dtype, getkey):
    block, x = resting(getkey(), size=0.1)
    found = breaking_bound(cast(block, dtype), x.astype(dtype))
    assert 0 < found.bound < breaking_bound(block, x).bound


def test_a_mixer_with_a_leak_is_covered(getkey):
    config = MixerConfig(
        image=(4, 4, 1),
        patch=2,
        dim=6,
        depth=1,
        classes=2,
        coupling="broken",
        leak=1.0,
        step=0.5,
        bias=True,
    )
    (block,) = Mixer(config, key=getkey()).blocks
    x = normal(getkey(), (4, 6))
    found = breaking_bound(block, x)
    assert "not covered" not in found.reason
    assert found.breaking == 0


# ---- Third derivatives ---------------------------------------------------------------------------


def third(lagrangian: AbstractLagrangian, x, u) -> jax.Array:
    """The third derivative along a direction, by automatic differentiation."""
    slope = lambda t: jnp.vdot(u, lagrangian.hessian_vector_product(x + t * u, u))
    return jax.grad(slope)(jnp.zeros(()))


@pytest.mark.parametrize("lagrangian", [GELU(), Tanh(1.3), Sigmoid(2.0), Tanh(-0.6)], ids=str)
def test_the_largest_third_derivative_of_a_unit(lagrangian):
    grid = jnp.linspace(-6, 6, 4001)[:, None]
    values = jnp.abs(jax.jit(jax.vmap(lambda x: third(lagrangian, x, jnp.ones(1))))(grid))
    bound = lagrangian.third_derivative
    assert (1 - 1e-5) * bound < jnp.max(values) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("lagrangian", [Softmax(1.5), GhostMax(0.8)], ids=str)
def test_the_largest_third_derivative_of_competing_units(lagrangian, getkey):
    """Two units with shares 1/2 +- 1/sqrt 12 attain it, moving apart."""
    bound = lagrangian.third_derivative
    beta = float(lagrangian.beta)
    odds = 0.5 + 1 / math.sqrt(12)
    x = jnp.asarray([math.log(odds / (1 - odds)) / beta, 0.0, -1e4]) + (
        1e3 if isinstance(lagrangian, GhostMax) else 0
    )
    apart = jnp.asarray([1.0, -1.0, 0.0]) / math.sqrt(2)
    assert_close(jnp.abs(third(lagrangian, x, apart)), jnp.asarray(bound), 1e-9)
    x = 2 * normal(getkey(), (500, 4))
    u = normal(getkey(), (500, 4))
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    assert jnp.max(jnp.abs(jax.jit(jax.vmap(lambda x, u: third(lagrangian, x, u)))(x, u))) <= bound


@pytest.mark.parametrize(
    "lagrangian",
    [LayerNorm(None, 1.4, None, 0.2), LayerNorm((-1,), eps=0.0), SphericalNorm(eps=0.3)],
    ids=str,
)
def test_the_largest_third_derivative_of_a_norm(lagrangian, getkey):
    """At states within a distance of another one, in random directions; attained at a = 1/sqrt 3
    without an eps.
    """
    start = normal(getkey(), (2, 4))
    rays = normal(getkey(), (400, 2, 4))
    u = normal(getkey(), (400, 2, 4))
    unit = lambda v: v / jnp.sqrt(jnp.sum(v**2, axis=(1, 2), keepdims=True))
    reach = 0.3
    found = jax.jit(jax.vmap(lambda x, u: third(lagrangian, x, u)))(
        start[None] + reach * unit(rays), unit(u)
    )
    bound = lagrangian.third_derivative_near(np.asarray(start), np.asarray([reach]))
    assert jnp.max(jnp.abs(found)) <= bound[0]


def test_the_third_derivative_of_an_exact_norm_is_attained():
    x = jnp.asarray([2.0, 0.0, 0.0])
    along = jnp.asarray([math.sqrt(1 / 3), math.sqrt(2 / 3), 0.0])
    bound = SphericalNorm(eps=0.0).third_derivative_near(np.asarray(x), np.zeros(1))
    assert_close(-third(SphericalNorm(eps=0.0), x, along), jnp.asarray(bound[0]))
    beyond = SphericalNorm(eps=0.0).third_derivative_near(np.asarray(x), np.asarray([2.0, 3.0]))
    assert np.all(beyond == np.inf)


# ---- What is not covered -------------------------------------------------------------------------


def pair(visible: Neurons, hidden: Neurons, leak: float = 1.0, ends=("x", "h"), **more) -> Block:
    rows, columns = (
        (hidden.shape[0], visible.shape[-1])
        if ends == ("x", "h")
        else (visible.shape[-1], hidden.shape[0])
    )
    synapses = {"s": Dense(Coupling(0.1 * jnp.ones((rows, columns)))), **more}
    connections = {"s": ends} | {name: ("x",) for name in more}
    return derive_block(
        AssociativeMemory({"x": visible, "h": hidden}, synapses, connections), ["h"], leak=leak
    )


LINEAR = Neurons(Quadratic(), (4,))
UNIT = Neurons(Tanh(), (3,))
SCALE = jnp.linspace(0.5, 1.5, 4)
NOT_COVERED = {
    "no leak": (lambda: pair(LINEAR, UNIT, leak=0.0), "without a leak"),
    "kinks": (lambda: pair(LINEAR, Neurons(ReLU(), (3,))), "'h', a ReLU"),
    "composed": (lambda: pair(LINEAR, Neurons(0.5 * Tanh(), (3,))), "'h', a Scaled"),
    "visible GELU": (lambda: pair(Neurons(GELU(), (4,)), UNIT), "GELU as a visible layer"),
    "negative scale": (
        lambda: pair(Neurons(LayerNorm(scale=-1.0), (4,)), UNIT),
        "LayerNorm as a visible layer",
    ),
    "clamped": (lambda: pair(Neurons(Quadratic(), (4,), clamped=SCALE > 1), UNIT), "clamped"),
    "scale on the way in": (
        lambda: pair(Neurons(Quadratic(), (4,), affine=Affine(SCALE, 0 * SCALE, False)), UNIT),
        "on the way in only",
    ),
    "hidden scale": (
        lambda: pair(LINEAR, Neurons(Tanh(), (3,), affine=Affine(SCALE[:3], SCALE[:3]))),
        "'h' has a scale",
    ),
    "other direction": (lambda: pair(LINEAR, UNIT, ends=("h", "x")), "from layer 'h'"),
    "patterns": (
        lambda: pair(LINEAR, UNIT, p=HopfieldMemory(jnp.eye(4), Softmax())),
        "a HopfieldMemory",
    ),
}


@pytest.mark.parametrize("name", NOT_COVERED)
@pytest.mark.quick
def test_nothing_is_proved_of(name):
    make, words = NOT_COVERED[name]
    found = breaking_bound(make(), jnp.linspace(-1, 1, 4))
    assert math.isnan(found.bound)
    assert not found.persists
    assert found.reason.startswith("Nothing is proved: ")
    assert words in found.reason


def test_a_layer_joined_with_itself_is_not_covered():
    neurons = {"x": LINEAR}
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(0.1 * jnp.eye(4)))}, {"s": ("x", "x")})
    found = breaking_bound(derive_block(memory, [], leak=1.0), jnp.ones(4))
    assert "by one coupling" in found.reason


def test_attention_and_subclasses_are_not_covered(getkey):
    attention = Attention.random(4, 1, 2, key=getkey())
    memory = AssociativeMemory({"x": Neurons(Quadratic(), (3, 4))}, {"s": attention}, {"s": ("x",)})
    assert (
        "Attention" in breaking_bound(derive_block(memory, [], leak=1.0), jnp.ones((3, 4))).reason
    )

    class Odd(Tanh):
        pass

    assert "Odd" in breaking_bound(pair(LINEAR, Neurons(Odd(), (3,))), jnp.ones(4)).reason

    class Other(Block):
        pass

    block = pair(LINEAR, UNIT)
    assert "Other" in breaking_bound(Other(block.potential, 1.0), jnp.ones(4)).reason


def test_memories_and_serial_blocks_are_not_covered():
    block = pair(LINEAR, UNIT)
    memory = block.potential.memory
    state = {name: jnp.ones(layer.shape) for name, layer in memory.neurons.items()}
    assert "AssociativeMemory" in breaking_bound(memory, state).reason
    assert "SerialBlock" in breaking_bound(SerialBlock(block, block), jnp.ones(4)).reason


def test_a_large_jacobian_is_not_formed(monkeypatch):
    monkeypatch.setattr(small, "ENTRIES", 11)
    assert "12 entries" in breaking_bound(pair(LINEAR, UNIT), jnp.ones(4)).reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_proves_nothing(value):
    assert "not finite" in breaking_bound(pair(LINEAR, UNIT), jnp.full(4, value)).reason


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"one example, of shape \(4,\), got \(2, 4\)"):
        breaking_bound(pair(LINEAR, UNIT), jnp.ones((2, 4)))
