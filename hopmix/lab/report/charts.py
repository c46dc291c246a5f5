"""Interactive charts as Plotly figures: made here, mounted by `report.js`."""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from hopmix.lab.statistics import spread
from hopmix.lab.store.run import Run
from hopmix.plot.axis import power_of_ten
from hopmix.plot.style import ArmStyle, arm_styles
from hopmix.symmetry.quantities import Quantity

_FEW = 12  # measured steps that are marked one by one
_DECADES = 8  # that a logarithmic axis shows at most, below the largest value
_MOST_STEPS = 80  # more points than a chart has pixels to spare only make the page heavier
_MOST_EXPENSIVE = 40
_PALE = {"gridcolor": "#e9ecef", "linecolor": "#8c959f", "ticks": "outside", "ticklen": 4}
_AXIS = {**_PALE, "tickcolor": "#8c959f", "automargin": True}


@dataclasses.dataclass(frozen=True)
class Change:
    """What one choice shows in one panel of a chart.

    - `data`: for each trace of the figure what is put in its place.
    - `layout`: likewise of the layout.
    - `log`: of the layout again, where the reader asks for a logarithmic axis; `None` if none
      helps.
    - `log_data`: of the traces again there; empty if nothing in them has to be left out.
    """

    data: Sequence[Mapping[str, Any]] = ()
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log: Mapping[str, Any] | None = None
    log_data: Sequence[Mapping[str, Any]] = ()

    def plain(self) -> dict[str, Any]:
        """The same as JSON values, without what is empty."""
        return {name: value for name, value in vars(self).items() if value}


@dataclasses.dataclass(frozen=True)
class Chart:
    """A Plotly figure that all panels of a chart share, and the choices of each panel by name."""

    figure: go.Figure
    panels: Mapping[str, Mapping[str, Change]] = dataclasses.field(
        default_factory=lambda: {"": {"": Change()}}
    )

    def plain(self) -> dict[str, Any]:
        """The same as JSON values."""
        panels = {
            name: {key: change.plain() for key, change in choices.items()}
            for name, choices in self.panels.items()
        }
        return {**self.figure.to_plotly_json(), "panels": panels}


