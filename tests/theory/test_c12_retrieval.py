"""C12: what memories return, and how many patterns they store; every numbered statement of its
page.
"""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import assert_close, normal

from hopmix import (
    AbstractLagrangian,
    Exponential,
    HopfieldMemory,
    LogSumReLU,
    Quadratic,
    RePU,
    Softmax,
)
from hopmix.claims import c12_retrieval as claim
from hopmix.claims.c12_retrieval import (
    CLAIM,
    Retrieval,
    compact_excess,
    deviation,
    elementary_constant,
    make_retrieval,
    published_constant,
    softmax_excess,
)
from hopmix.retrieval import (
    bit_error,
    capacity,
    flip_costs,
    pattern_separation,
    retrieval_bound,
    retrieval_failure,
    retrieve,
    update_all,
)

ROOT = Path(__file__).resolve().parents[2]


def fair_patterns(key, *shape: int) -> jax.Array:
    bits = np.random.default_rng(np.asarray(jr.key_data(key))).integers(0, 2, shape)
    return jnp.asarray(2.0 * bits - 1)


# ---- 1. binary patterns at one bit ---------------------------------------------------------------


def values(separation: AbstractLagrangian, overlaps: jax.Array) -> jax.Array:
    return jax.vmap(separation)(overlaps.reshape(-1, 1)).reshape(overlaps.shape)


@pytest.mark.parametrize("separation", [RePU(3), Exponential(0.4)], ids=lambda s: type(s).__name__)
def test_the_cost_of_a_bit_is_signal_plus_signed_noise(separation, getkey):
    patterns = fair_patterns(getkey(), 6, 11)
    state = fair_patterns(getkey(), 11)
    aligned = patterns[0] * state  # +1 where the state has the bit of pattern 0
    others = (patterns @ state)[:, None] - patterns * state[
        None
    ]  # m of each pattern, without the bit
    steps = values(separation, others + 1) - values(separation, others - 1)
    towards = steps[0] + jnp.sum(patterns[1:] * patterns[:1] * steps[1:], axis=0)
    assert_close(flip_costs(HopfieldMemory(patterns, separation), state), aligned * towards, 1e-11)


def unstable_bits(
    key, separation: AbstractLagrangian, units: int, patterns: int, memories: int
) -> np.ndarray:
    """For each of some random memories, for each of its patterns, how many bits want to flip."""
    stored = fair_patterns(key, memories, patterns, units)

    def count(patterns):
        memory = HopfieldMemory(patterns, separation)
        return jax.lax.map(lambda x: jnp.sum(flip_costs(memory, x) < 0), patterns, batch_size=32)

    return np.asarray(jax.jit(lambda stored: jax.lax.map(count, stored))(stored))


def binomial_bit_error(units: int, patterns: int) -> float:
    signs = (patterns - 1) * (units - 1)
    return float(scipy.stats.binom.cdf(math.ceil((signs - units + 1) / 2) - 1, signs, 0.5))


@pytest.mark.parametrize("load", [1, 4])
def test_bits_of_the_classical_memory_fail_as_often_as_the_binomial_says(load, fixedkey):
    units = 100
    patterns = int(load * capacity(Quadratic(), 100))
    counts = unstable_bits(fixedkey(), Quadratic(), units, patterns, memories=150).mean(1) / units
    spread = counts.std(ddof=1) / math.sqrt(len(counts))
    assert abs(counts.mean() - binomial_bit_error(units, patterns)) < 4.5 * spread


def exact_bit_error(
    separation: AbstractLagrangian, units: int, patterns: int, ties: float = 0.0
) -> float:
    """From the law of the noise, a power of that of one pattern, by Fourier transforms; ties count
    by this share.

    The separation is z^2 or the rectified z^3, up to a factor.
    """
    heads = np.arange(units)
    overlaps = 2 * heads - (units - 1)
    value = lambda z: np.maximum(z, 0) ** 3 if isinstance(separation, RePU) else z**2
    costs = value(overlaps + 1) - value(overlaps - 1)
    law = np.zeros(2**20)
    for cost, weight in zip(costs, scipy.stats.binom.pmf(heads, units - 1, 0.5)):
        np.add.at(law, [cost, -cost], 0.5 * weight)
    noise = np.fft.ifft(np.fft.fft(law) ** (patterns - 1)).real
    field = costs[-1] + np.rint(np.fft.fftfreq(len(law), 1 / len(law)))
    return float(np.sum(noise[field < 0]) + ties * np.sum(noise[field == 0]))


@pytest.mark.parametrize("units, patterns", [(20, 10), (40, 25)])
def test_the_exact_law_of_the_classical_memory_is_the_binomial(units, patterns):
    exact = exact_bit_error(Quadratic(), units, patterns)
    assert exact == pytest.approx(binomial_bit_error(units, patterns), rel=1e-9)


