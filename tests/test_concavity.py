"""Concavity: U + K/2 |g|^2 is convex, with the least K where that is known; joined layers pull each
other.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import normal

from hopmix import (
    GELU,
    Affine,
    AssociativeMemory,
    Convolution,
    Coupling,
    Dense,
    Entmax,
    Exponential,
    GhostMax,
    HopfieldMemory,
    LayerNorm,
    LogSumReLU,
    Neurons,
    Quadratic,
    ReLU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
    certify,
    concavity_bound,
    derive_block,
    eliminate,
)
from hopmix._certificate.concavity import mutual_pull, spectral_norm


def stored(patterns, separation, affine=None) -> AssociativeMemory:
    neurons = {"v": Neurons(Quadratic(), patterns.shape[1:], affine=affine)}
    return AssociativeMemory(
        neurons, {"m": HopfieldMemory(patterns, separation, "distance")}, {"m": ("v",)}
    )


def lowest_curvature(potential, points) -> float:
    hessian = jax.jit(jax.vmap(jax.hessian(potential)))(points)
    return float(np.min(np.linalg.eigvalsh(hessian)))


DISTANCES = [
    (Softmax(2.0), 1.0),
    (Softmax(jnp.asarray(0.25)), 1.0),
    (Entmax(1.5, 2.0), 1.0),
    (Entmax(2.0), 1.0),
    (GhostMax(3.0), 1.0),
    (Softmax(1.0, ()), 6.0),
    (Entmax(1.5, 1.0, ()), 6.0),
    (Exponential(0.5), 6.0),
    (Sigmoid(2.0), 3.0),
    (Quadratic(), 0.0),
    (Tanh(), 0.0),
    (SphericalNorm(), 0.0),
    (LogSumReLU(), math.inf),
    (GELU(), math.inf),
    (LayerNorm(), math.inf),
    (Softmax(-2.0), math.inf),
]


@pytest.mark.parametrize("separation, expected", DISTANCES, ids=lambda v: type(v).__name__)
def test_distances_to_patterns_are_concave_by_their_activation(separation, expected, getkey):
    r"""The Hessian of $L(-\tfrac12|\xi - g|^2)$ is positive semidefinite minus $\sum_\mu a_\mu$."""
    memory = stored(normal(getkey(), (6, 4)), separation)
    potential = eliminate(memory, [])
    bound = concavity_bound(potential)
    assert bound == expected
    if math.isfinite(bound):
        points = jnp.concatenate([s * normal(getkey(), (16, 4)) for s in (0.1, 1.0, 10.0)])
        assert lowest_curvature(potential, points) >= -bound * (1 + 1e-6) - 1e-9


def test_the_bound_of_softmax_distances_is_the_least(getkey):
    """Far from all patterns one of them has all the activation, and the curvature is -1."""
    potential = eliminate(stored(normal(getkey(), (6, 4)), Softmax(2.0)), [])
    far = 1e3 * jnp.ones((1, 4))
    assert lowest_curvature(potential, far) == pytest.approx(-1, abs=1e-3)
    block = derive_block(potential.memory, [], step=1.5)
    certificate = certify(block)
    assert certificate.step_bound == 2
    assert certificate.descends_in_steps
    assert certificate.check(getkey(), examples=32, scale=3.0).passed


@pytest.mark.quick
def test_scales_count_with_their_square(getkey):
    affine = Affine(jnp.asarray([0.5, -3.0, 1.0, 2.0]), jnp.zeros(4))
    assert concavity_bound(eliminate(stored(normal(getkey(), (6, 4)), Softmax(), affine), [])) == 9
    silent = Affine(jnp.zeros(4), jnp.ones(4))
    assert (
        concavity_bound(eliminate(stored(normal(getkey(), (6, 4)), LogSumReLU(), silent), [])) == 0
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_spectral_norms_at_every_scale(scale, getkey):
    for shape in ((3, 7), (7, 3)):
        up = scale * normal(getkey(), shape)
        assert spectral_norm(Dense(Coupling(up))) == pytest.approx(
            np.linalg.norm(np.asarray(up) / scale, 2) * scale
        )
    assert spectral_norm(Dense(Coupling(jnp.zeros((3, 4))))) == 0


def test_the_norm_of_a_convolution_bounds_its_map(getkey):
    """Against the matrix of the map, written out by loops."""
    up = np.asarray(normal(getkey(), (3, 9 * 2)))
    convolution = Convolution(Coupling(jnp.asarray(up)), (4, 5))
    matrix, _ = reference.matrices(convolution, up, up.T, (20, 2))
    largest = np.linalg.norm(matrix, 2)
    assert largest <= spectral_norm(convolution) < 6 * largest


# ---- Joined hidden layers ------------------------------------------------------------------------


def chain(strengths, lagrangians) -> AssociativeMemory:
    """A visible unit, and a chain of hidden ones that pull each other by given weights."""
    neurons = {"v": Neurons(Tanh(), (1,))} | {
        f"h{i}": Neurons(units, (1,)) for i, units in enumerate(lagrangians)
    }
    names = list(neurons)
    synapses = {
        f"s{i}": Dense(Coupling(jnp.full((1, 1), w))) for i, w in enumerate((1.0, *strengths))
    }
    return AssociativeMemory(
        neurons, synapses, {f"s{i}": (names[i], names[i + 1]) for i in range(len(synapses))}
    )


@pytest.mark.quick
def test_the_pull_is_a_perron_root():
    """Of two layers the geometric mean of how they pull each other: one may pull hard if the other
    hardly does.
    """
    potential = eliminate(chain([0.9], [Tanh(4.0), Tanh(0.25)]), ["h0", "h1"])
    assert mutual_pull(potential) == pytest.approx(0.9)
    assert certify(derive_block(potential.memory, ["h0", "h1"], step=5.0)).descends_in_steps
    beyond = eliminate(chain([1.1], [Tanh(4.0), Tanh(0.25)]), ["h0", "h1"])
    assert not certify(derive_block(beyond.memory, ["h0", "h1"])).descends_in_flow


def test_the_pull_in_a_chain_of_three():
    """The matrix ((0, a, 0), (a, 0, b), (0, b, 0)) has the Perron root sqrt(a^2 + b^2)."""
    potential = eliminate(chain([0.6, 0.7], [Tanh(), Tanh(), Tanh()]), ["h0", "h1", "h2"])
    assert mutual_pull(potential) == pytest.approx(math.hypot(0.6, 0.7))
    assert certify(derive_block(potential.memory, ["h0", "h1", "h2"])).descends_in_flow


@pytest.mark.parametrize("pull, rests", [(0.95, 1), (1.05, 2)])
def test_beyond_the_root_there_are_two_rests(pull, rests):
    """Two tanh units that pull each other by w: from both sides they come to rest at 0, or
    apart.
    """
    ends = np.asarray([1.0, -1.0])
    for _ in range(2000):
        ends = np.tanh(pull * ends)
    assert (len(set(np.round(ends, 6))), mutual_pull(pair(pull)) < 1) == (rests, rests == 1)


def pair(pull: float):
    return eliminate(chain([pull], [Tanh(), Tanh()]), ["h0", "h1"])


def test_a_steep_unit_among_them_has_no_bound():
    assert mutual_pull(eliminate(chain([0.1], [Exponential(), Tanh()]), ["h0", "h1"])) == math.inf
    assert (
        concavity_bound(eliminate(chain([0.1], [Exponential(), ReLU()]), ["h0", "h1"])) == math.inf
    )
