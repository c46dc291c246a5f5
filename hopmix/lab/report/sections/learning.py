"""Learning curves: what a whole member does during training."""

from functools import partial

from hopmix.lab.report import html
from hopmix.lab.report.charts import (
    Change,
    Chart,
    curve_change,
    curve_figure,
    over_seeds,
    thin_steps,
)
from hopmix.lab.report.data import has_values
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.plot.training import learning_curves
from hopmix.symmetry.quantities import CURVES, Quantity

FIRST = "validation_accuracy"
"""What always stands beside the chosen curve."""


def figures(run: Run) -> NamedFigures:
    """One figure of accuracy and loss."""
    yield "learning_curves", partial(learning_curves, run.metrics)


def charts(run: Run) -> dict[str, Chart]:
    """Validation accuracy, and any other curve beside it."""
    metrics = thin_steps(run.metrics)
    shown = [one for one in CURVES if has_values(metrics, one.name)]
    changes = {one.name: _change(metrics, one) for one in shown}
    others = {name: change for name, change in changes.items() if name != FIRST}
    panels = {"first": {"": changes[FIRST]}} if FIRST in changes else {}
    if others:
        panels["chosen"] = others
    return {"curve": Chart(curve_figure(run, metrics), panels)}


def _change(metrics, one: Quantity) -> Change:
    """The curves of one quantity, on a logarithmic axis where that helps."""
    change = curve_change(over_seeds(metrics[one.name]), one)
    if change.log is None:
        return change
    data = [{**one, **log} for one, log in zip(change.data, change.log_data)] or change.data
    return Change(data, change.log)


def body(run: Run, static_figures: StaticFigures) -> str:
    """Two charts, and the static figure in their place on paper."""
    others = [one for one in CURVES if has_values(run.metrics, one.name) and one.name != FIRST]
    frames = []
    if has_values(run.metrics, FIRST):
        label = "Validation accuracy against training step"
        frames.append(html.chart("curve", "Validation accuracy", label, panel="first"))
    if others:
        choice = html.select("curve", "", html.options(others))
        label = "The chosen quantity against training step"
        frames.append(html.chart("curve", choice, label, panel="chosen", choice="curve"))
    still = html.still(
        static_figures["learning_curves"],
        "Validation accuracy and loss against training step, one curve per arm.",
    )
    if not frames:
        return html.missing("No arm has a finite accuracy or loss in this run.") + still
    return html.band_note(run) + html.LEGEND + html.charts(frames, 2) + still


SECTION = Section("learning", "Learning curves", body, figures, charts)
