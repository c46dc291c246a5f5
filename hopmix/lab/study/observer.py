"""The observer: measures the members of each arm by programs that arms share.

Every mixer is measured with explicit down-weights, a symmetric one with a breaking of zero, and
couplings are measured apart from the blocks that they are in. Free, broken and symmetric mixers of
one shape then need one program for their blocks, and all mixers whose couplings have the same
shapes one program for their weights.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PyTree

from hopmix._coupling import Coupling
from hopmix._tree import map_couplings, trainable
from hopmix._types import Scalar
from hopmix.lab.config import StudyConfig
from hopmix.lab.data.augment import normalise
from hopmix.lab.families.arm import Arm
from hopmix.lab.probes import metrics
from hopmix.lab.probes.metrics import Couplings, Metrics, branches
from hopmix.lab.runtime.compiler_options import forward_options
from hopmix.lab.train.cached_jit import CachedJit
from hopmix.lab.train.program import Dataset, Images, Member, Program, logits_in
from hopmix.models.mixer import Mixer

EVALUATION_BATCH = 500
ENERGY_BATCH = 16
FIELD_BATCH = 4


class Observer:
    """Measures the members of one arm at a time: side by side, or as many together as the study
    says.

    Programs are compiled by `prepare`, or when they are first needed.

    **Arguments:**

    - `config`: of the study.
    """

    def __init__(self, config: StudyConfig):
        self.config = config
        self._blocks, self._fields = self._compiled(self.blocks), self._compiled(self.fields)
        self._weights, self._spectra = self._compiled(self.weights), self._compiled(self.spectra)
        self._scores = self._compiled(self.scores)

    def _compiled(self, function: Callable) -> CachedJit:
        return CachedJit(function, compiler_options=forward_options())

    @property
    def programs(self) -> list[jax.stages.Compiled]:
        """The compiled programs that a study runs again and again; waits for those that are being
        compiled.
        """
        return [
            p
            for ahead in (self._blocks, self._weights, self._fields, self._spectra)
            for p in ahead.programs
        ]

    def prepare(self, compiler: Executor, program: Program, members: Member, dataset: Dataset):
        """Trace what measures the arms of a program, and let `compiler` compile it; spectra and
        fields if the study wants them."""
        for arm in program.arms:
            models, couplings, seeds = eqx.filter_eval_shape(
                partial(_of_arm, program, arm), members
            )
            self._blocks.prepare(compiler, models, dataset)
            self._weights.prepare(compiler, couplings)
            if self.config.deep:
                self._fields.prepare(
                    compiler, models, seeds, jax.ShapeDtypeStruct((), jnp.int32), dataset
                )
                updates = eqx.filter_eval_shape(
                    partial(_updates_of_arm, program, arm), program.parameters_of(members)
                )
                self._spectra.prepare(compiler, couplings, updates)

    def measure(self, program: Program, members: Member, dataset: Dataset) -> dict[str, Metrics]:
        """Validation, energies and the asymmetry of the weights of the members of each arm of a
        program.
        """
        measured = {}
        for arm in program.arms:
            models, couplings, _ = _of_arm(program, arm, members)
            diverged = {"diverged_step": program.of_arm(members.diverged, arm)}
            measured[arm.name] = diverged | self._blocks(models, dataset) | self._weights(couplings)
        return measured

    def measure_deeply(
        self, program: Program, members: Member, step: int, dataset: Dataset
    ) -> dict[str, Metrics]:
        """Spectra and fields of the members of each arm after so many steps, and how fast the next
        step will break the symmetry."""
        updates = program.next_updates(members, step, dataset)
        measured = {}
        for arm in program.arms:
            models, couplings, seeds = _of_arm(program, arm, members)
            spectra = self._spectra(couplings, _updates_of_arm(program, arm, updates))
            measured[arm.name] = spectra | self._fields(models, seeds, jnp.int32(step), dataset)
        return measured

    def score(
        self, program: Program, members: Member, split: Images, dataset: Dataset
    ) -> dict[str, Metrics]:
        """Mean cross-entropy and accuracy on a split of the members of each arm of a program."""
        return {
            arm.name: self._scores(_of_arm(program, arm, members)[0], split, dataset)
            for arm in program.arms
        }

    # ---- What is compiled: all members of an arm -------------------------------------------------

    def blocks(self, models: Mixer, dataset: Dataset) -> Metrics:
        """Validation and energies."""
        return self._over_members(partial(self._measure_blocks, dataset=dataset), models)

    def weights(self, couplings: Couplings) -> Metrics:
        """Asymmetry."""
        return self._over_members(metrics.asymmetry, couplings)

    def fields(
        self, models: Mixer, seeds: Int[Array, " members"], step: Int[Array, ""], dataset: Dataset
    ) -> Metrics:
        """Vector fields of blocks."""
        return self._over_members(
            partial(self._measure_fields, step=step, dataset=dataset), models, seeds
        )

    def spectra(self, couplings: Couplings, updates: Couplings) -> Metrics:
        """Spectra, and the rates of breaking."""
        measure = lambda couplings, updates: (
            metrics.spectra(couplings) | metrics.breaking_rates(couplings, updates)
        )
        return self._over_members(measure, couplings, updates)

    def scores(self, models: Mixer, split: Images, dataset: Dataset) -> Metrics:
        """Mean cross-entropy and accuracy on a split."""
        loss, accuracy = self._over_members(
            partial(self.evaluate, split=split, dataset=dataset), models
        )
        return {"loss": loss, "accuracy": accuracy}

    def _over_members(self, function: Callable, *members: PyTree) -> Any:
        arrays, constants = eqx.partition(members, eqx.is_array)

        def of_one(arrays: PyTree) -> Any:
            return function(*eqx.combine(arrays, constants))

        if self.config.together is None:
            return jax.vmap(of_one)(arrays)
        return jax.lax.map(of_one, arrays, batch_size=self.config.together)

    # ---- Of one member ---------------------------------------------------------------------------

    def _measure_blocks(self, model: Mixer, dataset: Dataset) -> Metrics:
        loss, accuracy = self.evaluate(model, dataset.validation, dataset)
        return {
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "parameter_norm": optax.tree.norm(eqx.filter(model, trainable(model))),
            **metrics.energy_descent(model, _fixed_images(dataset)),
        }

    def _measure_fields(
        self, model: Mixer, seed: Int[Array, ""], step: Int[Array, ""], dataset: Dataset
    ) -> Metrics:
        images = _fixed_images(dataset)[:: max(1, ENERGY_BATCH // FIELD_BATCH)]
        return metrics.fields(model, images, jr.fold_in(jr.fold_in(jr.key(seed), 3), step))

    def evaluate(self, model: Mixer, split: Images, dataset: Dataset) -> tuple[Scalar, Scalar]:
        """Mean cross-entropy and accuracy of one member on a split, a bounded number of images at a
        time.
        """

        def one_batch(images: Images):
            pixels = normalise(images.pixels, dataset.mean, dataset.std)
            logits = logits_in(self.config.precision, model, pixels).astype(jnp.float32)
            return metrics.loss_and_hits(logits, images.labels)

        n = split.labels.size
        whole = n - n % EVALUATION_BATCH
        folded = jax.tree.map(
            lambda a: a[:whole].reshape(-1, EVALUATION_BATCH, *a.shape[1:]), split
        )
        if n > whole:
            totals = [jax.tree.map(jnp.sum, one_batch(jax.tree.map(lambda a: a[whole:], split)))]
        else:
            totals = []
        if whole:
            totals.append(jax.tree.map(jnp.sum, jax.lax.map(one_batch, folded)))
        loss, hits = jax.tree.map(lambda *parts: sum(parts) / n, *totals)
        return loss, jnp.where(
            jnp.isfinite(loss), hits, jnp.nan
        )  # the argmax of NaN is a class like any other


def _fixed_images(dataset: Dataset) -> Float[Array, "batch height width colours"]:
    """The validation images on which energies and fields are measured."""
    # Evenly spaced: image folders are in the order of their classes.
    split = dataset.validation
    stride = max(1, split.labels.size // ENERGY_BATCH)
    return normalise(split.pixels[::stride][:ENERGY_BATCH], dataset.mean, dataset.std)


def _of_arm(
    program: Program, arm: Arm, members: Member
) -> tuple[Mixer, Couplings, Int[Array, " members"]]:
    models = map_couplings(Coupling.explicit, program.model(program.of_arm(members.arrays, arm)))
    return models, branches(models), program.of_arm(members.seed, arm)


def _updates_of_arm(program: Program, arm: Arm, updates: Mixer) -> Couplings:
    return branches(map_couplings(Coupling.explicit, program.of_arm(updates, arm)))
