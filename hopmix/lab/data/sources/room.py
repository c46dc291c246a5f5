"""Whether images fit into memory, asked before they are given any."""

import os
from pathlib import Path

from hopmix.lab.errors import UsageError

COPIES = 2
"""Training keeps images on the host and on the device."""


FLOAT = 4
"""Bytes of a pixel in a training step."""


def require_room(count: int, shape: tuple[int, int, int], batch: int = 0):
    """Raise `UsageError` unless images fit into memory.

    **Arguments:**

    - `count`: how many there are; `shape`: height, width and colours of each.
    - `batch`: how many of them a training step takes as floating-point numbers.
    """
    pixels = shape[0] * shape[1] * shape[2]
    needed = COPIES * count * pixels
    needed_in_step = FLOAT * batch * pixels
    free = free_memory()
    if free is None or needed + needed_in_step <= free:
        return
    size = " x ".join(str(length) for length in shape)
    if batch:
        step = f" and a batch of {batch:,} another {_gigabytes(needed_in_step)}"
    else:
        step = ""
    raise UsageError(
        f"data: {count:,} images of {size} take {_gigabytes(needed)}{step}, but "
        f"{_gigabytes(free)} of memory are free; "
        "make them smaller with --resize"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def free_memory() -> int | None:
    """Bytes that a program may still ask for; `None` where the system doesn't tell."""
    limits = [_available(), _limit_of_group()]
    told = [limit for limit in limits if limit is not None]
    if told:
        return min(told)
    return None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return _physical()
    kibibytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if kibibytes:
        return 1024 * kibibytes[0]
    return _physical()


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _limit_of_group() -> int | None:
    """What the control group of a container may have in all."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))
    except (OSError, ValueError):  # no control group, or "max"
        return None
