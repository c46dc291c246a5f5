"""What the sections of a page are made of: frames of charts, tables, choices and notices, as
HTML.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape

from hopmix.lab.report.csv_table import csv_of, link
from hopmix.lab.store.run import Run
from hopmix.symmetry.quantities import Quantity

LEGEND = (
    '<div class="legend live" role="group" aria-label="Arms shown, press to hide or show"></div>'
)


OLDER = (
    "it was written by an earlier version of hopmix, or measured with <code>--spectra-every "
    "0</code>"
)
"""Why a run may lack what is measured of spectra and fields."""


def band_note(run: Run) -> str:
    """What lines and bands are."""
    if run.metrics.seed.size > 1:
        note = "Lines are means over seeds, bands reach from the lowest to the highest seed."
    else:
        note = "One seed, so there are no bands."
    return f'<p class="note">{note}</p>'


def facts(run: Run) -> str:
    """The line under the title."""
    if run.recorded:
        state = "recorded in a loop of its own"
    elif run.finished:
        state = "finished"
    else:
        state = f"in progress, step {run.last_step:,} of {run.study.get('steps_total', 0):,}"
    arms = len(run.arms)
    seeds = run.metrics.seed.size
    parts = [
        f"{arms} arm{'s' * (arms > 1)} × {seeds} seed{'s' * (seeds > 1)}",
        f"{run.last_step:,} steps",
        state,
    ]
    created = str(run.study.get("created", ""))[:16].replace("T", " ")
    started = [f"started {created}"] if created else []
    return escape(" · ".join([*parts, *started, f"run {run.path.resolve().name}"]))


def chart(
    name: str,
    caption: str,
    label: str,
    *,
    panel: str = "",
    choice: str = "",
    log: str = "",
    group: str = "",
    css: str = "",
) -> str:
    """The frame of one panel of an interactive chart, which report.js fills.

    **Arguments:**

    - `name`: of the chart; `panel`: which of its panels.
    - `caption`: HTML above the panel; `label`: what it shows, for those who do not see it.
    - `choice`, `log`: names of the controls that choose what is shown, and a logarithmic axis.
    - `group`: a control and its value, "control:value", with which the panel is shown.
    - `css`: a class of frames.
    """
    data = {"chart": name, "panel": panel, "choice": choice, "log": log}
    attributes = "".join(f' data-{key}="{escape(value)}"' for key, value in data.items())
    grouped = f' data-group="{escape(group)}"' if group else ""
    return (
        f'<figure class="chart live {css}"{grouped}><figcaption>{caption}</figcaption>'
        f'<div class="plot"{attributes} role="img" aria-label="{escape(label)}"></div></figure>'
    )


def charts(frames: Sequence[str], columns: int) -> str:
    """Charts side by side on a wide screen, one below the other on a narrow one."""
    return (
        f'<div class="charts live" style="--columns: {columns}">\n' + "\n".join(frames) + "\n</div>"
    )


def still(source: str, alt: str, key: str = "") -> str:
    """A static figure that stands in for the charts on paper and where scripts do not run."""
    data = f' data-still="{key}"' if key else ""
    return f'<div class="still"{data}><img src="{source}" alt="{escape(alt)}"></div>'


def picture(source: str, alt: str, *, group: str = "", key: str = "") -> str:
    """A static figure as part of the page; of a group the reader sees the chosen one."""
    data = f' data-group="{group}" data-key="{key}"' if group else ""
    image = f'<img src="{source}" alt="{escape(alt)}">'
    return f'<figure class="picture"{data}>{scroll(escape(alt), image)}</figure>'


def missing(words: str) -> str:
    """A notice in the place of something that the run does not have."""
    return f'<p class="missing">{words}</p>'


def select(name: str, label: str, options: Mapping[str, str]) -> str:
    """A labelled choice."""
    items = "".join(
        f'<option value="{escape(value)}">{escape(words)}</option>'
        for value, words in options.items()
    )
    return f'<label for="{name}">{label} <select id="{name}">{items}</select></label>'


def controls(*parts: str) -> str:
    """A row of choices above charts."""
    return '<div class="controls live">' + "".join(parts) + "</div>"


def options(metrics: Sequence[Quantity]) -> dict[str, str]:
    """Choices between quantities."""
    return {metric.name: metric.label for metric in metrics}


def table(label: str, head: str, rows: Sequence[str], *, css: str = "results") -> str:
    """A table in a frame, and a link to the same as CSV.

    **Arguments:**

    - `label`: what it is, as text.
    - `head`: the cells of its head; `rows`: rows, both HTML.
    - `css`: its classes.
    """
    body = "\n".join(rows)
    inner = (
        f'<table class="{css}"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    )
    return scroll(escape(label), inner) + link(label, csv_of(inner))


def heads(names: Sequence[str], words: int = 1) -> str:
    """Cells of the head of a table, the first of them above words instead of numbers."""
    return "".join(
        f'<th scope="col"{_of_words(i < words)}>{name}</th>' for i, name in enumerate(names)
    )


def _of_words(is_words: bool) -> str:
    if is_words:
        return ' class="words"'
    return ""


def swatch(colour: str) -> str:
    """The colour of an arm."""
    return f'<span class="swatch" style="background: {colour}"></span>'


def scroll(label: str, table: str) -> str:
    """A frame in which what is too wide for the screen can be moved."""
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def fold(title: str, body: str, *, opened: bool = False) -> str:
    """A part of the page that the reader opens."""
    return (
        f"<details{' open' * opened}><summary>{escape(title)}</summary><div>{body}</div></details>"
    )


def pairs(values: Mapping) -> str:
    """Names and values side by side."""
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(setting(value))}</dd>"
        for name, value in values.items()
    )
    return f'<dl class="pairs">{items}</dl>'


def setting(value: object) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False)
