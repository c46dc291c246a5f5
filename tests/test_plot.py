"""The public figures by looking: against pictures in `lab/baseline`, for what fits and what
overlaps, and for colours.

After a change that is meant to be seen, look at the new pictures and renew those on file with

    HOPMIX_BASELINES=renew .venv/bin/pytest tests/test_plot.py
"""

import ast
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from lab.synthetic import DEFAULT, FREE, SYMMETRIC, broken, small_run
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from hopmix import plot
from hopmix.lab.report.data import (
    Run,
    accuracy_by_seed,
    coupling_sizes,
    last_measured,
    read_run,
    weight_pairs,
)
from hopmix.plot import symmetry as symmetry_figures
from hopmix.plot import training as figures
from hopmix.plot.panels import COLUMN, SMALLEST, WIDTH
from hopmix.plot.style import BRANCHES, arm_styles

BASELINE = Path(__file__).parent / "lab" / "report" / "symmetry" / "baseline"
TOLERANCE = 4.0
"""Root mean square of the differences of all pixels, of 255. Another arm's curve in a small panel
is about 8.
"""

Draw = Callable[[Run, float], Figure]


def ends(run: Run) -> dict[str, xr.DataArray]:
    return weight_pairs(run)[0, "channel"]


def unrelated(run: Run, key: str) -> xr.Dataset:
    sizes = coupling_sizes(run)
    assert sizes is not None
    found = plot.null(key, sizes)
    assert found is not None
    return found


def broken_arms(run: Run) -> xr.Dataset:
    return run.metrics.isel(
        arm=[i for i, kind in enumerate(run.metrics.kind.values) if kind.startswith("broken")]
    )


