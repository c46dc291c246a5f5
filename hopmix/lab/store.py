"""Store: a study's folder, in which every file is always either the old or the new one.

Files are written beside their place and moved there. `metrics.zarr`, being a folder, is a link that is moved to a
freshly written version. Checkpoints are Orbax's, which commits each by a rename; a checksum in each tells damage.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import xarray as xr
from jaxtyping import PyTree

from hopmix.lab._quantities import describe
from hopmix.lab.arms import Arm
from hopmix.lab.config import StudyConfig, UsageError
from hopmix.lab.metrics import BRANCHES, DEEP, DIMENSIONS

KEPT_CHECKPOINTS = 3


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*"):  # of a writer that was killed
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any):
    """Write a value as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value of a JSON file; `UsageError` where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent}: no study here ({path.name} is missing); name the folder given to --out."
        ) from None
    except ValueError:
        raise UsageError(f"{path}: damaged, it is not JSON; start the study anew under another name.") from None


def open_study(out: Path, config: StudyConfig, *, resume: bool) -> bool:
    """Whether the folder holds this study already; it never lets another one be overwritten.

    Raises `UsageError` if the folder holds another study, or this one and `resume` is false, or other files.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: {out} is a file; name a folder.")
    if not (out / "study.json").exists():
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UsageError(f"out: {out} is not empty and holds no study; name a new folder.")
        return False
    found = read_config(out)
    changed = [name for name, value in config.to_json().items() if found.to_json()[name] != value]
    if changed:
        raise UsageError(f"out: {out} holds a study with other {', '.join(changed)}; name a new folder.")
    if not resume:
        raise UsageError(f"out: {out} holds this study already; continue it with --resume, or name a new folder.")
    return True


def read_config(out: Path) -> StudyConfig:
    """The configuration of a study; `UsageError` where there is none."""
    described = read_json(out / "study.json")
    if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
        raise UsageError(f"{out / 'study.json'}: damaged, it holds no configuration; start anew under another name.")
    return StudyConfig.from_json(described["config"])


@contextlib.contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold a study's folder against other processes; the hold ends with the process, however that ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"out: another process is writing {out}; wait for it, or name a new folder.") from None
        yield


def require_space(out: Path, needed: int):
    """Raise `UsageError` unless the disk of a folder has room for so many bytes."""
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UsageError(
            f"out: {parent} has {free / 1e6:.0f} MB free, the study needs {needed / 1e6:.0f} MB; free some."
        )


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    cause = error.__cause__ or error.__context__
    return full or (cause is not None and is_full_disk(cause))


class History:
    """The measurements of a study so far, by metric: arrays of (arm, seed, step, ...)."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], depth: int):
        self.arms, self.seeds, self.depth = tuple(arms), tuple(seeds), depth
        self.steps: list[int] = []
        self.rows: list[dict[str, np.ndarray]] = []

    def append(self, step: int, row: dict[str, np.ndarray]):
        """Add the measurements of one moment, arrays of (arm, seed, ...)."""
        self.steps.append(step)
        self.rows.append(row)

    def truncate(self, step: int):
        """Forget what was measured after a step."""
        kept = [i for i, s in enumerate(self.steps) if s <= step]
        self.steps, self.rows = [self.steps[i] for i in kept], [self.rows[i] for i in kept]

    def dataset(self) -> xr.Dataset:
        """All measurements as labelled arrays."""
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            name: (("arm", "seed", "step", *dims), np.stack([row[name] for row in self.rows], axis=2))
            for name, dims in (DIMENSIONS | DEEP).items()
        }
        variables["diverged_step"] = (("arm", "seed"), self.rows[-1]["diverged_step"])
        arms = self.arms
        coordinates = {
            "arm": [arm.name for arm in arms],
            "paper_name": ("arm", [arm.paper_name for arm in arms]),
            "kind": ("arm", [arm.kind for arm in arms]),
            "penalty": ("arm", [arm.penalty for arm in arms]),
            "seed": list(self.seeds),
            "step": self.steps,
            "block": list(range(self.depth)),
            "branch": list(BRANCHES),
        }
        return describe(xr.Dataset(variables, coordinates))

    def load(self, dataset: xr.Dataset):
        """Take over the measurements of `dataset`, as an earlier run wrote them."""
        self.steps = [int(step) for step in dataset.step.values]
        self.rows = [
            {name: dataset[name].isel(step=i).values for name in DIMENSIONS | DEEP}
            | {"diverged_step": dataset["diverged_step"].values}
            for i in range(len(self.steps))
        ]


