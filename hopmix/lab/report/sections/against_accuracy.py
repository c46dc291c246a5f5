"""Accuracy against symmetry: whether more symmetric members are better or worse."""

from functools import partial

from matplotlib.figure import Figure

from hopmix.lab.report.data import accuracy_by_seed, last_measured
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.report.sections.choices import choice, measured
from hopmix.lab.report.sections.during_training import null_of
from hopmix.lab.store.run import Run
from hopmix.plot.symmetry import accuracy_against_symmetry

SCATTERS = ("symmetry_score", "median_unit_cosine")

_WORDS = (
    "<p>Dots are seeds, marks the mean of an arm with one standard error each way; broken arms "
    "are joined in the order of λ. The grey band is that of unrelated weights. Arms differ in "
    "more than their symmetry, so a slope is no cause.</p>"
)


def figures(run: Run) -> NamedFigures:
    """A figure per index."""
    for name in measured(run, SCATTERS):
        yield f"accuracy_against_{name}", partial(_scatter, run, name)


def _scatter(run: Run, name: str) -> Figure:
    final = last_measured(run.metrics[name]).mean("block")
    accuracy = accuracy_by_seed(run)
    return accuracy_against_symmetry(final, accuracy, null=null_of(run, name))


def body(run: Run, static_figures: StaticFigures) -> str:
    """The chosen figure."""
    words = "accuracy against it, per arm and seed"
    return _WORDS + choice(
        "scatter", "accuracy_against", measured(run, SCATTERS), static_figures, words
    )


SECTION = Section("against-accuracy", "Accuracy against symmetry", body, figures)
