"""Where a command will write: tried before it works, and nothing is left there by trying."""

import os
import tempfile
from pathlib import Path

from hopmix.lab.errors import UsageError


def need_folder(field: str, folder: Path):
    """Refuse a folder that can neither be written nor made.

    **Raises:** `UsageError`.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{field}: {there} is a file, not a folder; name another folder.")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(f"{field}: {there} can't be written ({error.strerror}); name another folder.") from None


def need_file(field: str, file: Path):
    """Refuse a file that can neither be written nor made; a device or a pipe is one that can.

    **Raises:** `UsageError`.
    """
    if file.is_dir():
        raise UsageError(f"{field}: {file} is a folder, not a file; name a file in it.")
    if not file.exists() or file.is_file():
        need_folder(field, file.resolve().parent)
    elif not os.access(file, os.W_OK):
        raise UsageError(f"{field}: {file} can't be written; name another file.")