@pytest.mark.parametrize("load, memories", [(1, 60), (4, 6)])
def test_bits_of_the_dense_memory_fail_as_often_as_the_exact_law_says(load, memories, fixedkey):
    units = 40
    patterns = int(load * capacity(RePU(3), 40))
    counts = unstable_bits(fixedkey(), RePU(3), units, patterns, memories).mean(1) / units
    spread = counts.std(ddof=1) / math.sqrt(len(counts))
    assert abs(counts.mean() - exact_bit_error(RePU(3), units, patterns)) < 4.5 * spread


ACCURACY = [(Quadratic(), d, load, 0.01) for d in (20, 40, 100) for load in (1, 4)]
ACCURACY += [
    (RePU(3), 20, 4, 0.02),
    (RePU(3), 100, 4, 0.002),
    (RePU(3), 40, 1, 0.2),
    (RePU(3), 100, 1, 0.08),
]


@pytest.mark.parametrize("separation, units, load, accuracy", ACCURACY)
def test_how_good_the_gaussian_estimate_is(separation, units, load, accuracy):
    patterns = int(load * capacity(separation, units))
    exact = exact_bit_error(separation, units, patterns, ties=0.5)
    assert abs(bit_error(separation, units, patterns) / exact - 1) < accuracy


@pytest.mark.parametrize("separation, units", claim.LOADED, ids=["quadratic", "cubic"])
def test_the_estimate_is_as_good_as_the_claim_takes_it_for(separation, units):
    patterns = int(4 * capacity(separation, units))
    exact = exact_bit_error(separation, units, patterns)
    assert abs(bit_error(separation, units, patterns) / exact - 1) < claim.ESTIMATED


def test_at_four_times_the_capacity_one_bit_in_fifteen_is_unstable():
    for separation in (Quadratic(), RePU(2), RePU(3)):
        patterns = int(4 * capacity(separation, 100))
        assert bit_error(separation, 100, patterns) == pytest.approx(
            0.5 * math.erfc(math.sqrt(math.log(100) / 4)), rel=0.1
        )


def test_at_capacity_a_given_pattern_is_stable_but_not_all_of_them_are(fixedkey):
    """At the capacity all bits of one pattern are stable, but not those of all that are stored."""
    units = 100
    patterns = int(capacity(Quadratic(), units))
    counts = unstable_bits(fixedkey(), Quadratic(), units, patterns, memories=200)
    assert units * bit_error(Quadratic(), units, patterns) < 0.13  # bits of one pattern
    assert np.mean(counts == 0) > 0.85
    assert (
        0.3 < np.mean(np.any(counts > 0, axis=1)) < 0.9
    )  # memories in which some bit of some pattern is unstable


@pytest.mark.parametrize("units, patterns", [(50, 5), (100, 12), (100, 40), (1000, 73)])
def test_hoeffdings_bound_of_the_classical_memory(units, patterns):
    bound = math.exp(-(units - 1) / (2 * (patterns - 1)))
    assert binomial_bit_error(units, patterns) < bound
    at_capacity = 1 + (units - 1) / (2 * math.log(units))
    assert capacity(Quadratic(), units) == pytest.approx(at_capacity)
    assert units * math.exp(-(units - 1) / (2 * (at_capacity - 1))) == pytest.approx(1)


def test_the_moments_of_the_noise_are_derived(capsys):
    moments = runpy.run_path(str(ROOT / "theory" / "overlap_moments.py"))
    moments["main"]()
    assert "n = 3" in capsys.readouterr().out
    ratio = moments["signal"](2) ** 2 / moments["mean_square"](2)
    assert capacity(Quadratic(), 50) == pytest.approx(
        1 + float(ratio.subs(moments["D"], 49)) / (2 * math.log(50))
    )


# ---- 2. the exponential memory -------------------------------------------------------------------


def failures(key, units: int, patterns: int, flips: int, memories: int) -> np.ndarray:
    """Whether one synchronous update of a disturbed first pattern leaves a wrong bit, in random
    memories.
    """
    stored = fair_patterns(key, memories, patterns, units)
    return np.asarray(claim.forgotten(flips, (stored > 0).astype(jnp.int8)))


def rate(a: float) -> float:
    return 0.5 * ((1 + a) * math.log(1 + a) + (1 - a) * math.log(1 - a))


def test_one_parallel_update_corrects_below_the_threshold(fixedkey):
    units = 60
    flips = 6
    patterns = int(math.exp(0.6 * rate(1 - 2 * flips / units) / 2 * units)) + 1  # 754
    assert retrieval_failure(units, patterns, flips) < 2e-5
    assert not failures(fixedkey(), units, patterns, flips, memories=40).any()