FIGURES: dict[str, Draw] = {
    "accuracy_against_strength": lambda run, width: plot.accuracy_against_strength(
        accuracy_by_seed(run), width=width
    ),
    "learning_curves": lambda run, width: plot.learning_curves(run.metrics, width=width),
    "asymmetry_curves": lambda run, width: plot.asymmetry_curves(
        run.metrics.median_unit_cosine, null=unrelated(run, "median_unit_cosine"), width=width
    ),
    "asymmetry_map": lambda run, width: plot.asymmetry_map(run.metrics.symmetry_score, width=width),
    "energy_descent": lambda run, width: plot.energy_descent(run.metrics, width=width),
    "weight_pictures": lambda run, width: plot.weight_pictures(
        ends(run), dict.fromkeys(ends(run), 0.3), width=width
    ),
    "alignment": lambda run, width: plot.alignment(ends(run), 0.3, width=width),
    "spectra": lambda run, width: plot.spectra(run.metrics.isel(block=-1, branch=0), width=width),
    "accuracy_against_symmetry": lambda run, width: plot.accuracy_against_symmetry(
        last_measured(run.metrics.symmetry_score).mean("block"),
        accuracy_by_seed(run),
        null=unrelated(run, "symmetry_score"),
        width=width,
    ),
    "onset": lambda run, width: plot.onset(broken_arms(run), width=width),
    "fields": lambda run, width: plot.fields(run.metrics, width=width),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Run:
    arms = (FREE, broken(1e-2), SYMMETRIC)
    return read_run(small_run(tmp_path_factory.mktemp("runs"), *arms, steps=6, shape=(6, 12)))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Run:
    """Many arms with long names, 24 blocks, and steps of six digits."""
    arms = (*DEFAULT, broken(1.25e-4, "broken-xavier"))
    run = read_run(small_run(tmp_path_factory.mktemp("runs"), *arms, steps=6, blocks=24))
    return Run(
        run.path,
        run.study,
        run.metrics.assign_coords(step=1500 * run.metrics.step),
        run.results,
        run.weights,
    )


# --- the names


def test_every_figure_is_public_and_drawn_here():
    public = {
        name for name, value in vars(plot).items() if inspect.isfunction(value) and name[0] != "_"
    }
    of_figures = {
        name
        for module in (figures, symmetry_figures)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
        if inspect.signature(value).return_annotation is Figure
    }
    assert public == of_figures | {"null", "rates_of_breaking"}
    assert of_figures == set(FIGURES)
    for name in of_figures:
        signature = inspect.signature(getattr(plot, name))
        assert signature.parameters["width"].default == WIDTH
        assert "**Arguments:**" in (getattr(plot, name).__doc__ or "")


def test_the_module_is_names_and_nothing_else():
    _, _, block = ast.parse(
        Path(plot.__file__).read_bytes()
    ).body  # the docstring, and what names the extra
    assert isinstance(block, ast.With)
    assert all(isinstance(node, ast.ImportFrom) for node in block.body)
    pairs = [
        (alias.name, alias.asname) for node in block.body for alias in getattr(node, "names", [])
    ]
    assert all(name == alias for name, alias in pairs)


# --- against the pictures on file


COMPARED = sorted(
    set(FIGURES)
    - {"accuracy_against_strength", "learning_curves", "energy_descent", "weight_pictures"}
)


def painted(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=64, metadata={"Software": None})
    return str(path)


@pytest.mark.parametrize("name", COMPARED)
def test_figures_look_as_on_file(name, small, tmp_path):
    made = FIGURES[name](small, COLUMN)
    expected = BASELINE / f"{name}.png"
    if os.environ.get("HOPMIX_BASELINES") == "renew":
        painted(made, expected)
    assert expected.stat().st_size < 30_000
    # Beside the picture made here, `compare_images` leaves one of the differences.
    copy = tmp_path / "expected.png"
    copy.write_bytes(expected.read_bytes())
    difference = compare_images(str(copy), painted(made, tmp_path / f"{name}.png"), TOLERANCE)
    assert difference is None, f"{difference}\n{__doc__}"


@pytest.mark.parametrize("name", COMPARED)
def test_another_picture_is_told_apart(name, small, tmp_path):
    """That of the same run with the arms in another order: nothing moves but the data."""
    metrics = small.metrics
    swapped = metrics.isel(arm=[1, 0, 2]).assign_coords(
        arm=metrics.arm, kind=metrics.kind, strength=metrics.strength
    )
    names = small.arms
    renamed = {names[0]: names[1], names[1]: names[0], names[2]: names[2]}
    weights = {
        f"{renamed[key.split('|')[0]]}|{key.split('|', 1)[1]}": w
        for key, w in (small.weights or {}).items()
    }
    other = Run(small.path, small.study, swapped, small.results, weights)
    (tmp_path / "expected.png").write_bytes((BASELINE / f"{name}.png").read_bytes())
    made = painted(FIGURES[name](other, COLUMN), tmp_path / f"{name}.png")
    assert compare_images(str(tmp_path / "expected.png"), made, TOLERANCE) is not None


# --- what fits


def drawn_texts(figure: Figure) -> list[Text]:
    """All texts that are painted: ticks outside of what an axis shows are not."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    found += [text for name in ("_supxlabel", "_supylabel") if (text := getattr(figure, name))]
    for axes in figure.axes:
        found += [
            *axes.texts,
            *(getattr(axes, name) for name in ("title", "_left_title", "_right_title")),
        ]
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                found += [axis.label, *tick_labels(axis)]
    return [text for text in dict.fromkeys(found) if text.get_visible() and text.get_text().strip()]


def tick_labels(axis: Axis) -> Iterator[Text]:
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    for tick in axis.get_major_ticks():
        if low - room <= tick.get_loc() <= high + room:
            yield tick.label1


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    boxes = [
        (text.get_text(), text.get_window_extent().padded(-0.6)) for text in drawn_texts(figure)
    ]
    return [
        (a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)
    ]


def outside(figure: Figure) -> list[str]:
    page = Bbox.from_bounds(0, 0, *(figure.get_size_inches() * figure.dpi)).padded(1.0)
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure)]
    return [
        text for text, box in boxes if not (page.contains(*box.min) and page.contains(*box.max))
    ]


@pytest.mark.parametrize("width", [COLUMN, WIDTH])
@pytest.mark.parametrize("name", FIGURES)
def test_long_names_and_many_blocks_fit(name, width, large):
    figure = FIGURES[name](large, width)
    assert figure.get_figwidth() <= width + 1e-9
    assert figure.get_figheight() <= 9.2 + 1e-9
    figure.draw_without_rendering()
    assert overlapping(figure) == []
    assert outside(figure) == []
    assert min(float(text.get_fontsize()) for text in drawn_texts(figure)) >= SMALLEST


def test_an_overlap_and_a_cut_label_are_caught(small):
    figure = FIGURES["asymmetry_map"](small, WIDTH)
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "other")
    figure.text(-0.02, 0.9, "cut")
    figure.draw_without_rendering()
    assert ("one", "other") in overlapping(figure)
    assert outside(figure) == ["cut"]


@pytest.mark.parametrize("name", FIGURES)
def test_one_arm_and_one_seed_can_be_drawn(name, tmp_path):
    arm = broken(1e-3) if name in ("onset", "accuracy_against_strength") else FREE
    run = read_run(small_run(tmp_path, arm, seeds=1))
    figure = FIGURES[name](run, COLUMN)
    figure.draw_without_rendering()
    assert outside(figure) == []


# --- colours

# Machado, Oliveira & Fernandes 2009 (doi 10.1109/TVCG.2009.113): how linear RGB looks without green
# or red cones.
BLIND = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def seen(colour: str, by: str) -> np.ndarray:
    """A colour in the space of CIE L*a*b*, in which a distance of 2.3 is just noticeable, as others
    see it.
    """
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratios = TO_XYZ @ np.clip(np.array(BLIND[by]) @ linear, 0, 1) / (TO_XYZ @ np.ones(3))
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: str, other: str, by: str) -> float:
    return float(np.linalg.norm(seen(one, by) - seen(other, by)))


@pytest.mark.parametrize("by", BLIND)
def test_arms_stay_apart_for_colour_blind_readers(by):
    kinds = [(arm.name, arm.kind, arm.strength) for arm in DEFAULT]
    kinds += [(f"xavier {strength}", "broken-xavier", strength) for strength in (1e-4, 1e-2, 1.0)]
    names, families, strengths = zip(*kinds)
    coords = {
        "arm": list(names),
        "kind": ("arm", list(families)),
        "strength": ("arm", [np.nan if value is None else value for value in strengths]),
    }
    styles = arm_styles(xr.DataArray(np.zeros(len(kinds)), dims="arm", coords=coords)).values()
    for one, other in itertools.combinations(styles, 2):
        apart = distance(one.colour, other.colour, by)
        assert apart > 12, (one.name, other.name)
        assert apart > 23 or (one.dash, one.marker) != (other.dash, other.marker), (
            one.name,
            other.name,
        )
    (first, *_), (second, *_), *_ = BRANCHES
    assert distance(first, second, by) > 40
    for (one, *marks), (other, *others) in itertools.combinations(BRANCHES, 2):
        assert distance(one, other, by) > 12
        assert marks != others


def test_the_check_of_colours_knows_red_and_green():
    assert distance("#a05050", "#507a50", "deuteranopia") < 3
    assert distance("#d55e00", "#0072b2", "deuteranopia") > 50


# --- vector output


@pytest.mark.parametrize(("ending", "mark"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_save_as_vectors(small, tmp_path, ending, mark):
    path = tmp_path / f"curves.{ending}"
    FIGURES["asymmetry_curves"](small, COLUMN).savefig(path)
    assert path.read_bytes().startswith(mark)
    if ending == "svg":
        assert not re.search(rb"<image", path.read_bytes())
