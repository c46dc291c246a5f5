"""Significance: p is exact for any number of draws, z and p are invariant where their index is, and
values known.
"""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, normal
from hypothesis import given
from scipy import stats

from hopmix import Coupling, measure_asymmetry
from hopmix.symmetry import measure_significance, measure_spectrum
from hopmix.symmetry.significance import compare_rotations, pair, pair_directions, rotations

CHANCE = 1e-10
"""That an assertion about shares fails although it holds; each test makes fewer than ten of them.
"""

GAUGE_FREE = (
    *("unit_cosine", "symmetry_score", "directionality", "mean_unit_cosine"),
    *("low_unit_cosine", "median_unit_cosine", "high_unit_cosine"),
)


def couple(v, w, dtype=None) -> Coupling:
    return Coupling.from_weights(jnp.asarray(w, dtype), jnp.asarray(v, dtype))


def indices(coupling: Coupling):
    """One that a gauge changes and two that it keeps, of few operations."""
    m = coupling.down @ coupling.up
    gap = jnp.sum((coupling.down - coupling.up.T) ** 2) / jnp.sum(
        coupling.down**2 + coupling.up.T**2
    )
    return gap, jnp.sum(coupling.down * coupling.up.T), jnp.sum(m * m.T) / jnp.sum(m**2)


gap = lambda coupling: indices(coupling)[0]
score = lambda coupling: indices(coupling)[2]


# ---- Closed forms --------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_value_counts_as_one_more_draw():
    """Mean, spread, z and p are those of all N + 1 numbers, by NumPy."""
    random = np.random.default_rng(0)
    w = random.normal(size=(6, 4))
    v = random.normal(size=(4, 6))
    found = measure_significance(couple(v, w), gap, key=jr.key(3), pairings=7)
    keys = jr.split(jr.split(jr.key(3))[0], 7)
    value = float(gap(couple(v, w)))
    every = np.asarray([value, *(float(gap(pair(couple(v, w), key))) for key in keys)])
    assert_close(found.value, value)
    assert_close((found.mean, found.std), (every.mean(), every.std(ddof=1)))
    assert_close(found.z, (value - every.mean()) / every.std(ddof=1))
    assert_close(found.p, np.mean(abs(every - every.mean()) >= abs(value - every.mean()) - 1e-12))


def test_z_is_largest_where_only_the_value_differs():
    """Of N draws that agree and a value that does not, z is N/sqrt(N + 1) and p is 1/(N + 1)."""
    once = lambda c: jnp.where(jnp.all(c.down == c.up.T), 1.0, 0.0)
    w = jnp.asarray(np.random.default_rng(1).normal(size=(40, 3)))
    found = measure_significance(couple(w.T, w), once, key=jr.key(0), pairings=9)
    assert_close((found.z, found.p), (9 / math.sqrt(10), 0.1))


def test_ties_count_against_the_weights():
    """Of two hidden units each draw swaps them or does not: p counts all that are equal to the
    weights.
    """
    w = np.eye(2)
    v = np.asarray([[1.0, 0.2], [0.3, 1.0]])
    found = measure_significance(couple(v, w), gap, key=jr.key(1), pairings=99)
    plain = float(gap(couple(v, w)))
    swapped = float(gap(couple(v[:, ::-1], w)))
    share = (float(found.mean) - swapped) / (plain - swapped)
    assert_close(100 * share, round(100 * share), 1e-9)
    # The rarer of the two is further from the mean.
    assert_close(found.p, 1.0 if share >= 0.5 else share, 1e-9)


# ---- Exactness -----------------------------------------------------------------------------------


def p_values(pairings: int, hidden: int, visible: int, count: int) -> np.ndarray:
    """(count, indices) of couplings of independent Gaussian weights of unequal units."""

    def one(key):
        first, second, third, last = jr.split(key, 4)
        sizes = jnp.exp(jr.normal(last, (hidden,)))
        w = jr.normal(first, (hidden, visible))
        v = jr.normal(second, (visible, hidden))
        return jnp.stack(
            measure_significance(
                couple(v, w * sizes[:, None]), indices, key=third, pairings=pairings
            ).p
        )

    return np.asarray(jax.jit(jax.vmap(one))(jr.split(jr.key(100 * pairings + hidden), count)))


