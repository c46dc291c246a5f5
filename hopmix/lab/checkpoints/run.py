"""The layers of networks that hopmix trained: all members of a run at a checkpoint, or one mixer
from a file.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp

from hopmix._coupling import Coupling
from hopmix.lab import store
from hopmix.lab.checkpoints.layers import Layer, LayerSet, Skipped
from hopmix.lab.errors import UsageError
from hopmix.lab.families.own import Own, digests, own_arms
from hopmix.lab.probes.layout import Layout
from hopmix.lab.study.arms import make_arms
from hopmix.lab.study.continued import own_of, require_same_arms, require_same_files
from hopmix.lab.study.trained import (
    locate,
    members_of,
    progress,
    read_checkpoint,
    require_checkpoint,
)
from hopmix.lab.tasks.classification import Dataset, Images, make_task
from hopmix.lab.train.population import Population, populations_of


def is_run(path: Path) -> bool:
    """Whether a path is that of a study of hopmix, or of one of its checkpoints."""
    return (locate(path)[0] / "study.json").is_file()


def run_layers(path: Path, arms: Sequence[str] = ()) -> LayerSet:
    """The couplings of every arm, seed, block and branch of a run.

    The images that it was trained on are not needed.

    **Arguments:**

    - `path`: the folder of the study, for its newest readable checkpoint, or a checkpoint.
    - `arms`: where the user's own arms of it are now; what a run names is never imported.

    **Raises:** `UsageError` where there is no study or no readable checkpoint.
    """
    out, step = locate(path)
    record = store.read_record(out)
    record.require_study(out)
    require_checkpoint(out, step)
    own = own_of(record, "arms", arms)
    require_same_files(digests(own), record, out)
    populations = _populations(record, out, own)
    step, states, passed = read_checkpoint(populations, out, record, step)
    layers = []
    diverged = []
    for member, arm, seed, model in members_of(populations, states):
        if member.diverged < 0:
            layers += layers_of(arm.couplings(model), arm.name, seed)
        else:
            diverged.append(
                Skipped(f"{arm.name}, seed {seed}", f"diverged at step {int(member.diverged)}")
            )
    if not layers:
        raise UsageError(f"path: all members of {out} diverged; there is nothing to measure.")
    source = "; ".join(
        [f"the run {out.name} after {progress(step, record.steps_total)} steps", *passed]
    )
    return LayerSet(source, layers, diverged)


def layers_of(
    couplings: Mapping[str, Coupling], arm: str = "", seed: int | None = None
) -> Iterator[Layer]:
    """The couplings of a model by their names, block after block."""
    layout = Layout.of(couplings)
    for name in sorted(couplings, key=lambda name: _rank(layout, name)):
        coupling = couplings[name]
        block, branch = layout.places[name]
        hidden, visible = coupling.up.shape
        load = functools.partial(_in_float32, coupling)
        yield Layer(f"block {block}", branch, "pair", visible, hidden, (), load, arm, seed)


def _rank(layout: Layout, name: str) -> tuple[int, int]:
    block, branch = layout.places[name]
    return block, layout.branches.index(branch)


def _in_float32(coupling: Coupling) -> Coupling:
    # One structure for all kinds of coupling, so that one program measures them all.
    return Coupling.from_weights(coupling.up.astype(jnp.float32), coupling.down.astype(jnp.float32))


def _populations(record: store.Record, out: Path, own: Mapping[str, Own]) -> list[Population]:
    """The populations of a study whose images are only shapes: enough to know what a checkpoint
    holds.
    """
    config = record.config
    about = record.values.get("data", {})
    try:
        given = own_arms(config.arms, own, tuple(about["image"]), about["classes"])
        arms = make_arms(config, tuple(about["image"]), about["classes"], given)
        dataset = eqx.filter_eval_shape(
            _blank, about["train"], tuple(about["image"]), about["classes"]
        )
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{out / 'study.json'}: damaged, it does not describe its images ({error!r})."
        ) from None
    require_same_arms(arms, record, out)
    return populations_of(config, make_task(config, dataset.image), arms, dataset)


def _blank(examples: int, image: tuple[int, int, int], classes: int) -> Dataset:
    split = Images(jnp.zeros((examples, *image), jnp.uint8), jnp.zeros(examples, jnp.int32))
    return Dataset(split, split, jnp.zeros(image[-1]), jnp.ones(image[-1]), classes)
