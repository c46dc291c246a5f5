"""A CSV file with a column of paths of images and a column of labels."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from hopmix.lab.data.sources.columns import LABELS, need_columns
from hopmix.lab.data.sources.decode import suffixes
from hopmix.lab.data.sources.files import FileRows
from hopmix.lab.data.sources.labels import refuse_missing
from hopmix.lab.data.sources.source import Given, Options, Source, make_source
from hopmix.lab.data.sources.splits import (
    named_splits,
    note_on_column,
    note_on_names,
    split_column,
    split_of,
)
from hopmix.lab.data.sources.words import list_names, reason
from hopmix.lab.errors import UsageError

DELIMITERS = ",;\t|"


class Row(NamedTuple):
    """The cells of a row by their columns, and the line of the file at which it ends."""

    line: int
    cells: dict[str, str]


class Chosen(NamedTuple):
    """The columns that are read; `split` is `None` where there is none."""

    image: str
    label: str
    split: str | None


def open_path_list(data: str, path: Path, options: Options) -> Source:
    """The images that a CSV file names; paths count from its folder.

    A column `split` divides them, where everything in it is a split's name.

    **Raises:** `UsageError` for a file that is no such table, columns that are not clear, and paths
    without a file.
    """
    rows = _read(data, path)
    columns = list(rows[0].cells)
    need_columns(data, columns, options)
    image = options.image_column or _image_column(data, path.parent, rows)
    label = options.label_column or _label_column(data, columns, image)
    split = split_column(name for name in columns if name not in (image, label))
    _check_rows(data, path.parent, rows, image, label)
    chosen = Chosen(image, label, split)
    if split is None:
        names = None
    else:
        names = named_splits(data, dict.fromkeys(row.cells[split] for row in rows))
    if names is None:
        groups = {"train": rows}
    else:
        groups = _of_splits(rows, chosen, names)
    given = {}
    for name, members in groups.items():
        paths = [PurePath(row.cells[image]) for row in members]
        values = np.asarray([row.cells[label] for row in members], str)
        if names is None:
            where = path.name
        else:
            where = f"rows of {path.name} with the split {names[name]}"
        given[name] = Given(FileRows(path.parent, paths, name, options.size), values, where)
    notes = _notes(rows, chosen, names)
    return make_source(data, path.stem, f"the local file {data}", given, notes=notes, columns=True)


def _read(data: str, path: Path) -> list[Row]:
    """The rows, without the blanks around their cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            lines = csv.reader(
                file,
                delimiter=max(DELIMITERS, key=header.count),
                strict=True,
                skipinitialspace=True,
            )
            listed = [
                (lines.line_num, [cell.strip() for cell in cells]) for cells in lines if cells
            ]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(
            f"data = {data!r} is no readable CSV file ({reason(error)}); mend it"
        ) from error
    if len(listed) < 2:
        raise UsageError(f"data = {data!r} has no rows below its header; add some")
    names = listed[0][1]
    _check_header(data, path.parent, names)
    for line, cells in listed[1:]:
        if len(cells) != len(names):
            raise UsageError(
                f"data = {data!r}: line {line} has not as many cells as the header has; mend it"
            )
    return [Row(line, dict(zip(names, cells))) for line, cells in listed[1:]]


def _check_header(data: str, root: Path, names: list[str]):
    paths = [name for name in names if _names_image(root, name)]
    if paths:
        raise UsageError(
            f"data = {data!r} has no header: its first line names {paths[0]!r}; put names of "
            f"columns above"
        )
    counts = Counter(name.casefold() if split_column([name]) else name for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UsageError(
            f"data = {data!r} has several columns called {twice[0]!r}; rename all but one"
        )


def _image_column(data: str, root: Path, rows: list[Row]) -> str:
    found = [name for name, text in rows[0].cells.items() if _names_image(root, text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"data = {data!r} has paths in {list_names(found)}; choose one with --image-column"
        )
    raise UsageError(
        f"data = {data!r}: no cell of its first row ({list_names(rows[0].cells.values())}) is "
        f"the path of an image, "
        "counted from the folder of the file; mend the paths or choose their column with "
        "--image-column"
    )


def _names_image(root: Path, text: str) -> bool:
    return PurePath(text).suffix.lower() in suffixes() and _is_file(root / text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _label_column(data: str, columns: Sequence[str], image: str) -> str:
    others = [name for name in columns if name != image and not split_column([name])]
    named = [name for name in others if name.casefold() in LABELS]
    found = named or others
    if len(found) != 1:
        raise UsageError(
            f"data = {data!r} may have its labels in any of {list_names(found)}; choose one with "
            f"--label-column"
            if found
            else f"data = {data!r} has no column of labels beside {image!r}; add one"
        )
    return found[0]


def _check_rows(data: str, root: Path, rows: list[Row], image: str, label: str):
    labels = np.asarray([row.cells[label] for row in rows], str)
    refuse_missing(data, labels, lambda number: f"line {rows[number].line}")
    for row in rows:
        if not _is_file(root / row.cells[image]):
            raise UsageError(
                f"data = {data!r}: line {row.line} names {row.cells[image]!r}, but there is no "
                f"such file; mend it"
            )


def _of_splits(rows: list[Row], chosen: Chosen, names: dict[str, str]) -> dict[str, list[Row]]:
    assert chosen.split is not None
    return {
        split: [row for row in rows if row.cells[chosen.split] == name]
        for split, name in names.items()
    }


def _notes(rows: list[Row], chosen: Chosen, names: dict[str, str] | None) -> list[str]:
    """What names splits and is not used."""
    used = (chosen.image, chosen.label, chosen.split if names else None)
    notes = []
    for column in rows[0].cells:
        if column not in used:
            notes += note_on_column(column, [row.cells[column] for row in rows])
    folders = {
        part
        for row in rows
        for part in PurePath(row.cells[chosen.image]).parts[:-1]
        if split_of(part)
    }
    if names is None and len({split_of(name) for name in folders}) > 1:
        notes += note_on_names(
            "paths in the folders", sorted(folders), "to use these, add a column 'split'"
        )
    return notes
