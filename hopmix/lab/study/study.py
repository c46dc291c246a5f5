"""A study from configuration to results: prepare, train by intervals with everything saved,
evaluate, report.
"""

import dataclasses
import datetime
import gc
import os
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix.lab import store
from hopmix.lab.config import StudyConfig
from hopmix.lab.data import study_data
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.probes.metrics import BRANCHES, Metrics, branches, unmeasured
from hopmix.lab.runtime.environment import environment
from hopmix.lab.runtime.interrupts import Interrupted as Interrupted
from hopmix.lab.runtime.interrupts import Interrupts
from hopmix.lab.study.arms import make_arms
from hopmix.lab.study.capacity import need_memory
from hopmix.lab.study.evaluation import accuracies_of, end_weights, result_of
from hopmix.lab.study.observer import Observer
from hopmix.lab.train.program import (
    Dataset,
    Member,
    Program,
    Schedule,
    make_dataset,
    on_host,
    programs_of,
)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a watcher of a study is told after each interval: steps done and in all, and mean losses
    by arm.
    """

    step: int
    total: int
    losses: dict[str, float]


@dataclasses.dataclass
class Study:
    """A configuration with its data, arms, programs and what measures them, ready to train.

    Made by `prepare`, which checks everything that can be checked before training.
    """

    config: StudyConfig
    data: study_data.Data
    arms: list[Arm]
    dataset: Dataset
    programs: list[Program]
    observer: Observer

    @property
    def seeds(self) -> list[int]:
        """The seeds of the members of each arm."""
        return list(self.config.seed_numbers)

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(branches(self.arms[0].shapes)[BRANCHES[0]])

    @property
    def schedule(self) -> Schedule:
        """The steps of each member's training."""
        return self.programs[0].schedule

    def measures_deeply(self, step: int) -> bool:
        """Whether spectra and fields are measured after so many steps: at the first and the last
        measurement too.
        """
        every = self.config.deep
        index = step // self.schedule.interval
        return every > 0 and (index % every == 0 or step == self.schedule.total)

    def count_measurements(self) -> tuple[int, int, int]:
        """The intervals of a study, how often it measures, and how often it measures spectra and
        fields too.
        """
        steps = range(0, self.schedule.total + 1, self.schedule.interval)
        return len(steps) - 1, len(steps), sum(self.measures_deeply(step) for step in steps)

    def parameters(self, arm: Arm) -> int:
        """The number of trainable parameters of a member of an arm."""
        return next(p for p in self.programs if arm in p.arms).parameters

    def compiled(self) -> list[jax.stages.Compiled]:
        """The compiled programs; waits for those that are being compiled."""
        return [
            p for program in self.programs for p in program.compiled.programs
        ] + self.observer.programs

    def state_bytes(self) -> int:
        """The size of the state of all members."""
        states = [program.shapes() for program in self.programs]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))


def prepare(config: StudyConfig) -> Study:
    """Load the data and lay out arms and programs; raises `UsageError` for what does not fit
    together.
    """
    data = study_data.load_for(config)
    if config.batch > len(data.train):
        raise UsageError(
            f"batch: got {config.batch}, but there are only {len(data.train)} training images; "
            f"give fewer."
        )
    arms = make_arms(config, data.image_shape, len(data.classes))
    need_memory(config, arms)
    dataset = make_dataset(data)
    # What was decoded can go: on a CPU the device's arrays are in the same memory for the host.
    data = dataclasses.replace(
        data, train=on_host(dataset.train), validation=on_host(dataset.validation)
    )
    return Study(config, data, arms, dataset, programs_of(config, arms, dataset), Observer(config))


