"""Images and labels in tables of `datasets`, however they were loaded."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import datasets
import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import track

from hopmix.lab.data.sources.columns import Columns, as_images, find_columns, label_values, texts_of
from hopmix.lab.data.sources.decode import Encoded, decode_images
from hopmix.lab.data.sources.source import (
    AbstractRows,
    Given,
    Index,
    Like,
    Options,
    Pixels,
    Size,
    Source,
    make_source,
)
from hopmix.lab.data.sources.splits import (
    SPELLINGS,
    named_splits,
    note_on_column,
    split_column,
    split_of,
)
from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError

CHUNK_ROWS = 1024
CHUNK_BYTES = 2**25
"""At most so many encoded images, and so many bytes of them, are in memory at once."""

LOOKED = 4096
"""Rows in which names of splits are looked for in columns that are not read."""


class Cell(TypedDict):
    """An encoded image: its content, or else where it lies."""

    bytes: bytes | None
    path: str | None


EMPTY: Cell = {"bytes": b"", "path": None}
"""Stands for a missing image, and is reported as one that cannot be decoded."""


class Table(NamedTuple):
    """A table, and the folder that paths in it count from, where it lies in one."""

    rows: datasets.Dataset
    root: Path | None = None


class Found(NamedTuple):
    """The tables of one split, and where they lie, as a phrase."""

    tables: Sequence[Table]
    where: str


@dataclass(frozen=True)
class TableRows(AbstractRows):
    """Rows of a table, whose column `image` holds encoded images.

    **Arguments:**

    - `split`: what error messages call the table.
    - `size`: what each image is brought to.
    """

    table: datasets.Dataset
    split: str
    size: Size | None = None

    def name(self, row: int) -> str:
        return _name(self.split, row, _cells(self.table[row : row + 1])[0])

    def read(self, index: Index, like: Like | None = None) -> Pixels:
        return decode_images(self._encoded(index), len(index), like, self.size)

    def _encoded(self, index: Index) -> Iterator[tuple[str, Encoded]]:
        table = self.table.select(index)
        for start, stop in progress(self._chunks(index), f"decoding {self.split}"):
            for row, cell in zip(index[start:stop].tolist(), _cells(table[start:stop])):
                yield _name(self.split, row, cell), _file(cell)

    def _chunks(self, index: Index) -> list[tuple[int, int]]:
        """First row and end of the chunks in which those rows are read."""
        end = np.cumsum(self._bytes[index])
        chunks = []
        start = 0
        while start < len(index):
            before = end[start - 1] if start else 0
            fits = int(np.searchsorted(end, before + CHUNK_BYTES, side="right"))
            stop = min(max(fits, start + 1), start + CHUNK_ROWS)
            chunks.append((start, stop))
            start = stop
        return chunks

    @cached_property
    def _bytes(self) -> np.ndarray:
        """The length of each encoded image."""
        rows: Any = self.table.with_format("arrow")[:]
        contents = pc.struct_field(rows.column("image"), "bytes")  # pyright: ignore[reportAttributeAccessIssue]
        return pc.binary_length(contents).fill_null(0).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


def _cells(rows: dict[str, Any]) -> list[Cell]:
    return [cell or EMPTY for cell in rows["image"]]


def _name(split: str, row: int, cell: Cell) -> str:
    if cell["bytes"] is None and cell["path"]:
        return cell["path"]
    return f"row {row} of {split}" + (f" ({cell['path']})" if cell["path"] else "")


def _file(cell: Cell) -> Encoded:
    if cell["bytes"] is not None:
        return cell["bytes"]
    return cell["path"] or b""


def progress(steps: Sequence[Any], description: str) -> Iterator[Any]:
    """The steps, with a bar on a terminal that goes when they are done."""
    console = Console(stderr=True)
    yield from track(
        steps, description, console=console, transient=True, disable=not sys.stderr.isatty()
    )


def choose_splits(data: str, splits: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which of the declared splits is for training, validation and test, by the first spelling that
    there is, and which are left over; a single one, whatever its name, is for training."""
    if len(splits) == 1:
        return {"train": splits[0]}, []
    called = sorted(splits, key=lambda name: _preference(name))
    chosen: dict[str, str] = {}
    for name in called:
        split = split_of(name)
        if split is not None:
            chosen.setdefault(split, name)
    if "train" not in chosen:
        raise UsageError(
            f"data = {data!r} has the splits {list_names(splits)} but no 'train'; name one of "
            f"them so"
        )
    return chosen, [name for name in splits if name not in chosen.values()]


