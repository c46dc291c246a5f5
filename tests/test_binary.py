"""Binary memories: what a flip costs, asynchronous sweeps that never climb, synchronous updates
that may cycle.
"""

from collections.abc import Callable

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import mpmath as mp
import numpy as np
import pytest
import scipy.linalg
from helpers import assert_close, normal
from hypothesis import given
from hypothesis.extra.numpy import arrays
from jaxtyping import Array

from hopmix import (
    Exponential,
    GhostMax,
    HopfieldMemory,
    LogSumReLU,
    Quadratic,
    Recall,
    ReLU,
    RePU,
    Sigmoid,
    Softmax,
    Tanh,
    flip_costs,
    recall,
    update_all,
)
from hopmix._lagrangian import Scaled, Sum


class Pairs(eqx.Module):
    """The energy of pairwise weights; a pytree, so that other weights need no new compilation."""

    weights: Array
    field: Array

    def __call__(self, spins):
        flat = spins.ravel()
        return -0.5 * flat @ self.weights @ flat - self.field @ flat


def spins_of(key, shape: tuple[int, ...] = (6,)) -> Array:
    bits = np.random.default_rng(np.asarray(jr.key_data(key))).integers(0, 2, shape)
    return jnp.asarray(2.0 * bits - 1)


def by_hand(energy: Callable, spins: Array) -> np.ndarray:
    """The costs one flip at a time, by NumPy's indices."""
    start = float(energy(spins))
    costs = np.zeros(spins.shape)
    for index in np.ndindex(*spins.shape):
        flipped = np.array(spins)
        flipped[index] *= -1
        costs[index] = float(energy(jnp.asarray(flipped))) - start
    return costs


SEPARATIONS = {
    "quadratic": Quadratic(),
    "relu": ReLU(),
    "repu 3": RePU(3),
    "exponential": Exponential(0.5),
    "softmax": Softmax(0.7),
    "log-sum-relu": LogSumReLU(0.3),
}


@pytest.mark.quick
def test_costs_of_any_function_are_differences(getkey):
    shape = (2, 3)
    weights = normal(getkey(), (*shape, *shape))
    energy = lambda s: (
        jnp.sum(weights * s[(...,) + (None,) * s.ndim] * s[(None,) * s.ndim + (...,)])
        + jnp.sum(s**3)
    )
    with jax.numpy_rank_promotion("allow"):
        spins = spins_of(getkey(), shape)
        assert_close(flip_costs(energy, spins), jnp.asarray(by_hand(energy, spins)))


OF_DISTANCES = set(SEPARATIONS) - {
    "relu",
    "repu 3",
}  # rectified polynomials of distances are refused


@pytest.mark.parametrize(
    "name, similarity",
    [(n, "dot") for n in SEPARATIONS] + [(n, "distance") for n in sorted(OF_DISTANCES)],
)
def test_costs_of_stored_patterns_are_those_of_their_energy(name, similarity, getkey):
    memory = HopfieldMemory(normal(getkey(), (4, 2, 3)), SEPARATIONS[name], similarity)
    spins = spins_of(getkey(), (2, 3))
    assert_close(
        flip_costs(memory, spins), jnp.asarray(by_hand(memory.energy, spins)), 1e-11
    )  # differences cancel


SIZE = 6
SWEEPS = (
    2**SIZE
)  # each sweep that changes something lowers the energy strictly, so that this is always enough


def run(energy: Pairs, start: Array, key: Array | None = None) -> Recall:
    """One shape and one number of sweeps in all tests: one compiled program."""
    return recall(energy, start, sweeps=SWEEPS, key=jr.key(0) if key is None else key)


