"""The members of a run as one of its checkpoints holds them; nothing in the folder is changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from hopmix.lab import store
from hopmix.lab.config import UsageError
from hopmix.lab.train import Member, Program
from hopmix.models.mixer import Mixer


def locate(path: Path) -> tuple[Path, int | None]:
    """The folder of the study, and the step of the checkpoint if the path is that of one."""
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return (path.parent if path.name == "checkpoints" else path), None


def require_checkpoint(out: Path, step: int | None):
    """Raise `UsageError` where there is no checkpoint, or none of this step, before anything is loaded."""
    # Orbax would make the folder.
    found = sorted(int(p.name) for p in out.glob("checkpoints/*") if p.name.isdigit())
    if not found:
        raise UsageError(f"{out}: there is no checkpoint yet; go on with `hopmix resume {out}`.")
    if step is not None and step not in found:
        raise UsageError(f"{out}: no checkpoint of step {step}; there are {', '.join(map(str, found))}.")


def read_checkpoint(programs: Sequence[Program], out: Path, step: int | None) -> tuple[int, list[Member]]:
    """The step and the members, one population per program, of a checkpoint: the newest readable one by default."""
    like = [program.shapes() for program in programs]
    with store.Checkpoints(out) as checkpoints:
        for candidate in reversed(checkpoints.steps) if step is None else (step,):
            try:
                return candidate, checkpoints.read(candidate, like)
            except Exception:  # Orbax raises many kinds for damaged files; all mean the same here.
                continue
    raise UsageError(f"{out}: no checkpoint is readable; train the study anew under another name.")


def members_of(programs: Sequence[Program], states: Sequence[Member]) -> Iterator[tuple[Member, str, int, Mixer]]:
    """Each member with the name of its arm, its seed and its model."""
    for program, state in zip(programs, states, strict=True):
        for i, (arm, seed) in enumerate(program.members):
            member = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), state)
            yield member, arm.name, seed, program.model(member.arrays)
