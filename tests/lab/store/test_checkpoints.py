"""Checkpoints: the newest undamaged one of this study, and none is lost that was not proved
damaged.
"""

import errno

import jax.numpy as jnp
import numpy as np
import pytest

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.store import checkpoints


def states(value: float):
    return [
        {"weights": jnp.full((3, 2), value, jnp.float32), "count": jnp.full((3,), 7, jnp.int32)}
    ]


def test_checkpoints_restore_the_newest(tmp_path):
    with store.Checkpoints(tmp_path) as checkpoints:
        for step in range(0, 50, 10):
            checkpoints.save(step, states(step))
        restored, told = checkpoints.restore(states(0))
    assert (restored.step, told) == (40, [])
    np.testing.assert_array_equal(restored.states[0]["weights"], states(40)[0]["weights"])
    assert restored.states[0]["count"].dtype == jnp.int32


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
        restored, (told,) = checkpoints.restore(states(0))
        assert checkpoints.steps == [10]
    assert restored.step == 10
    np.testing.assert_array_equal(restored.states[0]["weights"], states(10)[0]["weights"])
    assert "step 20 is damaged" in told
    (kept,) = (tmp_path / "damaged").iterdir()
    assert kept.name.startswith("20-")


def test_no_checkpoint_at_all(tmp_path):
    with (
        store.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UsageError, match="there is no checkpoint"),
    ):
        checkpoints.restore(states(0))


OWNER = store.Owner("a" * 32, ("free", "broken"), (0, 1), True)


def save(out, *steps: int, owner: store.Owner | None = OWNER):
    with store.Checkpoints(out, owner) as checkpoints:
        for step in steps:
            checkpoints.save(step, states(step), f"chain of {step}")


def restore(out, owner: store.Owner | None = OWNER, **options):
    with store.Checkpoints(out, owner) as checkpoints:
        return checkpoints.restore(states(0), **options)


def contents(folder) -> dict:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_checkpoint_tells_the_chain_that_leads_to_it(tmp_path):
    save(tmp_path, 10, 20)
    restored, _ = restore(tmp_path)
    assert (restored.step, restored.chain) == (20, "chain of 20")


@pytest.mark.parametrize(
    "other",
    [
        store.Owner("b" * 32, OWNER.arms, OWNER.seeds, True),
        store.Owner(OWNER.study, ("free",), OWNER.seeds, True),
        store.Owner(OWNER.study, OWNER.arms, (0, 2), True),
        None,
    ],
)
def test_a_checkpoint_of_another_study_is_refused_and_kept(tmp_path, other):
    save(tmp_path, 10)
    save(tmp_path, 20, owner=other)
    before = contents(tmp_path)
    with pytest.raises(
        UsageError,
        match=r"checkpoints/20: of another study or moment .*; restore it, or take it away",
    ):
        restore(tmp_path)
    assert contents(tmp_path) == before


def test_a_checkpoint_under_another_step_is_refused(tmp_path):
    save(tmp_path, 10, 20)
    (tmp_path / "checkpoints" / "20").rename(tmp_path / "checkpoints" / "30")
    with pytest.raises(UsageError, match=r"checkpoints/30: of another study or moment \(step 20\)"):
        restore(tmp_path)


def test_checkpoints_of_earlier_versions_are_read(tmp_path, monkeypatch):
    """They have a checksum, and say nothing of whose they are."""
    with monkeypatch.context() as patch:
        patch.setattr(store.Owner, "statement", lambda *_: {})
        save(tmp_path, 10, owner=None)
    (tmp_path / "checkpoints" / "10" / "files.json").unlink()
    assert restore(tmp_path, store.Owner("a" * 32, ("free",), (0,), sealed=False))[0].step == 10
    with pytest.raises(UsageError, match="of another study"):
        restore(tmp_path)


def test_any_file_of_a_checkpoint_changed_or_lost_is_damage(tmp_path):
    save(tmp_path, 10)
    place = tmp_path / "checkpoints" / "10"
    whole = contents(place)
    for path, content in whole.items():
        for damaged in (None, content[: len(content) // 2], bytes([content[0] ^ 1]) + content[1:]):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            if path.name == "files.json" and damaged is None:
                assert restore(tmp_path)[0].step == 10  # of which there is a checksum still
            else:
                with pytest.raises(UsageError, match="none of 1 checkpoints is readable"):
                    restore(tmp_path)
            path.write_bytes(content)
    assert restore(tmp_path)[0].step == 10


def test_files_that_a_copy_adds_are_no_damage(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "checkpoints" / "10" / ".DS_Store").touch()
    assert restore(tmp_path)[0].step == 10


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), OSError(errno.EACCES, "denied")]
)
def test_a_checkpoint_that_cannot_be_read_is_kept(tmp_path, monkeypatch, error):
    save(tmp_path, 10, 20)
    before = contents(tmp_path)

    def unreadable(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "file_digests", unreadable)
        with pytest.raises(
            UsageError, match=r"checkpoints/20: can't be read \(.*\), and is kept; mend that"
        ):
            restore(tmp_path)
    assert contents(tmp_path) == before
    assert restore(tmp_path)[0].step == 20


@pytest.mark.parametrize(
    "error, raised",
    [
        (MemoryError(), MemoryError),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), RuntimeError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OSError),
        (ValueError("of another version"), UsageError),
    ],
)
def test_a_whole_checkpoint_that_cannot_be_unpacked_is_kept(tmp_path, monkeypatch, error, raised):
    save(tmp_path, 10, 20)
    before = contents(tmp_path)

    def failing(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store.Checkpoints, "_unpack", failing)
        with pytest.raises(raised):
            restore(tmp_path)
    assert contents(tmp_path) == before


def test_a_checkpoint_ahead_of_what_was_measured_is_set_aside(tmp_path):
    save(tmp_path, 10, 20)
    restored, (told,) = restore(tmp_path, latest=10)
    assert restored.step == 10
    assert "step 20 is ahead of what was measured" in told
    save(tmp_path, 20)  # and its step can be saved again
    assert restore(tmp_path)[0].step == 20


@pytest.mark.parametrize("name", ["run[1]", "back\\slash", "a*b", "what?", "[", "run[!a]"])
def test_any_name_of_a_folder_does(tmp_path, name):
    out = tmp_path / name
    out.mkdir()
    save(out, 10, 20)
    restored, told = restore(out)
    assert (restored.step, told) == (20, [])
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    def lost(self, step, like):
        raise store.Damaged("nothing there")

    monkeypatch.setattr(store.Checkpoints, "read", lost)
    with pytest.raises(UsageError, match=r"the first checkpoint in .* can't be read back"):
        save(tmp_path, 10)


def test_reading_alone_changes_nothing(tmp_path):
    save(tmp_path, 10)
    before = contents(tmp_path)
    with store.Checkpoints(tmp_path, OWNER, read_only=True) as checkpoints:
        assert checkpoints.read(10, states(0)).step == 10
    assert contents(tmp_path) == before
    assert store.steps_in(tmp_path) == [10]
    assert store.steps_in(tmp_path / "nothing") == []


def test_folders_with_names_that_are_no_steps_are_none(tmp_path):
    for name in ("7", "0050", "²", "x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert store.steps_in(tmp_path) == [7]
