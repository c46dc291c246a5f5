"""Files of a folder, and images that are files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from hopmix.lab.data.sources.decode import Encoded, decode_images
from hopmix.lab.data.sources.source import AbstractRows, Index, Like, Options, Pixels, Size
from hopmix.lab.data.sources.tables import progress
from hopmix.lab.errors import UsageError

CHUNK = 256
"""Images between two steps of the progress bar."""


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


def find_files(folder: Path) -> list[PurePath]:
    """All files under a folder, by their paths in it, in the order of their names.

    Hidden files and folders are left out; links are followed, but no folder is entered twice.

    **Raises:** `OSError` for a folder that cannot be read.
    """
    found: list[PurePath] = []
    entered: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=_tell, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = PurePath(place).relative_to(folder)
        found += [inside / name for name in names if not name.startswith(".")]
    return sorted(found, key=PurePath.as_posix)


def _tell(error: OSError):
    raise error


def refuse_columns(data: str, kind: str, options: Options):
    """Raise `UsageError` where columns are named of what has none."""
    for option, column in options.columns.items():
        if column is not None:
            raise UsageError(f"{option}: got {column!r}, but data = {data!r} is {kind} without columns; leave it out.")
