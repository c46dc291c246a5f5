"""What a study ends with: `results.json` and `weights.npz`, each held against the other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hopmix.lab.errors import UsageError
from hopmix.lab.store.earlier import results_with_names_of_today
from hopmix.lab.store.files import (
    digest,
    file_digest,
    raise_if_unreadable,
    reason,
    replacing,
    write_json,
)
from hopmix.lab.store.record import Record

NAME = "results.json"
WEIGHTS = "weights.npz"


class Damaged(UsageError):
    """Results that are lost, damaged or edited: `hopmix resume` makes them again."""


def write_results(
    out: Path, record: Record, results: dict[str, Any], weights: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write weights and results, with the digests that tie them to each other and to the study;
    returns the results.
    """
    arrays: dict[str, Any] = dict(weights)
    with replacing(out / WEIGHTS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    contents = results | {
        "study": record.identity,
        "step": record.steps_total,
        "weights": file_digest(out / WEIGHTS),
    }
    write_json(out / NAME, contents | {"checksum": digest(contents)})
    return contents


def read_results(out: Path, record: Record) -> dict[str, Any] | None:
    """The contents of `results.json`; `None` where the study has not ended.

    **Raises:** `Damaged` where they, or the weights, are not what was written; `UsageError` for
    those of another study.
    """
    path = out / NAME
    if not path.exists():
        return None
    again = f"`hopmix resume {out}` makes it again"
    values = _read(path, again)
    contents = {name: value for name, value in values.items() if name != "checksum"}
    sealed = record.sealed or "checksum" in values or "study" in values
    if sealed and values.get("checksum") != digest(contents):
        raise Damaged(f"{path}: edited or damaged (its checksum does not match); {again}.")
    if sealed and values.get("study") != record.identity:
        raise UsageError(
            f"{path}: of another study than study.json; restore it, or take it away and resume."
        )
    if sealed and values.get("step") != record.steps_total:
        raise Damaged(f"{path}: of step {values.get('step')}, not of the last; {again}.")
    if sealed or (out / WEIGHTS).exists():
        _check_weights(out, values.get("weights"), again)
    return results_with_names_of_today(values)


def _read(path: Path, again: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: can't be read ({reason(error)}); mend that and try again."
        ) from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("arms"), list):
        raise Damaged(f"{path}: damaged, it holds no results; {again}.")
    return values


def _check_weights(out: Path, expected: str | None, again: str):
    path = out / WEIGHTS
    try:
        found = file_digest(path)
        if expected is None:
            read_weights(out)
    except FileNotFoundError:
        raise Damaged(f"{path}: missing; {again}.") from None
    except OSError as error:
        raise UsageError(
            f"{path}: can't be read ({reason(error)}); mend that and try again."
        ) from None
    if expected is not None and found != expected:
        raise Damaged(f"{path}: edited or damaged (its digest does not match {NAME}); {again}.")


def read_weights(out: Path) -> dict[str, np.ndarray] | None:
    """The arrays of `weights.npz`, or `None` where there is none; never objects."""
    path = out / WEIGHTS
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # what a damaged archive raises is of many kinds
        raise_if_unreadable(path, error)
        raise Damaged(
            f"{path}: damaged ({reason(error)}); `hopmix resume {out}` makes it again."
        ) from None
