"""The record of a study, `study.json`: what it is, and how it was begun and resumed."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from hopmix.lab.config import StudyConfig
from hopmix.lab.errors import UsageError
from hopmix.lab.fields import LARGEST
from hopmix.lab.store.files import digest, read_json, write_json

NAME = "study.json"

IDENTITY = ("config", "arms", "data", "steps_total")
"""What never changes in the record of a study."""

FORMAT = 3
"""Of what is written now. Folders of the first format carry no digests; those of the second call
the strength of a penalty "penalty", so they are read, but not gone on with."""

TYPES = {
    "config": dict,
    "arms": list,
    "data": dict,
    "steps_total": int,
    "data_path": str | None,
    "format": int,
}


def _are_arms(arms: Any) -> bool:
    return arms is None or all(
        isinstance(arm, dict) and isinstance(arm.get("name"), str) for arm in arms
    )


def _are_sizes(data: Any) -> bool:
    counts = [
        data[name] for name in ("classes", "train", "validation", "test") if name in (data or {})
    ]
    image = data.get("image", [1, 1, 1]) if data else [1, 1, 1]
    if isinstance(image, list) and len(image) == 3:
        sizes = [*counts, *image]
    else:
        sizes = [None]
    return all(isinstance(size, int) and 0 < size <= LARGEST for size in sizes)


MEMBERS = {"arms": _are_arms, "data": _are_sizes}
"""What is in the parts of a record that are read by it alone, in studies of earlier versions."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whose the checkpoints of a folder are.

    - `study`: the identity of the study, or `None` where it is not known, as in those of earlier
      versions.
    - `arms`, `seeds`: of its members.
    - `sealed`: whether each of them must say so.
    """

    study: str | None = None
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    sealed: bool = False

    def statement(self, step: int, chain: str) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return {
            "study": self.study,
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "step": step,
            "chain": chain,
        }


@dataclasses.dataclass(frozen=True)
class Record:
    """What `study.json` says, held against its own digests.

    - `values`: all of it.
    - `identity`: the digest of what never changes in it, or `None` in a study of an earlier
      version.
    """

    values: dict[str, Any]
    identity: str | None

    @property
    def config(self) -> StudyConfig:
        """The configuration."""
        return StudyConfig.from_json(self.values["config"])

    @property
    def sealed(self) -> bool:
        """Whether all that the study writes carries its identity."""
        return self.values.get("format", 1) >= 2

    def require_format_of_today(self, out: Path):
        """Raise `UsageError` for a study that an earlier version began: what it measured has other
        names.
        """
        found = self.values.get("format", 1)
        if found < FORMAT:
            raise UsageError(
                f"{out}: begun by an earlier version of hopmix (its format is {found}, now it is "
                f"{FORMAT}); resume it "
                "with that version, or start anew under another name."
            )

    def require_study(self, out: Path):
        """Raise `UsageError` for what a `Recorder` wrote, which has neither members nor
        checkpoints.
        """
        if self.values.get("recorder"):
            raise UsageError(
                f"{out}: a Recorder wrote it, so it has no checkpoints; `hopmix report {out}` "
                f"shows what it measured."
            )

    @property
    def steps_total(self) -> int:
        """The steps of each member in all."""
        return int(self.values["steps_total"])

    @property
    def owner(self) -> Owner:
        """Whose its checkpoints are."""
        arms = tuple(arm["name"] for arm in self.values.get("arms", []))
        return Owner(self.identity, arms, tuple(self.config.seed_numbers), self.sealed)

    @property
    def data_path(self) -> str:
        """Where the data were last found, or else what was typed."""
        return self.values.get("data_path") or self.config.data


def identity_of(values: dict[str, Any]) -> str:
    """The digest of what never changes in a record."""
    return digest({name: values.get(name) for name in IDENTITY})


def write_record(out: Path, values: dict[str, Any]) -> Record:
    """Write `study.json` with its digests, atomically."""
    contents = {name: value for name, value in values.items() if name != "checksum"}
    contents["identity"] = identity_of(contents)
    write_json(out / NAME, contents | {"checksum": digest(contents)})
    return Record(contents, contents["identity"])


def read_record(out: Path) -> Record:
    """What `study.json` says; `UsageError` where there is none, or it is damaged or was edited."""
    path = out / NAME
    values = read_json(path)
    fault = _fault(values)
    if fault is not None:
        raise UsageError(
            f"{path}: edited or damaged: {fault}; restore it, or start anew under another name."
        )
    return Record(values, values.get("identity"))


def _fault(values: Any) -> str | None:
    """What is wrong with the contents of a record; one of an earlier version has less to be held
    against.
    """
    if not isinstance(values, dict) or "config" not in values:
        return "it holds no configuration"
    for name, kind in TYPES.items():
        if name in values and not isinstance(values[name], kind):
            return f"{name} is {values[name]!r:.60}"
    for name in ("arms", "data"):
        if not MEMBERS[name](values.get(name)):
            return f"{name} is {values[name]!r:.60}"
    if values.get("format", 1) > FORMAT:
        return f"or of a later version of hopmix (its format is {values['format']})"
    contents = {name: value for name, value in values.items() if name != "checksum"}
    sealed = "checksum" in values or "identity" in values or "format" in values
    if sealed and values.get("checksum") != digest(contents):
        return "its checksum does not match"
    if sealed and values.get("identity") != identity_of(contents):
        return "its identity does not match"
    if "digest" in values and values["digest"] != _config_digest(values["config"]):
        return "its configuration does not match its digest"
    return None


def _config_digest(config: dict[str, Any]) -> str:
    # As it was written: a later version may know more fields.
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def read_config(out: Path) -> StudyConfig:
    """The configuration of a study; `UsageError` where there is none."""
    return read_record(out).config


def open_study(out: Path, config: StudyConfig, *, resume: bool) -> bool:
    """Whether the folder holds this study already; it never lets another one be overwritten.

    Where the data are does not matter: their digest is compared when they are read.

    Raises `UsageError` if the folder holds another study, or this one and `resume` is false, or
    other files.
    """
    if not (out / NAME).exists():
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UsageError(
                f"out: {out} is not empty and holds no study ({NAME} is missing); name a new "
                f"folder, or restore it."
            )
        return False
    found = read_config(out).to_json()
    changed = [
        name
        for name, value in config.to_json().items()
        if found.get(name) != value and name != "data"
    ]
    if changed:
        raise UsageError(
            f"out: {out} holds a study with other {', '.join(changed)}; name a new folder."
        )
    if not resume:
        raise UsageError(
            f"out: {out} holds this study already; continue it with --resume, or name a new folder."
        )
    return True
