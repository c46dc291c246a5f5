"""Dry run: what a study will cost, from its compiled programs and a short trial."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from hopmix.lab.study import Study, compile_all
from hopmix.lab.train import ENERGY_BATCH, Compiled, Dataset, Member

TRIAL_IMAGES = 4 * ENERGY_BATCH
TRIAL_STEPS = 5


class Estimate(NamedTuple):
    """Compile time and training time in seconds, and peak memory in bytes."""

    compile_s: float
    train_s: float
    memory: int


def estimate(study: Study) -> Estimate:
    """Compile everything, time a few steps of every member and a measurement on a few images, and scale both up."""
    few = jax.tree.map(lambda a: a[:TRIAL_IMAGES], study.dataset.validation)
    trial = dataclasses.replace(study.dataset, validation=few)
    states = [program.initial() for program in study.programs]
    begin = time.perf_counter()
    programs = compile_all(study, states, trial)
    compile_s = time.perf_counter() - begin
    steps, measurements = zip(*(_try(*both, trial) for both in zip(programs, states, strict=True)), strict=True)
    # Validation reads every image once; energies read theirs twice, of any split the same number.
    larger = (study.dataset.validation.labels.size + 2 * ENERGY_BATCH) / (few.labels.size + 2 * ENERGY_BATCH)
    times = study.schedule.total // study.schedule.interval + 1
    train_s = study.schedule.total * sum(steps) + times * larger * sum(measurements)
    return Estimate(compile_s, train_s, _peak_bytes(programs))


def _try(program: Compiled, members: Member, trial: Dataset) -> tuple[float, float]:
    """The seconds of a step and of a measurement. Each runs twice: the first call pays for allocation."""
    steps = min(TRIAL_STEPS, program.program.schedule.interval)
    train = measure = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        members, *_ = jax.block_until_ready(program.run(members, 0, steps, trial))
        train = time.perf_counter() - begin
        jax.block_until_ready(program.measure(members, trial))
        measure = time.perf_counter() - begin - train
    return train / steps, measure


def _peak_bytes(programs: Sequence[Compiled]) -> int:
    # One program runs at a time, but all members stay; donated members and outputs share memory.
    everything = [part for p in programs for part in (p.train, p.measure, p.measure_deeply) if part]
    members = sum(_memory(p.train).argument_size_in_bytes for p in programs)
    return members + max(_memory(part).temp_size_in_bytes for part in everything)


def _memory(program: jax.stages.Compiled) -> Any:
    analysis = program.memory_analysis()
    assert analysis is not None, "XLA tells no memory of this program"
    return analysis
