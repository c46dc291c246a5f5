"""What the figures of symmetry show, on arrays of known content; how they look is in
`test_plot.py`.
"""

import itertools

import numpy as np
import pytest
import xarray as xr
from lab.synthetic import DEFAULT, FREE, STEP, SYMMETRIC, broken, deep_steps, small_run
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle
from matplotlib.text import Text

from hopmix.lab.report.data import read_run
from hopmix.plot import symmetry as symmetry_figures
from hopmix.plot import training as figures
from hopmix.plot.unrelated import null

ARMS = ("free", "broken λ=0.1")


def labelled(values: np.ndarray, *dims: str, name: str | None = None, **coords) -> xr.DataArray:
    """An array with arms of a study, numbered steps and the two branches."""
    known = {
        "arm": list(ARMS),
        "kind": ("arm", ["free", "broken"]),
        "strength": ("arm", [np.nan, 0.1]),
        "branch": ["token", "channel"],
    }
    used = {key: value for key, value in (known | coords).items() if key in dims}
    if "arm" in dims:
        used |= {key: known[key] for key in ("kind", "strength")}
    return xr.DataArray(values, dims=dims, coords=used, name=name)


def lines(axes: Axes) -> list[np.ndarray]:
    """The points of each line, without those of spines and guides, which have no colour of an
    arm.
    """
    return [
        np.stack([np.asarray(part, float) for part in line.get_data()], axis=1)
        for line in axes.lines
    ]


def panel(figure: Figure, text: str) -> Axes:
    """The panel of that title."""
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left") == text]
    return found


def words(figure: Figure) -> set[str]:
    texts = [text for axes in figure.axes for text in axes.texts] + figure.texts
    return {text.get_text() for text in texts}


# --- alignment


def picture_of(up: np.ndarray, down: np.ndarray) -> xr.DataArray:
    """W (hidden, visible) and V (visible, hidden) as the report reads them."""
    parts = np.stack([up.T, down, down - up.T])
    return xr.DataArray(
        parts, dims=("part", "visible", "hidden"), coords={"part": ["Wᵀ", "V", "V − Wᵀ"]}
    )


ANGLES = np.array([1.0, 3.0, 0.0, 2.0])
UP = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.5, 0.0], [1.0, 0.0]])
DOWN = np.concatenate(
    [[np.cos(ANGLES), np.sin(ANGLES)], np.zeros((2, 1))], axis=1
)  # the last unit writes nothing


def test_hidden_units_are_sorted_by_their_cosine():
    aligned = symmetry_figures.align(picture_of(UP, DOWN))
    np.testing.assert_allclose(
        aligned.cosines, [*np.sort(np.cos(ANGLES))[::-1], np.nan], atol=1e-12
    )
    order = [2, 0, 3, 1, 4]
    np.testing.assert_array_equal(aligned.up, UP[order])
    np.testing.assert_array_equal(aligned.down, DOWN.T[order])


def test_the_panels_show_the_sorted_weights_and_their_cosines():
    figure = symmetry_figures.alignment({"free": picture_of(UP, DOWN)}, 3.0)
    left, middle, right = figure.axes
    (w,), (v,) = (axes.get_images() for axes in (left, middle))
    np.testing.assert_array_equal(w.get_array(), UP[[2, 0, 3, 1, 4]])
    np.testing.assert_array_equal(v.get_array(), DOWN.T[[2, 0, 3, 1, 4]])
    assert w.get_clim() == v.get_clim() == (-3, 3)
    curve = lines(right)[-1]
    np.testing.assert_allclose(curve[:4, 0], np.sort(np.cos(ANGLES))[::-1], atol=1e-12)
    assert (np.diff(curve[:, 1]) > 0).all()
    assert (
        right.get_ylim() == left.get_ylim() == (5, 0)
    )  # the best aligned on top, beside its weights


def test_of_large_matrices_units_are_drawn_evenly_and_the_curve_has_all():
    rng = np.random.default_rng(0)
    picture = picture_of(rng.normal(size=(600, 130)), rng.normal(size=(130, 600)))
    left, _, right = symmetry_figures.alignment({"free": picture}, 1.0).axes
    assert np.asarray(left.get_images()[0].get_array()).shape == (256, 96)
    assert lines(right)[-1].shape == (600, 2)
    assert (np.diff(lines(right)[-1][:, 0]) <= 0).all()


# --- spectra


