"""Stored patterns as a synapse: what a hidden layer with one unit per pattern leaves when it is eliminated."""

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_close, differences, normal

from hopmix import (
    AssociativeMemory,
    Coupling,
    Dense,
    Exponential,
    HopfieldMemory,
    LogSumReLU,
    Neurons,
    Quadratic,
    ReLU,
    RePU,
    Softmax,
    derive_block,
)

SEPARATIONS = {
    "classical": Quadratic(),
    "dense": RePU(3),
    "rectified": ReLU(),
    "exponential": Exponential(0.5),
    "log-sum-exp": Softmax(2.0),
    "log-sum-relu": LogSumReLU(0.4, eps=0.1),
}
rows = pytest.mark.parametrize("name", SEPARATIONS)


@rows
def test_it_is_an_eliminated_layer_of_pattern_units(name, getkey):
    patterns, x = normal(getkey(), (7, 5)), normal(getkey(), (5,))
    separation = SEPARATIONS[name]
    hidden = {"v": Neurons(Quadratic(), (5,)), "h": Neurons(separation, (7,))}
    full = AssociativeMemory(hidden, {"s": Dense(Coupling(patterns))}, {"s": ("v", "h")})
    neurons = {"v": Neurons(Quadratic(), (5,))}
    short = AssociativeMemory(neurons, {"m": HopfieldMemory(patterns, separation)}, {"m": ("v",)})
    a, b = derive_block(full, ["h"], leak=1.0), derive_block(short, [], leak=1.0)
    assert_close((b(x), b.energy(x)), (a(x), a.energy(x)))


@rows
@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_energy_and_current_written_out(name, similarity, getkey):
    patterns, g = 0.4 * normal(getkey(), (7, 4, 3)), 0.4 * normal(getkey(), (4, 3))
    memory = HopfieldMemory(patterns, SEPARATIONS[name], similarity)
    dot, gap = jnp.einsum("mtc,tc->m", patterns, g), jnp.sum((patterns - g[None]) ** 2, axis=(1, 2))
    expected = dot if similarity == "dot" else -0.5 * gap
    assert_close(memory.similarities(g), expected)
    assert_close(memory.energy(g), -SEPARATIONS[name](expected))
    assert_close(memory.current(0, (g,)), -differences(memory.energy, g), 1e-6)


def test_patterns_far_away_do_not_act_with_compact_kernels(getkey):
    """Log-sum-ReLU: within reach of one pattern alone, that pattern is a fixed point exactly (arXiv 2506.10801)."""
    patterns = 10 * normal(getkey(), (6, 8))
    memory = HopfieldMemory(patterns, LogSumReLU(1.0), "distance")
    assert not jnp.any(memory.current(0, (patterns[2],)))
    soft = HopfieldMemory(patterns, Softmax(0.01), "distance")
    assert jnp.any(soft.current(0, (patterns[2],)))


def test_patterns_of_another_shape_are_refused(getkey):
    memory = HopfieldMemory(jnp.ones((7, 5)), Softmax())
    with pytest.raises(ValueError, match=r"Patterns of shape \(5,\) do not fit a layer of shape \(4,\)"):
        memory.energy(jnp.ones(4))
    with pytest.raises(ValueError, match="Synapse 's' does not fit layers"):
        AssociativeMemory({"v": Neurons(Quadratic(), (4,))}, {"s": memory}, {"s": ("v",)})


def test_a_batch_goes_through_vmap(getkey):
    memory = AssociativeMemory(
        {"v": Neurons(Quadratic(), (5,))}, {"m": HopfieldMemory(normal(getkey(), (7, 5)), Softmax())}, {"m": ("v",)}
    )
    block, batch = derive_block(memory, [], leak=1.0), normal(getkey(), (3, 5))
    assert jax.vmap(block)(batch).shape == (3, 5)
    with pytest.raises(ValueError, match=r"synapse 'm' does not allow a token-major batch .* batch with `jax.vmap`"):
        block(batch.T)
