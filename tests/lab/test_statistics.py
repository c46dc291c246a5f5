import numpy as np
import pytest
import xarray as xr
from scipy import stats

from hopmix.lab.statistics import holm, paired_test, spread, summarise

NAN = float("nan")


def test_mean_and_standard_error_of_known_numbers():
    summary = summarise(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (summary.n, summary.mean) == (4, 2.5)
    assert summary.stderr == pytest.approx(np.sqrt(5 / 3) / 2)


def test_a_diverged_seed_does_not_count():
    assert summarise(np.array([1.0, NAN, 3.0])) == summarise(np.array([1.0, 3.0]))


@pytest.mark.parametrize(
    ("values", "mean"), [([0.5], 0.5), ([0.5, NAN], 0.5), ([NAN, NAN], NAN), ([], NAN)]
)
def test_one_seed_has_no_standard_error(values, mean):
    summary = summarise(np.array(values, dtype=float))
    assert np.isnan(summary.stderr)
    np.testing.assert_equal(summary.mean, mean)


def test_paired_test_is_the_closed_form():
    values = np.array([3.0, 5.0, 4.0])
    reference = np.array([2.0, 2.0, 2.0])
    test = paired_test(values, reference)
    t = 2.0 / (1.0 / np.sqrt(3))  # differences 1, 3, 2: mean 2, standard deviation 1
    assert (test.n, test.difference) == (3, 2.0)
    assert test.stderr == pytest.approx(1 / np.sqrt(3))
    assert test.t == pytest.approx(t)
    assert test.p == pytest.approx(2 * stats.t.sf(t, df=2))


def test_paired_test_agrees_with_scipy_on_the_pairs_that_are_left():
    rng = np.random.default_rng(3)
    values = rng.normal(size=8)
    reference = rng.normal(size=8)
    values[1] = NAN
    reference[5] = NAN
    kept = [0, 2, 3, 4, 6, 7]
    test = paired_test(values, reference)
    assert test.n == 6
    np.testing.assert_allclose(
        [test.t, test.p], stats.ttest_rel(values[kept], reference[kept]), rtol=1e-12
    )


def test_pairing_removes_the_luck_of_the_seed():
    luck = np.array([0.0, 10.0, -10.0, 5.0])
    gain = np.array([1.0, 1.1, 0.9, 1.0])
    assert paired_test(luck + gain, luck).p < 1e-3
    unpaired = np.asarray(stats.ttest_ind(luck + gain, luck))[1]
    assert unpaired > 0.5


def test_swapping_the_arms_changes_the_sign_alone():
    rng = np.random.default_rng(0)
    values = rng.normal(size=5)
    reference = rng.normal(size=5)
    forward = paired_test(values, reference)
    backward = paired_test(reference, values)
    assert (forward.difference, forward.t, forward.p) == (
        -backward.difference,
        -backward.t,
        backward.p,
    )


@pytest.mark.parametrize(
    ("values", "reference"),
    [
        ([0.9], [0.8]),
        ([0.9, NAN], [0.8, 0.7]),
        ([], []),
        ([0.9, 0.8], [0.9, 0.8]),
        ([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]),  # the same difference up to rounding
    ],
)
def test_no_spread_no_test(values, reference):
    test = paired_test(np.array(values, dtype=float), np.array(reference, dtype=float))
    assert np.isnan(test.t)
    assert np.isnan(test.p)


def test_different_seeds_are_refused():
    with pytest.raises(
        ValueError, match="one value per shared seed in both arms, got 3 and 2; select"
    ):
        paired_test(np.zeros(3), np.zeros(2))


def test_holm_on_a_worked_example():
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1 is 0.03, 0.04, 0.04, already non-decreasing.
    np.testing.assert_allclose(holm(np.array([0.02, 0.01, 0.04])), [0.04, 0.03, 0.04])


def test_holm_never_reorders_never_exceeds_one_and_skips_missing_tests():
    p_values = np.array([0.5, NAN, 0.4, 0.001])
    adjusted = holm(p_values)
    np.testing.assert_allclose(adjusted, [0.8, NAN, 0.8, 0.003])
    assert holm(np.array([0.03])) == 0.03
    assert holm(np.array([])).size == 0


def test_spread_leaves_diverged_seeds_out():
    values = xr.DataArray(np.array([[1.0, NAN], [3.0, NAN], [NAN, NAN]]), dims=("seed", "step"))
    over_seeds = spread(values)
    np.testing.assert_equal(over_seeds["mean"].values, [2.0, NAN])
    np.testing.assert_equal(over_seeds["low"].values, [1.0, NAN])
    np.testing.assert_equal(over_seeds["high"].values, [3.0, NAN])
