"""Indices of asymmetry of weights: constructed cases with known values, invariances, null values,
significance.
"""

import math
from typing import Any

import hypothesis.strategies as st
import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, equations, normal
from hypothesis import given

from hopmix import Asymmetry, Coupling, measure_asymmetry
from hopmix._numerics.magnitude import working
from hopmix.symmetry import (
    Spectrum,
    eigenvalues,
    measure_spectrum,
    nearest_conservative,
    null_departure,
    symmetry_score,
    unit_cosines,
)

SIZES = ((6, 4), (4, 6), (5, 5))
sizes = pytest.mark.parametrize("visible, hidden", SIZES)


def couple(v, w) -> Coupling:
    """The coupling with given down- and up-weights."""
    return Coupling.from_weights(jnp.asarray(w), jnp.asarray(v))


# In the order of Asymmetry's fields.
TIED = (1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0)
OPPOSITE = (-1, 2, -1, 1, 2, -1, -1, -1, -1, 0, 0, 0)


def direct_score(v, w) -> float:
    m = np.asarray(v) @ np.asarray(w)
    return float(np.sum(m * m.T) / np.sum(m**2))


@sizes
@pytest.mark.quick
def test_tied_weights(visible, hidden, getkey):
    for coupling in (
        Coupling.symmetric(visible, hidden, key=getkey()),
        Coupling.broken(visible, hidden, key=getkey()),
    ):
        found = measure_asymmetry(coupling)
        np.testing.assert_allclose(found, TIED, atol=1e-7)
        assert measure_asymmetry(coupling).relative_breaking == 0
        assert measure_asymmetry(coupling).breaking_ratio == 0


@sizes
@pytest.mark.quick
def test_opposite_weights(visible, hidden, getkey):
    w = normal(getkey(), (hidden, visible))
    np.testing.assert_allclose(measure_asymmetry(couple(-w.T, w)), OPPOSITE, atol=1e-12)


def test_an_antisymmetric_product(getkey):
    """M = VW with M^T = -M: symmetry score -1."""
    w = normal(getkey(), (6, 4))
    a = normal(getkey(), (4, 4))
    v = (a - a.T) @ jnp.linalg.pinv(w)
    assert_close(v @ w, a - a.T, 1e-11)
    assert_close(measure_asymmetry(couple(v, w)).symmetry_score, -1.0, 1e-11)


