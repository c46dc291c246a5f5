"""The lock: one process at a time reads a study's folder to decide, and writes in it."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hopmix.lab.errors import UsageError
from hopmix.lab.store.files import reason

NAME = ".lock"


@contextlib.contextmanager
def only_writer(out: Path, *, create: bool = True) -> Iterator[None]:
    """Hold a study's folder against other processes; the hold ends with the process, however that
    ends.

    Taken before anything in the folder is read or written; who does not get it changes nothing. A
    folder that was made for it and in which nothing was written is removed again.

    **Arguments:**

    - `out`: the folder.
    - `create`: whether to make it where there is none.

    **Raises:** `UsageError` if another process holds it, or it cannot be made.
    """
    with _out_errors(out):
        if not create and not out.is_dir():
            raise UsageError(
                f"{out}: no study here (study.json is missing); name the folder given to --out."
            )
        missing = [path for path in (out, *out.parents) if not path.exists()]
        descriptor, made = _acquire(out)
    try:
        yield
    finally:
        if made and not (out / "study.json").exists():
            _remove(out, missing)
        os.close(descriptor)


@contextlib.contextmanager
def _out_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise UsageError(
            f"out: another process is writing {out}; wait for it, or name a new folder."
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"out: {out} is a file, or lies in one; name a folder.") from None
    except OSError as error:
        raise UsageError(
            f"out: {out} can't be written ({reason(error)}); name another folder."
        ) from None


def _acquire(out: Path) -> tuple[int, bool]:
    """The descriptor that holds the lock, and whether its file was made for it."""
    while True:
        out.mkdir(parents=True, exist_ok=True)
        made = not (out / NAME).exists()
        descriptor = _open(out / NAME)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(out / NAME, descriptor):
                return descriptor, made
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a file that its last holder removed meanwhile


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        # A finished study on a disk that is read only can still be looked at.
        if error.errno not in (errno.EACCES, errno.EROFS) or not path.is_file():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(out: Path, made: list[Path]):
    """Take the lock's file away, while it is held, and then the folders that were made, as far as
    they are empty.
    """
    with contextlib.suppress(OSError):
        (out / NAME).unlink()
        for folder in made:
            folder.rmdir()
