"""Files of a folder, and images that are files."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from hopmix.lab.data.sources.decode import Encoded, decode_images
from hopmix.lab.data.sources.source import AbstractRows, Index, Like, Options, Pixels, Size
from hopmix.lab.data.sources.tables import progress
from hopmix.lab.errors import UsageError

CHUNK = 256
"""Images between two steps of the progress bar."""

HIDDEN = ("__MACOSX", "__pycache__")
"""Folders that programs leave and no one looks into."""


@dataclass(frozen=True)
class FileRows(AbstractRows):
    """Images that are files of their own.

    **Arguments:**

    - `root`: the folder that paths count from.
    - `split`: what a progress bar calls them.
    - `size`: what each image is brought to.
    """

    root: Path
    paths: Sequence[PurePath]
    split: str
    size: Size | None = None

    def name(self, row: int) -> str:
        return str(self.root / self.paths[row])

    def read(self, index: Index, like: Like | None = None) -> Pixels:
        return decode_images(self._files(index.tolist()), len(index), like, self.size)

    def _files(self, index: list[int]) -> Iterator[tuple[str, Encoded]]:
        for start in progress(range(0, len(index), CHUNK), f"decoding {self.split}"):
            for row in index[start : start + CHUNK]:
                yield self.name(row), self.name(row)


class Found(NamedTuple):
    """What lies in a folder, by paths in it.

    **Arguments:**

    - `files`: all files, in the order of their names; `folders`: all folders, also those that are
      not entered.
    - `again`: folders that are not entered, for they are read already under another name.
    - `studies`: folders that are not entered, for a study of ours lies there.
    """

    files: list[PurePath]
    folders: list[PurePath]
    again: list[PurePath]
    studies: list[PurePath]


def find_files(folder: Path) -> Found:
    """All files under a folder.

    Hidden files and folders are left out, and folders of studies, whose figures are nobody's data.
    Links are followed, after all that lies in the folder itself; no folder is entered twice.

    **Raises:** `OSError` for a folder that cannot be read.
    """
    found = Found([], [], [], [])
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    for start in waiting:
        for place, folders, names in os.walk(start, onerror=_tell):
            inside = PurePath(place).relative_to(folder)
            status = os.stat(place)
            again = (status.st_dev, status.st_ino) in entered
            entered.add((status.st_dev, status.st_ino))
            study = place != str(folder) and _is_study(folders + names)
            if again or study:
                (found.again if again else found.studies).append(inside)
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            waiting += [
                Path(place) / name for name in folders if os.path.islink(os.path.join(place, name))
            ]
            lost = [name for name in names if _leads_nowhere(Path(place) / name)]
            found.folders.extend(inside / name for name in [*folders, *lost])
            found.files.extend(
                inside / name for name in names if name not in lost and not _is_hidden(name)
            )
    found.files.sort(key=PurePath.as_posix)
    found.folders.sort(key=PurePath.as_posix)
    return found


def _is_study(names: Collection[str]) -> bool:
    """Whether a folder of these names is that of a study of ours."""
    return "study.json" in names and ("metrics.zarr" in names or "checkpoints" in names)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in HIDDEN


def _leads_nowhere(path: Path) -> bool:
    """Whether this is a link that may have been one to a folder."""
    return not path.suffix and not _is_hidden(path.name) and path.is_symlink() and not path.exists()


def _tell(error: OSError):
    raise error


def refuse_columns(data: str, kind: str, options: Options):
    """Raise `UsageError` where columns are named of what has none."""
    for option, column in options.columns.items():
        if column is not None:
            raise UsageError(
                f"{option}: got {column!r}, but data = {data!r} is {kind} without columns; leave "
                f"it out."
            )