def payload(run: Run, charts: Mapping[str, Chart]) -> str:
    """JSON of all charts of a page and of its arms, safe to stand inside a script element."""
    arms = [
        {"name": style.name, "colour": style.colour, "dash": style.dash}
        for style in arm_styles(run.metrics).values()
    ]
    values = {"arms": arms, "charts": {name: chart.plain() for name, chart in charts.items()}}
    text = json.dumps(values, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def thin_steps(metrics: xr.Dataset) -> xr.Dataset:
    """At most 120 measured steps: 80 evenly chosen, and 40 of those that have spectra too."""
    every = np.arange(metrics.step.size)
    if "departure" in metrics:
        measured = metrics.departure.dropna("step", how="all").step
    else:
        measured = []
    expensive = every[np.isin(metrics.step, measured)]
    kept = np.union1d(_evenly(every, _MOST_STEPS), _evenly(expensive, _MOST_EXPENSIVE))
    return metrics.isel(step=kept)


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    chosen = np.linspace(0, values.size - 1, min(values.size, most)).round().astype(int)
    return values[np.unique(chosen)]


def packed(values: np.ndarray) -> dict[str, str]:
    """Numbers as Plotly's typed array: 4 bytes each, NaN where nothing was measured."""
    if np.issubdtype(values.dtype, np.integer):
        kind = np.int32
    else:
        kind = np.float32
    narrow = np.ascontiguousarray(values, kind)
    encoded = {"dtype": "i4" if kind is np.int32 else "f4"}
    encoded["bdata"] = base64.b64encode(narrow.tobytes()).decode()
    if narrow.ndim > 1:
        encoded["shape"] = ", ".join(map(str, narrow.shape))
    return encoded


def literal(name: str) -> str:
    """A name that Plotly shows as it is: it reads some tags, and %{...} under the pointer."""
    return escape(name, quote=False).replace("%", "&#37;")


# ---- Layouts ------------------------------------------------------------------------------------


def layout(x_title: str, *, share: bool = False, **changes: Any) -> dict[str, Any]:
    """Quiet axes; the toolbar stands in the margin above them."""
    x_axis = {
        **_AXIS,
        "showgrid": False,
        "zeroline": False,
        "nticks": 6,
        "title": {"text": x_title, "standoff": 6},
    }
    frame = {
        "margin": {"l": 46, "r": 12, "t": 34, "b": 42},
        "font": {"size": 12, "color": "#3d444d"},
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "hoverlabel": {"align": "left"},
        "modebar": {"orientation": "h", "bgcolor": "rgba(255,255,255,0)", "color": "#8c959f"},
        "template": None,
        "xaxis": x_axis,
        "yaxis": linear_axis(share=share),
    }
    return frame | changes


def linear_axis(*, share: bool = False, **changes: Any) -> dict[str, Any]:
    """The vertical axis of a chart."""
    axis = {**_AXIS, "zerolinecolor": "#8c959f", "showline": True, "type": "linear"}
    if share:
        axis["tickformat"] = ".2~%"
    return axis | changes


def logarithmic_axis(values: np.ndarray) -> dict[str, Any] | None:
    """A logarithmic axis that holds all positive values down to eight decades below the largest."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return None
    high = math.log10(positive.max())
    low = max(math.log10(positive.min()), high - _DECADES)
    room = 0.05 * (high - low) or 0.1
    axis = linear_axis(type="log", range=[low - room, high + room])
    return axis | _log_ticks(low, high)


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Plotly labels every digit of a short axis and writes the powers in another size."""
    if high - low < 0.7:
        return {}
    digits = (1, 2, 5) if high - low < 2 else (1,)
    stride = max(1, math.ceil((high - low) / 6))
    powers = range(math.floor(low) - stride, math.ceil(high) + 2, stride)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    return {"tickvals": ticks, "ticktext": [power_of_ten(tick) for tick in ticks]}


def empty(words: str) -> dict[str, Any]:
    """The layout of a panel that has nothing to show: a sentence."""
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    away = {"visible": False}
    return {"annotations": [{"text": words, **place}], "xaxis": away, "yaxis": away}


# ---- Curves -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest value over seeds, each (arm, ..., step); no range for one seed."""

    steps: np.ndarray
    parts: Mapping[str, np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """All numbers, whatever they are."""
        return np.concatenate([part.ravel() for part in self.parts.values()])

    def at(self, *place: int) -> "Spread":
        """That of one block, or of one block and branch."""
        return Spread(self.steps, {name: part[:, *place] for name, part in self.parts.items()})


def over_seeds(values: xr.DataArray) -> Spread:
    """The spread of a measured quantity over its seeds."""
    order = [name for name in ("arm", "block", "branch", "step") if name in values.dims]
    found = spread(values.astype(float)).transpose(*order)
    names = ("low", "high", "mean") if values.seed.size > 1 else ("mean",)
    return Spread(values.step.values, {name: found[name].values for name in names})


def curve_figure(run: Run, metrics: xr.Dataset) -> go.Figure:
    """For each arm the edges of its range over seeds, a band between them, and its mean."""
    parts = ("low", "high", "mean") if metrics.seed.size > 1 else ("mean",)
    traces = [
        trace
        for index, style in enumerate(arm_styles(run.metrics).values())
        for trace in _curve_traces(index, style, parts, metrics.step.values)
    ]
    return go.Figure(traces, layout("training step"))


def _curve_traces(
    index: int, style: ArmStyle, parts: Sequence[str], steps: np.ndarray
) -> list[go.Scatter]:
    name = literal(style.name)
    shared = {"meta": index, "connectgaps": True, "x": packed(steps)}
    edge = {**shared, "mode": "lines", "line": {"width": 0, "color": style.colour}}
    looks = {
        "low": {**edge, "hovertemplate": _hover(name, "lowest seed")},
        "high": {
            **edge,
            "hovertemplate": _hover(name, "highest seed"),
            "fill": "tonexty",
            "fillcolor": faded(style.colour, 0.16),
        },
        "mean": {
            **shared,
            "name": name,
            "line": {"color": style.colour, "width": 2, "dash": style.dash},
            "marker": {"color": style.colour, "symbol": style.marker, "size": 5},
            "hovertemplate": _hover(name, "mean"),
        },
    }
    return [go.Scatter(**looks[part]) for part in parts]


def _hover(name: str, part: str) -> str:
    return f"<b>{name}</b><br>step %{{x:,}}, {part}: %{{y}}<extra></extra>"


def faded(colour: str, alpha: float) -> str:
    """A colour `#rrggbb` with so much opacity."""
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red},{green},{blue},{alpha:g})"


