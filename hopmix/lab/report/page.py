"""The report of a study: two self-contained pages, and the figures beside them."""

import base64
import gzip
import re
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from pathlib import Path
from string import Template

import xarray as xr
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from hopmix.lab.report import figures, html, seal, text
from hopmix.lab.report.axis import is_penalised
from hopmix.lab.report.data import (
    Run,
    accuracy_by_seed,
    arm_results,
    kinds_of_arms,
    read_run,
    weight_pairs,
)
from hopmix.lab.report.files import figure_files, resource, save_figure, saved_figure
from hopmix.lab.report.payload import has_values, payload
from hopmix.lab.report.pictures import corner, weight_limit
from hopmix.lab.report.symmetry import page as symmetry
from hopmix.lab.store import replacing
from hopmix.symmetry.quantities import COUPLINGS, CURVES, ENERGY, Quantity

_STILLS = 5  # figures that stand in for one chart; more are on the symmetry page


def write_report(run: Path) -> Path:
    """Write `report.html`, `symmetry.html` and `figures/` of a study, finished or still running; return the first.

    Only the run directory is read: `study.json` and `metrics.zarr`, and `results.json` and `weights.npz` where the run
    has ended. Each file takes the place of its predecessor in one move; those that are whole, and show what the run
    holds now, are left as they are.

    **Arguments:**

    - `run`: the directory that `hopmix ablate --out` wrote.

    **Raises:** `UsageError` if it is no run, or nothing has been measured in it yet.
    """
    contents = read_run(run)
    sources = seal.sources(run)
    if seal.is_whole(run, sources):
        return run / "report.html"
    stills = _draw(contents, seal.whole_files(run, sources))
    pages = {
        "symmetry.html": symmetry.page(contents, stills, resource("symmetry.html.tmpl"), resource("report.css")),
        "report.html": _page(contents, stills),
    }
    for name, contained in pages.items():
        with replacing(run / name) as temporary:
            temporary.write_text(contained, encoding="utf-8", errors="replace")
    drawn = [file for name in stills for file in figure_files(name)]
    seal.seal(run, sources, [*pages, *drawn])
    return run / "report.html"


def _draw(run: Run, whole: frozenset[str]) -> dict[str, str]:
    """The address of each figure by name; a figure whose files are among the `whole` ones is not drawn again."""
    stills = {}
    for name, make in _figures(run):
        if whole.issuperset(figure_files(name)):
            stills[name] = saved_figure(run.path / "figures", name)
        else:
            stills[name] = save_figure(make(), run.path / "figures", name)
    return stills


