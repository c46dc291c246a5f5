"""The arms: what each kind is."""

from collections.abc import Mapping
from html import escape

from hopmix.lab.report.data import kinds_of_arms
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.store.run import Run


def body(run: Run, static_figures: StaticFigures) -> str:
    """A definition of each kind of arm in the run."""
    return arm_definitions(kinds_of_arms(run))


def arm_definitions(kinds: Mapping[str, str]) -> str:
    """What each kind of arm is, in the paper's words too."""
    items = "\n".join(f"<dt>{escape(kind)}</dt><dd>{words}</dd>" for kind, words in kinds.items())
    pairing = (
        "<p>The same seed gives every arm the same <i>W</i>, stem, head and order of batches; "
        "this is what the paired "
        "tests use. The names of the models are those of arXiv 2406.12220.</p>"
    )
    return f'<dl class="definitions">\n{items}\n</dl>{pairing}'


SECTION = Section("arms", "The arms", body, of_studies=True)
