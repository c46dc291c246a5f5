"""A folder of images: one folder for each class, with or without those of splits above them.

The first level of folders are splits where every one that holds images has a split's name (see
`splits`), and otherwise they are classes, whatever words are in their names. A class is the folder
directly under the folder, or under the split; what lies deeper belongs to it.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from hopmix.lab.data.sources.files import FileRows, Found, refuse_columns
from hopmix.lab.data.sources.left_over import left_over, refuse_empty_splits
from hopmix.lab.data.sources.source import Given, Options, Source, make_source
from hopmix.lab.data.sources.splits import named_splits, split_of
from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError

LISTS = (".csv", ".tsv")


def open_image_folder(
    data: str, folder: Path, images: Sequence[PurePath], found: Found, options: Options
) -> Source:
    """The images of a folder, labelled by the names of their folders.

    **Arguments:**

    - `images`: their paths in the folder; `found`: all that lies there.

    **Raises:** `UsageError` where there are no classes, for empty splits, and for the names of
    columns.
    """
    refuse_columns(data, "a folder of images", options)
    refuse_empty_splits(data, found, images)
    lists = [path for path in found.files if path.suffix.lower() in (*LISTS, ".json", ".jsonl")]
    first = list(dict.fromkeys(path.parts[0] for path in images if len(path.parts) > 1))
    names = named_splits(data, first)
    depth = 1 if names is None else 2
    labelled = [path for path in images if len(path.parts) > depth]
    if not labelled:
        raise UsageError(_no_classes(data, names, lists))
    if names is None:
        groups = {"train": labelled}
    else:
        groups = _of_splits(data, names, labelled)
    given = {}
    for split, paths in groups.items():
        values = np.asarray(
            [unicodedata.normalize("NFC", path.parts[depth - 1]) for path in paths], str
        )
        where = "all folders" if names is None else f"folder {names[split]}"
        given[split] = Given(FileRows(folder, paths, split, options.size), values, where)
    notes = [*_left_out(images, labelled), *_no_splits(first, names), *_not_read(lists)]
    notes += left_over(found, [*images, *lists])
    return make_source(data, folder.name, f"the local folder {data}", given, notes=notes)


def _of_splits(
    data: str, names: dict[str, str], labelled: Sequence[PurePath]
) -> dict[str, list[PurePath]]:
    groups = {
        split: [path for path in labelled if path.parts[0] == name] for split, name in names.items()
    }
    empty = [names[split] for split, paths in groups.items() if not paths]
    if empty:
        raise UsageError(
            f"data = {data!r}: the images of {list_names(empty)} lie in no class folder; put "
            f"those of each class into "
            "a folder of its own there"
        )
    return groups


def _no_classes(data: str, names: dict[str, str] | None, lists: Iterable[PurePath]) -> str:
    named = [str(path) for path in lists if path.suffix.lower() in LISTS]
    if named:
        cure = f"; if their labels stand in {named[0]!r}, give that file"
    else:
        cure = ""
    place = "there" if names is None else "in the folder of its split"
    return (
        f"data = {data!r} has images, but no labels: they lie in no class folder; put those of "
        f"each class into a "
        f"folder of its own {place}{cure}"
    )


def _left_out(images: Sequence[PurePath], labelled: Sequence[PurePath]) -> list[str]:
    kept = set(labelled)
    left = [str(path) for path in images if path not in kept]
    if not left:
        return []
    return [
        f"left out: {len(left):,} of {len(images):,} images, which lie in no class folder: "
        f"{list_names(left, 3)}"
    ]


def _no_splits(first: Iterable[str], names: dict[str, str] | None) -> list[str]:
    alike = [name for name in first if split_of(name)]
    if names is not None or not alike:
        return []
    return [
        f"folders {list_names(alike)} are classes here, no splits: not every folder has a "
        f"split's name"
    ]


def _not_read(lists: Sequence[PurePath]) -> list[str]:
    if lists:
        return [f"not read: {list_names(map(str, lists), 3)}; labels are the names of folders"]
    return []
