"""The report of a study: two self-contained pages, and the figures beside them.

Each page is a list of sections; a section owns its figures, charts, tables and words.
"""

import base64
import dataclasses
import functools
import gzip
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from hopmix.lab.errors import UsageError, one_line
from hopmix.lab.report import html, seal, words
from hopmix.lab.report.charts import payload
from hopmix.lab.report.data import read_run
from hopmix.lab.report.files import figure_files, resource, save_figure, saved_figure
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.report.sections import (
    accuracy,
    against_accuracy,
    alignment,
    arms,
    asymmetry,
    by_depth,
    configuration,
    data,
    depth,
    during_training,
    energy,
    fields,
    learning,
    onset,
    quantities,
    spectra,
    strength,
    summary,
    values,
    weights,
)
from hopmix.lab.store import replacing
from hopmix.lab.store.run import Run

REPORT: tuple[Section, ...] = (
    summary.SECTION,
    data.SECTION,
    accuracy.SECTION,
    strength.SECTION,
    learning.SECTION,
    asymmetry.SECTION,
    depth.SECTION,
    energy.SECTION,
    weights.SECTION,
    configuration.SECTION,
    quantities.SECTION,
    arms.SECTION,
)
"""The sections of `report.html`."""

SYMMETRY: tuple[Section, ...] = (
    values.SECTION,
    by_depth.SECTION,
    during_training.SECTION,
    onset.SECTION,
    alignment.SECTION,
    spectra.SECTION,
    against_accuracy.SECTION,
    fields.SECTION,
)
"""The sections of `symmetry.html`."""


def write_report(run: Path | str, sections: Sequence[Section] = ()) -> Path:
    """Write `report.html`, `symmetry.html` and `figures/` of a study; return the first.

    The study may have ended or be running. Only the run directory is read: `study.json` and
    `metrics.zarr`, and `results.json` and `weights.npz` where the run has ended. Each file takes
    the place of its predecessor in one move; those that are whole, and show what the run holds now,
    are left as they are.

    **Arguments:**

    - `run`: the directory that `hopmix ablate --out` wrote.
    - `sections`: of the user's own, which stand before the configuration.

    **Raises:** `UsageError` if it is no run, or nothing has been measured in it yet, and for two
    sections of one name.
    """
    run = Path(run)
    report = _with(sections)
    contents = read_run(run)
    sources = seal.sources(run)
    if not sections and seal.is_whole(run, sources):
        return run / "report.html"
    figures = _figures(contents, (*report, *SYMMETRY))
    static_figures = _draw(contents, figures, seal.whole_files(run, sources))
    pages = {"symmetry.html": _symmetry_page(contents, static_figures)}
    pages["report.html"] = _report_page(contents, report, static_figures)
    for name, contained in pages.items():
        with replacing(run / name) as temporary:
            temporary.write_text(contained, encoding="utf-8", errors="replace")
    if sections:  # the next report is to be without them
        return run / "report.html"
    drawn = [file for name in static_figures for file in figure_files(name)]
    seal.seal(run, sources, [*pages, *drawn])
    return run / "report.html"


def _with(own: Sequence[Section]) -> tuple[Section, ...]:
    """The sections of the report with the user's own among them."""
    for one in own:
        if not isinstance(one, Section) or not one.name.isidentifier():
            raise UsageError(f"sections: got {one!r:.80}; give Section, each with a plain name.")
    before = REPORT.index(configuration.SECTION)
    names = [one.name for one in (*REPORT, *own)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"sections: two are named {twice[0]!r}; give each a name of its own.")
    careful = [dataclasses.replace(one, body=_careful(one)) for one in own]
    return (*REPORT[:before], *careful, *REPORT[before:])


def _careful(section: Section) -> Callable[[Run, StaticFigures], str]:
    """The body of a section of the user's own, whose mistakes are told."""

    def body(run: Run, static_figures: StaticFigures) -> str:
        try:
            found = section.body(run, static_figures)
        except Exception as error:
            raise UsageError(
                f"sections: {section.name} fails ({one_line(error)}); mend it."
            ) from error
        if not isinstance(found, str):
            raise UsageError(
                f"sections: {section.name} gives {type(found).__name__}; its body must be HTML as "
                f"text."
            )
        return found

    return body


def _draw(run: Run, figures: NamedFigures, whole: frozenset[str]) -> dict[str, str]:
    """The address of each figure by name; one whose files are `whole` is not drawn again."""
    static_figures = {}
    for name, make in figures:
        if whole.issuperset(figure_files(name)):
            static_figures[name] = saved_figure(run.path / "figures", name)
        else:
            static_figures[name] = save_figure(make(), run.path / "figures", name)
    return static_figures


def _figures(run: Run, sections: Sequence[Section]) -> NamedFigures:
    """The name of each figure, and what makes it."""
    for section in sections:
        if section.is_about(run):
            yield from section.figures(run)


def _report_page(run: Run, sections: Sequence[Section], static_figures: StaticFigures) -> str:
    return _page(
        "report.html.tmpl",
        run,
        static_figures,
        title=words.title(run),
        sections=sections,
        links={"energy": '<li><a href="symmetry.html">Symmetry in detail →</a></li>'},
        script=resource("report.js"),
        payload=payload(run, _charts(run, sections)),
        plotly=packed_plotly(),
    )


def _charts(run: Run, sections: Sequence[Section]):
    shown = [one for one in sections if one.is_about(run)]
    return {name: chart for one in shown for name, chart in one.charts(run).items()}


def _symmetry_page(run: Run, static_figures: StaticFigures) -> str:
    return _page(
        "symmetry.html.tmpl",
        run,
        static_figures,
        title=f"{words.title(run)}: symmetry",
        sections=SYMMETRY,
        links={"values": '<li><a href="report.html">← Report</a></li>'},
    )


def _page(
    template: str,
    run: Run,
    static_figures: StaticFigures,
    *,
    title: str,
    sections: Sequence[Section],
    links: Mapping[str, str],
    **parts: str,
) -> str:
    """A page of the sections that are about a run; `links` are other entries of its contents, by
    what they stand before.
    """
    sections = [one for one in sections if one.is_about(run)]
    return Template(resource(template)).substitute(
        title=escape(title),
        facts=html.facts(run),
        contents="\n".join(links.get(one.name, "") + one.entry for one in sections),
        sections="\n\n".join(one.html(run, static_figures) for one in sections),
        style=resource("report.css"),
        **parts,
    )


@functools.cache
def packed_plotly() -> str:
    """Plotly.js, compressed to a third: the page unpacks it when it opens."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()