def test_eigenvalues_stand_in_units_of_the_largest():
    values = np.full((2, 1, 3, 4), np.nan, complex)
    values[:, 0, 0, :3] = [[4, 2j, -2j], [1, 0.5, -1]]
    values[:, 0, 2, :2] = [[3 + 4j, 3 - 4j], [2, 1]]
    spectrum = xr.Dataset(
        {
            name: labelled(part, "arm", "seed", "step", "eigenvalue", step=[0, 5, 10])
            for name, part in (
                ("eigenvalue_real", np.real(values)),
                ("eigenvalue_imaginary", np.imag(values)),
            )
        }
    )
    figure = symmetry_figures.spectra(spectrum)
    assert {"step 0", "10", "|λ| ≤ 4", "|λ| ≤ 5", *ARMS} <= words(figure)
    assert "5" not in words(figure)
    (plane,) = figure.axes
    circles = [
        np.array(circle.get_center()) for circle in plane.patches if isinstance(circle, Circle)
    ]
    dots = [line for line in lines(plane) if not np.isnan(line).any()]
    assert len(circles) == len(dots) == 4
    shown = [2 * (dot - centre) for dot, centre in zip(dots, circles)]
    for found, expected in zip(
        shown, [[1, 0.5j, -0.5j], [0.6 + 0.8j, 0.6 - 0.8j], [1, 0.5, -1], [1, 0.5]]
    ):
        np.testing.assert_allclose(
            found, np.stack([np.real(expected), np.imag(expected)], axis=1), atol=1e-12
        )


# --- accuracy against symmetry


def test_the_scatter_has_the_points_of_seeds_and_the_means_of_arms():
    index = labelled(
        np.array([[0.1, 0.3, np.nan], [0.8, 0.9, 1.0]]), "arm", "seed", name="symmetry_score"
    )
    accuracy = labelled(np.array([[0.5, 0.7, 0.9], [0.6, 0.6, 0.9]]), "arm", "seed")
    figure = symmetry_figures.accuracy_against_symmetry(index, accuracy)
    (axes,) = figure.axes
    drawn = lines(axes)
    dots = [line for line in drawn if len(line) == 3]
    np.testing.assert_allclose(
        dots[0], [[0.1, 0.5], [0.3, 0.7], [np.nan, np.nan]]
    )  # a member without a value is none
    np.testing.assert_allclose(dots[1], [[0.8, 0.6], [0.9, 0.6], [1.0, 0.9]])
    means = [line[0] for line in drawn if len(line) == 1]
    assert any(np.allclose(mean, [0.2, 0.6]) for mean in means)
    assert any(np.allclose(mean, [0.9, 0.7]) for mean in means)
    assert axes.get_xlabel() == "symmetry score of VW"


def test_broken_arms_are_joined_in_the_order_of_lambda():
    arms = [broken(strength).name for strength in (1.0, 0.0, 0.1)]
    coords = {"arm": arms, "kind": ("arm", ["broken"] * 3), "strength": ("arm", [1.0, 0.0, 0.1])}
    of = lambda values: xr.DataArray(np.array(values)[:, None], dims=("arm", "seed"), coords=coords)
    figure = symmetry_figures.accuracy_against_symmetry(of([0.9, 0.2, 0.5]), of([0.1, 0.3, 0.2]))
    path = next(line for line in lines(figure.axes[0]) if len(line) == 3)
    np.testing.assert_allclose(path, [[0.2, 0.3], [0.5, 0.2], [0.9, 0.1]])


# --- onset


def breaking(ratio: np.ndarray, rate: np.ndarray) -> xr.Dataset:
    """Of (step,), the same for both arms and branches, one block and two seeds, measured every 10
    steps.
    """
    spread = lambda values: np.broadcast_to(
        values[None, None, :, None, None], (2, 2, values.size, 1, 2)
    ).copy()
    dims = ("arm", "seed", "step", "block", "branch")
    steps = 10 * np.arange(ratio.size)
    parts = {"breaking_ratio": ratio, "breaking_rate": rate}
    return xr.Dataset(
        {name: labelled(spread(part), *dims, step=steps) for name, part in parts.items()}
    )


RATIO = np.array([0.0, 0.4, 0.6, 0.7, 0.7])
EXACT = np.array([0.04, np.nan, 0.01, np.nan, 0.0])


