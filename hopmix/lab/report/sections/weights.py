"""Weights: pictures of W^T, V and their difference, per block and branch."""

import re
from collections.abc import Mapping
from functools import partial
from html import escape

import xarray as xr

from hopmix.lab.probes.layout import branch_label
from hopmix.lab.report import html
from hopmix.lab.report.data import weight_pairs
from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.store.run import Run
from hopmix.plot.pictures import HIDDEN, VISIBLE, corner, data_uri, weight_limit
from hopmix.plot.training import weight_pictures


def figures(run: Run) -> NamedFigures:
    """A figure per arm."""
    pairs = weight_pairs(run)
    limits = {key: weight_limit(arms) for key, arms in pairs.items()}
    for name in run.arms:
        rows = {key: arms[name] for key, arms in pairs.items() if name in arms}
        if rows:
            pictures = {_row_title(key): corner(picture) for key, picture in rows.items()}
            scales = {_row_title(key): limits[key] for key in rows}
            yield f"weights_{_file_name(name)}", partial(weight_pictures, pictures, scales)


def _row_title(key: tuple[int, str]) -> str:
    return f"block {key[0]}, {key[1]}"


def _file_name(arm: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", arm.replace("λ=", "")).strip("-")


def body(run: Run, static_figures: StaticFigures) -> str:
    """The pictures, as small as a pixel per weight, enlarged to fill their card."""
    return weight_grid(run, weight_pairs(run))


def weight_grid(run: Run, pairs: Mapping[tuple[int, str], Mapping[str, xr.DataArray]]) -> str:
    """Foldable pictures of W^T, V and V - W^T per block and branch, one row per arm, on one
    scale.
    """
    if not pairs:
        return html.missing(
            "<code>weights.npz</code> is not there yet: it is written when the run has ended."
        )
    intro = (
        f"<p>First seed (seed {int(run.metrics.seed.values[0])}) at the last step; one pixel per "
        f"weight, hidden units "
        "from left to right, visible units from top to bottom. Within a block and branch they "
        "share one scale.</p>"
    )
    folded = [
        _weight_group(block, branch, arms, index == 0)
        for index, ((block, branch), arms) in enumerate(pairs.items())
    ]
    return intro + "\n".join(folded)


def _weight_group(block: int, branch: str, arms: Mapping[str, xr.DataArray], opened: bool) -> str:
    limit = weight_limit(arms)
    first = next(iter(arms.values()))
    heads = '<span class="corner"></span>' + "".join(
        f'<span class="head">{part}</span>' for part in first.part.values
    )
    rows = "\n".join(
        _weight_row(name, picture, f"block {block}, {branch_label(branch)}", limit)
        for name, picture in arms.items()
    )
    scale = (
        f'<div class="scale" aria-hidden="true">−{limit:.2g} <i class="rdbu"></i> {limit:.2g}</div>'
    )
    grid = f'<div class="weights">{heads}\n{rows}</div>'
    body = scale + grid + _crop_note(arms)
    return html.fold(f"Block {block}, {branch_label(branch)}", body, opened=opened)


def _weight_row(name: str, picture: xr.DataArray, place: str, limit: float) -> str:
    size = f"{picture.sizes['visible']} × {picture.sizes['hidden']}"
    images = "".join(
        f'<img src="{data_uri(corner(picture).sel(part=part).values, limit)}" '
        f'alt="{escape(f"{part} of {name}, {place}, {size} weights")}">'
        for part in picture.part.values
    )
    return f'<span class="arm">{escape(name)}<span class="sub">{size}</span></span>{images}'


def _crop_note(arms: Mapping[str, xr.DataArray]) -> str:
    if all(
        picture.sizes["visible"] <= VISIBLE and picture.sizes["hidden"] <= HIDDEN
        for picture in arms.values()
    ):
        return ""
    shown = f"the first {VISIBLE} visible and {HIDDEN} hidden units are shown"
    return f'<p class="note">Of larger matrices {shown}.</p>'


SECTION = Section("weights", "Weights", body, figures, of_studies=True)
