"""A race: two contenders timed in turn, A B A B, and the row of numbers that comes out."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

Contender = Callable[[], float]
"""Runs once and returns its milliseconds, without what it costs to compile."""


class Work(NamedTuple):
    """What must be done at least: floating-point operations, and bytes that matrix products read
    and write.
    """

    flops: float
    bytes: float


class Limits(NamedTuple):
    """What the machine can do: operations and bytes per second, and the noise of either, (max -
    min) / median.
    """

    flops: float
    bandwidth: float
    noise: float
    bandwidth_noise: float

    def record(self) -> dict[str, float]:
        """As JSON values."""
        return dict(
            zip(("flops_per_s", "bytes_per_s", "flops_noise", "bytes_noise"), self, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured line.

    - `benchmark`, `name`: what was measured; `against`: with what it was compared, or "".
    - `hopmix`, `other`: the numbers of each repetition, in `unit`; equally many, or none of the
      other.
    - `race`: whether hopmix loses where the ratio is above 1; a cost or a growth is only told.
    - `work`: what had to be done, where it is known.
    - `note`: what else came out.
    """

    benchmark: str
    name: str
    hopmix: tuple[float, ...]
    against: str = ""
    other: tuple[float, ...] = ()
    unit: str = "ms"
    race: bool = True
    work: Work | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of hopmix."""
        return statistics.median(self.hopmix)

    @property
    def other_median(self) -> float | None:
        """The median of the other."""
        if self.other:
            return statistics.median(self.other)
        return None

    @property
    def ratios(self) -> tuple[float, ...]:
        """hopmix / other of each pair; below 1 hopmix takes less."""
        if self.other:
            return tuple(a / b for a, b in zip(self.hopmix, self.other, strict=True))
        return ()

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of the pairs."""
        if self.other:
            return statistics.median(self.ratios)
        return None

    @property
    def loses(self) -> bool:
        """Whether hopmix is beaten."""
        return self.race and self.ratio is not None and self.ratio > 1

    @property
    def wins(self) -> bool:
        """Whether hopmix takes less in every pair."""
        return self.race and bool(self.other) and max(self.ratios) < 1

    @property
    def undecided(self) -> bool:
        """Whether hopmix is ahead, but not in every pair."""
        return self.race and bool(self.other) and not (self.wins or self.loses)

    def shares(self, limits: Limits | None) -> tuple[float, float] | None:
        """The share that is reached of the matrix-product peak, and of the memory bandwidth."""
        if self.work is None or limits is None:
            return None
        seconds = self.median / 1e3
        return (
            self.work.flops / seconds / limits.flops,
            self.work.bytes / seconds / limits.bandwidth,
        )

    def record(self, limits: Limits | None) -> dict[str, Any]:
        """The row as JSON values."""
        values = dataclasses.asdict(self) | {
            "work": None if self.work is None else self.work._asdict()
        }
        values |= {
            "hopmix_median": self.median,
            "other_median": self.other_median,
            "ratio": self.ratio,
        }
        values |= {
            "spread": [min(self.ratios), max(self.ratios)] if self.ratios else None,
            "loses": self.loses,
        }
        peak, bandwidth = self.shares(limits) or (None, None)
        return values | {"share_of_peak": peak, "share_of_bandwidth": bandwidth}


def in_turn(contenders: Sequence[Contender], repetitions: int) -> list[tuple[float, ...]]:
    """The milliseconds of each contender, all of them once in every repetition."""
    rounds = [[contender() for contender in contenders] for _ in range(repetitions)]
    return list(zip(*rounds, strict=True))


def timed(function: Callable[..., Any], *arguments: Any, times: int = 1) -> Contender:
    """A contender that calls a function so often, and waits each time: calls that do not depend on
    each other may run at once. The call that compiles is made here."""
    jax.block_until_ready(function(*arguments))

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(function(*arguments))
        return 1e3 * (time.perf_counter() - begin) / times

    return run
