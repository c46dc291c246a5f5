"""The members of a run as one of its checkpoints holds them; nothing in the folder is changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.train.population import Population
from hopmix.lab.train.step import TrainState


def locate(path: Path) -> tuple[Path, int | None]:
    """The folder of the study, and the step of the checkpoint if the path is that of one."""
    if path.parent.name == "checkpoints" and path.name.isdecimal() and path.name.isascii():
        return path.parent.parent, int(path.name)
    return (path.parent if path.name == "checkpoints" else path), None


def require_checkpoint(out: Path, step: int | None):
    """Raise `UsageError` where there is no checkpoint, or none of this step, before anything is
    loaded.
    """
    found = store.steps_in(out)
    if not found:
        raise UsageError(f"{out}: there is no checkpoint yet; go on with `hopmix resume {out}`.")
    if step is not None and step not in found:
        raise UsageError(
            f"{out}: no checkpoint of step {step}; there are {', '.join(map(str, found))}."
        )


def progress(step: int, total: int) -> str:
    """A step in words, which say where it is not the last one of the study."""
    if step == total:
        return f"{step:,}"
    return f"{step:,} of {total:,}"


class Read(NamedTuple):
    """What was read from a run: the step, the members, one state per population, and what was
    passed over.
    """

    step: int
    states: list[TrainState]
    passed: list[str]


def read_checkpoint(
    populations: Sequence[Population], out: Path, record: store.Record, step: int | None
) -> Read:
    """The members of a checkpoint: the newest undamaged one by default.

    **Raises:** `UsageError` where none is readable, or one is of another study.
    """
    like = [group.shapes() for group in populations]
    passed = []
    with store.Checkpoints(out, record.owner, read_only=True) as checkpoints:
        for candidate in reversed(checkpoints.steps) if step is None else (step,):
            try:
                return Read(candidate, checkpoints.read(candidate, like).states, passed)
            except store.Damaged as error:
                passed.append(
                    f"checkpoint of step {candidate} is damaged ({error}), and is passed over"
                )
    told = "; ".join(passed)
    raise UsageError(
        f"{out}: no checkpoint is readable ({told}); train the study anew under another name."
    )


def members_of(
    populations: Sequence[Population], states: Sequence[TrainState]
) -> Iterator[tuple[TrainState, Arm, int, Any]]:
    """Each member with its arm, its seed and its model."""
    for group, state in zip(populations, states, strict=True):
        for i, (arm, seed) in enumerate(group.members):
            member = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), state)
            yield member, arm, seed, group.model(member.model)
