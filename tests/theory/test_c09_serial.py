"""C09: a tied serial block is no gradient step, the parallel one is. `theory/C09-serial.md`."""

# pyright: reportArgumentType=false, reportOperatorIssue=false

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import assert_close, normal

from hopmix import (
    GELU,
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    LayerNorm,
    Mixer,
    MixerConfig,
    Neurons,
    Quadratic,
    ReLU,
    SerialBlock,
    Tanh,
    TokenMixing,
    derive_block,
    descend,
    field_asymmetry,
)
from hopmix.claims import c09_serial as claim
from hopmix.claims._draws import draw_systems, mixer
from hopmix.claims._mixer import BRANCHES, mixer_memory


def systems(visible, hidden, key, number=1):
    memories, states = draw_systems(partial(mixer, hidden=hidden, visible=visible), key, number)
    return memories, states["x"]


def sample(visible, hidden, key):
    return jax.tree.map(
        lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, systems(visible, hidden, key)
    )


def dense(up, visible=None, **options) -> Block:
    """A block of linear hidden units: $F(g) = W^\\top W g$."""
    up = jnp.atleast_2d(jnp.asarray(up, float))
    neurons = {
        "x": Neurons(Quadratic() if visible is None else visible, up.shape[1:]),
        "h": Neurons(Quadratic(), up.shape[:1]),
    }
    return derive_block(
        AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("x", "h")}), ["h"], **options
    )


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found


def test_the_asymmetry_is_large(fixedkey):
    """Of the size that distinguishes a field without energy: a fifth, where free weights have a
    half.
    """
    gaps = claim.all_gaps(*systems(LayerNorm(), GELU(), fixedkey(), 25), 0.0, 1.0)
    assert 0.1 < jnp.median(gaps.serial) < 0.4
    assert jnp.min(gaps.serial) > 0.02
    assert jnp.max(gaps.parallel) < 1e-14


def test_the_model_has_it_too(fixedkey):
    """A serial mixer as it is built: tied, with norms of its own, elementwise scales at 1."""
    config = MixerConfig(
        image=(4, 4, 1), patch=2, dim=5, depth=1, classes=2, block="serial", coupling="symmetric"
    )
    (block,) = Mixer(config, key=fixedkey()).blocks
    assert isinstance(block, SerialBlock)
    lagrangian = block.token.potential.neurons.lagrangian

    @jax.jit
    def indices(x):
        index = lambda block: field_asymmetry(lambda x: block(x) - x, x, lagrangian)
        return [claim.serial_asymmetry(block, x), *map(index, block.parts)]

    whole, *parts = indices(normal(fixedkey(), (4, 5)))
    assert whole > 1e-3
    assert max(parts) < 1e-14


# ---- The order in the step -----------------------------------------------------------------------


def leading_curl(memory: AssociativeMemory, x):
    r"""$HJ - (HJ)^\top$ of a residual serial block over $\eta^2$, for $\eta \to 0$: the derivative
    of the metric along the token force, and the commutator proper."""
    token, channel = claim.serial_block(memory).parts
    flat = lambda f: lambda x: f(x).reshape(x.size, x.size)
    metric = flat(jax.jacfwd(token.activation))
    a_token = flat(jax.hessian(token.potential))(token.activation(x))
    a_channel = flat(jax.hessian(channel.potential))(token.activation(x))
    h, drift = jax.jvp(metric, (x,), (token.force(x),))
    half = h @ a_channel @ drift + h @ a_channel @ h @ a_token @ h
    return half - half.T


@pytest.mark.parametrize("visible", [LayerNorm(), Quadratic()])
def test_orders_in_the_step(visible, fixedkey):
    """The curl is of second order, with the coefficient of the commutator; the index of first; the
    parallel and the serial block differ in second order."""
    memory, x = sample(visible, GELU(), fixedkey())

    @eqx.filter_jit
    def at(step):
        serial = claim.serial_block(memory, step=step)
        form = claim.displacement_form(serial, x)
        parallel = derive_block(memory, BRANCHES, step=step)
        return (
            form - form.T,
            claim.serial_asymmetry(serial, x),
            jnp.linalg.norm(serial(x) - parallel(x)),
        )

    (_, *coarse) = at(1e-3)
    (curl, *fine) = at(1e-4)
    orders = [math.log10(a / b) for a, b in zip(coarse, fine)]
    assert orders == pytest.approx([1, 2], abs=0.03)
    assert_close(curl / 1e-8, jax.jit(leading_curl)(memory, x), 0.03)


