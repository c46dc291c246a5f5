"""The figures of a study for papers and slides, one function each: labelled arrays in, a Matplotlib
figure out.

Each takes its `width` in inches: a text width by default, 3.4 for a column of two. Fonts keep their
size.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from hopmix.lab.statistics import spread, summarise
from hopmix.lab.store.earlier import Labelled, with_names_of_today
from hopmix.plot.axis import StrengthAxis, is_penalised, strength_axis
from hopmix.plot.panels import (
    INK,
    PAGE,
    SOFT,
    WIDTH,
    across,
    curves,
    described,
    figure_width,
    fitting,
    grid_lines,
    handles,
    head,
    heading,
    limits,
    mesh,
    names_of,
    null_band,
    null_handles,
    panels,
    positive_range,
    title,
    with_legend,
)
from hopmix.plot.style import ArmStyle, arm_styles, line_style, marker_style


def accuracy_against_strength(accuracy: xr.DataArray, *, width: float = WIDTH) -> Figure:
    r"""Mean accuracy and standard error of the penalised arms against $\lambda$; the other arms as
    bands.

    **Arguments:**

    - `accuracy`: (arm, seed), a fraction in [0, 1], with `kind` and `strength` along `arm`, NaN
      where there is none.
    - `width`: of the figure, in inches.
    """
    accuracy = with_names_of_today(accuracy)
    styles = arm_styles(accuracy)
    axis = strength_axis(accuracy)
    figure, grid = panels(width, 3.4, 1, 1, legend=list(styles))
    axes = grid[0, 0]
    for name, style in styles.items():
        one = accuracy.sel(arm=name)
        if np.isnan(float(one.strength)):
            _band(axes, one, style)
    for arms in penalised_by_kind(accuracy):
        _series(axes, arms, styles, axis)
    _finish_strength_axis(axes, axis)
    title(axes, accuracy_label(accuracy))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return with_legend(figure, handles(styles, marked=True))


def accuracy_label(accuracy: xr.DataArray) -> str:
    """Of which split an accuracy is."""
    if accuracy.name == "test_accuracy":
        return "test accuracy"
    return "validation accuracy"


def learning_curves(metrics: xr.Dataset, *, width: float = WIDTH) -> Figure:
    """Validation accuracy and validation loss against the training step, one curve per arm.

    **Arguments:**

    - `metrics`: `validation_accuracy` and `validation_loss` with dimensions (arm, seed, step).
    - `width`: of the figure, in inches.
    """
    styles = arm_styles(metrics)
    columns = across(width, 2, 3.0)
    figure, grid = panels(
        width, 3.2 if columns == 2 else 4.6, 2 // columns, columns, legend=list(styles)
    )
    left, right = grid.flat
    curves(left, metrics.validation_accuracy, styles)
    curves(right, metrics.validation_loss, styles)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    title(left, "validation accuracy")
    title(right, "validation loss")
    if bool((metrics.validation_loss > 0).any()):
        right.set_yscale("log")
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    return with_legend(figure, handles(styles))


def asymmetry_curves(
    metric: xr.DataArray,
    *,
    null: xr.Dataset | None = None,
    logarithmic: bool = False,
    width: float = WIDTH,
) -> Figure:
    """One index of asymmetry against the training step: a row per branch, a column per block.

    Blocks that span the depth are shown, at most four in a text width and two in a column. Steps
    that were not measured are left out.

    **Arguments:**

    - `metric`: (arm, seed, step, block) or (arm, seed, step, block, branch), named after the index.
    - `null`: `mean` and `std` of independent weights, such as (arm, branch), drawn as a line and a
      band.
    - `logarithmic`: the vertical axis, if anything is above 0; what is 0 has no place there.
    - `width`: of the figure, in inches.
    """
    metric, styles = _by_branch(metric), arm_styles(metric)
    shown = spread_blocks(metric.block.values, width)
    rows = metric.branch.size
    entries = [*handles(styles), *null_handles(null)]
    figure, grid = panels(
        *(width, 1.0 + 1.7 * rows, rows, len(shown)),
        legend=names_of(entries),
        gap=(0.35, 0.15),
        share=("all", "all"),
    )
    for (row, column), axes in np.ndenumerate(grid):
        branch = str(metric.branch.values[row])
        if null is not None:
            null_band(axes, null.sel(branch=branch) if "branch" in null.dims else null)
        curves(axes, metric.isel(branch=row).sel(block=shown[column]), styles)
        title(axes, f"block {shown[column]}{', ' * bool(branch)}{branch}")
    if logarithmic and bool((metric > 0).any()):
        _logarithmic(grid[0, 0], metric.values)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    figure.supylabel(described(metric).label, fontsize=8, x=0.07 / width)
    return with_legend(figure, entries)


def asymmetry_map(
    metric: xr.DataArray, *, logarithmic: bool = False, width: float = WIDTH
) -> Figure:
    """Heat map of one index, block against training step: a row per arm, a column per branch.

    Only steps at which something was measured are shown, each out to halfway to its neighbours. The
    colour scale of an index that can have either sign has 0 in its middle.

    **Arguments:**

    - `metric`: (arm, seed, step, block) or (arm, seed, step, block, branch), named after the index;
        the mean over seeds is shown.
    - `logarithmic`: the colour scale, if anything is above 0; what is 0 is grey then.
    - `width`: of the figure, in inches.
    """
    mean = _by_branch(measured_steps(metric)).mean("seed")
    names = [str(name) for name in mean.arm.values]
    what = described(metric)
    height = min(PAGE, 1.1 + len(names) * max(0.7, 0.25 + 0.06 * mean.block.size))
    heads = 1 + bool(mean.branch.values[0])
    figure, grid = panels(
        width,
        height,
        len(names),
        mean.branch.size,
        heads=heads,
        gap=(0.24, 0.2),
        edge=0.7,
        share=("all", "all"),
    )
    logarithmic = logarithmic and bool((mean > 0).any())
    norm = limits(mean.values, what.signed, logarithmic=logarithmic)
    drawn = [
        mesh(axes, mean.isel(arm=i, branch=k), norm, what.signed)
        for (i, k), axes in np.ndenumerate(grid)
    ]
    grid[0, 0].invert_yaxis()  # the first block on top, as in the page
    for name, axes in zip(names, grid[:, 0]):
        title(axes, name)
        axes.set_ylabel("block")
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    for branch, axes in zip(mean.branch.values, grid[0]):
        head(axes, str(branch), lines=1)
    heading(figure, what.label)
    place = figure.add_axes((1 - 0.58 / width, 0.3, 0.1 / width, 0.45))
    ticks = None if logarithmic else MaxNLocator(4)
    bar = figure.colorbar(drawn[0], cax=place, ticks=ticks)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    return figure


def energy_descent(metrics: xr.Dataset, *, width: float = WIDTH) -> Figure:
    """Energy change of each block and the fraction of examples whose energy rises: per block at the
    end, and over time.

    **Arguments:**

    - `metrics`: `energy_change` and `energy_rise_fraction` with dimensions (arm, seed, step,
      block).
    - `width`: of the figure, in inches.
    """
    styles = arm_styles(metrics)
    columns = across(width, 2, 3.0)
    height, gap = (5.2, 0.4) if columns == 2 else (8.2, 0.55)
    figure, grid = panels(width, height, 4 // columns, columns, legend=list(styles), gap=(gap, 0.5))
    rows = grid.reshape(2, 2)
    for row, (name, label) in enumerate(
        (("energy_change", "energy change"), ("energy_rise_fraction", "share rising"))
    ):
        _per_block(rows[row, 0], metrics[name].isel(step=-1), styles)
        curves(rows[row, 1], metrics[name].mean("block"), styles)
        title(rows[row, 0], f"{label} per block, last step")
        title(rows[row, 1], f"{label}, mean over blocks")
    for axes in rows[1]:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, max(axes.get_ylim()[1], 0.01))
    for axes in rows[0]:
        axes.axhline(0, color=INK, linewidth=0.8, zorder=0)
    for axes, label in zip(rows[1], ("block", "training step")):
        axes.set_xlabel(label)
    return with_legend(figure, handles(styles))


def weight_pictures(
    pictures: Mapping[str, xr.DataArray], limits: Mapping[str, float], *, width: float = WIDTH
) -> Figure:
    """W^T, V and V - W^T side by side, one row per entry, on a diverging scale centred at 0.

    **Arguments:**

    - `pictures`: (part, visible, hidden) by row title, with the names of the parts along `part`.
    - `limits`: for each row the weight at the end of the colour scale, so that several figures can
      share it.
    - `width`: of the figure, in inches.
    """
    columns = next(iter(pictures.values())).part.size
    figure, grid = panels(width, 0.7 + len(pictures), len(pictures), columns, gap=(0.25, 0.12))
    for row, (name, picture) in enumerate(pictures.items()):
        _picture_row(grid[row], picture, name, limits[name])
    return figure


def _logarithmic(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis, of this panel and those that share it, with a tick per power of ten."""
    low, high = positive_range(values)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.yaxis.set_minor_locator(
        NullLocator()
    )  # drawing nine of each power would take half of the time


