"""Accuracy against the strength of the penalty."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from hopmix.lab.report import html
from hopmix.lab.report.charts import Chart, faded, layout, literal, packed
from hopmix.lab.report.data import accuracy_by_seed
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.statistics import Summary, summarise
from hopmix.lab.store.run import Run
from hopmix.plot.axis import StrengthAxis, is_penalised, strength_axis
from hopmix.plot.style import ArmStyle, arm_styles
from hopmix.plot.training import accuracy_against_strength, accuracy_label, penalised_by_kind

_WORDS = (
    "Dots are seeds, marks their mean with one standard error; lines with bands are the "
    "arms that have no λ."
)


def figures(run: Run) -> NamedFigures:
    """One figure, where an arm has a penalty."""
    if is_penalised(run.metrics).any():
        drawn = lambda: accuracy_against_strength(accuracy_by_seed(run))
        yield "accuracy_against_lambda", drawn


def charts(run: Run) -> dict[str, Chart]:
    """The same as a Plotly figure."""
    if not is_penalised(run.metrics).any():
        return {}
    accuracy = accuracy_by_seed(run)
    axis = strength_axis(accuracy)
    traces = [*_paths(accuracy, axis), *_arms(accuracy, axis)]
    return {"strength": Chart(go.Figure(traces, _layout(accuracy, axis)))}


def _layout(accuracy: xr.DataArray, axis: StrengthAxis) -> dict[str, Any]:
    frame = layout("strength λ of the penalty", share=True)
    frame["xaxis"] |= {"tickvals": axis.ticks, "ticktext": axis.labels, "range": axis.span}
    frame["yaxis"] |= {"title": {"text": accuracy_label(accuracy)}}
    if axis.zero is not None and len(axis.ticks) > 1:
        frame["annotations"] = [_break(sum(axis.ticks[:2]) / 2)]
    return frame


def _break(place: float) -> dict[str, Any]:
    """The sign on the axis for what lies between zero and the smallest strength."""
    where = {"x": place, "y": 0, "xref": "x", "yref": "paper", "yanchor": "middle"}
    return {"text": "∕∕", "showarrow": False, "bgcolor": "#fff", **where}


def _paths(accuracy: xr.DataArray, axis: StrengthAxis) -> list[go.Scatter]:
    """A grey line through the means of each kind."""
    shown = []
    for arms in penalised_by_kind(accuracy):
        places = [axis.place(float(strength)) for strength in arms.strength.values]
        means = arms.mean("seed").values
        line = {"color": "#b1bac4", "width": 1.5}
        shown.append(
            go.Scatter(x=places, y=packed(means), mode="lines", line=line, hoverinfo="skip")
        )
    return shown


def _arms(accuracy: xr.DataArray, axis: StrengthAxis) -> list[go.Scatter]:
    return [
        trace
        for index, (name, style) in enumerate(arm_styles(accuracy).items())
        for trace in _arm(index, style, accuracy.sel(arm=name), axis)
    ]


def _arm(index: int, style: ArmStyle, one: xr.DataArray, axis: StrengthAxis) -> list[go.Scatter]:
    values = one.values.astype(float)
    summary = summarise(values)
    if not summary.n:
        return []
    strength = float(one.strength)
    if np.isnan(strength):
        return _level(index, style, summary, axis)
    return _marks(index, style, values, summary, axis.place(strength))


def _level(index: int, style: ArmStyle, summary: Summary, axis: StrengthAxis) -> list[go.Scatter]:
    """An arm that has no strength: a line across, with a band of one standard error."""
    ends = list(axis.span)
    line = {"color": style.colour, "width": 2, "dash": style.dash}
    shared = {"meta": index, "mode": "lines", "x": ends}
    mean = go.Scatter(
        y=[summary.mean] * 2, line=line, hovertemplate=_hover(style, summary), **shared
    )
    if not np.isfinite(summary.stderr):
        return [mean]
    edges = [summary.mean - summary.stderr, summary.mean + summary.stderr]
    look = {"line": {"width": 0}, "hoverinfo": "skip"}
    low, high = (go.Scatter(y=[edge] * 2, **look, **shared) for edge in edges)
    high.update(fill="tonexty", fillcolor=faded(style.colour, 0.16))
    return [low, high, mean]


def _marks(
    index: int, style: ArmStyle, values: np.ndarray, summary: Summary, place: float
) -> list[go.Scatter]:
    """An arm that has a strength: a dot per seed, and their mean with its error."""
    shared = {"meta": index, "mode": "markers"}
    dots = {"color": style.colour, "opacity": 0.4, "size": 6}
    mark = {"color": style.colour, "symbol": style.marker, "size": 11}
    error = {"color": style.colour, "thickness": 1.5, "width": 5}
    if np.isfinite(summary.stderr):
        error["array"] = [summary.stderr]
    seeds = go.Scatter(
        x=[place] * values.size, y=packed(values), marker=dots, hoverinfo="skip", **shared
    )
    mean = go.Scatter(
        x=[place],
        y=[summary.mean],
        marker=mark,
        error_y=error,
        hovertemplate=_hover(style, summary),
        **shared,
    )
    return [seeds, mean]


def _hover(style: ArmStyle, summary: Summary) -> str:
    if np.isfinite(summary.stderr):
        error = f" ± {100 * summary.stderr:.2f}"
    else:
        error = ""
    return f"<b>{literal(style.name)}</b><br>{100 * summary.mean:.2f}{error} %<extra></extra>"


def body(run: Run, static_figures: StaticFigures) -> str:
    """The chart, and the static figure in its place on paper."""
    if not is_penalised(run.metrics).any():
        return html.missing(
            "There is no arm with a penalty in this study, so there is nothing to show against λ."
        )
    frame = html.chart("strength", "", _WORDS)
    still = html.still(static_figures["accuracy_against_lambda"], _WORDS)
    return f"<p>{_WORDS}</p>" + html.LEGEND + html.charts([frame], 1) + still


SECTION = Section(
    "strength",
    "Accuracy against the strength λ of the penalty",
    body,
    figures,
    charts,
    menu="Accuracy against λ",
    of_studies=True,
)
