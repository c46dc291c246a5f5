"""What runs of earlier formats hold, under the names of today."""

from typing import Any, TypeVar

import numpy as np
import xarray as xr

from hopmix.lab.families.mixers import BY_NAME

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)

RENAMED = {"paper_name": "title", "penalty": "strength", "penalty_term": "penalty"}
"""Names of the first two formats: "penalty" was lambda there, and is lambda times the squared
breaking now.
"""


def with_names_of_today(metrics: Labelled) -> Labelled:
    """The measurements of any format, or one of them, as those of the present one."""
    if "paper_name" not in metrics.coords:
        return metrics
    if isinstance(metrics, xr.DataArray):
        names = metrics.coords
    else:
        names = metrics.variables
    renamed = metrics.rename({old: new for old, new in RENAMED.items() if old in names})
    kinds = [str(kind) for kind in renamed.kind.values]
    strengths = [_strength(kind, value) for kind, value in zip(kinds, renamed.strength.values)]
    return renamed.assign_coords(
        strength=("arm", [np.nan if value is None else value for value in strengths])
    )


def results_with_names_of_today(results: dict[str, Any]) -> dict[str, Any]:
    """The results of any format as those of the present one."""
    return results | {"arms": [_arm(arm) for arm in results["arms"]]}


def _arm(arm: Any) -> Any:
    if not isinstance(arm, dict) or "paper_name" not in arm:
        return arm
    kept = {name: value for name, value in arm.items() if name not in RENAMED}
    strength = _strength(str(arm.get("kind")), arm.get("penalty"))
    return kept | {"title": arm["paper_name"], "strength": strength}


def _strength(kind: str, penalty: float | None) -> float | None:
    """Kinds without a penalty had zero for it."""
    known = BY_NAME.get(kind)
    if known is not None and known.penalised:
        return penalty
    return None
