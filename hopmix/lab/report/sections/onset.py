"""Onset of breaking: how fast broken arms leave symmetry, predicted and measured."""

from html import escape

import numpy as np
import xarray as xr

from hopmix.lab.report import html, words
from hopmix.lab.report.data import has_values
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.report.words import number, plain
from hopmix.lab.statistics import summarise
from hopmix.lab.store.run import Run
from hopmix.plot.axis import is_penalised
from hopmix.plot.symmetry import onset, rates_of_breaking
from hopmix.symmetry.quantities import ONSET

_WORDS = (
    "<p>How fast the breaking ratio ‖<i>V</i> − <i>W</i>ᵀ‖ / ‖<i>W</i>‖ grows. Marks are "
    "predicted from the optimiser's next update alone (claim C11), steps are measured from one "
    "measurement to the next. On the right each mark is a block: on the diagonal prediction and"
    " measurement agree; below it, breaking slowed down before the next measurement. Filled "
    "marks are the first step that has both.</p>"
)


def figures(run: Run) -> NamedFigures:
    """The figure, where there is something to show."""
    if not onset_missing(run):
        yield "onset", lambda: onset(run.metrics.isel(arm=_broken(run)))


def body(run: Run, static_figures: StaticFigures) -> str:
    """A table of rates, what is empty, and the figure."""
    if reason := onset_missing(run):
        return _WORDS + html.missing(reason)
    rates = rates_of_breaking(run.metrics.isel(arm=_broken(run)))
    shown = html.picture(
        static_figures["onset"], "Predicted and measured rates of breaking, per broken arm"
    )
    return _WORDS + onset_table(rates) + _empty_updates(run) + shown


def _empty_updates(run: Run) -> str:
    rate = run.metrics.breaking_rate.isel(arm=_broken(run))
    empty = ((rate == 0) | rate.isnull()).all([name for name in rate.dims if name != "step"])
    steps = [
        f"{step:,}"
        for step in rate.step.values[(empty & rate.notnull().any(set(rate.dims) - {"step"})).values]
    ]
    if not steps:
        return ""
    at = f"step{'s' * (len(steps) > 1)} {words.enumerate_words(steps)}"
    return html.missing(
        f"At {at} the next update is empty and predicts nothing: the learning rate is zero at "
        f"both ends of its "
        "schedule, and the blocks have no gradient behind a head that starts at zero."
    )


def onset_table(rates: xr.Dataset) -> str:
    """Predicted and measured rates of breaking per arm, at the first step that has both: mean,
    standard error, n.
    """
    names = ("Arm", "Step", "n", "Predicted", "Measured", "Measured / predicted")
    rows = [_onset_row(rates.sel(arm=name)) for name in rates.arm.values]
    table = html.table("Onset of breaking", html.heads(names), rows)
    note = "Per 1,000 steps: mean over blocks and branches, ± standard error over n seeds."
    return f'{table}<p class="note">{note}</p>'


def _onset_row(rates: xr.Dataset) -> str:
    name = f'<tr><th scope="row" class="words">{escape(str(rates.arm.item()))}</th>'
    both = (
        (1000 * rates)
        .where(rates.predicted.notnull() & rates.measured.notnull())
        .dropna("step", how="all")
    )
    if not both.step.size:
        return name + "<td>–</td>" * 5 + "</tr>"
    first = both.isel(step=0).mean(("block", "branch"))
    predicted = summarise(first["predicted"].values.astype(float))
    measured = summarise(first["measured"].values.astype(float))
    if predicted.mean:
        ratio = measured.mean / predicted.mean
    else:
        ratio = float("nan")
    cells = [f"{int(first.step):,}", str(predicted.n), number(predicted.mean, predicted.stderr)]
    cells += [number(measured.mean, measured.stderr), plain(ratio, 2)]
    return name + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def onset_missing(run: Run) -> str:
    """Why there is nothing to show about the onset of breaking; empty where there is."""
    if not _broken(run).size:
        return "There is no broken arm in this study."
    if not has_values(run.metrics, ONSET.name):
        return f"This run has no predicted rates of breaking: {html.OLDER}."
    if not has_values(run.metrics, "breaking_ratio") or run.metrics.step.size < 2:
        return "The breaking has been measured once so far; a rate needs two measurements."
    return ""


def _broken(run: Run) -> np.ndarray:
    return np.flatnonzero(is_penalised(run.metrics))


SECTION = Section("onset", "Onset of breaking", body, figures)
