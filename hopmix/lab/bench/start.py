"""How soon a study starts, with an empty and with a filled cache of compiled programs.

`python -m hopmix.lab.bench.start '{"arms": ["free"]}'` makes one start and prints its times as
JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from hopmix.lab.bench.race import Row

QUICK = {"arms": ("free",), "seeds": 1, "dim": 8, "depth": 1, "spectra_every": 0}
"""A study that shows that everything runs."""

IMPORTS = """
import time
begin = time.perf_counter()
import jax, equinox, optax
middle = time.perf_counter()
import hopmix
print(time.perf_counter() - middle, middle - begin)
"""


def start_study(config: dict[str, Any]) -> dict[str, float]:
    """Prepare, compile and measure a study, as before its first step; the milliseconds of
    compiling.
    """
    from hopmix.lab.config import StudyConfig
    from hopmix.lab.runtime.compilation_cache import use_compilation_cache
    from hopmix.lab.runtime.memory_allocator import keep_memory
    from hopmix.lab.study import study as lab_study

    use_compilation_cache()
    keep_memory()
    study = lab_study.prepare(StudyConfig.from_json(config))
    states = [group.initial() for group in study.populations]
    begin = time.perf_counter()
    lab_study.compile_all(study, states, study.dataset)
    compiled = 1e3 * (time.perf_counter() - begin)
    lab_study.advance(study, states, -1)
    return {"compile": compiled}


def cost_starting(quick: bool, repetitions: int) -> Iterator[Row]:
    """Starts of the default study, each pair with a cache of its own; and what `import hopmix`
    adds.
    """
    pairs = [_start_twice(QUICK if quick else {}) for _ in range(repetitions)]
    first = [pair[0] for pair in pairs]
    second = [pair[1] for pair in pairs]
    column = lambda starts, name: tuple(start[name] for start in starts)
    row = partial(Row, "start", race=False)
    yield row("compile, empty cache", column(first, "compile"))
    yield row(
        "compile, filled cache", column(second, "compile"), "empty cache", column(first, "compile")
    )
    yield row("to the first step, empty cache", column(first, "wall"))
    yield row(
        "to the first step, filled cache",
        column(second, "wall"),
        "empty cache",
        column(first, "wall"),
    )
    ours, theirs = zip(*(_import() for _ in range(repetitions)), strict=True)
    yield row("import hopmix, beyond:", ours, "jax, equinox, optax", theirs)


def _start_twice(config: dict[str, Any]) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="hopmix-bench-") as folder:
        # The cache of `hopmix ablate` itself, in another place.
        ignored = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
        environment = {k: v for k, v in os.environ.items() if k not in ignored} | {
            "XDG_CACHE_HOME": folder
        }
        return [_start(config, environment) for _ in range(2)]


def _start(config: dict[str, Any], environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "hopmix.lab.bench.start", json.dumps(config)]
    begin = time.perf_counter()
    printed = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    wall = 1e3 * (time.perf_counter() - begin)
    return json.loads(printed.splitlines()[-1]) | {"wall": wall}


def _import() -> tuple[float, float]:
    command = [sys.executable, "-c", IMPORTS]
    ours, theirs = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    return 1e3 * float(ours), 1e3 * float(theirs)


if __name__ == "__main__":
    print(json.dumps(start_study(json.loads(sys.argv[1]))))