@pytest.mark.parametrize("units, patterns, flips", [(20, 100, 1), (24, 30, 3), (24, 100, 2)])
def test_failures_are_rarer_than_their_bound(units, patterns, flips, fixedkey):
    """And not so much rarer that the bound would say nothing: it lies below 1, and within a factor
    of 40.
    """
    found = failures(fixedkey(), units, patterns, flips, memories=2000).sum()
    bound = retrieval_failure(units, patterns, flips)
    assert bound < 0.6
    assert found <= 2000 * bound
    assert found + deviation(bound / 40, 2000) > 2000 * bound / 40


def test_far_beyond_the_threshold_updates_fail(fixedkey):
    assert failures(fixedkey(), 14, 2000, 4, memories=50).mean() > 0.9


def test_log_sum_exp_and_exponential_flip_the_same_spins(getkey):
    """An odd number of patterns: of as many that pull one way as the other, rounding would
    decide.
    """
    patterns = fair_patterns(getkey(), 13, 15)
    state = fair_patterns(getkey(), 15)
    softmax = update_all(HopfieldMemory(patterns, Softmax(0.7)), state)
    exponential = update_all(HopfieldMemory(patterns, Exponential(0.7)), state)
    assert_close(softmax, exponential, 0)


# ---- 3. one update of the modern Hopfield network, and of the log-sum-ReLU memory ----------------


def test_the_claim_holds(getkey):
    measured = CLAIM.measure(getkey(), 49)
    assert measured.passed
    assert measured.examples == 50
    assert (
        measured.error > 0.1
    )  # the bound is met by little: the measurement would notice a lost factor
    assert (ROOT / "theory" / CLAIM.page).is_file()
    assert Path(__file__).name == CLAIM.test


@pytest.mark.parametrize(
    "name, factor", [("capacity", 3.0), ("bit_error", 0.7), ("bit_error", 1.4)]
)
def test_a_wrong_load_is_caught(name, factor, fixedkey, monkeypatch):
    """Three times as many patterns as there is capacity for; and estimates that are off by a
    third.
    """
    separation, units = claim.LOADED[0]
    assert max(claim.load_excesses(separation, units, 50, fixedkey())) < 1
    function = getattr(claim, name)
    monkeypatch.setattr(claim, name, lambda *arguments: factor * function(*arguments))
    assert max(claim.load_excesses(separation, units, 50, fixedkey())) > 1


def test_a_bound_on_failures_that_is_too_low_is_caught(fixedkey, monkeypatch):
    monkeypatch.setattr(claim, "retrieval_failure", lambda *sizes: retrieval_failure(*sizes) / 40)
    assert claim.recall_excess(50, fixedkey()) > 1


@pytest.mark.parametrize("probability, trials", [(0.3, 200), (0.01, 5000), (0.1, 20_000)])
def test_a_binomial_count_is_hardly_ever_further_from_its_mean(probability, trials):
    """By the exact tails; and the bound is not idle, as half of it is exceeded more often."""
    away = deviation(probability, trials)
    law = scipy.stats.binom(trials, probability)
    beyond = lambda t: law.sf(math.ceil(law.mean() + t) - 1) + law.cdf(math.floor(law.mean() - t))
    assert beyond(away) <= 1e-9
    assert beyond(0.5 * away) > 1e-6


def warmer(memory: HopfieldMemory, state: jax.Array) -> jax.Array:
    halve = lambda leaf: leaf if leaf is memory.patterns else 0.5 * leaf
    return retrieve(jax.tree.map(halve, memory), state)


def staying(memory: HopfieldMemory, state: jax.Array) -> jax.Array:
    return state


def summing(memory: HopfieldMemory, state: jax.Array) -> jax.Array:
    return 1.01 * retrieve(memory, state)


def test_broken_updates_are_caught(getkey):
    updates = (retrieve, warmer, staying, summing)

    def excess(numbers):
        example = make_retrieval((2, 1), numbers)
        return jnp.asarray(
            [[f(example, update) for f in (softmax_excess, compact_excess)] for update in updates]
        )

    right, *broken = np.max(jax.jit(jax.vmap(excess))(normal(getkey(), (300, 5))), axis=0)
    assert np.all(right <= 1)
    assert np.all(np.array(broken) > 1)


@pytest.mark.parametrize("beta", [2.0, 5.0])
def test_the_bound_is_sharp_for_two_opposite_patterns(beta):
    example = Retrieval(jnp.asarray([[1.0], [-1.0]]), jnp.asarray(beta), jnp.asarray([0.8]))
    assert softmax_excess(example) == pytest.approx(1 / (1 + math.exp(-2 * beta * 0.8)), rel=1e-9)


def unit_vectors(key, *shape: int) -> jax.Array:
    points = np.asarray(normal(key, shape))
    return jnp.asarray(points / np.linalg.norm(points, axis=-1, keepdims=True))


