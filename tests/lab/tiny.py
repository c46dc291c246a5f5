"""A study small enough to train in a test: striped 8 x 8 images of three classes."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hopmix._tree import trainable
from hopmix.lab import store
from hopmix.lab.config import StudyConfig
from hopmix.lab.data import study_data
from hopmix.lab.data.study_data import Data, Split
from hopmix.lab.study import study


def tiny_split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype(np.int32)
    rows, columns = np.indices((8, 8))
    stripes = np.stack([rows % 2, columns % 2, (rows + columns) % 2]) * 120
    noisy = stripes[labels] + rng.integers(0, 130, (n, 8, 8))
    return Split(noisy.astype(np.uint8)[..., None], labels)


def tiny_data(name: str = "stripes", **ignored) -> Data:
    train = tiny_split(96, 0)
    values = train.images / 255
    return Data(
        name=name,
        provenance="made by the tests",
        classes=("rows", "columns", "checks"),
        train=train,
        validation=tiny_split(36, 1),
        test=lambda: tiny_split(36, 2),
        test_size=36,
        mean=values.mean(axis=(0, 1, 2)).astype(np.float32),
        std=values.std(axis=(0, 1, 2)).astype(np.float32),
        digest="0" * 12,
    )


def tiny_config(**changes) -> StudyConfig:
    options = {
        "arms": ("free", "broken"),
        "lambdas": (0.01,),
        "seeds": 2,
        "dim": 8,
        "depth": 2,
        "epochs": 4,
        "batch": 16,
        "measurements": 4,
        "augment": "none",
    }
    return StudyConfig(**(options | changes))


def tiny_study(**changes) -> study.Study:
    """A study of `tiny_data`, prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_data, "load", tiny_data)
        return study.prepare(tiny_config(**changes))


def train_study(small: study.Study, intervals: int = 4):
    """Train from the start; the members of each program at the end, and what was measured before
    and after each interval, by arm and seed."""
    states = [program.initial() for program in small.populations]
    steps = range(0, intervals * small.schedule.interval, small.schedule.interval)
    return states, [study.advance(small, states, step) for step in (-1, *steps)]


def make_run(out: Path, diverged: int | None = None, **changes) -> Path:
    """A run whose members have moved at random, as training would move them: two checkpoints,
    nothing compiled.
    """
    prepared = study.prepare(tiny_config(depth=1, **changes))
    record = store.write_record(out, study._description(prepared, "hopmix ablate"))
    states = [program.initial() for program in prepared.populations]
    moved = [dataclasses.replace(state, model=_moved(state.model)) for state in states]
    if diverged is not None:
        moved[0] = dataclasses.replace(moved[0], diverged=moved[0].diverged.at[diverged].set(3))
    with store.Checkpoints(out, record.owner) as checkpoints:
        for step, members in ((0, states), (6, moved)):
            checkpoints.save(step, members)
    return out


def _moved(arrays):
    rng = np.random.default_rng(0)
    move = lambda a, free: a + jnp.asarray(0.2 * rng.normal(size=a.shape), a.dtype) if free else a
    return jax.tree.map(move, arrays, trainable(arrays))
