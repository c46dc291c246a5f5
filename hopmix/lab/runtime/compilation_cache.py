"""Compiled programs kept on disk, so that the same study starts at once the next time."""

import os
import tempfile
from pathlib import Path

import jax

LARGEST = 2**30
"""Bytes that the cache may take before the programs used longest ago are removed."""

SHORTEST = 0.2
"""Seconds that compiling must have taken for a program to be kept."""


def use_compilation_cache():
    """Let JAX keep what it compiles, unless the user has chosen a folder or switched the cache off.

    The folder is `hopmix/compiled` in the user's cache; JAX's own `JAX_COMPILATION_CACHE_DIR` names
    another one, and `JAX_ENABLE_COMPILATION_CACHE=false` switches it off. A program is found again
    by what it computes, the compiler's version and options, and the hardware: results are the same
    with and without the cache.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:  # pyright: ignore
        return
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):  # a user without a name or a home
        return
    folder = Path(caches) / "hopmix" / "compiled"
    if not _is_writable(folder):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder; JAX would warn of each program that it can't keep."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
