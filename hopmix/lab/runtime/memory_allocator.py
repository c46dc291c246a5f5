"""Freed memory kept by the process, so that the next call of a program need not ask the system for
it again.
"""

import ctypes
import gc
import os
import platform

TRIM_THRESHOLD = -1
MMAP_MAX = -4
"""Parameters of `mallopt`, by their numbers in glibc's malloc.h."""

LARGEST = 2**31 - 1
"""Bytes that are kept at the end of the heap: as many as `mallopt` takes."""

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
"""What sets glibc's allocator up when a process starts."""


def keep_memory() -> bool:
    """Let glibc keep what is freed, unless the user has set it up; returns whether it does.

    On CPUs, XLA allocates the arrays within a program anew in each call. glibc gives large ones
    back to the system at once, which clears every page again for the next call: a fifth of the time
    of inference. Other C libraries stay as they are, and so does a process in whose environment one
    of `VARIABLES` is set (`MALLOC_MMAP_MAX_=65536` is the default of glibc, and switches this off).
    Processes that are started later inherit it, a peer among them.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(LARGEST)}
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, LARGEST))


def release_memory():
    """Give what is free back to the system: what compiling leaves behind is not needed again.

    What is still there is taken to stay: later collections of garbage leave it alone, which would
    otherwise spend a tenth of the time of drawing a page on what JAX has traced. Only for a process
    of hopmix's own.
    """
    gc.collect()
    gc.freeze()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def allocator() -> dict[str, str]:
    """How the allocator of this process was set up, for the record."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
