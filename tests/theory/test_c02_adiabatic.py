"""C02: the adiabatic limit, its order, its first correction, and a memory that has none."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.linalg
from helpers import assert_close, normal

from hopmix import (
    GELU,
    AssociativeMemory,
    Bias,
    Block,
    ChannelMixing,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    Quadratic,
    TokenMixing,
    derive_block,
)
from hopmix.claims import c02_adiabatic as c02

SHAPE = (2, 3)
# With its own root finder, which keeps one Jacobian, the solver needs twenty times as many steps. A
# Newton tolerance near rounding/ratio could not be met.
STIFF = {
    "solver": diffrax.Kvaerno5(root_finder=optx.Newton(rtol=1e-8, atol=1e-9)),
    "max_steps": 2000,
}
LAG = eqx.filter_jit(lambda block, start, ratio: c02.lags(block, start, ratio[None], **STIFF)[0])


def mixer(getkey) -> Block:
    """A small block of token and channel mixing with GELU units, biases and a joint norm; weights
    are independent.
    """
    free = lambda visible, hidden: Coupling.from_weights(
        normal(getkey(), (hidden, visible)), normal(getkey(), (visible, hidden))
    )
    neurons = {
        "visible": Neurons(LayerNorm(eps=0.1), SHAPE),
        "token": Neurons(GELU(), (2, 3)),
        "channel": Neurons(GELU(), (2, 2), tau=2.0),
    }
    synapses = {
        "tokens": TokenMixing(free(2, 2)),
        "channels": ChannelMixing(free(3, 2)),
        "bias": Bias(normal(getkey(), (2, 1))),
    }
    connections = {
        "tokens": ("visible", "token"),
        "channels": ("visible", "channel"),
        "bias": ("token",),
    }
    return derive_block(
        AssociativeMemory(neurons, synapses, connections), ("token", "channel"), leak=1.0
    )


def lag(block: Block, start, ratio: float) -> np.ndarray:
    """The lag of the visible layer at several times, without compiling again for another ratio or
    start.
    """
    return np.asarray(LAG(block, start, jnp.asarray(ratio)))


def slope(ratios, errors) -> float:
    return float(
        c02.order(jnp.asarray(ratios), jnp.asarray([np.linalg.norm(error) for error in errors]))
    )


def test_the_claim(getkey):
    found = c02.CLAIM.measure(getkey(), 50)
    assert found.passed, found
    assert found.examples == 50


def test_the_order_of_known_powers():
    ratios = jnp.asarray([0.3, 0.1, 0.02])
    for power in (0.0, 1.0, 2.0):
        assert_close(c02.order(ratios, 7 * ratios**power), jnp.asarray(power), 1e-12)


def test_at_rest_hidden_layers_stay_and_the_visible_one_moves_as_in_the_block(getkey):
    """So the fixed points of the memory are those of the block, for all time constants."""
    block = mixer(getkey)
    x = normal(getkey(), SHAPE)
    state = c02.at_rest(block, x)
    memory = block.potential.memory
    fast = c02.sped_up(memory, block.potential.hidden, state, 1e-3)
    assert_close(fast["visible"], block.force(x))
    for hidden in block.potential.hidden:
        assert float(jnp.max(jnp.abs(memory.force(state)[hidden]))) <= 1e-12


def test_only_hidden_layers_become_faster(getkey):
    block = mixer(getkey)
    x = normal(getkey(), SHAPE)
    state = {name: x + 1 for name, x in c02.at_rest(block, x).items()}
    memory = block.potential.memory
    slow = c02.sped_up(memory, ("token",), state, 1.0)
    fast = c02.sped_up(memory, ("token",), state, 0.25)
    assert_close(slow, c02.velocity(memory, state))
    assert_close(fast, slow | {"token": 4 * slow["token"]})


def test_a_mixer_by_a_stiff_solver(fixedkey):
    """Hidden layers up to a hundred thousand times faster: order 1, and lag/eps tends to the first
    correction.
    """
    block = mixer(fixedkey)
    x = normal(fixedkey(), SHAPE)
    start = c02.at_rest(block, x)
    ratios = (1e-3, 1e-4, 1e-5)
    errors = [lag(block, start, ratio) for ratio in ratios]
    assert abs(slope(ratios, errors) - 1) < 0.05
    correction = np.asarray(eqx.filter_jit(c02.first_correction)(block, x))
    gaps = [
        np.linalg.norm(e / r - correction) / np.linalg.norm(correction)
        for e, r in zip(errors, ratios)
    ]
    assert gaps[1] < 0.05
    np.testing.assert_allclose(
        gaps[0] / gaps[1], 10, rtol=0.5
    )  # the next term is of first order again
    # From hidden states beside their rest there is an initial layer; the visible lag stays of order
    # 1.
    away = {
        name: x if name == "visible" else x + normal(fixedkey(), x.shape)
        for name, x in start.items()
    }
    shaken = [lag(block, away, ratio) for ratio in ratios]
    assert abs(slope(ratios, shaken) - 1) < 0.05
    assert np.linalg.norm(shaken[1] - errors[1]) > 0.1 * np.linalg.norm(errors[1])


def test_the_flow_of_another_block_is_not_the_limit(fixedkey):
    block, x = c02.draw(fixedkey())
    other = eqx.tree_at(
        lambda b: b.potential.memory.synapses["bias"].bias, block, replace_fn=lambda b: b + 0.5
    )
    field = eqx.filter_jit(lambda block, x: c02.follow(lambda x: c02.velocity(block, x), x))
    wrong = np.asarray(field(other, x) - field(block, x))
    ratios = jnp.asarray([1e-2, 3e-3])
    lags = np.asarray(eqx.filter_jit(c02.lags)(block, c02.at_rest(block, x), ratios))
    assert abs(slope(ratios, lags) - 1) < 0.1
    assert abs(slope(ratios, lags - wrong)) < 0.5


# ---- Hidden layers that are joined with each other -----------------------------------------------


def chain(weight: float) -> AssociativeMemory:
    """Three linear units v - a - b, tied; the weight joins the two hidden ones."""
    joined = lambda w: Dense(Coupling(jnp.asarray([[w]])))
    neurons = {name: Neurons(Quadratic(), (1,)) for name in "vab"}
    return AssociativeMemory(
        neurons, {"va": joined(1.0), "ab": joined(weight)}, {"va": ("v", "a"), "ab": ("a", "b")}
    )


def end(memory: AssociativeMemory, start: list[float], ratio: float) -> float:
    """The visible state after one unit of time, by the exponential of the linear field."""

    def field(x):
        moving = c02.sped_up(
            memory, "ab", {name: x[i : i + 1] for i, name in enumerate("vab")}, ratio
        )
        return jnp.concatenate([moving[name] for name in "vab"])

    return float(
        (scipy.linalg.expm(np.asarray(jax.jacfwd(field)(jnp.zeros(3)))) @ np.asarray(start))[0]
    )


@pytest.mark.parametrize("weight, stable", [(0.5, True), (-0.5, True), (1.5, False)])
def test_joined_hidden_layers_need_a_stable_rest(weight, stable):
    """At rest a = v/(1 - w^2), b = w a. For |w| < 1 that is the limit, of order 1.

    For |w| > 1 the state of rest exists, is a zero of the same force, and repels: the memory leaves
    it at the rate (|w| - 1)/eps, although all weights are tied and all Lagrangians convex.
    """
    memory = chain(weight)
    rest = 1 / (1 - weight**2)
    limit = np.exp(rest - 1)
    ratios = (1e-2, 5e-3, 2.5e-3)
    errors = [abs(end(memory, [1.0, rest, weight * rest], ratio) - limit) for ratio in ratios]
    if stable:
        assert abs(slope(ratios, errors) - 1) < 0.05
        block = derive_block(memory, "ab", leak=1.0)
        assert_close(block.force(jnp.ones(1)), jnp.asarray([rest - 1]), 1e-9)
    else:
        assert errors[0] < errors[1] < errors[2]
        assert errors[0] > 1e9
