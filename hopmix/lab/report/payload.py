"""The numbers behind the interactive charts, as plain JSON values."""

import json

import numpy as np
import xarray as xr

from hopmix.lab.report.axis import strength_axis
from hopmix.lab.report.data import Run, accuracy_by_seed
from hopmix.lab.report.style import arm_styles
from hopmix.lab.statistics import spread, summarise
from hopmix.symmetry.quantities import COUPLINGS, CURVES, ENERGY, Quantity

_MOST_STEPS, _MOST_DEEP = 80, 40  # more points than a chart has pixels to spare only make the page heavier


def payload(run: Run) -> str:
    """JSON of everything the page draws, safe to stand inside a script element."""
    metrics = thin_steps(run.metrics)
    values = {
        "arms": _arms(run),
        "steps": metrics.step.values.tolist(),
        "blocks": metrics.block.values.tolist(),
        "branches": [str(branch) for branch in metrics.branch.values],
        "curves": _quantities(metrics, CURVES),
        "asymmetry": _quantities(metrics, COUPLINGS),
        "energy": _energy(metrics),
        "strength": _strength(accuracy_by_seed(run)),
    }
    return json.dumps(values, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def thin_steps(metrics: xr.Dataset) -> xr.Dataset:
    """At most 120 measured steps: 80 evenly chosen, the first and the last among them, and 40 that have spectra too."""
    every = np.arange(metrics.step.size)
    deep = metrics.departure.dropna("step", how="all").step if "departure" in metrics else []
    with_spectra = every[np.isin(metrics.step, deep)]
    return metrics.isel(step=np.union1d(_evenly(every, _MOST_STEPS), _evenly(with_spectra, _MOST_DEEP)))


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    chosen = np.linspace(0, values.size - 1, min(values.size, most)).round().astype(int)
    return values[np.unique(chosen)]


def has_values(metrics: xr.Dataset, name: str) -> bool:
    """Whether a quantity is in the store with at least one finite number."""
    return name in metrics and bool(np.isfinite(metrics[name].values).any())


def _arms(run: Run) -> list[dict]:
    styles = arm_styles(run.metrics)
    return [{"name": s.name, "colour": s.colour, "dash": s.dash, "marker": s.marker} for s in styles.values()]


def _quantities(metrics: xr.Dataset, described: tuple[Quantity, ...]) -> dict:
    return {m.name: _quantity(metrics[m.name], m) for m in described if has_values(metrics, m.name)}


def _energy(metrics: xr.Dataset) -> dict:
    """As `_quantities`, each with its mean over blocks under `overall`."""
    per_block = _quantities(metrics, ENERGY)
    whole = {m.name: _quantity(metrics[m.name].mean("block"), m) for m in ENERGY if m.name in per_block}
    return {key: {**quantity, "overall": whole[key]} for key, quantity in per_block.items()}


def _quantity(values: xr.DataArray, metric: Quantity) -> dict:
    """Mean and range over seeds, nested as (arm, [block, [branch,]] step); the range only where there are seeds."""
    order = [name for name in ("arm", "block", "branch", "step") if name in values.dims]
    over_seeds = spread(values.astype(float)).transpose(*order)
    parts = ("mean", "low", "high") if values.seed.size > 1 else ("mean",)
    numbers = {part: _plain(over_seeds[part].values) for part in parts}
    logarithmic = metric.logarithmic and bool((over_seeds["mean"] > 0).any())
    share = metric.share
    return {"label": metric.label, "logarithmic": logarithmic, "percent": share, "signed": metric.signed, **numbers}


def _strength(accuracy: xr.DataArray) -> dict:
    axis = strength_axis(accuracy)
    points = []
    for name in accuracy.arm.values:
        one = accuracy.sel(arm=name)
        values = one.values.astype(float)
        summary = summarise(values)
        strength = float(one.strength)
        points.append(
            {
                "kind": str(one.kind.item()),
                "place": None if np.isnan(strength) else axis.place(strength),
                "values": _plain(values),
                "mean": _number(summary.mean),
                "stderr": _number(summary.stderr),
            }
        )
    label = "test accuracy" if accuracy.name == "test_accuracy" else "validation accuracy"
    return {
        "label": label,
        "ticks": axis.ticks,
        "labels": axis.labels,
        "zero": axis.zero,
        "span": axis.span,
        "points": points,
    }


def _plain(values: np.ndarray) -> list:
    """Nested lists with five significant digits and null for what is not finite."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