def test_measured_rates_belong_to_the_step_they_start_at():
    rates = symmetry_figures.rates_of_breaking(breaking(RATIO, EXACT)).isel(
        arm=0, seed=0, block=0, branch=0
    )
    np.testing.assert_allclose(rates.measured, [0.04, 0.02, 0.01, 0, np.nan], atol=1e-12)
    np.testing.assert_allclose(
        rates.predicted, [0.04, np.nan, 0.01, np.nan, np.nan]
    )  # no learning rate, no prediction


def agreement_points(metrics: xr.Dataset) -> np.ndarray:
    points = [line for line in lines(symmetry_figures.onset(metrics).axes[1]) if len(line) == 1]
    return np.concatenate(points)


def test_exact_predictions_lie_on_the_diagonal():
    points = agreement_points(breaking(RATIO, EXACT))
    np.testing.assert_allclose(points[:, 0], points[:, 1])
    np.testing.assert_allclose(np.unique(points[:, 0].round(9)), [10, 40])  # per 1,000 steps


def test_wrong_predictions_do_not():
    points = agreement_points(breaking(RATIO, 2 * EXACT))
    np.testing.assert_allclose(points[:, 0], 2 * points[:, 1])


def test_measured_rates_are_steps_and_predictions_marks_at_their_step():
    axes = symmetry_figures.onset(breaking(RATIO, EXACT)).axes[0]
    stairs = axes.patches[0].get_data()  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(stairs.values, [40, 20, 10, 0], atol=1e-9)
    np.testing.assert_allclose(stairs.edges, [0, 10, 20, 30, 40])
    marks = next(
        line for line in lines(axes) if len(line) == 2 and line[0, 0] == 0 and line[0, 1] > 0
    )
    np.testing.assert_allclose(marks, [[0, 40], [20, 10]])


def test_without_a_common_step_the_panel_says_so():
    figure = symmetry_figures.onset(breaking(RATIO, np.where(np.arange(5) == 4, 0.1, np.nan)))
    assert "no step has both" in words(figure)


# --- what was not measured at every step


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> xr.Dataset:
    return read_run(
        small_run(tmp_path_factory.mktemp("runs"), FREE, broken(0.1), SYMMETRIC, steps=7)
    ).metrics


DEEP_STEPS = [STEP * index for index in deep_steps(7)]


@pytest.mark.parametrize("draw", [figures.asymmetry_curves, figures.asymmetry_map])
def test_steps_that_were_not_measured_are_left_out(metrics, draw):
    figure = draw(metrics.departure)
    if draw is figures.asymmetry_curves:
        assert {tuple(line[:, 0]) for axes in figure.axes for line in lines(axes)} == {
            tuple(DEEP_STEPS)
        }
    else:
        meshes = [axes.collections[0] for axes in figure.axes if axes.collections][:6]
        assert all(isinstance(mesh, QuadMesh) for mesh in meshes)
        borders = [mesh.get_coordinates()[0, :, 0] for mesh in meshes]  # pyright: ignore[reportAttributeAccessIssue]
        middles = [(a + b) / 2 for a, b in itertools.pairwise(DEEP_STEPS)]
        assert {tuple(border) for border in borders} == {(DEEP_STEPS[0], *middles, DEEP_STEPS[-1])}


def test_curves_are_the_means_over_seeds(metrics):
    one = metrics.departure.sel(arm=FREE.name, block=1, branch="channel").dropna("step")
    curve = lines(panel(figures.asymmetry_curves(metrics.departure), "block 1, channel"))[0]
    np.testing.assert_allclose(curve[:, 1], one.mean("seed"))


def test_quantities_of_blocks_need_no_branch(metrics):
    assert len(figures.asymmetry_curves(metrics.field_asymmetry).axes) == 2
    assert (
        len(figures.asymmetry_map(metrics.field_asymmetry).axes) == 3 + 1
    )  # a panel per arm, and the scale


def test_fields_have_their_standard_error_and_a_row_each(metrics):
    figure = symmetry_figures.fields(metrics)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [
        *("field asymmetry", "dissipation", "work", "descent margin used"),
    ]
    (bars, *_) = [bars for bars in figure.axes[0].collections if isinstance(bars, LineCollection)]
    assert [bar[0, 0] for bar in bars.get_segments()] == DEEP_STEPS
    heights = [np.ptp(bar[:, 1]) for bar in bars.get_segments()]
    np.testing.assert_allclose(
        heights, 2 * 0.01 / np.sqrt(2)
    )  # two seeds with an error of 0.01 each, up and down
    assert len(symmetry_figures.fields(metrics[["work"]]).axes) == 2


