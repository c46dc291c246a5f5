"""Sampler: how many steps a training has, and which examples each of them sees."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int

from hopmix._types import PRNGKey
from hopmix.lab.config import StudyConfig
from hopmix.lab.errors import need
from hopmix.lab.fields import LARGEST


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps of a training: how many in all, in an epoch, and between two measurements."""

    total: int
    epoch: int
    interval: int

    @classmethod
    def of(cls, config: StudyConfig, examples: int) -> "Schedule":
        """The schedule of a study; the total is rounded up to whole intervals.

        **Raises:** `UsageError` for more steps than the device counts.
        """
        epoch = max(1, examples // config.batch)
        interval = max(1, -(-config.epochs * epoch // config.measurements))
        total = interval * -(-config.epochs * epoch // interval)
        need(
            total <= LARGEST,
            "epochs",
            config.epochs,
            f"so few that their {total:,} steps are at most {LARGEST:,}",
        )
        return cls(total, epoch, interval)


@partial(jax.jit, static_argnames=("schedule", "batch", "examples"))
def draw_rows(
    seeds: Int[Array, " seeds"],
    first_step: Int[Array, ""],
    schedule: Schedule,
    batch: int,
    examples: int,
) -> Int[Array, "seeds interval batch"]:
    """The rows of a split of so many examples for each step of an interval: a fresh permutation
    each epoch.
    """
    per_epoch = schedule.epoch
    interval = schedule.interval
    epochs = first_step // per_epoch + jnp.arange(
        (interval + per_epoch - 2) // per_epoch + 1, dtype=jnp.int32
    )
    start = (first_step % per_epoch) * batch

    def draw(seed: Int[Array, ""]) -> Int[Array, "interval batch"]:
        keys = jax.vmap(lambda epoch: jr.fold_in(jr.fold_in(jr.key(seed), 1), epoch))(epochs)
        orders = jax.vmap(lambda key: jr.permutation(key, examples)[: per_epoch * batch])(keys)
        order = orders.astype(jnp.int32).reshape(-1)
        drawn = jax.lax.dynamic_slice(order, (start,), (interval * batch,))
        return drawn.reshape(interval, batch)

    return jax.vmap(draw)(seeds)


# All programs of a study ask for the rows of an interval and, for the next update, of the next one.
@lru_cache(maxsize=2)
def rows_of_seeds(
    seeds: range, first_step: int, schedule: Schedule, batch: int, examples: int
) -> Int[Array, "seeds interval batch"]:
    """The rows of `draw_rows`, kept for those who ask next."""
    numbers = jnp.asarray(seeds, jnp.int32)
    return draw_rows(numbers, jnp.int32(first_step), schedule, batch, examples)


def step_key(seed: Int[Array, ""], step: Int[Array, ""]) -> PRNGKey:
    """The key of a step of a seed; its batch and its model fold in numbers of their own."""
    return jr.fold_in(jr.fold_in(jr.key(seed), 2), step)
