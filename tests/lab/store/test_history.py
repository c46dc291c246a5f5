"""Measurements: labelled, whole, and held against their digest."""

import os

import numpy as np
import pytest
from lab.tiny import tiny_config

from hopmix.lab import store
from hopmix.lab.arms import make_arms
from hopmix.lab.config import UsageError
from hopmix.lab.metrics import DEEP, DIMENSIONS, EIGENVALUES

SIZES = {"block": 2, "branch": 2, "eigenvalue": EIGENVALUES}
ALL = DIMENSIONS | DEEP


def make_history(moments: int) -> store.History:
    arms = make_arms(tiny_config(), (8, 8, 1), 3)
    history, rng = store.History(arms, [0, 1], depth=2), np.random.default_rng(0)
    for i in range(moments):
        row = {name: rng.normal(size=(2, 2, *(SIZES[d] for d in dims))) for name, dims in ALL.items()}
        history.append(10 * i, row | {"diverged_step": np.full((2, 2), -1, np.int32)})
    return history


def test_metrics_are_labelled_and_round_trip(tmp_path):
    history = make_history(3)
    store.write_metrics(tmp_path, history)
    dataset = store.read_metrics(tmp_path)
    assert list(dataset.arm.values) == ["free", "broken λ=0.01"]
    assert list(dataset.paper_name.values) == ["ParaMixer", "AsymMixer λ=0.01"]
    assert list(dataset.step.values) == [0, 10, 20]
    cosine = dataset.cosine.sel(arm="free", seed=1, step=10, block=1, branch="channel")
    np.testing.assert_array_equal(cosine, history.rows[1]["cosine"][0, 1, 1, 1])
    again = store.History(history.arms, [0, 1], 2)
    again.load(dataset)
    again.truncate(10)
    assert again.steps == [0, 10]
    for name in ALL:
        np.testing.assert_array_equal(again.rows[1][name], history.rows[1][name])


def test_metrics_are_the_old_ones_until_the_new_ones_are_whole(tmp_path, monkeypatch):
    store.write_metrics(tmp_path, make_history(1))

    move = os.replace

    def killed(source, target):
        if target == tmp_path / "metrics.zarr":
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write_metrics(tmp_path, make_history(2))
    assert store.read_metrics(tmp_path).sizes["step"] == 1
    store.write_metrics(tmp_path, make_history(3))
    assert store.read_metrics(tmp_path).sizes["step"] == 3
    assert len(list((tmp_path / ".metrics").iterdir())) == 2  # and the last one, which may still be read


def test_damaged_metrics_are_told(tmp_path):
    store.write_metrics(tmp_path, make_history(1))
    for path in (tmp_path / "metrics.zarr").rglob(".z*"):
        path.write_text("{")
    with pytest.raises(UsageError, match=r"metrics\.zarr: damaged"):
        store.read_metrics(tmp_path)