# ---- Counter-examples that can be checked by hand ------------------------------------------------


def test_two_units_and_two_hidden_ones():
    r"""$A_t = \mathrm{diag}(1, 0)$ and $A_c$ with all entries one half: $J = A_t + A_c + A_c A_t$
    has 1 beside 1/2.
    """
    token = dense([1.0, 0.0])
    channel = dense([math.sqrt(0.5)] * 2)
    x = jnp.asarray([0.3, -0.7])
    serial = SerialBlock(token, channel)
    jacobian = claim.displacement_form(serial, x)
    assert_close(jacobian, jnp.asarray([[2.0, 0.5], [1.0, 0.5]]), 1e-14)
    assert_close(
        claim.serial_asymmetry(serial, x), jnp.asarray(math.sqrt(0.5) / (2 * math.sqrt(5.5))), 1e-14
    )
    a_token = np.diag([1.0, 0.0])
    a_channel = np.full((2, 2), 0.5)
    assert_close(
        jacobian - jacobian.T, jnp.asarray(a_channel @ a_token - a_token @ a_channel), 1e-14
    )


def smallest_mixer(x) -> jax.Array:
    """Two tokens of one channel, one rectified hidden unit for each mixing, no norm."""
    couplings = {"token": Coupling(jnp.ones((1, 2))), "channel": Coupling(jnp.ones((1, 1)))}
    memory = mixer_memory(Neurons(Quadratic(), (2, 1)), ReLU(), couplings)
    return claim.displacement_form(claim.serial_block(memory), x)


def test_two_tokens_of_one_channel():
    """Where one token is positive and one negative after the token mixing, only one is moved by the
    channel mixing.
    """
    mixed = smallest_mixer(jnp.asarray([[3.0], [-2.5]]))
    assert_close(mixed, jnp.asarray([[3.0, 2.0], [1.0, 1.0]]))
    alike = smallest_mixer(jnp.asarray([[3.0], [2.5]]))
    assert_close(alike, alike.T)


def test_linear_mixings_commute_without_a_norm(fixedkey):
    """Token mixing acts on one index and channel mixing on the other: it is the units' slopes and
    the norm that break the symmetry, not the serial form by itself."""
    linear = claim.all_gaps(*systems(Quadratic(), Quadratic(), fixedkey(), 8), 0.0, 0.3)
    assert jnp.max(linear.serial) < 1e-15
    normed = claim.all_gaps(*systems(LayerNorm(), Quadratic(), fixedkey(), 8), 0.0, 0.3)
    assert jnp.min(normed.serial) > 1e-3


def test_a_formula_without_the_state_between_fails(fixedkey):
    """The curvature of the channel mixing has to be taken after the token mixing."""
    memory, x = sample(Quadratic(), GELU(), fixedkey())

    @jax.jit
    def curls(x):
        block = claim.serial_block(memory, step=0.3)
        form = claim.displacement_form(block, x)
        token, stale = (
            jax.hessian(part.potential)(x).reshape(x.size, x.size) for part in block.parts
        )
        return form - form.T, claim.serial_curl(block, x), 0.09 * (stale @ token - token @ stale)

    curl, formula, wrong = curls(x)
    assert_close(curl, formula, 1e-12)
    assert jnp.max(jnp.abs(curl - wrong)) > 1e-3


