import base64
import collections
import html
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from lab.synthetic import (
    DEFAULT,
    FREE,
    LOST_MEMBER,
    SERIAL,
    SYMMETRIC,
    WIDE,
    Arm,
    broken,
    small_run,
    write_synthetic_run,
)
from PIL import Image

from hopmix.lab.errors import UsageError
from hopmix.lab.families.mixers import BY_NAME
from hopmix.lab.report import page, seal
from hopmix.lab.report.data import arm_results, read_run
from hopmix.lab.report.files import svg
from hopmix.lab.report.page import write_report
from hopmix.lab.report.seal import NAME as SEAL
from hopmix.lab.report.sections import against_accuracy, by_depth, during_training
from hopmix.lab.report.sections.summary import summary
from hopmix.lab.report.words import enumerate_words, signed
from hopmix.plot import training as figures
from hopmix.plot.axis import power_of_ten, strength_axis
from hopmix.plot.pictures import HIDDEN, VISIBLE, corner, data_uri, weight_limit
from hopmix.plot.style import arm_styles


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The default study, with one member that diverged, and its report."""
    path = write_synthetic_run(tmp_path_factory.mktemp("runs") / "digits", diverged=(LOST_MEMBER,))
    write_report(path)
    return path


@pytest.fixture(scope="module")
def page_text(run) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def report_text(path: Path) -> str:
    return write_report(path).read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """No figures at all, where a test is about the words alone."""
    monkeypatch.setattr(page, "_draw", lambda *_: collections.defaultdict(lambda: "data:,"))


@pytest.fixture
def unpainted(monkeypatch):
    """Figures are made but not painted, which takes most of a report's time, where a test is about
    the words.
    """
    monkeypatch.setattr(page, "save_figure", lambda figure, folder, name: "data:,")


def summary_of(path: Path) -> str:
    contents = read_run(path)
    return summary(contents, arm_results(contents))


# --- the page as text


def test_table_holds_the_recorded_numbers(run, page_text):
    for arm in json.loads((run / "results.json").read_text())["arms"]:
        row = next(row for row in page_text.split("<tr>") if f"</span>{arm['name']}" in row)
        test = arm["test_accuracy"]
        assert (
            f"<td>{arm['n']}</td><td>{100 * test['mean']:.2f} ± {100 * test['stderr']:.2f}</td>"
            in row
        )
        assert f"<td>{arm['parameters']:,}</td>" in row
        assert f'<td class="words">{arm["title"]}</td>' in row
        if arm["paired"]:
            assert (
                f"{signed(100 * arm['paired']['difference'])} ± {100 * arm['paired']['stderr']:.2f}"
                in row
            )


def test_diverged_member_is_named_with_its_step(page_text):
    assert "seed 3 diverged at step 450" in page_text
    assert (
        "1 member diverged and left the averages from there on: broken λ=1e-05, seed 3, step 450."
        in page_text
    )


def test_nothing_is_fetched_and_plotly_is_there_once(page_text):
    assert outside(page_text) == {"symmetry.html"}
    assert page_text.count('id="plotly"') == 1
    assert "@import" not in page_text
    assert "url(" not in page_text


def outside(page: str) -> set[str]:
    """The addresses in a page that are neither in it nor hold what they stand for."""
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    return {address for address in addresses if not address.startswith(("#", "data:"))}


def test_every_picture_has_a_description(page_text):
    images = re.findall(r"<img [^>]*>", page_text)
    assert len(images) >= len(DEFAULT) * 4 * 3
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)


def test_every_figure_is_there_as_png_and_svg(run):
    names = {path.stem for path in (run / "figures").glob("*.png")}
    assert names == {path.name.removesuffix(".svg") for path in (run / "figures").glob("*.svg")}
    expected = {"accuracy_against_lambda", "learning_curves", "energy_descent", "onset", "fields"}
    expected |= {f"asymmetry_{name}" for name in during_training.CURVES}
    expected |= {f"asymmetry_map_{name}" for name in by_depth.MAPS}
    expected |= {f"accuracy_against_{name}" for name in against_accuracy.SCATTERS}
    ends = [f"{block}_{branch}" for block in (0, 2) for branch in ("token", "channel")]
    expected |= {f"alignment_{end}" for end in ends} | {f"spectra_{end}" for end in ends[2:]}
    assert expected | {"weights_serial", "weights_broken-1e-05", "weights_symmetric-wide"} <= names
    for path in (run / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learning_curves", {"serial", "free", "training step", "validation loss"}),
        (
            "asymmetry_map_symmetry_score",
            {"symmetry score of VW", "symmetric-wide", "token", "block"},
        ),
        ("spectra_2_channel", {"broken λ=0.1", "1,200", "Re λ / max |λ|"}),
        ("alignment_0_token", {"symmetric", "cos(v, w)", "Vᵀ"}),
        ("onset", {"token, measured", "channel, predicted", "broken λ=0.001"}),
    ],
)
def test_text_in_svg_is_text(run, name, expected):
    tree = ElementTree.parse(run / "figures" / f"{name}.svg")
    assert expected <= {
        "".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")
    }


@pytest.mark.usefixtures("undrawn")
def test_a_failure_leaves_the_old_report(tmp_path, monkeypatch):
    path = small_run(tmp_path, FREE)
    before = report_text(path)
    (path / SEAL).unlink()  # or nothing would be made again
    monkeypatch.setattr(page, "payload", lambda run, charts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(path)
    assert (path / "report.html").read_text(encoding="utf-8") == before
    assert not [name for name in os.listdir(path) if name.startswith((".report", ".symmetry"))]


def test_a_report_that_is_whole_is_left_as_it_is(run, monkeypatch):
    before = times(run)
    monkeypatch.setattr(page, "save_figure", lambda *_: pytest.fail("a figure was drawn again"))
    write_report(run)
    assert times(run) == before


@pytest.mark.parametrize(
    "file", ["report.html", "symmetry.html", "figures/onset.svg", "figures/onset.png", SEAL]
)
@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])]
)
def test_what_is_lost_or_damaged_of_a_report_is_made_again(small, file, damage):
    path, drawn = small
    before = contents(path)
    damage(path / file)
    drawn.clear()
    write_report(path)
    assert contents(path) == before
    expected = {
        SEAL: [name for name in before if name.endswith(".svg")],
        "report.html": [],
        "symmetry.html": [],
    }
    assert sorted(drawn) == sorted(expected.get(file, ["figures/onset.svg"]))


@pytest.mark.parametrize("file", ["study.json", "results.json"])
def test_a_report_of_other_contents_is_made_anew(small, file):
    path, drawn = small
    before = contents(path)
    values = json.loads((path / file).read_text(encoding="utf-8"))
    (path / file).write_text(json.dumps(values | {"new": 1}), encoding="utf-8")
    drawn.clear()
    write_report(path)
    assert sorted(drawn) == sorted(name for name in before if name.endswith(".svg"))


def test_a_report_is_made_anew_by_another_version(small, monkeypatch):
    path, drawn = small
    monkeypatch.setattr(seal, "_makers", lambda: ["another version"])
    drawn.clear()
    write_report(path)
    assert drawn


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small run with its report, and the names of the figures that have been drawn since."""
    drawn = []

    def save(figure, folder, name):
        drawn.append(f"figures/{name}.svg")
        for ending in ("png", "svg"):
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.{ending}").write_text(f"the picture {name}")
        return page.saved_figure(folder, name)

    named = page._figures
    monkeypatch.setattr(
        page, "_figures", lambda *given: ((name, lambda: None) for name, _ in named(*given))
    )
    monkeypatch.setattr(page, "save_figure", save)
    path = small_run(tmp_path, FREE, broken(0.1))
    write_report(path)
    return path, drawn


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a report, in its order."""
    names = [
        SEAL,
        "report.html",
        "symmetry.html",
        *(f"figures/{path.name}" for path in (run / "figures").iterdir()),
    ]
    return {name: (run / name).read_bytes() for name in names}


def times(run: Path) -> dict[str, int]:
    """When each file of a report was written."""
    return {name: (run / name).stat().st_mtime_ns for name in contents(run)}


@pytest.mark.usefixtures("undrawn")
def test_equal_runs_give_equal_pages(tmp_path):
    path = small_run(tmp_path, broken(0.1))
    first = [report_text(path), (path / "symmetry.html").read_text()]
    (path / SEAL).unlink()
    assert [report_text(path), (path / "symmetry.html").read_text()] == first


def test_equal_figures_are_equal_files(run):
    metrics = read_run(run).metrics
    first, second = (svg(figures.learning_curves(metrics)) for _ in range(2))
    assert first == second


# --- unusual runs


@pytest.mark.usefixtures("unpainted")
def test_run_in_progress_says_what_is_missing(tmp_path):
    text = report_text(small_run(tmp_path, FREE, SYMMETRIC, finished=False))
    assert "in progress, step 100 of 250" in text
    assert "<code>results.json</code> is not there yet" in text
    assert "<code>weights.npz</code> is not there yet" in text
    assert "all accuracies here are on validation" in text
    assert "in validation accuracy, by the two-sided paired t-test" in text


@pytest.mark.usefixtures("unpainted")
def test_run_at_its_first_measurement(tmp_path):
    path = small_run(tmp_path, steps=1, finished=False)
    assert "in progress, step 0 of 50" in report_text(path)


@pytest.mark.usefixtures("unpainted")
def test_one_seed_has_no_spread_and_no_test(tmp_path):
    path = small_run(tmp_path, FREE, broken(0.0), SYMMETRIC, seeds=1)
    text = report_text(path)
    assert "One seed: no spread and no test." in text
    assert "too few, or too alike, for a test" in summary_of(path)
    (accuracies,) = re.findall(r'id="accuracy">.*?</table>', text, re.DOTALL)
    assert "±" not in accuracies


@pytest.mark.usefixtures("unpainted")
def test_without_a_free_arm_there_is_no_test(tmp_path):
    path = small_run(tmp_path, SERIAL, SYMMETRIC)
    text = report_text(path)
    assert "There is no free arm, so no paired test was made." in text
    assert "There is no arm with a penalty in this study" in text
    assert "Without a free arm there is nothing to pair with." in text


@pytest.mark.usefixtures("undrawn")
def test_one_arm_alone(tmp_path):
    path = small_run(tmp_path, FREE)
    assert "free reached a mean test accuracy of" in report_text(path)


def test_all_members_of_an_arm_diverged_at_once(tmp_path):
    lost = tuple((SYMMETRIC.name, seed, 0) for seed in range(2))
    text = report_text(small_run(tmp_path, FREE, SYMMETRIC, diverged=lost))
    assert "2 members diverged" in text


def test_everything_diverged(tmp_path):
    lost = tuple((FREE.name, seed, 0) for seed in range(2))
    text = report_text(small_run(tmp_path, FREE, diverged=lost))
    assert "No arm has a finite test accuracy." in text
    assert "No index of asymmetry has a finite value in this run." in text


@pytest.mark.usefixtures("unpainted")
def test_ten_arms_of_24_blocks(tmp_path):
    arms = (*DEFAULT, broken(0.0), broken(1e-4, "broken-xavier"), broken(1e-2, "broken-xavier"))
    text = report_text(small_run(tmp_path, *arms, blocks=24))
    assert '<option value="5">20–23</option>' in text
    assert text.count('data-chart="asymmetry"') == 2 * 24


HOSTILE = "<b class=evil onclick=x>&amp;\"'</script></b>"


def spoiled(value: Any) -> Any:
    """JSON with a hostile name in place of each text and of each name."""
    if isinstance(value, dict):
        return {name: spoiled(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [spoiled(entry) for entry in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.usefixtures("undrawn")
def test_what_a_folder_says_of_its_arms_is_text(tmp_path):
    strange = Arm("odd", "Odd", "odd", None, 10, 0.9, (1.0, 1.0))
    path = small_run(tmp_path, FREE, strange)
    study = json.loads((path / "study.json").read_text())
    for arm in study["arms"]:
        arm["about"] = HOSTILE
    (path / "study.json").write_text(json.dumps(study))
    text = report_text(path)
    assert HOSTILE not in text
    assert f"<dt>odd</dt><dd>{html.escape(HOSTILE)}</dd>" in text
    assert f"<dt>free</dt><dd>{BY_NAME['free'].about}</dd>" in text


class Tags(HTMLParser):
    """The tags and attributes of a page that are of a hostile name."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.found += [
            tag for name, value in attrs if name in ("onclick", "evil") or value == "evil"
        ]


