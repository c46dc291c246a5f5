"""How cost grows with tokens, width, depth and members, and over devices.

`python -m hopmix.lab.bench.growth '{"seeds": 8}' '[1, 2]' 3` trains a population over devices and
prints JSON.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hopmix.lab.bench.ablation import training
from hopmix.lab.bench.mixer import Interval, Size, configure, count_work, steps_at_once
from hopmix.lab.bench.race import Row, in_turn, timed
from hopmix.lab.config import StudyConfig
from hopmix.lab.study.prepared import Study, prepare

BASE = Size("base", 32, 4, 64, 4, 32)
WIDTHS = (128, 256)
DEPTHS = (8, 16)
PATCHES = (8, 2)
MEMBERS = (2, 4, 8)
DEVICES = (1, 2, 4, 8)
POPULATION: dict[str, Any] = {"arms": ["free"], "seeds": 8, "measurements": 60}
"""The members that are trained over devices, ten steps each."""

SAME = 1e-4
"""The relative difference of losses that another order of sums may make."""


def grow(quick: bool, precision: str, repetitions: int) -> Iterator[Row]:
    """Steps of larger mixers, each against the time that the smallest one's share of operations
    would ask for.
    """
    base = BASE.quick() if quick else BASE
    work = count_work(configure(base, "free"), base.batch, True, precision)
    small = Interval(base, "free", steps_at_once(work), precision)
    for label, size, members in _larger(base, quick):
        larger = count_work(configure(size, "free"), size.batch, True, precision)
        large = Interval(size, "free", steps_at_once(larger), precision, members)
        factor = members * larger.flops / work.flops
        one, other = in_turn([small, large], repetitions)
        asked = tuple(factor * t for t in one)
        yield Row("growth", label, other, f"{factor:.3g} x base", asked, race=False)


def _larger(base: Size, quick: bool) -> Iterator[tuple[str, Size, int]]:
    few = lambda values: values[:1] if quick else values
    for patch in few(PATCHES):
        yield f"tokens {(base.image // patch) ** 2}", base._replace(patch=patch), 1
    for dim in few(WIDTHS):
        yield f"channels {dim}", base._replace(dim=dim), 1
    for depth in few(DEPTHS):
        yield f"blocks {depth}", base._replace(depth=depth), 1
    for members in few(MEMBERS):
        yield f"members {members}", base, members


# ---- Devices -------------------------------------------------------------------------------------


def spread_over_devices(
    quick: bool, repetitions: int, counts: Sequence[int] = DEVICES
) -> Iterator[Row]:
    """The same members over 1, 2, 4, 8 virtual CPU devices: equal losses, and what sharing out
    costs.
    """
    config = POPULATION | ({"dim": 8, "depth": 1, "measurements": 300} if quick else {})
    one, *rest = _on_virtual_devices(config, counts[:2] if quick else counts, repetitions)
    row = lambda run, *against, **more: Row(
        "growth",
        f"devices {run['devices']}, virtual",
        tuple(run["ms"]),
        *against,
        race=False,
        **more,
    )
    yield row(one)
    for run in rest:
        yield row(run, "1 device", tuple(one["ms"]), note=_comparison(run["losses"], one["losses"]))


def _comparison(losses: list[float], others: list[float]) -> str:
    difference = float(np.max(np.abs(np.subtract(losses, others) / others)))
    return (
        f"losses {'equal' if difference <= SAME else 'DIFFERENT'}: relative difference "
        f"{difference:.1g}"
    )


def _on_virtual_devices(
    config: dict[str, Any], counts: Sequence[int], repetitions: int
) -> list[dict[str, Any]]:
    flags = re.sub(
        r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")
    )
    flags = f"{flags} --xla_force_host_platform_device_count={max(counts)}".strip()
    command = [
        sys.executable,
        "-m",
        "hopmix.lab.bench.growth",
        *map(json.dumps, (config, counts, repetitions)),
    ]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    printed = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(printed.splitlines()[-1])


def train_sharded(
    config: dict[str, Any], counts: Sequence[int], repetitions: int
) -> list[dict[str, Any]]:
    """Train the members of a study over so many devices, in turn: milliseconds per step, and
    members' losses.
    """
    study = prepare(StudyConfig.from_json(config))
    runs = [_sharded(study, count) for count in counts]
    times = in_turn([timed(run) for run in runs], repetitions)
    return [
        {
            "devices": count,
            "ms": [t / study.schedule.interval for t in own],
            "losses": run()[1][:, 0].tolist(),
        }
        for count, run, own in zip(counts, runs, times, strict=True)
    ]


def _sharded(study: Study, count: int) -> Callable[[], Any]:
    (group,) = study.populations
    mesh = Mesh(np.array(jax.devices()[:count]), ("members",))
    split = NamedSharding(mesh, PartitionSpec(*(("members",))))
    whole = NamedSharding(mesh, PartitionSpec(*(())))
    members = jax.device_put(group.initial(), split)
    dataset = jax.device_put(study.dataset, whole)
    train = training(group, out_shardings=split)
    return lambda: train(members, dataset)


if __name__ == "__main__":
    print(json.dumps(train_sharded(*map(json.loads, sys.argv[1:]))))
