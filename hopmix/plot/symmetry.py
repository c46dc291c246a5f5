"""Figures of how symmetry is lost and what it does: alignment, spectra, onset, fields, and accuracy
against symmetry.

As in `hopmix.plot.training`: labelled arrays in, a Matplotlib figure out, `width` in inches.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import LineStyleType

from hopmix._coupling import Coupling
from hopmix.lab.probes.layout import branch_label
from hopmix.lab.statistics import spread
from hopmix.plot.panels import (
    INK,
    PAGE,
    SOFT,
    WIDTH,
    across,
    curves,
    described,
    fitting,
    grid_lines,
    handles,
    head,
    names_of,
    null_band,
    null_handles,
    panels,
    step_axis,
    title,
    with_legend,
)
from hopmix.plot.pictures import HIDDEN, VISIBLE
from hopmix.plot.style import BRANCHES, ArmStyle, arm_styles
from hopmix.plot.training import (
    accuracy_label,
    measured_steps,
    penalised_by_kind,
    point,
    spread_blocks,
)
from hopmix.symmetry.weights import unit_cosines

FIELDS = ("field_asymmetry", "dissipation", "work", "margin_used")
_unit_cosines = jax.jit(unit_cosines)
_MARGIN, _GAPS = 0.32, (0.08, 0.36)  # inches: left of the spectra, and between them
_REFERENCES = {"field_asymmetry": 0.5**0.5, "work": 0.0, "margin_used": 1.0}
"""Independent entries of the Jacobian; no work; where descent is no longer certain."""


class Aligned(NamedTuple):
    """The weights of one coupling with hidden units in order of the cosine of v and w, the largest
    first.

    - `up`, `down`: W and V^T (hidden, visible).
    - `cosines`: of each hidden unit; NaN, at the end, where v or w is zero.
    """

    up: Float[np.ndarray, "hidden visible"]
    down: Float[np.ndarray, "hidden visible"]
    cosines: Float[np.ndarray, " hidden"]


def align(picture: xr.DataArray) -> Aligned:
    """Sort the hidden units of one coupling by the cosine of their outgoing and incoming weights.

    **Arguments:**

    - `picture`: (part, visible, hidden), the first two parts $W^T$ and $V$.
    """
    tied = picture.isel(part=0).transpose("hidden", "visible").values
    down = picture.isel(part=1).transpose("hidden", "visible").values
    cosines = np.asarray(
        _unit_cosines(Coupling.from_weights(jnp.asarray(tied), jnp.asarray(down.T)))
    )
    aligned = np.where(
        cosines > 1 - 1e-5, 1, cosines
    )  # rounding must not shuffle units that are all aligned
    order = np.argsort(-aligned, kind="stable")
    return Aligned(tied[order], down[order], cosines[order])


def alignment(
    pictures: Mapping[str, xr.DataArray], limit: float, *, width: float = WIDTH
) -> Figure:
    r"""W and V^T side by side with hidden units from the most to the least aligned, their cosines
    beside them.

    A row of pixels is a hidden unit, the same in both pictures; where V = W^T they are equal. The
    grey band holds 95 % of the cosines of independent weights, $\pm 2/\sqrt n$. Of larger matrices
    every k-th unit in this order and the first 96 visible units are drawn.

    **Arguments:**

    - `pictures`: (part, visible, hidden) by row title, the first two parts $W^T$ and $V$.
    - `limit`: the weight at the end of the colour scale.
    - `width`: of the figure, in inches.
    """
    rows = len(pictures)
    height = min(PAGE, 0.9 + rows * (1.25 if width > 5 else 1.1))
    figure, grid = panels(
        width,
        height,
        rows,
        3,
        heads=1,
        gap=(0.26, 0.14),
        ratios=(1.0, 1.0, 0.8),
        share=("none", "row"),
    )
    for row, (name, picture) in zip(grid, pictures.items()):
        _alignment_row(row, align(picture), name, limit)
    for axes, text in zip(grid[0], ("W", "Vᵀ", "cos(v, w)")):
        head(axes, text, lines=1)
    figure.supylabel("hidden units, sorted by cos(v, w)", fontsize=8, x=0.07 / width)
    for axes in grid[-1, :2]:
        axes.set_xlabel("visible units")
    for axes in grid[:-1].flat:
        axes.tick_params(labelbottom=False)
    return figure


def _alignment_row(row: np.ndarray, aligned: Aligned, name: str, limit: float) -> None:
    hidden, visible = aligned.up.shape
    shown = np.linspace(0, hidden - 1, min(hidden, HIDDEN)).round().astype(int)
    extent = (0, min(visible, VISIBLE), hidden, 0)
    scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "aspect": "auto", "extent": extent}
    for axes, weights in zip(row, (aligned.up, aligned.down)):
        axes.imshow(weights[shown, :VISIBLE], interpolation="nearest", **scale)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    row[1].tick_params(labelleft=False)
    title(row[0], name)
    _cosine_curve(row[2], aligned.cosines, visible)


def _cosine_curve(axes: Axes, cosines: Float[np.ndarray, " hidden"], visible: int) -> None:
    axes.axvspan(-2 / visible**0.5, 2 / visible**0.5, color="#dddddd", linewidth=0)
    axes.axvline(0, color=SOFT, linewidth=0.6)
    axes.plot(cosines, np.arange(cosines.size) + 0.5, color=INK, linewidth=1.3)
    axes.set_xlim(-1.08, 1.08)
    axes.set_xticks([-1, 0, 1])
    axes.tick_params(labelleft=False)


def spectra(spectrum: xr.Dataset, *, width: float = WIDTH) -> Figure:
    r"""The eigenvalues of VW in the complex plane through training: a row per arm, measured steps
    from left to right.

    In units of the largest modulus of each member, whose circle is drawn; the number is its mean
    over seeds. All seeds are drawn. A symmetric product has real eigenvalues.

    **Arguments:**

    - `spectrum`: `eigenvalue_real` and `eigenvalue_imaginary`, (arm, seed, step, eigenvalue), NaN
      where there are none.
    - `width`: the most that the figure takes, in inches.
    """
    real = measured_steps(spectrum.eigenvalue_real)
    values = real + 1j * spectrum.eigenvalue_imaginary.sel(step=real.step)
    values = values.isel(
        step=_evenly(values.step.size, across(width - _MARGIN, values.step.size, 0.95))
    )
    rows = values.arm.size
    columns = values.step.size
    cell = min(1.25, (width - _MARGIN - 0.1) / columns - _GAPS[0], (PAGE - 0.6) / rows - _GAPS[1])
    figure, plane = _planes(rows, columns, cell)
    for row, (name, style) in enumerate(arm_styles(spectrum).items()):
        top = -row * (1 + _GAPS[1] / cell)
        plane.text(0, top + 0.04 / cell, fitting(name, columns * cell), fontsize=8, va="bottom")
        for column in range(columns):
            corner = column * (1 + _GAPS[0] / cell), top
            _complex_plane(plane, corner, values.isel(arm=row, step=column), style.colour)
    for column, step in enumerate(values.step.values):
        place = column * (1 + _GAPS[0] / cell), 0.24 / cell
        plane.text(
            *place, f"{step:,}" if column else f"step {step:,}", fontsize=8, color=SOFT, va="bottom"
        )
    return figure


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _planes(rows: int, columns: int, cell: float) -> tuple[Figure, Axes]:
    """One panel for all planes, with a cell as its unit: many small panels would take most of the
    time of a report.
    """
    across = columns * (cell + _GAPS[0]) - _GAPS[0]
    down = rows * (cell + _GAPS[1]) + 0.15
    width = max(2.4, _MARGIN + across + 0.1)
    height = 0.4 + down
    figure, grid = panels(width, height, 1, 1)
    plane = grid[0, 0]
    plane.set_position((_MARGIN / width, 0.4 / height, across / width, down / height))
    plane.set(
        xlim=(0, across / cell),
        ylim=(-rows - (rows - 1) * _GAPS[1] / cell, (_GAPS[1] + 0.15) / cell),
    )
    plane.set_axis_off()
    figure.supxlabel("Re λ / max |λ|", fontsize=8, x=_MARGIN / width, ha="left", y=0.08 / height)
    figure.supylabel("Im λ / max |λ|", fontsize=8, x=0.1 / width)
    return figure, plane


def _complex_plane(
    plane: Axes, corner: tuple[float, float], values: xr.DataArray, colour: str
) -> None:
    """A unit circle whose box has the given corner, upper left, and the eigenvalues in units of the
    largest.
    """
    x = corner[0] + 0.5
    y = corner[1] - 0.5
    sizes = abs(values).max("eigenvalue")
    scaled = np.asarray(values / sizes.where(sizes > 0), dtype=complex).ravel()
    scaled = scaled[np.isfinite(scaled)]
    plane.add_patch(
        Circle((x, y), 0.5, fill=False, edgecolor="#aaaaaa", linewidth=0.6, clip_on=False)
    )
    plane.plot(
        [x - 0.5, x + 0.5, np.nan, x, x],
        [y, y, np.nan, y - 0.5, y + 0.5],
        color="#cccccc",
        linewidth=0.5,
    )
    look = {
        "marker": "o",
        "linestyle": "none",
        "markersize": 2.2,
        "alpha": 0.6,
        "markeredgewidth": 0,
    }
    plane.plot(
        x + np.real(scaled) / 2, y + np.imag(scaled) / 2, color=colour, clip_on=False, **look
    )
    if scaled.size:
        note = f"|λ| ≤ {float(sizes.mean()):.2g}"
        plane.text(x + 0.5, y - 0.5, note, fontsize=6, color=SOFT, ha="right", va="top")


def accuracy_against_symmetry(
    index: xr.DataArray,
    accuracy: xr.DataArray,
    *,
    null: xr.Dataset | None = None,
    width: float = WIDTH,
) -> Figure:
    r"""Accuracy against an index of symmetry, a panel per branch: dots are seeds, marks arms with
    standard errors.

    Broken arms are joined in the order of $\lambda$.

    **Arguments:**

    - `index`: (arm, seed) or (arm, seed, branch), named after the index.
    - `accuracy`: (arm, seed), a fraction in [0, 1].
    - `null`: `mean` and `std` of independent weights, such as (arm, branch), drawn as a line and a
      band.
    - `width`: of the figure, in inches.
    """
    if "branch" in index.dims:
        index = index
    else:
        index = index.expand_dims(branch=[""])
    styles = arm_styles(accuracy)
    columns = across(width, index.branch.size, 2.6)
    rows = -(-index.branch.size // columns)
    entries = [*handles(styles, marked=True), *null_handles(null)]
    names = names_of(entries)
    figure, grid = panels(
        width, 1.1 + 2.1 * rows, rows, columns, legend=names, gap=(0.4, 0.25), share=("all", "all")
    )
    for axes, branch in zip(grid.flat, index.branch.values):
        one = index.sel(branch=branch)
        if null is not None:
            null_band(
                axes, null.sel(branch=branch) if "branch" in null.dims else null, upright=True
            )
        _scatter(axes, one, accuracy, styles)
        title(
            axes,
            f"{accuracy_label(accuracy)}, {branch_label(branch)}"
            if branch
            else accuracy_label(accuracy),
        )
        axes.xaxis.set_major_locator(MaxNLocator(5))
    for axes in grid[-1]:
        axes.set_xlabel(described(index).label)
    for axes in grid[:, 0]:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return with_legend(figure, entries)


def _scatter(
    axes: Axes, index: xr.DataArray, accuracy: xr.DataArray, styles: Mapping[str, ArmStyle]
) -> None:
    both = xr.Dataset({"x": index.astype(float), "y": accuracy.astype(float)})
    both = both.where(both.x.notnull() & both.y.notnull())
    for arms in penalised_by_kind(both):
        path = arms.mean("seed")
        axes.plot(path.x, path.y, color="#999999", linewidth=1)
    for name, style in styles.items():
        one = both.sel(arm=name)
        if bool(one.x.notnull().any()):
            point(axes, one.x.values, one.y.values, style)
    grid_lines(axes)


def rates_of_breaking(metrics: xr.Dataset) -> xr.Dataset:
    r"""The predicted and the measured rate of breaking, `predicted` and `measured` (arm, seed,
    step, block, branch).

    Measured from each step to the next measurement, $(r_{i+1} - r_i)/(t_{i+1} - t_i)$ with the
    breaking ratio $r$; predicted at the step itself, and NaN where the next update is empty. The
    two agree as far as the rate is steady between measurements.

    **Arguments:**

    - `metrics`: `breaking_ratio` and `breaking_rate`, (arm, seed, step, block, branch).
    """
    ratio = metrics.breaking_ratio
    step = metrics.step
    measured = ratio.diff("step", label="lower") / step.diff("step", label="lower")
    predicted = metrics.breaking_rate.where(metrics.breaking_rate != 0)
    return xr.Dataset({"predicted": predicted, "measured": measured.reindex(step=step)})


def onset(metrics: xr.Dataset, *, width: float = WIDTH) -> Figure:
    """How fast each arm breaks its symmetry, in growth of the breaking ratio per 1,000 steps:
    predicted and measured.

    Left: the mean over blocks, from each measurement to the next (lines), and predicted from the
    next update alone (marks); bands and bars are the range over seeds. Right: each block, mean and
    range over seeds, at the steps that have both; marks are filled at the first of them. On the
    diagonal prediction and measurement agree.

    **Arguments:**

    - `metrics`: `breaking_ratio` and `breaking_rate`, (arm, seed, step, block, branch), of the arms
      to show.
    - `width`: of the figure, in inches.
    """
    rates = 1000 * rates_of_breaking(metrics)
    names = [str(name) for name in metrics.arm.values]
    height = min(PAGE, 1.1 + len(names) * (1.9 if width > 5 else 1.5))
    entries = _branch_handles([str(branch) for branch in rates.branch.values])
    labels = names_of(entries)
    gap = (0.42, 0.75 if width > 5 else 0.5)
    figure, grid = panels(
        width, height, len(names), 2, legend=labels, heads=1, gap=gap, ratios=(1.6, 1.0)
    )
    for name, row in zip(names, grid):
        one = rates.sel(arm=name)
        for k in range(one.branch.size):
            _rates_over_steps(row[0], one.isel(branch=k), BRANCHES[k % len(BRANCHES)])
        _agreement(row[1], one)
        title(row[0], name)
    head(grid[0, 0], "growth of the breaking ratio per 1,000 steps", lines=1)
    for axes, text in zip(grid[-1], ("training step", "predicted")):
        axes.set_xlabel(text)
    for axes in grid[:, 1]:
        axes.set_ylabel("measured")
    return with_legend(figure, entries)


def _branch_handles(branches: list[str]) -> list:
    lines = [
        Line2D([], [], color=colour, linestyle=dash, label=f"{branch}, measured")
        for branch, (colour, _, dash) in zip(branches, itertools.cycle(BRANCHES))
    ]
    marks = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=4,
            label=f"{branch}, predicted",
        )
        for branch, (colour, marker, _) in zip(branches, itertools.cycle(BRANCHES))
    ]
    return [*lines, *marks]


def _rates_over_steps(axes: Axes, rates: xr.Dataset, style: tuple[str, str, LineStyleType]) -> None:
    colour, marker, dash = style
    measured = spread(rates["measured"].mean("block")).dropna("step")
    predicted = spread(rates["predicted"].mean("block")).dropna("step")
    borders = np.append(measured.step.values, rates.step.values[-1:])
    if measured.step.size:
        axes.stairs(
            measured["mean"], borders, color=colour, linestyle=dash, linewidth=1.3, baseline=None
        )
        axes.stairs(
            measured["high"],
            borders,
            baseline=measured["low"].values,
            color=colour,
            alpha=0.15,
            fill=True,
        )
    bars = np.stack([predicted["mean"] - predicted["low"], predicted["high"] - predicted["mean"]])
    axes.errorbar(
        predicted.step,
        predicted["mean"],
        bars,
        fmt=marker,
        color=colour,
        markersize=4,
        elinewidth=1,
    )
    axes.axhline(0, color=SOFT, linewidth=0.6, zorder=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    step_axis(axes, label=False)
    grid_lines(axes)


def _agreement(axes: Axes, rates: xr.Dataset) -> None:
    both = rates.where(rates.predicted.notnull() & rates.measured.notnull()).dropna(
        "step", how="all"
    )
    over_seeds = {name: spread(both[name]) for name in ("predicted", "measured")}
    for k in range(both.branch.size):
        for i in range(both.step.size):
            colour, marker, _ = BRANCHES[k % len(BRANCHES)]
            x = over_seeds["predicted"].isel(step=i, branch=k)
            y = over_seeds["measured"].isel(step=i, branch=k)
            bars = [np.stack([v["mean"] - v["low"], v["high"] - v["mean"]]) for v in (y, x)]
            face = colour if i == 0 else "white"
            axes.errorbar(
                x["mean"],
                y["mean"],
                *bars,
                fmt=marker,
                color=colour,
                mfc=face,
                markersize=4,
                elinewidth=0.8,
            )
    _diagonal(
        axes, np.concatenate([values.to_array().values.ravel() for values in over_seeds.values()])
    )


def _diagonal(axes: Axes, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    low, high = (min(0.0, float(finite.min())), float(finite.max())) if finite.size else (0.0, 1.0)
    room = 0.08 * (high - low) or 1.0
    ends = (low - room, high + room)
    axes.plot(ends, ends, color=SOFT, linewidth=0.8, zorder=0)
    axes.set(xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3))
    if not finite.size:
        axes.text(
            0.5,
            0.5,
            "no step has both",
            fontsize=7,
            color=SOFT,
            ha="center",
            transform=axes.transAxes,
        )


def fields(metrics: xr.Dataset, *, width: float = WIDTH) -> Figure:
    r"""What kind of vector field each block is, through training: a row per quantity, a column per
    block.

    Means and ranges over seeds; bars of the field asymmetry are its standard error, from random
    probes and images. Dotted: $\sqrt{1/2}$ for a Jacobian of independent entries, no work, and a
    descent margin that is used up.

    **Arguments:**

    - `metrics`: any of `field_asymmetry` (with `field_asymmetry_stderr`), `dissipation`, `work` and
        `margin_used`, (arm, seed, step, block); steps that were not measured are left out.
    - `width`: of the figure, in inches.
    """
    shown = spread_blocks(metrics.block.values, width)
    styles = arm_styles(metrics)
    present = [name for name in FIELDS if name in metrics]
    height = min(PAGE, 0.9 + 1.6 * len(present))
    figure, grid = panels(
        width,
        height,
        len(present),
        len(shown),
        legend=list(styles),
        gap=(0.2, 0.15),
        share=("all", "row"),
    )
    for name, row in zip(present, grid):
        for block, axes in zip(shown, row):
            curves(axes, metrics[name].sel(block=block), styles)
            if name in _REFERENCES:
                axes.axhline(
                    _REFERENCES[name], color=SOFT, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=0
                )
            axes.yaxis.set_major_locator(MaxNLocator(4))
        row[0].set_ylabel(described(metrics[name]).label)
    if "field_asymmetry" in present and "field_asymmetry_stderr" in metrics:
        for block, axes in zip(shown, grid[present.index("field_asymmetry")]):
            _standard_errors(axes, metrics.sel(block=block), styles)
    for block, axes in zip(shown, grid[0]):
        title(axes, f"block {block}")
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    return with_legend(figure, handles(styles))


def _standard_errors(axes: Axes, metrics: xr.Dataset, styles: Mapping[str, ArmStyle]) -> None:
    """Of the mean over seeds, each with its own error."""
    errors = metrics.field_asymmetry_stderr
    error = (errors**2).sum("seed") ** 0.5 / errors.notnull().sum("seed")
    for name, style in styles.items():
        mean = metrics.field_asymmetry.sel(arm=name).mean("seed").dropna("step")
        bars = error.sel(arm=name, step=mean.step)
        axes.errorbar(
            mean.step, mean, bars, fmt="none", ecolor=style.colour, elinewidth=1, capsize=1.5
        )
