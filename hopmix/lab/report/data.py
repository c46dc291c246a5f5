"""The run directory as the report sees it: read only, complete or in progress."""

import dataclasses
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
import xarray as xr

from hopmix.lab.families.mixers import BY_NAME, REFERENCE
from hopmix.lab.probes.layout import Layout
from hopmix.lab.statistics import PairedTest, Summary, paired_test, summarise
from hopmix.lab.store.run import Run, open_run
from hopmix.symmetry.quantities import ASYMMETRY, CURVES, ENERGY


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """One row of the accuracy table; `test` is absent while the run goes on, `paired` where there
    is no reference.
    """

    name: str
    title: str
    kind: str
    strength: float | None
    parameters: int
    test: Summary | None
    validation: Summary
    paired: PairedTest | None
    diverged: Mapping[int, int]


def read_run(path: Path) -> Run:
    """A run as pages show it: with text as plain strings, and NaN for what it did not measure.

    **Raises:** `UsageError` as `open_run` does.
    """
    run = open_run(path)
    return dataclasses.replace(run, metrics=_complete(_plain_text(run.metrics)))


def _complete(metrics: xr.Dataset) -> xr.Dataset:
    """With NaN for what models without couplings or blocks, or loops of other people, lack."""
    for dim, values in (("block", [0]), ("branch", ["weights"]), ("eigenvalue", [0])):
        if dim not in metrics.dims:
            metrics = metrics.assign_coords({dim: values})
    for one in (*CURVES, *ENERGY, *ASYMMETRY):
        if one.name not in metrics:
            dims = ("arm", "seed", "step", *one.dims)
            shape = [metrics.sizes[dim] for dim in dims]
            metrics[one.name] = (dims, np.full(shape, np.nan, np.float32))
    return metrics


def arm_results(run: Run) -> list[ArmResult]:
    """Accuracies and paired tests per arm: as recorded in the results, or from validation while
    there are none.
    """
    recorded = {arm["name"]: arm for arm in (run.results or {}).get("arms", [])}
    return [_arm_result(run, name, recorded.get(name)) for name in run.arms]


def kinds_of_arms(run: Run) -> dict[str, str]:
    """What each kind of arm of a run is, in a sentence of HTML: as this version knows it, or as
    recorded.
    """
    # What a folder says is text: it may be of anybody.
    recorded = {
        arm.get("kind"): escape(str(arm.get("about", ""))) for arm in run.study.get("arms", [])
    }
    kinds = dict.fromkeys(str(kind) for kind in run.metrics.kind.values)
    return {
        kind: BY_NAME[kind].about if kind in BY_NAME else recorded.get(kind, "") for kind in kinds
    }


def accuracy_by_seed(run: Run) -> xr.DataArray:
    """Test accuracy (arm, seed), or validation accuracy at the last step while there are no
    results.
    """
    validation = run.metrics.validation_accuracy.isel(step=-1)
    values = run.test_accuracy()
    if values is None:
        return validation
    return validation.rename("test_accuracy").astype(float).copy(data=values)


def weight_pairs(run: Run) -> dict[tuple[int, str], dict[str, xr.DataArray]]:
    """For each stored (block, branch) and each arm: W^T, V and V - W^T as one array (part, visible,
    hidden).
    """
    pairs: dict[tuple[int, str], dict[str, xr.DataArray]] = {}
    for key in run.weights or {}:
        name, block, branch, side = key.rsplit("|", 3)
        if side == "up" and name in run.arms:
            pairs.setdefault((int(block), branch), {})[name] = _weight_pair(
                run, f"{name}|{block}|{branch}"
            )
    return dict(sorted(pairs.items(), key=lambda item: (item[0][0], item[0][1] == "channel")))


def last_measured(values: xr.DataArray) -> xr.DataArray:
    """An array as it was when it was last measured: spectra and fields are not at every step."""
    kept = values.dropna("step", how="all")
    return (kept if kept.step.size else values).isel(step=-1)


def has_values(metrics: xr.Dataset, name: str) -> bool:
    """Whether a quantity is in the store with at least one finite number."""
    return name in metrics and bool(np.isfinite(metrics[name].values).any())


