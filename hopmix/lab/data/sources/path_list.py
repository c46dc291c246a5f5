"""A CSV file with a column of paths of images and a column of labels."""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from hopmix.lab.data.sources.columns import LABELS, need_columns
from hopmix.lab.data.sources.decode import suffixes
from hopmix.lab.data.sources.files import FileRows
from hopmix.lab.data.sources.source import Given, Options, Source, make_source
from hopmix.lab.data.sources.splits import named_splits, split_of
from hopmix.lab.data.sources.words import list_names, reason
from hopmix.lab.errors import UsageError

DELIMITERS = ",;\t|"
SPLIT_COLUMN = "split"

Row = dict[str, str]


def open_path_list(data: str, path: Path, options: Options) -> Source:
    """The images that a CSV file names; paths count from its folder.

    A column `split` divides them, where everything in it is a split's name.

    **Raises:** `UsageError` for a file that is no such table, columns that are not clear, and paths without a file.
    """
    rows = _read(data, path)
    columns = list(rows[0])
    need_columns(data, columns, options)
    image = options.image_column or _image_column(data, path.parent, rows)
    label = options.label_column or _label_column(data, columns, image)
    _check_rows(data, path.parent, rows, image, label)
    groups, notes = _by_split(data, rows, (image, label))
    given = {}
    for split, chosen in groups.items():
        paths = [PurePath(row[image].strip()) for row in chosen]
        values = np.asarray([row[label].strip() for row in chosen], str)
        where = path.name if len(groups) == 1 else f"rows of {path.name} with the split {chosen[0][SPLIT_COLUMN]}"
        given[split] = Given(FileRows(path.parent, paths, split, options.size), values, where)
    return make_source(data, path.stem, f"the local file {data}", given, notes=notes)


def _read(data: str, path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            rows = list(csv.DictReader(file, delimiter=delimiter, strict=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"data = {data!r} is no readable CSV file ({reason(error)}); mend it") from error
    if not rows:
        raise UsageError(f"data = {data!r} has no rows below its header; add some")
    names = [name for name in rows[0] if name is not None and _names_image(path.parent, name.strip())]
    if names:
        raise UsageError(
            f"data = {data!r} has no header: its first line names {names[0]!r}; put names of columns above"
        )
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise UsageError(f"data = {data!r}: row {number} has not as many cells as the header has; mend it")
    return rows


def _image_column(data: str, root: Path, rows: list[Row]) -> str:
    found = [name for name, text in rows[0].items() if _names_image(root, text.strip())]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"data = {data!r} has paths in {list_names(found)}; choose one with --image-column")
    raise UsageError(
        f"data = {data!r}: no cell of its first row ({list_names(rows[0].values())}) is the path of an image, counted "
        "from the folder of the file; mend the paths or choose their column with --image-column"
    )


def _names_image(root: Path, text: str) -> bool:
    return PurePath(text).suffix.lower() in suffixes() and _is_file(root / text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _label_column(data: str, columns: Sequence[str], image: str) -> str:
    others = [name for name in columns if name not in (image, SPLIT_COLUMN)]
    named = [name for name in others if name.strip().lower() in LABELS]
    found = named or others
    if len(found) != 1:
        raise UsageError(
            f"data = {data!r} may have its labels in any of {list_names(found)}; choose one with --label-column"
            if found
            else f"data = {data!r} has no column of labels beside {image!r}; add one"
        )
    return found[0]


def _check_rows(data: str, root: Path, rows: list[Row], image: str, label: str):
    for number, row in enumerate(rows):
        if not row[label].strip():
            raise UsageError(f"data = {data!r}: row {number} has no label; remove such rows")
        if not _is_file(root / row[image].strip()):
            raise UsageError(f"data = {data!r}: row {number} names {row[image]!r}, but there is no such file; mend it")


def _by_split(data: str, rows: list[Row], taken: tuple[str, str]) -> tuple[dict[str, list[Row]], list[str]]:
    if SPLIT_COLUMN not in rows[0] or SPLIT_COLUMN in taken:
        return {"train": rows}, []
    names = named_splits(data, dict.fromkeys(row[SPLIT_COLUMN].strip() for row in rows))
    if names is None:
        other = next((row[SPLIT_COLUMN] for row in rows if not split_of(row[SPLIT_COLUMN].strip())), "one name only")
        return {"train": rows}, [f"column 'split' is not read: it has {other!r}, which makes no split"]
    groups = {split: [row for row in rows if row[SPLIT_COLUMN].strip() == name] for split, name in names.items()}
    return groups, []