def _figures(run: Run) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The name of each figure, and what makes it."""
    metrics = run.metrics
    if is_penalised(run.metrics).any():
        yield "accuracy_against_lambda", lambda: figures.accuracy_against_strength(accuracy_by_seed(run))
    yield "learning_curves", partial(figures.learning_curves, metrics)
    yield from symmetry.symmetry_figures_of(run)
    if len(_measured(metrics, ENERGY)) == len(ENERGY):
        yield "energy_descent", partial(figures.energy_descent, metrics)
    yield from _weight_figures(run)


def _weight_figures(run: Run) -> Iterator[tuple[str, Callable[[], Figure]]]:
    pairs = weight_pairs(run)
    limits = {key: weight_limit(arms) for key, arms in pairs.items()}
    for name in run.arms:
        rows = {key: arms[name] for key, arms in pairs.items() if name in arms}
        if rows:
            pictures = {_row_title(key): corner(picture) for key, picture in rows.items()}
            scales = {_row_title(key): limits[key] for key in rows}
            yield f"weights_{_file_name(name)}", partial(figures.weight_pictures, pictures, scales)


def _page(run: Run, stills: dict[str, str]) -> str:
    results = arm_results(run)
    template = Template(resource("report.html.tmpl"))
    return template.substitute(
        title=escape(text.title(run)),
        facts=html.facts(run),
        summary=text.summary(run, results),
        accuracy=html.accuracy_table(run, results),
        strength=_strength(run, stills),
        learning=_learning(run, stills),
        asymmetry=_asymmetry(run, stills),
        map=_map(run, stills),
        energy=_energy(run, stills),
        weights=html.weight_grid(run, weight_pairs(run)),
        configuration=html.configuration(run),
        metrics=html.metric_table(),
        arms=html.arm_definitions(kinds_of_arms(run)),
        style=resource("report.css"),
        script=resource("report.js"),
        payload=payload(run),
        plotly=_packed_plotly(),
    )


def _strength(run: Run, stills: dict[str, str]) -> str:
    if not is_penalised(run.metrics).any():
        return html.missing("There is no arm with a penalty in this study, so there is nothing to show against λ.")
    words = "Dots are seeds, marks their mean with one standard error; lines with bands are the arms that have no λ."
    frame = html.chart("strength", "", words)
    still = html.still(stills["accuracy_against_lambda"], words)
    return f"<p>{words}</p>" + html.LEGEND + html.charts([frame], 1) + still


def _learning(run: Run, stills: dict[str, str]) -> str:
    present = [metric.name for metric in _measured(run.metrics, CURVES)]
    choice = html.select("curve", "", html.curve_options(present))
    frames = [
        html.chart(
            "curve", "Validation accuracy", "Validation accuracy against training step", key="validation_accuracy"
        ),
        html.chart("curve", choice, "The chosen quantity against training step"),
    ]
    still = html.still(
        stills["learning_curves"], "Validation accuracy and loss against training step, one curve per arm."
    )
    return html.band_note(run) + html.LEGEND + html.charts(frames, 2) + still


def _asymmetry(run: Run, stills: dict[str, str]) -> str:
    measured = _measured(run.metrics, COUPLINGS)
    if not measured:
        return html.missing("No index of asymmetry has a finite value in this run.")
    blocks, branches = run.metrics.block.values, run.metrics.branch.values
    slots = min(html.SLOTS, blocks.size)
    frames = [
        html.chart(
            "asymmetry", "", "Asymmetry of one block and branch against training step", css="small", slot=s, branch=b
        )
        for b in range(branches.size)
        for s in range(slots)
    ]
    groups = {
        str(g): f"{blocks[g * slots]}–{blocks[min((g + 1) * slots, blocks.size) - 1]}"
        for g in range(-(-blocks.size // slots))
    }
    chosen = [
        html.select("metric", "Quantity", html.options(measured)),
        '<label for="log"><input type="checkbox" id="log"> logarithmic</label>',
        html.select("group", "Blocks", groups) if len(groups) > 1 else "",
    ]
    shown = [
        html.still(stills[f"asymmetry_{m.name}"], f"{m.label} against training step per block and branch.", key=m.name)
        for m in [m for m in measured if m.name in symmetry.CURVES][:_STILLS]
    ]
    return html.band_note(run) + html.LEGEND + html.controls(*chosen) + html.charts(frames, slots) + "".join(shown)


def _map(run: Run, stills: dict[str, str]) -> str:
    measured = _measured(run.metrics, COUPLINGS)
    if not measured:
        return html.missing("No index of asymmetry has a finite value in this run.")
    rows = 2 * run.metrics.block.size
    frames = [
        html.chart(
            "map", escape(name), f"Heat map of asymmetry, block against training step, for {name}", css="map", arm=index
        )
        for index, name in enumerate(run.arms)
    ]
    ends = '<span id="map-low"></span><i class="viridis" id="map-scale"></i><span id="map-high"></span>'
    scale = f'<div class="scale live">{ends}</div>'
    grid = html.charts(frames, 2).replace("--columns: 2", f"--columns: 2; --height: {max(10, 4 + 0.55 * rows):g}rem")
    drawn = [metric for metric in measured if metric.name in symmetry.MAPS][:1]
    words = "block against training step, per arm and branch."
    still = "".join(html.still(stills[f"asymmetry_map_{m.name}"], f"{m.label}, {words}") for m in drawn)
    return html.controls(html.select("map-metric", "Quantity", html.options(measured))) + scale + grid + still


def _energy(run: Run, stills: dict[str, str]) -> str:
    if "energy_descent" not in stills:
        return html.missing("No energy has been measured with a finite value in this run.")
    blocks = {str(i): f"block {block}" for i, block in enumerate(run.metrics.block.values)}
    frames = [
        html.chart("energy", f"{m.label.capitalize()}, {words}", f"{m.label}, {words}", key=m.name, against=against)
        for against, words in (("block", "per block at the last step"), ("step", "during training"))
        for m in ENERGY
    ]
    choice = html.controls(html.select("energy-block", "During training", {"all": "mean over blocks", **blocks}))
    still = html.still(
        stills["energy_descent"], "Energy change and share of rising examples, per block and during training."
    )
    return html.LEGEND + choice + html.charts(frames, 2) + still


def _measured(metrics: xr.Dataset, described: tuple[Quantity, ...]) -> list[Quantity]:
    return [metric for metric in described if has_values(metrics, metric.name)]


def _row_title(key: tuple[int, str]) -> str:
    return f"block {key[0]}, {key[1]}"


def _file_name(arm: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", arm.replace("λ=", "")).strip("-")


def _packed_plotly() -> str:
    """Plotly.js, compressed to a third: the page unpacks it when it opens."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()
