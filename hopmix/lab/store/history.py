"""The measurements of a study: in memory while it runs, and in `metrics.zarr`.

`metrics.zarr`, being a folder, is a link that is moved to a freshly written version.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.probes.layout import Layout
from hopmix.lab.store.codecs import require_plain_arrays
from hopmix.lab.store.described import describe
from hopmix.lab.store.earlier import with_names_of_today
from hopmix.lab.store.files import flush, flush_all, raise_if_unreadable, reason, set_aside
from hopmix.lab.store.record import Record
from hopmix.symmetry.quantities import BLOCK, COUPLING, Quantity

NAME = "metrics.zarr"
VERSIONS = ".metrics"
_VERSION = re.compile(r"\d{9,}-[0-9a-f]{8}\.zarr")
_LINK = re.compile(r"link-[0-9a-f]{8}")
_ANEW = "restore it, or start anew under another name"


class History:
    """The measurements of a study so far, by metric: arrays of (arm, seed, step, ...).

    **Arguments:**

    - `arms`, `seeds`: of the members.
    - `layout`: where couplings stand.
    - `quantities`: what is measured; of those that a moment lacks it holds NaN.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        layout: Layout,
        quantities: Sequence[Quantity],
    ):
        self.arms = tuple(arms)
        self.seeds = tuple(seeds)
        self.layout = layout
        self.quantities = tuple(quantities)
        self.dims = {one.name: one.dims for one in quantities}
        self.steps: list[int] = []
        self.rows: list[dict[str, np.ndarray]] = []
        self._chain: list[str] = []

    @property
    def chain(self) -> str:
        """The digest of all that was measured so far, in its order."""
        if self._chain:
            return self._chain[-1]
        return ""

    def append(self, step: int, row: dict[str, np.ndarray]):
        """Add the measurements of one moment, arrays of (arm, seed, ...)."""
        hashed = hashlib.blake2b(f"{self.chain} {step}".encode(), digest_size=16)
        for name in sorted(self.dims):
            _hash_array(hashed, name, row[name])
        self.steps.append(step)
        self.rows.append(row)
        self._chain.append(hashed.hexdigest())

    def truncate(self, step: int):
        """Forget what was measured after a step."""
        kept = sum(s <= step for s in self.steps)
        del self.steps[kept:], self.rows[kept:], self._chain[kept:]

    def dataset(self) -> xr.Dataset:
        """All measurements as labelled arrays."""
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            name: (
                ("arm", "seed", "step", *dims),
                np.stack([row[name] for row in self.rows], axis=2),
            )
            for name, dims in self.dims.items()
        }
        variables["diverged_step"] = (("arm", "seed"), self.rows[-1]["diverged_step"])
        arms = self.arms
        coordinates = {
            "arm": [arm.name for arm in arms],
            "kind": ("arm", [arm.kind for arm in arms], _looks(arms)),
            "title": ("arm", [arm.title for arm in arms]),
            "strength": ("arm", [np.nan if arm.strength is None else arm.strength for arm in arms]),
            "seed": list(self.seeds),
            "step": self.steps,
        }
        if any(BLOCK[0] in dims for dims in self.dims.values()):
            coordinates["block"] = list(self.layout.blocks)
        if any(COUPLING[1] in dims for dims in self.dims.values()):
            coordinates["branch"] = list(self.layout.branches)
        return describe(xr.Dataset(variables, coordinates), self.quantities)

    def load(self, dataset: xr.Dataset):
        """Take over the measurements of `dataset`, as an earlier run wrote them."""
        self.truncate(-1)
        diverged = {"diverged_step": dataset["diverged_step"].values}
        for i, step in enumerate(dataset.step.values):
            row = {name: dataset[name].isel(step=i).values for name in self.dims}
            self.append(int(step), row | diverged)


def _looks(arms: Sequence[Arm]) -> dict[str, str]:
    """How kinds of the user's own are drawn, as an attribute, where arms say so."""
    looks = {arm.kind: dataclasses.asdict(arm.look) for arm in arms if arm.look is not None}
    return {"looks": json.dumps(looks)} if looks else {}


def write_metrics(out: Path, history: History, identity: str | None = None):
    """Write `metrics.zarr` anew, and put it in the place of the old one once it is on the disk.

    **Arguments:**

    - `identity`: that of the study, which the file carries.
    """
    versions = out / VERSIONS
    current = _version_in_use(out)
    fresh = versions / _version_name(history.steps[-1])
    dataset = history.dataset()
    dataset.attrs["digest"] = dataset_digest(dataset)
    if identity is not None:
        dataset.attrs["study"] = identity
    dataset.to_zarr(fresh, mode="w", consolidated=False, zarr_format=2)
    flush_all(fresh)
    _point_to(fresh)
    for old in versions.iterdir():
        if old not in (fresh, current):  # the last one may still be read, or be needed
            _remove_version(old)


def _point_to(version: Path):
    versions = version.parent
    link = versions / f"link-{uuid.uuid4().hex[:8]}"
    link.symlink_to(Path(VERSIONS) / version.name)
    flush(versions)
    os.replace(link, versions.parent / NAME)
    flush(versions.parent)


FIRST = f"{0:09d}-"
"""How the name of the version before any step begins."""


def _version_name(step: int) -> str:
    return f"{step:09d}-{uuid.uuid4().hex[:8]}.zarr"