def measured_steps(values: xr.DataArray) -> xr.DataArray:
    """The array without the steps at which nothing was measured; as it is where nothing was at
    any.
    """
    kept = values.dropna("step", how="all")
    if kept.step.size:
        return kept
    return values


def spread_blocks(blocks: np.ndarray, width: float) -> list[int]:
    """Blocks that span the depth, the first and the last among them: as many as stand side by side,
    at most four.
    """
    chosen = np.unique(
        np.linspace(0, blocks.size - 1, across(width, min(4, blocks.size), 1.8)).round().astype(int)
    )
    return [int(blocks[index]) for index in chosen]


def _by_branch(metric: xr.DataArray) -> xr.DataArray:
    """What is measured of whole blocks as one branch without a name."""
    if "branch" in metric.dims:
        return metric
    return metric.expand_dims(branch=[""], axis=-1)


def _per_block(axes: Axes, values: xr.DataArray, styles: Mapping[str, ArmStyle]) -> None:
    over_seeds = spread(values)
    known = {
        name: style
        for name, style in styles.items()
        if bool(over_seeds["mean"].sel(arm=name).notnull().any())
    }
    for (name, style), shift in zip(
        known.items(), np.linspace(-0.15, 0.15, len(known)) * (len(known) > 1)
    ):
        mean = over_seeds["mean"].sel(arm=name).values
        low = over_seeds["low"].sel(arm=name).values
        high = over_seeds["high"].sel(arm=name).values
        bars = np.stack([mean - low, high - mean])
        axes.errorbar(
            values.block.values + shift,
            mean,
            bars,
            color=style.colour,
            linestyle="none",
            linewidth=1,
        )
        axes.plot(
            values.block.values + shift, mean, marker_style(style), color=style.colour, markersize=4
        )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    grid_lines(axes)


