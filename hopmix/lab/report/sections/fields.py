"""Blocks as vector fields: how far from a gradient, and what that costs."""

from functools import partial

from hopmix.lab.report import html
from hopmix.lab.report.data import has_values
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.plot import symmetry

_WORDS = (
    "<p>At the states that validation images reach. <i>Field asymmetry</i>: 0 for the gradient "
    "of an energy; dotted, 0.71, for a Jacobian of independent entries; bars are its standard "
    "error. <i>Dissipation</i> spends energy, <i>work</i> of the part of the force without a "
    "potential puts it in. <i>Descent margin used</i>: above 1 (dotted) the energy of the tied "
    "block rises.</p>"
)


def figures(run: Run) -> NamedFigures:
    """One figure of all that the run has numbers for."""
    if present := [name for name in symmetry.FIELDS if has_values(run.metrics, name)]:
        errors = [name for name in ("field_asymmetry_stderr",) if name in run.metrics]
        yield "fields", partial(symmetry.fields, run.metrics[[*present, *errors]])


def body(run: Run, static_figures: StaticFigures) -> str:
    """The figure."""
    if "fields" not in static_figures:
        return _WORDS + html.missing(
            f"This run has no measurements of its blocks as vector fields: {html.OLDER}."
        )
    return _WORDS + html.picture(
        static_figures["fields"],
        "Field asymmetry, dissipation, work and descent margin used, per block",
    )


SECTION = Section(
    "blocks-as-fields", "Blocks as vector fields", body, figures, menu="Blocks as fields"
)