@pytest.mark.usefixtures("undrawn")
def test_names_from_anywhere_are_text_on_both_pages(tmp_path):
    """Of arms, and of all that `study.json` holds, the name of a data folder among them."""
    names = [
        Arm(f"{kind} {HOSTILE}", HOSTILE, kind, 0.0, 10, 0.9, (1.0, 1.0))
        for kind in ("free", "broken")
    ]
    path = small_run(tmp_path, FREE, *names, diverged=((names[0].name, 0, 1),))
    study = json.loads((path / "study.json").read_text())
    changed = spoiled(study) | {"arms": study["arms"], "steps_total": study["steps_total"]}
    changed["data"] = spoiled(study["data"])
    (path / "study.json").write_text(json.dumps(changed))
    text = report_text(path)
    for written in (text, (path / "symmetry.html").read_text()):
        assert Tags(written).found == []
        assert HOSTILE not in written
        assert html.escape(HOSTILE) in written


@pytest.mark.usefixtures("undrawn")
def test_a_page_has_no_letters_that_no_file_can_have(tmp_path):
    """A folder's name may hold bytes that are no UTF-8."""
    path = small_run(tmp_path, FREE)
    study = json.loads((path / "study.json").read_text())
    study["data"]["name"] = "images\udcff"
    (path / "study.json").write_text(json.dumps(study))
    assert "Symmetry ablation on images?" in report_text(path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"study\.json"):
        write_report(tmp_path)


