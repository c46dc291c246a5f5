"""The figures of a study for papers and slides, one function each: labelled arrays in, a Matplotlib figure out.

Nothing here touches Matplotlib's global state: figures are made by the object interface on the Agg canvas.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hopmix.lab._report_axis import PenaltyAxis, penalty_axis
from hopmix.lab._report_metrics import ASYMMETRY
from hopmix.lab._report_style import ArmStyle, arm_styles, line_style, marker_style
from hopmix.lab.statistics import spread, summarise

_WIDTH = 7.1  # inches: the text width of an A4 page
_PAGE = 9.2  # inches: what an A4 page leaves below a heading
_INK = "#333333"
_LABELS = {metric.key: metric.label for metric in ASYMMETRY}
_SHOWN_BLOCKS = 4
_LEGEND_COLUMNS = 4
_PENALTY_KINDS = ("broken", "broken-xavier")


def accuracy_against_penalty(accuracy: xr.DataArray) -> Figure:
    r"""Mean accuracy and standard error of the broken arms against $\lambda$; the other arms as bands.

    **Arguments:**

    - `accuracy`: (arm, seed), a fraction in [0, 1], with `kind` and `penalty` along `arm`.
    """
    styles, axis = arm_styles(accuracy), penalty_axis(accuracy)
    figure, panels = _panels(3.4, 1, 1, legend=len(styles))
    axes = panels[0, 0]
    for name, style in styles.items():
        one = accuracy.sel(arm=name)
        if str(one.kind.item()) not in _PENALTY_KINDS:
            _band(axes, one, style)
    for kind in _PENALTY_KINDS:
        _penalty_series(axes, accuracy.isel(arm=np.flatnonzero(accuracy.kind.values == kind)), styles, axis)
    _finish_penalty_axis(axes, axis)
    _title(axes, "test accuracy" if accuracy.name == "test_accuracy" else "validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return _with_legend(figure, styles, marked=True)


def learning_curves(metrics: xr.Dataset) -> Figure:
    """Validation accuracy and validation loss against the training step, one curve per arm.

    **Arguments:**

    - `metrics`: `validation_accuracy` and `validation_loss` with dimensions (arm, seed, step).
    """
    styles = arm_styles(metrics)
    figure, panels = _panels(3.2, 1, 2, legend=len(styles))
    left, right = panels[0]
    _curves(left, metrics.validation_accuracy, styles)
    _curves(right, metrics.validation_loss, styles)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    _title(left, "validation accuracy")
    _title(right, "validation loss")
    if bool((metrics.validation_loss > 0).any()):
        right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("training step")
    return _with_legend(figure, styles)


def asymmetry_curves(metric: xr.DataArray) -> Figure:
    """One index of asymmetry against the training step: a row per branch, a column per block (at most four).

    **Arguments:**

    - `metric`: (arm, seed, step, block, branch), named after the index.
    """
    shown, styles = _spread_blocks(metric.block.values), arm_styles(metric)
    figure, panels = _panels(4.4, metric.branch.size, len(shown), legend=len(styles), gap=(0.35, 0.15), shared=True)
    for (row, column), axes in np.ndenumerate(panels):
        one = metric.isel(branch=row).sel(block=shown[column])
        _curves(axes, one, styles)
        _title(axes, f"block {shown[column]}, {one.branch.item()}")
        if row == metric.branch.size - 1:
            axes.set_xlabel("training step")
    figure.supylabel(_LABELS.get(str(metric.name), str(metric.name)), fontsize=8, x=0.01)
    return _with_legend(figure, styles)


def asymmetry_map(metric: xr.DataArray) -> Figure:
    """Heat map of one index of asymmetry, block against training step: a row per arm, a column per branch.

    **Arguments:**

    - `metric`: (arm, seed, step, block, branch), named after the index; the mean over seeds is shown.
    """
    mean = metric.mean("seed")
    names = [str(name) for name in mean.arm.values]
    height = min(_PAGE, 0.9 + len(names) * max(0.7, 0.25 + 0.06 * mean.block.size))
    figure, panels = _panels(height, len(names), mean.branch.size, gap=(0.24, 0.2), edge=0.85, shared=True)
    norm = _limits(mean.values)
    for (row, column), axes in np.ndenumerate(panels):
        mesh = _mesh(axes, mean.isel(arm=row, branch=column), norm)
        _title(axes, f"{names[row]}: {mean.branch.values[column]}")
    panels[0, 0].invert_yaxis()  # the first block on top, as in the page
    for axes in panels[-1]:
        axes.set_xlabel("training step")
    for axes in panels[:, 0]:
        axes.set_ylabel("block")
    bar = figure.colorbar(mesh, cax=figure.add_axes((1 - 0.7 / _WIDTH, 0.3, 0.12 / _WIDTH, 0.5)))
    bar.ax.tick_params(labelsize=7)
    bar.set_label(_LABELS.get(str(metric.name), str(metric.name)), fontsize=8)
    return figure


def energy_descent(metrics: xr.Dataset) -> Figure:
    """Energy change of each block and the fraction of examples whose energy rises: per block at the end, and over time.

    **Arguments:**

    - `metrics`: `energy_change` and `energy_rise_fraction` with dimensions (arm, seed, step, block).
    """
    styles = arm_styles(metrics)
    figure, panels = _panels(5.2, 2, 2, legend=len(styles))
    for row, (name, label) in enumerate((("energy_change", "energy change"), ("energy_rise_fraction", "share rising"))):
        _per_block(panels[row, 0], metrics[name].isel(step=-1), styles)
        _curves(panels[row, 1], metrics[name].mean("block"), styles)
        _title(panels[row, 0], f"{label}, per block at the last step")
        _title(panels[row, 1], f"{label}, mean over blocks")
    for axes in panels[1]:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, max(axes.get_ylim()[1], 0.01))
    for axes in panels[0]:
        axes.axhline(0, color=_INK, linewidth=0.8, zorder=0)
    for axes, label in zip(panels[1], ("block", "training step")):
        axes.set_xlabel(label)
    return _with_legend(figure, styles)


def weight_pictures(pictures: Mapping[str, xr.DataArray], limits: Mapping[str, float]) -> Figure:
    """W^T, V and V - W^T side by side, one row per entry, on a diverging scale centred at 0.

    **Arguments:**

    - `pictures`: (part, visible, hidden) by row title, with the names of the parts along `part`.
    - `limits`: for each row the weight at the end of the colour scale, so that several figures can share it.
    """
    columns = next(iter(pictures.values())).part.size
    figure, panels = _panels(0.7 + len(pictures), len(pictures), columns, gap=(0.25, 0.12))
    for row, (title, picture) in enumerate(pictures.items()):
        _picture_row(panels[row], picture, title, limits[title])
    return figure


def _spread_blocks(blocks: np.ndarray) -> list[int]:
    """At most four blocks that span the depth, the first and the last among them."""
    chosen = np.unique(np.linspace(0, blocks.size - 1, min(_SHOWN_BLOCKS, blocks.size)).round().astype(int))
    return [int(blocks[index]) for index in chosen]


def _panels(
    height: float,
    rows: int,
    columns: int,
    *,
    legend: int = 0,
    gap: tuple[float, float] = (0.4, 0.5),
    edge: float = 0.12,
    shared: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure and its grid of axes, with fixed margins in inches: a layout engine would take longer than the drawing.

    `legend` counts its entries, four to a line above the panels; `gap` is between rows and between columns; `edge`
    is the right margin.
    """
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)
    left, right, bottom, top = 0.62, _WIDTH - edge, 0.42, height - 0.26 - 0.2 * -(-legend // _LEGEND_COLUMNS)
    room = (right - left - gap[1] * (columns - 1)) / columns, (top - bottom - gap[0] * (rows - 1)) / rows
    figure.subplots_adjust(
        left / _WIDTH, bottom / height, right / _WIDTH, top / height, wspace=gap[1] / room[0], hspace=gap[0] / room[1]
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for axes in panels.flat:
        _quiet(axes)
    return figure, panels


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, color="#999999")
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _title(axes: Axes, text: str) -> None:
    # An explicit y spares Matplotlib from measuring every tick label to find out whether one is in the way.
    axes.set_title(text, loc="left", pad=3, fontsize=8, y=1.0)


def _curves(axes: Axes, values: xr.DataArray, styles: Mapping[str, ArmStyle]) -> None:
    """Mean over seeds per arm, and the range over seeds as a band where there is more than one."""
    steps, over_seeds = values.step.values, spread(values)
    for name, style in styles.items():
        mean, low, high = (over_seeds[part].sel(arm=name).values for part in ("mean", "low", "high"))
        if values.seed.size > 1:
            axes.fill_between(steps, low, high, color=style.colour, alpha=0.15, linewidth=0)
        axes.plot(steps, mean, linewidth=1.3, color=style.colour, linestyle=line_style(style))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)


