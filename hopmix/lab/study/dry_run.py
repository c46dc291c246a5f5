"""Dry run: what a study will cost, from its compiled programs and a short trial."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopmix.lab.study.observer import ENERGY_BATCH
from hopmix.lab.study.study import Study, compile_all
from hopmix.lab.train.program import Dataset, Member, Program

TRIAL_IMAGES = 4 * ENERGY_BATCH
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
    states = [program.initial() for program in study.programs]
    begin = time.perf_counter()
    compile_all(study, states, trial)
    compile_s = time.perf_counter() - begin
    tried = [_try(study, *both, trial) for both in zip(study.programs, states, strict=True)]
    drawn, *rest = zip(*tried, strict=True)
    rows, (step, measure, deepen) = (
        max(drawn),
        map(sum, rest),
    )  # all programs train on the same rows
    # Validation reads every image once; energies read theirs twice, of any split the same number.
    larger = (study.dataset.validation.labels.size + 2 * ENERGY_BATCH) / (
        few.labels.size + 2 * ENERGY_BATCH
    )
    intervals, times, deeply = study.count_measurements()
    train_s = (
        intervals * rows + study.schedule.total * step + times * larger * measure + deeply * deepen
    )
    return Estimate(compile_s, train_s, _peak_bytes(study))


def _try(study: Study, program: Program, members: Member, trial: Dataset) -> _Trial:
    """Each runs twice: the first call pays for allocation."""
    interval = study.schedule.interval
    observer = study.observer
    steps = min(TRIAL_STEPS, interval)
    times = _Trial(0, 0, 0, 0)
    for i in range(2):
        rows, drawn = _timed(program.rows, (i + 1) * interval, trial)
        numbers = (jnp.int32(0), jnp.int32(0), jnp.int32(steps))
        (members, *_), trained = _timed(
            program.compiled, members, program.no_logs(), *numbers, rows, trial
        )
        _, measured = _timed(observer.measure, program, members, trial)
        if study.config.deep:
            deepened = _timed(observer.measure_deeply, program, members, 0, trial)[1]
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
    training = [_memory(p) for program in study.programs for p in program.compiled.programs]
    measuring = [_memory(p) for p in study.observer.programs]
    images = sum(leaf.nbytes for leaf in jax.tree.leaves(study.dataset))
    updates = max(a.output_size_in_bytes - a.alias_size_in_bytes for a in training)
    if study.config.deep:
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
