"""Where compiled programs are kept, and that nothing is said where they can't be."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax
from hopmix.lab.runtime.compilation_cache import use_compilation_cache
use_compilation_cache()
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("is_folder", [True, False])
def test_programs_are_kept_where_files_can_be_made(tmp_path, is_folder):
    caches = tmp_path / "caches"
    if not is_folder:
        caches.touch()
    names = {
        name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"
    }
    environment = names | {"XDG_CACHE_HOME": str(caches)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == (str(caches / "hopmix" / "compiled") if is_folder else "None")
    assert run.stderr == ""
