"""Bench: how fast hopmix does what it is for, side by side with a peer and with the limit of the
machine.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from hopmix.lab.bench.ablation import bench_study, cost_data, cost_measuring, race_ablation
from hopmix.lab.bench.descent import race_descent
from hopmix.lab.bench.growth import grow, spread_over_devices
from hopmix.lab.bench.machine import describe, measure_limits
from hopmix.lab.bench.memory import cost_memory
from hopmix.lab.bench.mixer import SIZES, Size, race_mixers
from hopmix.lab.bench.peer import Peer, find_peers
from hopmix.lab.bench.race import Limits, Row
from hopmix.lab.bench.start import cost_starting
from hopmix.lab.config import Bench, StudyConfig


@dataclasses.dataclass(frozen=True)
class Benched:
    """All rows so far, the machine's limits (none where sizes are too small for them to mean
    anything), what it is.
    """

    rows: list[Row]
    limits: Limits | None
    machine: dict[str, Any]

    def record(self, options: Bench, command: str, complete: bool) -> dict[str, Any]:
        """The numbers of `hopmix bench` as JSON values."""
        about = {
            "command": command,
            "machine": self.machine,
            "precision": options.precision,
            "quick": options.quick,
        }
        about |= {
            "complete": complete,
            "repetitions": options.repetitions,
            "limits": self.limits and self.limits.record(),
        }
        return about | {"rows": [row.record(self.limits) for row in self.rows]}


def run_bench(
    options: Bench,
    on_progress: Callable[[str], None] = lambda name: None,
    show: Callable[[list[Row], Benched], None] = lambda rows, benched: None,
    keep: Callable[[Benched], None] = lambda benched: None,
) -> Benched:
    """Run the benchmarks that are asked for.

    `on_progress` is told what runs, `show` gets the rows of each benchmark when it is done, and
    `keep` all so far after each row. Raises `UsageError` where the peer does not work, before any
    long work.
    """
    on_progress("the peer")
    about = describe()
    peers = find_peers(options.peer, options.peer_compile, options.precision)
    about |= {"torch": peers[0].torch} if peers and peers[0].torch else {}
    # GPUs multiply float32 in a coarser precision by default, which PyTorch does not.
    exact = jax.default_backend() == "gpu" and options.precision == "float32"
    about |= {"matmul_precision": "float32" if exact else "default"}
    with jax.default_matmul_precision("float32") if exact else contextlib.nullcontext():
        on_progress("the limits of the machine")
        if options.quick:
            limits = None
        else:
            limits = measure_limits(options.precision)
        benched = Benched([], limits, about)
        for name in options.only:
            on_progress(name)
            own = []
            try:
                for row in benchmark(name, options, peers):
                    own.append(row)
                    benched.rows.append(row)
                    keep(benched)
                    on_progress(f"{name}, after {row.name}")
            finally:
                if own:
                    show(own, benched)
        return benched


def benchmark(name: str, options: Bench, peers: Sequence[Peer] = ()) -> Iterator[Row]:
    """The rows of one benchmark, as they are measured."""
    quick = options.quick
    precision = options.precision
    repetitions = options.repetitions
    match name:
        case "step" | "inference":
            yield from race_mixers(
                name, sizes_of(options), options.arms, peers, repetitions, precision
            )
        case "ablation":
            yield from race_ablation(bench_study(quick, precision), peers, repetitions)
        case "descent":
            yield from race_descent(quick, repetitions)
        case "measuring":
            if quick:
                changes = {}
            else:
                changes = {"measurements": StudyConfig.measurements}
            yield from cost_measuring(bench_study(quick, precision, **changes), repetitions)
        case "data":
            yield from cost_data(bench_study(quick, precision), repetitions)
        case "start":
            yield from cost_starting(quick, repetitions)
        case "memory":
            yield from cost_memory(sizes_of(options), options.arms, precision)
        case "growth":
            yield from grow(quick, precision, repetitions)
            yield from spread_over_devices(quick, repetitions)


def sizes_of(options: Bench) -> list[Size]:
    """The mixers that are asked for."""
    sizes = [size for size in SIZES if size.name in options.sizes]
    if options.batch is not None:
        sizes = [s._replace(name=f"{s.name} x {options.batch}", batch=options.batch) for s in sizes]
    if options.quick:
        return [size.quick() for size in sizes]
    return sizes
