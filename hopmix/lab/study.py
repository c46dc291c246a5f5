"""A study from configuration to results: prepare, train by intervals with everything saved, evaluate, report."""

import contextlib
import dataclasses
import datetime
import gc
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix.lab import data as lab_data
from hopmix.lab import statistics, store
from hopmix.lab._capacity import need_memory
from hopmix.lab._environment import environment
from hopmix.lab.arms import Arm, make_arms
from hopmix.lab.config import StudyConfig, UsageError
from hopmix.lab.metrics import BRANCHES, Metrics, branch_coupling, unmeasured
from hopmix.lab.observer import Observer
from hopmix.lab.train import Dataset, Member, Program, Schedule, make_dataset, on_device
from hopmix.models.mixer import Mixer


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a watcher of a study is told after each interval: steps done and in all, and mean losses by arm."""

    step: int
    total: int
    losses: dict[str, float]


class Interrupted(Exception):
    """The user asked to stop; everything is saved."""


@dataclasses.dataclass
class Study:
    """A configuration with its data, arms, programs and what measures them, ready to train.

    Made by `prepare`, which checks everything that can be checked before training.
    """

    config: StudyConfig
    data: lab_data.Data
    arms: list[Arm]
    dataset: Dataset
    programs: list[Program]
    observer: Observer

    @property
    def seeds(self) -> list[int]:
        """The seeds of the members of each arm."""
        return list(self.config.seed_numbers)

    @property
    def schedule(self) -> Schedule:
        """The steps of each member's training."""
        return self.programs[0].schedule

    def measures_deeply(self, step: int) -> bool:
        """Whether spectra and fields are measured after so many steps: at the first and the last measurement too."""
        every, index = self.config.deep, step // self.schedule.interval
        return every > 0 and (index % every == 0 or step == self.schedule.total)

    def count_measurements(self) -> tuple[int, int, int]:
        """The intervals of a study, how often it measures, and how often it measures spectra and fields too."""
        steps = range(0, self.schedule.total + 1, self.schedule.interval)
        return len(steps) - 1, len(steps), sum(self.measures_deeply(step) for step in steps)

    def parameters(self, arm: Arm) -> int:
        """The number of trainable parameters of a member of an arm."""
        return next(p for p in self.programs if arm in p.arms).parameters

    def compiled(self) -> list[jax.stages.Compiled]:
        """The compiled programs; waits for those that are being compiled."""
        return [p for program in self.programs for p in program.compiled.programs] + self.observer.programs

    def state_bytes(self) -> int:
        """The size of the state of all members."""
        states = [program.shapes() for program in self.programs]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))


def prepare(config: StudyConfig) -> Study:
    """Load the data and lay out arms and programs; raises `UsageError` for what does not fit together."""
    data = lab_data.load_for(config)
    if config.batch > len(data.train):
        raise UsageError(
            f"batch: got {config.batch}, but there are only {len(data.train)} training images; give fewer."
        )
    arms = make_arms(config, data.image_shape, len(data.classes))
    need_memory(config, arms)
    dataset = make_dataset(data)
    structures = dict.fromkeys(arm.structure for arm in arms)
    programs = [Program(config, [arm for arm in arms if arm.structure == s], dataset) for s in structures]
    return Study(config, data, arms, dataset, programs, Observer(config))