def _preference(name: str) -> tuple[int, str]:
    spellings = [spelling for names in SPELLINGS.values() for spelling in names]
    return (
        spellings.index(name.casefold()) if name.casefold() in spellings else len(spellings),
        name,
    )


def source_of_tables(
    data: str,
    name: str,
    origin: str,
    splits: dict[str, Found],
    options: Options,
    notes: Sequence[str] = (),
) -> Source:
    """The images and labels of tables.

    Tables of one split may differ in the order of the names of their classes, for labels are
    matched by name.

    **Arguments:**

    - `splits`: "train", and "validation" and "test" where there are such.

    **Raises:** `UsageError` where columns of images and labels are not clear.
    """
    told = dict.fromkeys(notes)
    splits = _by_column(data, splits, options)
    order: dict[str, None] = {}
    given = {}
    for split in (split for split in SPELLINGS if split in splits):  # training says the order first
        given[split], names, unused = _given(data, split, splits[split], options)
        told |= dict.fromkeys(unused)
        order |= dict.fromkeys(names)
    return make_source(data, name, origin, given, list(order), list(told), columns=True)


def _by_column(data: str, splits: dict[str, Found], options: Options) -> dict[str, Found]:
    """The tables divided by their column of splits, where nothing else divides them."""
    tables = [table for found in splits.values() for table in found.tables if len(table.rows)]
    chosen = options.columns.values()
    columns = [
        split_column(name for name in table.rows.features if name not in chosen) for table in tables
    ]
    if set(splits) == {"train"} and tables and all(columns):
        values = [texts_of(table.rows, name or "") for table, name in zip(tables, columns)]
        names = named_splits(data, dict.fromkeys(value for texts in values for value in texts))
        if names is not None:
            return _divided(tables, values, names)
    return splits


def _divided(
    tables: list[Table], values: list[list[str]], names: dict[str, str]
) -> dict[str, Found]:
    found = {}
    for split, name in names.items():
        rows = [[row for row, value in enumerate(texts) if value == name] for texts in values]
        parts = [Table(table.rows.select(index), table.root) for table, index in zip(tables, rows)]
        found[split] = Found(parts, f"rows with the split {name}")
    return found


def _unused(split: str, table: datasets.Dataset, columns: Columns) -> list[str]:
    """Notes on the columns that are not read and name another split than this one."""
    first = table.select(range(min(LOOKED, len(table))))
    notes = []
    for name in table.features:
        texts = [] if name in columns else texts_of(first, name)
        usual = (split,) if split_column([name]) else (None, split)
        if any(split_of(text) not in usual for text in texts):
            notes += note_on_column(name, texts)
    return notes


def _given(
    data: str, split: str, found: Found, options: Options
) -> tuple[Given, list[str], list[str]]:
    """One split of several tables as one, the names of its classes in their order, and notes."""
    notes: list[str] = []
    images: list[datasets.Dataset] = []
    values: list[np.ndarray] = []
    order: dict[str, None] = {}
    for table, root in found.tables:
        if not len(table):
            continue
        columns = find_columns(data, table, options)
        labels, names = label_values(data, split, table, columns.label)
        images.append(as_images(data, table, columns.image, root))
        values.append(labels)
        order |= dict.fromkeys(names)
        notes += _unused(split, table, columns)
    if not images:
        raise UsageError(
            f"data = {data!r} has no rows in its {split} split ({found.where}); add some"
        )
    if len({labels.dtype.kind for labels in values}) > 1:
        raise UsageError(
            f"data = {data!r}: labels of {split} ({found.where}) are names in one file and "
            f"numbers in another; "
            "give them the same names"
        )
    rows = TableRows(datasets.concatenate_datasets(images), split, options.size)
    return Given(rows, np.concatenate(values), found.where), list(order), notes
