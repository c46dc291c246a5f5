"""Dry run: what a study will cost, from its compiled programs and a short trial."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopmix.lab.study.evaluator import INPUTS
from hopmix.lab.study.interval import compile_all
from hopmix.lab.study.prepared import Study
from hopmix.lab.tasks.classification import Dataset
from hopmix.lab.train.population import Population
from hopmix.lab.train.step import TrainState

TRIAL_IMAGES = 4 * INPUTS
TRIAL_STEPS = 5


class Estimate(NamedTuple):
    """Compile time and training time in seconds, and peak memory in bytes."""

    compile_s: float
    train_s: float
    memory: int


class _Trial(NamedTuple):
    """Seconds of one program: drawing the rows of an interval, a step, measuring, and measuring
    deeply.
    """

    rows: float
    step: float
    measure: float
    deepen: float


def estimate(study: Study) -> Estimate:
    """Compile everything, time a few steps of every member and measurements on a few images, and
    scale them up.
    """
    few = jax.tree.map(lambda a: a[:TRIAL_IMAGES], study.dataset.validation)
    trial = dataclasses.replace(study.dataset, validation=few)
    states = [group.initial() for group in study.populations]
    begin = time.perf_counter()
    compile_all(study, states, trial)
    compile_s = time.perf_counter() - begin
    tried = [_try(study, *both, trial) for both in zip(study.populations, states, strict=True)]
    drawn, *rest = zip(*tried, strict=True)
    rows = max(drawn)  # all populations train on the same rows
    step, measure, deepen = map(sum, rest)
    # Validation reads every image once; energies read theirs twice, of any split the same number.
    larger = (study.dataset.validation.labels.size + 2 * INPUTS) / (few.labels.size + 2 * INPUTS)
    intervals, times, deeply = study.count_measurements()
    train_s = (
        intervals * rows + study.schedule.total * step + times * larger * measure + deeply * deepen
    )
    return Estimate(compile_s, train_s, _peak_bytes(study))


def _try(study: Study, group: Population, members: TrainState, trial: Dataset) -> _Trial:
    """Each runs twice: the first call pays for allocation."""
    interval = study.schedule.interval
    evaluator = study.evaluator
    steps = min(TRIAL_STEPS, interval)
    times = _Trial(0, 0, 0, 0)
    for i in range(2):
        rows, drawn = _timed(group.rows, (i + 1) * interval, trial)
        numbers = (jnp.int32(0), jnp.int32(0), jnp.int32(steps))
        (members, *_), trained = _timed(
            group.compiled, members, group.no_logs(), *numbers, rows, trial
        )
        _, measured = _timed(evaluator.measure, group, members, 0, trial)
        if study.config.spectra_every:
            deepened = _timed(evaluator.measure_expensive, group, members, 0, trial)[1]
        else:
            deepened = 0.0
        times = _Trial(drawn, trained / steps, measured, deepened)
    return times


def _timed(call: Callable, *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = jax.block_until_ready(call(*arguments))
    return result, time.perf_counter() - begin


def _peak_bytes(study: Study) -> int:
    # One program runs at a time, but all members and the images stay. What trains returns the last
    # updates beside the members, whose memory it takes over; what measures spectra and fields
    # begins with a step of copies of them, and all that measures takes copies of those of an arm.
    training = [_memory(p) for group in study.populations for p in group.compiled.programs]
    measuring = [_memory(p) for p in study.evaluator.programs]
    images = sum(leaf.nbytes for leaf in jax.tree.leaves(study.dataset))
    updates = max(a.output_size_in_bytes - a.alias_size_in_bytes for a in training)
    if study.config.spectra_every:
        copies = max(a.alias_size_in_bytes for a in training)
    else:
        copies = 0
    working = max(a.temp_size_in_bytes for a in training + measuring)
    copies += max(a.argument_size_in_bytes for a in measuring)
    return study.state_bytes() + images + updates + copies + working


def _memory(program: jax.stages.Compiled) -> Any:
    analysis = program.memory_analysis()
    assert analysis is not None, "XLA tells no memory of this program"
    return analysis