def test_a_run_without_measurements_is_refused(tmp_path):
    path = small_run(tmp_path, FREE)
    shutil.rmtree(path / "metrics.zarr")
    with pytest.raises(UsageError, match=r"metrics\.zarr"):
        write_report(path)


# --- the words


def test_summary_claims_only_what_the_test_supports(tmp_path):
    path = small_run(tmp_path, FREE, SERIAL, SYMMETRIC, seeds=4)
    results = json.loads((path / "results.json").read_text())
    results["arms"][1]["paired"] |= {"p": 0.03, "difference": -0.001}
    results["arms"][2]["paired"] |= {"p": 0.024, "difference": -0.02}
    (path / "results.json").write_text(json.dumps(results))
    # Holm: 0.024 * 2 = 0.048 is below 0.05, and so is max(0.048, 0.03).
    assert (
        "difference is significant for serial (−0.10 points) and symmetric (−2.00 points)"
        in summary_of(path)
    )
    results["arms"][2]["paired"]["p"] = 0.026
    (path / "results.json").write_text(json.dumps(results))
    assert (
        "no significant difference was found for serial (−0.10 points) and symmetric"
        in summary_of(path)
    )
    assert "the difference is significant" not in summary_of(path)


def test_summary_names_best_and_worst(tmp_path):
    path = small_run(tmp_path, FREE, SYMMETRIC)
    means = {
        arm["name"]: arm["test_accuracy"]["mean"]
        for arm in json.loads((path / "results.json").read_text())["arms"]
    }
    best = max(means, key=lambda name: means[name])
    worst = min(means, key=lambda name: means[name])
    assert (
        f"The highest mean test accuracy is that of {best}, {100 * means[best]:.2f} %"
        in summary_of(path)
    )
    assert f"the lowest that of {worst}, {100 * means[worst]:.2f} %" in summary_of(path)


