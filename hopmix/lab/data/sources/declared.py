"""Data sets that declare their splits: on the Hugging Face Hub, or written by `save_to_disk` of
`datasets`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import config
from huggingface_hub import HfApi

from hopmix.lab.data.sources.loading import loading
from hopmix.lab.data.sources.source import Options, Source
from hopmix.lab.data.sources.tables import Found, Table, choose_splits, source_of_tables
from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError
from hopmix.lab.runtime.hub import ANSWERS_IN, asked_once

SAVED = ("dataset_dict.json", "dataset_info.json")
"""What a folder holds that `save_to_disk` wrote; the second one beside `state.json`."""


def open_hub(data: str, options: Options) -> Source:
    """The images of a data set on the Hugging Face Hub.

    **Arguments:**

    - `data`: `hub:owner/name`.

    **Raises:** `UsageError` where the Hub cannot be reached, knows no such name, or gives no images
    or labels.
    """
    name = data.removeprefix("hub:")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(f"data = {data!r} names no data set of the Hub; write 'hub:owner/name'")
    ask = lambda: HfApi().dataset_info(name, timeout=ANSWERS_IN)
    with (
        loading(data, "check the name and the network"),
        asked_once(ask) as answers,
        _offline(not answers),
    ):
        loaded = _loaded(data, name, answers)
    return _source(data, name, f"the Hugging Face Hub data set {name}", loaded, options)


def _loaded(data: str, name: str, answers: bool) -> Any:
    try:
        return datasets.load_dataset(name)
    except (ConnectionError, FileNotFoundError) as error:
        if answers:
            raise
        raise UsageError(
            f"data = {data!r} cannot be loaded (the Hub is out of reach and nothing of that name "
            f"is in its cache); "
            "check the network and HF_HUB_OFFLINE, and the name"
        ) from error


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """A block in which `datasets` knows, too, whether the Hub is out of reach: it would try for
    half a minute.
    """
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    first, second = ((folder / name).is_file() for name in SAVED)
    return first or (second and (folder / "state.json").is_file())


def open_saved(data: str, folder: Path, options: Options) -> Source:
    """The images of a folder that `save_to_disk` wrote, of a `Dataset` or of a `DatasetDict`.

    **Raises:** `UsageError` for a damaged folder and for tables without images or labels.
    """
    with loading(data):
        loaded = datasets.load_from_disk(str(folder))
    return _source(data, folder.name, f"the local folder {data}", loaded, options, folder)


def _source(
    data: str, name: str, origin: str, loaded: Any, options: Options, folder: Path | None = None
) -> Source:
    """The source of a `Dataset` or of a `DatasetDict`."""
    if not isinstance(loaded, dict):
        found = {"train": Found([Table(loaded, folder)], "the only table")}
        return source_of_tables(data, name, origin, found, options)
    tables = {str(split): table for split, table in loaded.items()}
    if not tables:
        raise UsageError(f"data = {data!r} has no splits; add one that is called 'train'")
    chosen, left = choose_splits(data, list(tables))
    found = {
        split: Found([Table(tables[name], folder)], f"split {name}")
        for split, name in chosen.items()
    }
    notes = [f"not read: the splits {list_names(left)}"] if left else []
    return source_of_tables(data, name, origin, found, options, notes)