def _band(axes: Axes, values: xr.DataArray, style: ArmStyle) -> None:
    summary = summarise(values.values.astype(float))
    if not summary.n:
        return
    axes.axhline(summary.mean, linewidth=1.2, color=style.colour, linestyle=line_style(style))
    if summary.n > 1:
        low = summary.mean - summary.stderr
        high = summary.mean + summary.stderr
        axes.axhspan(low, high, color=style.colour, alpha=0.15, linewidth=0)


def penalised_by_kind(arms: Labelled) -> list[Labelled]:
    """The arms with a penalty, those of each kind in the order of their strengths."""
    arms = with_names_of_today(arms)
    if "strength" not in arms.coords or "kind" not in arms.coords:
        return []
    penalised = arms.isel(arm=np.flatnonzero(is_penalised(arms)))
    kinds = dict.fromkeys(str(kind) for kind in penalised.kind.values)
    return [
        penalised.isel(arm=np.flatnonzero(penalised.kind.values == kind)).sortby("strength")
        for kind in kinds
    ]


def _series(
    axes: Axes, accuracy: xr.DataArray, styles: Mapping[str, ArmStyle], axis: StrengthAxis
) -> None:
    places = [axis.place(float(strength)) for strength in accuracy.strength.values]
    axes.plot(places, accuracy.mean("seed").values, color="#999999", linewidth=1)
    for place, name in zip(places, accuracy.arm.values):
        values = accuracy.sel(arm=name).values.astype(float)
        point(axes, np.full(values.size, place), values, styles[name])


def point(axes: Axes, x: np.ndarray, y: np.ndarray, style: ArmStyle) -> None:
    """The seeds of an arm as dots, their mean as a mark with one standard error in each direction
    that has a spread.
    """
    across = summarise(x)
    up = summarise(y)
    axes.plot(x, y, ".", color=style.colour, alpha=0.35, markersize=5, mew=0)
    bars = up.stderr if up.n > 1 else None, across.stderr if across.stderr > 0 else None
    mark = marker_style(style)
    colour = style.colour
    axes.errorbar(
        across.mean, up.mean, *bars, fmt=mark, color=colour, capsize=2, elinewidth=1, markersize=6
    )


def _finish_strength_axis(axes: Axes, axis: StrengthAxis) -> None:
    axes.set_xlim(*axis.span)
    axes.set_xticks(axis.ticks, _apart(axis, axes.get_position().width * figure_width(axes)))
    axes.set_xlabel(
        "strength λ of the penalty" if axis.ticks else "no arm with a penalty in this study"
    )
    if axis.zero is not None and len(axis.ticks) > 1:
        middle = (axis.ticks[0] + axis.ticks[1]) / 2
        axes.plot(
            middle,
            0,
            marker="$//$",
            color=INK,
            markersize=8,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )


def _apart(axis: StrengthAxis, room: float) -> list[str]:
    """The labels of ticks, left out where they would touch the one before."""
    labels = []
    last = -np.inf
    inch = (axis.span[1] - axis.span[0]) / room
    for tick, label in zip(axis.ticks, axis.labels):
        kept = tick - last > 0.42 * inch
        last = tick if kept else last
        labels.append(label if kept else "")
    return labels


def _picture_row(row: np.ndarray, picture: xr.DataArray, name: str, limit: float) -> None:
    visible = picture.sizes["visible"]
    hidden = picture.sizes["hidden"]
    if figure_width(row[0]) > 5:
        shape = f"{visible} visible × {hidden} hidden"
    else:
        shape = f"{visible} × {hidden}"
    for axes, part, note in zip(row, picture.part.values, (shape, f"scale ±{limit:.2g}", "")):
        axes.imshow(
            picture.sel(part=part).values,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
        )
        title(axes, str(part))
        axes.set_title(note, loc="right", pad=3, fontsize=6, color=SOFT, y=1.0)
        axes.set_axis_off()
    left = row[0]
    height = left.get_position().height * left.get_figure().get_figheight()
    left.text(
        -0.03,
        0.5,
        fitting(name, height + 0.2),
        rotation=90,
        ha="right",
        va="center",
        fontsize=7,
        transform=left.transAxes,
    )
