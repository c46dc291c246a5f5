"""What the members of a study need at least, beside the memory that is there."""

from collections.abc import Sequence

import jax

from hopmix.lab.config import StudyConfig
from hopmix.lab.data.sources.room import free_memory
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm, is_shape

NUMBER = 4
"""Bytes of a number in float32."""

COPIES = 3
"""Parameters, and the two moments that AdamW keeps of each."""


def need_memory(config: StudyConfig, arms: Sequence[Arm]):
    """Refuse a study whose members cannot be in memory, before anything of them is made.

    **Raises:** `UsageError` where parameters, moments, and the states that gradients need, are more
    than there is.
    """
    members = sum(_parameters(arm) for arm in arms) * config.seeds
    if config.members_at_once is None:
        trained = len(arms) * config.seeds
    else:
        trained = config.members_at_once
    states = max(arm.activations for arm in arms) * config.batch * min(trained, config.seeds)
    least = NUMBER * (COPIES * members + states)
    there = memory()
    if there is not None and least > there:
        raise UsageError(
            f"dim, depth, seeds, batch: {len(arms)} arms of {config.seeds} seeds need "
            f"{least / 1e9:,.1f} GB at least, "
            f"and {there / 1e9:,.1f} GB are free; choose smaller ones, fewer arms, or "
            f"--members-at-once 1."
        )


def memory() -> int | None:
    """Bytes of memory that arrays can be in: of the device where it tells, or else of what the
    machine has free.
    """
    told = jax.devices()[0].memory_stats() or {}
    return told.get("bytes_limit") or free_memory()


def _parameters(arm: Arm) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(arm.shapes) if is_shape(leaf))
