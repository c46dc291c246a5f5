"""The environment that a study or a benchmark ran in, for the record."""

import datetime
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax

import hopmix
from hopmix.lab.runtime.compiler_options import forward_options, once_options, training_options
from hopmix.lab.runtime.memory_allocator import allocator


def environment() -> dict[str, str]:
    """Versions, device, platform and commit, for the record."""
    device = jax.devices()[0]
    return {
        "hopmix": hopmix.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{device.device_kind} ({device.platform}, {len(jax.devices())})",
        "platform": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "allocator": _words(allocator()),
        "compiler_options_training": _words(training_options()),
        "compiler_options_measuring": _words(forward_options()),
        "compiler_options_once": _words(once_options()),
        "commit": _commit(),
    }


def now() -> str:
    """The time, in UTC, to a second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _words(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    folder = Path(hopmix.__file__).parent
    head = subprocess.run(
        [git, "describe", "--always", "--dirty"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() or "unknown"