def curve_change(
    drawn: Spread, about: Quantity, *, frame: np.ndarray | None = None, **axis: Any
) -> Change:
    """The curves of one quantity (arm, step), in a figure of `curve_figure`.

    **Arguments:**

    - `drawn`: what the panel shows.
    - `about`: the quantity.
    - `frame`: numbers that the vertical axis has to hold, so that panels can share it.
    - `axis`: options of the linear axis.
    """
    if not np.isfinite(drawn.parts["mean"]).any():
        count = drawn.parts["mean"].shape[0] * len(drawn.parts)
        blank = [{"x": [], "y": []}] * count
        return Change(blank, empty("No arm has a value here."))
    hover = ".2%" if about.share else ".4~g"
    held = drawn.values if frame is None else frame
    if frame is not None:
        axis = {"range": _range(held), **axis}
    linear = linear_axis(share=about.share, hoverformat=hover, **axis)
    log = logarithmic_axis(held) if about.logarithmic else None
    if log is None:
        return Change(_curve_data(drawn), {"yaxis": linear})
    chosen = {"yaxis": log | {"hoverformat": hover}}
    return Change(_curve_data(drawn), {"yaxis": linear}, chosen, _positive_data(drawn))


def _curve_data(drawn: Spread) -> list[dict[str, Any]]:
    rows = range(drawn.parts["mean"].shape[0])
    return [_curve(drawn, row, name) for row in rows for name in drawn.parts]


def _curve(drawn: Spread, row: int, name: str) -> dict[str, Any]:
    known = np.isfinite(drawn.parts["mean"][row])
    data: dict[str, Any] = {"y": packed(drawn.parts[name][row, known])}
    if not known.all():
        data["x"] = packed(drawn.steps[known])
    if name == "mean":
        data["mode"] = "lines+markers" if known.sum() <= _FEW else "lines"
    return data


def _positive_data(drawn: Spread) -> list[dict[str, Any]]:
    """Arms without the steps at which a seed is not above zero: their curves would fall to the
    bottom.
    """
    if "low" in drawn.parts:
        least = drawn.parts["low"]
    else:
        least = drawn.parts["mean"]
    known = np.isfinite(drawn.parts["mean"])
    kept = known & (least > 0)
    if (kept == known).all():
        return []
    return [
        {"x": packed(drawn.steps[kept[row]]), "y": packed(part[row, kept[row]])}
        if (kept[row] != known[row]).any()
        else {}
        for row in range(len(kept))
        for part in drawn.parts.values()
    ]


def _range(values: np.ndarray) -> list[float]:
    low, high = limits(values)
    room = 0.05 * (high - low) or 0.1
    return [low - room, high + room]


def limits(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The least and the largest finite value; 0 and 1 where there is none."""
    finite = values[np.isfinite(values)]
    if finite.size:
        return (float(finite.min()), float(finite.max()))
    return (0.0, 1.0)
