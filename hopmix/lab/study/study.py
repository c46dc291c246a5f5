"""A study from configuration to results: prepare, train by intervals with everything saved,
evaluate, report.
"""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.runtime.environment import environment, now
from hopmix.lab.runtime.interrupts import Interrupted as Interrupted
from hopmix.lab.runtime.interrupts import Interrupts
from hopmix.lab.study.continued import (
    data_path,
    description,
    require_same_arms,
    require_same_data,
    require_same_files,
)
from hopmix.lab.study.evaluation import accuracies_of, end_weights, result_of
from hopmix.lab.study.interval import advance, compile_all
from hopmix.lab.study.prepared import Study as Study
from hopmix.lab.study.prepared import prepare as prepare
from hopmix.lab.train.step import TrainState

HEARD = (
    "Heard: stops within seconds (after compiling, if that is what runs); the interval that runs "
    "is done again on resuming."
)
"""What is said at the first Ctrl-C."""

AT_ONCE = " Once more stops at once."
"""And where the second one ends the process."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a study is, as `on_progress` hears it after each interval.

    - `step`, `total`: training steps done, and in all.
    - `losses`: the mean validation loss of each arm, over its members that have not diverged.
    """

    step: int
    total: int
    losses: dict[str, float]


def run(
    study: Study,
    out: Path,
    *,
    resume: bool,
    command: str,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    log: Callable[[str], None] = print,
    compiled: Callable[[], None] = lambda: None,
    leave: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train a study in a folder, from the start or from its newest checkpoint, and evaluate it.

    **Arguments:**

    - `study`: the prepared study.
    - `out`: its folder, held with `store.only_writer` and checked with `store.open_study`.
    - `resume`: whether `out` holds a part of this study.
    - `command`: the command line, for the record.
    - `on_progress`: called after each interval; `log`: called with a sentence where something
      unusual happens.
    - `compiled`: called when everything is compiled, before the first interval.
    - `leave`: called, from another thread, at a second Ctrl-C; the command line ends the process.

    **Returns:** the contents of `results.json`.

    **Raises:** `Interrupted` after Ctrl-C or SIGTERM, when what runs has come to a place where it
    can stop.
    """
    started = time.perf_counter()
    if resume:
        record = store.read_record(out)
        require_same_data(study, record, out)
        require_same_files(study.own, record, out)
        require_same_arms(study.arms, record, out)
        ended = store.finished_results(out, record, lambda sentence: None)
        if ended is not None:
            if study.config.data != record.data_path:
                store.write_record(out, record.values | {"data_path": data_path(study.config.data)})
            return ended
        record.require_format_of_today(out)
        record = _resumed(study, out, record, command)
    else:
        record = store.write_record(out, _description(study, command))
    if leave is None:
        stopping = Interrupts(lambda: log(HEARD), lambda: None)
    else:
        stopping = Interrupts(lambda: log(HEARD + AT_ONCE), leave)
    with store.Checkpoints(out, record.owner) as checkpoints, stopping as interrupts:
        folder = _Folder(
            out,
            record,
            checkpoints,
            store.History(study.arms, study.seeds, study.layout, study.quantities),
        )
        step, states = _start(study, folder, log)
        timing = {"prepare_s": time.perf_counter() - started}
        timing |= _train(study, folder, step, states, on_progress, compiled, interrupts)
        results = evaluate(study, states, folder.history)
        interrupts.check()
        timing["total_s"] = time.perf_counter() - started
        return store.write_results(
            out,
            record,
            results | {"timing": timing},
            end_weights(study.populations, states, study.layout),
        )


class _Folder(NamedTuple):
    """A study's folder while it is written: what it is of, what it holds."""

    out: Path
    record: store.Record
    checkpoints: store.Checkpoints
    history: store.History

    def save(self, step: int, states: list[TrainState]):
        """Save what was measured, and the members as they are."""
        # Metrics first: a checkpoint must never be ahead of the measurements that lead to it.
        store.write_metrics(self.out, self.history, self.record.identity)
        self.checkpoints.save(step, states, self.history.chain)


def _resumed(study: Study, out: Path, record: store.Record, command: str) -> store.Record:
    """The record of a study that goes on, with how, in what environment and where its data are
    now.
    """
    resumed = {"command": command, "created": now(), "environment": environment()}
    added = {
        "resumed": [*record.values.get("resumed", []), resumed],
        "data_path": data_path(study.config.data),
    }
    return store.write_record(out, record.values | added)


def _start(
    study: Study, folder: _Folder, log: Callable[[str], None]
) -> tuple[int, list[TrainState]]:
    """The step and the members from which to go on; the step is -1 before the first checkpoint."""
    out, record, checkpoints, history = folder
    if not store.is_measured(out) and not checkpoints.steps:
        return -1, [group.initial() for group in study.populations]
    dataset, told = store.recover_metrics(out, record)
    history.load(dataset)
    if not checkpoints.steps and len(history.steps) == 1:  # killed before the first one
        history.truncate(-1)
        return -1, [group.initial() for group in study.populations]
    like = [group.shapes() for group in study.populations]
    restored, passed = checkpoints.restore(like, history.steps[-1])
    for sentence in (*told, *passed):
        log(sentence)
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
    states: list[TrainState],
    on_progress: Callable[[Progress], None],
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
                snapshot = [jax.tree.map(np.array, state) for state in states]
                saved = saver.submit(folder.save, step, snapshot)
                on_progress(Progress(step, schedule.total, _losses(study, row)))
        finally:
            # What could not be saved is told, whatever else ended the training.
            if saved is not None:
                saved.result()
    return timing


def _losses(study: Study, row: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean validation loss of the members of each arm that are alive."""
    losses = row["validation_loss"]
    alive = [values[np.isfinite(values)] for values in losses]
    return {
        arm.name: float(v.mean()) if v.size else np.nan
        for arm, v in zip(study.arms, alive, strict=True)
    }


def evaluate(study: Study, states: list[TrainState], history: store.History) -> dict[str, Any]:
    """The results of all arms on the test split, which nothing before this has looked at."""
    accuracies = accuracies_of(
        study.populations, states, study.evaluator, study.data.test(), study.dataset
    )
    validation = history.rows[-1]["validation_accuracy"]
    return {
        "arms": [
            _describe_arm(study, arm) | result_of(arm.name, accuracies, validation[i])
            for i, arm in enumerate(study.arms)
        ],
    }


def _describe_arm(study: Study, arm: Arm) -> dict[str, Any]:
    return description(arm) | {"parameters": study.parameters(arm)}


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
        "own": study.own,
        "steps_total": study.schedule.total,
        "created": now(),
    }
