"""The symmetry page of a study: which figures it shows, and the page around them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from string import Template

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hopmix.lab.report import figures, html, text
from hopmix.lab.report.axis import is_penalised
from hopmix.lab.report.data import Run, accuracy_by_seed, coupling_sizes, last_measured, weight_pairs
from hopmix.lab.report.null import null
from hopmix.lab.report.payload import has_values
from hopmix.lab.report.pictures import weight_limit
from hopmix.lab.report.symmetry import figures as symmetry_figures
from hopmix.lab.report.symmetry import tables
from hopmix.symmetry.quantities import ONSET, quantity

# Every index can be chosen in the charts of the report; drawing each of them here would take longer than a short study.
MAPS = ("cosine", "symmetry_score", "breaking_ratio", "complex_fraction", "field_asymmetry")
CURVES = (
    *("cosine", "relative_breaking", "symmetry_score", "breaking_ratio"),
    *("median_unit_cosine", "conservative_distance", "complex_fraction"),
)
SCATTERS = ("symmetry_score", "median_unit_cosine")

_OLDER = "it was written by an earlier version of hopmix, or measured with <code>--deep 0</code>"


def symmetry_figures_of(run: Run) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures of the page that the run has numbers for: the name of each, and what makes it."""
    metrics = run.metrics
    for key in measured(run, CURVES):
        yield f"asymmetry_{key}", lambda key=key: figures.asymmetry_curves(metrics[key], null=_null(run, key))
    for key in measured(run, MAPS):
        yield f"asymmetry_map_{key}", partial(figures.asymmetry_map, metrics[key])
    if not onset_missing(run):
        yield "onset", lambda: symmetry_figures.onset(metrics.isel(arm=_broken(run)))
    for (block, branch), pictures in weight_pairs(run).items():
        yield f"alignment_{block}_{branch}", partial(symmetry_figures.alignment, pictures, weight_limit(pictures))
    for block, branch in _spectra(run):
        at_end = metrics.sel(block=block, branch=branch)
        yield f"spectra_{block}_{branch}", partial(symmetry_figures.spectra, at_end)
    for key in measured(run, SCATTERS):
        yield f"accuracy_against_{key}", partial(_scatter_figure, run, key)
    if present := measured(run, symmetry_figures.FIELDS):
        errors = [name for name in ("field_asymmetry_stderr",) if name in metrics]
        yield "fields", partial(symmetry_figures.fields, metrics[[*present, *errors]])


def _scatter_figure(run: Run, key: str) -> Figure:
    final = last_measured(run.metrics[key]).mean("block")
    return symmetry_figures.accuracy_against_symmetry(final, accuracy_by_seed(run), null=_null(run, key))


def _null(run: Run, key: str) -> xr.Dataset | None:
    # The ratio of breaking moves with the norms of V and W, which training changes.
    sizes = None if key == "breaking_ratio" else coupling_sizes(run)
    return None if sizes is None else null(key, sizes)


def page(run: Run, stills: dict[str, str], template: str, style: str) -> str:
    """The page; `stills` holds the address of each figure by name, `template` and `style` are its frame."""
    return Template(template).substitute(
        title=escape(f"{text.title(run)}: symmetry"),
        facts=html.facts(run),
        style=style,
        values=tables.final_values(run, coupling_sizes(run)),
        map=_choice("map", "asymmetry_map", measured(run, MAPS), stills, "block against training step, per arm"),
        curves=_curves(run, stills),
        onset=_onset(run, stills),
        alignment=_alignment(run, stills),
        spectra=_spectra_section(run, stills),
        scatter=_scatter(run, stills),
        fields=_fields(run, stills),
    )


def measured(run: Run, keys: Sequence[str]) -> list[str]:
    """Those of the keys for which the run has a finite number."""
    return [key for key in keys if has_values(run.metrics, key)]


def _label(name: str) -> str:
    known = quantity(name)
    assert known is not None
    return known.label


