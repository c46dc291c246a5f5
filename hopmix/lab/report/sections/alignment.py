"""Alignment: hidden units sorted by the cosine of what they read and what they write."""

from functools import partial

from hopmix.lab.probes.layout import branch_label
from hopmix.lab.report import html
from hopmix.lab.report.data import weight_pairs
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.plot.pictures import weight_limit
from hopmix.plot.symmetry import alignment

_WORDS = (
    "<p>First seed, last step. Each row of pixels is a hidden unit: the weights it reads with "
    "(<i>W</i>) and those it writes with (<i>V</i>ᵀ), sorted by their cosine, which is drawn "
    "beside them. Equal pictures mean tied weights, pictures of opposite colours (cosine −1) "
    "<i>V</i> = −<i>W</i>ᵀ, which is as symmetric; a curve inside the grey band (±2/√n) is what"
    " unrelated weights give.</p>"
)


def figures(run: Run) -> NamedFigures:
    """A figure per stored block and branch."""
    for (block, branch), pictures in weight_pairs(run).items():
        name = f"alignment_{block}_{branch}"
        yield name, partial(alignment, pictures, weight_limit(pictures))


def body(run: Run, static_figures: StaticFigures) -> str:
    """A picture per block and branch."""
    pairs = weight_pairs(run)
    if not pairs:
        return _WORDS + html.missing(
            "<code>weights.npz</code> is not there yet: it is written when the run has ended."
        )
    folded = [
        html.fold(
            f"Block {block}, {branch_label(branch)}",
            html.picture(
                static_figures[f"alignment_{block}_{branch}"],
                f"Aligned weights of block {block}, {branch_label(branch)}",
            ),
            opened=index == 0,
        )
        for index, (block, branch) in enumerate(pairs)
    ]
    return _WORDS + "\n".join(folded)


SECTION = Section("alignment", "Alignment of hidden units", body, figures, menu="Alignment")