def write_metrics(out: Path, history: History):
    """Write `metrics.zarr` anew and put it in the place of the old one."""
    versions, current = out / ".metrics", (out / "metrics.zarr").resolve()
    fresh = versions / f"{history.steps[-1]:09d}-{uuid.uuid4().hex[:8]}.zarr"
    history.dataset().to_zarr(fresh, mode="w", consolidated=False, zarr_format=2)
    link = versions / f"link-{uuid.uuid4().hex[:8]}"
    link.symlink_to(Path(".metrics") / fresh.name)
    os.replace(link, out / "metrics.zarr")
    for old in versions.iterdir():
        if old != fresh and old.resolve() != current:  # the last one may still be read
            old.unlink() if old.is_symlink() else shutil.rmtree(old, ignore_errors=True)


def read_metrics(out: Path) -> xr.Dataset:
    """The measurements of a study, loaded."""
    if not (out / "metrics.zarr").exists():
        raise UsageError(
            f"{out}: nothing has been measured yet (no metrics.zarr); continue with `hopmix resume {out}`."
        )
    try:
        return xr.open_zarr((out / "metrics.zarr").resolve(), consolidated=False).load()
    except Exception as error:  # Zarr raises many kinds for damaged files
        raise UsageError(
            f"{out / 'metrics.zarr'}: damaged ({error}); start the study anew under another name."
        ) from None


class Checkpoints:
    """The last few states of a study's members, with Orbax; use it as a context."""

    def __init__(self, out: Path):
        self._manager = ocp.CheckpointManager(
            (out / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=KEPT_CHECKPOINTS, enable_async_checkpointing=False),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception):
        self._manager.close()

    def save(self, step: int, states: Sequence[PyTree]):
        """Save the members of all programs as they are after a step."""
        leaves = {f"program_{i}": list(map(np.asarray, jax.tree.leaves(state))) for i, state in enumerate(states)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves), checksum=ocp.args.JsonSave({"crc32": _checksum(leaves)})
            ),
            force=True,
        )

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged or not."""
        return sorted(self._manager.all_steps())

    def restore(self, like: Sequence[PyTree]) -> tuple[int, list[PyTree], list[str]]:
        """The newest undamaged states, with their step and a sentence for each checkpoint passed over.

        Raises `UsageError` if there is none.
        """
        warnings, damaged = [], []
        for step in reversed(self.steps):
            try:
                states = self.read(step, like)
            except Exception as error:  # Orbax raises many kinds for damaged files; all mean the same here.
                reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
                damaged.append(step)
                warnings.append(f"checkpoint of step {step} is damaged and is passed over ({reason})")
                continue
            for other in damaged:  # their steps will be reached, and saved, again
                self._manager.delete(other)
            return step, states, warnings
        raise UsageError(
            f"checkpoints: none of {len(warnings)} is readable; start the study anew under another name."
            if warnings
            else "checkpoints: there is none yet; start the study anew under another name."
        )

    def read(self, step: int, like: Sequence[PyTree]) -> list[PyTree]:
        targets = {
            f"program_{i}": [np.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
            for i, state in enumerate(like)
        }
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(targets), checksum=ocp.args.JsonRestore()),
        )
        if _checksum(restored["state"]) != restored["checksum"]["crc32"]:
            raise ValueError("its checksum does not match")
        return [
            jax.tree.unflatten(jax.tree.structure(state), restored["state"][f"program_{i}"])
            for i, state in enumerate(like)
        ]


def _checksum(leaves: dict[str, list[np.ndarray]]) -> int:
    value = 0
    for name in sorted(leaves):
        for leaf in leaves[name]:
            value = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), value)
    return value