def _per_block(axes: Axes, values: xr.DataArray, styles: Mapping[str, ArmStyle]) -> None:
    over_seeds = spread(values)
    known = {name: style for name, style in styles.items() if bool(over_seeds["mean"].sel(arm=name).notnull().any())}
    for (name, style), shift in zip(known.items(), np.linspace(-0.15, 0.15, len(known)) * (len(known) > 1)):
        mean, low, high = (over_seeds[part].sel(arm=name).values for part in ("mean", "low", "high"))
        bars = np.stack([mean - low, high - mean])
        axes.errorbar(values.block.values + shift, mean, bars, color=style.colour, linestyle="none", linewidth=1)
        axes.plot(values.block.values + shift, mean, marker_style(style), color=style.colour, markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)


def _band(axes: Axes, values: xr.DataArray, style: ArmStyle) -> None:
    summary = summarise(values.values.astype(float))
    if not summary.n:
        return
    axes.axhline(summary.mean, linewidth=1.2, color=style.colour, linestyle=line_style(style))
    if summary.n > 1:
        low, high = summary.mean - summary.stderr, summary.mean + summary.stderr
        axes.axhspan(low, high, color=style.colour, alpha=0.15, linewidth=0)


def _penalty_series(axes: Axes, accuracy: xr.DataArray, styles: Mapping[str, ArmStyle], axis: PenaltyAxis) -> None:
    accuracy = accuracy.sortby("penalty")
    places = [axis.place(float(penalty)) for penalty in accuracy.penalty.values]
    axes.plot(places, accuracy.mean("seed").values, color="#999999", linewidth=1)
    for place, name in zip(places, accuracy.arm.values):
        style, values = styles[name], accuracy.sel(arm=name).values.astype(float)
        summary = summarise(values)
        axes.plot(np.full(values.size, place), values, ".", color=style.colour, alpha=0.35, markersize=5, mew=0)
        bar = summary.stderr if summary.n > 1 else None
        axes.errorbar(place, summary.mean, bar, fmt=marker_style(style), color=style.colour, capsize=3, markersize=6)


