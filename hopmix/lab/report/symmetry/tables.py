"""The tables of the symmetry page: final values beside those of unrelated weights, and the onset of breaking."""

from html import escape

import numpy as np
import xarray as xr

from hopmix.lab.report import html
from hopmix.lab.report.data import Run, last_measured
from hopmix.lab.report.null import null
from hopmix.lab.report.payload import has_values
from hopmix.lab.report.style import arm_styles
from hopmix.lab.statistics import summarise
from hopmix.symmetry.quantities import ASYMMETRY, FIELDS, SPECTRUM, Quantity


def final_values(run: Run, sizes: xr.Dataset | None) -> str:
    """A table per branch, and one of whole blocks: mean and standard error per arm, null value, and z against it."""
    parts = []
    for branch in run.metrics.branch.values:
        rows = [_row(run, metric, str(branch), sizes) for metric in (*ASYMMETRY, *SPECTRUM)]
        parts.append(_heading(str(branch), sizes) + _table(run, f"{branch} mixing", rows, with_null=sizes is not None))
    whole = [_row(run, metric, None, None) for metric in FIELDS if has_values(run.metrics, metric.name)]
    if whole:
        parts.append("<h3>Whole blocks</h3>" + _table(run, "Whole blocks", whole, with_null=False))
    if sizes is None:
        parts.append(html.missing("The sizes of the couplings are not known here, so there are no null values."))
    return "\n".join(parts)


def onset_table(rates: xr.Dataset) -> str:
    """Predicted and measured rates of breaking per arm, at the first step that has both: mean, standard error, n."""
    head = "".join(
        f'<th scope="col">{words}</th>' for words in ("Step", "n", "Predicted", "Measured", "Measured / predicted")
    )
    rows = "\n".join(_onset_row(rates.sel(arm=name)) for name in rates.arm.values)
    table = (
        f'<table class="results"><thead><tr><th scope="col" class="words">Arm</th>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table>"
    )
    note = '<p class="note">Per 1,000 steps: mean over blocks and branches, ± standard error over n seeds.</p>'
    return html.scroll("Onset of breaking", table) + note


def _onset_row(rates: xr.Dataset) -> str:
    name = f'<tr><th scope="row" class="words">{escape(str(rates.arm.item()))}</th>'
    both = (1000 * rates).where(rates.predicted.notnull() & rates.measured.notnull()).dropna("step", how="all")
    if not both.step.size:
        return name + "<td>–</td>" * 5 + "</tr>"
    first = both.isel(step=0).mean(("block", "branch"))
    predicted, measured = (summarise(first[part].values.astype(float)) for part in ("predicted", "measured"))
    ratio = measured.mean / predicted.mean if predicted.mean else float("nan")
    cells = [f"{int(first.step):,}", str(predicted.n), _number(predicted.mean, predicted.stderr)]
    cells += [_number(measured.mean, measured.stderr), _plain(ratio, 2)]
    return name + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _heading(branch: str, sizes: xr.Dataset | None) -> str:
    if sizes is None:
        return f"<h3>{branch.capitalize()} mixing</h3>"
    first = sizes.sel(branch=branch).isel(arm=0)
    units = f"{int(first.visible)} visible, {int(first.hidden)} hidden units"
    return f"<h3>{branch.capitalize()} mixing <small>{units}</small></h3>"


def _table(run: Run, label: str, rows: list[str], *, with_null: bool) -> str:
    styles = arm_styles(run.metrics)
    arms = "".join(
        f'<th scope="col"><span class="swatch" style="background: {style.colour}"></span>{escape(name)}'
        f'<span class="sub">n = {_alive(run, name)}</span></th>'
        for name, style in styles.items()
    )
    unrelated = '<th scope="col">Unrelated<span class="sub">mean ± sd</span></th>' * with_null
    head = f'<tr><th scope="col" class="words">Index</th>{unrelated}{arms}</tr>'
    body = "\n".join(filter(None, rows))
    return html.scroll(label, f'<table class="results values"><thead>{head}</thead><tbody>\n{body}\n</tbody></table>')


def _alive(run: Run, name: str) -> int:
    return int(np.isfinite(run.metrics.validation_loss.sel(arm=name).isel(step=-1)).sum())


def _row(run: Run, metric: Quantity, branch: str | None, sizes: xr.Dataset | None) -> str:
    if not has_values(run.metrics, metric.name):
        return ""
    final = _at_branch(last_measured(run.metrics[metric.name]), branch)
    expected = None if sizes is None else null(metric.name, sizes.sel(branch=branch), _balance(run, branch))
    z = None if expected is None else ((final - expected["mean"]) / expected["std"].where(expected["std"] > 0))
    cells = "".join(_cell(final.sel(arm=name), None if z is None else z.sel(arm=name)) for name in run.arms)
    return f'<tr><th scope="row" class="words">{metric.label}</th>{_null_cell(metric, branch, sizes)}{cells}</tr>'


def _at_branch(values: xr.DataArray, branch: str | None) -> xr.DataArray:
    return values if branch is None else values.sel(branch=branch, drop=True)


def _balance(run: Run, branch: str | None) -> xr.DataArray | float:
    """Of V and W as they are: what the breaking is of unrelated weights depends on how large each of them is."""
    return _at_branch(last_measured(run.metrics.balance), branch) if "balance" in run.metrics else 0.0


def _cell(values: xr.DataArray, z: xr.DataArray | None) -> str:
    summary = summarise(values.mean("block").values.astype(float))
    if not summary.n:
        return "<td>–</td>"
    score = float("nan") if z is None else float(z.sum() / np.sqrt(z.notnull().sum()))
    below = f'<span class="sub">z = {_z(score)}</span>' if np.isfinite(score) else ""
    return f"<td>{_number(summary.mean, summary.stderr)}{below}</td>"


def _null_cell(metric: Quantity, branch: str | None, sizes: xr.Dataset | None) -> str:
    """That of the sizes of the first arm, for V and W of one norm."""
    if sizes is None:
        return ""
    expected = null(metric.name, sizes.sel(branch=branch).isel(arm=0))
    words = "–" if expected is None else _number(float(expected["mean"]), float(expected["std"]))
    return f"<td>{words}</td>"


def _number(mean: float, error: float) -> str:
    """A mean and its error to the same place."""
    digits = 3 if abs(mean) < 10 else 1 if abs(mean) < 100 else 0
    return _plain(mean, digits) if np.isnan(error) else f"{_plain(mean, digits)} ± {_plain(error, digits)}"


def _plain(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    words = f"{value:,.{digits}f}"
    return words.replace("-", "−") if float(words.replace(",", "")) else words.lstrip("-")


def _z(value: float) -> str:
    return ("+" if value > 0 else "") + _plain(value, 1 if abs(value) < 100 else 0)
