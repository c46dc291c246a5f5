"""Files: each is always either the old or the new one, whatever ends the process that writes it."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hopmix.lab.errors import UsageError

_LONGEST = 100
"""Bytes of a file's name that stand in the name of its temporary: no file system takes names of
more than 255.
"""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    A link stays, and what it points to is replaced; permissions stay as they are.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    name = os.fsencode(path.name)[:_LONGEST].decode(errors="ignore")
    return f".{name}.hopmix-"


def _remove_stale(path: Path):
    """Remove the temporaries of `path` whose writers were killed."""
    name = re.compile(re.escape(_prefix(path)) + r"(\d+)-[0-9a-f]{8}")
    for other in path.parent.iterdir():
        found = name.fullmatch(other.name)
        if found and not _is_alive(int(found[1])):
            other.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def flush(path: Path):
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that do not flush folders
            raise
    finally:
        os.close(descriptor)


def flush_all(folder: Path):
    """Wait until a folder with all that is in it is on the disk."""
    paths = [folder, *folder.rglob("*")]
    # Many at a time: the disk takes them together.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(flush, paths))


def set_aside(out: Path, path: Path) -> Path:
    """Move what is damaged out of the way, into the folder `damaged`; returns where it is now."""
    place = out / "damaged" / f"{path.name}-{uuid.uuid4().hex[:8]}"
    place.parent.mkdir(exist_ok=True)
    path.rename(place)
    return place


def write_json(path: Path, value: Any):
    """Write a value as JSON: atomically, or straight into what is no ordinary file, such as a pipe
    or /dev/stdout.
    """
    text = _json(value)
    stream = _stream(path)
    if stream is not None:
        _write_into(stream, text)
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _json(value: Any) -> str:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # names of files may hold bytes that are no UTF-8
        text = json.dumps(value, indent=1)
    return text + "\n"


def _stream(path: Path) -> Path | int | None:
    """What is written to directly: a descriptor of this process, a device or a pipe; `None` for
    ordinary files.
    """
    # Opened by its name, a file that the output goes to would be written from its beginning.
    found = re.fullmatch(r"/(?:dev|proc/self)/(?:(stdout)|(stderr)|fd/(\d+))", str(path.absolute()))
    if found:
        if found[1]:
            return 1
        return 2 if found[2] else int(found[3])
    special = path.exists() and not path.is_file() and not path.is_dir()
    if special:
        return path
    return None


def _write_into(stream: Path | int, text: str):
    sys.stdout.flush()
    with open(stream, "w", encoding="utf-8", closefd=not isinstance(stream, int)) as file:
        file.write(text)


def require_target(field: str, path: Path):
    """Raise `UsageError` unless a file can be written under this name."""
    try:
        if _stream(path) is not None:
            return
        if path.is_dir():
            raise UsageError(f"{field}: {path} is a folder, not a file; name a file in it.")
        require_folder(field, path.resolve().parent)
        path.exists()  # an over-long name
        if path.is_file() and not os.access(path, os.W_OK):
            raise UsageError(f"{field}: {path} is write-protected; name another file.")
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{field}: {path} can't be written ({reason(error)}); name another file."
        ) from None


OWN = {
    "study.json",
    "results.json",
    ".report.json",
    "checkpoints",
    "metrics.zarr",
    ".metrics",
    "damaged",
}
"""What a study's folder holds of JSON files that are not the user's."""


def require_json_target(field: str, path: Path):
    """Raise `UsageError` for a file that numbers must not be written over: of a study, or one that
    holds no JSON.
    """
    place = path.resolve()
    for folder in place.parents:
        if (folder / "study.json").is_file() and place.relative_to(folder).parts[0] in OWN:
            raise UsageError(
                f"{field}: {path} belongs to the study in {folder}; name another file."
            )
    if not place.is_file() or _stream(path) is not None:
        return
    try:
        json.loads(place.read_text(encoding="utf-8") or "{}")
    except (ValueError, RecursionError):
        raise UsageError(
            f"{field}: {path} is there and holds something else than JSON; name another file."
        ) from None


def require_folder(field: str, folder: Path):
    """Raise `UsageError` unless files can be made in this folder, or in what it would be made in;
    nothing is left.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{field}: {there} is a file, not a folder; name another folder.")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(
            f"{field}: {there} can't be written ({reason(error)}); name another folder."
        ) from None


def reason(error: BaseException) -> str:
    """Why something failed, in one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0][:120]
    return type(error).__name__


def read_json(path: Path) -> Any:
    """The value of a JSON file; `UsageError` where it is missing, can't be read or is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent}: no study here ({path.name} is missing); name the folder given to "
            f"--out."
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path}: can't be read ({reason(error)}); mend that and try again."
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(
            f"{path}: damaged, it is not JSON; restore it, or start anew under another name."
        ) from None


def digest(value: Any) -> str:
    """A hash of a JSON value, whatever the order of its fields."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def file_digests(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """A hash of each file, by its path within the folder."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(paths)}


def require_space(out: Path, needed: int):
    """Raise `UsageError` unless the disk of a folder has room for so many bytes."""
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UsageError(
            f"out: {parent} has {free / 1e6:.0f} MB free, the study needs {needed / 1e6:.0f} MB; "
            f"free some."
        )


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return any(
        isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of the device, was not enough."""
    return any(_says_memory(e) for e in causes(error))


def _says_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # XLA and TensorStore have no kind of error of their own for it.
    return isinstance(error, MemoryError) or any(
        word in str(error) for word in ("RESOURCE_EXHAUSTED", "bad_alloc")
    )


def raise_if_unreadable(path: Path, error: Exception):
    """What can't be read now may be whole: raise what says so, and return where an error may mean
    damage.
    """
    if is_out_of_memory(error):
        raise error
    for cause in causes(error):
        if isinstance(cause, OSError) and not isinstance(
            cause, FileNotFoundError | NotADirectoryError
        ):
            told = f"{path}: can't be read ({reason(cause)}), and is kept; mend that and try again."
            raise UsageError(told) from None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it arose from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