def test_summary_tells_the_departure_from_symmetry(tmp_path):
    path = small_run(tmp_path, FREE, broken(1e-1), broken(1e-5))
    final = xr.open_zarr(path / "metrics.zarr", consolidated=False).relative_breaking.isel(step=-1)
    ends = final.mean(("seed", "block", "branch")).values
    words = summary_of(path).replace("&nbsp;", " ")
    assert (
        f"ended at {ends[2]:.2g} at λ = 1e-05 and {ends[1]:.2g} at λ = 0.1, against "
        f"{ends[0]:.2g} in free" in words
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_enumeration(words, expected):
    assert enumerate_words(words) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1.234, "+1.23"), (-0.5, "−0.50"), (-0.001, "±0.00")]
)
def test_signed_numbers(value, expected):
    assert signed(value) == expected


# --- the style


def labelled(*arms: Arm) -> xr.DataArray:
    coords = {
        "arm": [arm.name for arm in arms],
        "kind": ("arm", [arm.kind for arm in arms]),
        "strength": ("arm", [np.nan if arm.strength is None else arm.strength for arm in arms]),
    }
    return xr.DataArray(np.zeros((len(arms), 1)), dims=("arm", "seed"), coords=coords)


def test_an_arm_has_one_colour_whatever_stands_beside_it():
    everything = arm_styles(labelled(*DEFAULT))
    few = arm_styles(labelled(WIDE, FREE))
    assert few["free"] == everything["free"]
    assert few["symmetric-wide"] == everything["symmetric-wide"]
    assert len({style.colour for style in everything.values()}) == len(DEFAULT)


