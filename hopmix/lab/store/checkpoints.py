"""Checkpoints: the last few states of a study's members, kept by Orbax.

Orbax commits each by a rename. Beside its own files each holds their digests, so that damage is
proved before anything is unpacked, and a statement of whose it is.
"""

import contextlib
import json
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from hopmix.lab.errors import UsageError
from hopmix.lab.store.files import file_digests, raise_if_unreadable, reason, set_aside, write_json
from hopmix.lab.store.record import Owner

KEPT_CHECKPOINTS = 3
FOLDER = "checkpoints"
_FILES = "files.json"
_SPECIAL = "*?[]\\"
_ANEW = "start the study anew under another name"


class Damaged(ValueError):
    """A checkpoint that is proved damaged."""


class Restored(NamedTuple):
    """The states of a checkpoint, and the digest of the measurements that lead to it, where it is
    known.
    """

    step: int
    states: list[PyTree]
    chain: str | None


class Checkpoints:
    """The last few states of a study's members; use it as a context.

    **Arguments:**

    - `out`: the folder of the study.
    - `owner`: whose they are: others are refused.
    - `read_only`: whether nothing in the folder may change.
    """

    def __init__(self, out: Path, owner: Owner | None = None, *, read_only: bool = False):
        self._out = out
        self._read_only = read_only
        self._folder = out / FOLDER
        self._owner = owner
        self._proved = False
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoints":
        folder = self._exits.enter_context(_plain_path(self._out)) / FOLDER
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if self._read_only else KEPT_CHECKPOINTS,
            enable_async_checkpointing=False,
            read_only=self._read_only,
        )
        self._manager = ocp.CheckpointManager(folder, options=options)
        return self

    def __exit__(self, *exception):
        self._manager.close()
        self._exits.close()

    def save(self, step: int, states: Sequence[PyTree], chain: str = ""):
        """Save the members of all programs as they are after a step; the first one is read back.

        **Arguments:**

        - `chain`: the digest of all measurements up to there.
        """
        leaves = {
            f"program_{i}": list(map(np.asarray, jax.tree.leaves(state)))
            for i, state in enumerate(states)
        }
        statement = (self._owner or Owner()).statement(step, chain) | {"crc32": _checksum(leaves)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves), checksum=ocp.args.JsonSave(statement)
            ),
            force=True,
        )
        folder = self._folder / str(step)
        write_json(folder / _FILES, file_digests(folder, _files_in(folder)))
        if not self._proved:
            self._prove(step, states)

    def _prove(self, step: int, states: Sequence[PyTree]):
        try:
            self.read(step, states)
        except Damaged as error:
            raise UsageError(
                f"out: the first checkpoint in {self._folder} can't be read back ({error}); name "
                f"another folder."
            ) from None
        self._proved = True

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged or not."""
        return steps_in(self._out)  # Orbax knows only of those that it calls complete

    def restore(
        self, like: Sequence[PyTree], latest: int | None = None
    ) -> tuple[Restored, list[str]]:
        """The newest undamaged states, and a sentence for each checkpoint passed over, which is set
        aside.

        **Arguments:**

        - `like`: states of the same form.
        - `latest`: the last step that has been measured: checkpoints after it are passed over too.

        **Raises:** `UsageError` if there is none, or one is not of this study or cannot be read.
        """
        told = []
        passed = []
        for step in reversed(self.steps):
            why = "is ahead of what was measured"
            if latest is None or step <= latest:
                try:
                    restored = self.read(step, like)
                except Damaged as error:
                    why = f"is damaged ({error})"
                else:
                    self._set_aside(passed)
                    return restored, told
            passed.append(step)
            told.append(
                f"checkpoint of step {step} {why}, is passed over and kept in "
                f"{self._out / 'damaged'}"
            )
        raise UsageError(
            f"{self._folder}: none of {len(told)} checkpoints is readable; {_ANEW}."
            if told
            else f"{self._folder}: there is no checkpoint; restore the folder, or {_ANEW}."
        )

    def _set_aside(self, steps: Sequence[int]):
        for step in steps:  # it will be reached, and saved, again
            set_aside(self._out, self._folder / str(step))
        if steps:
            self._manager.reload()

    def read(self, step: int, like: Sequence[PyTree]) -> Restored:
        """The states of a checkpoint.

        **Raises:** `Damaged` where that is proved; `UsageError` for one that is not of this study,
        or that cannot be
            read now.
        """
        place = self._folder / str(step)
        try:
            self._check_files(place)
            restored = self._unpack(step, like)
        except (Damaged, UsageError):
            raise
        except Exception as error:  # Orbax raises many kinds for damaged files
            raise_if_unreadable(place, error)
            if (place / _FILES).exists():
                told = (
                    f"{place}: whole, but can't be restored ({reason(error)}); use the "
                    f"version that wrote it."
                )
                raise UsageError(told) from None
            raise Damaged(reason(error)) from None
        statement = restored["checksum"]
        self._check_owner(place, step, statement)
        if _checksum(restored["state"]) != statement.get("crc32"):
            raise Damaged("its checksum does not match")
        states = [
            jax.tree.unflatten(jax.tree.structure(state), restored["state"][f"program_{i}"])
            for i, state in enumerate(like)
        ]
        return Restored(step, states, statement.get("chain"))

    def _check_files(self, place: Path):
        """Read all files, and hold them against their digests where those were written: not by
        earlier versions.
        """
        found = file_digests(place, _files_in(place))
        if not (place / _FILES).exists():
            return
        try:
            expected = dict(json.loads((place / _FILES).read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise Damaged(f"{_FILES} is no list of files") from None
        for name, value in expected.items():
            if found.get(name) != value:
                raise Damaged(f"{name} is {'changed' if name in found else 'missing'}")

    def _unpack(self, step: int, like: Sequence[PyTree]) -> Any:
        targets = {
            f"program_{i}": [np.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
            for i, state in enumerate(like)
        }
        return self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(targets), checksum=ocp.args.JsonRestore()
            ),
        )

    def _check_owner(self, place: Path, step: int, statement: dict[str, Any]):
        if self._owner is None or not (self._owner.sealed or "study" in statement):
            return
        expected = self._owner.statement(step, "")
        wrong = [
            name
            for name in ("study", "arms", "seeds", "step")
            if statement.get(name) != expected[name]
        ]
        if wrong:
            told = ", ".join(f"{name} {statement.get(name)!r:.60}" for name in wrong)
            raise UsageError(
                f"{place}: of another study or moment ({told}); restore it, or take it away."
            )


def steps_in(out: Path) -> list[int]:
    """The steps of the checkpoints of a study, without opening any."""
    folder = out / FOLDER
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
    else:
        names = []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


@contextlib.contextmanager
def _plain_path(out: Path) -> Iterator[Path]:
    """A path to a folder that Orbax reads as we do: it takes brackets for a pattern and a backslash
    for a slash.
    """
    out = out.absolute()
    if not _is_special(out):
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="hopmix-") as folder:
        link = Path(folder).absolute() / "run"
        if _is_special(link):
            raise UsageError(
                f"out: {out} and the folder for temporary files have one of {_SPECIAL}; name "
                f"another."
            )
        link.symlink_to(out)
        yield link


def _is_special(path: Path) -> bool:
    return any(letter in str(path) for letter in _SPECIAL)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != _FILES]


def _checksum(leaves: dict[str, list[np.ndarray]]) -> int:
    value = 0
    for name in sorted(leaves):
        for leaf in leaves[name]:
            value = zlib.crc32(np.ascontiguousarray(leaf).data, value)
    return value