@pytest.mark.quick
def test_recall_follows_the_rule_spin_by_spin(getkey):
    weights = normal(getkey(), (SIZE, SIZE))
    start = spins_of(getkey())
    key = getkey()
    weights = weights + weights.T
    field = normal(getkey(), (SIZE,))
    away = -start[0] * (
        1 + jnp.sum(jnp.abs(weights[0]))
    )  # stronger than all others: the first spin flips, and stays
    energy = Pairs(weights, field.at[0].set(away))
    orders = jax.jit(jax.vmap(lambda k: jr.permutation(k, SIZE)))(jr.split(key, SWEEPS))
    spins = np.array(start)
    trajectory = [np.array(start)]
    w = np.asarray(energy.weights)
    field = np.asarray(energy.field)
    for order in np.asarray(orders):
        for i in order:
            # By hand: E(flipped) - E = 2 s_i (sum over j other than i of W_ij s_j + b_i).
            if 2 * spins[i] * (w[i] @ spins - w[i, i] * spins[i] + field[i]) < 0:
                spins[i] *= -1
        trajectory.append(spins.copy())
    found = run(energy, start, key)
    np.testing.assert_array_equal(found.states, np.stack(trajectory))
    energies = [-0.5 * s @ w @ s - field @ s for s in trajectory]
    assert_close(found.energies, jnp.asarray(energies))
    assert not np.array_equal(found.states[0], found.states[-1])


def test_stored_patterns_take_the_same_path_as_their_energy(getkey):
    memory = HopfieldMemory(normal(getkey(), (5, 3, 4)), RePU(3))
    start = spins_of(getkey(), (3, 4))
    key = getkey()
    fast = recall(memory, start, sweeps=4, key=key)
    plain = recall(memory.energy, start, sweeps=4, key=key)
    assert_close(fast.states, plain.states, 0)
    assert_close(fast.energies, plain.energies)
    assert fast.states.shape == (5, 3, 4)


INTEGERS = arrays(np.int8, (SIZE, SIZE), elements=st.integers(-3, 3))
FIELDS = arrays(np.int8, (SIZE,), elements=st.integers(-3, 3))
STARTS = arrays(np.int8, (SIZE,), elements=st.sampled_from([-1, 1]))


@given(INTEGERS, FIELDS, STARTS, st.integers(0, 2**31 - 1))
def test_the_energy_never_rises_and_the_end_is_a_local_minimum(weights, field, start, seed):
    energy = Pairs(
        jnp.asarray(weights, float), jnp.asarray(field, float)
    )  # of integers: nothing is rounded
    found = run(energy, jnp.asarray(start, float), jr.key(seed))
    assert np.all(np.diff(found.energies) <= 0)
    assert np.all(np.abs(found.states) == 1)
    assert found.converged
    assert np.all(flip_costs(energy, found.states[-1]) >= 0)
    changed = np.any(np.diff(found.states, axis=0) != 0, axis=1)
    np.testing.assert_array_equal(changed, np.diff(found.energies) < 0)


def test_sweeps_that_do_not_suffice_are_told():
    # A chain of which one end knows better: in one sweep, spins visited before their neighbour stay
    # wrong.
    weights = jnp.diag(jnp.ones(SIZE - 1), 1)
    energy = Pairs(weights + weights.T, 0.5 * jnp.ones(SIZE).at[0].set(4.0))
    assert not recall(energy, -jnp.ones(SIZE), sweeps=1, key=jr.key(0)).converged
    found = run(energy, -jnp.ones(SIZE))
    assert found.converged
    assert_close(found.states[-1], jnp.ones(SIZE), 0)


def test_ties_keep(getkey):
    start = spins_of(getkey())
    flat = Pairs(jnp.eye(SIZE), jnp.zeros(SIZE))
    found = run(flat, start)
    assert found.converged
    assert_close(found.states[-1], start, 0)
    assert_close(update_all(flat, start), start, 0)


def test_synchronous_updates_of_a_symmetric_net_may_cycle():
    weights = (
        jnp.zeros((SIZE, SIZE)).at[0, 1].set(-1.0).at[1, 0].set(-1.0)
    )  # the other spins are free
    energy = Pairs(weights, jnp.zeros(SIZE))
    start = jnp.ones(SIZE)
    once = update_all(energy, start)
    twice = update_all(energy, once)
    assert_close((once, twice), (start.at[:2].set(-1.0), start), 0)
    assert energy(once) == energy(start) == 1
    one_by_one = run(energy, start)
    assert one_by_one.converged
    assert one_by_one.energies[-1] == -1