def test_a_product_of_nothing_but_a_rotation():
    """M a rotation by an angle: score cos^2 - sin^2."""
    for angle in (0.0, 0.4, math.pi / 2, 2.0):
        rotation = np.asarray(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        score = measure_asymmetry(couple(rotation, np.eye(2))).symmetry_score
        np.testing.assert_allclose(score, math.cos(2 * angle), atol=1e-12)


def test_gains_of_hidden_units_are_no_asymmetry(getkey):
    """V = W^T D is conservative: each unit's cosine is 1, though the matrices are not parallel."""
    w = normal(getkey(), (4, 6))
    gains = jnp.asarray([0.1, 1.0, 3.0, 10.0])
    w = w / jnp.linalg.norm(
        w, axis=1, keepdims=True
    )  # so that no unit counts for all: the cosine is 0.67
    found = measure_asymmetry(couple(w.T * gains[None], w))
    assert_close(
        (found.unit_cosine, found.low_unit_cosine, found.conservative_distance + 1), (1.0, 1.0, 1.0)
    )
    assert found.cosine < 0.95
    assert found.relative_breaking > 0.1
    signed = couple(w.T * jnp.asarray([1.0, -1.0, 1.0, -1.0])[None], w)
    assert abs(measure_asymmetry(signed).unit_cosine) < 0.95
    assert_close(unit_cosines(signed), jnp.asarray([1.0, -1.0, 1.0, -1.0]))
    assert measure_asymmetry(signed).conservative_distance < 1e-15


def test_the_unit_cosine_is_the_weighted_mean_of_the_cosines(getkey):
    v = normal(getkey(), (6, 4))
    w = normal(getkey(), (4, 6))
    lengths = [np.linalg.norm(v[:, a]) * np.linalg.norm(w[a]) for a in range(4)]
    cosines = [float(v[:, a] @ w[a]) / lengths[a] for a in range(4)]
    assert_close(
        measure_asymmetry(couple(v, w)).unit_cosine, np.average(cosines, weights=lengths), scale=1.0
    )


@pytest.mark.quick
def test_the_definitions(getkey):
    coupling = Coupling(normal(getkey(), (4, 6)), breaking=normal(getkey(), (6, 4)), tie=0.3)
    w = np.asarray(coupling.up)
    v = np.asarray(coupling.down)
    norm = np.linalg.norm
    found = measure_asymmetry(coupling)
    assert_close(found.cosine, np.sum(v * w.T) / (norm(v) * norm(w)), scale=1.0)
    assert_close(found.relative_breaking, norm(v - w.T) ** 2 / (norm(v) ** 2 + norm(w) ** 2))
    assert_close(found.breaking_ratio, norm(v - w.T) / norm(w))
    assert_close(
        found.balance, (norm(w) ** 2 - norm(v) ** 2) / (norm(w) ** 2 + norm(v) ** 2), scale=1.0
    )
    cosines = [v[:, a] @ w[a] / norm(v[:, a]) / norm(w[a]) for a in range(4)]
    assert_close(unit_cosines(coupling), np.asarray(cosines))
    assert_close(found.mean_unit_cosine, np.mean(cosines), scale=1.0)
    assert_close(found[6:9], tuple(np.quantile(cosines, [0.1, 0.5, 0.9])), scale=1.0)


def test_the_nearest_conservative_coupling_is_the_least_squares_fit(getkey):
    """Column by column: v = d w has the solution of `numpy.linalg.lstsq`, and no other gains come
    closer.
    """
    coupling = couple(normal(getkey(), (6, 4)), normal(getkey(), (4, 6)))
    w = np.asarray(coupling.up)
    v = np.asarray(coupling.down)
    nearest = nearest_conservative(coupling)
    fits = [np.linalg.lstsq(w[a][:, None], v[:, a], rcond=None) for a in range(4)]
    assert_close(nearest.down, np.stack([w[a] * fits[a][0][0] for a in range(4)], axis=1))
    distance = math.sqrt(sum(float(fit[1][0]) for fit in fits))
    assert_close(measure_asymmetry(coupling).conservative_distance, distance / np.linalg.norm(v))
    assert np.all(nearest.up == coupling.up)
    assert nearest.tie == 0


def test_silent_units_are_left_out_of_the_cosines(getkey):
    v = normal(getkey(), (6, 4))
    w = normal(getkey(), (4, 6)).at[1].set(0)
    cosines = unit_cosines(couple(v, w))
    found = measure_asymmetry(couple(v, w))
    assert np.isnan(cosines).tolist() == [False, True, False, False]
    rest = measure_asymmetry(couple(v[:, [0, 2, 3]], w[jnp.asarray([0, 2, 3])]))
    for index in ("unit_cosine", "mean_unit_cosine", "low_unit_cosine", "high_unit_cosine"):
        if index != "unit_cosine":
            assert_close(getattr(found, index), getattr(rest, index), scale=1.0)
    assert np.isfinite(found.conservative_distance)


def test_cosines_survive_tiny_and_huge_weights(getkey):
    """In float32, where the product of two squares would be 0 or infinite."""
    v = normal(getkey(), (6, 4), jnp.float32)
    w = normal(getkey(), (4, 6), jnp.float32)
    for small, large in ((1e-15, 1e-15), (1e15, 1e-15), (1e15, 1e15)):
        assert_close(
            unit_cosines(couple(small * v, large * w)), unit_cosines(couple(v, w)), scale=1.0
        )


@sizes
def test_directionality_by_gram_matrices_is_the_direct_one(visible, hidden, getkey):
    """With one loud row of V, or one loud column of W, so that something stands out."""
    v = normal(getkey(), (visible, hidden))
    w = normal(getkey(), (hidden, visible))
    for loud_v, loud_w in ((30.0, 1.0), (1.0, 30.0), (30.0, 25.0)):
        both = v.at[1].multiply(loud_v), w.at[:, 2].multiply(loud_w)
        m = np.asarray(both[0]) @ np.asarray(both[1])
        columns = np.linalg.norm(m, axis=0)
        rows = np.linalg.norm(m, axis=1)
        column = np.sum(np.maximum(columns - columns.mean() - 2 * columns.std(ddof=1), 0))
        row = np.sum(np.maximum(rows - rows.mean() - 2 * rows.std(ddof=1), 0))
        expected = (column - row) / (column + row) if column + row else 0.0
        assert_close(measure_asymmetry(couple(*both)).directionality, expected, 1e-9)


def test_directionality_has_the_sign_of_what_stands_out(fixedkey):
    v = normal(fixedkey(), (20, 30))
    w = normal(fixedkey(), (30, 20))
    one_row = couple(v.at[3].multiply(20), w)
    one_column = couple(v, w.at[:, 3].multiply(20))
    assert measure_asymmetry(one_row).directionality < -0.4
    assert measure_asymmetry(one_column).directionality > 0.4
    assert measure_asymmetry(couple(jnp.eye(3), jnp.eye(3))).directionality == 0


@pytest.mark.parametrize("size", [1e-8, 0.3, 2.0])
def test_the_breaking_ratio_is_that_of_the_breaking_where_weights_are_tied(size, getkey):
    """Also for a breaking far below the square root of the rounding."""
    up = normal(getkey(), (4, 6))
    breaking = size * normal(getkey(), (6, 4))
    found = measure_asymmetry(Coupling(up, breaking=breaking))
    assert_close(found.breaking_ratio, np.linalg.norm(breaking) / np.linalg.norm(up), 1e-7)


@sizes
def test_the_score_by_gram_matrices_is_the_direct_one(visible, hidden, getkey):
    v = normal(getkey(), (visible, hidden))
    w = normal(getkey(), (hidden, visible))
    assert_close(symmetry_score(v, w), direct_score(v, w))


def test_the_score_forms_no_large_matrix():
    """With few hidden units no array of visible x visible appears in the program."""
    v = jax.ShapeDtypeStruct((300, 7), jnp.float32)
    w = jax.ShapeDtypeStruct((7, 300), jnp.float32)
    program = str(jax.make_jaxpr(symmetry_score)(v, w))
    assert "300,300" not in program
    assert "7,7" in program
    assert "300,300" in str(jax.make_jaxpr(lambda v, w: v @ w)(v, w))


# ---- Invariances ---------------------------------------------------------------------------------

seeds = st.integers(0, 2**31 - 1)
COSINES = ("mean_unit_cosine", "low_unit_cosine", "median_unit_cosine", "high_unit_cosine")
MEASURE = jax.jit(lambda v, w: measure_asymmetry(couple(v, w)))


def draw(seed: int, index: int = 1) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    (visible, hidden) = SIZES[index]
    return random, random.normal(size=(visible, hidden)), random.normal(size=(hidden, visible))


@given(seeds)
def test_indices_stay_in_their_ranges(seed):
    _, v, w = draw(seed)
    found = MEASURE(v, w)
    cosines = (getattr(found, index) for index in COSINES)
    for index in (
        found.cosine,
        found.unit_cosine,
        found.symmetry_score,
        found.directionality,
        found.balance,
        *cosines,
    ):
        assert -1 <= index <= 1
    assert found.low_unit_cosine <= found.median_unit_cosine <= found.high_unit_cosine
    assert 0 <= found.conservative_distance <= 1
    assert 0 <= found.relative_breaking <= 2
    assert found.breaking_ratio >= 0


@given(seeds)
def test_gauge_of_single_units(seed):
    """w_a -> c w_a, v_a -> v_a / c keeps M and all cosines of units, but not the distance of V and
    W^T.
    """
    random, v, w = draw(seed)
    scale = np.exp(random.normal(size=w.shape[0]))
    before = MEASURE(v, w)
    after = MEASURE(v / scale[None], w * scale[:, None])
    for index in ("unit_cosine", "symmetry_score", "directionality", *COSINES):
        np.testing.assert_allclose(getattr(after, index), getattr(before, index), atol=1e-9)
    np.testing.assert_allclose(MEASURE(w.T / 2, 2 * w).breaking_ratio, 0.75, rtol=1e-12)


@given(seeds)
def test_gains_of_single_units(seed):
    """v_a -> d v_a with d > 0, which keeps conservative couplings conservative, leaves the cosines
    of units alone.
    """
    random, v, w = draw(seed)
    gains = np.exp(random.normal(size=w.shape[0]))
    before = MEASURE(v, w)
    after = MEASURE(v * gains[None], w)
    for index in COSINES:
        np.testing.assert_allclose(getattr(after, index), getattr(before, index), atol=1e-10)
    tied = MEASURE(w.T * gains[None], w)
    np.testing.assert_allclose((tied.unit_cosine, tied.conservative_distance), (1, 0), atol=1e-7)


@given(seeds)
def test_transposing_the_product_exchanges_rows_and_columns(seed):
    """(V, W) -> (W^T, V^T): what is about the pair keeps its value, what points from input to
    output changes sign.
    """
    _, v, w = draw(seed)
    before = MEASURE(v, w)
    after = MEASURE(w.T, v.T)
    for index in ("cosine", "relative_breaking", "unit_cosine", "symmetry_score", *COSINES):
        np.testing.assert_allclose(getattr(after, index), getattr(before, index), atol=1e-10)
    for index in ("directionality", "balance"):
        np.testing.assert_allclose(getattr(after, index), -getattr(before, index), atol=1e-9)


@given(seeds)
def test_change_of_the_visible_basis(seed):
    random, v, w = draw(seed)
    basis = np.linalg.qr(random.normal(size=(v.shape[0],) * 2))[0]
    before = MEASURE(v, w)
    after = MEASURE(basis.T @ v, w @ basis)
    same = after._replace(
        directionality=before.directionality
    )  # rows and columns are those of one basis
    np.testing.assert_allclose(same, before, atol=1e-9)


@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
@pytest.mark.quick
def test_change_of_scale(seed, a, b):
    """Cosines and score forget the sizes of V and W; the relative breaking forgets a common one."""
    _, v, w = draw(seed)
    before = MEASURE(v, w)
    after = MEASURE(a * v, b * w)
    common = MEASURE(a * v, a * w)
    for index in (
        "cosine",
        "unit_cosine",
        "symmetry_score",
        "directionality",
        "conservative_distance",
        *COSINES,
    ):
        np.testing.assert_allclose(getattr(after, index), getattr(before, index), atol=1e-10)
    np.testing.assert_allclose(common, before, rtol=1e-8, atol=1e-11)


@given(seeds)
def test_order_of_hidden_units(seed):
    random, v, w = draw(seed)
    order = random.permutation(w.shape[0])
    np.testing.assert_allclose(MEASURE(v[:, order], w[order]), MEASURE(v, w), atol=1e-10)


@given(seeds)
def test_a_symmetric_perturbation_of_the_field_leaves_its_antisymmetric_part(seed):
    """With W square and V = M W^-1, adding to M what is symmetric changes only the symmetric share
    of the score.
    """
    random, a, w = draw(seed, 2)
    more = random.normal(size=a.shape)
    score = lambda m: float(MEASURE(m @ np.linalg.inv(w), w).symmetry_score)
    antisymmetric = lambda m: 0.5 * (1 - score(m)) * np.sum(m**2)
    np.testing.assert_allclose(antisymmetric(a + more + more.T), antisymmetric(a), rtol=1e-6)


def test_gradients_reach_the_weights(getkey):
    coupling = Coupling(
        normal(getkey(), (4, 6)), breaking=normal(getkey(), (6, 4)).at[2].multiply(20)
    )  # a row stands out
    for index in Asymmetry._fields:
        gradient = jax.grad(lambda c, index=index: getattr(measure_asymmetry(c), index))(coupling)
        assert jnp.all(jnp.isfinite(gradient.up)), index
        # Where only rows or only columns stand out the directionality is -1 or 1, and flat.
        assert index == "directionality" or jnp.any(gradient.breaking != 0), index


def test_a_symmetric_perturbation_leaves_the_rotation_of_the_product_unchanged(getkey):
    """Adding a tied part to a coupling (more hidden units with v = w) adds a symmetric matrix
    to M.
    """
    v, w, more = (
        normal(getkey(), (6, 4)),
        normal(getkey(), (4, 6)),
        3 * normal(getkey(), (5, 6)),
    )  # the larger part
    wider = couple(jnp.concatenate([v, more.T], axis=1), jnp.concatenate([w, more]))
    antisymmetric = lambda c: (
        0.5 * (1 - measure_asymmetry(c).symmetry_score) * jnp.sum((c.down @ c.up) ** 2)
    )
    assert_close(antisymmetric(wider), antisymmetric(couple(v, w)), 1e-10)
    assert measure_asymmetry(wider).symmetry_score > measure_asymmetry(couple(v, w)).symmetry_score


# ---- Spectra -------------------------------------------------------------------------------------


def of_product(m, hidden: int, key) -> Coupling:
    """A coupling with V W = M, of this many hidden units (at least the rank of M)."""
    w = normal(key, (hidden, m.shape[0]))
    return couple(jnp.asarray(m) @ jnp.linalg.pinv(w), w)


@sizes
@pytest.mark.quick
def test_a_tied_coupling_has_a_real_spectrum_and_one_frame(visible, hidden, getkey):
    found = measure_spectrum(couple((w := normal(getkey(), (hidden, visible))).T, w), leading=3)
    np.testing.assert_allclose(found, (0, 0, 0, 1), atol=1e-6)


def test_an_antisymmetric_product_turns_without_departing_from_normality(getkey):
    a = normal(getkey(), (6, 6))
    found = measure_spectrum(of_product(a - a.T, 9, getkey()), leading=4)
    np.testing.assert_allclose(found, (1, 1, 0, 1), atol=1e-6)


SCALE_FREE = (
    *(
        "cosine",
        "unit_cosine",
        "symmetry_score",
        "mean_unit_cosine",
        "low_unit_cosine",
        "median_unit_cosine",
    ),
    *("high_unit_cosine", "directionality", "conservative_distance"),
)
GAUGE_FREE = tuple(name for name in SCALE_FREE if name not in ("cosine", "conservative_distance"))
EXPONENTS = st.integers(-30, 30)
SINGLE = jax.jit(lambda v, w: measure_asymmetry(couple(v, w)))
SINGLE_SPECTRUM = jax.jit(
    lambda v, w: (measure_spectrum(couple(v, w), leading=2), eigenvalues(couple(v, w)))
)


def reference(v: np.ndarray, w: np.ndarray) -> dict[str, Any]:
    """By NumPy in float64, straight from the formulas, units one by one."""
    norm = np.linalg.norm
    m = v @ w
    columns = norm(m, axis=0)
    rows = norm(m, axis=1)
    column = np.sum(np.maximum(columns - columns.mean() - 2 * columns.std(ddof=1), 0))
    row = np.sum(np.maximum(rows - rows.mean() - 2 * rows.std(ddof=1), 0))
    lengths_v = norm(v, axis=0)
    lengths_w = norm(w, axis=1)
    cosines = np.asarray([v[:, a] @ w[a] for a in range(len(w))]) / lengths_v / lengths_w
    low, median, high = np.quantile(cosines, [0.1, 0.5, 0.9])
    return {
        "cosine": np.sum(v * w.T) / norm(v) / norm(w),
        "unit_cosine": np.average(cosines, weights=lengths_v * lengths_w),
        "symmetry_score": np.sum(m * m.T) / norm(m) ** 2,
        "mean_unit_cosine": cosines.mean(),
        "low_unit_cosine": low,
        "median_unit_cosine": median,
        "high_unit_cosine": high,
        "directionality": (column - row) / (column + row) if column + row > 1e-3 * norm(m) else 0.0,
        "conservative_distance": norm(lengths_v * np.sqrt(1 - cosines**2)) / norm(v),
    }


def single(seed: int, sizes: tuple[int, int]):
    """Weights that float32 holds, with one row and one column of M that stand out."""
    random = np.random.default_rng(seed)
    visible, hidden = sizes
    v = random.normal(size=(visible, hidden))
    w = random.normal(size=(hidden, visible))
    v[0] *= 12
    w[:, 1] *= 4
    return random, v.astype(np.float32), w.astype(np.float32)


def scaled(a: np.ndarray, exponents) -> np.ndarray:
    """Powers of two, so that weights are the same numbers; in the range of float32."""
    return (a.astype(np.float64) * 2.0 ** np.asarray(exponents)).astype(np.float32)


@given(seeds, st.sampled_from([(9, 12), (12, 9)]), st.integers(-100, 100), st.integers(-100, 100))
def test_indices_of_any_two_scales_are_those_of_float64(seed, sizes, at_v, at_w):
    """From 1e-30 to 1e30 in float32, V and W apart."""
    _, v, w = single(seed, sizes)
    found = SINGLE(scaled(v, at_v), scaled(w, at_w))
    expected = reference(v.astype(float), w.astype(float))
    for name in SCALE_FREE:
        if name != "directionality" or expected[name]:
            np.testing.assert_allclose(
                getattr(found, name), expected[name], atol=3e-4, err_msg=name
            )
    if at_v == at_w:
        np.testing.assert_allclose(found, SINGLE(v, w), rtol=1e-4, atol=1e-5)


@given(seeds, st.sampled_from([(9, 12), (12, 9)]))
def test_no_row_hides_another(seed, sizes):
    """Units at sizes from 1e-30 to 1e30, in a gauge and at strengths of their own."""
    random, v, w = single(seed, sizes)
    gauge = 2 * random.integers(-50, 51, sizes[1])
    strength = random.integers(-12, 1, sizes[1])
    v_own = scaled(v, strength[None])
    w_own = w
    found = SINGLE(scaled(v_own, -gauge[None]), scaled(w_own, gauge[:, None]))
    expected = reference(v_own.astype(float), w_own.astype(float))
    for name in GAUGE_FREE:
        if name != "directionality" or expected[name]:
            np.testing.assert_allclose(
                getattr(found, name), expected[name], atol=3e-4, err_msg=name
            )
    indices, values = SINGLE_SPECTRUM(scaled(v_own, -gauge[None]), scaled(w_own, gauge[:, None]))
    plain = SINGLE_SPECTRUM(v_own, w_own)[0]
    product = v_own.astype(float) @ w_own.astype(float)
    np.testing.assert_allclose(indices, plain, atol=1e-6)
    np.testing.assert_allclose(
        np.sum(values), np.trace(product), atol=1e-4 * float(np.linalg.norm(product))
    )


@given(st.sampled_from([(9, 12), (12, 9)]), st.integers(-60, 60), st.integers(-60, 60))
def test_eigenvalues_of_any_scale_are_those_of_float64(sizes, at_v, at_w):
    """Wherever float32 can hold them; LAPACK's own are wrong below 1e-12 and above 1e12."""
    _, v, w = single(0, sizes)
    spectrum, values = SINGLE_SPECTRUM(scaled(v, at_v), scaled(w, at_w))
    right = np.sort_complex(np.linalg.eigvals(v.astype(float) @ w.astype(float)))
    right = right[np.argsort(-np.abs(right), kind="stable")][: min(sizes)]
    found = np.asarray(values, np.complex128) / 2.0 ** (at_v + at_w)
    distances = np.abs(found[:, None] - right[None])
    assert distances.min(axis=0).max() < 2e-4 * np.abs(right).max()
    assert distances.min(axis=1).max() < 2e-4 * np.abs(right).max()
    departure = math.sqrt(
        1 - np.sum(np.abs(right) ** 2) / np.sum((v.astype(float) @ w.astype(float)) ** 2)
    )
    np.testing.assert_allclose(spectrum.departure, departure, atol=1e-4)


@pytest.mark.parametrize("scale, expected", [(1e-30, 0.0), (1e30, np.inf)])
def test_what_single_precision_cannot_hold_is_zero_or_infinite(scale, expected):
    """Eigenvalues of 1e60 and 1e-60, and a ratio of 1e60: never a wrong number."""
    eye = scale * jnp.eye(3, dtype=jnp.float32)
    np.testing.assert_array_equal(np.abs(eigenvalues(couple(eye, eye))), expected)
    np.testing.assert_allclose(measure_spectrum(couple(eye, eye)), (0, 0, 0, 1), atol=1e-3)
    ratio = measure_asymmetry(couple(eye, jnp.eye(3, dtype=jnp.float32) / scale)).breaking_ratio
    np.testing.assert_allclose(ratio, 1 if scale < 1 else np.inf)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@sizes
def test_half_precision_is_single_precision_of_the_same_numbers(dtype, visible, hidden, getkey):
    """Also where squares leave float16, and where JAX has no decomposition."""
    w = 200 * normal(getkey(), (hidden, visible), dtype)
    v = 100 * normal(getkey(), (visible, hidden), dtype)
    half = couple(v, w)
    full = couple(v.astype(jnp.float32), w.astype(jnp.float32))
    step = float(jnp.finfo(dtype).eps)
    for measure in (
        measure_asymmetry,
        measure_spectrum,
        lambda c: (unit_cosines(c), symmetry_score(c.down, c.up)),
    ):
        for found, expected in zip(measure(half), measure(full)):
            assert found.dtype == dtype
            np.testing.assert_allclose(np.asarray(found, float), expected, rtol=2 * step, atol=1e-6)
    assert eigenvalues(half).dtype == jnp.complex64
    np.testing.assert_array_equal(eigenvalues(half), eigenvalues(full))
    assert nearest_conservative(half).down.dtype == dtype


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_nearest_conservative_coupling_of_any_scale(scale):
    _, v, w = single(3, (6, 4))
    plain = nearest_conservative(couple(v, w))
    for at_v, at_w in ((scale, scale), (scale, 1 / scale), (1.0, scale)):
        factors = np.float32(at_v), np.float32(at_w)
        found = nearest_conservative(couple(v * factors[0], w * factors[1]))
        assert_close(found.down / factors[0], plain.down, 1e-5)


def test_single_precision_stays_under_x64(getkey):
    coupling = couple(normal(getkey(), (4, 6), jnp.float32), normal(getkey(), (6, 4), jnp.float32))
    for found in (measure_asymmetry(coupling), measure_spectrum(coupling)):
        assert {index.dtype for index in found} == {jnp.dtype(jnp.float32)}
    assert eigenvalues(coupling).dtype == jnp.complex64


def test_integers_are_refused():
    """By the functions themselves: outside tests nothing checks annotations."""
    with pytest.raises(
        ValueError, match=r"`up` must hold floating-point numbers, got int32; use x.astype"
    ):
        working(jnp.ones((3, 2), jnp.int32), "up")


def test_rounding_of_equal_norms_is_no_direction():
    """All rows and columns of a rotation have one norm: nothing stands out."""
    random = np.random.default_rng(0)
    for size in (5, 40):
        frame = np.linalg.qr(random.normal(size=(size, size)))[0].astype(np.float32)
        frame[0] *= np.float32(1 + 4 * np.finfo(np.float32).eps)
        assert measure_asymmetry(couple(frame, np.eye(size, dtype=np.float32))).directionality == 0


def test_a_product_far_below_its_factors_has_its_own_scale():
    """Two units that cancel but for 1e-20: M = -1e-20 e_2 (1, 1), in single precision exactly."""
    v = np.asarray([[1, 1], [0, 1e-20]], np.float32)
    w = np.asarray([[1, 1], [-1, -1]], np.float32)
    values = np.asarray(eigenvalues(couple(v, w)))
    np.testing.assert_allclose(np.sort(np.real(values)), (-1e-20, 0), rtol=1e-5, atol=1e-26)
    np.testing.assert_allclose(symmetry_score(jnp.asarray(v), jnp.asarray(w)), 0.5, rtol=1e-5)
    np.testing.assert_allclose(measure_spectrum(couple(v, w)).departure, math.sqrt(0.5), rtol=1e-5)


def test_a_weight_that_is_no_number_is_in_every_index(getkey):
    w = normal(getkey(), (6, 4))
    v = normal(getkey(), (4, 6))
    for value in (jnp.nan, jnp.inf):
        found = measure_asymmetry(Coupling.from_weights(w.at[2, 1].set(value), v))
        assert all(not np.isfinite(index) for index in found), found


def test_symmetry_can_be_a_regulariser(fixedkey):
    """Gradients are finite at the optimum too, and those of the spectrum are those of finite
    differences.
    """
    w = normal(fixedkey(), (6, 4))
    v = normal(fixedkey(), (4, 6))
    for name in ("breaking_ratio", "conservative_distance"):
        slope = jax.grad(
            lambda v, name=name: getattr(measure_asymmetry(Coupling.from_weights(w, v)), name)
        )(w.T)
        assert bool(jnp.all(jnp.isfinite(slope))), name
    overlap = lambda v: measure_spectrum(Coupling.from_weights(w, v), leading=2).overlap
    direction = normal(fixedkey(), (4, 6))
    ahead = overlap(v + 1 * 1e-5 * direction)
    behind = overlap(v + (-1) * 1e-5 * direction)
    assert_close(jnp.sum(jax.grad(overlap)(v) * direction), (ahead - behind) / 2e-5, 1e-6)


@pytest.mark.parametrize("visible, hidden", [(4, 6), (6, 4)])
def test_batches_are_decomposed_one_matrix_after_another(visible, hidden):
    """Several batches at once wait for each other for ever: jaxlib computes them in the program's
    own threads.
    """
    measure = lambda up, down: measure_spectrum(Coupling.from_weights(up, down))
    program = jax.make_jaxpr(jax.vmap(jax.vmap(measure)))(
        jnp.ones((2, 3, hidden, visible)), jnp.ones((2, 3, visible, hidden))
    )
    kinds = ("eig", "svd", "geqrf", "qr")
    found = [equation for equation in equations(program.jaxpr) if equation.primitive.name in kinds]
    assert {equation.primitive.name for equation in found} >= {"eig", "svd"}
    assert {len(equation.invars[0].aval.shape) for equation in found} == {2}  # pyright: ignore


def test_the_eigenvalues_of_a_rotation_are_known():
    turn = 0.5 * np.asarray([[math.cos(1.2), -math.sin(1.2)], [math.sin(1.2), math.cos(1.2)]])
    found = measure_spectrum(couple(turn, np.eye(2)))
    np.testing.assert_allclose(found, (1, math.sin(1.2), 0, 1), atol=1e-7)
    values = np.sort_complex(np.asarray(eigenvalues(couple(turn, np.eye(2)))))
    np.testing.assert_allclose(values, 0.5 * np.exp([-1.2j, 1.2j]), atol=1e-12)


def test_a_triangular_product_departs_from_normality_by_what_stands_above_its_diagonal(getkey):
    m = np.triu(np.asarray(normal(getkey(), (5, 5))), 1) + np.diag([3.0, 4, 5, 6, 7])
    found = measure_spectrum(couple(m, np.eye(5)))
    above = np.linalg.norm(np.triu(m, 1)) / np.linalg.norm(m)
    np.testing.assert_allclose(
        (found.complex_fraction, found.departure), np.asarray([0, above]), atol=1e-7
    )


@pytest.mark.parametrize("visible, hidden", [(9, 4), (4, 9)])
def test_spectra_at_the_smaller_size_are_those_of_the_product(visible, hidden, getkey):
    v = np.asarray(normal(getkey(), (visible, hidden)))
    w = np.asarray(normal(getkey(), (hidden, visible)))
    found = measure_spectrum(couple(v, w), leading=2)
    m = v @ w
    values = sorted(np.linalg.eigvals(m), key=abs)[-4:]
    np.testing.assert_allclose(
        np.sort_complex(np.asarray(eigenvalues(couple(v, w)))),
        np.sort_complex(values),
        atol=1e-9 * abs(values[-1]),
    )
    left, _, right = np.linalg.svd(m)
    overlap = np.linalg.norm(left[:, :2].T @ right[:2].T) ** 2 / 2
    departure = math.sqrt(1 - np.sum(np.abs(values) ** 2) / np.sum(m**2))
    largest = max(abs(value.imag) for value in values) / max(map(abs, values))
    np.testing.assert_allclose(found[1:], np.asarray([largest, departure, overlap]), atol=1e-8)


@given(seeds)
def test_invariances_of_the_spectrum(seed):
    random, v, w = draw(seed)
    scale = np.exp(random.normal(size=w.shape[0]))
    basis = np.linalg.qr(random.normal(size=(v.shape[0],) * 2))[0]
    before = SPECTRUM(v, w)
    for after in (
        SPECTRUM(v / scale[None], w * scale[:, None]),
        SPECTRUM(basis.T @ v, w @ basis),
        SPECTRUM(3 * v, 2 * w),
    ):
        np.testing.assert_allclose(after, before, atol=1e-6)


SPECTRUM = jax.jit(lambda v, w: measure_spectrum(couple(v, w), leading=2))


def test_single_precision_spectra(getkey):
    w = normal(getkey(), (30, 20), jnp.float32)
    np.testing.assert_allclose(measure_spectrum(couple(w.T, w)), (0, 0, 0, 1), atol=2e-3)


def test_nothing_has_no_spectrum():
    assert np.all(np.isnan(measure_spectrum(couple(jnp.zeros((3, 2)), jnp.zeros((2, 3))))))
    with pytest.raises(ValueError, match=r"needs leading >= 1, got 0"):
        measure_spectrum(couple(jnp.eye(2), jnp.eye(2)), leading=0)


# ---- Null values ---------------------------------------------------------------------------------

NULL_SIZES = ((32, 48), (48, 32), (32, 32), (24, 96))


@pytest.fixture(scope="module")
def nulls() -> dict[tuple[int, int], tuple[Asymmetry, Spectrum]]:
    """Indices of many independent Gaussian weights of each shape."""

    def one(key, visible, hidden):
        first, second = jr.split(key)
        coupling = couple(jr.normal(first, (visible, hidden)), jr.normal(second, (hidden, visible)))
        return measure_asymmetry(coupling), measure_spectrum(coupling, leading=4)

    return {
        (n, h): jax.jit(lambda keys, n=n, h=h: jax.lax.map(lambda k: one(k, n, h), keys))(
            jr.split(jr.key(n), 400)
        )
        for n, h in NULL_SIZES
    }


@pytest.mark.parametrize("n, h", NULL_SIZES)
def test_independent_weights_have_the_stated_null_values(n, h, nulls):
    """Means within five standard errors (and corrections of the next order), spreads within a
    fifth.
    """
    weights, spectrum = nulls[n, h]
    together = {
        "cosine": (0, 1 / math.sqrt(n * h)),
        "relative_breaking": (1, 1 / math.sqrt(n * h)),
        "unit_cosine": (0, 1 / math.sqrt(n * h)),
        "mean_unit_cosine": (0, 1 / math.sqrt(n * h)),
        "symmetry_score": (1 / n, math.sqrt(2) / n),
    }
    for index, (mean, spread) in together.items():
        found = np.asarray(getattr(weights, index))
        assert abs(found.mean() - mean) < 5 * spread / 20 + 0.1 / n
        assert abs(found.std() / spread - 1) < 0.2
    quantile = 1.2816 / math.sqrt(n)
    for index, mean in (
        ("low_unit_cosine", -quantile),
        ("median_unit_cosine", 0),
        ("high_unit_cosine", quantile),
    ):
        assert abs(np.mean(getattr(weights, index)) - mean) < 0.1 * quantile
    np.testing.assert_allclose(
        np.mean(weights.conservative_distance), math.sqrt(1 - 1 / n), atol=1 / n**2
    )
    np.testing.assert_allclose(np.mean(weights.breaking_ratio), math.sqrt(2), rtol=0.01)
    directions = np.asarray(weights.directionality)
    assert abs(directions.mean()) < 5 * directions.std() / 20
    np.testing.assert_allclose(np.mean(spectrum.departure), null_departure(n, h), rtol=0.01)
    np.testing.assert_allclose(np.mean(spectrum.overlap), 4 / n, rtol=0.1)
    assert 0.75 < np.mean(spectrum.largest_imaginary) < 0.95
    square = 1 - math.sqrt(4 / math.pi / min(n, h))
    unequal = 1 - math.sqrt(2 / math.pi / min(n, h))
    assert square - 0.02 < np.mean(spectrum.complex_fraction) < unequal + 0.02


def test_the_departure_of_large_products_is_known():
    assert null_departure(100, 100) == pytest.approx(math.sqrt(2 / 3))
    assert null_departure(100, 10**9) == pytest.approx(math.sqrt(1 / 2))
    assert null_departure(10**9, 1) == pytest.approx(1)


def test_two_matrices_are_measured_as_their_coupling(getkey):
    up = normal(getkey(), (6, 4))
    down = normal(getkey(), (4, 6))
    expected = measure_asymmetry(Coupling.from_weights(up, down))
    for weights in ((up, down), (np.asarray(up), np.asarray(down))):
        found = measure_asymmetry(*weights)
        assert all(jnp.array_equal(a, b) for a, b in zip(found, expected))


@pytest.mark.quick
def test_one_matrix_is_no_pair(getkey):
    up = normal(getkey(), (6, 4))
    with pytest.raises(TypeError, match="`down` is missing"):
        measure_asymmetry(up)
    with pytest.raises(TypeError, match="a coupling has its own"):
        measure_asymmetry(Coupling(up), up.T)
