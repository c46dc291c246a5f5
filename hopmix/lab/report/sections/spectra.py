"""Spectra: the eigenvalues of VW in the complex plane, through training."""

from functools import partial
from html import escape

from hopmix.lab.probes.layout import branch_label
from hopmix.lab.report import html
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.plot.symmetry import spectra

_WORDS = (
    "<p>Eigenvalues in the complex plane (up to 32 largest of each seed), in units of the "
    "largest modulus, which the number tells. A symmetric product has them on the horizontal "
    "line, on its right half if <i>V</i> = <i>W</i>ᵀ, on its left if <i>V</i> = −<i>W</i>ᵀ; "
    "points off the line are rotations, and unrelated weights fill a disc.</p>"
)


def figures(run: Run) -> NamedFigures:
    """A figure per branch of the last block."""
    for block, branch in _spectra(run):
        at_end = run.metrics.sel(block=block, branch=branch)
        yield f"spectra_{block}_{branch}", partial(spectra, at_end)


def body(run: Run, static_figures: StaticFigures) -> str:
    """A picture per branch of the last block."""
    shown = [
        f"<h3>Block {block}, {escape(branch_label(branch))}</h3>"
        + html.picture(
            static_figures[f"spectra_{block}_{branch}"],
            f"Eigenvalues of block {block}, {branch_label(branch)}",
        )
        for block, branch in _spectra(run)
    ]
    return _WORDS + (
        "\n".join(shown) or html.missing(f"This run has no eigenvalues: {html.OLDER}.")
    )


def _spectra(run: Run) -> list[tuple[int, str]]:
    """The last block, each branch."""
    if "eigenvalue_real" not in run.metrics or not bool(
        run.metrics.eigenvalue_real.notnull().any()
    ):
        return []
    return [
        (int(run.metrics.block.values[-1]), str(branch)) for branch in run.metrics.branch.values
    ]


SECTION = Section("spectra", "Spectra of VW through training", body, figures, menu="Spectra")
