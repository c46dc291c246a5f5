"""Interactive charts as Plotly figures: the numbers that they hold, and what choices change."""

import base64
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from lab.synthetic import FREE, SYMMETRIC, Arm, broken, small_run

from hopmix.lab.report import charts, page
from hopmix.lab.report.data import read_run
from hopmix.lab.report.sections import asymmetry, depth, energy, learning, strength
from hopmix.lab.store.run import Run
from hopmix.symmetry.quantities import quantity

JS = Path(charts.__file__).parent / "assets" / "report.js"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    arms = (FREE, broken(1e-3), SYMMETRIC)
    return read_run(small_run(tmp_path_factory.mktemp("runs"), *arms, steps=6, seeds=3))


def unpacked(packed: dict) -> np.ndarray:
    kinds = {"f4": np.float32, "i4": np.int32}
    values = np.frombuffer(base64.b64decode(packed["bdata"]), kinds[packed["dtype"]])
    shape = packed.get("shape")
    return values.reshape([int(size) for size in shape.split(", ")]) if shape else values


def test_numbers_come_back_from_a_typed_array():
    values = np.array([[0.1, np.nan, -2.0], [1e-9, 4.0, 5.0]])
    np.testing.assert_array_equal(unpacked(charts.packed(values)), values.astype(np.float32))
    np.testing.assert_array_equal(unpacked(charts.packed(np.arange(3))), [0, 1, 2])


def test_plotly_accepts_every_figure_with_every_choice(run):
    for name, chart in page._charts(run, page.REPORT).items():
        for panel, choices in chart.panels.items():
            for key, change in choices.items():
                plain = chart.figure.to_plotly_json()
                puts = change.data or [{}] * len(plain["data"])
                traces = [trace | dict(put) for trace, put in zip(plain["data"], puts)]
                made = go.Figure(traces, plain["layout"] | dict(change.layout))
                assert made.data, (name, panel, key)


def test_curves_are_mean_and_range_over_seeds_per_block_and_branch(run):
    chart = asymmetry.charts(run)["asymmetry"]
    values = run.metrics.symmetry_score.sel(block=1, branch="channel")
    change = chart.panels["1-1"]["symmetry_score"]
    expected = [values.min("seed"), values.max("seed"), values.mean("seed")]
    for arm in range(3):
        for part in range(3):
            shown = unpacked(change.data[3 * arm + part]["y"])
            np.testing.assert_allclose(shown, expected[part].isel(arm=arm), rtol=1e-6)


def test_asymmetry_opens_with_relative_breaking_on_a_logarithmic_axis(run):
    choices = asymmetry.charts(run)["asymmetry"].panels["0-0"]
    first = next(iter(choices))
    assert first == "relative_breaking"
    log = choices[first].log
    assert log is not None
    assert log["yaxis"]["type"] == "log"
    assert choices["cosine"].log is None


def test_panels_share_their_axis(run):
    panels = asymmetry.charts(run)["asymmetry"].panels
    for name in ("relative_breaking", "balance"):
        ranges = {tuple(choices[name].layout["yaxis"]["range"]) for choices in panels.values()}
        assert len(ranges) == 1


def test_on_a_logarithmic_axis_zeros_are_left_out(run):
    change = asymmetry.charts(run)["asymmetry"].panels["0-0"]["relative_breaking"]
    bent = change.log_data[5]
    tied = change.log_data[8]
    assert (unpacked(bent["y"]) > 0).all()
    assert 0 not in unpacked(bent["x"])  # broken arms start tied
    assert unpacked(tied["y"]).size == 0
    assert unpacked(change.data[5]["y"])[0] == 0


def test_steps_that_were_not_measured_are_left_out(run):
    change = asymmetry.charts(run)["asymmetry"].panels["0-0"]["departure"]
    measured = run.metrics.departure.dropna("step", how="all").step.values
    np.testing.assert_array_equal(unpacked(change.data[2]["x"]), measured)
    assert unpacked(change.data[2]["y"]).size == measured.size


def test_a_logarithmic_axis_has_a_tick_for_each_power():
    axis = charts.logarithmic_axis(np.array([1e-4, 0.0, np.nan, 1.0]))
    assert axis is not None
    assert {0.001, 0.01, 0.1, 1.0} <= {round(tick, 6) for tick in axis["tickvals"]}
    assert "10⁻³" in axis["ticktext"]
    assert charts.logarithmic_axis(np.array([0.0, -1.0, np.nan])) is None