def test_broken_arms_darken_with_lambda():
    styles = arm_styles(labelled(*(broken(strength) for strength in (1e-1, 0.0, 1e-3, 1.0))))
    lightness = [
        sum(bytes.fromhex(styles[broken(strength).name].colour[1:]))
        for strength in (0.0, 1e-3, 1e-1, 1.0)
    ]
    assert lightness == sorted(lightness, reverse=True)
    assert len(set(lightness)) == 4


def test_lambda_axis_has_a_place_for_zero():
    axis = strength_axis(labelled(FREE, broken(1e-2), broken(0.0), broken(1e-4)))
    assert axis.labels == ("0", "10⁻⁴", "0.01")
    assert axis.place(0.0) < axis.place(1e-4) < axis.place(1e-2)
    assert axis.place(1e-2) - axis.place(1e-4) == pytest.approx(2)


def test_lambda_axis_without_zero_and_without_anything_else():
    assert strength_axis(labelled(broken(1e-3))).zero is None
    assert strength_axis(labelled(broken(0.0))).labels == ("0",)
    assert strength_axis(labelled(FREE)).ticks == ()


@pytest.mark.parametrize(
    ("value", "expected"), [(1e-5, "10⁻⁵"), (5e-4, "5·10⁻⁴"), (0.1, "0.1"), (1.0, "1")]
)
def test_powers_of_ten(value, expected):
    assert power_of_ten(value) == expected


# --- the pictures of weights


def pixels(weights: np.ndarray, limit: float) -> np.ndarray:
    encoded = data_uri(weights, limit).removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def test_colours_of_weights_are_centred_at_zero():
    row = pixels(np.array([[-9.0, -1.0, 0.0, 1.0, 9.0, np.nan]]), 1.0)[0]
    below = row[0]
    zero = row[len(row) // 2 - 1]
    above = row[-len(row) // 6 - 1]
    unknown = row[-1]
    assert below[2] > below[0]  # blue
    assert above[0] > above[2]  # red
    assert np.ptp(zero) <= 3  # neither
    assert (unknown == 187).all()
    shades = {tuple(colour) for colour in row}
    assert len(shades) == 4  # what is off the scale has the colour of its end


def test_small_matrices_are_enlarged_and_large_ones_cut():
    assert pixels(np.zeros((2, 4)), 1.0).shape == (2 * HIDDEN // 4, HIDDEN, 3)
    large = xr.DataArray(np.zeros((3, VISIBLE + 1, HIDDEN + 1)), dims=("part", "visible", "hidden"))
    assert corner(large).shape == (3, VISIBLE, HIDDEN)


def test_one_scale_for_all_arms_ignores_what_is_not_finite():
    picture = lambda values: xr.DataArray(
        np.array(values).reshape(3, 1, 2), dims=("part", "visible", "hidden")
    )
    assert (
        weight_limit(
            {
                "a": picture([0.5, np.nan, -0.5, 0.5, 99, 99]),
                "b": picture([-0.5, 0.5, 0.5, np.inf, 0, 0]),
            }
        )
        == 0.5
    )
    assert weight_limit({"a": picture([0.0] * 6)}) == 1.0
    assert weight_limit({"a": picture([np.nan] * 6)}) == 1.0