def onset_missing(run: Run) -> str:
    """Why there is nothing to show about the onset of breaking; empty where there is."""
    if not _broken(run).size:
        return "There is no broken arm in this study."
    if not has_values(run.metrics, ONSET.name):
        return f"This run has no predicted rates of breaking: {_OLDER}."
    if not has_values(run.metrics, "breaking_ratio") or run.metrics.step.size < 2:
        return "The breaking has been measured once so far; a rate needs two measurements."
    return ""


def _broken(run: Run) -> np.ndarray:
    return np.flatnonzero(is_penalised(run.metrics))


def _spectra(run: Run) -> list[tuple[int, str]]:
    """The last block, each branch."""
    if "eigenvalue_real" not in run.metrics or not bool(run.metrics.eigenvalue_real.notnull().any()):
        return []
    return [(int(run.metrics.block.values[-1]), str(branch)) for branch in run.metrics.branch.values]


def _choice(group: str, prefix: str, keys: Sequence[str], stills: dict[str, str], words: str) -> str:
    """Figures of which the reader sees the chosen one."""
    if not keys:
        return html.missing("No index of asymmetry has a finite value in this run.")
    shown = [html.picture(stills[f"{prefix}_{key}"], f"{_label(key)}: {words}", group=group, key=key) for key in keys]
    options = {key: _label(key) for key in keys}
    return html.controls(html.select(group, "Index", options)) + "".join(shown)


def _curves(run: Run, stills: dict[str, str]) -> str:
    words = "against training step, per block and branch"
    return html.band_note(run) + _choice("curves", "asymmetry", measured(run, CURVES), stills, words)


def _onset(run: Run, stills: dict[str, str]) -> str:
    if reason := onset_missing(run):
        return html.missing(reason)
    rates = symmetry_figures.rates_of_breaking(run.metrics.isel(arm=_broken(run)))
    shown = html.picture(stills["onset"], "Predicted and measured rates of breaking, per broken arm")
    return tables.onset_table(rates) + _empty_updates(run) + shown


def _empty_updates(run: Run) -> str:
    rate = run.metrics.breaking_rate.isel(arm=_broken(run))
    empty = ((rate == 0) | rate.isnull()).all([name for name in rate.dims if name != "step"])
    steps = [f"{step:,}" for step in rate.step.values[(empty & rate.notnull().any(set(rate.dims) - {"step"})).values]]
    if not steps:
        return ""
    at = f"step{'s' * (len(steps) > 1)} {text.enumerate_words(steps)}"
    return html.missing(
        f"At {at} the next update is empty and predicts nothing: the learning rate is zero at both ends of its "
        "schedule, and the blocks have no gradient behind a head that starts at zero."
    )


def _alignment(run: Run, stills: dict[str, str]) -> str:
    pairs = weight_pairs(run)
    if not pairs:
        return html.missing("<code>weights.npz</code> is not there yet: it is written when the run has ended.")
    folded = [
        html.fold(
            f"Block {block}, {branch} mixing",
            html.picture(stills[f"alignment_{block}_{branch}"], f"Aligned weights of block {block}, {branch} mixing"),
            opened=index == 0,
        )
        for index, (block, branch) in enumerate(pairs)
    ]
    return "\n".join(folded)


def _spectra_section(run: Run, stills: dict[str, str]) -> str:
    shown = [
        f"<h3>Block {block}, {branch} mixing</h3>"
        + html.picture(stills[f"spectra_{block}_{branch}"], f"Eigenvalues of block {block}, {branch} mixing")
        for block, branch in _spectra(run)
    ]
    return "\n".join(shown) or html.missing(f"This run has no eigenvalues: {_OLDER}.")


def _scatter(run: Run, stills: dict[str, str]) -> str:
    words = "accuracy against it, per arm and seed"
    return _choice("scatter", "accuracy_against", measured(run, SCATTERS), stills, words)


def _fields(run: Run, stills: dict[str, str]) -> str:
    if "fields" not in stills:
        return html.missing(f"This run has no measurements of its blocks as vector fields: {_OLDER}.")
    return html.picture(stills["fields"], "Field asymmetry, dissipation, work and descent margin used, per block")