# --- scales and null values


def test_a_signed_index_has_zero_in_the_middle_of_a_diverging_scale(metrics):
    mesh = figures.asymmetry_map(metrics.balance).axes[0].collections[0]
    low, high = mesh.get_clim()
    assert low == -high
    assert mesh.get_cmap().name == "RdBu_r"
    assert figures.asymmetry_map(metrics.cosine).axes[0].collections[0].get_cmap().name == "viridis"


def test_a_logarithmic_axis_and_scale_hold_what_is_positive(metrics):
    values = metrics.relative_breaking  # 0 in tied arms
    low = float(values.where(values > 0).min())
    high = float(values.max())
    axes = figures.asymmetry_curves(values, logarithmic=True).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < low < high < axes.get_ylim()[1]
    assert figures.asymmetry_curves(0 * values, logarithmic=True).axes[0].get_yscale() == "linear"
    mean = values.mean("seed")
    low, high = figures.asymmetry_map(values, logarithmic=True).axes[0].collections[0].get_clim()
    assert (low, high) == (float(mean.where(mean > 0).min()), float(mean.max()))


def test_a_panel_without_values_says_so(metrics):
    figure = figures.asymmetry_curves(metrics.cosine.where(metrics.block > 0))
    assert "not measured" in words(figure)
    assert "not measured" not in words(figures.asymmetry_curves(metrics.cosine))


def test_one_scale_holds_for_all_panels(metrics):
    meshes = [axes.collections[0] for axes in figures.asymmetry_map(metrics.cosine).axes[:6]]
    mean = metrics.cosine.mean("seed")
    assert {mesh.get_clim() for mesh in meshes} == {(float(mean.min()), float(mean.max()))}


def test_the_band_of_unrelated_weights_has_their_mean_and_two_standard_deviations(metrics):
    sizes = xr.Dataset(
        {"visible": ("branch", [16, 64]), "hidden": ("branch", [64, 256])},
        {"branch": ["token", "channel"]},
    )
    figure = figures.asymmetry_curves(metrics.cosine, null=null("cosine", sizes))
    for branch, std in (("token", 1 / 32), ("channel", 1 / 128)):
        (band,) = panel(figure, f"block 0, {branch}").patches
        low, high = (
            band.get_extents()
            .transformed(panel(figure, f"block 0, {branch}").transData.inverted())
            .intervaly
        )
        np.testing.assert_allclose([low, high], [-2 * std, 2 * std], atol=1e-9)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "unrelated ± 2 sd"


def test_where_only_the_mean_is_known_there_is_no_band(metrics):
    sizes = xr.Dataset({"visible": 16, "hidden": 64})
    figure = figures.asymmetry_curves(metrics.directionality, null=null("directionality", sizes))
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "unrelated"
    assert not figure.axes[0].patches


def test_maps_and_pictures_use_scales_that_every_eye_can_order(metrics, tmp_path):
    picture = picture_of(UP, DOWN)
    drawn = [
        figures.asymmetry_map(metrics.cosine),
        figures.asymmetry_map(metrics.balance),
        symmetry_figures.alignment({"free": picture}, 1.0),
        figures.weight_pictures({"free": picture}, {"free": 1.0}),
    ]
    artists = [artist for figure in drawn for artist in figure.findobj()]
    used = {
        artist.get_cmap().name for artist in artists if isinstance(artist, QuadMesh | AxesImage)
    }
    assert used == {"viridis", "RdBu_r"}


def test_arms_without_a_kind_can_be_drawn():
    values = xr.DataArray(np.ones((2, 1, 3, 1, 1)), dims=("arm", "seed", "step", "block", "branch"))
    values = values.assign_coords(
        arm=["ours", "theirs"], step=[0, 1, 2], block=[0], branch=["all"]
    ).rename("my_index")
    figure = figures.asymmetry_curves(values)
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2
    assert "my index" in {
        text.get_text()
        for text in figure.findobj(lambda a: isinstance(a, Text))
        if isinstance(text, Text)
    }


def test_all_arms_of_a_study_are_in_every_legend(tmp_path):
    metrics = read_run(small_run(tmp_path)).metrics
    for figure in (figures.asymmetry_curves(metrics.cosine), symmetry_figures.fields(metrics)):
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            arm.name for arm in DEFAULT
        ]