def test_a_synchronous_update_may_climb():
    # Each of some spins that repel each other wants to leave alone; when all leave, only the field
    # is lost.
    energy = Pairs(jnp.eye(SIZE) - jnp.ones((SIZE, SIZE)), 0.5 * jnp.ones(SIZE))
    assert np.all(flip_costs(energy, jnp.ones(SIZE)) < 0)
    assert energy(update_all(energy, jnp.ones(SIZE))) > energy(jnp.ones(SIZE))


@pytest.mark.parametrize("separation", [Quadratic(), Softmax(1.0)], ids=lambda s: type(s).__name__)
def test_a_lightly_loaded_memory_corrects_flipped_bits(separation, getkey):
    """Orthogonal patterns: of n = 128 bits w <= 12 are wrong, the other overlaps are at most 2w,
    and each bit is pulled to its place by n - 2w - 4 * 2w - 5 > 0 or more."""
    patterns = (
        jnp.asarray(scipy.linalg.hadamard(128)[3:8], float) * spins_of(getkey(), (128,))[None]
    )
    memory = HopfieldMemory(patterns, separation)
    corrupted = patterns * jnp.where(jnp.arange(128) < 12, -1.0, 1.0)[None]
    each = jax.jit(jax.vmap(lambda s, k: recall(memory, s, sweeps=4, key=k)))
    found = each(corrupted, jr.split(getkey(), 5))
    assert np.all(found.converged)
    assert_close(found.states[:, -1], patterns, 0)


@pytest.mark.parametrize(
    "function", [flip_costs, update_all, lambda e, s: recall(e, s, sweeps=1, key=jr.key(0))]
)
@pytest.mark.parametrize("value", [0.5, jnp.nan])
@pytest.mark.quick
def test_other_spins_are_refused(function, value):
    energy = Pairs(jnp.eye(SIZE), jnp.zeros(SIZE))
    spins = jnp.ones(SIZE).at[1].set(value)
    with pytest.raises(ValueError, match=f"must be -1 or \\+1, got {value:g}"):
        function(energy, spins)
    with pytest.raises(Exception, match=r"must be -1 or \+1"):
        jax.block_until_ready(eqx.filter_jit(lambda s: function(energy, s))(spins))


def test_fewer_sweeps_than_one_are_refused():
    with pytest.raises(ValueError, match="sweeps >= 1, got 0"):
        recall(Pairs(jnp.eye(2), jnp.zeros(2)), jnp.ones(2), sweeps=0, key=jr.key(0))


def test_patterns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit a layer of shape"):
        flip_costs(HopfieldMemory(jnp.ones((2, 4)), Quadratic()), jnp.ones(3))


@pytest.mark.parametrize("units", [100, 400])
def test_the_exponential_memory_recalls_where_its_energy_overflows(units, getkey):
    """In float32 e^units is no number, but flips follow the logarithm: those of log-sum-exp, one
    update or many.
    """
    patterns = jnp.sign(normal(getkey(), (14, units), jnp.float32))
    noisy = patterns[0] * jnp.where(jnp.arange(units) % 10 == 0, -1, 1).astype(jnp.float32)
    exponential = HopfieldMemory(patterns, Exponential())
    softmax = HopfieldMemory(patterns, Softmax())
    found = recall(exponential, noisy, sweeps=3, key=jr.key(0))
    assert jnp.all(found.states[-1] == patterns[0])
    assert bool(found.converged)
    assert bool(jnp.all(update_all(exponential, noisy) == update_all(softmax, noisy)))
    assert bool(jnp.all(update_all(exponential, noisy) == patterns[0]))
    assert jnp.isinf(found.energies[-1])


def test_what_overflows_has_not_converged(getkey):
    """A function that overflows before and after every flip says nothing, and neither does what it
    is asked by.
    """
    patterns = jnp.sign(normal(getkey(), (3, 200), jnp.float32))
    overflowing = Overflowing(patterns)
    assert np.all(np.isnan(flip_costs(overflowing, patterns[0])))
    assert not bool(recall(overflowing, patterns[0], sweeps=2, key=jr.key(0)).converged)
    with pytest.raises(
        ValueError,
        match=r"overflows before and after a flip, .* for 200 of 200 spins: scale the energy",
    ):
        update_all(overflowing, patterns[0])
    with pytest.raises(Exception, match="overflows before and after a flip"):
        jax.block_until_ready(eqx.filter_jit(update_all)(overflowing, patterns[0]))


