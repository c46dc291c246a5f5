"""Asymmetry by depth: maps of any index, block against training step, one per arm."""

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from hopmix.lab.probes.layout import branch_label
from hopmix.lab.report import html
from hopmix.lab.report.charts import (
    Change,
    Chart,
    empty,
    layout,
    limits,
    literal,
    packed,
    thin_steps,
)
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.report.sections.asymmetry import indices
from hopmix.lab.report.sections.by_depth import MAPS
from hopmix.lab.store.run import Run
from hopmix.plot.axis import power_of_ten
from hopmix.symmetry.quantities import Quantity

_GAP = 0.4  # rows between the branches
_SIGNED = ["#053061", "#4393c3", "#f7f7f7", "#d6604d", "#67001f"]
_WORDS = (
    "<p>Each row of a map is a block, its colour the mean over seeds; the branches one below the "
    "other. Grey is what was not measured, or has no logarithm where the scale has powers "
    "of ten.</p>"
)


def charts(run: Run) -> dict[str, Chart]:
    """A panel per arm, a choice per index; all arms share the colour scale."""
    metrics = thin_steps(run.metrics)
    shown = indices(run)
    if not shown:
        return {}
    means = {one.name: _mean(metrics[one.name]) for one in shown}
    panels = {
        str(index): {one.name: _change(means[one.name], one, index) for one in shown}
        for index in range(metrics.arm.size)
    }
    return {"map": Chart(_figure(metrics), panels)}


def _mean(values: xr.DataArray) -> xr.DataArray:
    """(arm, block, branch, step), of the steps at which something was measured."""
    mean = values.astype(float).mean("seed").transpose("arm", "block", "branch", "step")
    return mean.dropna("step", how="all")


def _figure(metrics: xr.Dataset) -> go.Figure:
    blocks = metrics.block.values
    places = np.arange(blocks.size)
    maps = []
    for index, branch in enumerate(metrics.branch.values):
        hover = f"{literal(branch_label(str(branch)))}, block %{{customdata}}<br>step %{{x:,}}: "
        trace = go.Heatmap(
            y=_places(places, index, blocks.size),
            coloraxis="coloraxis",
            customdata=[[int(block)] * metrics.step.size for block in blocks],
            hovertemplate=hover + "%{z:.4~g}<extra></extra>",
        )
        maps.append(trace)
    return go.Figure(maps, _layout(metrics))


def _places(blocks: np.ndarray, branch: int, count: int) -> list[float]:
    return [float(block + branch * (count + _GAP)) for block in blocks]


def _layout(metrics: xr.Dataset) -> dict[str, Any]:
    blocks = metrics.block.values
    kept = np.arange(0, blocks.size, -(-blocks.size // 6))
    places = []
    labels = []
    for index, branch in enumerate(metrics.branch.values):
        places += _places(kept, index, blocks.size)
        labels += [f"{literal(str(branch))} {block}" for block in blocks[kept]]
    frame = layout("training step", plot_bgcolor="#e9ecef")
    frame["margin"] = {"l": 74, "r": 8, "t": 34, "b": 40}
    frame["yaxis"] = {
        "autorange": "reversed",
        "tickvals": places,
        "ticktext": labels,
        "zeroline": False,
        "showgrid": False,
    }
    return frame


def _change(mean: xr.DataArray, about: Quantity, arm: int) -> Change:
    cells = mean.values[arm]
    log = about.logarithmic and bool((mean.values > 0).any())
    if not np.isfinite(cells).any():
        return _nothing(cells.shape[1], "This arm has no value of this index.")
    if log and not (cells > 0).any():
        return _nothing(cells.shape[1], "All values of this arm are 0.")
    scaled = _logarithms if log else np.asarray
    steps = packed(mean.step.values)
    branches = range(cells.shape[1])
    data = [{"x": steps, "z": packed(scaled(cells[:, branch]))} for branch in branches]
    return Change(data, {"coloraxis": _colours(scaled(mean.values), about.signed, log)})


def _nothing(traces: int, words: str) -> Change:
    return Change([{"z": [], "x": []}] * traces, {**empty(words), "plot_bgcolor": "#fff"})


def _logarithms(values: np.ndarray) -> np.ndarray:
    positive = np.where(values > 0, values, np.nan)
    return np.log10(positive)


def _colours(values: np.ndarray, signed: bool, log: bool) -> dict[str, Any]:
    low, high = limits(values)
    if signed:
        high = max(-low, high)
        low = -high
    if not high > low:
        high = low + 1
    bar: dict[str, Any] = {"thickness": 10, "outlinewidth": 0, "nticks": 5}
    if log:
        powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
        bar |= {"tickvals": list(powers), "ticktext": [power_of_ten(10.0**p) for p in powers]}
    if signed:
        scale = [[i / 4, colour] for i, colour in enumerate(_SIGNED)]
    else:
        scale = "Viridis"
    return {"cmin": low, "cmax": high, "colorscale": scale, "colorbar": bar}


def body(run: Run, static_figures: StaticFigures) -> str:
    """The choice, a map per arm, and a static one in their place on paper."""
    shown = indices(run)
    if not shown:
        return _WORDS + html.missing("No index of asymmetry has a finite value in this run.")
    frames = [
        html.chart(
            "map",
            escape(name),
            f"Heat map of asymmetry, block against training step, for {name}",
            panel=str(index),
            choice="map-metric",
            css="map",
        )
        for index, name in enumerate(run.arms)
    ]
    rows = 2 * run.metrics.block.size
    height = f"--columns: 2; --height: {max(11, 5 + 0.55 * rows):g}rem"
    grid = html.charts(frames, 2).replace("--columns: 2", height)
    controls = html.controls(html.select("map-metric", "Metric", html.options(shown)))
    return _WORDS + controls + grid + _still(shown, static_figures)


def _still(shown: list[Quantity], static_figures: StaticFigures) -> str:
    drawn = [one for one in shown if one.name in MAPS][:1]
    words = "block against training step, per arm and branch."
    return "".join(
        html.still(static_figures[f"asymmetry_map_{one.name}"], f"{one.label}, {words}")
        for one in drawn
    )


SECTION = Section("map", "Asymmetry by depth", body, charts=charts)
