"""Bench: how fast hopmix does what it is for, side by side with a peer and with the limit of the machine."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hopmix.lab._bench_ablation import bench_study, cost_data, cost_measuring, race_ablation
from hopmix.lab._bench_descent import race_descent
from hopmix.lab._bench_growth import grow, spread_over_devices
from hopmix.lab._bench_machine import describe, measure_limits
from hopmix.lab._bench_memory import cost_memory
from hopmix.lab._bench_mixer import SIZES, Size, race_mixers
from hopmix.lab._bench_peer import Peer, find_peers
from hopmix.lab._bench_race import Limits, Row
from hopmix.lab._bench_start import cost_starting
from hopmix.lab.config import Bench, StudyConfig


@dataclasses.dataclass(frozen=True)
class Benched:
    """All rows, the machine's limits, and what it is."""

    rows: list[Row]
    limits: Limits
    machine: dict[str, Any]

    def record(self, options: Bench, command: str) -> dict[str, Any]:
        """The numbers of `hopmix bench` as JSON values."""
        about = {"command": command, "machine": self.machine, "precision": options.precision, "quick": options.quick}
        limits = {"flops_per_s": self.limits.flops, "bytes_per_s": self.limits.bandwidth}
        about |= {"repetitions": options.repetitions, "limits": limits, "noise": self.limits.noise}
        return about | {"rows": [row.record(self.limits) for row in self.rows]}


def run_bench(
    options: Bench,
    watch: Callable[[str], None] = lambda name: None,
    show: Callable[[list[Row], Limits], None] = lambda rows, limits: None,
) -> Benched:
    """Run the benchmarks that are asked for; `watch` is told what runs, `show` gets the rows of each when it is done.

    Raises `UsageError` where the peer does not work, before any long work.
    """
    watch("the peer")
    peers = find_peers(options.peer, options.peer_compile, options.precision)
    watch("the limits of the machine")
    limits = measure_limits(options.precision, options.quick)
    rows = []
    for name in options.only:
        watch(name)
        own = []
        for row in benchmark(name, options, peers):
            own.append(row)
            watch(f"{name}, after {row.name}")
        show(own, limits)
        rows += own
    return Benched(rows, limits, describe(peers[0].torch if peers else None))


def benchmark(name: str, options: Bench, peers: Sequence[Peer] = ()) -> Iterator[Row]:
    """The rows of one benchmark, as they are measured."""
    quick, precision, repetitions = options.quick, options.precision, options.repetitions
    match name:
        case "step" | "inference":
            yield from race_mixers(name, sizes_of(options), options.arms, peers, repetitions, precision)
        case "ablation":
            yield from race_ablation(bench_study(quick, precision), peers, repetitions)
        case "descent":
            yield from race_descent(quick, repetitions)
        case "measuring":
            changes = {} if quick else {"measurements": StudyConfig.measurements}
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
        sizes = [size._replace(batch=options.batch) for size in sizes]
    return [size.quick() for size in sizes] if options.quick else sizes