def test_well_separated_patterns_have_a_fixed_point_of_their_own(getkey):
    count, units, beta = (
        12,
        80,
        30.0,
    )  # in so many dimensions no two of them are close, except once in 10^10 times
    radius = 1 / (beta * count)
    patterns = unit_vectors(getkey(), count, units)
    push = unit_vectors(getkey(), count, units)
    memory = HopfieldMemory(patterns, Softmax(beta))
    edge = patterns + radius * push

    @jax.jit
    @jax.vmap
    def look(i, x):
        once = retrieve(memory, x)
        fixed = jax.lax.fori_loop(0, 30, lambda _, x: retrieve(memory, x), x)
        norm = jnp.linalg.norm(jax.jacobian(lambda x: retrieve(memory, x))(x), ord=2)
        return once, norm, fixed, retrieve(memory, fixed), retrieval_bound(patterns, x, beta)[i]

    once, norms, fixed, again, bounds = look(jnp.arange(count), edge)
    deltas = np.asarray(pattern_separation(patterns))
    assert deltas.min() >= (2 / count + math.log(2 * (count - 1) * count * beta)) / beta
    errors = np.linalg.norm(once - patterns, axis=1)
    assert np.all(errors < radius)  # the ball is mapped into itself
    assert np.all(norms < 2 / count)  # and contracted
    assert_close(again, fixed)
    # The published bound has the larger of |x - x_i| and |x_i* - x_i|: it is weaker, and follows.
    away = np.maximum(
        np.linalg.norm(edge - patterns, axis=1), np.linalg.norm(fixed - patterns, axis=1)
    )
    published = 2 * (count - 1) * np.exp(-beta * (deltas - 2 * away))
    assert np.all(errors < bounds)
    assert np.all(bounds <= published * (1 + 1e-12))


def test_the_energy_of_the_modern_hopfield_network_falls(getkey):
    patterns = normal(getkey(), (6, 4))
    states = normal(getkey(), (50, 4))
    memory = HopfieldMemory(patterns, Softmax(2.0))
    energy = lambda x: 0.5 * jnp.sum(x**2) + memory.energy(x)
    changes = jax.jit(jax.vmap(lambda x: energy(retrieve(memory, x)) - energy(x)))(states)
    assert changes.max() <= 1e-12


def test_the_published_constants_are_reproduced():
    assert published_constant(1.0, 3.0, 20, 1e-3) == pytest.approx(3.1546, abs=5e-5)
    assert published_constant(1.0, 1.0, 75, 1e-3) == pytest.approx(1.3718, abs=1e-4)


def test_the_elementary_argument_stores_more(fixedkey):
    c = elementary_constant(1.0, 1.0, 75, 1e-3)
    assert (c, elementary_constant(1.0, 3.0, 20, 1e-3)) == (
        pytest.approx(1.8955, abs=1e-4),
        pytest.approx(5.4603, abs=1e-4),
    )
    assert math.floor(2 * math.sqrt(1e-3) * c ** (74 / 4)) == 8688
    assert (
        math.floor(2 * math.sqrt(1e-3) * elementary_constant(1.0, 3.0, 20, 1e-3) ** (19 / 4)) == 200
    )
    patterns = np.asarray(unit_vectors(fixedkey(), 8688, 75)) * math.sqrt(74)
    nearest = [
        np.partition(patterns[i : i + 543] @ patterns.T, -2)[:, -2].max()
        for i in range(0, 8688, 543)
    ]
    assert 74 - max(nearest) >= 2 / 8688 + math.log(
        2 * 8687 * 8688 * 74
    )  # fails for one key in a thousand at most


@pytest.mark.parametrize("units", [3, 20, 75])
def test_the_measure_of_a_cap_is_below_half_a_power_of_the_sine(units):
    sine = np.linspace(0.02, 1, 50)
    measure = 0.5 * scipy.special.betainc((units - 1) / 2, 0.5, sine**2)
    assert np.all(measure <= 0.5 * sine ** (units - 1) * (1 + 1e-12))


def test_compact_kernels_retrieve_exactly_from_anywhere_in_reach(getkey):
    patterns = np.asarray(normal(getkey(), (20, 6)))
    distances = np.linalg.norm(patterns[:, None] - patterns[None], axis=-1) + 100 * np.eye(20)
    reach = 0.499 * distances.min()
    memory = HopfieldMemory(jnp.asarray(patterns), LogSumReLU(2 / reach**2), "distance")
    starts = patterns + 0.99 * reach * unit_vectors(getkey(), 20, 6)
    look = jax.jit(jax.vmap(lambda x, p: (retrieve(memory, x), jax.grad(memory.energy)(p))))
    found, slopes = look(starts, jnp.asarray(patterns))
    assert_close(found, jnp.asarray(patterns))
    assert np.max(np.abs(slopes)) < 1e-12
