"""Asymmetry during training: any index, a panel per block and branch."""

from html import escape

import numpy as np
import xarray as xr

from hopmix.lab.probes.layout import branch_label
from hopmix.lab.report import html
from hopmix.lab.report.charts import Chart, curve_change, curve_figure, over_seeds, thin_steps
from hopmix.lab.report.data import has_values
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.report.sections.during_training import CURVES
from hopmix.lab.store.run import Run
from hopmix.symmetry.quantities import COUPLINGS, Quantity

SLOTS = 4
"""Blocks side by side."""

_STILLS = 5  # figures that stand in for the charts; more are on the symmetry page
_OPENING = "relative_breaking"  # cosines are flat lines at 1 where arms differ by decades here

_WORDS = (
    "<p>Up-weights <i>W</i> carry a block's visible state to its hidden units, down-weights "
    "<i>V</i> carry it back; the block is symmetric when <i>V</i> = <i>W</i>ᵀ. One panel per block "
    "and branch. On a logarithmic axis what is exactly zero, as of tied weights, has no place. The "
    '<a href="symmetry.html">symmetry page</a> has final values beside those of unrelated weights, '
    "the onset of breaking, aligned weights, spectra and more.</p>"
)


def indices(run: Run) -> list[Quantity]:
    """What the run has of couplings, the relative breaking first."""
    shown = [one for one in COUPLINGS if has_values(run.metrics, one.name)]
    return sorted(shown, key=lambda one: one.name != _OPENING)


def charts(run: Run) -> dict[str, Chart]:
    """A panel per block and branch, a choice per index."""
    metrics = thin_steps(run.metrics)
    shown = indices(run)
    if not shown:
        return {}
    places = _places(metrics, shown)
    panels = {_panel(*place): {} for place in places}
    for one in shown:
        drawn = over_seeds(metrics[one.name])
        for place in places:
            change = curve_change(drawn.at(*place), one, frame=drawn.values)
            panels[_panel(*place)][one.name] = change
    return {"asymmetry": Chart(curve_figure(run, metrics), panels)}


def _places(metrics: xr.Dataset, shown: list[Quantity]) -> list[tuple[int, int]]:
    """The blocks and branches, by number, at which some model has a coupling."""
    has_any = metrics[shown[0].name].notnull().any(("arm", "seed", "step"))
    return [(int(block), int(branch)) for block, branch in np.argwhere(has_any.values)]


def _panel(block: int, branch: int) -> str:
    return f"{block}-{branch}"


def body(run: Run, static_figures: StaticFigures) -> str:
    """Choices, the panels, and static figures in their place on paper."""
    shown = indices(run)
    if not shown:
        return _WORDS + html.missing("No index of asymmetry has a finite value in this run.")
    controls = html.controls(
        html.select("metric", "Metric", html.options(shown)),
        '<label for="log"><input type="checkbox" id="log" checked> logarithmic</label>',
        _groups(run.metrics),
    )
    columns = min(SLOTS, run.metrics.block.size)
    charts = html.charts(_frames(run.metrics, shown), columns)
    return (
        _WORDS
        + html.band_note(run)
        + html.LEGEND
        + controls
        + charts
        + _stills(shown, static_figures)
    )


def _groups(metrics: xr.Dataset) -> str:
    """A choice of blocks, where there are more than stand side by side."""
    blocks = metrics.block.values
    starts = range(0, blocks.size, SLOTS)
    if len(starts) < 2:
        return ""
    ends = [min(start + SLOTS, blocks.size) - 1 for start in starts]
    named = {str(i): f"{blocks[a]}–{blocks[b]}" for i, (a, b) in enumerate(zip(starts, ends))}
    return html.select("group", "Blocks", named)


def _frames(metrics: xr.Dataset, shown: list[Quantity]) -> list[str]:
    places = _places(metrics, shown)
    blocks = metrics.block.size
    branches = metrics.branch.size
    several = blocks > SLOTS
    return [
        html.chart(
            "asymmetry",
            _caption(metrics, block, branch),
            "Asymmetry of one block and branch against training step",
            panel=_panel(block, branch),
            choice="metric",
            log="log",
            group=f"group:{block // SLOTS}" if several else "",
            css="small",
        )
        for start in range(0, blocks, SLOTS)
        for branch in range(branches)
        for block in range(start, min(start + SLOTS, blocks))
        if (block, branch) in places
    ]


def _caption(metrics: xr.Dataset, block: int, branch: int) -> str:
    name = escape(branch_label(str(metrics.branch.values[branch])))
    return f"Block {metrics.block.values[block]}, {name}"


def _stills(shown: list[Quantity], static_figures: StaticFigures) -> str:
    drawn = [one for one in shown if one.name in CURVES][:_STILLS]
    return "".join(
        html.still(
            static_figures[f"asymmetry_{one.name}"],
            f"{one.label} against training step per block and branch.",
            key=one.name,
        )
        for one in drawn
    )


SECTION = Section("asymmetry", "Asymmetry during training", body, charts=charts, menu="Asymmetry")
