"""Files: old or new and never half, and nothing of the user's is touched beside them."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.store import files


def test_old_content_stays_when_writing_fails(tmp_path):
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
    path = tmp_path / "study.json"
    with pytest.raises(UsageError, match="no study here"):
        store.read_json(path)
    for content in (b'{"config": ', b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="damaged"):
            store.read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="can't be read"):
        store.read_json(path)


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporaries_of_dead_writers_alone_are_removed(tmp_path):
    path = tmp_path / "notes.json"
    dead = tmp_path / f".notes.json.hopmix-{ended_process()}-0123abcd"
    kept = [
        ".notes.json.swp",
        ".notes.json.1234",
        f".notes.json.hopmix-{os.getppid()}-0123abcd",
        f".notes.json.hopmix-{ended_process()}-mine",
        f".other.json.hopmix-{ended_process()}-0123abcd",
    ]
    for name in (dead.name, *kept):
        (tmp_path / name).touch()
    store.write_json(path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "notes.json"])


def test_two_writers_side_by_side_leave_each_other_alone(tmp_path):
    path = tmp_path / "report.html"
    with store.replacing(path) as first:
        first.write_text("first")
        with store.replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_names_as_long_as_they_may_be(tmp_path):
    for name in ("n" * 255, "ü" * 127):
        store.write_json(tmp_path / name, 1)
        assert store.read_json(tmp_path / name) == 1


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target = tmp_path / "real" / "a.json"
    target.parent.mkdir()
    link = tmp_path / "a.json"
    link.symlink_to(target)
    for value in (1, 2):  # it dangles at first
        store.write_json(link, value)
        assert link.is_symlink()
        assert store.read_json(target) == value
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_permissions_stay(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(path, 1)
    path.chmod(0o640)
    store.write_json(path, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_pipe_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    store.require_target("json", pipe)
    store.write_json(pipe, {"a": 1})
    reader.join()
    assert json.loads(found[0]) == {"a": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_devices_and_the_output_are_written_into(tmp_path, capfd):
    null = os.stat("/dev/null")
    for path in ("/dev/null", "/dev/stdout", "/dev/fd/1"):
        store.require_target("json", Path(path))
        store.write_json(Path(path), [1])
    assert os.path.samestat(null, os.stat("/dev/null"))
    assert capfd.readouterr().out == "[\n 1\n]\n" * 2


def test_the_output_in_a_file_is_added_to(tmp_path):
    code = (
        "from pathlib import Path\nfrom hopmix.lab import store\n"
        "print('before')\nstore.write_json(Path('/dev/stdout'), 1)\nprint('after')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\n1\nafter\n"


@pytest.mark.parametrize("name", ["a/b.json", "folder", "n" * 300, "loop"])
def test_targets_that_cannot_be_are_told(tmp_path, name):
    (tmp_path / "a").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=r"^json: .* name "):
        store.require_target("json", tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "folder", "loop"]


def test_a_target_is_tried_and_nothing_is_left(tmp_path):
    store.require_target("json", tmp_path / "new" / "a.json")
    store.require_folder("out", tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_utf8_come_back(tmp_path):
    name = os.fsdecode(b"images-\xff")
    store.write_json(tmp_path / "a.json", {"data": name})
    assert store.read_json(tmp_path / "a.json") == {"data": name}


def test_too_little_space_is_told_before(tmp_path, monkeypatch):
    store.require_space(tmp_path / "not" / "there" / "yet", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000_000))  # pyright: ignore
    with pytest.raises(UsageError, match="1 MB free, the study needs 5 MB"):
        store.require_space(tmp_path, 5_000_000)


def test_what_an_error_means_is_known_under_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = ValueError("could not write")
    wrapped.__cause__ = full
    assert store.is_full_disk(full)
    assert store.is_full_disk(wrapped)
    assert not store.is_full_disk(OSError(errno.ENOENT, "no such file"))
    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, ""),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ):
        assert store.is_out_of_memory(error)
    assert not store.is_out_of_memory(wrapped)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_read_is_not_taken_for_damage(tmp_path, number):
    wrapped = ValueError("could not read")
    wrapped.__context__ = OSError(number, os.strerror(number))
    with pytest.raises(UsageError, match="can't be read"):
        files.raise_if_unreadable(tmp_path, wrapped)
    files.raise_if_unreadable(tmp_path, FileNotFoundError(errno.ENOENT, "gone"))
    files.raise_if_unreadable(tmp_path, ValueError("no such codec"))
    with pytest.raises(MemoryError):
        files.raise_if_unreadable(tmp_path, MemoryError())


def test_numbers_are_written_over_json_alone_and_never_over_a_study(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "3").mkdir(parents=True)
    (run / "study.json").write_text("{}")
    for name in (
        "study.json",
        "results.json",
        ".report.json",
        "checkpoints/3/files.json",
        "metrics.zarr/.zattrs",
    ):
        with pytest.raises(
            UsageError, match=r"json: .* belongs to the study in .*run; name another file"
        ):
            store.require_json_target("json", run / name)
    store.require_json_target("json", run / "mine.json")
    (tmp_path / "model.safetensors").write_bytes(b"\x93weights")
    with pytest.raises(
        UsageError, match=r"json: .* holds something else than JSON; name another file"
    ):
        store.require_json_target("json", tmp_path / "model.safetensors")
    (tmp_path / "before.json").write_text('{"a": 1}')
    (tmp_path / "empty.json").touch()
    for name in ("before.json", "empty.json", "new.json"):
        store.require_json_target("json", tmp_path / name)
    store.require_json_target("json", Path("/dev/null"))
