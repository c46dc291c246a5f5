"""The members of a run as one of its checkpoints holds them; nothing in the folder is changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.train.program import Member, Program
from hopmix.models.mixer import Mixer


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
    """What was read from a run: the step, the members, one population per program, and what was
    passed over.
    """

    step: int
    states: list[Member]
    passed: list[str]


def read_checkpoint(
    programs: Sequence[Program], out: Path, record: store.Record, step: int | None
) -> Read:
    """The members of a checkpoint: the newest undamaged one by default.

    **Raises:** `UsageError` where none is readable, or one is of another study.
    """
    like = [program.shapes() for program in programs]
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
    programs: Sequence[Program], states: Sequence[Member]
) -> Iterator[tuple[Member, str, int, Mixer]]:
    """Each member with the name of its arm, its seed and its model."""
    for program, state in zip(programs, states, strict=True):
        for i, (arm, seed) in enumerate(program.members):
            member = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), state)
            yield member, arm.name, seed, program.model(member.arrays)
