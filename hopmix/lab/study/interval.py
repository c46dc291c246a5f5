"""An interval of a study: every population trained for some steps, then measured."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix.lab.families.arm import Arm
from hopmix.lab.probes.couplings import LARGEST
from hopmix.lab.probes.probe import Metrics
from hopmix.lab.study.evaluator import order_of
from hopmix.lab.study.prepared import Study
from hopmix.lab.tasks.classification import Dataset
from hopmix.lab.tasks.task import AbstractTask
from hopmix.lab.train.step import TrainState
from hopmix.symmetry.quantities import COUPLING


def compile_all(study: Study, states: list[TrainState], dataset: Dataset):
    """Compile what trains and what measures."""
    # One program is traced, in Python, while another one is compiled; two compiled at a time would
    # take twice the memory, and are hardly faster, for XLA uses all cores as it is.
    compiler = ThreadPoolExecutor(1)
    collecting = gc.isenabled()
    # Nearly all objects that tracing makes stay: a tenth of its time would go to looking for
    # garbage among them.
    gc.disable()
    try:
        for group, members in zip(study.populations, states, strict=True):
            group.prepare(compiler, members, dataset)
            study.evaluator.prepare(compiler, group, members, dataset)
        study.compiled()
    finally:
        if collecting:
            gc.enable()
        compiler.shutdown(cancel_futures=True)


def advance(
    study: Study, states: list[TrainState], step: int, between: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Train every program for an interval, in place of `states` (or only measure, at step -1), and
    join what is measured, as arrays of (arm, seed, ...).

    `between` is called every half a second or so, and may end it by raising.
    """
    rows: dict[str, Metrics] = {}
    done = 0 if step < 0 else step + study.schedule.interval
    expensive = study.measures_spectra(done)
    for i, group in enumerate(study.populations):
        logs = jnp.full((len(group.members), 4), jnp.nan)
        if step >= 0:
            states[i], logs, _ = group.run(
                states[i], step, study.schedule.interval, study.dataset, between
            )
        between()
        measured = study.evaluator.measure(group, states[i], done, study.dataset)
        if expensive:
            more = study.evaluator.measure_expensive(group, states[i], done, study.dataset)
        else:
            more = {}
        for arm in group.arms:
            logged = _named(study.task, group.of_arm(logs, arm))
            rows[arm.name] = logged | measured[arm.name] | more.get(arm.name, {})
    found = {
        arm.name: mask_diverged(_arranged(study, arm, row))
        for arm, row in zip(study.arms, _fetched(study, rows))
    }
    return {
        name: np.stack([found[arm.name][name] for arm in study.arms])
        for name in found[study.arms[0].name]
    }


def _named(task: AbstractTask, logs: Float[Array, "members 4"]) -> Metrics:
    names = ("train_loss", f"train_{task.headline}", "penalty", "gradient_norm")
    return dict(zip(names, logs.T, strict=True))


def _fetched(study: Study, rows: dict[str, Metrics]) -> list[dict[str, np.ndarray]]:
    fetched = jax.device_get(rows)
    return [fetched[arm.name] for arm in study.arms]


def _arranged(study: Study, arm: Arm, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What was measured of the members of an arm, couplings at their places; NaN for what was
    not.
    """
    sizes = {"block": len(study.layout.blocks), "branch": len(study.layout.branches)}
    sizes["eigenvalue"] = LARGEST
    names = order_of(arm.shaped_couplings)
    arranged = {"diverged_step": row["diverged_step"]}
    for one in study.quantities:
        if one.name not in row:
            shape = [study.config.seeds, *(sizes[dim] for dim in one.dims)]
            arranged[one.name] = np.full(shape, np.nan, np.float32)
        elif one.dims[:2] == COUPLING:
            arranged[one.name] = study.layout.arranged(names, row[one.name])
        else:
            arranged[one.name] = _padded(row[one.name], [sizes[dim] for dim in one.dims])
    return arranged


def _padded(values: np.ndarray, sizes: list[int]) -> np.ndarray:
    """With NaN for blocks that other arms have."""
    missing = [(0, size - had) for size, had in zip(sizes, values.shape[1:])]
    if not any(after for _, after in missing):
        return values
    return np.pad(values, [(0, 0), *missing], constant_values=np.nan)


def mask_diverged(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """NaN in place of everything that was measured of a member that diverged."""
    dead = row["diverged_step"] >= 0
    mask = lambda values: np.where(dead.reshape(-1, *(1,) * (values.ndim - 1)), np.nan, values)
    return {
        name: values if name == "diverged_step" else mask(values) for name, values in row.items()
    }
