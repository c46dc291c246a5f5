import errno
import json
import os
import re
import shutil

import jax.numpy as jnp
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


def test_replacing_leaves_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(path, {"old": 1})

    def killed_while_writing():
        with store.replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed_while_writing()
    assert store.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_is_readable_by_others(tmp_path):
    store.write_json(tmp_path / "a.json", {"λ": 1e-3})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"λ": 1e-3}
    assert os.stat(tmp_path / "a.json").st_mode & 0o444 == 0o444


def test_missing_and_damaged_json(tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        store.read_json(tmp_path / "study.json")
    (tmp_path / "study.json").write_text('{"config": ')
    with pytest.raises(UsageError, match="damaged"):
        store.read_json(tmp_path / "study.json")


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


def test_each_array_says_what_it_is(tmp_path):
    store.write_metrics(tmp_path, make_history(2))
    dataset = store.read_metrics(tmp_path)
    assert {name for name in dataset.variables if "long_name" not in dataset[name].attrs} == set()
    for name in dataset.data_vars:
        assert {"formula", "range", "units", "comment"} <= set(dataset[name].attrs), name
        assert not re.search("</|<[a-z]|&[a-z]+;", "".join(dataset[name].attrs.values())), name


def test_the_two_relative_sizes_of_a_breaking_tell_themselves_apart(tmp_path):
    store.write_metrics(tmp_path, make_history(1))
    dataset = store.read_metrics(tmp_path)
    of_squares = dataset.relative_breaking.attrs
    of_norms = dataset.breaking_ratio.attrs
    assert of_squares["formula"] == "‖V − Wᵀ‖² / (‖V‖² + ‖W‖²)"
    assert of_norms["formula"] == "‖V − Wᵀ‖ / ‖W‖"
    assert (of_squares["range"], of_norms["range"]) == ("0 to 2", "0 and up")
    assert "Not the breaking ratio" in of_squares["comment"]
    assert "Not the relative breaking" in of_norms["comment"]


def test_metrics_are_the_old_ones_until_the_new_ones_are_whole(tmp_path, monkeypatch):
    store.write_metrics(tmp_path, make_history(1))

    move = os.replace

    def killed(source, target):
        if target == tmp_path / "metrics.zarr":
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write_metrics(tmp_path, make_history(2))
    assert store.read_metrics(tmp_path).sizes["step"] == 1
    store.write_metrics(tmp_path, make_history(3))
    assert store.read_metrics(tmp_path).sizes["step"] == 3
    assert len(list((tmp_path / ".metrics").iterdir())) == 2  # and the last one, which may still be read


def test_a_folder_with_another_study_is_never_taken(tmp_path):
    config = tiny_config()
    assert store.open_study(tmp_path / "new", config, resume=False) is False
    out = tmp_path / "old"
    store.write_json(out / "study.json", {"config": config.to_json()})
    assert store.open_study(out, config, resume=True) is True
    with pytest.raises(UsageError, match="continue it with --resume"):
        store.open_study(out, config, resume=False)
    for resume in (False, True):
        with pytest.raises(UsageError, match="other seeds; name a new folder"):
            store.open_study(out, tiny_config(seeds=7), resume=resume)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / ".study.json.123").touch()  # a first write that was killed is no study and no hindrance
    assert store.open_study(tmp_path / "cut", config, resume=True) is False
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not empty"):
        store.open_study(tmp_path / "notes", config, resume=False)
    with pytest.raises(UsageError, match="is a file"):
        store.open_study(tmp_path / "notes" / "thesis.tex", config, resume=False)


def test_too_little_space_is_told_before(tmp_path, monkeypatch):
    store.require_space(tmp_path / "not" / "there" / "yet", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000_000))  # pyright: ignore
    with pytest.raises(UsageError, match="1 MB free, the study needs 5 MB"):
        store.require_space(tmp_path, 5_000_000)


def test_damaged_metrics_are_told(tmp_path):
    store.write_metrics(tmp_path, make_history(1))
    for path in (tmp_path / "metrics.zarr").rglob(".z*"):
        path.write_text("{")
    with pytest.raises(UsageError, match=r"metrics\.zarr: damaged"):
        store.read_metrics(tmp_path)


def test_a_full_disk_is_known_under_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = ValueError("could not write")
    wrapped.__cause__ = full
    assert store.is_full_disk(full)
    assert store.is_full_disk(wrapped)
    assert not store.is_full_disk(OSError(errno.ENOENT, "no such file"))


def states(value: float):
    return [{"weights": jnp.full((3, 2), value, jnp.float32), "count": jnp.full((3,), 7, jnp.int32)}]


def test_checkpoints_restore_the_newest(tmp_path):
    with store.Checkpoints(tmp_path) as checkpoints:
        for step in range(0, 50, 10):
            checkpoints.save(step, states(step))
        step, restored, warnings = checkpoints.restore(states(0))
    assert (step, warnings) == (40, [])
    np.testing.assert_array_equal(restored[0]["weights"], states(40)[0]["weights"])
    assert restored[0]["count"].dtype == jnp.int32


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    with store.Checkpoints(tmp_path) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, states(step))
    data = [p for p in (tmp_path / "checkpoints" / "20" / "state").rglob("*") if p.is_file()]
    for path in data:
        if damage == "truncate":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif damage == "remove":
            path.unlink()
        elif path.parent.name == "d":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(bytes(content))
    with store.Checkpoints(tmp_path) as checkpoints:
        step, restored, warnings = checkpoints.restore(states(0))
    assert step == 10
    np.testing.assert_array_equal(restored[0]["weights"], states(10)[0]["weights"])
    assert len(warnings) == 1
    assert "step 20 is damaged" in warnings[0]


def test_no_checkpoint_at_all(tmp_path):
    with store.Checkpoints(tmp_path) as checkpoints, pytest.raises(UsageError, match="there is none yet"):
        checkpoints.restore(states(0))
