"""The symmetry page as text: its numbers, its notices, and where the null values come from."""

import dataclasses
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from lab.probing import BRANCHES, DIMENSIONS, EXPENSIVE, branch_coupling
from lab.synthetic import DEFAULT, FREE, SERIAL, SYMMETRIC, WIDE, Arm, broken, small_run
from lab.tiny import tiny_config

from hopmix import Coupling, measure_asymmetry
from hopmix.lab.report import page
from hopmix.lab.report.charts import thin_steps
from hopmix.lab.report.data import coupling_sizes, read_run
from hopmix.lab.report.page import write_report
from hopmix.lab.report.sections import against_accuracy, by_depth, during_training
from hopmix.lab.store.run import Run
from hopmix.lab.study.arms import make_arms
from hopmix.plot.unrelated import null
from hopmix.symmetry import measure_spectrum
from hopmix.symmetry.quantities import COUPLINGS, FIELDS


@pytest.fixture
def unpainted(monkeypatch):
    """Figures are made but not painted."""
    monkeypatch.setattr(page, "save_figure", lambda figure, folder, name: "data:,")


def page_of(path: Path) -> str:
    write_report(path)
    return (path / "symmetry.html").read_text(encoding="utf-8")


def plain(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def cells(page: str, heading: str, row: str) -> list[str]:
    """The cells of one row of the table below a heading."""
    table = page.split(f"<h3>{heading}")[1].split("</table>")[0]
    line = next(line for line in table.split("<tr>") if f">{row}</th>" in line)
    return [plain(cell).replace("−", "-") for cell in re.findall(r"<td[^>]*>(.*?)</td>", line)]


# --- the numbers


@pytest.mark.usefixtures("unpainted")
def test_final_values_have_their_error_and_their_distance_from_unrelated_weights(tmp_path):
    path = small_run(tmp_path, FREE, broken(1e-3), SYMMETRIC, seeds=3)
    final = read_run(path).metrics.cosine.sel(branch="token").isel(step=-1)
    unrelated, free, bent, tied = cells(page_of(path), "Token mixing", "cosine of V and Wᵀ")
    n, h, k = (
        4,
        4,
        2 * 3,
    )  # the shape of a small run; its blocks times the seeds, whose z add to one over sqrt k
    assert unrelated == f"0.000 ± {1 / np.sqrt(n * h):.3f}"
    for cell, arm in ((free, FREE), (bent, broken(1e-3))):
        seeds = final.sel(arm=arm.name).mean("block").values
        expected = f"{seeds.mean():.3f} ± {seeds.std(ddof=1) / np.sqrt(3):.3f}"
        assert cell == f"{expected}z = {seeds.mean() * np.sqrt(n * h * k):+.1f}"
    assert tied == f"1.000 ± 0.000z = +{np.sqrt(n * h * k):.1f}"


@pytest.mark.usefixtures("unpainted")
def test_each_arm_has_the_null_of_its_own_sizes(tmp_path):
    page = page_of(small_run(tmp_path, SYMMETRIC, WIDE))
    _, narrow, wide = cells(page, "Token mixing", "cosine of V and Wᵀ")
    k = 2 * 2  # blocks and seeds
    assert narrow.endswith(f"z = +{np.sqrt(4 * 4 * k):.1f}")
    assert wide.endswith(f"z = +{np.sqrt(4 * 8 * k):.1f}")


@pytest.mark.usefixtures("unpainted")
def test_the_number_of_seeds_is_that_of_those_alive(tmp_path):
    page = plain(page_of(small_run(tmp_path, FREE, SYMMETRIC, diverged=((FREE.name, 1, 2),))))
    assert "freen = 1" in page
    assert "symmetricn = 2" in page


@pytest.mark.usefixtures("unpainted")
def test_one_seed_has_no_error(tmp_path):
    page = page_of(small_run(tmp_path, FREE, broken(0.0), seeds=1))
    assert "±" not in cells(page, "Token mixing", "cosine of V and Wᵀ")[1]


@pytest.mark.usefixtures("unpainted")
def test_an_exact_prediction_of_the_onset_has_the_ratio_one(tmp_path):
    path = small_run(tmp_path, FREE, broken(1e-3), steps=9)
    page = page_of(path)
    (row,) = re.findall(
        r'<tr><th scope="row" class="words">broken λ=0.001</th>(.*?)</tr>',
        page.split('id="onset"')[1],
    )
    step, n, predicted, measured, ratio = (
        plain(cell) for cell in re.findall(r"<td>(.*?)</td>", row)
    )
    assert (step, n, ratio) == ("0", "2", "1.00")
    assert predicted == measured
    growth = (
        read_run(path)
        .metrics.breaking_ratio.sel(arm="broken λ=0.001")
        .mean(("block", "branch", "seed"))
    )
    assert predicted.startswith(f"{1000 * float(growth[1] - growth[0]) / 50:.3f} ±")


@pytest.mark.usefixtures("unpainted")
def test_a_step_without_a_learning_rate_is_named(tmp_path):
    page = plain(page_of(small_run(tmp_path, broken(1e-3), steps=9)))
    assert "At step 400 the next update is empty and predicts nothing" in page


# --- what may be missing


def test_a_run_of_an_older_version_has_its_pages_and_says_what_it_lacks(tmp_path):
    page = page_of(small_run(tmp_path, FREE, broken(1e-3), old=True))
    assert "This run has no predicted rates of breaking" in page
    assert "This run has no eigenvalues" in page
    assert "This run has no measurements of its blocks as vector fields" in page
    assert cells(page, "Token mixing", "symmetry score of VW")
    assert "directionality" not in page
    names = {file.stem for file in (tmp_path / "run" / "figures").iterdir()}
    assert {"asymmetry_cosine", "asymmetry_map_symmetry_score", "alignment_0_token"} <= names


@pytest.mark.usefixtures("unpainted")
def test_a_run_in_progress_has_neither_weights_nor_sizes(tmp_path):
    page = page_of(small_run(tmp_path, FREE, broken(1e-3), finished=False))
    assert "<code>weights.npz</code> is not there yet" in page
    assert "The sizes of the couplings are not known here, so there are no null values." in page
    assert "z =" not in page


@pytest.mark.usefixtures("unpainted")
def test_a_run_at_its_first_measurement(tmp_path):
    page = page_of(small_run(tmp_path, steps=1, finished=False))
    assert "The breaking has been measured once so far" in page


@pytest.mark.usefixtures("unpainted")
def test_without_a_broken_arm_there_is_no_onset(tmp_path):
    assert "There is no broken arm in this study." in page_of(small_run(tmp_path, FREE))


@pytest.mark.usefixtures("unpainted")
def test_everything_diverged(tmp_path):
    lost = tuple((arm.name, seed, 0) for arm in (FREE, broken(0.0)) for seed in range(2))
    page = page_of(small_run(tmp_path, FREE, broken(0.0), diverged=lost))
    assert "No index of asymmetry has a finite value in this run." in page


@pytest.mark.usefixtures("unpainted")
def test_names_are_escaped_and_nothing_is_fetched(tmp_path):
    page = page_of(
        small_run(
            tmp_path, Arm("<b>Para & Mixer</b>", "ParaMixer", "free", 0.0, 10, 0.9, (1.0, 1.0))
        )
    )
    assert "&lt;b&gt;Para &amp; Mixer&lt;/b&gt;" in page
    assert "<b>Para" not in page
    addresses = {
        address for address in re.findall(r'(?:src|href)="([^"]*)"', page) if address[:5] != "data:"
    }
    assert {address for address in addresses if address[0] != "#"} == {
        *("report.html", "report.html#metrics", "report.html#map"),
    }
    assert {address[1:] for address in addresses if address[0] == "#"} <= set(
        re.findall(r'id="([^"]*)"', page)
    )
    assert "@import" not in page
    assert "url(" not in page
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in re.findall(r"<img [^>]*>", page))


