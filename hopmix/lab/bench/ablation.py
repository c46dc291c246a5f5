"""A whole ablation: members in one program against one after another, and what measuring and the
data cost.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hopmix.lab.bench.peer import Peer
from hopmix.lab.bench.race import Contender, Row, in_turn, timed
from hopmix.lab.config import StudyConfig
from hopmix.lab.families.mixers import BY_NAME
from hopmix.lab.runtime.compiler_options import training_options
from hopmix.lab.study.arms import mixer_of
from hopmix.lab.study.interval import compile_all
from hopmix.lab.study.prepared import Study, prepare
from hopmix.lab.tasks.classification import Dataset
from hopmix.lab.train.population import Population, take_steps
from hopmix.lab.train.step import TrainState

STEPS = 20
"""Steps of the interval of a race."""

Trained = tuple[TrainState, Any, Any]
"""TrainStates, their logs and their last updates."""


def bench_study(quick: bool, precision: str = "float32", **changes: Any) -> Study:
    """The default study, or a small one to see that everything runs, with intervals of about
    `STEPS` steps.
    """
    options: dict[str, Any] = {"precision": precision, "measurements": 600 // STEPS}
    if quick:
        options |= {
            "arms": ("free", "symmetric"),
            "seeds": 2,
            "dim": 8,
            "depth": 1,
            "measurements": 300,
        }
    return prepare(StudyConfig(**(options | changes)))


def training(group: Population, **options: Any) -> Callable[[TrainState, Dataset], Trained]:
    """The training of all members side by side for an interval from step 0, without measuring.

    `options` are those of `jax.jit`.
    """
    train = jax.jit(group.train, compiler_options=training_options(), **options)
    zero = jnp.int32(0)
    steps = jnp.int32(group.schedule.interval)
    logs = group.no_logs()
    return lambda members, dataset: train(
        members, logs, zero, zero, steps, group.rows(0, dataset), dataset
    )


def together(study: Study) -> Callable[[], list[Trained]]:
    """All members side by side: one program for each structure."""
    runs = [(training(group), group.initial()) for group in study.populations]
    return lambda: [run(members, study.dataset) for run, members in runs]


def one_by_one(study: Study) -> Callable[[], list[Trained]]:
    """The same members in the same order, each trained alone by a program that knows of no
    others.
    """
    runs = []
    for group in study.populations:
        run = jax.jit(partial(_alone, group), compiler_options=training_options())
        everyone = group.initial(), group.rows(0, study.dataset)
        runs += [
            (run, jax.tree.map(lambda leaf, i=i: leaf[i], everyone))
            for i in range(len(group.members))
        ]
    # Waiting for each: calls that do not depend on each other may run at once.
    return lambda: [jax.block_until_ready(run(*member, study.dataset)) for run, member in runs]


def _alone(group: Population, member: TrainState, rows: Any, dataset: Dataset) -> Trained:
    """What `Population.train` does, of one member and without the axis of members: that is not
    always as fast.
    """
    learn = lambda member, at, rows: group.step(member, at, rows, dataset)
    return take_steps(learn, member, group.parameters_of(member), rows, 0, len(rows))


def race_ablation(study: Study, peers: Sequence[Peer], repetitions: int) -> Iterator[Row]:
    """The population against its members one after another, and against the peer for the same
    steps.
    """
    steps = study.schedule.interval
    members = len(study.arms) * study.config.seeds
    theirs = [partial(_peer_milliseconds, peer, study) for peer in peers]
    # Milliseconds of all steps of all members, as one number.
    own, alone, *others = in_turn(
        [timed(together(study)), timed(one_by_one(study)), *theirs], repetitions
    )
    row = partial(Row, "ablation", f"{members} members, {steps} steps", own)
    yield row("one by one", alone)
    yield from (row(f"{peer.name}, one by one", other) for peer, other in zip(peers, others))


def _peer_milliseconds(peer: Peer, study: Study) -> float:
    """The peer's time for all members and steps: of each kind of mixer one is run."""
    config = study.config
    steps = study.schedule.interval
    model = mixer_of(config, BY_NAME[config.arms[0]], study.dataset.image, study.dataset.classes)
    shape = {
        "image": model.image[0],
        "patch": model.patch_size[0],
        "dim": model.dim,
        "depth": model.depth,
    }
    kinds = [BY_NAME[arm.kind].baseline for arm in study.arms]
    run = partial(peer.milliseconds, batch=config.batch, steps=steps, **shape)
    return (
        config.seeds
        * steps
        * sum(kinds.count(kind) * run(kind=kind) for kind in dict.fromkeys(kinds))
    )


