"""Final values: each index per arm beside what it is for unrelated weights."""

import dataclasses
from collections.abc import Mapping
from html import escape

import numpy as np
import xarray as xr

from hopmix.lab.probes.layout import branch_label
from hopmix.lab.report import html, words
from hopmix.lab.report.data import coupling_sizes, has_values, last_measured
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.statistics import summarise
from hopmix.lab.store.run import Run
from hopmix.plot.style import ArmStyle, arm_styles
from hopmix.plot.unrelated import null
from hopmix.symmetry.quantities import ASYMMETRY, FIELDS, SPECTRUM, Quantity

LEADING = ("relative_breaking", "symmetry_score", "median_unit_cosine")
"""The indices that stand first: how far from tied, how symmetric, and in how many units."""

_WORDS = (
    "<p>At the last measured step: mean over blocks, ± standard error over n seeds. "
    "<i>Unrelated</i> is what independent Gaussian <i>V</i> and <i>W</i> of these sizes and of "
    "one norm give, with the standard deviation of a single coupling. Below each value stands "
    "<i>z</i>, its distance from that in those standard deviations, combined over k blocks and "
    "seeds as their sum over √k, for each arm's own sizes and norms. Within about ±2 an arm "
    "looks like unrelated weights; tied ones are far away by construction, and blocks that "
    "differ in opposite directions cancel: see the curves. Formulas and ranges are <a "
    'href="report.html#metrics">in the report</a>.</p>'
)


def body(run: Run, static_figures: StaticFigures) -> str:
    """The tables."""
    return _WORDS + final_values(run, coupling_sizes(run))


def final_values(run: Run, sizes: xr.Dataset | None) -> str:
    """A table per branch, and one of whole blocks: mean and error per arm, null value, and z."""
    parts = []
    styles = arm_styles(run.metrics)
    for branch in map(str, run.metrics.branch.values):
        some = _with_branch(run, branch)
        own = None if sizes is None else sizes.sel(arm=some.arms)
        rows = [_row(some, one, branch, own) for one in _leading_first()]
        table = _table(some, styles, branch_label(branch), rows, with_null=own is not None)
        parts.append(_heading(branch, own) + table)
    whole = [_row(run, one, None, None) for one in FIELDS if has_values(run.metrics, one.name)]
    if whole:
        table = _table(run, styles, "Whole blocks", whole, with_null=False)
        parts.append("<h3>Whole blocks</h3>" + table)
    if sizes is None:
        told = "The sizes of the couplings are not known here, so there are no null values."
        parts.append(html.missing(told))
    return "\n".join(parts)


def _with_branch(run: Run, branch: str) -> Run:
    """A run with those of its arms alone that have a branch; all of them where none has."""
    values = run.metrics[ASYMMETRY[0].name].sel(branch=branch)
    has_any = values.notnull().any([dim for dim in values.dims if dim != "arm"])
    if not has_any.any():
        return run
    return dataclasses.replace(run, metrics=run.metrics.isel(arm=np.flatnonzero(has_any)))


def _leading_first() -> list[Quantity]:
    rest = (*ASYMMETRY, *SPECTRUM)
    leading = [one for name in LEADING for one in rest if one.name == name]
    return [*leading, *(one for one in rest if one.name not in LEADING)]


def _heading(branch: str, sizes: xr.Dataset | None) -> str:
    if sizes is None:
        return f"<h3>{escape(branch_label(branch).capitalize())}</h3>"
    first = sizes.sel(branch=branch).isel(arm=0)
    units = f"{int(first.visible)} visible, {int(first.hidden)} hidden units"
    return f"<h3>{escape(branch_label(branch).capitalize())} <small>{units}</small></h3>"


def _table(
    run: Run, styles: Mapping[str, ArmStyle], label: str, rows: list[str], *, with_null: bool
) -> str:
    arms = "".join(
        f'<th scope="col">{html.swatch(styles[name].colour)}{escape(name)}'
        f'<span class="sub">n = {_alive(run, name)}</span></th>'
        for name in run.arms
    )
    unrelated = '<th scope="col">Unrelated<span class="sub">mean ± sd</span></th>' * with_null
    head = f'<th scope="col" class="words">Index</th>{unrelated}{arms}'
    return html.table(label, head, [row for row in rows if row], css="results values")


def _alive(run: Run, name: str) -> int:
    return int(np.isfinite(run.metrics.validation_loss.sel(arm=name).isel(step=-1)).sum())


def _row(run: Run, about: Quantity, branch: str | None, sizes: xr.Dataset | None) -> str:
    if not has_values(run.metrics, about.name):
        return ""
    final = _at_branch(last_measured(run.metrics[about.name]), branch)
    z = None if sizes is None else _z(run, about, final, branch, sizes)
    cells = "".join(
        _cell(name, final.sel(arm=name), None if z is None else z.sel(arm=name))
        for name in run.arms
    )
    unrelated = _null_cell(about, branch, sizes)
    return f'<tr><th scope="row" class="words">{about.label}</th>{unrelated}{cells}</tr>'


def _z(
    run: Run, about: Quantity, final: xr.DataArray, branch: str | None, sizes: xr.Dataset
) -> xr.DataArray | None:
    expected = null(about.name, sizes.sel(branch=branch), _balance(run, branch))
    if expected is None:
        return None
    return (final - expected["mean"]) / expected["std"].where(expected["std"] > 0)


def _at_branch(values: xr.DataArray, branch: str | None) -> xr.DataArray:
    if branch is None:
        return values
    return values.sel(branch=branch, drop=True)


def _balance(run: Run, branch: str | None) -> xr.DataArray | float:
    """Of V and W as they are: the breaking of unrelated weights depends on how large each is."""
    if "balance" not in run.metrics:
        return 0.0
    return _at_branch(last_measured(run.metrics.balance), branch)


def _cell(arm: str, values: xr.DataArray, z: xr.DataArray | None) -> str:
    summary = summarise(values.mean("block").values.astype(float))
    if not summary.n:
        return _labelled(arm, "–")
    if z is None:
        score = float("nan")
    else:
        score = float(z.sum() / np.sqrt(z.notnull().sum()))
    told = words.number(summary.mean, summary.stderr)
    if np.isfinite(score):
        told += f'<span class="sub">z = {words.z_score(score)}</span>'
    return _labelled(arm, told)


def _labelled(column: str, cell: str) -> str:
    """A cell that a narrow screen shows below others, each beside the name of its column."""
    return f'<td data-column="{escape(column)}">{cell}</td>'


def _null_cell(about: Quantity, branch: str | None, sizes: xr.Dataset | None) -> str:
    """That of the sizes of the first arm, for V and W of one norm."""
    if sizes is None:
        return ""
    expected = null(about.name, sizes.sel(branch=branch).isel(arm=0))
    if expected is None:
        return _labelled("Unrelated", "–")
    return _labelled("Unrelated", words.number(float(expected["mean"]), float(expected["std"])))


SECTION = Section("values", "Final values", body)
