"""Energy descent: what each block does to its own energy."""

from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go

from hopmix.lab.report import html
from hopmix.lab.report.charts import (
    Change,
    Chart,
    Spread,
    curve_change,
    curve_figure,
    empty,
    layout,
    linear_axis,
    literal,
    over_seeds,
    packed,
    thin_steps,
)
from hopmix.lab.report.data import has_values
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.plot.style import arm_styles
from hopmix.plot.training import energy_descent
from hopmix.symmetry.quantities import ENERGY, Quantity

_WORDS = (
    "<p>What each block does to its own energy <i>E</i> = −<i>U</i>(<i>g</i>) on a fixed batch of "
    "validation images; below zero is descent. With tied weights the block follows the gradient of "
    "<i>E</i>. In the other arms <i>E</i> is the pseudo-energy of the symmetrised weights, and "
    "nothing forces it down.</p>"
)


def _is_measured(run: Run) -> bool:
    return all(has_values(run.metrics, one.name) for one in ENERGY)


def figures(run: Run) -> NamedFigures:
    """One figure of both quantities."""
    if _is_measured(run):
        yield "energy_descent", partial(energy_descent, run.metrics)


def charts(run: Run) -> dict[str, Chart]:
    """Each quantity per block at the last step, and during training."""
    if not _is_measured(run):
        return {}
    metrics = thin_steps(run.metrics)
    drawn = {one.name: over_seeds(metrics[one.name]) for one in ENERGY}
    last = {one.name: {"": _last(drawn[one.name], one, metrics.block.values)} for one in ENERGY}
    curves = {}
    for one in ENERGY:
        overall = over_seeds(metrics[one.name].mean("block"))
        choices = {"all": _curves(overall, one)}
        choices |= {
            str(block): _curves(drawn[one.name].at(block), one)
            for block in range(metrics.block.size)
        }
        curves[one.name] = choices
    return {
        "energy-per-block": Chart(_block_figure(run, metrics.block.values), last),
        "energy": Chart(curve_figure(run, metrics), curves),
    }


def _curves(drawn: Spread, one: Quantity) -> Change:
    return curve_change(drawn, one, **_from_zero(drawn))


def _from_zero(drawn: Spread) -> dict[str, Any]:
    """Axes hold zero; one that has nothing else is a sliver above it."""
    if not np.nan_to_num(drawn.values).any():
        return {"range": [0, 0.05]}
    return {"rangemode": "tozero"}


def _block_figure(run: Run, blocks: np.ndarray) -> go.Figure:
    traces = [
        go.Scatter(
            meta=index,
            mode="markers",
            cliponaxis=False,
            customdata=blocks.tolist(),
            marker={"color": style.colour, "symbol": style.marker, "size": 8},
            error_y={"symmetric": False, "color": style.colour, "thickness": 1.2, "width": 0},
            hovertemplate=f"<b>{literal(style.name)}</b><br>block %{{customdata}}: "
            f"%{{y}}<extra></extra>",
        )
        for index, style in enumerate(arm_styles(run.metrics).values())
    ]
    frame = layout("block")
    frame["xaxis"] |= {
        "range": [-0.5, blocks.size - 0.5],
        "tickvals": list(range(0, blocks.size, -(-blocks.size // 12))),
        "ticktext": [str(block) for block in blocks[:: -(-blocks.size // 12)]],
    }
    return go.Figure(traces, frame)


def _last(drawn: Spread, one: Quantity, blocks: np.ndarray) -> Change:
    """The mean of each arm per block at the last step, with its range over seeds."""
    last = Spread(drawn.steps[-1:], {name: part[..., -1] for name, part in drawn.parts.items()})
    mean = last.parts["mean"]
    if not np.isfinite(mean).any():
        return Change([{"y": []}] * len(mean), empty("No arm has a value here."))
    alive = np.flatnonzero(np.isfinite(mean).any(axis=1))
    shifts = np.linspace(-0.25, 0.25, alive.size) * (alive.size > 1)
    places = {int(arm): np.arange(blocks.size) + shift for arm, shift in zip(alive, shifts)}
    data = [_points(last, arm, places) for arm in range(len(mean))]
    hover = ".2%" if one.share else ".4~g"
    axis = linear_axis(share=one.share, hoverformat=hover, **_from_zero(last))
    return Change(data, {"yaxis": axis})


def _points(last: Spread, arm: int, places: dict[int, np.ndarray]) -> dict[str, Any]:
    if arm not in places:
        return {"x": [], "y": []}
    mean = last.parts["mean"][arm]
    data: dict[str, Any] = {"x": packed(places[arm]), "y": packed(mean)}
    if "high" in last.parts:
        above = packed(last.parts["high"][arm] - mean)
        below = packed(mean - last.parts["low"][arm])
        data["error_y"] = {"array": above, "arrayminus": below}
    return data


def body(run: Run, static_figures: StaticFigures) -> str:
    """Four charts, and the static figure in their place on paper."""
    if not _is_measured(run):
        told = "No energy has been measured with a finite value in this run."
        return _WORDS + html.missing(told)
    blocks = {str(i): f"block {block}" for i, block in enumerate(run.metrics.block.values)}
    choice = html.select("energy-block", "During training", {"all": "mean over blocks", **blocks})
    frames = [_frame("energy-per-block", one, "per block at the last step") for one in ENERGY]
    frames += [_frame("energy", one, "during training", "energy-block") for one in ENERGY]
    still = html.still(
        static_figures["energy_descent"],
        "Energy change and share of rising examples, per block and during training.",
    )
    shown = html.LEGEND + html.controls(choice) + html.charts(frames, 2)
    return _WORDS + shown + still


def _frame(chart: str, one: Quantity, words: str, choice: str = "") -> str:
    caption = f"{one.label.capitalize()}, {words}"
    return html.chart(chart, caption, f"{one.label}, {words}", panel=one.name, choice=choice)


SECTION = Section("energy", "Energy descent", body, figures, charts)
