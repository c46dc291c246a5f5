"""`study.json`: held against its own digests, and never another study in its place."""

import pytest
from lab.tiny import tiny_config

from hopmix.lab import store
from hopmix.lab.errors import UsageError

CONFIG = tiny_config()
VALUES = {
    "format": store.FORMAT,
    "config": CONFIG.to_json(),
    "digest": CONFIG.digest,
    "arms": [{"name": "free"}, {"name": "broken λ=0.01"}],
    "data": {"digest": "0" * 12},
    "data_path": None,
    "steps_total": 24,
    "command": "hopmix ablate",
}


def test_what_is_written_is_read(tmp_path):
    written = store.write_record(tmp_path, VALUES)
    read = store.read_record(tmp_path)
    assert read.identity == written.identity is not None
    assert read.config == CONFIG
    assert read.sealed
    assert read.owner == store.Owner(read.identity, ("free", "broken λ=0.01"), (0, 1), True)


def test_identity_is_that_of_what_never_changes(tmp_path):
    first = store.write_record(tmp_path, VALUES)
    resumed = store.write_record(
        tmp_path, first.values | {"resumed": [{}], "data_path": "/elsewhere"}
    )
    assert resumed.identity == first.identity
    assert store.read_record(tmp_path).data_path == "/elsewhere"
    for name, value in {
        "steps_total": 25,
        "data": {},
        "arms": [],
        "config": tiny_config(seeds=7).to_json(),
    }.items():
        assert store.write_record(tmp_path, VALUES | {name: value}).identity != first.identity


@pytest.mark.parametrize("field", [*VALUES, "identity", "checksum"])
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "x", [], {}, [1, {"a": []}]])
def test_any_field_edited_is_told(tmp_path, field, value):
    store.write_record(tmp_path, VALUES)
    written = store.read_json(tmp_path / "study.json")
    if written[field] == value:
        return
    store.write_json(tmp_path / "study.json", written | {field: value})
    with pytest.raises(
        UsageError, match=r"study\.json: edited or damaged: .*; restore it, or start anew"
    ):
        store.read_record(tmp_path)


@pytest.mark.parametrize("field", [*VALUES, "identity", "checksum"])
def test_any_field_taken_away_is_told(tmp_path, field):
    store.write_record(tmp_path, VALUES)
    written = store.read_json(tmp_path / "study.json")
    del written[field]
    store.write_json(tmp_path / "study.json", written)
    with pytest.raises(UsageError, match="edited or damaged"):
        store.read_record(tmp_path)


def test_records_of_earlier_versions_are_read_and_held_against_what_they_have(tmp_path):
    old = {name: value for name, value in VALUES.items() if name not in ("format", "data_path")}
    # A later version knows fields that were not written then.
    old["config"] = {
        name: value for name, value in CONFIG.to_json().items() if name != "members_at_once"
    }
    path = tmp_path / "study.json"
    store.write_json(path, {"config": old["config"]})
    assert store.read_config(tmp_path) == CONFIG
    store.write_json(path, old)
    with pytest.raises(UsageError, match="its configuration does not match its digest"):
        store.read_record(tmp_path)
    store.write_json(path, old | {"config": CONFIG.to_json()})
    read = store.read_record(tmp_path)
    assert (read.identity, read.sealed, read.data_path) == (None, False, CONFIG.data)


def test_those_of_later_versions_are_told(tmp_path):
    store.write_record(tmp_path, VALUES | {"format": store.FORMAT + 1})
    with pytest.raises(UsageError, match="later version of hopmix"):
        store.read_record(tmp_path)


def test_a_folder_with_another_study_is_never_taken(tmp_path):
    assert store.open_study(tmp_path / "new", CONFIG, resume=False) is False
    out = tmp_path / "old"
    store.write_record(out, VALUES)
    assert store.open_study(out, CONFIG, resume=True) is True
    with pytest.raises(UsageError, match="continue it with --resume"):
        store.open_study(out, CONFIG, resume=False)
    for resume in (False, True):
        with pytest.raises(UsageError, match="other seeds; name a new folder"):
            store.open_study(out, tiny_config(seeds=7), resume=resume)
    (tmp_path / "cut").mkdir()
    (
        tmp_path / "cut" / ".study.json.hopmix-123-0123abcd"
    ).touch()  # a first write that was killed is no hindrance
    assert store.open_study(tmp_path / "cut", CONFIG, resume=True) is False
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"not empty and holds no study \(study.json is missing\)"):
        store.open_study(tmp_path / "notes", CONFIG, resume=False)


@pytest.mark.parametrize(
    "part",
    [
        {"arms": [1]},
        {"arms": [{}]},
        {"data": {"image": [8, 8]}},
        {"data": {"image": [8, 8, -1]}},
        {"data": {"classes": 10**12}},
        {"data": {"classes": -1}},
        {"data": {"train": "many"}},
    ],
)
def test_a_record_of_an_earlier_version_with_parts_that_cannot_be_is_told(tmp_path, part):
    config = tiny_config().to_json()
    store.write_json(tmp_path / "study.json", {"config": config} | part)
    with pytest.raises(
        UsageError, match=rf"study\.json: edited or damaged: {next(iter(part))} is "
    ):
        store.read_record(tmp_path)


def test_a_record_of_an_earlier_version_opens(tmp_path):
    data = {"image": [8, 8, 1], "classes": 10, "train": 100, "validation": 10, "test": 20}
    values = {"config": tiny_config().to_json(), "arms": [{"name": "free"}], "data": data}
    store.write_json(tmp_path / "study.json", values)
    assert store.read_record(tmp_path).owner.arms == ("free",)
