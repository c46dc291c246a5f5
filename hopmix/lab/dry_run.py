"""Dry run: what a study will cost, from its compiled programs and a short trial."""

import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hopmix.lab.study import Study, compile_all
from hopmix.lab.train import ENERGY_BATCH

TRIAL_IMAGES = 4 * ENERGY_BATCH
BACKWARD = 2.5
"""A training step in units of its forward pass: twice for the gradients, and the update."""


class Estimate(NamedTuple):
    """Compile time and training time in seconds, and peak memory in bytes."""

    compile_s: float
    train_s: float
    memory: int


def estimate(study: Study) -> Estimate:
    """Compile everything, time a forward pass of every member on a few images, and scale it to the whole study."""
    few = jax.tree.map(lambda a: a[:TRIAL_IMAGES], study.dataset.validation)
    trial = dataclasses.replace(study.dataset, validation=few)
    states = [program.initial() for program in study.programs]
    begin = time.perf_counter()
    programs = compile_all(study, states, trial)
    compile_s = time.perf_counter() - begin
    memory = _peak_bytes(programs)
    step, deep = jnp.asarray(-1, jnp.int32), jnp.asarray(False)
    for program, state in zip(programs, states, strict=True):  # the first call pays for allocation
        jax.block_until_ready(program(state, step, deep, trial))
    states = [program.initial() for program in study.programs]
    begin = time.perf_counter()
    for program, state in zip(programs, states, strict=True):
        jax.block_until_ready(program(state, step, deep, trial))
    forward = (time.perf_counter() - begin) / (few.labels.size + 2 * ENERGY_BATCH)
    images = study.schedule.total * study.config.batch
    return Estimate(compile_s, forward * images * (1 + BACKWARD), memory)


def _peak_bytes(programs) -> int:
    # One program runs at a time, but all members stay; donated members and outputs share memory.
    analyses = [program.memory_analysis() for program in programs]
    return max(a.temp_size_in_bytes for a in analyses) + sum(a.argument_size_in_bytes for a in analyses)