class Overflowing(eqx.Module):
    """What is known of its patterns from outside is minus infinity."""

    patterns: Array

    def __call__(self, spins):
        return -jnp.sum(jnp.exp(self.patterns @ spins))


class Doubled(HopfieldMemory):
    """Stored patterns with another energy than theirs."""

    def energy(self, *activations):
        return 2 * super().energy(*activations) + jnp.sum(activations[0])


def test_stored_patterns_of_another_energy_are_taken_as_any_function(getkey):
    memory = Doubled(normal(getkey(), (4, 6)), RePU(3))
    spins = spins_of(getkey())
    assert_close(flip_costs(memory, spins), jnp.asarray(by_hand(memory.energy, spins)), 1e-11)


# ---- Costs that overflow, underflow, or are lost in the sums that they are the difference of -----


def exact_difference(separation, before, steps):
    """L(s + d) - L(s) of exact numbers, unit by unit."""
    difference = lambda f: mp.fsum(f(s + d) - f(s) for s, d in zip(before, steps, strict=True) if d)
    if isinstance(separation, Scaled):
        return mp.mpf(float(separation.factor)) * exact_difference(
            separation.lagrangian, before, steps
        )
    if isinstance(separation, Sum):
        return mp.fsum(exact_difference(term, before, steps) for term in separation.terms)
    if isinstance(separation, Quadratic):
        return difference(lambda s: s**2) / 2
    if isinstance(separation, ReLU | RePU):
        power = getattr(separation, "power", 2)
        return difference(lambda s: max(s, mp.mpf(0)) ** power) / power
    beta = mp.mpf(float(separation.beta))
    change = difference(lambda s: mp.exp(beta * s)) / beta
    if isinstance(separation, Exponential):
        return change
    if isinstance(separation, Tanh):
        return difference(lambda s: mp.log(mp.cosh(beta * s))) / beta
    if isinstance(separation, Sigmoid):
        return difference(lambda s: mp.log1p(mp.exp(beta * s))) / beta
    partition = mp.fsum(mp.exp(beta * s) for s in before) + isinstance(separation, GhostMax)
    ratio = change * beta / partition
    if abs(ratio) < 0.5:
        return mp.log1p(ratio) / beta
    after = mp.fsum(mp.exp(beta * (s + d)) for s, d in zip(before, steps, strict=True))
    return mp.log((after + isinstance(separation, GhostMax)) / partition) / beta


HARD = {
    "quadratic": Quadratic(),
    "relu": ReLU(),
    "repu 3": RePU(3),
    "repu 30": RePU(30),
    "repu 200": RePU(200),
    "exponential": Exponential(),
    "exponential, hot": Exponential(0.01),
    "exponential, cold": Exponential(40.0),
    "exponential, negative": Exponential(-1.0),
    "softmax": Softmax(),
    "softmax, cold": Softmax(1e4),
    "softmax, freezing": Softmax(1e37),
    "softmax, negative": Softmax(-2.0),
    "ghost-max": GhostMax(0.5),
    "sum": Exponential() + 0.5 * RePU(30) + Quadratic(),
    "difference": Exponential(0.5) + -2.0 * Exponential(0.75),
    "scaled": -3.0 * RePU(40),
}


def exact_costs(memory: HopfieldMemory, spins: np.ndarray, few: np.ndarray) -> list:
    """What flips of a few spins cost, in exact arithmetic."""
    patterns = [[mp.mpf(float(a)) for a in pattern] for pattern in np.asarray(memory.patterns)]
    signs = [mp.mpf(float(a)) for a in spins]
    if memory.similarity == "dot":
        seen = [mp.fdot(pattern, signs) for pattern in patterns]
    else:
        seen = [
            -mp.fsum((a - b) ** 2 for a, b in zip(pattern, signs, strict=True)) / 2
            for pattern in patterns
        ]
    flips = [[-2 * signs[i] * pattern[i] for pattern in patterns] for i in few]
    return [-exact_difference(memory.separation, seen, steps) for steps in flips]


