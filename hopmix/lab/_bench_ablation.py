"""A whole ablation: members in one program against one after another, and what measuring and the data cost."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hopmix.lab._bench_peer import KINDS, Peer
from hopmix.lab._bench_race import Contender, Row, in_turn, timed
from hopmix.lab.config import StudyConfig
from hopmix.lab.study import Study, prepare
from hopmix.lab.train import Dataset, Member, Program

STEPS = 20
"""Steps of the interval of a race."""

Logs = Any


def bench_study(quick: bool, precision: str = "float32", **changes: Any) -> Study:
    """The default study, or a small one to see that everything runs, with intervals of about `STEPS` steps."""
    options: dict[str, Any] = {"precision": precision, "measurements": 600 // STEPS}
    if quick:
        options |= {"arms": ("free", "symmetric"), "seeds": 2, "dim": 8, "depth": 1, "measurements": 300}
    return prepare(StudyConfig(**(options | changes)))


def training(program: Program) -> Callable[[Member, Dataset], tuple[Member, Logs]]:
    """The training of one member for an interval from step 0, without measuring."""
    return lambda member, dataset: program._train(member, jnp.zeros((), jnp.int32), dataset)


def together(study: Study) -> Callable[[], list[tuple[Member, Logs]]]:
    """All members side by side: one program for each structure."""
    runs = []
    for program in study.programs:
        runs.append((jax.jit(_over_members(program)), program.initial()))
    return lambda: [run(members, study.dataset) for run, members in runs]


def _over_members(program: Program) -> Callable[[Member, Dataset], tuple[Member, Logs]]:
    train = training(program)
    return lambda members, dataset: program._over_members(lambda member: train(member, dataset), members)


def one_by_one(study: Study) -> Callable[[], list[tuple[Member, Logs]]]:
    """The same members in the same order, each trained alone by a program that knows of no others."""
    runs = []
    for program in study.programs:
        run, members = jax.jit(training(program)), program.initial()
        count = len(program.members)
        runs += [(run, jax.tree.map(lambda leaf, i=i: leaf[i], members)) for i in range(count)]
    # Waiting for each: calls that do not depend on each other would run at once.
    return lambda: [jax.block_until_ready(run(member, study.dataset)) for run, member in runs]


def race_ablation(study: Study, peers: Sequence[Peer], repetitions: int) -> Iterator[Row]:
    """The population against its members one after another, and against the peer for the same steps."""
    steps = study.schedule.interval
    members = len(study.arms) * study.config.seeds
    theirs = [partial(_peer_milliseconds, peer, study) for peer in peers]
    # Milliseconds of all steps of all members, as one number.
    own, alone, *others = in_turn([timed(together(study)), timed(one_by_one(study)), *theirs], repetitions)
    row = partial(Row, "ablation", f"{members} members, {steps} steps", own)
    yield row("one by one", alone)
    yield from (row(f"{peer.name}, one by one", other) for peer, other in zip(peers, others))


def _peer_milliseconds(peer: Peer, study: Study) -> float:
    """The peer's time for all members and steps: of each kind of mixer one is run."""
    config, model, steps = study.config, study.arms[0].model, study.schedule.interval
    shape = {"image": model.image[0], "patch": model.patch_size[0], "dim": model.dim, "depth": model.depth}
    kinds = [KINDS[arm.kind.removesuffix("-wide").removesuffix("-xavier")] for arm in study.arms]
    run = partial(peer.milliseconds, batch=config.batch, steps=steps, **shape)
    return config.seeds * steps * sum(kinds.count(kind) * run(kind=kind) for kind in dict.fromkeys(kinds))


def cost_measuring(study: Study, repetitions: int) -> Iterator[Row]:
    """What measuring costs beside training, over a whole study: the validation split, indices, energies; and all."""
    shallow, deep, interval = in_turn(_measuring(study), repetitions)
    intervals, times, deeply = count_measurements(study)
    train = tuple(intervals * (whole - part) for whole, part in zip(interval, shallow))
    whole = tuple(times * s + deeply * (d - s) for s, d in zip(shallow, deep))
    row = partial(Row, "measuring", against=f"training {study.schedule.total} steps", other=train, race=False)
    yield row(f"{times} times, without spectra and fields", tuple(times * s for s in shallow))
    yield row(f"{times} times, {deeply} of them with spectra and fields", whole)


def count_measurements(study: Study) -> tuple[int, int, int]:
    """The intervals of a study, how often it measures, and how often it measures spectra and fields too."""
    steps = range(0, study.schedule.total + 1, study.schedule.interval)
    return len(steps) - 1, len(steps), sum(study.measures_deeply(step) for step in steps)


def _measuring(study: Study) -> list[Contender]:
    """Three contenders over all programs: measuring, measuring deeply, and a whole interval with measuring."""
    begin, off, on = jnp.zeros((), jnp.int32), jnp.asarray(False), jnp.asarray(True)
    parts = [(jax.jit(p.measure), jax.jit(p.advance), p.initial()) for p in study.programs]
    data = study.dataset
    measure = lambda deep: [measured(members, begin, deep, data) for measured, _, members in parts]
    interval = lambda: [advance(members, begin, off, data) for _, advance, members in parts]
    return [timed(measure, off), timed(measure, on), timed(interval)]


def cost_data(study: Study, repetitions: int) -> Iterator[Row]:
    """A real step, which gathers and augments its images, against one whose batches were prepared."""
    steps = study.schedule.interval
    real, ready = in_turn([timed(together(study)), timed(on_prepared(study))], repetitions)
    name = f"{steps} steps, augment {study.config.augment}"
    yield Row("data", name, real, "batches prepared", ready, race=False)


def on_prepared(study: Study) -> Callable[[], list[tuple[Member, Logs]]]:
    """All members side by side as in `together`, on batches that were gathered and augmented before."""
    runs = []
    for program in study.programs:
        members = program.initial()
        batches = jax.jit(jax.vmap(partial(_prepare, program, study.dataset)))(members)
        runs.append((jax.jit(jax.vmap(partial(_train_on, program))), members, jax.block_until_ready(batches)))
    return lambda: [run(members, batches) for run, members, batches in runs]


def _prepare(program: Program, dataset: Dataset, member: Member):
    """The batches of an interval, as `Program` makes them step by step."""
    rows = program._batches(member.seed, jnp.zeros((), jnp.int32), dataset.train.labels.size)
    return jax.vmap(partial(program.batch, dataset, member.seed))(jnp.arange(len(rows), dtype=jnp.int32), rows)


def _train_on(program: Program, member: Member, batches: Any) -> tuple[Member, Logs]:
    """The steps of `Program` on batches that are there already."""
    steps = jnp.arange(program.schedule.interval, dtype=jnp.int32)
    member, logs = jax.lax.scan(lambda m, at: program.learn(m, *at), member, (steps, batches))
    return member, jnp.mean(logs, axis=0)
