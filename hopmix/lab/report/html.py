"""The parts of the report page: tables, chart frames and notices, each as a string of HTML."""

import json
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import xarray as xr

from hopmix.lab.report import text
from hopmix.lab.report.data import REFERENCE, ArmResult, Run
from hopmix.lab.report.pictures import HIDDEN, VISIBLE, corner, data_uri, weight_limit
from hopmix.lab.report.style import arm_styles
from hopmix.lab.statistics import Summary
from hopmix.symmetry.quantities import COUPLINGS, CURVES, ENERGY, FIELDS, Quantity

SLOTS = 4  # blocks side by side, as in report.js
LEGEND = '<div class="legend live" role="group" aria-label="Arms shown, press to hide or show"></div>'


def accuracy_table(run: Run, results: Sequence[ArmResult]) -> str:
    """One row per arm: parameters, n, accuracies, paired difference to the reference with its p-values."""
    adjusted, styles = text.adjusted_p(results), arm_styles(run.metrics)
    rows = "\n".join(_row(arm, adjusted[arm.name], styles[arm.name].colour) for arm in results)
    split = "test" if run.results else "validation"
    head = (
        '<th scope="col" class="words">Arm</th><th scope="col" class="words">In the paper</th><th scope="col">λ</th>'
        '<th scope="col">Parameters</th><th scope="col">n</th><th scope="col">Test accuracy, %</th>'
        f'<th scope="col">Validation accuracy, %</th><th scope="col">Difference to {REFERENCE}, points</th>'
        '<th scope="col">p</th><th scope="col">p, Holm</th>'
    )
    table = f'<table class="results">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'
    return scroll("Accuracy of each arm", table) + _table_note(run, results, split)


def band_note(run: Run) -> str:
    """What lines and bands are."""
    many = "Lines are means over seeds, bands reach from the lowest to the highest seed."
    return f'<p class="note">{many if run.metrics.seed.size > 1 else "One seed, so there are no bands."}</p>'


def facts(run: Run) -> str:
    """The line under the title."""
    state = (
        "finished" if run.finished else f"in progress, step {run.last_step:,} of {run.study.get('steps_total', 0):,}"
    )
    arms, seeds = len(run.arms), run.metrics.seed.size
    parts = [f"{arms} arm{'s' * (arms > 1)} × {seeds} seed{'s' * (seeds > 1)}", f"{run.last_step:,} steps", state]
    created = str(run.study.get("created", ""))[:16].replace("T", " ")
    started = [f"started {created}"] if created else []
    return escape(" · ".join([*parts, *started, f"run {run.path.resolve().name}"]))


def chart(kind: str, caption: str, label: str, *, css: str = "", **data: str | int) -> str:
    """The frame of one interactive chart, which report.js fills."""
    attributes = "".join(f' data-{name}="{escape(str(value))}"' for name, value in data.items())
    return (
        f'<figure class="chart live {css}"><figcaption>{caption}</figcaption>'
        f'<div class="plot" data-chart="{kind}"{attributes} role="img" aria-label="{escape(label)}"></div></figure>'
    )


def charts(frames: Sequence[str], columns: int) -> str:
    """Charts side by side on a wide screen, one below the other on a narrow one."""
    return f'<div class="charts live" style="--columns: {columns}">\n' + "\n".join(frames) + "\n</div>"


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
    items = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in options.items())
    return f'<label for="{name}">{label} <select id="{name}">{items}</select></label>'


def controls(*parts: str) -> str:
    """A row of choices above charts."""
    return '<div class="controls live">' + "".join(parts) + "</div>"


def options(metrics: Sequence[Quantity]) -> dict[str, str]:
    """Choices between quantities."""
    return {metric.name: metric.label for metric in metrics}


def weight_grid(run: Run, pairs: Mapping[tuple[int, str], Mapping[str, xr.DataArray]]) -> str:
    """Foldable pictures of W^T, V and V - W^T per block and branch, one row per arm, on one scale."""
    if not pairs:
        return missing("<code>weights.npz</code> is not there yet: it is written when the run has ended.")
    intro = (
        f"<p>First seed (seed {int(run.metrics.seed.values[0])}) at the last step; one pixel per weight, hidden units "
        "from left to right, visible units from top to bottom. Within a block and branch they share one scale.</p>"
    )
    folded = [
        _weight_group(block, branch, arms, index == 0) for index, ((block, branch), arms) in enumerate(pairs.items())
    ]
    return intro + "\n".join(folded)


def configuration(run: Run) -> str:
    """Data, configuration, environment and timing, folded away."""
    study = run.study
    parts = {
        "Data": study.get("data", {}),
        "Configuration": study.get("config", {}),
        "Environment": study.get("environment", {}),
        **{f"Environment when resumed, {r['created']}": r["environment"] for r in study.get("resumed", [])},
        "Time in seconds": (run.results or {}).get("timing", {}),
    }
    command = f"<p><code>{escape(str(study.get('command', '')))}</code></p>"
    return command + "\n".join(fold(title, _pairs(values)) for title, values in parts.items() if values)


def metric_table() -> str:
    """Formula, range and one sentence per metric."""
    head = "".join(
        f'<th scope="col" class="words">{name}</th>' for name in ("Quantity", "Formula", "Range", "How to read it")
    )
    rows = "\n".join(
        f'<tr><th scope="row" class="words">{metric.label}</th><td class="words formula">{metric.formula}</td>'
        f'<td class="words">{metric.range}</td><td class="words wrap">{metric.reading}</td></tr>'
        for metric in (*COUPLINGS, *FIELDS, *ENERGY)
    )
    notation = (
        '<p class="note"><i>W</i>: up-weights (hidden × visible), <i>V</i>: down-weights (visible × hidden), '
        "<i>w</i><sub>α</sub> and <i>v</i><sub>α</sub> those of hidden unit α. Norms are Frobenius norms.</p>"
    )
    table = f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    return scroll("Metrics", table) + notation


