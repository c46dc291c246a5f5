"""Calls of `datasets`, whose errors become one line and whose noise is kept off."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError
from datasets.utils.logging import get_verbosity, set_verbosity
from huggingface_hub.utils import logging as hub_logging

from hopmix.lab.data.sources.words import reason
from hopmix.lab.errors import UsageError


@contextmanager
def loading(data: str, cure: str = "check its files") -> Iterator[None]:
    """A block in which `datasets` loads something: `UsageError` for whatever it raises there, and
    no logs.

    **Arguments:**

    - `cure`: what the user can do.
    """
    try:
        with _quiet():
            yield
    except (UsageError, MemoryError):
        raise
    # What is not as `datasets`, Arrow and tarfile expect makes them raise errors of all kinds.
    except Exception as error:
        if isinstance(error, DatasetGenerationError) and error.__cause__:
            cause = error.__cause__
        else:
            cause = error
        raise UsageError(f"data = {data!r} cannot be loaded ({reason(cause)}); {cure}") from error
    finally:
        # Arrow has an allocator of its own, which would keep what `datasets` took to convert files.
        pa.default_memory_pool().release_unused()


@contextmanager
def _quiet() -> Iterator[None]:
    """No log of errors that are told anyway, and no progress bars off the terminal."""
    verbosity = get_verbosity()
    hub_verbosity = hub_logging.get_verbosity()
    silence = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if silence:
            datasets.enable_progress_bars()
