"""The frame of every figure: sizes in inches, quiet axes, legends, curves and maps, at any width.

Nothing here touches Matplotlib's global state: figures are made by the object interface on the Agg
canvas.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hopmix.lab.statistics import spread
from hopmix.plot.style import ArmStyle, line_style, marker_style
from hopmix.symmetry.quantities import Quantity, quantity

WIDTH, COLUMN = 7.1, 3.4  # inches: the text width of an A4 page, and a column of two
SMALLEST = 6.0  # points
PAGE = 9.2  # inches: what an A4 page leaves below a heading
INK = "#333333"
SOFT = "#666666"
LEFT = 0.62  # inches: room for tick labels and a label

_LETTER = 0.062  # inches, of 8 points
_DOTTED = (0, (1, 1.5))
_FEW = 12  # measured steps that are marked one by one

Share = Literal["all", "row", "none"]


def described(values: xr.DataArray) -> Quantity:
    """What is known of an array by its name."""
    name = str(values.name or "")
    return quantity(name) or Quantity(name, name.replace("_", " "), "", "", "")


def across(width: float, count: int, least: float) -> int:
    """How many of `count` panels of at least some inches stand side by side."""
    return max(1, min(count, int((width + 0.3) // least)))


def panels(
    width: float,
    height: float,
    rows: int,
    columns: int,
    *,
    legend: Sequence[str] = (),
    heads: int = 0,
    gap: tuple[float, float] = (0.4, 0.5),
    edge: float = 0.12,
    ratios: Sequence[float] | None = None,
    share: tuple[Share, Share] = ("none", "none"),
) -> tuple[Figure, np.ndarray]:
    """A figure and its grid of axes, with fixed margins in inches: a layout engine would take
    longer than the drawing.

    `legend` names what its lines above the panels will hold, of which more than two make the figure
    higher; `heads` counts the lines of headings below them; `gap` is between rows and between
    columns, `edge` the right margin, `ratios` the relative widths of columns, `share` the sharing
    of horizontal and of vertical axes.
    """
    lines = -(-len(legend) // legend_columns(legend, width))
    height = min(PAGE, height + 0.2 * max(0, lines - 2))
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    left = LEFT
    right = width - edge
    bottom = 0.42
    top = height - 0.26 - 0.2 * lines - 0.2 * heads
    room = (
        (right - left - gap[1] * (columns - 1)) / columns,
        (top - bottom - gap[0] * (rows - 1)) / rows,
    )
    figure.subplots_adjust(
        left / width,
        bottom / height,
        right / width,
        top / height,
        wspace=gap[1] / room[0],
        hspace=gap[0] / room[1],
    )
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharex=share[0],
        sharey=share[1],
        gridspec_kw={"width_ratios": ratios},
    )
    for axes in grid.flat:
        _quiet(axes)
    return figure, grid


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many entries of a legend stand side by side, at most four."""
    longest = max(map(len, names), default=0)
    return max(1, min(4, len(names), int((width - 0.1) // (0.5 + _LETTER * longest))))


def fitting(text: str, width: float) -> str:
    """The text, cut where it is longer than so many inches."""
    most = max(4, int(width / _LETTER))
    if len(text) <= most:
        return text
    return text[: most - 1] + "…"


def title(axes: Axes, text: str) -> None:
    """A small title on the left, cut at the right border of the figure."""
    # An explicit y spares Matplotlib from measuring every tick label to find out whether one is in
    # the way.
    room = (1 - axes.get_position().x0) * figure_width(axes)
    axes.set_title(fitting(text, room), loc="left", pad=3, fontsize=8, y=1.0)


def figure_width(axes: Axes) -> float:
    """Of the figure of a panel, in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure.get_figwidth()


def head(axes: Axes, text: str, lines: int = 0) -> None:
    """A heading of a column, so many lines above the title of its first panel."""
    place = (0, 3 + 13 * lines)
    axes.annotate(
        text,
        (0, 1),
        place,
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color=SOFT,
    )


def heading(figure: Figure, text: str) -> None:
    """What the whole figure shows, in the first line of headings."""
    width, height = figure.get_size_inches()
    figure.text(
        LEFT / width,
        1 - 0.08 / height,
        fitting(text, width - LEFT),
        fontsize=8,
        weight="bold",
        va="top",
    )


def step_axis(axes: Axes, label: bool = True) -> None:
    """As many ticks at whole steps as the panel has room for."""
    room = axes.get_position().width * figure_width(axes)
    longest = 0.25 + 0.065 * len(f"{axes.get_xlim()[1]:.0f}")
    most = int(np.clip(room / longest, 2, 5))
    axes.xaxis.set_major_locator(
        MaxNLocator(most, integer=True, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2)
    )
    if label:
        axes.set_xlabel("training step")


def grid_lines(axes: Axes) -> None:
    """Faint horizontal lines."""
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)


def curves(axes: Axes, values: xr.DataArray, styles: Mapping[str, ArmStyle]) -> None:
    """Mean over seeds per arm, and the range over seeds as a band where there is more than one.

    Steps at which an arm was not measured are left out; few steps are marked.
    """
    over_seeds = spread(values)
    steps = values.step.values
    mean = over_seeds["mean"].transpose("arm", "step").values
    low = over_seeds["low"].transpose("arm", "step").values
    high = over_seeds["high"].transpose("arm", "step").values
    rows = [str(name) for name in values.arm.values]
    for name, style in styles.items():
        row = rows.index(name)
        known = np.isfinite(mean[row])
        if values.seed.size > 1:
            area = steps[known], low[row, known], high[row, known]
            axes.fill_between(*area, color=style.colour, alpha=0.15, linewidth=0)
        marks = {"marker": marker_style(style) if known.sum() <= _FEW else "", "markersize": 2.5}
        look = {"linewidth": 1.3, "color": style.colour, "linestyle": line_style(style)}
        axes.plot(steps[known], mean[row, known], **look, **marks)
    if not np.isfinite(mean).any():
        say_empty(axes, "not measured")
    step_axis(axes, label=False)
    grid_lines(axes)


def say_empty(axes: Axes, words: str) -> None:
    """What stands in a panel that has nothing to show."""
    place = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, words, fontsize=7, color=SOFT, **place)


def null_band(axes: Axes, null: xr.Dataset, *, upright: bool = False) -> None:
    """The mean of independent weights as a line, and two standard deviations to both sides as a
    band.
    """
    mean = float(null["mean"].mean())
    reach = 2 * float(null["std"].max())
    line, band = (axes.axhline, axes.axhspan) if not upright else (axes.axvline, axes.axvspan)
    line(mean, color=SOFT, linewidth=0.8, linestyle=_DOTTED, zorder=0)
    if np.isfinite(reach):
        band(mean - reach, mean + reach, color="#dddddd", linewidth=0, zorder=-1)


def null_handles(null: xr.Dataset | None) -> list[Line2D | Patch]:
    """The entry of a legend for what `null_band` draws."""
    if null is None:
        return []
    if bool(null["std"].notnull().any()):
        return [Patch(color="#dddddd", label="unrelated ± 2 sd")]
    return [Line2D([], [], color=SOFT, linewidth=0.8, linestyle=_DOTTED, label="unrelated")]


def mesh(axes: Axes, values: xr.DataArray, norm: Normalize, signed: bool = False) -> QuadMesh:
    """Block against step in colour; what was not measured, or diverged, is grey."""
    steps = values.step.values.astype(float)
    blocks = values.block.values.astype(float)
    cells = values.transpose("block", "step").values
    colours = "RdBu_r" if signed else "viridis"
    borders = edges(steps)
    if steps.size > 1:  # nothing before the first measurement and after the last one
        borders[[0, -1]] = steps[[0, -1]]
    drawn = axes.pcolormesh(borders, edges(blocks), cells, norm=norm, cmap=colours, rasterized=True)
    axes.set_facecolor("#cccccc")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    step_axis(axes, label=False)
    return drawn


def edges(centres: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n+1"]:
    """Cell borders halfway between neighbours; one cell of width one around a single centre."""
    if centres.size == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def positive_range(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest positive value, at most eight decades apart."""
    positive = values[np.isfinite(values) & (values > 0)]
    high = float(positive.max())
    return max(float(positive.min()), 1e-8 * high), high


def limits(values: np.ndarray, signed: bool = False, *, logarithmic: bool = False) -> Normalize:
    """A scale from the least to the largest finite value, for signed ones with 0 in its middle.

    A logarithmic one has the positive values alone, down to eight decades below the largest.
    """
    finite = values[np.isfinite(values)]
    if logarithmic:
        low, high = positive_range(finite)
        return LogNorm(low, high if high > low else 10 * low)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    return Normalize(low, high if high > low else low + 1)


def handles(styles: Mapping[str, ArmStyle], *, marked: bool = False) -> list[Line2D | Patch]:
    """The entries of a legend of arms."""
    return [
        Line2D(
            [],
            [],
            label=name,
            marker=marker_style(style) if marked else None,
            markersize=4,
            color=style.colour,
            linestyle=line_style(style),
        )
        for name, style in styles.items()
    ]


def names_of(entries: Sequence[Line2D | Patch]) -> list[str]:
    """What a legend says."""
    return [str(entry.get_label()) for entry in entries]


def with_legend(figure: Figure, entries: Sequence[Line2D | Patch]) -> Figure:
    """The figure with a legend above its panels."""
    width = figure.get_figwidth()
    labels = [fitting(name, width - 0.5) for name in names_of(entries)]
    columns = legend_columns(names_of(entries), width)
    figure.legend(entries, labels, loc="upper center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=7, color="#999999")
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