def hard_cases(random: np.random.Generator):
    """Patterns, spins and similarity: a stored pattern and a noisy one, patterns with silent
    entries, small numbers.
    """
    stored = random.choice([-1.0, 1.0], (4, 784))
    noisy = stored[0] * np.where(np.arange(784) % 9 == 0, -1, 1)
    sparse = stored * (random.random((4, 784)) < 0.5)
    sparse[0, :20] = 0  # nothing that the nearest pattern says, all of it that the others do
    yield stored, stored[0], "dot"
    yield stored, noisy, "dot"
    yield sparse, np.where(stored[0] == 0, 1.0, stored[0]), "dot"
    yield stored, noisy, "distance"
    yield 1e-3 * stored + 1e-6 * random.normal(size=stored.shape), noisy, "dot"


@pytest.mark.parametrize("name", HARD)
def test_costs_have_the_right_sign_at_every_separation(name):
    """Of 784 spins in single precision, against exact arithmetic, for the spins that are the
    hardest to decide.
    """
    info = np.finfo(np.float32)
    with mp.workdps(60):
        for patterns, spins, similarity in hard_cases(np.random.default_rng(0)):
            if similarity == "distance" and isinstance(HARD[name], ReLU | RePU):
                continue
            memory = HopfieldMemory(jnp.asarray(patterns, jnp.float32), HARD[name], similarity)
            costs = np.asarray(flip_costs(memory, jnp.asarray(spins, jnp.float32)), np.float64)
            few = np.unique(
                [*range(0, 784, 98), int(np.argmin(np.abs(costs))), int(np.argmin(costs))]
            )
            for i, exact in zip(few, exact_costs(memory, spins, few), strict=True):
                assert np.sign(costs[i]) == np.sign(float(mp.sign(exact))), (
                    f"spin {i}: {costs[i]}, not {exact}"
                )
                if abs(exact) > float(info.max):
                    assert abs(costs[i]) > 0.9 * float(info.max)
                elif abs(exact) > 1e-30:
                    np.testing.assert_allclose(costs[i], float(exact), rtol=1e-3)


@pytest.mark.parametrize(
    "name",
    [name for name in HARD if "negative" not in name and name not in ("scaled", "difference")],
)
def test_what_is_stored_is_recalled_at_every_separation(name):
    """Noisy bits are corrected, one update or many, also where the energy is no number of the
    dtype; then it rests.
    """
    stored = np.random.default_rng(1).choice([-1.0, 1.0], (4, 784))
    patterns = jnp.asarray(stored, jnp.float32)
    noisy = patterns[0] * jnp.where(jnp.arange(784) % 20 == 0, -1, 1).astype(jnp.float32)
    memory = HopfieldMemory(patterns, HARD[name])
    found = recall(memory, noisy, sweeps=2, key=jr.key(0))
    assert found.converged
    assert_close(found.states[-1], patterns[0], 0)
    assert_close(update_all(memory, noisy), patterns[0], 0)
    assert np.all(flip_costs(memory, patterns[0]) > 0)


CANCELLING = {
    "tanh": Tanh(1.25),
    "tanh, negative": Tanh(-0.5),
    "sigmoid": Sigmoid(0.75),
    "sigmoid, negative": Sigmoid(-0.75),
    "exponential, negative": Exponential(-0.25),
    "exponential": Exponential(0.75),
    "softmax": Softmax(1.25),
    "sum": Tanh(0.5) + -2.0 * Exponential(-0.25),
    "sum that cancels": Tanh() + Sigmoid(0.5) + -1.0 * Tanh(),
    "quadratic": Quadratic(),
    "repu 3": RePU(3),
}