@pytest.mark.parametrize("pairings, hidden, visible", [(2, 8, 5), (4, 8, 5), (9, 5, 8), (19, 2, 5)])
def test_p_is_exact_for_any_number_of_pairings(pairings, hidden, visible):
    """P(p <= a) <= a for every a: the count is below the quantile of a binomial law, but for a
    chance of 1e-10 each.
    """
    count = 3000
    p = p_values(pairings, hidden, visible, count)
    assert np.all(np.isfinite(p))
    for k in {1, 2, (pairings + 1) // 2} & set(range(1, pairings + 1)):
        level = k / (pairings + 1)
        below = np.sum(p <= level + 1e-9, axis=0)
        assert np.all(below <= stats.binom.isf(CHANCE, count, level)), (level, below / count)


def test_p_is_not_conservative_where_nothing_is_tied():
    """P(p <= k/(N + 1)) is k/(N + 1) then, not less."""
    count = 3000
    p = p_values(9, 8, 5, count)
    for level in (0.1, 0.5):
        below = np.sum(p <= level + 1e-9, axis=0)
        assert np.all(below >= stats.binom.isf(1 - CHANCE, count, level))


@pytest.mark.parametrize("visible, hidden", [(6, 3), (4, 5)])
def test_p_of_queries_and_keys_is_exact(visible, hidden):
    count = 2000

    def one(key):
        first, second, third = jr.split(key, 3)
        coupling = couple(jr.normal(first, (visible, hidden)), jr.normal(second, (hidden, visible)))
        return measure_significance(coupling, score, key=third, pairings=4, hidden="basis").p

    p = np.asarray(jax.jit(jax.vmap(one))(jr.split(jr.key(7), count)))
    for level in (0.2, 0.4):
        below = np.sum(p <= level + 1e-9)
        assert (
            stats.binom.isf(1 - CHANCE, count, level)
            <= below
            <= stats.binom.isf(CHANCE, count, level)
        )


# ---- Gauge ---------------------------------------------------------------------------------------

seeds = st.integers(0, 2**31 - 1)
ALL = jax.jit(lambda v, w: measure_significance(couple(v, w), key=jr.key(1), pairings=19))
SPECTRUM = jax.jit(
    lambda v, w: measure_significance(couple(v, w), measure_spectrum, key=jr.key(1), pairings=9)
)


def draw(seed: int, hidden: int = 9, visible: int = 5):
    random = np.random.default_rng(seed)
    return random, random.normal(size=(visible, hidden)), random.normal(size=(hidden, visible))


@given(seeds, st.booleans())
def test_z_and_p_are_invariant_where_the_index_is(seed, signs):
    """w_a -> c_a w_a, v_a -> v_a / c_a, also with signs."""
    random, v, w = draw(seed)
    gauge = np.exp(2 * random.normal(size=9)) * (random.choice([-1, 1], 9) if signs else 1)
    before = ALL(v, w)
    after = ALL(v / gauge, w * gauge[:, None])
    for part in ("value", "mean", "std", "z", "p"):
        for name in GAUGE_FREE:
            one = float(getattr(getattr(before, part), name))
            other = float(getattr(getattr(after, part), name))
            np.testing.assert_allclose(
                other, one, rtol=1e-7, atol=1e-9, err_msg=f"{part} of {name}"
            )


@given(seeds)
def test_z_and_p_of_the_spectrum_are_invariant(seed):
    random, v, w = draw(seed, 5, 7)
    gauge = np.exp(2 * random.normal(size=5)) * random.choice([-1, 1], 5)
    before = SPECTRUM(v, w)
    after = SPECTRUM(v / gauge, w * gauge[:, None])
    np.testing.assert_allclose(np.asarray(after[1:]), np.asarray(before[1:]), rtol=1e-5, atol=1e-6)


SINGLE = jax.jit(
    lambda v, w: measure_significance(couple(v, w, jnp.float32), key=jr.key(1), pairings=19)
)


@pytest.mark.parametrize("spread", [3.0, 25.0])
def test_the_gauge_of_single_precision(spread):
    """A layer with a small relation, and its units at sizes that differ by up to fifty orders of
    magnitude.
    """
    random, v, w = draw(0, 64, 32)
    v = 0.08 * w.T + v
    gauge = 10.0 ** random.uniform(-spread, spread, 64)
    before = SINGLE(v, w)
    after = SINGLE(v / gauge, w * gauge[:, None])
    for name in GAUGE_FREE:
        assert getattr(after.z, name).dtype == jnp.float32
        np.testing.assert_allclose(
            getattr(after.z, name), getattr(before.z, name), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(getattr(after.p, name), getattr(before.p, name), atol=1e-6)


def test_other_indices_keep_plain_pairings():
    """The mean of what a gauge changes is that of all pairs of weights; of what it keeps, either
    sign is as likely.
    """
    _, v, w = draw(2, 30, 6)
    v = 1 + v
    w = 1 + w
    found = measure_significance(couple(v, w), indices, key=jr.key(1), pairings=400)
    squares = np.sum(v**2) + np.sum(w**2)
    overlaps = v.T @ w.T
    mean = 1 - 2 * overlaps.sum() / 30 / squares
    assert mean < 0.8
    # The variance of a sum along a random permutation is Hoeffding's.
    centred = overlaps - overlaps.mean(0) - overlaps.mean(1, keepdims=True) + overlaps.mean()
    spread = 2 * math.sqrt(np.sum(centred**2) / 29) / squares
    assert_close(found.std[0], spread, 0.3)
    assert abs(found.mean[0] - mean) < 8 * spread / 20
    assert abs(found.mean[1]) < 8 * found.std[1] / 20


def test_a_custom_index_gets_the_null_of_its_kind():
    """Whether a gauge keeps it is found by trying: the z of a lambda is that of the named index."""
    _, v, w = draw(5)
    own = jax.jit(
        lambda v, w: measure_significance(couple(v, w), indices, key=jr.key(1), pairings=19)
    )(v, w)
    named = ALL(v, w)
    assert_close((own.z[0], own.z[2]), (named.z.relative_breaking, named.z.symmetry_score), 1e-9)


def test_a_null_keeps_what_it_says():
    """The lengths of both weights of each unit, W, and units that have one of them only."""
    _, v, w = draw(3)
    v[:, 2] = 0
    w[4] = 0
    found = pair_directions(couple(v, w), jr.key(0))
    assert np.all(np.asarray(found.up) == w)
    assert_close(jnp.linalg.norm(found.down, axis=0), np.linalg.norm(v, axis=0))
    assert_close(jnp.abs(found.down[:, [2, 4]]), np.abs(v[:, [2, 4]]))
    directions = lambda v: np.asarray(
        v / np.where(np.linalg.norm(v, axis=0) > 0, np.linalg.norm(v, axis=0), 1)
    )
    overlaps = np.abs(directions(v).T @ directions(np.asarray(found.down)))
    live = [0, 1, 3, 5, 6, 7, 8]
    ones = np.isclose(overlaps[np.ix_(live, live)], 1)
    assert np.all(ones.sum(0) == 1)
    assert np.all(ones.sum(1) == 1)


def test_tied_and_opposite_weights_are_as_symmetric():
    """V = W^T and V = -W^T: cosines of 1 and -1, the same score, and the same p."""
    w = np.random.default_rng(4).normal(size=(16, 12))
    both = lambda c: (indices(c)[1] / jnp.sum(c.up**2), score(c))
    tied = measure_significance(couple(1 * w.T, w), both, key=jr.key(0), pairings=99)
    opposite = measure_significance(couple((-1) * w.T, w), both, key=jr.key(0), pairings=99)
    assert_close((tied.value, opposite.value), ((1.0, 1.0), (-1.0, 1.0)))
    assert_close((tied.p, opposite.p), ((0.01, 0.01), (0.01, 0.01)))
    assert tied.z[0] > 5
    assert opposite.z[0] < -5
    assert tied.z[1] > 2


# ---- Queries and keys ----------------------------------------------------------------------------

HEAD = jax.jit(
    lambda v, w: measure_significance(
        couple(v, w), product, key=jr.key(1), pairings=19, hidden="basis"
    )
)


def product(coupling: Coupling):
    found = measure_asymmetry(coupling)
    return found.symmetry_score, found.directionality


@given(seeds, st.sampled_from([(4, 7), (7, 4)]))
def test_the_basis_of_a_head_changes_neither_z_nor_p(seed, sizes):
    """W_Q -> A W_Q, W_K -> A^-T W_K with A = V W = W_Q^T W_K unchanged."""
    random, v, w = draw(seed, *sizes)
    hidden = sizes[0]
    frames = [np.linalg.qr(random.normal(size=(hidden, hidden)))[0] for _ in range(2)]
    change = frames[0] @ np.diag(np.exp(random.uniform(-2, 2, hidden))) @ frames[1]
    before = HEAD(v, w)
    after = HEAD(v @ change, np.linalg.solve(change, w))
    np.testing.assert_allclose(np.asarray(after), np.asarray(before), rtol=1e-6, atol=1e-7)


def test_a_rotation_keeps_singular_values_and_spans():
    _, v, w = draw(6, 3, 6)
    basis = rotations(couple(v, w), jr.key(0))
    assert_close(basis.coupling.down @ basis.coupling.up * _unit(v, w), v @ w, 1e-10)
    turned = basis.draw(jr.key(1))
    m = np.asarray(turned.down @ turned.up) * _unit(v, w)
    assert np.linalg.norm(m - v @ w) > 1e-3 * np.linalg.norm(v @ w)
    assert_close(np.linalg.svd(m)[1], np.linalg.svd(v @ w)[1], 1e-10)
    assert np.linalg.matrix_rank(np.concatenate([m, v @ w], axis=0), tol=1e-8) == 3
    assert np.linalg.matrix_rank(np.concatenate([m, v @ w], axis=1), tol=1e-8) == 3


def _unit(v, w) -> float:
    """The largest product of the largest entries of one hidden unit, in which singular values are
    counted.
    """
    return float(np.max(np.max(np.abs(v), axis=0) * np.max(np.abs(w), axis=1)))


def test_rotations_have_the_mean_of_all_of_them():
    """E <M, M^T> over Haar frames is |S|^2 |Z^T U|^2 / k^2 for M = U S Z^T of rank k: within 8
    standard errors.
    """
    _, v, w = draw(8, 3, 5)
    left, _, right = np.linalg.svd(v @ w)
    mean = np.sum((right[:3] @ left[:, :3]) ** 2) / 9

    def one(key):
        basis, own = jr.split(key)
        return score(rotations(couple(v, w), basis).draw(own))

    scores = np.asarray(jax.jit(jax.vmap(one))(jr.split(jr.key(0), 4000)))
    assert abs(scores.mean() - mean) < 8 * scores.std() / math.sqrt(len(scores))


def test_tied_queries_and_keys_stand_out():
    w = np.random.default_rng(9).normal(size=(6, 12))
    for sign in (1, -1):
        found = measure_significance(
            couple(sign * w.T, w), score, key=jr.key(0), pairings=99, hidden="basis"
        )
        assert_close((found.value, found.p), (1.0, 0.01))


# ---- Dtypes and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("hidden", ["units", "basis"])
def test_one_dtype_in_the_same_out(dtype, hidden, getkey):
    coupling = Coupling.from_weights(
        normal(getkey(), (4, 6), dtype), normal(getkey(), (6, 4), dtype)
    )
    found = measure_significance(coupling, score, key=jr.key(0), pairings=9, hidden=hidden)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    assert_close(
        10 * found.p.astype(jnp.float64), round(10 * float(found.p)), 1e-2
    )  # tenths, also in bfloat16


def test_what_cannot_be_compared_is_refused():
    eye = couple(jnp.eye(3), jnp.eye(3))
    with pytest.raises(
        (ValueError, TypeError), match="heads"
    ):  # by the checker of annotations in tests
        measure_significance(eye, key=jr.key(0), hidden="heads")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"needs 2 pairings and 2 hidden units, got 5 and 1"):
        compare_rotations(couple(jnp.ones((3, 1)), jnp.ones((1, 3))), score, key=jr.key(0), draws=5)


def test_an_index_that_is_no_number_has_no_p():
    found = measure_significance(
        couple(jnp.eye(3), jnp.eye(3)), lambda c: jnp.nan * c.up[0, 0], key=jr.key(0), pairings=5
    )
    assert np.isnan(found.z)
    assert np.isnan(found.p)