def run(
    study: Study,
    out: Path,
    *,
    resume: bool,
    command: str,
    watch: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = print,
    compiled: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train a study in a folder, from the start or from its newest checkpoint, and evaluate it.

    **Arguments:**

    - `study`: the prepared study.
    - `out`: its folder, held with `store.only_writer` and checked with `store.open_study`.
    - `resume`: whether `out` holds a part of this study.
    - `command`: the command line, for the record.
    - `watch`: called after each interval; `say`: called with a sentence where something unusual
      happens.
    - `compiled`: called when everything is compiled, before the first interval.

    **Returns:** the contents of `results.json`.

    **Raises:** `Interrupted` after Ctrl-C or SIGTERM, when what runs has come to a place where it
    can stop.
    """
    started = time.perf_counter()
    if resume:
        record = store.read_record(out)
        require_same_data(study, record, out)
        ended = store.finished_results(out, record, lambda sentence: None)
        if ended is not None:
            if study.config.data != record.data_path:
                store.write_record(out, record.values | {"data_path": data_path(study.config.data)})
            return ended
        record.require_format_of_today(out)
        record = _resumed(study, out, record, command)
    else:
        record = store.write_record(out, _description(study, command))
    with store.Checkpoints(out, record.owner) as checkpoints, _interrupts(out, say) as interrupts:
        folder = _Folder(
            out, record, checkpoints, store.History(study.arms, study.seeds, study.depth)
        )
        step, states = _start(study, folder, say)
        timing = {"prepare_s": time.perf_counter() - started}
        timing |= _train(study, folder, step, states, watch, compiled, interrupts)
        results = evaluate(study, states, folder.history)
        interrupts.check()
        timing["total_s"] = time.perf_counter() - started
        return store.write_results(
            out, record, results | {"timing": timing}, end_weights(study.programs, states)
        )


class _Folder(NamedTuple):
    """A study's folder while it is written: what it is of, what it holds."""

    out: Path
    record: store.Record
    checkpoints: store.Checkpoints
    history: store.History

    def save(self, step: int, states: list[Member]):
        """Save what was measured, and the members as they are."""
        # Metrics first: a checkpoint must never be ahead of the measurements that lead to it.
        store.write_metrics(self.out, self.history, self.record.identity)
        self.checkpoints.save(step, states, self.history.chain)


def _resumed(study: Study, out: Path, record: store.Record, command: str) -> store.Record:
    """The record of a study that goes on, with how, in what environment and where its data are
    now.
    """
    resumed = {"command": command, "created": _now(), "environment": environment()}
    added = {
        "resumed": [*record.values.get("resumed", []), resumed],
        "data_path": data_path(study.config.data),
    }
    return store.write_record(out, record.values | added)


def located(record: store.Record, data: str | None = None) -> StudyConfig:
    """The configuration of a study with the place of its data: as given, or where they were last.

    **Raises:** `UsageError` if they are not there any more.
    """
    place = data or record.data_path
    path = data_path(place)
    if data is None and path is not None and not Path(path).exists():
        raise UsageError(
            f"data: {place} is not there any more; restore it, or name its new place with --data."
        )
    return dataclasses.replace(record.config, data=place)


def require_same_data(study: Study, record: store.Record, out: Path):
    """Raise `UsageError` unless the data are those that the study was begun with."""
    if record.values.get("data", {}).get("digest") != study.data.digest:
        raise UsageError(
            f"data: {study.data.name} has changed since {out} was begun (its digest differs); "
            f"restore it, or name the "
            "place of the same images with --data."
        )


def _start(study: Study, folder: _Folder, say: Callable[[str], None]) -> tuple[int, list[Member]]:
    """The step and the members from which to go on; the step is -1 before the first checkpoint."""
    out, record, checkpoints, history = folder
    if not store.is_measured(out) and not checkpoints.steps:
        return -1, [program.initial() for program in study.programs]
    dataset, told = store.recover_metrics(out, record)
    history.load(dataset)
    if not checkpoints.steps and len(history.steps) == 1:  # killed before the first one
        history.truncate(-1)
        return -1, [program.initial() for program in study.programs]
    like = [program.shapes() for program in study.programs]
    restored, passed = checkpoints.restore(like, history.steps[-1])
    for sentence in (*told, *passed):
        say(sentence)
    history.truncate(restored.step)
    if restored.chain is not None and restored.chain != history.chain:
        raise UsageError(
            f"{out / 'metrics.zarr'}: not what was measured before the checkpoint of step "
            f"{restored.step} was saved; "
            "restore it, or start anew under another name."
        )
    return restored.step, [jax.tree.map(jnp.asarray, state) for state in restored.states]


def _train(
    study: Study,
    folder: _Folder,
    step: int,
    states: list[Member],
    watch: Callable[[Progress], None],
    compiled: Callable[[], None],
    interrupts: Interrupts,
) -> dict[str, float]:
    """Train to the end, in place of `states`; each interval is saved while the next one runs."""
    timing = {"compile_s": 0.0, "train_s": 0.0}
    schedule = study.schedule
    if step == schedule.total:
        return timing
    begin = time.perf_counter()
    compile_all(study, states, study.dataset)
    compiled()
    timing["compile_s"] = time.perf_counter() - begin
    saved: Future | None = None
    with ThreadPoolExecutor(1) as saver:
        try:
            while step < schedule.total:
                interrupts.check()
                begin = time.perf_counter()
                row = advance(study, states, step, interrupts.check)
                timing["train_s"] += time.perf_counter() - begin
                step = 0 if step < 0 else step + schedule.interval
                if saved is not None:
                    saved.result()
                folder.history.append(step, row)
                watch(Progress(step, schedule.total, _losses(study, row)))
                snapshot = [jax.tree.map(np.array, state) for state in states]
                saved = saver.submit(folder.save, step, snapshot)
        finally:
            # What could not be saved is told, whatever else ended the training.
            if saved is not None:
                saved.result()
    return timing


def _interrupts(out: Path, say: Callable[[str], None]) -> Interrupts:
    go_on = f"go on with: hopmix resume {shlex.quote(str(out))}"

    def leave():
        # Neither Python nor a compiled program can be asked to end at once; what is on the disk is
        # whole.
        say(f"Stopped at once; what was saved is whole: {go_on}")
        sys.stdout.flush()
        os._exit(1)

    return Interrupts(
        lambda: say(
            "Heard: stops within seconds (after compiling, if that is what runs); the interval "
            "that runs is done again "
            "on resuming. Once more stops at once."
        ),
        leave,
    )


def compile_all(study: Study, states: list[Member], dataset: Dataset):
    """Compile what trains and what measures."""
    # One program is traced, in Python, while another one is compiled; two compiled at a time would
    # take twice the memory, and are hardly faster, for XLA uses all cores as it is.
    compiler = ThreadPoolExecutor(1)
    collecting = gc.isenabled()
    # Nearly all objects that tracing makes stay: a tenth of its time would go to looking for
    # garbage among them.
    gc.disable()
    try:
        for program, members in zip(study.programs, states, strict=True):
            program.prepare(compiler, members, dataset)
            study.observer.prepare(compiler, program, members, dataset)
        study.compiled()
    finally:
        if collecting:
            gc.enable()
        compiler.shutdown(cancel_futures=True)


def advance(
    study: Study, states: list[Member], step: int, between: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Train every program for an interval, in place of `states` (or only measure, at step -1), and
    join what is measured, as arrays of (arm, seed, ...).

    `between` is called every half a second or so, and may end it by raising.
    """
    rows: dict[str, Metrics] = {}
    done = 0 if step < 0 else step + study.schedule.interval
    deep = study.measures_deeply(done)
    nothing = unmeasured(study.config.seeds, study.depth)
    for i, program in enumerate(study.programs):
        logs = jnp.full((len(program.members), 4), jnp.nan)
        if step >= 0:
            states[i], logs, _ = program.run(
                states[i], step, study.schedule.interval, study.dataset, between
            )
        between()
        measured = study.observer.measure(program, states[i], study.dataset)
        if deep:
            more = study.observer.measure_deeply(program, states[i], done, study.dataset)
        else:
            more = {}
        for arm in program.arms:
            rows[arm.name] = (
                _named(program.of_arm(logs, arm)) | measured[arm.name] | more.get(arm.name, nothing)
            )
    found = {name: _of_the_living(row) for name, row in jax.device_get(rows).items()}
    return {
        name: np.stack([found[arm.name][name] for arm in study.arms])
        for name in found[study.arms[0].name]
    }


def _named(logs: Float[Array, "members 4"]) -> Metrics:
    return dict(
        zip(("train_loss", "train_accuracy", "penalty", "gradient_norm"), logs.T, strict=True)
    )


def _of_the_living(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """NaN in place of everything that was measured of a member that diverged."""
    dead = row["diverged_step"] >= 0
    mask = lambda values: np.where(dead.reshape(-1, *(1,) * (values.ndim - 1)), np.nan, values)
    return {
        name: values if name == "diverged_step" else mask(values) for name, values in row.items()
    }


def _losses(study: Study, row: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean validation loss of the members of each arm that are alive."""
    losses = row["validation_loss"]
    alive = [values[np.isfinite(values)] for values in losses]
    return {
        arm.name: float(v.mean()) if v.size else np.nan
        for arm, v in zip(study.arms, alive, strict=True)
    }


def evaluate(study: Study, states: list[Member], history: store.History) -> dict[str, Any]:
    """The results of all arms on the test split, which nothing before this has looked at."""
    accuracies = accuracies_of(
        study.programs, states, study.observer, study.data.test(), study.dataset
    )
    validation = history.rows[-1]["validation_accuracy"]
    return {
        "arms": [
            _describe_arm(study, arm) | result_of(arm.name, accuracies, validation[i])
            for i, arm in enumerate(study.arms)
        ],
    }


def _describe_arm(study: Study, arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "kind": arm.kind,
        "title": arm.title,
        "strength": arm.strength,
        "parameters": study.parameters(arm),
    }


def _description(study: Study, command: str) -> dict[str, Any]:
    """The contents of `study.json`."""
    return {
        "format": store.FORMAT,
        "config": study.config.to_json(),
        "digest": study.config.digest,
        "arms": [_describe_arm(study, arm) | {"about": arm.about} for arm in study.arms],
        "environment": environment(),
        "command": command,
        "data": study.data.summary(),
        "data_path": data_path(study.config.data),
        "steps_total": study.schedule.total,
        "created": _now(),
    }


def data_path(data: str) -> str | None:
    """Where data lie on this machine, whatever folder they are named from; `None` for digits and
    the Hub.
    """
    if data == "digits" or data.startswith("hub:"):
        return None
    return str(Path(data).expanduser().absolute())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