def run(
    study: Study,
    out: Path,
    *,
    resume: bool,
    command: str,
    watch: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a study in a folder, from the start or from its newest checkpoint, and evaluate it.

    **Arguments:**

    - `study`: the prepared study.
    - `out`: its folder, already checked with `store.open_study`.
    - `resume`: whether `out` holds a part of this study.
    - `command`: the command line, for the record.
    - `watch`: called after each interval; `say`: called with a sentence where something unusual happens.

    **Returns:** the contents of `results.json`.

    **Raises:** `Interrupted` after Ctrl-C, when the current interval is saved.
    """
    started = time.perf_counter()
    with store.only_writer(out), store.Checkpoints(out) as checkpoints:
        if resume:
            _check_data(study, out)
        else:
            store.write_json(out / "study.json", _description(study, command))
        history = store.History(study.arms, study.seeds, study.programs[0].structure.depth)
        step, states = _start(study, out, history, checkpoints, say)
        if step == study.schedule.total and (out / "results.json").exists():
            return store.read_json(out / "results.json")
        if resume:
            _record_resumption(out, command)
        timing = {"prepare_s": time.perf_counter() - started}
        timing |= _train(study, out, history, checkpoints, step, states, watch)
        results = evaluate(study, states, history)
        timing["total_s"] = time.perf_counter() - started
        results["timing"] = timing
        _write_weights(study, out, states)
        store.write_json(out / "results.json", results)
        return results


def _check_data(study: Study, out: Path):
    found = store.read_json(out / "study.json").get("data", {}).get("digest")
    if found != study.data.digest:
        raise UsageError(
            f"data: {study.data.name} has changed since {out} was begun; restore it, or name a new folder."
        )


def _record_resumption(out: Path, command: str):
    """Add to the record how and in what environment a study goes on."""
    record = store.read_json(out / "study.json")
    resumed = {"command": command, "created": _now(), "environment": environment()}
    store.write_json(out / "study.json", record | {"resumed": [*record.get("resumed", []), resumed]})


def _start(study, out, history, checkpoints, say) -> tuple[int, list[Member]]:
    """The step and the members from which to go on; the step is -1 before the first checkpoint."""
    if not checkpoints.steps:
        return -1, [program.initial() for program in study.programs]
    like = [program.shapes() for program in study.programs]
    step, states, warnings = checkpoints.restore(like)
    for warning in warnings:
        say(warning)
    history.load(store.read_metrics(out))
    history.truncate(step)
    return step, [jax.tree.map(jnp.asarray, state) for state in states]


def _train(study, out, history, checkpoints, step, states, watch) -> dict[str, float]:
    """Train to the end, in place of `states`; each interval is saved while the next one runs."""
    timing: dict[str, float] = {"compile_s": 0.0, "train_s": 0.0}
    schedule = study.schedule
    if step == schedule.total:
        return timing
    begin = time.perf_counter()
    compile_all(study, states, study.dataset)
    timing["compile_s"] = time.perf_counter() - begin
    with ThreadPoolExecutor(1) as saver, _stop_on_interrupt() as stopped:
        saved: Future | None = None
        while step < schedule.total:
            begin = time.perf_counter()
            row = advance(study, states, step)
            timing["train_s"] += time.perf_counter() - begin
            step = 0 if step < 0 else step + schedule.interval
            if saved is not None:
                saved.result()
            history.append(step, row)
            watch(Progress(step, schedule.total, _losses(study, row)))
            snapshot = [jax.tree.map(np.array, state) for state in states]
            saved = saver.submit(_save, out, history, checkpoints, step, snapshot)
            if stopped():
                saved.result()
                raise Interrupted
        if saved is not None:
            saved.result()
    return timing


def _save(out: Path, history: store.History, checkpoints: store.Checkpoints, step: int, states: list[Member]):
    # Metrics first: a checkpoint must never be ahead of the measurements that lead to it.
    store.write_metrics(out, history)
    checkpoints.save(step, states)


def compile_all(study: Study, states: list[Member], dataset: Dataset):
    """Compile what trains and what measures."""
    # One program is traced, in Python, while another one is compiled; two compiled at a time would take twice the
    # memory, and are hardly faster, for XLA uses all cores as it is.
    compiler, collecting = ThreadPoolExecutor(1), gc.isenabled()
    # Nearly all objects that tracing makes stay: a tenth of its time would go to looking for garbage among them.
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


def advance(study: Study, states: list[Member], step: int) -> dict[str, np.ndarray]:
    """Train every program for an interval, in place of `states` (or only measure, at step -1), and join what is
    measured, as arrays of (arm, seed, ...)."""
    rows: dict[str, Metrics] = {}
    done = 0 if step < 0 else step + study.schedule.interval
    deep, nothing = study.measures_deeply(done), unmeasured(study.config.seeds, study.programs[0].structure.depth)
    for i, program in enumerate(study.programs):
        logs = jnp.full((len(program.members), 4), jnp.nan)
        if step >= 0:
            states[i], logs, _ = program.run(states[i], step, study.schedule.interval, study.dataset)
        measured = study.observer.measure(program, states[i], study.dataset)
        more = study.observer.measure_deeply(program, states[i], done, study.dataset) if deep else {}
        for arm in program.arms:
            rows[arm.name] = _named(program.of_arm(logs, arm)) | measured[arm.name] | more.get(arm.name, nothing)
    found = {name: _of_the_living(row) for name, row in jax.device_get(rows).items()}
    return {name: np.stack([found[arm.name][name] for arm in study.arms]) for name in found[study.arms[0].name]}


def _named(logs: Float[Array, "members 4"]) -> Metrics:
    return dict(zip(("train_loss", "train_accuracy", "penalty_term", "gradient_norm"), logs.T, strict=True))


def _of_the_living(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """NaN in place of everything that was measured of a member that diverged."""
    dead = row["diverged_step"] >= 0
    mask = lambda values: np.where(dead.reshape(-1, *(1,) * (values.ndim - 1)), np.nan, values)
    return {name: values if name == "diverged_step" else mask(values) for name, values in row.items()}


def _losses(study: Study, row: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean validation loss of the members of each arm that are alive."""
    losses = row["validation_loss"]
    alive = [values[np.isfinite(values)] for values in losses]
    return {arm.name: float(v.mean()) if v.size else np.nan for arm, v in zip(study.arms, alive, strict=True)}


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question that is asked after each interval; a second one stops at once."""
    asked = []

    def handler(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        previous = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)


def evaluate(study: Study, states: list[Member], history: store.History) -> dict[str, Any]:
    """The results of all arms on the test split, which nothing before this has looked at."""
    split = on_device(study.data.test())
    accuracies, diverged = {}, {}
    for program, state in zip(study.programs, states, strict=True):
        scores = study.observer.score(program, state, split, study.dataset)
        for arm in program.arms:
            survived = np.asarray(program.of_arm(state.diverged, arm)) < 0
            hits = np.asarray(scores[arm.name]["accuracy"], np.float64)
            accuracies[arm.name] = np.where(survived, hits, np.nan)
            diverged[arm.name] = int(np.isnan(accuracies[arm.name]).sum())
    validation = history.rows[-1]["validation_accuracy"]
    return {
        "arms": [
            _describe_arm(study, arm)
            | {"n": int(np.isfinite(accuracies[arm.name]).sum()), "diverged": diverged[arm.name]}
            | {"test_accuracy": _summary(accuracies[arm.name])}
            | {"validation_accuracy": _summary(validation[i])}
            | {"paired": _paired(arm, accuracies)}
            for i, arm in enumerate(study.arms)
        ],
    }


def _paired(arm: Arm, accuracies: dict[str, np.ndarray]) -> dict[str, Any] | None:
    if arm.name == "free" or "free" not in accuracies:
        return None
    test = statistics.paired_test(accuracies[arm.name], accuracies["free"])
    return {"against": "free"} | {name: _number(value) for name, value in dataclasses.asdict(test).items()}


def _summary(values: np.ndarray) -> dict[str, Any]:
    summary = statistics.summarise(values)
    return {
        "values": [_number(v) for v in values.tolist()],
        "mean": _number(summary.mean),
        "stderr": _number(summary.stderr),
    }


def _number(value: float | int) -> float | int | None:
    # JSON has no NaN.
    return value if np.isfinite(value) else None


def _write_weights(study: Study, out: Path, states: list[Member]):
    """The weights of the first seed's first and last blocks, for pictures."""
    weights = {}
    for program, state in zip(study.programs, states, strict=True):
        for arm in program.arms:
            arrays = jax.tree.map(lambda a: a[0], program.of_arm(state.arrays, arm))
            for key, coupling in _end_couplings(program.model(arrays)):
                weights[f"{arm.name}|{key}|up"] = np.asarray(coupling.up)
                weights[f"{arm.name}|{key}|down"] = np.asarray(coupling.down)
    with store.replacing(out / "weights.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **weights)


def _end_couplings(model: Mixer) -> Iterator[tuple[str, Coupling]]:
    for b in sorted({0, len(model.blocks) - 1}):
        for branch in BRANCHES:
            yield f"{b}|{branch}", branch_coupling(model.blocks[b], branch)


def _describe_arm(study: Study, arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "paper_name": arm.paper_name,
        "kind": arm.kind,
        "penalty": arm.penalty,
        "parameters": study.parameters(arm),
    }


def _description(study: Study, command: str) -> dict[str, Any]:
    """The contents of `study.json`."""
    return {
        "config": study.config.to_json(),
        "digest": study.config.digest,
        "arms": [_describe_arm(study, arm) for arm in study.arms],
        "environment": environment(),
        "command": command,
        "data": study.data.summary(),
        "steps_total": study.schedule.total,
        "created": _now(),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