@pytest.mark.parametrize("name", CANCELLING)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_what_cancels_exactly_leaves_the_next_terms(name, size, getkey):
    """The straight lines of saturated units cancel between patterns, and so do the largest of
    exponentials.
    """
    for key in jr.split(getkey(), 3):
        patterns = size * jr.rademacher(key, (4, 9), jnp.float32)
        for spins in (jnp.sign(patterns[0]), jr.rademacher(jr.fold_in(key, 1), (9,), jnp.float32)):
            memory = HopfieldMemory(patterns, CANCELLING[name])
            costs = np.asarray(flip_costs(memory, spins), np.float64)
            with mp.workdps(800):
                for cost, exact in zip(
                    costs, exact_costs(memory, np.asarray(spins), np.arange(9)), strict=True
                ):
                    exact = mp.mpf(0) if abs(exact) < mp.mpf(10) ** -600 else exact
                    assert np.sign(cost) == np.sign(float(mp.sign(exact))), (
                        f"{cost}, not {mp.nstr(exact, 9)}"
                    )
                    if 1e-36 < abs(exact) < 1e38:
                        np.testing.assert_allclose(cost, float(exact), rtol=1e-4)


@pytest.mark.parametrize("separation", [Tanh(1.25), Sigmoid(0.75)], ids=lambda s: type(s).__name__)
def test_costs_of_small_patterns_have_the_digits_of_their_curvature(separation, getkey):
    """Balanced patterns, whose steps add up to nothing: what is left is the product of each step
    and its state.
    """
    size = 2.0**-10
    eps = float(jnp.finfo(jnp.float32).eps)
    half = jr.rademacher(getkey(), (2, 200), jnp.float32)
    other = half[:, jr.permutation(getkey(), 200)].at[:, :4].set(-half[:, :4])
    memory = HopfieldMemory(size * jnp.concatenate([half, other]), separation)
    spins = jr.rademacher(getkey(), (200,), jnp.float32)
    costs = np.asarray(flip_costs(memory, spins), np.float64)
    seen = np.abs(np.asarray(memory.similarities(spins), np.float64))
    with mp.workdps(60):
        for cost, exact in zip(
            costs[:4], exact_costs(memory, np.asarray(spins), np.arange(4)), strict=True
        ):
            curved = np.sum(2 * size * (2 * seen + 2 * size))
            assert abs(cost - exact) <= 16 * eps * curved


def test_ties_of_saturated_patterns_come_to_rest(getkey):
    """Ties that rounding would break one way or the other flip for ever."""
    for separation in (Tanh(1.3), Sigmoid(0.7)):
        for key in jr.split(getkey(), 5):
            patterns = 30 * jr.rademacher(key, (4, 20), jnp.float32)
            start = jr.rademacher(jr.fold_in(key, 1), (20,), jnp.float32)
            found = recall(HopfieldMemory(patterns, separation), start, sweeps=40, key=key)
            assert found.converged


@pytest.mark.parametrize(
    "dtype", [jnp.float16, jnp.bfloat16, jnp.float64], ids=lambda dtype: dtype.__name__
)
def test_costs_keep_the_dtype_of_the_spins(dtype):
    """The similarities of half precision are added up in single; 783 is no number of bfloat16."""
    stored = jnp.asarray(np.random.default_rng(2).choice([-1.0, 1.0], (4, 783)), dtype)
    for name in ("exponential", "quadratic", "softmax", "repu 30"):
        memory = HopfieldMemory(stored, HARD[name])
        costs = flip_costs(memory, stored[0])
        found = recall(memory, stored[0], sweeps=1, key=jr.key(0))
        assert costs.dtype == found.energies.dtype == found.states.dtype == dtype
        assert np.all(costs > 0)
        assert found.converged


def test_ties_of_stored_patterns_keep():
    """With integers nothing is rounded: two patterns that pull equally hard leave a spin alone."""
    patterns = jnp.asarray([[1.0, 1, 1, 1], [1.0, 1, 1, -1]])
    for separation in (
        Quadratic(),
        ReLU(),
        RePU(3),
        RePU(300),
        Exponential(300.0),
        Softmax(2.0),
        Softmax(1e300),
    ):
        memory = HopfieldMemory(patterns, separation)
        start = jnp.asarray([1.0, 1.0, 1.0, 1.0])
        costs = flip_costs(memory, start)
        assert costs[3] == 0
        assert_close(recall(memory, start, sweeps=1, key=jr.key(0)).states[-1], start, 0)


def test_integer_spins_are_refused():
    with pytest.raises(Exception, match=r"int8|i8"):
        flip_costs(HopfieldMemory(jnp.ones((2, 4)), Quadratic()), jnp.ones(4, jnp.int8))
