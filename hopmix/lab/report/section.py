"""A section of a page: its figures, its interactive charts, its tables and its words."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from matplotlib.figure import Figure

from hopmix.lab.report.charts import Chart
from hopmix.lab.store.run import Run

StaticFigures: TypeAlias = Mapping[str, str]
"""The address of each static figure of a run, by its name."""

NamedFigures: TypeAlias = Iterator[tuple[str, Callable[[], Figure]]]
"""The name of each static figure, and what draws it."""


def _no_figures(run: Run) -> NamedFigures:
    """No static figures."""
    return iter(())


def _no_charts(run: Run) -> dict[str, Chart]:
    """No interactive charts."""
    return {}


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of a page, with all that it shows.

    - `name`: its anchor; `title`: its heading.
    - `body`: HTML of everything below the heading, from a run and its static figures. What comes
      from the run's files is escaped there.
    - `figures`: the static figures that it needs and the run has numbers for.
    - `charts`: its interactive charts, by the name that their frames carry.
    - `menu`: what the contents of the page call it, where that is not the title.
    - `of_studies`: whether it says nothing of what a `Recorder` wrote.
    """

    name: str
    title: str
    body: Callable[[Run, StaticFigures], str]
    figures: Callable[[Run], NamedFigures] = _no_figures
    charts: Callable[[Run], dict[str, Chart]] = _no_charts
    menu: str = ""
    of_studies: bool = False

    def is_about(self, run: Run) -> bool:
        """Whether a run has what it is about."""
        return not (self.of_studies and run.recorded)

    def html(self, run: Run, static_figures: StaticFigures) -> str:
        """The section as a part of a page."""
        body = self.body(run, static_figures)
        return f'<section id="{self.name}">\n<h2>{self.title}</h2>\n{body}\n</section>'

    @property
    def entry(self) -> str:
        """Its line in the contents of the page."""
        return f'<li><a href="#{self.name}">{self.menu or self.title}</a></li>'
