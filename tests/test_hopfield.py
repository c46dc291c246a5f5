"""Stored patterns as a synapse: what a hidden layer with one unit per pattern leaves when it is
eliminated.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEPARATIONS, SHAPES, SILENT, assert_close, normal

from hopmix import (
    AssociativeMemory,
    Coupling,
    Dense,
    HopfieldMemory,
    LogSumReLU,
    Neurons,
    Quadratic,
    ReLU,
    RePU,
    Softmax,
    derive_block,
)

rows = pytest.mark.parametrize("name", SEPARATIONS)


def near(pattern: jax.Array, key: jax.Array) -> jax.Array:
    """A state in the ball of half the length of a pattern around it: every separation reaches it,
    none is silent.
    """
    push = normal(key, pattern.shape)
    return pattern + 0.5 * jnp.linalg.norm(pattern) / jnp.linalg.norm(push) * push


@rows
def test_it_is_an_eliminated_layer_of_pattern_units(name, getkey):
    patterns = normal(getkey(), (7, 5))
    separation = SEPARATIONS[name]
    x = near(patterns[0], getkey())
    hidden = {"v": Neurons(Quadratic(), (5,)), "h": Neurons(separation, (7,))}
    full = AssociativeMemory(hidden, {"s": Dense(Coupling(patterns))}, {"s": ("v", "h")})
    neurons = {"v": Neurons(Quadratic(), (5,))}
    short = AssociativeMemory(neurons, {"m": HopfieldMemory(patterns, separation)}, {"m": ("v",)})
    a = derive_block(full, ["h"], leak=1.0)
    b = derive_block(short, [], leak=1.0)
    assert_close((b(x), b.energy(x)), (a(x), a.energy(x)))


@pytest.mark.parametrize(
    "name, similarity",
    [(n, s) for n in SEPARATIONS for s in ("dot", "distance") if (n, s) not in SILENT],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.quick
def test_energy_and_current_written_out(name, similarity, shape, getkey):
    """Each pattern pulls with the activation of its similarity, at a distance towards itself."""
    patterns = normal(getkey(), (6, *shape))
    g = near(patterns[0], getkey())
    memory = HopfieldMemory(patterns, SEPARATIONS[name], similarity)
    flat = np.asarray(patterns).reshape(6, -1)
    gaps = flat - np.asarray(g).reshape(-1)
    similarities = (
        flat @ np.asarray(g).reshape(-1) if similarity == "dot" else -0.5 * np.sum(gaps**2, axis=1)
    )
    assert_close(memory.similarities(g), similarities)
    assert_close(memory.energy(g), -SEPARATIONS[name](memory.similarities(g)))
    pulls = np.asarray(SEPARATIONS[name].activation(memory.similarities(g)))
    assert_close(
        memory.current(0, (g,)), (pulls @ (flat if similarity == "dot" else gaps)).reshape(shape)
    )
    assert np.any(pulls)


def test_patterns_far_away_do_not_act_with_compact_kernels(getkey):
    """Log-sum-ReLU: within reach of one pattern alone, that pattern is a fixed point exactly (arXiv
    2506.10801).
    """
    patterns = 10 * normal(
        getkey(), (6, 8)
    )  # closer than the reach of 1.4 with a probability of 4e-10
    memory = HopfieldMemory(patterns, LogSumReLU(1.0), "distance")
    assert not jnp.any(memory.current(0, (patterns[2],)))
    soft = HopfieldMemory(patterns, Softmax(0.01), "distance")
    assert jnp.any(soft.current(0, (patterns[2],)))


@pytest.mark.quick
def test_patterns_of_another_shape_are_refused(getkey):
    memory = HopfieldMemory(jnp.ones((7, 5)), Softmax())
    with pytest.raises(
        ValueError, match=r"Patterns of shape \(5,\) do not fit a layer of shape \(4,\)"
    ):
        memory.energy(jnp.ones(4))
    with pytest.raises(ValueError, match="Synapse 's' does not fit layers"):
        AssociativeMemory({"v": Neurons(Quadratic(), (4,))}, {"s": memory}, {"s": ("v",)})


def test_a_batch_goes_through_vmap(getkey):
    memory = AssociativeMemory(
        {"v": Neurons(Quadratic(), (5,))},
        {"m": HopfieldMemory(normal(getkey(), (7, 5)), Softmax())},
        {"m": ("v",)},
    )
    block = derive_block(memory, [], leak=1.0)
    batch = normal(getkey(), (3, 5))
    assert jax.vmap(block)(batch).shape == (3, 5)
    with pytest.raises(
        ValueError, match=r"synapse 'm' does not allow a token-major batch .* batch with `jax.vmap`"
    ):
        block(batch.T)


@pytest.mark.parametrize("separation", [ReLU(), RePU(3)])
def test_rectified_polynomials_of_distances_are_refused(separation):
    """Minus half a squared distance is never positive: every energy and current would be zero."""
    with pytest.raises(
        ValueError, match=rf"{type(separation).__name__} of distances is zero everywhere"
    ):
        HopfieldMemory(jnp.ones((3, 4)), separation, "distance")
    assert np.all(np.asarray(separation.activation(-0.5 * jnp.ones(3))) == 0)
