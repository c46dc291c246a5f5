"""One colour, dash and marker per arm, the same in every chart, table and picture."""

import contextlib
import dataclasses
import json

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.typing import LineStyleType

from hopmix.lab.families.arm import Look
from hopmix.lab.families.mixers import BY_NAME
from hopmix.lab.store.earlier import Labelled, with_names_of_today


@dataclasses.dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn; `dash` carries the difference where colour cannot."""

    name: str
    colour: str
    dash: str  # solid, dash, dot or dashdot: plotly's names
    marker: str  # circle, square, diamond, ...: plotly's names


_OTHERS = (
    Look(("#f7d9a0", "#e69f00", "#7a5400"), "solid", "triangle-up"),
    Look(("#8fd6bf", "#009e73", "#004d38"), "dash", "triangle-down"),
    Look(("#ebcadc", "#cc79a7", "#7d3c60"), "dashdot", "diamond"),
    Look(("#777777", "#000000", "#000000"), "dot", "square"),
)
BRANCHES: tuple[tuple[str, str, LineStyleType], ...] = (
    ("#333333", "o", "-"),
    ("#e69f00", "s", "--"),
    ("#0072b2", "^", "-."),
    ("#d55e00", "v", ":"),
    ("#009e73", "D", "-"),
)
"""Colour, Matplotlib's marker and line of the branches in turn, where colours do not stand for
arms.
"""
_MATPLOTLIB_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
}
_MATPLOTLIB_DASHES: dict[str, LineStyleType] = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
}


def arm_styles(metrics: Labelled) -> dict[str, ArmStyle]:
    """Style of every arm by name; those of one kind are graded by their rank in lambda, light
    (weak) to dark (strong).

    Arms of other kinds than those of the family, or without `kind` and `strength`, take the
    remaining hues in turn.
    """
    metrics = with_names_of_today(metrics)
    names = [str(name) for name in metrics.arm.values]
    kinds = [str(kind) for kind in metrics.coords.get("kind", metrics.arm).values]
    strengths = metrics.coords.get(
        "strength", xr.full_like(metrics.arm, np.nan, float)
    ).values.astype(float)
    others = [kind for kind in dict.fromkeys(kinds) if kind not in BY_NAME]
    looks = {kind: row.look for kind, row in BY_NAME.items()}
    looks = own_looks(metrics) | looks
    others = [kind for kind in others if kind not in looks]
    looks |= {kind: _OTHERS[i % len(_OTHERS)] for i, kind in enumerate(others)}
    return {
        name: _styled(name, looks[kind], _rank(kinds, strengths, i))
        for i, (name, kind) in enumerate(zip(names, kinds))
    }


def own_looks(metrics: Labelled) -> dict[str, Look]:
    """How kinds of the user's own are to be drawn, as the store says; those that it cannot say are
    left out.
    """
    told = metrics.coords["kind"].attrs.get("looks", "{}") if "kind" in metrics.coords else "{}"
    looks = {}
    # What a folder says is text: it may be of anybody.
    with contextlib.suppress(ValueError, TypeError, AttributeError, LookupError):
        for kind, look in json.loads(told).items():
            looks[kind] = Look(tuple(look["colours"]), look["dash"], look["marker"])
    return looks


def _styled(name: str, look: Look, rank: float) -> ArmStyle:
    return ArmStyle(name, _blend(look.colours, rank), look.dash, look.marker)


def line_style(style: ArmStyle) -> LineStyleType:
    """Matplotlib's line style for a curve of this arm."""
    return _MATPLOTLIB_DASHES[style.dash]


def marker_style(style: ArmStyle) -> str:
    """Matplotlib's marker for a point of this arm."""
    return _MATPLOTLIB_MARKERS[style.marker]


def _rank(kinds: list[str], strengths: Float[np.ndarray, " arms"], index: int) -> float:
    """Position of one arm among the strengths of its kind, 0 (smallest) to 1; the middle for an
    only child.
    """
    same = np.unique([strength for kind, strength in zip(kinds, strengths) if kind == kinds[index]])
    if same.size == 1:
        return 0.5
    return float(np.searchsorted(same, strengths[index]) / (same.size - 1))


def _blend(ramp: tuple[str, ...], position: float) -> str:
    channels = np.array(
        [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in ramp], dtype=float
    )
    at = position * (len(ramp) - 1)
    mixed = [np.interp(at, np.arange(len(ramp)), channels[:, channel]) for channel in range(3)]
    return "#" + "".join(f"{round(value):02x}" for value in mixed)