def test_a_logarithmic_axis_shows_eight_decades():
    axis = charts.logarithmic_axis(np.array([1e-30, 1.0]))
    assert axis is not None
    assert axis["range"][0] == pytest.approx(-8.4)


def test_maps_of_logarithmic_indices_have_powers_of_ten(run):
    chart = depth.charts(run)["map"]
    change = chart.panels["0"]["relative_breaking"]
    mean = run.metrics.relative_breaking.sel(arm="free", branch="token").mean("seed")
    shown = unpacked(change.data[0]["z"])
    np.testing.assert_allclose(shown, np.log10(mean.transpose("block", "step")), rtol=1e-5)
    balance = chart.panels["0"]["balance"].layout["coloraxis"]
    assert balance["cmin"] == -balance["cmax"]


def test_an_empty_panel_is_a_sentence(run):
    told = depth.charts(run)["map"].panels["2"]["relative_breaking"].layout["annotations"]
    assert [one["text"] for one in told] == ["All values of this arm are 0."]
    told = depth.charts(run)["map"].panels["0"]["breaking_ratio"].layout["annotations"]
    assert [one["text"] for one in told] == ["This arm has no value of this index."]
    about = quantity("cosine")
    assert about is not None
    nothing = charts.Spread(np.arange(2), {"mean": np.full((3, 2), np.nan)})
    told = charts.curve_change(nothing, about).layout["annotations"]
    assert [one["text"] for one in told] == ["No arm has a value here."]


def test_the_strength_chart_has_means_with_errors(run):
    traces = strength.charts(run)["strength"].figure.to_plotly_json()["data"]
    (mean,) = [one for one in traces if "array" in one.get("error_y", {})]
    assert mean["meta"] == 1
    assert list(mean["x"]) == [-3.0]
    assert {one["meta"] for one in traces if "meta" in one} == {0, 1, 2}


def test_energies_stand_per_block_and_during_training(run):
    made = energy.charts(run)
    last = run.metrics.energy_change.isel(step=-1, arm=0).mean("seed")
    change = made["energy-per-block"].panels["energy_change"][""]
    np.testing.assert_allclose(unpacked(change.data[0]["y"]), last, rtol=1e-6)
    assert list(made["energy"].panels["energy_change"]) == ["all", "0", "1"]


def test_every_other_curve_can_be_chosen(run):
    panels = learning.charts(run)["curve"].panels
    assert list(panels["first"]) == [""]
    assert "validation_loss" in panels["chosen"]
    assert panels["chosen"]["validation_loss"].layout["yaxis"]["type"] == "log"


def test_frames_on_the_page_are_panels_of_charts(run, tmp_path):
    figures = page._figures(run, (*page.REPORT, *page.SYMMETRY))
    static_figures = dict.fromkeys([name for name, _ in figures], "data:,")
    text = page._report_page(run, page.REPORT, static_figures)
    made = page._charts(run, page.REPORT)
    frames = text.split('class="plot"')[1:]
    assert len(frames) > 10
    for frame in frames:
        name, panel = (
            frame.split(f'data-{part}="')[1].split('"')[0] for part in ("chart", "panel")
        )
        assert panel in made[name].panels


def test_names_are_shown_as_they_are_and_end_no_script(tmp_path):
    hostile = "<b>%{y}</script>"
    arms = [Arm(hostile, "ParaMixer", "free", None, 10, 0.9, (1.0, 1.0)), broken(1e-3)]
    run = read_run(small_run(tmp_path, *arms))
    text = charts.payload(run, page._charts(run, page.REPORT))
    assert "<" not in text
    assert json.loads(text)["arms"][0]["name"] == hostile
    traces = [one for chart in json.loads(text)["charts"].values() for one in chart["data"]]
    shown = [one.get("hovertemplate", "") + one.get("name", "") for one in traces]
    assert not [one for one in shown if "</script>" in one or "%{y}</" in one.replace("&", "")]
    assert any("&lt;b&gt;&#37;{y}" in one for one in shown)


def test_the_script_of_the_page_is_short():
    assert len(JS.read_text(encoding="utf-8").splitlines()) < 80