# --- what the pages know of


def test_everything_that_is_stored_of_couplings_and_blocks_is_described():
    known = {metric.name for metric in (*COUPLINGS, *FIELDS)}
    drawn_otherwise = {"energy_change", "energy_rise_fraction", "field_asymmetry_stderr"}
    of_blocks = {
        name for name, dims in (DIMENSIONS | EXPENSIVE).items() if dims and "eigenvalue" not in dims
    }
    assert of_blocks - drawn_otherwise == known
    drawn = {*by_depth.MAPS, *during_training.CURVES, *against_accuracy.SCATTERS}
    assert drawn <= known


def test_thinning_keeps_steps_with_spectra():
    steps = np.arange(1000)
    departure = xr.DataArray(
        np.where(steps % 300 == 7, 0.5, np.nan), dims="step", coords={"step": steps}
    )
    thinned = thin_steps(xr.Dataset({"departure": departure}))
    assert thinned.step.size <= 120
    assert {0, 7, 307, 607, 907, 999} <= set(thinned.step.values.tolist())


# --- null values


def sizes_of(visible: int, hidden: int) -> xr.Dataset:
    return xr.Dataset({"visible": visible, "hidden": hidden})


@pytest.mark.parametrize(("visible", "hidden"), [(32, 32), (24, 96), (64, 32)])
def test_null_values_are_those_of_independent_weights(visible, hidden):
    """Means to half a standard deviation, and standard deviations to a third: these are leading
    orders.
    """
    draws = []
    for seed in range(60):
        up, down = (
            np.random.default_rng((seed, side)).normal(size=(hidden, visible)) for side in range(2)
        )
        coupling = Coupling.from_weights(
            jnp.asarray(up), jnp.asarray(down.T * np.linalg.norm(up) / np.linalg.norm(down))
        )
        draws.append(
            {**measure_asymmetry(coupling)._asdict(), **measure_spectrum(coupling)._asdict()}
        )
    measured = {name: np.array([float(draw[name]) for draw in draws]) for name in draws[0]}
    for name in set(measured) - {"balance"}:
        expected = null(name, sizes_of(visible, hidden))
        assert expected is not None
        mean = float(expected["mean"])
        std = float(expected["std"])
        if np.isfinite(std):
            assert measured[name].mean() == pytest.approx(mean, abs=0.5 * std), name
            assert measured[name].std() == pytest.approx(std, rel=0.33), name
        elif np.isfinite(mean):
            assert abs(measured[name].mean() - mean) < 3 * measured[name].std() / np.sqrt(60), name


