"""Images and labels from local files and from the Hugging Face Hub, read with `datasets`."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.utils.logging import get_verbosity, set_verbosity
from PIL import Image
from rich.console import Console
from rich.progress import track

from hopmix.lab.columns import Columns, Values, as_images, class_names, find_columns, label_values, list_names
from hopmix.lab.config import UsageError
from hopmix.lab.decode import Encoded, decode_images
from hopmix.lab.source import AbstractRows, Index, Labels, Like, Pixels, Source

VALIDATION = ("validation", "valid", "val", "dev")
CHUNK = 1024


class Cell(TypedDict):
    """An encoded image: its content, or else where it lies."""

    bytes: bytes | None
    path: str | None


EMPTY: Cell = {"bytes": b"", "path": None}
"""Stands for a missing image, and is reported as one that cannot be decoded."""


@dataclass(frozen=True)
class TableRows(AbstractRows):
    """Rows of a table, whose column `image` holds encoded images."""

    table: datasets.Dataset
    image: str
    split: str
    labels: Labels

    def name(self, row: int) -> str:
        return _name(self.split, row, self.table[row][self.image] or EMPTY)

    def read(self, index: Index, like: Like | None = None) -> Pixels:
        return decode_images(self._encoded(index), len(index), like)

    def _encoded(self, index: Index) -> Iterator[tuple[str, Encoded]]:
        table = self.table.select(index).select_columns([self.image])
        for start in _progress(range(0, len(index), CHUNK), f"decoding {self.split}"):
            for row, cell in zip(index[start : start + CHUNK].tolist(), table[start : start + CHUNK][self.image]):
                cell = cell or EMPTY
                yield _name(self.split, row, cell), _file(cell)


def _name(split: str, row: int, cell: Cell) -> str:
    if cell["bytes"] is None and cell["path"]:
        return cell["path"]
    return f"row {row} of {split}" + (f" ({cell['path']})" if cell["path"] else "")


def _file(cell: Cell) -> Encoded:
    return cell["bytes"] if cell["bytes"] is not None else cell["path"] or b""


def _progress(chunks: range, description: str) -> Iterable[int]:
    return track(chunks, description, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def open_local(data: str, image_column: str | None = None, label_column: str | None = None) -> Source:
    """The images of a parquet file, of a folder of parquet files, or of a folder with one subfolder per class.

    **Arguments:**

    - `data`: an existing path.
    - `image_column`, `label_column`: names of the columns, where they cannot be told.

    **Raises:** `UsageError` where there are no images or labels.
    """
    path = Path(data).expanduser().resolve()
    if path.is_file() and path.suffix != ".parquet":
        raise UsageError(f"data = {data!r} is a file, but no parquet file; give a .parquet file or a folder")
    if path.is_dir() and not _holds_images(path):
        raise UsageError(
            f"data = {data!r} is a folder without images and without parquet files; give one that has some"
        )
    splits = _load(data, "parquet", str(path)) if path.is_file() else _load(data, str(path))
    origin = f"the local {'file' if path.is_file() else 'folder'} {data}"
    return _source(data, path.stem if path.is_file() else path.name, origin, splits, image_column, label_column)


def open_hub(data: str, image_column: str | None = None, label_column: str | None = None) -> Source:
    """The images of a data set on the Hugging Face Hub.

    **Arguments:**

    - `data`: `hub:owner/name`.
    - `image_column`, `label_column`: names of the columns, where they cannot be told.

    **Raises:** `UsageError` where the Hub cannot be reached, knows no such name, or gives no images or labels.
    """
    name = data.removeprefix("hub:")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(f"data = {data!r} names no data set of the Hub; write 'hub:owner/name'")
    return _source(data, name, f"the Hugging Face Hub data set {name}", _load(data, name), image_column, label_column)


def _holds_images(folder: Path) -> bool:
    suffixes = {".parquet", *Image.registered_extensions()}
    return any(file.suffix.lower() in suffixes for file in folder.rglob("*"))


def _load(data: str, path: str, data_files: str | None = None) -> dict[str, datasets.Dataset]:
    try:
        with _quiet():
            loaded = datasets.load_dataset(path, data_files=data_files)
    except (DatasetsError, OSError, ValueError) as error:
        cure = "check the name and the network" if data.startswith("hub:") else "check its files"
        raise UsageError(f"data = {data!r} cannot be loaded ({_reason(error)}); {cure}") from error
    return {str(split): table for split, table in loaded.items()} if isinstance(loaded, dict) else {"train": loaded}


def _reason(error: Exception) -> str:
    """One line, where `datasets` hides the reason in the cause or writes several, the first and last of which tell."""
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """No log of errors that are told anyway, and no progress bars off the terminal."""
    verbosity, silence = get_verbosity(), not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    set_verbosity(logging.CRITICAL)
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        set_verbosity(verbosity)
        if silence:
            datasets.enable_progress_bars()


def _source(
    data: str,
    name: str,
    origin: str,
    splits: dict[str, datasets.Dataset],
    image_column: str | None,
    label_column: str | None,
) -> Source:
    train = _training_split(data, splits)
    validation = next((split for split in VALIDATION if split in splits), None)
    test = "test" if "test" in splits else validation  # as usual where the labels of the test split are not published
    columns = find_columns(data, splits[train], image_column, label_column)
    known = np.unique(label_values(data, train, splits[train], columns.label))
    rows = lambda split: _rows(data, split, splits[split], columns, known)
    return Source(
        name=name,
        origin=origin,
        classes=class_names(splits[train].features[columns.label], known),
        train=rows(train),
        validation=rows(validation) if validation and test != validation else None,
        test=rows(test) if test else None,
    )


def _training_split(data: str, splits: dict[str, datasets.Dataset]) -> str:
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return next(iter(splits))
    raise UsageError(f"data = {data!r} has the splits {list_names(splits)} but no 'train'; name one of them so")


def _rows(data: str, split: str, table: datasets.Dataset, columns: Columns, known: Values) -> TableRows:
    values = label_values(data, split, table, columns.label)
    unknown = np.flatnonzero(~np.isin(values, known))
    if len(unknown):
        value = values[unknown[0]].item()
        raise UsageError(
            f"data = {data!r}: row {unknown[0]} of {split} has the label {value!r}, which never occurs in training; "
            "remove it or choose another column with --label-column"
        )
    labels = np.searchsorted(known, values).astype(np.int32)
    return TableRows(as_images(data, table, columns.image), columns.image, split, labels)