def _version_in_use(out: Path) -> Path | None:
    """The version that `metrics.zarr` stands for; a folder in its place, as copies have it, becomes
    one.
    """
    path = out / NAME
    if path.is_dir() and not path.is_symlink():
        place = out / VERSIONS / _version_name(1)  # not `FIRST`: it is whole
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
        return place
    found = _target(out)
    if found is None:
        return None
    return out / VERSIONS / found.name


def _remove_version(path: Path):
    if _LINK.fullmatch(path.name) and path.is_symlink():
        path.unlink()
    elif _VERSION.fullmatch(path.name) and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def _target(out: Path) -> Path | None:
    """The folder that `metrics.zarr` is or points to, be it there or not; `None` where there is
    nothing.
    """
    path = out / NAME
    if path.is_symlink():
        return out / os.readlink(path)
    if path.is_file():  # archives that know no links keep the name in a file
        name = path.read_text(encoding="utf-8", errors="replace").strip()
        return out / VERSIONS / Path(name).name
    if path.exists():
        return path
    return None


def read_metrics(out: Path, record: Record | None = None) -> xr.Dataset:
    """The measurements of a study, loaded, and held against their digest.

    **Arguments:**

    - `out`: the folder of the study.
    - `record`: that of the study; where it is given, they must be its own.

    **Raises:** `UsageError` if there are none, or they are damaged or of another study.
    """
    path = out / NAME
    found = _target(out)
    if found is None:
        if _versions(out):
            raise UsageError(
                f"{path}: missing; `hopmix resume {out}` goes on from an earlier version."
            )
        raise UsageError(
            f"{out}: nothing has been measured yet (no {NAME}); continue with `hopmix resume "
            f"{out}`."
        )
    if not found.is_dir():
        raise UsageError(
            f"{path}: it points to {VERSIONS}/{found.name}, which is missing; copy the hidden "
            f"folder {VERSIONS} too."
        )
    return _read_version(path, found, record, _cure(out, found))


def _cure(out: Path, damaged: Path) -> str:
    others = [version for version in _versions(out) if version.name != damaged.name]
    if others:
        return f"`hopmix resume {out}` goes on from the version before it"
    return _ANEW


def _read_version(path: Path, version: Path, record: Record | None, cure: str) -> xr.Dataset:
    try:
        require_plain_arrays(version)
        dataset = _load(version.resolve())
        dataset.isel(arm=0, seed=0, step=-1)
        expected = dataset.attrs.get("digest")
        if expected or _is_sealed(record):
            intact = expected == dataset_digest(dataset)
        else:
            intact = True
    except Exception as error:  # Zarr raises many kinds for damaged files
        raise_if_unreadable(path, error)
        raise Damaged(f"{path}: damaged ({reason(error)}); {cure}.") from None
    if not intact:
        raise Damaged(f"{path}: edited or damaged (its digest does not match); {cure}.")
    study = dataset.attrs.get("study")
    if record is not None and (study or record.sealed) and study != record.identity:
        raise UsageError(f"{path}: of another study than study.json; {_ANEW}.")
    return with_names_of_today(dataset)


def _load(version: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of files that are no arrays: what is missing shows in the digest
        return xr.open_zarr(version, consolidated=False).load()


def _is_sealed(record: Record | None) -> bool:
    return record is not None and record.sealed


class Damaged(UsageError):
    """Measurements that are proved damaged."""


def _versions(out: Path) -> list[Path]:
    """The versions of the measurements, the newest first."""
    found = [path for path in (out / VERSIONS).glob("*.zarr") if _VERSION.fullmatch(path.name)]
    return sorted(found, reverse=True)


def recover_metrics(out: Path, record: Record) -> tuple[xr.Dataset, list[str]]:
    """The measurements of a study, or their newest version that is whole, with a sentence if it is
    not the last one.

    `metrics.zarr` then is that version, and what was damaged is set aside.
    """
    try:
        return read_metrics(out, record), []
    except UsageError as error:
        broken = _target(out)
        if broken is not None and broken.exists() and not isinstance(error, Damaged):
            raise
        for version in _versions(out):
            if broken is not None and version.name == broken.name:
                dataset = None
            else:
                dataset = _try_version(version, record)
            if dataset is not None:
                return dataset, [_put_in_place(out, broken, version, dataset)]
        raise


def _try_version(version: Path, record: Record) -> xr.Dataset | None:
    try:
        return _read_version(version, version, record, _ANEW)
    except Damaged:
        return None


def _put_in_place(out: Path, broken: Path | None, version: Path, dataset: xr.Dataset) -> str:
    kept = ""
    if broken is not None and broken.exists():
        kept = f", and kept in {set_aside(out, broken)}"
    _point_to(version)
    return (
        f"{NAME} is missing or damaged{kept}; going on from its version of step "
        f"{int(dataset.step.values[-1])}"
    )


def dataset_digest(dataset: xr.Dataset) -> str:
    """A hash of all arrays: names, dimensions, shapes, types, entries and what is said about
    them.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        _hash_array(hashed, f"{name} {variable.dims}", variable.values)
        hashed.update(json.dumps(variable.attrs, sort_keys=True, default=_plain).encode())
    return hashed.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def _hash_array(hashed: Any, name: str, values: np.ndarray):
    if values.dtype.kind in "OUST":
        entries = [str(value) for value in values.ravel().tolist()]
        hashed.update(json.dumps([name, values.shape, entries]).encode())
        return
    if values.dtype.kind == "f":
        values = np.where(
            np.isnan(values), values.dtype.type(np.nan), values
        )  # files keep no kinds of NaN
    hashed.update(f"{name} {values.shape} {values.dtype.str}".encode())
    hashed.update(np.ascontiguousarray(values).tobytes())