def _finish_penalty_axis(axes: Axes, axis: PenaltyAxis) -> None:
    axes.set_xlim(*axis.span)
    axes.set_xticks(axis.ticks, axis.labels)
    axes.set_xlabel("penalty λ on the breaking" if axis.ticks else "no broken arm in this study")
    if axis.zero is not None and len(axis.ticks) > 1:
        middle = (axis.ticks[0] + axis.ticks[1]) / 2
        axes.plot(
            middle, 0, marker="$//$", color=_INK, markersize=8, clip_on=False, transform=axes.get_xaxis_transform()
        )


def _mesh(axes: Axes, values: xr.DataArray, norm: Normalize) -> QuadMesh:
    steps, blocks = values.step.values.astype(float), values.block.values.astype(float)
    mesh = axes.pcolormesh(
        _edges(steps),
        _edges(blocks),
        values.transpose("block", "step").values,
        norm=norm,
        cmap="viridis",
        rasterized=True,
    )
    axes.set_facecolor("#eeeeee")  # what is not measured, or diverged, is grey
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return mesh


def _edges(centres: np.ndarray) -> np.ndarray:
    """Cell borders halfway between neighbours; one cell of width one around a single centre."""
    if centres.size == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def _limits(values: np.ndarray) -> Normalize:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1)


def _picture_row(panels: np.ndarray, picture: xr.DataArray, title: str, limit: float) -> None:
    shape = f"{picture.sizes['visible']} visible × {picture.sizes['hidden']} hidden"
    for axes, part, note in zip(panels, picture.part.values, (shape, f"scale ±{limit:.2g}", "")):
        axes.imshow(picture.sel(part=part).values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        _title(axes, str(part))
        axes.set_title(note, loc="right", pad=3, fontsize=6, color="#666666", y=1.0)
        axes.set_axis_off()
    left = panels[0]
    left.text(-0.03, 0.5, title, rotation=90, ha="right", va="center", fontsize=8, transform=left.transAxes)


def _with_legend(figure: Figure, styles: Mapping[str, ArmStyle], *, marked: bool = False) -> Figure:
    handles = [
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
    figure.legend(
        handles=handles, loc="upper center", ncols=min(_LEGEND_COLUMNS, len(handles)), fontsize=8, frameon=False
    )
    return figure