def coupling_sizes(run: Run) -> xr.Dataset | None:
    """How many `visible` and `hidden` units the couplings have, (arm, branch): from the weights, or
    the record of the study; NaN for branches that an arm has not.

    `None` where neither tells, as in runs of another version that have not ended.
    """
    found = _sizes_of_weights(run) or _sizes_of_record(run)
    branches = [str(branch) for branch in run.metrics.branch.values]
    if not found:
        return None
    unknown = (np.nan, np.nan)
    sizes = np.array(
        [[found.get((arm, branch), unknown) for branch in branches] for arm in run.arms]
    )
    parts = {
        name: (("arm", "branch"), sizes[..., i]) for i, name in enumerate(("visible", "hidden"))
    }
    return xr.Dataset(parts, {"arm": run.metrics.arm, "branch": run.metrics.branch})


def _sizes_of_weights(run: Run) -> dict[tuple[str, str], tuple[int, int]]:
    named = ((key.rsplit("|", 3), weights.shape) for key, weights in (run.weights or {}).items())
    return {(name, branch): shape for (name, _, branch, side), shape in named if side == "down"}


def _sizes_of_record(run: Run) -> dict[tuple[str, str], tuple[int, int]]:
    found = {}
    for arm in run.study.get("arms", []):
        couplings = arm.get("couplings", {})
        places = Layout.of(couplings).places
        for name, (visible, hidden) in couplings.items():
            found[arm["name"], places[name].branch] = (visible, hidden)
    return found


def _weight_pair(run: Run, key: str) -> xr.DataArray:
    assert run.weights is not None
    tied = run.weights[f"{key}|up"].T.astype(float)
    down = run.weights[f"{key}|down"].astype(float)
    parts = ["Wᵀ", "V", "V − Wᵀ"]
    return xr.DataArray(
        np.stack([tied, down, down - tied]),
        dims=("part", "visible", "hidden"),
        coords={"part": parts},
    )


def _arm_result(run: Run, name: str, recorded: dict | None) -> ArmResult:
    metrics = run.metrics.sel(arm=name)
    validation = run.metrics.validation_accuracy.isel(step=-1)
    diverged = {
        int(s): int(at)
        for s, at in zip(run.metrics.seed.values, metrics.diverged_step.values)
        if at >= 0
    }
    return ArmResult(
        name=name,
        title=str(metrics.title.item()),
        kind=str(metrics.kind.item()),
        strength=_strength(metrics),
        parameters=_parameters(run, name),
        test=_summary(recorded["test_accuracy"], recorded["n"]) if recorded else None,
        validation=_summary(recorded["validation_accuracy"], recorded["n"])
        if recorded
        else summarise(validation.sel(arm=name).values.astype(float)),
        paired=_recorded_test(recorded.get("paired"))
        if recorded
        else _validation_test(run, name, validation),
        diverged=diverged,
    )


def _strength(arm: xr.Dataset) -> float | None:
    strength = float(arm.strength)
    if np.isnan(strength):
        return None
    return strength


def _parameters(run: Run, name: str) -> int:
    return next((int(arm["parameters"]) for arm in run.study["arms"] if arm["name"] == name), 0)


def _summary(record: dict, n: int) -> Summary:
    return Summary(int(record.get("n", n)), _float(record["mean"]), _float(record["stderr"]))


def _recorded_test(record: dict | None) -> PairedTest | None:
    if record is None:
        return None
    return PairedTest(
        int(record["n"]), *(_float(record[field]) for field in ("difference", "stderr", "t", "p"))
    )


def _validation_test(run: Run, name: str, validation: xr.DataArray) -> PairedTest | None:
    if name == REFERENCE or REFERENCE not in run.arms:
        return None
    return paired_test(
        validation.sel(arm=name).values.astype(float),
        validation.sel(arm=REFERENCE).values.astype(float),
    )


def _plain_text(metrics: xr.Dataset) -> xr.Dataset:
    """The same with ordinary strings as coordinates, however wide the store made them."""
    texts = [name for name in ("arm", "branch", "title", "kind") if name in metrics.coords]
    return metrics.assign_coords({name: metrics[name].astype(object) for name in texts})


def _float(value: float | int | None) -> float:
    if value is None:
        return float("nan")
    return float(value)
