"""Measurements: labelled, whole, and held against their digest."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from lab.probing import DIMENSIONS, EXPENSIVE, made_history
from lab.tiny import tiny_config

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.probes.couplings import LARGEST
from hopmix.lab.store import history
from hopmix.lab.study.arms import make_arms

SIZES = {"block": 2, "branch": 2, "eigenvalue": LARGEST}
ALL = DIMENSIONS | EXPENSIVE


def make_history(moments: int) -> store.History:
    arms = make_arms(tiny_config(), (8, 8, 1), 3)
    history = made_history(arms, [0, 1], 2)
    rng = np.random.default_rng(0)
    for i in range(moments):
        row = {
            name: rng.normal(size=(2, 2, *(SIZES[d] for d in dims))) for name, dims in ALL.items()
        }
        history.append(10 * i, row | {"diverged_step": np.full((2, 2), -1, np.int32)})
    return history


def test_metrics_are_labelled_and_round_trip(tmp_path):
    history = make_history(3)
    store.write_metrics(tmp_path, history)
    dataset = store.read_metrics(tmp_path)
    assert list(dataset.arm.values) == ["free", "broken λ=0.01"]
    assert list(dataset.title.values) == ["ParaMixer", "AsymMixer λ=0.01"]
    assert list(dataset.step.values) == [0, 10, 20]
    cosine = dataset.cosine.sel(arm="free", seed=1, step=10, block=1, branch="channel")
    np.testing.assert_array_equal(cosine, history.rows[1]["cosine"][0, 1, 1, 1])
    again = made_history(history.arms, [0, 1], 2)
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
    assert (
        len(list((tmp_path / ".metrics").iterdir())) == 2
    )  # and the last one, which may still be read


def test_damaged_metrics_are_told(tmp_path):
    store.write_metrics(tmp_path, make_history(1))
    for path in (tmp_path / "metrics.zarr").rglob(".z*"):
        path.write_text("{")
    with pytest.raises(UsageError, match=r"metrics\.zarr: damaged"):
        store.read_metrics(tmp_path)


@pytest.fixture
def record(tmp_path) -> store.Record:
    values = {
        "format": store.FORMAT,
        "config": tiny_config().to_json(),
        "arms": [],
        "data": {},
        "steps_total": 20,
    }
    return store.write_record(tmp_path, values)


def write(out, record: store.Record, *moments: int):
    for count in moments:
        store.write_metrics(out, make_history(count), record.identity)


def files_of(out) -> list:
    return [path for path in (out / "metrics.zarr").resolve().rglob("*") if path.is_file()]


def fate(out, record: store.Record) -> xr.Dataset | str:
    """What is read, or what is told."""
    try:
        return store.read_metrics(out, record)
    except UsageError as error:
        return str(error)


def test_every_file_damaged_or_lost_is_true_or_told(tmp_path, record):
    """What is read is what was written, or it is told."""
    write(tmp_path, record, 3)
    whole = store.read_metrics(tmp_path, record)
    some = {"metrics.zarr", "arm", "step", "strength", "cosine", "eigenvalue_real", "diverged_step"}
    files = [
        path
        for path in files_of(tmp_path)
        if path.parent.name in some or path.parent.suffix == ".zarr"
    ]
    assert len(files) >= 20
    told = []
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        for damaged in (
            content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
            None,
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            found = fate(tmp_path, record)
            if isinstance(found, str):
                told.append(found)
            else:
                assert found.identical(whole), path
            path.write_bytes(content)
    assert len(told) > len(files)
    assert all("damaged" in sentence for sentence in told)
    assert store.read_metrics(tmp_path, record).identical(whole)


def test_edited_measurements_are_told(tmp_path, record):
    write(tmp_path, record, 2)
    place = (tmp_path / "metrics.zarr").resolve()
    xr.open_zarr(place, consolidated=False).load().assign(strength=("arm", [9.0, 9.0])).to_zarr(
        place, mode="w", consolidated=False, zarr_format=2
    )
    with pytest.raises(
        UsageError, match=r"metrics\.zarr: edited or damaged \(its digest does not match\)"
    ):
        store.read_metrics(tmp_path, record)


def test_measurements_of_another_study_are_told(tmp_path, record):
    store.write_metrics(tmp_path, make_history(2), "b" * 32)
    with pytest.raises(UsageError, match="of another study"):
        store.read_metrics(tmp_path, record)
    with pytest.raises(UsageError, match="of another study"):
        store.recover_metrics(tmp_path, record)


def test_those_of_earlier_versions_are_read(tmp_path, record):
    """They carry no digest."""
    make_history(2).dataset().to_zarr(tmp_path / "metrics.zarr", consolidated=False, zarr_format=2)
    earlier = store.Record({"config": record.values["config"]}, None)
    assert store.read_metrics(tmp_path, earlier).sizes["step"] == 2
    assert store.read_metrics(tmp_path).sizes["step"] == 2
    with pytest.raises(UsageError, match="digest does not match"):
        store.read_metrics(tmp_path, record)


def test_nan_of_any_kind_is_nan(tmp_path, record):
    """A chunk of NaN alone is not written, and comes back as another NaN."""
    history = make_history(2)
    negative = np.array(np.uint32(0xFFC00001)).view(np.float32)
    for row in history.rows:
        row["train_loss"] = np.full((2, 2), negative)
    store.write_metrics(tmp_path, history, record.identity)
    assert np.isnan(store.read_metrics(tmp_path, record).train_loss).all()


def damage(out):
    for path in files_of(out):
        path.write_bytes(path.read_bytes()[:5])


def test_damaged_measurements_give_way_to_the_version_before(tmp_path, record):
    write(tmp_path, record, 2, 3)
    damage(tmp_path)
    with pytest.raises(UsageError, match=r"`hopmix resume .*` goes on from the version before it"):
        store.read_metrics(tmp_path, record)
    dataset, (told,) = store.recover_metrics(tmp_path, record)
    assert dataset.sizes["step"] == 2
    assert "going on from its version of step 10" in told
    assert store.read_metrics(tmp_path, record).sizes["step"] == 2
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_without_a_whole_version_they_are_told_and_kept(tmp_path, record):
    write(tmp_path, record, 2)
    damage(tmp_path)
    before = files_of(tmp_path)
    for read in (store.read_metrics, store.recover_metrics):
        with pytest.raises(
            UsageError, match=r"metrics\.zarr: damaged .*; restore it, or start anew"
        ):
            read(tmp_path, record)
    assert files_of(tmp_path) == before


def test_what_cannot_be_read_is_kept_and_told(tmp_path, record, monkeypatch):
    write(tmp_path, record, 2, 3)

    def unreadable(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(xr, "open_zarr", unreadable)
        with pytest.raises(UsageError, match=r"can't be read \(Input/output error\), and is kept"):
            store.recover_metrics(tmp_path, record)
    assert store.read_metrics(tmp_path, record).sizes["step"] == 3


def test_a_copy_with_links_followed_is_read_and_written(tmp_path, record):
    write(tmp_path, record, 1, 2)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(tmp_path / "metrics.zarr", copy / "metrics.zarr")
    assert store.read_metrics(copy, record).sizes["step"] == 2
    for count in (3, 4):
        write(copy, record, count)
        assert store.read_metrics(copy, record).sizes["step"] == count
    assert (copy / "metrics.zarr").is_symlink()
    assert len(list((copy / ".metrics").iterdir())) == 2


def test_an_archive_that_keeps_links_as_files_is_read_and_written(tmp_path, record):
    write(tmp_path, record, 2)
    name = os.readlink(tmp_path / "metrics.zarr")
    (tmp_path / "metrics.zarr").unlink()
    (tmp_path / "metrics.zarr").write_text(name)
    assert store.read_metrics(tmp_path, record).sizes["step"] == 2
    write(tmp_path, record, 3)
    assert store.read_metrics(tmp_path, record).sizes["step"] == 3


def test_a_copy_without_hidden_folders_says_what_is_missing(tmp_path, record):
    write(tmp_path, record, 2)
    shutil.rmtree(tmp_path / ".metrics")
    for read in (store.read_metrics, store.recover_metrics):
        with pytest.raises(
            UsageError, match=r"which is missing; copy the hidden folder \.metrics too"
        ):
            read(tmp_path, record)


def test_a_lost_link_is_found_again(tmp_path, record):
    write(tmp_path, record, 1, 2)
    (tmp_path / "metrics.zarr").unlink()
    with pytest.raises(UsageError, match="goes on from an earlier version"):
        store.read_metrics(tmp_path, record)
    assert store.recover_metrics(tmp_path, record)[0].sizes["step"] == 2
    assert store.read_metrics(tmp_path, record).sizes["step"] == 2


def test_only_own_versions_are_removed(tmp_path, record):
    write(tmp_path, record, 1)
    for name in ("notes.zarr", "000000001-x.zarr", "link"):
        (tmp_path / ".metrics" / name).mkdir()
    write(tmp_path, record, 2, 3)
    names = {p.name for p in (tmp_path / ".metrics").iterdir()}
    assert {"notes.zarr", "000000001-x.zarr", "link"} < names
    assert len(names) == 5


def test_measurements_are_on_the_disk_before_they_are_in_place(tmp_path, record, monkeypatch):
    flushed = []
    move = os.replace

    def watched_move(source, target):
        if Path(target).name == "metrics.zarr":
            place = tmp_path / os.readlink(source)
            inside = [str(path) for path in (place, *place.rglob("*"))]
            assert len(inside) > 100
            assert set(inside) <= set(flushed)
        move(source, target)

    monkeypatch.setattr(history, "flush", lambda path: flushed.append(str(path)))
    monkeypatch.setattr(
        history, "flush_all", lambda folder: flushed.extend(map(str, [folder, *folder.rglob("*")]))
    )
    monkeypatch.setattr(history.os, "replace", watched_move)
    write(tmp_path, record, 1)
    assert str(tmp_path) in flushed


def test_the_chain_is_that_of_all_that_was_measured(tmp_path):
    one = make_history(3)
    two = make_history(3)
    assert one.chain == two.chain != make_history(2).chain
    two.truncate(10)
    assert two.chain == make_history(2).chain
    store.write_metrics(tmp_path, one)
    again = made_history(one.arms, [0, 1], 2)
    again.load(store.read_metrics(tmp_path))
    assert again.chain == one.chain
    changed = make_history(2)
    changed.rows[0]["cosine"][0, 0] += 1e-12
    redone = made_history(one.arms, [0, 1], 2)
    for step, row in zip(changed.steps, changed.rows, strict=True):
        redone.append(step, row)
    assert redone.chain != make_history(2).chain


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"filters": [{"id": "pickle"}]}, "the filter pickle is not allowed"),
        ({"filters": [{"id": "vlen-utf8"}]}, "the filter vlen-utf8 is not allowed"),
        ({"filters": {"id": "json2"}}, "the filter json2 is not allowed"),
        ({"compressor": {"id": "pickle"}}, "the compressor pickle is not allowed"),
        (
            {"compressor": {"id": "blosc", "cname": "other"}},
            "the compressor blosc with other is not allowed",
        ),
        ({"compressor": 7}, "the compressor 7 is not allowed"),
        ({"dtype": "|O"}, "entries of '|O' are not allowed"),
        ({"dtype": [["a", "<i4"]]}, "are not allowed"),
        ({"zarr_format": 3}, "no array of Zarr's format 2"),
        ({"compressor": {"id": "mine", "name": "zlib"}}, "the compressor mine is not allowed"),
    ],
)
def test_codecs_that_are_not_ours_are_refused_before_anything_is_decoded(
    tmp_path, record, monkeypatch, changed, told
):
    write(tmp_path, record, 1)
    about = (tmp_path / "metrics.zarr").resolve() / "cosine" / ".zarray"
    store.write_json(about, json.loads(about.read_text()) | changed)
    monkeypatch.setattr(xr, "open_zarr", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UsageError, match=r"cosine/\.zarray: .*" + re.escape(told)):
        store.read_metrics(tmp_path, record)


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "the codec numcodecs.pickle is not allowed"),
        ({"codecs": None}, "the codec None is not allowed"),
        ({"data_type": {"name": "object"}}, "entries of object are not allowed"),
        ({"codecs": [{"name": "mine", "id": "bytes"}]}, "the codec mine is not allowed"),
        ({"data_type": {"name": "object", "id": "float32"}}, "entries of object are not allowed"),
        ({"storage_transformers": [{"name": "x"}]}, "storage transformers are not allowed"),
        ({"zarr_format": 2}, "nothing of Zarr's format 3"),
    ],
)
def test_codecs_of_the_other_format_are_refused_too(tmp_path, monkeypatch, changed, told):
    numbers = xr.Dataset({"validation_accuracy": (("arm", "seed", "step"), np.zeros((1, 1, 1)))})
    numbers.to_zarr(tmp_path / "metrics.zarr", consolidated=False, zarr_format=3)
    assert store.read_metrics(tmp_path).identical(numbers)
    about = tmp_path / "metrics.zarr" / "validation_accuracy" / "zarr.json"
    store.write_json(about, json.loads(about.read_text()) | changed)
    monkeypatch.setattr(xr, "open_zarr", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UsageError, match=re.escape(told)):
        store.read_metrics(tmp_path)


@pytest.mark.parametrize("kind", ["format 3", "link"])
def test_arrays_that_would_go_round_the_check_are_refused(tmp_path, record, monkeypatch, kind):
    write(tmp_path, record, 1)
    place = (tmp_path / "metrics.zarr").resolve()
    if kind == "link":
        (place / "cosine").rename(tmp_path / "elsewhere")
        (place / "cosine").symlink_to(tmp_path / "elsewhere")
    else:
        (place / "cosine" / "zarr.json").write_text("{}")
    monkeypatch.setattr(xr, "open_zarr", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UsageError, match=r"is a link|nothing of Zarr's format 3"):
        store.read_metrics(tmp_path, record)


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
