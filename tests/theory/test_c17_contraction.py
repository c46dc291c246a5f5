"""C17: when a step contracts, at which rate, and what does not. `theory/C17-contraction.md`."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, cast, normal
from scipy.integrate import solve_ivp

from hopmix import (
    GELU,
    Affine,
    AssociativeMemory,
    Attention,
    Bias,
    Block,
    ChannelMixing,
    Convolution,
    Coupling,
    Dense,
    Entmax,
    Exponential,
    HopfieldMemory,
    HyperSynapse,
    LayerNorm,
    Neurons,
    Pooling,
    Quadratic,
    ReLU,
    Softmax,
    SphericalNorm,
    Tanh,
    TokenMixing,
    contraction_rate,
    derive_block,
    descend,
    settle,
)
from hopmix._certificate.contraction import force_disc, own_disc, step_lipschitz
from hopmix._synapse.attention import attention_disc
from hopmix.claims import c17_contraction as c17


def one(visible, hidden, up, breaking=None, tie=1.0, layer=None, **options) -> Block:
    """A block with one dense synapse, of leak 1 unless another is given."""
    up = jnp.asarray(up, float)
    coupling = Coupling(
        up, breaking=None if breaking is None else jnp.asarray(breaking, float), tie=tie
    )
    neurons = {
        "v": Neurons(visible, up.shape[1:], **(layer or {})),
        "h": Neurons(hidden, up.shape[:1]),
    }
    memory = AssociativeMemory(neurons, {"s": Dense(coupling)}, {"s": ("v", "h")})
    return derive_block(memory, ["h"], **({"leak": 1.0} | options))


def with_norm(matrix, norm):
    return norm * jnp.asarray(matrix) / np.linalg.norm(matrix, 2)


@eqx.filter_jit
def steepest(block: Block, states) -> jax.Array:
    """The largest norm of the Jacobian of one call, over a stack of states."""
    size = states[0].size
    slopes = jax.vmap(jax.jacfwd(block))(states).reshape(-1, size, size)
    return jnp.max(jnp.linalg.norm(slopes, 2, axis=(1, 2)))


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = c17.CLAIM.measure(getkey(), 24)
    assert found.passed, found
    assert found.examples == 24


def test_the_measurement_fails_for_a_smaller_constant(getkey):
    """The curvature of softmax without its half, the constant of a step without its overshoot."""
    blocks = c17.draw_blocks(getkey(), 5, c17.rectified, 1.6)
    blocks = jax.tree.map(lambda leaf: 1e-3 * leaf, blocks)
    x, y = normal(getkey(), (2, 5, 5))
    assert float(jnp.max(c17.step_gaps(blocks, x, y, jnp.full(5, 0.59)))) > 1e-3
    assert float(jnp.max(c17.slope_gaps(jnp.zeros(4)))) < 1e-12


# ---- Activations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.3, 1.0, 7.0])
def test_softmax_has_the_constant_of_two_that_are_tied(beta, getkey):
    """By hand: diag(p) - p p^T has norm 1/2 at p = (1/2, 1/2), and no more at any p."""
    p = np.random.default_rng(np.asarray(jax.random.key_data(getkey()))).dirichlet([0.3] * 6, 200)
    norms = [np.linalg.norm(beta * (np.diag(row) - np.outer(row, row)), 2) for row in p]
    assert max(norms) <= beta / 2 * (1 + 1e-12)
    tied = jnp.asarray([2.0, 2.0, -1e3])
    assert_close(jnp.linalg.norm(jax.jacfwd(Softmax(beta).activation)(tied), 2), beta / 2)
    assert Softmax(beta).curvature[1] == pytest.approx(beta / 2)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0])
def test_two_units_of_entmax_are_less_steep(alpha):
    slope = jax.jit(jax.jacfwd(Entmax(alpha, 1.3).activation))(jnp.asarray([0.4, 0.4]))
    assert np.linalg.norm(slope, 2) == pytest.approx(1.3 * 2 ** (alpha - 2), rel=1e-9)


def test_many_units_of_entmax_come_close_to_beta():
    r"""One unit with the share a, and so many others that they move freely: $s_1 (1 - s_1/\sum s)$,
    $s = g^{1/2}$.
    """
    share = 0.95
    others = 100_000
    g = jnp.full(others + 1, (1 - share) / others).at[0].set(share)
    entmax = Entmax(1.5, 1.3)
    first = jnp.zeros(others + 1).at[0].set(1.0)
    x = jnp.sqrt(g) / (0.5 * 1.3)
    expected = math.sqrt(share) * (1 - math.sqrt(share) / float(jnp.sum(jnp.sqrt(g))))
    product = entmax.hessian_vector_product(x, first)[0] / 1.3
    assert_close(product, expected, 1e-6)
    assert 0.95 < product <= 1


# ---- The rate ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.3, 1.0, 1.4, 1.9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_rate_of_linear_units_is_reached(step, sign, getkey):
    """x' = (1 - s) x +- step W^T W x, with fewer hidden units than visible ones: by the norm of the
    matrix.
    """
    up = with_norm(normal(getkey(), (3, 5)), 0.7)
    matrix = (1 - step) * np.eye(5) + sign * step * up.T @ up
    block = one(Quadratic(), Quadratic(), up, tie=sign, step=step)
    assert step_lipschitz(block) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-12)


def test_independent_weights_need_no_symmetry(getkey):
    """|V| |W| l: without an energy, and reached where V and W share their strongest directions."""
    up = with_norm(normal(getkey(), (4, 5)), 0.9)
    down = with_norm(normal(getkey(), (5, 4)), 0.8)
    block = one(Quadratic(), ReLU(), up, down, 0.0, step=0.5)
    assert contraction_rate(block) <= 0.5 + 0.5 * 0.9 * 0.8 + 1e-12
    assert steepest(block, 3 * normal(getkey(), (50, 5))) <= contraction_rate(block) * (1 + 1e-12)
    left, sizes, right = np.linalg.svd(up, full_matrices=False)
    aligned = one(
        Quadratic(),
        Quadratic(),
        up,
        right.T @ np.diag(sizes) @ np.diag([1, -1, 1, -1]) @ left.T,
        0.0,
    )
    assert steepest(aligned, jnp.zeros((1, 5))) == pytest.approx(0.81, rel=1e-12)
    assert contraction_rate(aligned) >= 0.81 * (1 - 1e-12)


def test_a_small_breaking_costs_little(getkey):
    """At step 1.6 tied weights contract by 0.6; a breaking of norm 0.01 adds 1.6 x 0.01 |W| at
    most.
    """
    up = with_norm(normal(getkey(), (4, 5)), 0.8)
    breaking = with_norm(normal(getkey(), (5, 4)), 0.01)
    tied = one(Quadratic(), ReLU(), up, None, step=1.6)
    broken = one(Quadratic(), ReLU(), up, breaking, step=1.6)
    assert contraction_rate(tied) == pytest.approx(0.6, abs=1e-12)
    assert contraction_rate(tied) < contraction_rate(broken) <= 0.6 + 2.1 * 1.6 * 0.01 * 0.8


def test_symmetry_pays_beyond_a_full_step(getkey):
    """Norms alone promise 0.6 + 1.6 x 0.3 = 1.08; tied weights contract all the same, turned ones
    need not.
    """
    up = math.sqrt(0.3) * jnp.eye(4, 5)
    block = one(Quadratic(), Tanh(), up, step=1.6)
    assert contraction_rate(block) == pytest.approx(0.6, abs=1e-12)
    assert steepest(block, normal(getkey(), (50, 5))) <= 0.6 * (1 + 1e-12)
    turned = one(Quadratic(), Tanh(), up, -jnp.roll(up.T, 1, axis=1), 0.0, step=1.6)
    assert step_lipschitz(turned) == pytest.approx(1.08, rel=1e-12)
    assert steepest(turned, jnp.zeros((1, 5))) > 1  # -0.6 - 0.48 along the mean of the four


def test_repeated_steps_multiply(getkey):
    up = with_norm(normal(getkey(), (4, 5)), 0.7)
    once = one(Tanh(), ReLU(), up, n_iter=1)
    thrice = one(Tanh(), ReLU(), up, n_iter=3)
    assert contraction_rate(thrice) == pytest.approx(contraction_rate(once) ** 3, rel=1e-12)


# ---- What follows for `settle` -------------------------------------------------------------------


@pytest.mark.parametrize("norm, step", [(0.5, 1.0), (0.9, 0.8), (0.6, 1.3)])
def test_settle_keeps_the_promise(norm, step, getkey):
    """The number of steps to a tolerance is at most what the rate promises, and the error is what
    it says.
    """
    up = with_norm(normal(getkey(), (4, 5)), norm)
    layer = {"input": normal(getkey(), (5,))}
    block = one(Quadratic(), Tanh(), up, layer=layer, step=step)
    rate = contraction_rate(block)
    tolerance = 1e-8
    assert rate < 1
    starts = 3 * normal(getkey(), (8, 5))
    settled = jax.vmap(lambda x: settle(block, x, rtol=0.0, atol=tolerance, max_steps=4000))(starts)
    exact = settle(block, starts[0], rtol=0.0, atol=1e-13, max_steps=4000).state
    for x, end, steps in zip(starts, settled.state, settled.steps):
        first = float(jnp.linalg.norm(block(x) - x))
        assert int(steps) <= c17.promised_steps(rate, first, tolerance * step) + 1
        missing = np.linalg.norm(end - exact)
        moves = np.linalg.norm(block(end) - end)
        assert missing <= moves / (1 - rate) + 1e-12


def test_the_error_after_a_step_is_bounded_and_half_the_rate_promises_too_much(getkey):
    up = with_norm(normal(getkey(), (4, 5)), 0.9)
    block = one(Quadratic(), Quadratic(), up, step=0.8)
    rate = contraction_rate(block)
    x = jnp.asarray(np.linalg.svd(up)[2][0])
    after = block(x)
    moved, missing = np.linalg.norm(after - x), np.linalg.norm(after)  # the rest is at zero
    assert missing == pytest.approx(rate / (1 - rate) * moved, rel=1e-9)
    assert missing > 0.5 * rate / (1 - 0.5 * rate) * moved


# ---- Other parts ---------------------------------------------------------------------------------


def tokens(visible, synapses, ends, layers=None, **options) -> Block:
    neurons = {"x": visible} | (layers or {})
    return derive_block(
        AssociativeMemory(neurons, synapses, ends), list(layers or {}), leak=1.0, **options
    )


def scaled(getkey, conservative):
    up = normal(getkey(), (4, 5))
    affine = Affine(1 + 0.5 * normal(getkey(), (5,)), normal(getkey(), (5,)), conservative)
    return one(Quadratic(), Tanh(2.0), up, layer={"affine": affine}, step=1.4), 1.0


def convolving(getkey):
    layers = {"h": Neurons(Softmax(2.0, (-1,)), (4, 3)), "p": Neurons(GELU(), (12, 2))}
    coupling = Coupling(0.3 * normal(getkey(), (3, 18)), breaking=0.1 * normal(getkey(), (18, 3)))
    synapses = {"c": Convolution(coupling, grid=(3, 4), stride=2), "p": Pooling((3, 4))}
    visible = Neurons(Tanh(0.5), (12, 2))
    return tokens(visible, synapses, {"c": ("x", "h"), "p": ("x", "p")}, layers, step=0.8), 1.0


def storing(getkey):
    patterns, more = normal(getkey(), (2, 3, 4))
    synapses = {
        "dot": HopfieldMemory(patterns, Softmax(1.5)),
        "far": HopfieldMemory(more, Softmax(0.8), "distance"),
    }
    return tokens(
        Neurons(Quadratic(), (4,)), synapses, {"dot": ("x",), "far": ("x",)}, step=0.6
    ), 1.0


def attending(getkey):
    queries, keys = 0.6 * normal(getkey(), (2, 2, 3, 4))
    synapses = {
        "a": Attention(queries, keys, 1.5, causal=True),
        "b": Bias(normal(getkey(), (1, 4))),
    }
    visible = Neurons(SphericalNorm((-1,), eps=0.4), (3, 4), input=normal(getkey(), (3, 1)))
    return tokens(visible, synapses, {"a": ("x",), "b": ("x",)}, step=0.7), 2.0


def both_ways(getkey):
    """Several couplings of one branch, some of them the other way round, and pooling beside one."""
    layers = {"k": Neurons(GELU(), (3, 2)), "p": Neurons(ReLU(), (3, 2))}
    ups = [0.3 * normal(getkey(), shape) for shape in ((2, 2), (3, 3), (2, 18), (2, 18))]
    downs = [0.1 * normal(getkey(), up.T.shape) for up in ups]
    couplings = [
        Coupling(up, breaking=down, tie=tie)
        for up, down, tie in zip(ups, downs, (1.0, -0.5, 0.5, 1.0))
    ]
    synapses = {
        "c": ChannelMixing(couplings[0]),
        "t": TokenMixing(couplings[1]),
        "from": Convolution(couplings[2], grid=(1, 3)),
        "to": Convolution(couplings[3], grid=(1, 3)),
        "p": Pooling((1, 3)),
    }
    ends = {"c": ("k", "x"), "t": ("x", "k"), "from": ("k", "x"), "to": ("x", "p"), "p": ("x", "p")}
    return tokens(Neurons(Tanh(0.5), (3, 2)), synapses, ends, layers, step=0.8), 1.0


def joined(getkey):
    layers = {"m": Neurons(Tanh(), (4,)), "l": Neurons(Softmax(), (3,))}
    couplings = [
        Coupling(with_norm(normal(getkey(), s), n)) for s, n in (((4, 5), 1.1), ((3, 4), 0.9))
    ]
    synapses = {"xm": Dense(couplings[0]), "ml": Dense(couplings[1])}
    return tokens(
        Neurons(Quadratic(), (5,)), synapses, {"xm": ("x", "m"), "ml": ("m", "l")}, layers, step=0.5
    ), 1.0


PARTS = {
    "scale": lambda getkey: scaled(getkey, True),
    "scale on the way in": lambda getkey: scaled(getkey, False),
    "convolution": convolving,
    "patterns": storing,
    "couplings both ways": both_ways,
    "attention": attending,
    "joined": joined,
}


@pytest.mark.parametrize("part", PARTS)
def test_no_jacobian_is_steeper_than_the_constant(part, getkey):
    block, size = PARTS[part](getkey)
    constant = step_lipschitz(block)
    assert math.isfinite(constant)
    states = size * normal(getkey(), (20, *block.potential.neurons.shape))
    assert steepest(block, states.at[0].set(0.0)) <= constant * (
        1 + 1e-9
    )  # joined layers come to rest to 1e-12


@pytest.mark.parametrize("turned", [(), ("t",), ("s",), ("s", "t")])
def test_couplings_of_two_layers_add_up_whichever_way_they_are_connected(turned, getkey):
    """Of one that is connected as (h, v) its W is seen as V, its V as W."""
    ups = 0.3 * normal(getkey(), (2, 4, 5))
    downs = 0.1 * normal(getkey(), (2, 5, 4))
    synapses = {}
    ends = {}
    for name, up, down in zip(("s", "t"), ups, downs):
        pair = (down, up) if name in turned else (up, down)
        synapses[name] = Dense(Coupling.from_weights(*pair))
        ends[name] = ("h", "x") if name in turned else ("x", "h")
    layers = {"h": Neurons(Tanh(), (4,))}
    visible = Neurons(Quadratic(), (5,))
    block = tokens(visible, synapses, ends, layers, step=0.5)
    summed = one(Quadratic(), Tanh(), sum(ups), sum(downs), 0.0, step=0.5)
    x = normal(getkey(), (5,))
    assert_close(block(x), summed(x))
    disc = force_disc(block.potential)
    expected = force_disc(summed.potential)
    assert disc.radius > 0
    assert disc == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ends", [("x", "h"), ("h", "x")])
def test_pooling_is_tied_either_way(ends):
    """Between 0 and the slope of ReLU, as for tied weights of norm one."""
    layers = {"h": Neurons(ReLU(), (4, 1))}
    block = tokens(Neurons(Quadratic(), (4, 1)), {"p": Pooling((2, 2))}, {"p": ends}, layers)
    assert force_disc(block.potential) == (0.5, 0.5)


def test_a_tie_each_way_is_no_tie_of_both():
    """W = V = 1.5 w: two rests beside zero, where each coupling by itself is half tied."""
    coupling = Coupling(jnp.full((1, 1), math.sqrt(0.47)), tie=0.5)
    synapses = {"up": Dense(coupling), "back": Dense(coupling)}
    layers = {"h": Neurons(Tanh(), (1,))}
    block = tokens(
        Neurons(Quadratic(), (1,)),
        synapses,
        {"up": ("x", "h"), "back": ("h", "x")},
        layers,
        step=0.5,
    )
    assert contraction_rate(block) == 1.0
    assert step_lipschitz(block) == pytest.approx(0.5 + 0.5 * 1.5**2 * 0.47, rel=1e-12)
    assert float(steepest(block, jnp.zeros((1, 1)))) == pytest.approx(
        step_lipschitz(block), rel=1e-12
    )


def test_patterns_that_do_not_compete_pull_as_many_times():
    """Each of six patterns alone has the share 1: F = sum (xi - g), and a step of 0.4 takes x to
    -1.8 x and more.
    """
    patterns = jnp.arange(6.0)[:, None]
    disc = own_disc(
        HopfieldMemory(patterns, Softmax(0.01, axes=()), "distance"), Neurons(Quadratic(), (1,))
    )
    assert disc == (-6.0, 0.0)


@pytest.mark.parametrize("axes", [None, (0,), (-1,)])
def test_patterns_that_compete_pull_once(axes):
    """Along their line, -1 and beta times their covariance: at most a quarter of the squared
    range.
    """
    memory = HopfieldMemory(jnp.asarray([[0.0], [1.0], [3.0]]), Softmax(1.5, axes=axes), "distance")
    disc = own_disc(memory, Neurons(Quadratic(), (1,)))
    assert disc.centre - disc.radius == pytest.approx(-1)
    assert disc.centre + disc.radius == pytest.approx(1.5 * 9 / 4 - 1)


@pytest.mark.parametrize("patterns, slopes", [([[1.0]], [-1.0]), ([[1.0], [-1.0]], [-1.0, 0.5])])
def test_distances_pull_by_a_spread_less_one(patterns, slopes):
    r"""One pattern: $F = \xi - g$. Two at $\pm 1$: $F' = \beta - 1$ between them, and nearly -1 far
    away.
    """
    memory = HopfieldMemory(jnp.asarray(patterns), Softmax(1.5), "distance")
    block = tokens(Neurons(Quadratic(), (1,)), {"m": memory}, {"m": ("x",)}, step=0.3)
    assert contraction_rate(block) == pytest.approx(
        max(abs(0.7 + 0.3 * slope) for slope in slopes), rel=1e-12
    )
    reached = steepest(block, jnp.zeros((1, 1)))
    assert float(reached) == pytest.approx(contraction_rate(block), rel=1e-12)


def test_a_scale_on_the_way_in_alone_counts_once():
    """T = W^T W (x / 2), where W^T W has norm 0.8: no square of the scale."""
    affine = Affine(jnp.full(2, 0.5), jnp.zeros(2), conservative=False)
    block = one(Quadratic(), Quadratic(), math.sqrt(0.8) * jnp.eye(2), layer={"affine": affine})
    assert contraction_rate(block) == pytest.approx(0.4, rel=1e-12)
    assert float(steepest(block, jnp.zeros((1, 2)))) == pytest.approx(0.4, rel=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_the_rate_of_other_precisions(dtype, getkey):
    """That of the weights as they are stored."""
    block = one(
        Quadratic(),
        Tanh(),
        with_norm(normal(getkey(), (4, 5)), 0.7),
        0.01 * normal(getkey(), (5, 4)),
    )
    narrow = cast(block, dtype)
    assert contraction_rate(narrow) == pytest.approx(
        contraction_rate(cast(narrow, jnp.float64)), rel=2e-2
    )
    assert contraction_rate(narrow) < 1


def test_held_entries_do_not_matter(getkey):
    up = with_norm(normal(getkey(), (4, 5)), 0.7)
    held = jnp.asarray([True, False, False, True, False])
    block = one(Quadratic(), Tanh(), up, layer={"clamped": held}, step=0.5)
    x = normal(getkey(), (5,))
    y = jnp.where(held, x, normal(getkey(), (5,)))
    assert jnp.linalg.norm(block(x) - block(y)) <= contraction_rate(block) * jnp.linalg.norm(x - y)


# ---- What is not proved --------------------------------------------------------------------------


class Steep(Tanh):
    """Says that it is a tanh, and is not."""

    def activation(self, x):
        return 5 * x


class Jumping(Block):
    """A step of another length."""

    def __call__(self, x, key=None):
        return 2 * super().__call__(x, key)


def small(visible=None, hidden=None, up=((0.1,),), **options):
    return one(visible or Quadratic(), hidden or Tanh(), up, **options)


UNPROVED = {
    "no leak": lambda: small(leak=0.0),
    "no bound on the slope": lambda: small(hidden=Exponential()),
    "a norm that is steep at constant states": lambda: small(LayerNorm(), up=[[0.1, 0.1]]),
    "an exact norm": lambda: small(SphericalNorm(eps=0.0)),
    "another hidden Lagrangian": lambda: small(hidden=Steep()),
    "another visible Lagrangian": lambda: small(Steep()),
    "NaN weights": lambda: small(up=[[math.nan]]),
    "infinite weights": lambda: small(up=[[math.inf]]),
    "weights whose square overflows": lambda: small(up=[[1e200]]),
    "attention that overflows": lambda: tokens(
        Neurons(Tanh(), (3, 1)),
        {"a": Attention(*jnp.full((2, 1, 1, 1), 1e200), 1.0)},
        {"a": ("x",)},
    ),
    "another block": lambda: Jumping(small().potential, leak=1.0),
    "any function": lambda: tokens(
        Neurons(Tanh(), (2,)), {"s": HyperSynapse(jnp.sum)}, {"s": ("x",)}
    ),
    "attention of tokens without bound": lambda: tokens(
        Neurons(Quadratic(), (3, 1)),
        {"a": Attention(*jnp.full((2, 1, 1, 1), 0.01), 1.0)},
        {"a": ("x",)},
    ),
    "too large a step": lambda: small(step=2.1),
}


@pytest.mark.parametrize("case", UNPROVED)
def test_nothing_is_promised_without_proof(case):
    assert contraction_rate(UNPROVED[case]()) == 1.0
    assert contraction_rate(small()) < 1


@pytest.mark.parametrize("excess, rests", [(-0.01, 1), (0.01, 3)])
def test_the_threshold_is_sharp(excess, rests):
    """x = w tanh(w x): one rest up to w^2 = 1, three above, and steps from both sides of zero end
    apart.
    """
    weight = math.sqrt(1 + excess)
    block = c17.lone_unit(jnp.asarray(weight))
    ends = [
        settle(block, jnp.asarray([x]), rtol=0.0, atol=1e-12, max_steps=20_000).state
        for x in (1.0, -1.0)
    ]
    apart = float(ends[0][0] - ends[1][0])
    if rests == 1:
        assert contraction_rate(block) == pytest.approx(1 + 0.5 * excess, rel=1e-12)
        assert abs(apart) < 1e-8
    else:
        assert contraction_rate(block) == 1.0
        assert float(c17.parts(jnp.asarray(weight))) > 1
        assert apart > 0.3  # two rests, near +-sqrt(3 excess)


def test_joined_layers_that_need_not_have_one_rest(getkey):
    layers = {"m": Neurons(Tanh(), (4,)), "l": Neurons(Tanh(), (3,))}
    weak, strong = (
        Coupling(with_norm(normal(getkey(), s), n)) for s, n in (((4, 5), 0.1), ((3, 4), 1.01))
    )
    ends = {"xm": ("x", "m"), "ml": ("m", "l")}
    block = tokens(
        Neurons(Quadratic(), (5,)), {"xm": Dense(weak), "ml": Dense(strong)}, ends, layers
    )
    assert contraction_rate(block) == 1.0


@pytest.mark.parametrize("size", [10.0, 1e3])
def test_attention_is_steeper_than_any_constant(size):
    """Two tokens (0, t): the first is torn between both, and its slope is t^2/4 and more."""
    found = float(jax.jit(c17.loud_curvature)(jnp.asarray(size)))
    assert found >= size**2 / 4
    attention = Attention(jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)), 1.0, include_self=True)
    disc = attention_disc(attention, 2, size)
    assert found <= disc.centre + disc.radius
    small_tokens = attention_disc(attention, 2, 0.1 * size)
    assert (
        found > small_tokens.centre + small_tokens.radius
    )  # a bound for other tokens is none for these


@pytest.mark.parametrize("size, beta", [(1.0, 40.0), (2.0, 10.0)])
def test_the_bound_of_attention_grows_with_the_tokens_as_it_must(size, beta):
    r"""All tokens attend to the same two: apart, these have the curvature $\beta R^2 (n - 2)/2$."""
    queries, keys = (
        jnp.asarray([[[1.0, 0.0]]]),
        jnp.asarray([[[0.0, 1.0]]]),
    )  # M takes the first axis to the second
    attention = Attention(queries, keys, beta, include_self=True)
    g = jnp.zeros((40, 2)).at[:, 0].set(size).at[:2].set(jnp.asarray([0.0, size]))
    apart = jnp.zeros((40, 2)).at[:2, 1].set(jnp.asarray([1.0, -1.0]) / math.sqrt(2))
    product = jax.jvp(jax.grad(lambda g: -attention.energy(g)), (g,), (apart,))[1]
    found = float(jnp.sum(product * apart))
    disc = attention_disc(attention, 40, size)
    assert found == pytest.approx(beta * size**2 * 38 / 2, rel=1e-9)
    assert 0.6 * (disc.centre + disc.radius) < found < disc.centre + disc.radius


# ---- Monotone forces -----------------------------------------------------------------------------


def test_repulsion_however_strong_leaves_one_rest(getkey):
    """V = -W^T of any size: no contraction at step 1, one rest, which short steps reach from
    everywhere.
    """
    up = with_norm(normal(getkey(), (3, 4)), 3.0)
    layer = {"input": normal(getkey(), (4,))}
    long = one(Quadratic(), -1.0 * Tanh(), up, layer=layer, step=1.0)
    short = one(Quadratic(), -1.0 * Tanh(), up, layer=layer, step=(1 / (1 + 9.0)))
    assert contraction_rate(long) == 1.0
    assert contraction_rate(short) == pytest.approx(0.9, rel=1e-9)
    starts = 5 * normal(getkey(), (10, 4))
    ends = jax.vmap(lambda x: settle(short, x, rtol=0.0, atol=1e-11, max_steps=2000).state)(starts)
    assert_close(ends, jnp.broadcast_to(ends[0], ends.shape), 1e-8)


def test_beyond_its_step_repulsion_cycles():
    r"""x' = (1 - s) x - s w tanh(w x) with s (1 + w^2) > 2: the only rest, 0, is left for a cycle
    of two.
    """
    block = one(Quadratic(), -1.0 * Tanh(), [[3.0]], step=0.5)
    x = descend(block, jnp.asarray([1e-3]), 200).states[-1]
    assert abs(float(x[0])) > 0.5
    assert_close(block(x), -x, 1e-9)


def test_a_concave_potential_is_no_faster_than_none():
    r"""U = -g^2/2, L = log cosh, leak 1, from x = 5: a Lambda of -1 would promise to leave e^-2 of
    D_L at t = 1.
    """
    flowed = solve_ivp(lambda t, x: -x - np.tanh(x), (0.0, 1.0), [5.0], rtol=1e-11, atol=1e-13).y[
        0, -1
    ]
    left = np.log(np.cosh(flowed)) / np.log(np.cosh(5.0))
    assert math.exp(-2) + 0.005 < left <= math.exp(-1)
    stepped = 5 - 0.1 * (5 + math.tanh(5.0))
    share = math.log(math.cosh(stepped)) / math.log(math.cosh(5.0))
    assert float(c17.saturated_decay(jnp.asarray(5.0))) == pytest.approx(share, rel=1e-12)
    assert 0.8 < share <= 0.9


def test_a_wrong_margin_is_caught(getkey, monkeypatch):
    """With the attraction left out of the margin, the promise about distances is broken near a
    sharp rest.
    """
    example = c17.draw_monotone(getkey(), 40)
    gaps = jax.jit(jax.vmap(c17.monotone_gap))
    assert float(jnp.max(gaps(example))) <= 1e-12
    # At a tied rest of two competing units softmax is as steep as it gets, and so is tanh at zero.
    up = math.sqrt(0.9 / (0.75 * 0.8)) * jnp.asarray([[1.0, -1.0], [-1.0, 1.0]]) / 2
    tight = c17.Monotone(up, 1e-6 * jnp.ones((1, 2)), jnp.zeros(2), 1e-3 * jnp.asarray([1.0, -1.0]))
    assert float(jax.jit(c17.monotone_gap)(tight)) <= 1e-12
    monkeypatch.setattr(c17, "ATTRACTION", Softmax(1.5))
    monkeypatch.setattr(type(c17.ATTRACTION), "curvature", property(lambda self: (0.0, 0.5)))
    assert float(jax.jit(lambda e: c17.monotone_gap(e))(tight)) > 0.1
