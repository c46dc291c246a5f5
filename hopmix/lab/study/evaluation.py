"""What a study ends with: the results on the test split, and the weights that are shown."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hopmix._coupling import Coupling
from hopmix.lab import statistics
from hopmix.lab.data.study_data import Split
from hopmix.lab.families.mixers import REFERENCE
from hopmix.lab.probes.metrics import BRANCHES, branch_coupling
from hopmix.lab.study.observer import Observer
from hopmix.lab.train.program import Dataset, Member, Program, on_device
from hopmix.models.mixer import Mixer


def accuracies_of(
    programs: Sequence[Program],
    states: Sequence[Member],
    observer: Observer,
    split: Split,
    dataset: Dataset,
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The accuracy of each member on a split, by arm; NaN for members that diverged."""
    images = on_device(split)
    accuracies = {}
    for program, state in zip(programs, states, strict=True):
        scores = observer.score(program, state, images, dataset)
        for arm in program.arms:
            survived = np.asarray(program.of_arm(state.diverged, arm)) < 0
            hits = np.asarray(scores[arm.name]["accuracy"], np.float64)
            accuracies[arm.name] = np.where(survived, hits, np.nan)
    return accuracies


def result_of(
    name: str,
    accuracies: dict[str, Float[np.ndarray, " seeds"]],
    validation: Float[np.ndarray, " seeds"],
) -> dict[str, Any]:
    """What is recorded of an arm at the end: how many members lived, accuracies, the paired
    test.
    """
    accuracy = accuracies[name]
    return {
        "n": int(np.isfinite(accuracy).sum()),
        "diverged": int(np.isnan(accuracy).sum()),
        "test_accuracy": _summary(accuracy),
        "validation_accuracy": _summary(validation),
        "paired": _paired(name, accuracies),
    }


def _paired(name: str, accuracies: dict[str, np.ndarray]) -> dict[str, Any] | None:
    if name == REFERENCE or REFERENCE not in accuracies:
        return None
    test = statistics.paired_test(accuracies[name], accuracies[REFERENCE])
    return {"against": REFERENCE} | {
        name: _number(value) for name, value in dataclasses.asdict(test).items()
    }


def _summary(values: np.ndarray) -> dict[str, Any]:
    summary = statistics.summarise(values)
    return {
        "values": [_number(v) for v in values.tolist()],
        "mean": _number(summary.mean),
        "stderr": _number(summary.stderr),
    }


def _number(value: float | int) -> float | int | None:
    # JSON has no NaN.
    if np.isfinite(value):
        return value
    return None


def end_weights(programs: Sequence[Program], states: Sequence[Member]) -> dict[str, np.ndarray]:
    """The weights of the first seed's first and last blocks, for pictures."""
    weights = {}
    for program, state in zip(programs, states, strict=True):
        for arm in program.arms:
            arrays = jax.tree.map(lambda a: a[0], program.of_arm(state.arrays, arm))
            for key, coupling in _end_couplings(program.model(arrays)):
                weights[f"{arm.name}|{key}|up"] = np.asarray(coupling.up)
                weights[f"{arm.name}|{key}|down"] = np.asarray(coupling.down)
    return weights


def _end_couplings(model: Mixer) -> Iterator[tuple[str, Coupling]]:
    for b in sorted({0, len(model.blocks) - 1}):
        for branch in BRANCHES:
            yield f"{b}|{branch}", branch_coupling(model.blocks[b], branch)
