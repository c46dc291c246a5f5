"""What a study ends with: the results on the test split, and the weights that are shown."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hopmix.lab import statistics
from hopmix.lab.data.study_data import Split
from hopmix.lab.families.mixers import REFERENCE
from hopmix.lab.probes.layout import Layout
from hopmix.lab.study.evaluator import Evaluator
from hopmix.lab.tasks.classification import Dataset, on_device
from hopmix.lab.train.population import Population
from hopmix.lab.train.step import TrainState


def accuracies_of(
    populations: Sequence[Population],
    states: Sequence[TrainState],
    evaluator: Evaluator,
    split: Split,
    dataset: Dataset,
) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The accuracy of each member on a split, by arm; NaN for members that diverged."""
    images = on_device(split)
    accuracies = {}
    for group, state in zip(populations, states, strict=True):
        scores = evaluator.score(group, state, images, dataset)
        for arm in group.arms:
            survived = np.asarray(group.of_arm(state.diverged, arm)) < 0
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


def end_weights(
    populations: Sequence[Population], states: Sequence[TrainState], layout: Layout
) -> dict[str, np.ndarray]:
    """The weights of the first seed's first and last blocks, for pictures."""
    ends = {*layout.blocks[:1], *layout.blocks[-1:]}
    weights = {}
    for group, state in zip(populations, states, strict=True):
        for arm in group.arms:
            arrays = jax.tree.map(lambda a: a[0], group.of_arm(state.model, arm))
            for name, coupling in arm.couplings(group.model(arrays)).items():
                block, branch = layout.places[name]
                if block in ends:
                    weights[f"{arm.name}|{block}|{branch}|up"] = np.asarray(coupling.up)
                    weights[f"{arm.name}|{block}|{branch}|down"] = np.asarray(coupling.down)
    return weights
