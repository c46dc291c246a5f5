"""Softness: the bound on a step at a state, with leak, for both norms, over all steps of a repeated
block.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VISIBLE_SHAPE, make_block, mixing, normal

from hopmix import (
    GELU,
    Affine,
    AssociativeMemory,
    Bias,
    Block,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    ReLU,
    Sigmoid,
    SphericalNorm,
    Tanh,
    certify,
    derive_block,
)
from hopmix._certificate.softness import softness


def block_of(visible, hidden, up, *, leak=0.0, n_iter=1, step=1e-3, bias=None, **layer) -> Block:
    neurons = {"v": Neurons(visible, (up.shape[1],), **layer), "h": Neurons(hidden, (up.shape[0],))}
    synapses = {"s": Dense(Coupling(up))}
    ends = {"s": ("v", "h")}
    if bias is not None:
        synapses["b"], ends["b"] = Bias(bias), ("h",)  # pyright: ignore
    return derive_block(
        AssociativeMemory(neurons, synapses, ends), ["h"], leak=leak, step=step, n_iter=n_iter
    )


def rise(block: Block, x) -> float:
    return float(block.energy(block(x)) - block.energy(x))


@pytest.mark.parametrize(
    "norm, expected",
    [
        (LayerNorm(eps=0.5, scale=2.0), lambda x: np.sqrt(x.var() + 0.5) / 2),
        (LayerNorm((-1,)), lambda x: np.sqrt(x.var(axis=1).min() + 1e-6)),
        (SphericalNorm(eps=0.5), lambda x: np.sqrt((x**2).sum() + 0.5)),
        (SphericalNorm((0,)), lambda x: np.sqrt((x**2).sum(axis=0).min() + 1e-6)),
        (LayerNorm(scale=0.0), lambda x: math.inf),
        (Tanh(), lambda x: 0.0),
    ],
)
@pytest.mark.quick
def test_the_softness_is_that_of_the_quietest_group(norm, expected, getkey):
    x = normal(getkey(), VISIBLE_SHAPE)
    assert softness(norm, x) == pytest.approx(expected(np.asarray(x)), rel=1e-12)


def test_a_large_mean_does_not_blur_the_softness():
    x = jnp.asarray(1e4 + np.asarray([1.0, -1.0, 2.0, -2.0]), jnp.float32)
    assert softness(LayerNorm(), x) == pytest.approx(math.sqrt(2.5), rel=1e-6)


@pytest.mark.parametrize("leak", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("norm", [LayerNorm(), SphericalNorm(), LayerNorm(scale=1.7)])
def test_the_bound_at_a_state_descends_from_there(norm, leak, getkey):
    r"""$\eta \le r/(K + \text{leak}\,r)$; a bias keeps the factor of two away."""
    up = 2 * normal(getkey(), (6, 5))
    bias = normal(getkey(), (6,))
    block = block_of(norm, GELU(), up, leak=leak, bias=bias)
    certificate = certify(block)
    for size in (1e-2, 1.0, 1e2):
        x = size * normal(getkey(), (5,))
        soft = softness(norm, x)
        bound = certificate.step_bound_at(x)
        by_formula = soft / (certificate.concavity + leak * soft)
        assert bound == pytest.approx(max(by_formula, certificate.step_bound))
        assert rise(dataclasses.replace(block, step=bound), x) <= 1e-12


def test_nothing_is_known_at_a_state_of_other_lagrangians(getkey):
    certificate = certify(block_of(Tanh(), GELU(), normal(getkey(), (6, 5))))
    assert certificate.step_bound_at(normal(getkey(), (5,))) == certificate.step_bound


# ---- The factor of two (C06.5) -------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [GELU(), GELU() + 0.0 * ReLU()], ids=["alone", "in a sum"])
@pytest.mark.parametrize("norm", [LayerNorm(), LayerNorm((0,)), SphericalNorm()])
def test_one_norm_without_shifts_and_biases_has_twice_the_step(norm, hidden, getkey):
    up = 2 * normal(getkey(), (6, 5))
    x = normal(getkey(), (5,))
    block = block_of(norm, hidden, up)
    certificate = certify(block)
    expected = 2 if type(hidden) is GELU else 1  # of sums nothing is known
    assert certificate.step_bound_at(x) == pytest.approx(
        expected * softness(norm, x) / certificate.concavity
    )
    assert rise(dataclasses.replace(block, step=certificate.step_bound_at(x)), x) <= 1e-12


def shifted_blocks(getkey) -> dict[str, Block]:
    up = normal(getkey(), (6, 5))
    ones = jnp.ones(5)
    return {
        "a shift of the norm": block_of(LayerNorm(shift=ones), GELU(), up),
        "a shift behind it": block_of(LayerNorm(), GELU(), up, affine=Affine(ones, ones)),
        "an input": block_of(LayerNorm(), GELU(), up, input=ones),
        "a bias": block_of(LayerNorm(), GELU(), up, bias=jnp.ones(6)),
        "a leak": block_of(LayerNorm(), GELU(), up, leak=1e-6),
        "units that push when they are pulled": block_of(LayerNorm(), GELU() + Sigmoid(), up),
        "units that turn round": block_of(LayerNorm(), Tanh(-1.0), up),
    }


@pytest.mark.parametrize(
    "name",
    [
        "a shift of the norm",
        "a shift behind it",
        "an input",
        "a bias",
        "a leak",
        "units that push when they are pulled",
        "units that turn round",
    ],
)
def test_what_can_shrink_a_norm_has_no_factor_of_two(name, getkey):
    block = shifted_blocks(getkey)[name]
    certificate = certify(block)
    x = normal(getkey(), (5,))
    once = softness(LayerNorm(), x)
    assert certificate.step_bound_at(x) == pytest.approx(once / certificate.concavity, rel=1e-3)


def test_a_norm_of_each_token_has_none_either(getkey):
    block = make_block(getkey(), norm="token", scale="none", bias=False)
    certificate = certify(block)
    x = normal(getkey(), VISIBLE_SHAPE)
    assert certificate.step_bound_at(x) == pytest.approx(
        softness(LayerNorm((-1,)), x) / certificate.concavity
    )
    joint = make_block(getkey(), norm="joint", scale="none", bias=False)
    certificate = certify(joint)
    assert certificate.step_bound_at(x) == pytest.approx(
        2 * softness(LayerNorm(), x) / certificate.concavity
    )


# ---- Repeated blocks -----------------------------------------------------------------------------


def test_of_a_repeated_block_all_steps_count(getkey):
    """A state that the first steps make quieter: a leaky block with a weak force."""
    memory = mixing(getkey(), norm="token", scale="none", bias=False)
    once = derive_block(memory, ["token", "channel"], leak=1.0, step=0.5)
    often = dataclasses.replace(once, n_iter=5)
    x = 100 * normal(getkey(), VISIBLE_SHAPE)
    states = [x]
    for _ in range(4):
        states.append(once(states[-1]))
    single = [certify(once).step_bound_at(state) for state in states]
    assert certify(often).step_bound_at(x) == pytest.approx(min(single))


def test_each_step_of_a_repeated_block_at_its_bound_descends(getkey):
    block = make_block(getkey(), scale="none", bias=False, options={"n_iter": 4})
    x = normal(getkey(), VISIBLE_SHAPE)
    bound = certify(block).step_bound_at(x)
    careful = dataclasses.replace(block, step=bound, n_iter=1)
    path = [x]
    for _ in range(4):
        path.append(careful(path[-1]))
    energies = jax.vmap(block.energy)(jnp.stack(path))
    assert jnp.max(jnp.diff(energies)) <= 1e-12


def test_units_that_turn_round_shrink_a_norm():
    """Tanh of beta = -1, concave, with unequal weights: at twice the bound the energy rises."""
    up = jnp.diag(jnp.asarray([0.3, 0.3 / math.sqrt(2)]))
    block = block_of(SphericalNorm(), Tanh(-1.0), up)
    x = 3 * jnp.asarray([math.cos(0.6), math.sin(0.6)])
    bound = certify(block).step_bound_at(x)
    assert rise(dataclasses.replace(block, step=bound), x) <= 0
    assert rise(dataclasses.replace(block, step=1.98 * bound), x) > 1e-3


@pytest.mark.parametrize(
    "state, message",
    [
        (jnp.zeros((6, 5)), r"takes one example, of shape \(5,\), got \(6, 5\); loop over a batch"),
        (jnp.zeros(7), r"takes one example, of shape \(5,\), got \(7,\)"),
    ],
)
def test_a_bound_at_a_state_takes_one_example(state, message, getkey):
    certificate = certify(block_of(LayerNorm(), GELU(), normal(getkey(), (6, 5))))
    with pytest.raises(ValueError, match=message):
        certificate.step_bound_at(state)
