"""The heat map of `hopmix measure`: indices of symmetry by place in the network and part of the
layer.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from hopmix.lab.checkpoints.formats.weights import shortened
from hopmix.lab.checkpoints.measure import Measured, Report, over_seeds
from hopmix.lab.runtime.terminal import printable
from hopmix.symmetry.quantities import quantity

INDICES = ("unit_cosine", "symmetry_score", "directionality")
_WIDTH = 7.1  # inches: the text width of an A4 page
_PALE = 0.2  # the least that a full colour stands for: chance alone must not look like much
_MANY = 14  # columns up to which numbers fit into the cells
_LABELS = 40  # columns up to which each has a label


def symmetry_map(values: xr.DataArray) -> Figure:
    """One panel for each index, on a diverging scale centred at 0; grey where a layer does not have
    it.

    **Arguments:**

    - `values`: (index, part, place), of names that `INDICES` has.
    """
    shown = {
        str(name): values.sel(index=name).dropna("part", how="all")
        for name in values["index"].values
    }
    shown = {name: panel for name, panel in shown.items() if panel.sizes["part"]}
    rows = [panel.sizes["part"] for panel in shown.values()]
    figure = Figure(
        figsize=(_WIDTH, sum(0.45 + 0.26 * count for count in rows) + 0.4), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 1, squeeze=False, sharex=True, height_ratios=rows)[:, 0]
    for axes, (name, panel) in zip(panels, shown.items()):
        _panel(axes, panel, name)
    _label_places(panels[-1], [str(place) for place in values.place.values])
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names come from files
    return figure


def map_values(report: Report) -> xr.DataArray:
    """The values of the heat map: part by place; of a run arm by block and branch, mean over
    seeds.
    """
    if any(one.layer.arm for one in report.measured):
        cells = {
            (one.layer.arm, f"{one.layer.place.removeprefix('block ')} {one.layer.part}"): {
                name: spread.mean for name, spread in one.indices.items()
            }
            for one in over_seeds(report.measured)
        }
    else:
        cells = {(one.layer.part, one.layer.place): _values(one) for one in report.measured}
    parts = list(dict.fromkeys(key[0] for key in cells))
    places = list(dict.fromkeys(key[1] for key in cells))
    numbers = [
        [[cells.get((p, q), {}).get(name, np.nan) for q in places] for p in parts]
        for name in INDICES
    ]
    return xr.DataArray(
        numbers,
        {"index": list(INDICES), "part": parts, "place": places},
        ("index", "part", "place"),
    )


def _values(one: Measured) -> dict[str, float]:
    return {name: index.value for name, index in one.indices.items()}


def _panel(axes: Axes, values: xr.DataArray, name: str):
    limit = max(float(np.nanmax(np.abs(values.values))), _PALE)
    image = axes.imshow(
        values.values,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_facecolor("#dddddd")
    axes.set_yticks(
        range(values.sizes["part"]), [printable(str(part)) for part in values.part.values]
    )
    axes.tick_params(labelsize=7, length=0)
    axes.spines[:].set_visible(False)
    known = quantity(name)
    axes.set_title(known.label if known else name, loc="left", fontsize=8)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=8)
    bar.ax.tick_params(labelsize=7)
    if values.sizes["place"] <= _MANY:
        _write_numbers(axes, values.values, limit)


def _label_places(axes: Axes, places: Sequence[str]):
    common, names = shortened([printable(place) for place in places])
    every = -(-len(names) // _LABELS)
    axes.set_xticks(
        range(0, len(names), every), names[::every], rotation=0 if max(map(len, names)) < 4 else 90
    )
    axes.set_xlabel(common, fontsize=8)


def _write_numbers(axes: Axes, values: np.ndarray, limit: float):
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 * limit else "#333333"
            axes.text(
                column,
                row,
                f"{round(value, 2) + 0.0:.2f}",
                ha="center",
                va="center",
                fontsize=6.5,
                color=ink,
            )
