"""During training: static curves of the leading indices beside unrelated weights."""

from functools import partial

import xarray as xr

from hopmix.lab.report import html
from hopmix.lab.report.data import coupling_sizes
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.report.sections.choices import choice, known, measured
from hopmix.lab.store.run import Run
from hopmix.plot.training import asymmetry_curves
from hopmix.plot.unrelated import null

CURVES = (
    "relative_breaking",
    "cosine",
    "symmetry_score",
    "breaking_ratio",
    "median_unit_cosine",
    "conservative_distance",
    "complex_fraction",
)

_WORDS = (
    "<p>A row per branch, a column per block. The grey band holds 95 % of the couplings of "
    "unrelated weights (the dotted line is their mean): a curve that leaves it is not what "
    "chance gives. For cosines of units −1 (<i>V</i> = −<i>W</i>ᵀ) is as symmetric as 1, for "
    "the symmetry score −1 is an antisymmetric product.</p>"
)


def figures(run: Run) -> NamedFigures:
    """A figure per index."""
    for name in measured(run, CURVES):
        options = {"null": null_of(run, name), "logarithmic": known(name).logarithmic}
        yield f"asymmetry_{name}", partial(asymmetry_curves, run.metrics[name], **options)


def null_of(run: Run, name: str) -> xr.Dataset | None:
    """What unrelated weights give, where that stays the same through training."""
    # The ratio of breaking moves with the norms of V and W, which training changes.
    sizes = None if name == "breaking_ratio" else coupling_sizes(run)
    if sizes is None:
        return None
    return null(name, sizes)


def body(run: Run, static_figures: StaticFigures) -> str:
    """The chosen curves."""
    words = "against training step, per block and branch"
    shown = choice("curves", "asymmetry", measured(run, CURVES), static_figures, words)
    return _WORDS + html.band_note(run) + shown


SECTION = Section("during-training", "During training", body, figures)
