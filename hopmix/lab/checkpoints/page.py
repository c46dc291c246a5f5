"""The page of `hopmix measure`: one file that needs no other, with the tables, the heat map and how
to read them.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import hopmix
from hopmix.lab.checkpoints.measure import Index, Measured, Report
from hopmix.lab.checkpoints.picture import map_values, symmetry_map
from hopmix.lab.checkpoints.tables import (
    Sheet,
    labels,
    legend,
    medians,
    number,
    omissions,
    sheets,
    z_score,
)
from hopmix.lab.config import Measure
from hopmix.lab.report.files import resource, save_figure
from hopmix.lab.report.sections.quantities import definition
from hopmix.lab.store import replacing
from hopmix.symmetry.quantities import ASYMMETRY


def write_page(folder: Path, report: Report, options: Measure) -> Path:
    """Write `symmetry.png`, `symmetry.svg` and `measure.html`, which holds the picture itself, and
    return the page.
    """
    picture = save_figure(symmetry_map(map_values(report)), folder, "symmetry")
    page = folder / "measure.html"
    with replacing(page) as temporary:
        temporary.write_text(_page(report, options, picture), encoding="utf-8", errors="replace")
    return page


def _page(report: Report, options: Measure, picture: str) -> str:
    name = escape(Path(options.path).name or options.path)
    return Template(resource("measure.html.tmpl")).substitute(
        title=f"Symmetry of the weights of {name}",
        facts=escape(
            f"{len(report.measured)} layers of {report.source} · {options.path} · hopmix "
            f"{hopmix.__version__}"
        ),
        summary=escape(medians(report)),
        picture=picture,
        tables="\n".join(_table(sheet) for sheet in sheets(report)),
        legend="\n".join(f"<p>{escape(line)}</p>" for line in legend(report, options.pairings)),
        left_out="\n".join(f"<p>{escape(line)}</p>" for line in omissions(report))
        or "<p>Nothing was left out.</p>",
        numbers=_all_numbers(report.measured),
        indices="\n".join(map(definition, ASYMMETRY)),
        style=resource("report.css"),
    )


def _table(sheet: Sheet) -> str:
    """A sheet as a table that scrolls on narrow screens."""
    rows = "\n".join(_row(row, sheet.words) for row in sheet.rows)
    head = "".join(
        f'<th scope="col"{_words(i, sheet)}>{escape(name)}</th>'
        for i, name in enumerate(sheet.head)
    )
    title = escape(sheet.title)
    return (
        f'<h3>{title}</h3><div class="scroll" role="region" aria-label="{title}" tabindex="0">'
        f'<table class="results"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _words(column: int, sheet: Sheet) -> str:
    if column < sheet.words:
        return ' class="words"'
    return ""


def _row(cells: Sequence[str], words: int) -> str:
    first, *rest = cells
    kinds = ["<td class='words'>" if i < words else "<td>" for i in range(1, len(cells))]
    numbers = "".join(f"{kind}{escape(cell)}</td>" for kind, cell in zip(kinds, rest))
    return f'<tr><th scope="row" class="words">{escape(first)}</th>{numbers}</tr>'


def _all_numbers(measured: Sequence[Measured]) -> str:
    """Every index of every layer, with z and p below it where these were computed."""
    names = list(dict.fromkeys(name for one in measured for name in (*one.indices, *one.spectrum)))
    head = "".join(f'<th scope="col">{escape(_spaced(name))}</th>' for name in names)
    rows = "\n".join(
        _numbers_row(label, one, names) for label, one in zip(labels(measured)[1], measured)
    )
    return (
        '<div class="scroll" role="region" aria-label="All numbers" tabindex="0">'
        '<table class="results"><thead><tr>'
        f'<th scope="col" class="words">layer</th>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _numbers_row(label: str, one: Measured, names: Sequence[str]) -> str:
    if one.layer.arm:
        member = f"{one.layer.arm}, seed {one.layer.seed}: "
    else:
        member = ""
    known = {name: _cell(index) for name, index in one.indices.items()}
    known |= {name: f"<td>{number(value)}</td>" for name, value in one.spectrum.items()}
    cells = "".join(known.get(name, "<td>-</td>") for name in names)
    return f'<tr><th scope="row" class="words">{escape(member + label)}</th>{cells}</tr>'


def _cell(index: Index) -> str:
    if index.z == index.z:
        tested = f"z {z_score(index.z)}, p {number(index.p)}"
    else:
        tested = ""
    return f'<td>{number(index.value)}<span class="sub">{tested}</span></td>'
