"""How to read the metrics: formula, range and a sentence for each, from their records."""

from hopmix.lab.report import html
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.symmetry.quantities import COUPLINGS, ENERGY, FIELDS, Quantity

_NOTATION = (
    '<p class="note"><i>W</i>: up-weights (hidden × visible), <i>V</i>: down-weights '
    "(visible × hidden), <i>w</i><sub>α</sub> and <i>v</i><sub>α</sub> those of hidden unit α. "
    "Norms are Frobenius norms.</p>"
)


def body(run: Run, static_figures: StaticFigures) -> str:
    """The table of what pages show."""
    names = ("Metric", "Formula", "Range", "How to read it")
    rows = [definition(one) for one in (*COUPLINGS, *FIELDS, *ENERGY)]
    return html.table("Metrics", html.heads(names, words=4), rows, css="stack") + _NOTATION


def definition(one: Quantity) -> str:
    """A row of the table."""
    return (
        f'<tr><th scope="row" class="words">{one.label}</th>'
        f'<td class="words formula">{one.formula}</td><td class="words">{one.range}</td>'
        f'<td class="words wrap">{one.reading}</td></tr>'
    )


SECTION = Section("metrics", "How to read the metrics", body)