def arm_definitions(kinds: Mapping[str, str]) -> str:
    """What each kind of arm is, in the paper's words too."""
    items = "\n".join(f"<dt>{escape(kind)}</dt><dd>{words}</dd>" for kind, words in kinds.items())
    pairing = (
        "<p>The same seed gives every arm the same <i>W</i>, stem, head and order of batches; this is what the paired "
        "tests use. The names of the models are those of arXiv 2406.12220.</p>"
    )
    return f'<dl class="definitions">\n{items}\n</dl>{pairing}'


def curve_options(present: Sequence[str]) -> dict[str, str]:
    """Choices of the second learning curve."""
    return {
        metric.name: metric.label
        for metric in CURVES
        if metric.name in present and metric.name != "validation_accuracy"
    }


def _row(arm: ArmResult, adjusted: float, colour: str) -> str:
    lost = "; ".join(f"seed {seed} diverged at step {step:,}" for seed, step in arm.diverged.items())
    name = f'<span class="swatch" style="background: {colour}"></span>{escape(arm.name)}' + (
        f'<span class="sub">{lost}</span>' if lost else ""
    )
    n = (arm.test or arm.validation).n
    numbers = [
        "–" if arm.strength is None else f"{arm.strength:g}",
        f"{arm.parameters:,}",
        str(n),
        _accuracy(arm.test),
        _accuracy(arm.validation),
        *_comparison(arm, adjusted),
    ]
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    return f'<tr><th scope="row" class="words">{name}</th><td class="words">{escape(arm.title)}</td>{cells}</tr>'


def _accuracy(score: Summary | None) -> str:
    if score is None or np.isnan(score.mean):
        return "–"
    return _plus_minus(f"{100 * score.mean:.2f}", score.stderr)


def _comparison(arm: ArmResult, adjusted: float) -> tuple[str, str, str]:
    if arm.name == REFERENCE:
        return "reference", "", ""
    if arm.paired is None or np.isnan(arm.paired.difference):
        return "–", "–", "–"
    difference = _plus_minus(text.signed(100 * arm.paired.difference), arm.paired.stderr)
    return difference, escape(text.p_text(arm.paired.p)), escape(text.p_text(adjusted))


def _plus_minus(number: str, stderr: float) -> str:
    return number if np.isnan(stderr) else f"{number} ± {100 * stderr:.2f}"


def _table_note(run: Run, results: Sequence[ArmResult], split: str) -> str:
    errors = (
        "Mean ± standard error over n seeds. " if run.metrics.seed.size > 1 else "One seed: no spread and no test. "
    )
    if REFERENCE not in run.arms:
        paired = f"Without a {REFERENCE} arm there is nothing to pair with. "
    elif len(results) > 1 and run.metrics.seed.size > 1:
        paired = (
            f"Difference to {REFERENCE} in {split} accuracy, by the two-sided paired t-test over shared seeds; the "
            "last column adjusts p for the number of arms compared (Holm). A pair with a diverged member is dropped. "
        )
    else:
        paired = ""
    note = f'<p class="note">{errors}{paired}</p>'
    if run.results is None:
        note += missing(
            "<code>results.json</code> is not there yet: the test split is read once, when the run has ended."
        )
    return note


def _weight_group(block: int, branch: str, arms: Mapping[str, xr.DataArray], opened: bool) -> str:
    limit = weight_limit(arms)
    first = next(iter(arms.values()))
    heads = '<span class="corner"></span>' + "".join(f'<span class="head">{part}</span>' for part in first.part.values)
    rows = "\n".join(
        _weight_row(name, picture, f"block {block}, {branch} mixing", limit) for name, picture in arms.items()
    )
    scale = f'<div class="scale" aria-hidden="true">−{limit:.2g} <i class="rdbu"></i> {limit:.2g}</div>'
    shown = min(picture.sizes["hidden"] / picture.sizes["visible"] for picture in map(corner, arms.values()))
    # A picture is at most 7rem high, whatever its shape.
    grid = f'<div class="weights" style="--picture: {7 * shown:.3g}rem">{heads}\n{rows}</div>'
    body = scale + grid + _crop_note(arms)
    return fold(f"Block {block}, {branch} mixing", body, opened=opened)


def _weight_row(name: str, picture: xr.DataArray, place: str, limit: float) -> str:
    size = f"{picture.sizes['visible']} × {picture.sizes['hidden']}"
    images = "".join(
        f'<img src="{data_uri(corner(picture).sel(part=part).values, limit)}" '
        f'alt="{escape(f"{part} of {name}, {place}, {size} weights")}">'
        for part in picture.part.values
    )
    return f'<span class="arm">{escape(name)}<span class="sub">{size}</span></span>{images}'


def _crop_note(arms: Mapping[str, xr.DataArray]) -> str:
    if all(picture.sizes["visible"] <= VISIBLE and picture.sizes["hidden"] <= HIDDEN for picture in arms.values()):
        return ""
    return f'<p class="note">Of larger matrices the first {VISIBLE} visible and {HIDDEN} hidden units are shown.</p>'


def scroll(label: str, table: str) -> str:
    """A frame in which what is too wide for the screen can be moved."""
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def fold(title: str, body: str, *, opened: bool = False) -> str:
    """A part of the page that the reader opens."""
    return f"<details{' open' * opened}><summary>{escape(title)}</summary><div>{body}</div></details>"


def _pairs(values: Mapping) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_value(value))}</dd>" for name, value in values.items())
    return f'<dl class="pairs">{items}</dl>'


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