def test_null_of_the_breaking_ratio_takes_the_measured_norms():
    balance = xr.DataArray([0.0, 0.6], dims="seed")  # |V| = |W|, and |V| = |W|/2
    expected = null("breaking_ratio", sizes_of(10, 40), balance)
    assert expected is not None
    np.testing.assert_allclose(expected["mean"], np.sqrt([2, 1.25]))
    np.testing.assert_allclose(expected["std"], np.array([1, 0.5]) / np.sqrt([2, 1.25]) / 20)


def test_an_index_without_a_null_has_none():
    assert null("balance", sizes_of(4, 4)) is None
    assert null("field_asymmetry", sizes_of(4, 4)) is None


def test_sizes_from_the_record_are_those_of_the_models(getkey, tmp_path):
    config = tiny_config(arms=("serial", "free", "symmetric-wide"))
    arms = make_arms(config, (8, 8, 1), 3)
    study = {"arms": [{"name": arm.name, "couplings": arm.sizes} for arm in arms]}
    names = [arm.name for arm in arms]
    branches = list(BRANCHES)
    metrics = xr.Dataset(coords={"arm": names, "branch": branches})
    sizes = coupling_sizes(Run(tmp_path, study, metrics, None, None))
    assert sizes is not None
    for arm in arms:
        model = arm.make(getkey())
        for branch in BRANCHES:
            shape = branch_coupling(model.blocks[0], branch).down.shape
            one = sizes.sel(arm=arm.name, branch=branch)
            assert (int(one.visible), int(one.hidden)) == shape


@pytest.mark.usefixtures("unpainted")
def test_sizes_from_the_weights(tmp_path):
    run = read_run(small_run(tmp_path, *DEFAULT))
    sizes = coupling_sizes(run)
    assert sizes is not None
    assert sizes.visible.sel(arm=SERIAL.name).values.tolist() == [4, 8]
    assert sizes.hidden.sel(arm=WIDE.name).values.tolist() == [8, 64]
    assert coupling_sizes(dataclasses.replace(run, weights=None)) is None
