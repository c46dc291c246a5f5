"""A study that goes on: with the data and the arms that it was begun with."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hopmix.lab import store
from hopmix.lab.config import GIVEN, StudyConfig
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.families.own import Own, load_own, need_file, own_entries
from hopmix.lab.study.prepared import Study


def located(record: store.Record, data: str | None = None) -> StudyConfig:
    """The configuration of a study with the place of its data: as given, or where they were last.

    **Raises:** `UsageError` if they are not there any more.
    """
    place = data or record.data_path
    path = data_path(place)
    if data is None and path is not None and not Path(path).exists():
        raise UsageError(
            f"data: {place} is not there any more; restore it, or name its new place with --data."
        )
    return dataclasses.replace(record.config, data=place)


def own_of(record: store.Record, field: str, entries: Sequence[str]) -> dict[str, Own]:
    """The user's own arms, or probes, of a study, by the entries that it was begun with.

    **Arguments:**

    - `field`: "arms" or "probes".
    - `entries`: where they are now, in their order; what a record names is never imported.

    **Raises:** `UsageError` where there are not as many as there were.
    """
    begun = own_entries(getattr(record.config, field))
    given = own_entries(entries)
    need_file(field, begun)
    if given and not begun:
        raise UsageError(
            f"{field}: got {' '.join(given)}, but this study has no {field} of your own; leave it "
            f"out."
        )
    if len(given) != len(begun):
        raise UsageError(
            f"{field}: this study was begun with {' '.join(begun)}; give that again with --{field}."
        )
    found = load_own(field, given)
    for entry, now in zip(begun, given):
        if entry.rpartition(":")[2] != now.rpartition(":")[2]:
            raise UsageError(f"{field}: got {now}, but this study was begun with {entry}; name it.")
    return {entry: found[now]._replace(entry=entry) for entry, now in zip(begun, given)}


def require_same_data(study: Study, record: store.Record, out: Path):
    """Raise `UsageError` unless the data are those that the study was begun with."""
    if record.values.get("data", {}).get("digest") != study.data.digest:
        raise UsageError(
            f"data: {study.data.name} has changed since {out} was begun (its digest differs); "
            f"restore it, or name the "
            "place of the same images with --data."
        )


def require_same_files(own: Mapping[str, str], record: store.Record, out: Path):
    """Raise `UsageError` unless what is the user's own is of the files that the study began with.

    **Arguments:**

    - `own`: the digests of the files as they are now, by entry.
    """
    begun = record.values.get("own", {})
    for entry, digest in own.items():
        if begun.get(entry, digest) != digest:
            raise UsageError(
                f"arms, probes: the file of {entry} is not the one that {out} was begun with (its "
                f"digest differs); restore it."
            )


def require_same_arms(arms: Sequence[Arm], record: store.Record, out: Path):
    """Raise `UsageError` unless the arms are those of the record, in their order: members are told
    apart by their places.
    """
    begun = record.values.get("arms", [])
    if len(begun) != len(arms):
        raise UsageError(
            f"arms: {out} was begun with {len(begun)} arms, now there are {len(arms)}; give those."
        )
    for arm, before in zip(arms, begun):
        now = description(arm)
        for name in ("name", "kind", "strength", "couplings", "pairs"):
            if name in before and now[name] != before[name]:
                raise UsageError(
                    f"arms: {name} of {before['name']!r} was {before[name]!r} when {out} was "
                    f"begun, and is {now[name]!r}; give the arms of then, in their order."
                )


def description(arm: Arm) -> dict[str, Any]:
    """What a record says of an arm beside its parameters, as JSON values."""
    return {
        "name": arm.name,
        "kind": arm.kind,
        "title": arm.title,
        "strength": arm.strength,
        "couplings": {name: list(sizes) for name, sizes in arm.sizes.items()},
        "pairs": list(arm.pairs),
    }


def data_path(data: str) -> str | None:
    """Where data lie on this machine, whatever folder they are named from; `None` for digits and
    the Hub.
    """
    if data in ("digits", GIVEN) or data.startswith("hub:"):
        return None
    return str(Path(data).expanduser().absolute())
