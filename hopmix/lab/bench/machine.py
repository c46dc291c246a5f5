"""The machine that benchmarks run on: what it is, and the fastest that it multiplies matrices and
moves memory.
"""

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from hopmix.lab.bench.race import Contender, Limits, timed
from hopmix.lab.runtime.environment import environment

AT_ONCE = 4
"""Matrix products, or copies, in a row, so that starting them costs nothing beside them."""


def measure_limits(
    precision: str, repetitions: int = 8, side: int | None = None, length: int = 2**26
) -> Limits:
    """The peak of large matrix products in a precision, and the bandwidth of a large copy; of each
    the best time.
    """
    side = side or (2048 if jax.default_backend() == "cpu" else 8192)
    a = jr.normal(jr.key(0), (side, side), jnp.float32).astype(precision) / side**0.5
    product = jax.jit(lambda a: jax.lax.fori_loop(0, AT_ONCE, lambda _, b: a @ b, a))
    multiply = timed(product, a)
    move = _mover(length)
    products = [multiply() / AT_ONCE for _ in range(repetitions)]
    moves = [move() / AT_ONCE for _ in range(repetitions)]
    noise = lambda times: (max(times) - min(times)) / statistics.median(times)
    flops = 2 * side**3 / min(products) * 1e3
    bandwidth = 2 * 4 * length / min(moves) * 1e3
    return Limits(flops, bandwidth, noise(products), noise(moves))


def _mover(length: int) -> Contender:
    """A contender that reads and writes an array in place: new memory would cost more than the way
    there.
    """
    shift = jax.jit(
        lambda x: jax.lax.fori_loop(0, AT_ONCE, lambda _, x: x + 1, x), donate_argnums=0
    )
    held = [shift(jnp.zeros(length, jnp.float32))]

    def run() -> float:
        begin = time.perf_counter()
        held[0] = jax.block_until_ready(shift(held[0]))
        return 1e3 * (time.perf_counter() - begin)

    return run


def describe() -> dict[str, Any]:
    """Machine, versions and commit, for the record."""
    return environment() | {"jaxlib": version("jaxlib"), "cpu": cpu_model(), "cores": cores()}


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
