"""How exactly memories return what they store: the update, its bound, and the loads that binary
memories bear.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from helpers import assert_close, normal

from hopmix import (
    AssociativeMemory,
    Coupling,
    Dense,
    Exponential,
    HopfieldMemory,
    LogSumReLU,
    Neurons,
    Quadratic,
    RePU,
    Softmax,
    derive_block,
)
from hopmix.retrieval import (
    bit_error,
    capacity,
    pattern_separation,
    retrieval_bound,
    retrieval_failure,
    retrieve,
)


def test_the_softmax_update_is_a_leaky_step_of_a_derived_block(getkey):
    patterns = normal(getkey(), (5, 4))
    state = normal(getkey(), (4,))
    beta = 1.7
    neurons = {"visible": Neurons(Quadratic(), (4,)), "hidden": Neurons(Softmax(beta), (5,))}
    memory = AssociativeMemory(
        neurons, {"s": Dense(Coupling(patterns))}, {"s": ("visible", "hidden")}
    )
    block = derive_block(memory, ["hidden"], leak=1.0)
    found = retrieve(HopfieldMemory(patterns, Softmax(beta)), state)
    assert_close(found, block(state))
    assert_close(found, jax.nn.softmax(beta * patterns @ state) @ patterns)


def test_compact_kernels_return_the_mean_of_what_they_reach(getkey):
    patterns = jnp.asarray([[0.0, 0.0], [3.0, 0.0], [3.5, 1.0]])
    memory = HopfieldMemory(patterns, LogSumReLU(2 / 1.5**2), "distance")  # reaches 1.5
    assert_close(retrieve(memory, jnp.asarray([0.9, -0.8])), patterns[0])
    assert_close(retrieve(memory, jnp.asarray([3.1, 0.3])), patterns[1:].mean(0))
    nowhere = jnp.asarray([-5.0, 5.0])
    assert_close(retrieve(memory, nowhere), nowhere, 0)


def test_a_step_of_compact_kernels_never_raises_their_energy(getkey):
    patterns = normal(getkey(), (30, 3))
    states = normal(getkey(), (400, 3))
    memory = HopfieldMemory(patterns, LogSumReLU(0.8), "distance")
    step = jax.jit(jax.vmap(lambda x: memory.energy(retrieve(memory, x)) - memory.energy(x)))
    changes = np.asarray(step(states))
    assert changes.max() <= 1e-12
    assert changes.min() < -0.1


@pytest.mark.quick
def test_separations_and_bounds_are_their_definitions(getkey):
    patterns = np.asarray(normal(getkey(), (5, 2, 3)))
    state = np.asarray(normal(getkey(), (2, 3)))
    beta = 0.6
    largest = max(np.linalg.norm(p) for p in patterns)
    deltas = [
        min(np.sum(p * p) - np.sum(p * q) for j, q in enumerate(patterns) if i != j)
        for i, p in enumerate(patterns)
    ]
    bounds = [
        2 * largest * 4 * math.exp(-beta * (delta - 2 * largest * np.linalg.norm(state - p)))
        for p, delta in zip(patterns, deltas)
    ]
    assert_close(pattern_separation(jnp.asarray(patterns)), jnp.asarray(deltas))
    assert_close(
        retrieval_bound(jnp.asarray(patterns), jnp.asarray(state), beta), jnp.asarray(bounds)
    )


def exact_bit_error(units: int, patterns: int) -> float:
    """Of the classical memory: (K - 1)(d - 1) fair signs must sum to less than -(d - 1)."""
    signs = (patterns - 1) * (units - 1)
    return float(scipy.stats.binom.cdf(math.ceil((signs - units + 1) / 2) - 1, signs, 0.5))


@pytest.mark.parametrize("load", [0.1, 0.2, 0.4])
def test_the_bit_error_of_the_classical_memory_is_binomial(load):
    units = 400
    exact = exact_bit_error(units, int(load * units))
    assert bit_error(Quadratic(), units, int(load * units)) == pytest.approx(
        exact, rel=0.05
    )  # the lattice of signs


def test_the_bit_error_tends_to_the_formula_of_krotov_and_hopfield():
    # n = 3 through RePU(3), of which half of the patterns are silent; the tail of erfc by its
    # leading term.
    units = 2000
    n = 3
    factorial = 3
    patterns = 2 * units**2 // 40
    load = patterns / 2 / units ** (n - 1)
    formula = math.sqrt(factorial * load / (2 * math.pi)) * math.exp(-1 / (2 * load * factorial))
    assert bit_error(RePU(3), units, patterns) == pytest.approx(
        formula, rel=0.15
    )  # erfc's next term is z^-2 = 0.075


@pytest.mark.parametrize(
    "separation, power, factor",
    [(Quadratic(), 2, 1), (RePU(2), 2, 2), (RePU(3), 3, 2), (RePU(4), 4, 2)],
)
def test_the_capacity_tends_to_the_classical_formula(separation, power, factor):
    units = 3000
    double_factorial = math.prod(range(2 * power - 3, 0, -2))
    formula = factor * units ** (power - 1) / (2 * double_factorial * math.log(units))
    assert capacity(separation, units) == pytest.approx(formula, rel=0.01)


@pytest.mark.quick
def test_one_pattern_is_always_stable():
    assert bit_error(RePU(3), 10, 1) == 0
    assert bit_error(RePU(3), 10, 2) > 0


@pytest.mark.parametrize(
    "units, flips, beta", [(50, 5, 1.0), (30, 0, 1.0), (40, 3, 0.4), (61, 12, 1.0)]
)
def test_the_failure_bound_is_the_smallest_of_its_family(units, flips, beta):
    def factor(level):
        at = lambda t: math.exp((units - 1) * math.log(math.cosh(t)) - t * level)
        return at(scipy.optimize.fminbound(at, 0, 2 * beta, xtol=1e-10))

    expected = (units - flips) * factor(units - 1 - 2 * flips) + flips * factor(
        units + 1 - 2 * flips
    )
    assert retrieval_failure(units, 2, flips, beta) == pytest.approx(min(1, expected), rel=1e-5)


def test_the_failure_bound_has_the_exponent_of_the_theorem():
    a = 0.6  # flips = (1 - a) d / 2
    rate = 0.5 * ((1 + a) * math.log(1 + a) + (1 - a) * math.log(1 - a))
    bounds = [
        math.log(retrieval_failure(units, 2, round((1 - a) * units / 2)) / units)
        for units in (1000, 2000)
    ]
    assert bounds[0] - bounds[1] == pytest.approx(1000 * rate, rel=1e-3)


def test_the_failure_bound_grows_with_load_and_flips_and_is_a_probability():
    assert retrieval_failure(50, 1, 20) == 0
    assert (
        retrieval_failure(50, 100, 3)
        < retrieval_failure(50, 100, 4)
        < retrieval_failure(50, 200, 4)
    )
    assert retrieval_failure(50, 10**9, 20) == retrieval_failure(50, 10, 50) == 1


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda: bit_error(Quadratic(), 10, 0), "patterns >= 1, got 0"),
        (lambda: bit_error(Quadratic(), 1, 2), "units >= 2, got 1"),
        (lambda: bit_error(Softmax(), 10, 2), "must add up over patterns, got Softmax"),
        (lambda: capacity(LogSumReLU(), 10), "must add up over patterns, got LogSumReLU"),
        (lambda: retrieval_failure(10, 5, 11), "0 <= flips <= units"),
        (lambda: retrieval_failure(10, 5, 1, 0.0), "beta > 0"),
        (lambda: pattern_separation(jnp.ones((1, 3))), "at least 2 patterns"),
    ],
)
@pytest.mark.quick
def test_what_makes_no_sense_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


def test_sums_of_exponentials_add_up():
    assert bit_error(Exponential(0.1), 20, 30) > 0


def test_an_overflowing_separation_is_named():
    with pytest.raises(
        ValueError, match=r"Exponential overflows at an overlap of 1000; `retrieval_failure`"
    ):
        bit_error(Exponential(), 1000, 14)