def test_free_weights_do_not_follow_the_formula(fixedkey):
    memory, x = sample(LayerNorm(), GELU(), fixedkey())
    free = Coupling.from_weights(memory.synapses["token"].coupling.up, normal(fixedkey(), (4, 5)))
    memory = AssociativeMemory(
        memory.neurons, memory.synapses | {"token": TokenMixing(free)}, dict(memory.connections)
    )
    gaps = jax.jit(lambda x: claim.gaps_of(memory, x, 0.0, 1.0))(x)
    assert gaps.curl > 1e-2
    assert gaps.parallel > 1e-2


# ---- What serial blocks can and cannot have instead ----------------------------------------------


@pytest.mark.parametrize("hidden", [ReLU(), Tanh()])
@pytest.mark.parametrize("leak, step", [(0.0, 0.3), (1.0, 0.7), (1.0, 1.0)])
def test_without_a_norm_an_alternating_energy_falls(hidden, leak, step, getkey):
    r"""$V = \psi_c^* - \psi_t$ never rises although the block is no gradient step; the parallel
    block's energy may.
    """
    memories, states = systems(Quadratic(), hidden, getkey(), 20)

    @eqx.filter_jit
    @eqx.filter_vmap
    def falls(memory, x):
        block = claim.serial_block(memory, leak=leak, step=step)

        def round(x, _):
            between = block.token(x)
            after = block.channel(between)
            return after, claim.alternating_energy(block, between, after)

        return jax.lax.scan(round, x, None, length=12)[1]

    energies = falls(memories, states)
    assert jnp.max(jnp.diff(energies) / jnp.max(jnp.abs(energies), axis=1, keepdims=True)) <= 1e-13


def test_the_parallel_energy_may_rise_in_a_serial_step():
    """The token mixing triples its part of the state and extinguishes that of the channel mixing:
    -8.5 to -4.5.
    """
    rows = jnp.asarray([[1.0, 0.0], [2.0, 2.0]])
    x = jnp.asarray([-1.0, 3.0])
    serial = SerialBlock(*(dense(row, step=2.0) for row in rows))
    parallel = dense(rows, step=2.0)
    assert_close(serial(x), jnp.asarray([-3.0, 3.0]))
    assert [float(parallel.energy(y)) for y in (x, serial(x))] == pytest.approx([-8.5, -4.5])
    assert parallel.energy(parallel(x)) < parallel.energy(x)


def test_with_a_saturating_visible_layer_it_may_turn_round_for_ever():
    r"""Tied, convex, leak 1, step 1, one hidden unit for each mixing: $x \to -x \to x$. No function
    of the state can fall along that. The parallel block with the same weights settles."""
    rows = jnp.asarray([[-4.0, 2.0], [2.0, 4.0]])
    ray = jnp.asarray([1.0, 2.0])
    serial = SerialBlock(*(dense(row, Tanh(), leak=1.0) for row in rows))
    parallel = dense(rows, Tanh(), leak=1.0)
    gap = jax.jit(
        lambda size: size + serial(size * ray)[0]
    )  # the last mixing leads to the ray, whatever was before
    size = scipy.optimize.brentq(lambda size: float(gap(size)), 2.0, 8.0, xtol=1e-14)
    x = size * ray
    assert_close(serial(x), -x, 1e-12)
    assert_close(serial(serial(x)), x, 1e-12)
    path = descend(parallel, x, 40)
    assert bool(path.descends)
    assert_close(path.states[-1], path.states[-2], 1e-12)


def test_the_parallel_jacobian_has_real_eigenvalues(fixedkey):
    """Those of a serial block with a norm need not be: states can spiral."""
    memories, states = systems(LayerNorm(), GELU(), fixedkey(), 40)

    @eqx.filter_jit
    @eqx.filter_vmap
    def jacobians(memory, x):
        flat = lambda block: jax.jacfwd(block)(x).reshape(x.size, x.size)
        return flat(claim.serial_block(memory)), flat(derive_block(memory, BRANCHES))

    serial, parallel = (np.linalg.eigvals(np.asarray(j)) for j in jacobians(memories, states))
    assert np.max(np.abs(parallel.imag)) < 1e-6 * np.max(np.abs(parallel))
    assert np.max(np.abs(serial.imag)) > 1e-2