def cost_measuring(study: Study, repetitions: int) -> Iterator[Row]:
    """What measuring costs beside training, over a whole study: the validation split, indices,
    energies; and all.
    """
    train, shallow, deep = in_turn(_parts(study), repetitions)
    intervals, times, deeply = study.count_measurements()
    trained = tuple(intervals * t for t in train)
    row = partial(
        Row,
        "measuring",
        against=f"training {study.schedule.total} steps",
        other=trained,
        race=False,
    )
    yield row(f"{times} times, without spectra and fields", tuple(times * s for s in shallow))
    whole = tuple(times * s + deeply * d for s, d in zip(shallow, deep))
    yield row(f"{times} times, {deeply} of them with spectra and fields", whole)


def _parts(study: Study) -> list[Contender]:
    """Three contenders over all populations, as a study runs them: an interval of training,
    measuring, and what measuring deeply adds."""
    populations = study.populations
    evaluator = study.evaluator
    data = study.dataset
    states = [group.initial() for group in populations]
    compile_all(study, states, data)

    def train() -> list[TrainState]:
        for i, group in enumerate(populations):
            states[i], *_ = group.run(states[i], 0, study.schedule.interval, data)
        return states

    measure = lambda: [
        evaluator.measure(group, members, 0, data) for group, members in zip(populations, states)
    ]
    deepen = lambda: [
        evaluator.measure_expensive(group, members, 0, data)
        for group, members in zip(populations, states)
    ]
    return [timed(train), timed(measure), timed(deepen)]


def cost_data(study: Study, repetitions: int) -> Iterator[Row]:
    """A real step, which gathers and augments its images, against one whose batches were
    prepared.
    """
    steps = study.schedule.interval
    real, ready = in_turn([timed(together(study)), timed(on_prepared(study))], repetitions)
    name = f"{steps} steps, augment {study.config.augment}"
    yield Row("data", name, real, "batches prepared", ready, race=False)


def on_prepared(study: Study) -> Callable[[], list[Trained]]:
    """All members side by side as in `together`, on batches that were gathered and augmented
    before.
    """
    runs = []
    for group in study.populations:
        members = group.initial()
        rows = group.rows(0, study.dataset)
        batches = jax.jit(jax.vmap(partial(_prepare, group, study.dataset)))(members.seed, rows)
        run = jax.jit(partial(_train_on, group), compiler_options=training_options())
        runs.append((run, members, jax.block_until_ready(batches)))
    return lambda: [run(members, batches) for run, members, batches in runs]


def _prepare(group: Population, dataset: Dataset, seed: Any, rows: Any) -> Any:
    """The batches of an interval, as `Population` makes them step by step."""
    return jax.vmap(partial(group.batch, dataset, seed))(
        jnp.arange(len(rows), dtype=jnp.int32), rows
    )


def _train_on(group: Population, members: TrainState, batches: Any) -> Trained:
    """What `Population.train` does, on batches that are there already."""
    by_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), batches)
    learn = jax.vmap(group.learn, in_axes=(0, None, 0))
    return take_steps(
        learn, members, group.parameters_of(members), by_step, 0, group.schedule.interval
    )
