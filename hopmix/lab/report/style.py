"""One colour, dash and marker per arm, the same in every chart, table and picture."""

import dataclasses

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.typing import LineStyleType


@dataclasses.dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn; `dash` carries the difference where colour cannot."""

    name: str
    colour: str
    dash: str  # solid, dash, dot or dashdot: plotly's names
    marker: str  # circle, square, diamond, ...: plotly's names


# Okabe and Ito's colour-blind-safe hues; the two graded families run light to dark, which every eye can order.
_FIXED = {
    "serial": ("#545454", "dot", "diamond"),
    "free": ("#d55e00", "solid", "square"),
    "symmetric": ("#0072b2", "solid", "circle"),
    "symmetric-wide": ("#56b4e9", "dash", "circle"),
}
_GRADED = {
    "broken": (("#a6d854", "#1b9e77", "#08402c"), "solid", "triangle-up"),
    "broken-xavier": (("#e9a6c9", "#b5307f", "#4a0d43"), "dashdot", "triangle-down"),
}
_OTHERS = (
    ("#e69f00", "solid", "triangle-up"),
    ("#009e73", "dash", "triangle-down"),
    ("#cc79a7", "dashdot", "diamond"),
    ("#000000", "dot", "square"),
)
BRANCHES: tuple[tuple[str, str, LineStyleType], ...] = (("#333333", "o", "-"), ("#e69f00", "s", "--"))
"""Colour, Matplotlib's marker and line of the first and the second branch, where colours do not stand for arms."""
_MATPLOTLIB_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v"}
_MATPLOTLIB_DASHES: dict[str, LineStyleType] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def arm_styles(metrics: xr.Dataset | xr.DataArray) -> dict[str, ArmStyle]:
    """Style of every arm by name; broken arms are graded by their rank in lambda, light (weak) to dark (strong).

    Arms of other kinds than those of a study, or without `kind` and `penalty`, take the remaining hues in turn.
    """
    names = [str(name) for name in metrics.arm.values]
    kinds = [str(kind) for kind in metrics.coords.get("kind", metrics.arm).values]
    penalties = metrics.coords["penalty"].values.astype(float) if "penalty" in metrics.coords else np.zeros(len(names))
    others = [kind for kind in dict.fromkeys(kinds) if kind not in _FIXED | _GRADED]
    fixed = _FIXED | {kind: _OTHERS[i % len(_OTHERS)] for i, kind in enumerate(others)}
    return {
        name: ArmStyle(name, *fixed[kind]) if kind in fixed else _graded(name, kind, _rank(kinds, penalties, i))
        for i, (name, kind) in enumerate(zip(names, kinds))
    }


def line_style(style: ArmStyle) -> LineStyleType:
    """Matplotlib's line style for a curve of this arm."""
    return _MATPLOTLIB_DASHES[style.dash]


def marker_style(style: ArmStyle) -> str:
    """Matplotlib's marker for a point of this arm."""
    return _MATPLOTLIB_MARKERS[style.marker]


def _graded(name: str, kind: str, rank: float) -> ArmStyle:
    ramp, dash, marker = _GRADED[kind]
    return ArmStyle(name, _blend(ramp, rank), dash, marker)


def _rank(kinds: list[str], penalties: Float[np.ndarray, " arms"], index: int) -> float:
    """Position of one arm among the penalties of its kind, 0 (smallest) to 1; the middle for an only child."""
    same = np.unique([penalty for kind, penalty in zip(kinds, penalties) if kind == kinds[index]])
    return 0.5 if same.size == 1 else float(np.searchsorted(same, penalties[index]) / (same.size - 1))


def _blend(ramp: tuple[str, ...], position: float) -> str:
    channels = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in ramp], dtype=float)
    at = position * (len(ramp) - 1)
    mixed = [np.interp(at, np.arange(len(ramp)), channels[:, channel]) for channel in range(3)]
    return "#" + "".join(f"{round(value):02x}" for value in mixed)
