"""Training: a population of members that share a structure, one compiled program for an interval.

A member is a pure function of its seed and its arm's numbers. Members of one structure are stacked and mapped over;
the steps of an interval are one scan, and everything is measured at its end inside the same program.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from hopmix._coupling import Coupling, trainable
from hopmix._types import PRNGKey, Scalar
from hopmix.lab import metrics
from hopmix.lab._compiler_options import forward_options
from hopmix.lab.arms import Arm
from hopmix.lab.augment import Augment, augment, normalise
from hopmix.lab.config import StudyConfig
from hopmix.lab.data import Data, Split
from hopmix.models.mixer import Mixer, MixerConfig

EVALUATION_BATCH = 500
ENERGY_BATCH = 16
FIELD_BATCH = 4

Batch: TypeAlias = tuple[Float[Array, "batch height width colours"], Float[Array, "batch classes"]]
"""The images and the targets of a step."""


class Images(eqx.Module):
    """A split on the device: pixels and labels."""

    pixels: UInt8[Array, "n height width colours"]
    labels: Int[Array, " n"]


class Dataset(eqx.Module):
    """What training reads: the train and validation splits, and the statistics of the pixels in units of 0 to 1."""

    train: Images
    validation: Images
    mean: Float[Array, " colours"]
    std: Float[Array, " colours"]


class Member(eqx.Module):
    """The state of one member, or of a population with a leading axis.

    - `arrays`: all arrays of the model; `optimiser`: the optimiser's state.
    - `seed`, `penalty`: the numbers that it is a function of.
    - `diverged`: the step at which the loss was first not finite, or -1.
    """

    arrays: PyTree
    optimiser: PyTree
    seed: Int[Array, "..."]
    penalty: Float[Array, "..."]
    diverged: Int[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps of a training: how many in all, in an epoch, and between two measurements."""

    total: int
    epoch: int
    interval: int

    @classmethod
    def of(cls, config: StudyConfig, images: int) -> "Schedule":
        """The schedule of a study; the total is rounded up to whole intervals."""
        epoch = max(1, images // config.batch)
        interval = max(1, -(-config.epochs * epoch // config.measurements))
        return cls(interval * -(-config.epochs * epoch // interval), epoch, interval)


def make_optimiser(config: StudyConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine, clipping by the norm of the whole gradient, decay of matrices only."""
    warmup = int(config.warmup * steps)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=decayed),
    )


def decayed(tree: PyTree) -> PyTree:
    """True at the leaves that weight decay acts on: couplings and linear maps, neither norms nor biases."""
    matrices = (Coupling, eqx.nn.Linear)

    def mark(node):
        spec = jax.tree.map(lambda _: isinstance(node, matrices), node)
        return eqx.tree_at(lambda m: m.bias, spec, False) if isinstance(node, eqx.nn.Linear) else spec

    return jax.tree.map(mark, tree, is_leaf=lambda node: isinstance(node, matrices))


def objective(
    model: Mixer,
    images: Float[Array, "batch height width colours"],
    targets: Float[Array, "batch classes"],
    penalty: Scalar,
    key: PRNGKey | None = None,
    precision: str | None = None,
) -> tuple[Scalar, tuple[Scalar, Scalar]]:
    r"""The training loss, cross-entropy $+\ \lambda \sum |\text{breaking}|_F^2$.

    **Arguments:**

    - `model`, `images`, `targets`: one member's model, a batch, and the (smoothed, mixed) label distributions.
    - `penalty`: lambda.
    - `key`: of the stochastic depth, or `None`.
    - `precision`: the dtype in which logits are computed, by default the model's; the rest keeps the model's.

    **Returns:** the loss, and the accuracy with the penalty term as auxiliary values.

    **Source:** arXiv 2406.12220, code (no factor of one half).
    """
    logits = logits_in(precision, model, images, key).astype(targets.dtype)
    term = penalty * metrics.penalty(model)
    hits = (jnp.argmax(logits, -1) == jnp.argmax(targets, -1)).astype(targets.dtype)
    return optax.softmax_cross_entropy(logits, targets).mean() + term, (hits.mean(), term)


def logits_in(
    precision: str | None, model: Mixer, images: Float[Array, "batch height width colours"], key: PRNGKey | None = None
) -> Float[Array, "batch classes"]:
    """The logits of a batch, computed in another precision than that of the weights."""
    if precision is not None:
        model, images = cast((model, images), precision)
    return model.batch(images, key)


def cast(tree: PyTree, precision: str) -> PyTree:
    """A tree with all its arrays of real numbers in another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(precision) if eqx.is_inexact_array(leaf) else leaf, tree)


class Program:
    """The training of all members of one structure.

    **Arguments:**

    - `config`: of the study.
    - `arms`: arms whose `structure` is the same.
    - `dataset`: on the device.
    """

    def __init__(self, config: StudyConfig, arms: Sequence[Arm], dataset: Dataset):
        (self.structure,) = {arm.structure for arm in arms}
        self.config, self.arms = config, tuple(arms)
        self.schedule = Schedule.of(config, dataset.train.labels.size)
        self.optimiser = make_optimiser(config, self.schedule.total)
        self.augment = make_augment(config, self.structure)
        skeleton = eqx.filter_eval_shape(Mixer, self.structure, key=jr.key(0))
        shapes, self._static = eqx.partition(skeleton, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        self._shapes, self._trainable = shapes, trainable(shapes)
        self.traces = 0
        # Kept, so that what has been compiled once is found again.
        self._advance = jax.jit(self.advance, donate_argnums=0)
        self.score = jax.jit(self._scores, compiler_options=forward_options())

    @property
    def members(self) -> list[tuple[Arm, int]]:
        """Arm and seed of each member, in the order of the leading axis."""
        first = self.config.first_seed
        return [(arm, seed) for arm in self.arms for seed in range(first, first + self.config.seeds)]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters of one member."""
        leaves = jax.tree.map(lambda leaf, train: leaf.size if train else 0, self._shapes, self._trainable)
        return sum(jax.tree.leaves(leaves))

    def initial(self) -> Member:
        """The members before training; one seed gives the same stem, head and up-weights in every arm."""
        # Run once on small arrays: LLVM's optimisations would cost more than they save, by a factor of five.
        return self._stacked(partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0}))

    def shapes(self) -> Member:
        """The members as shapes, without making them."""
        return jax.eval_shape(lambda: self._stacked(lambda function: function))

    def _stacked(self, compile: Callable) -> Member:
        start = {model: compile(jax.vmap(partial(self._start, model))) for model in {arm.model for arm in self.arms}}
        first = self.config.first_seed
        seeds = jnp.arange(first, first + self.config.seeds, dtype=jnp.int32)
        parts = [start[arm.model](seeds, jnp.full(seeds.shape, arm.penalty, jnp.float32)) for arm in self.arms]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _start(self, config: MixerConfig, seed: Int[Array, ""], penalty: Float[Array, ""]) -> Member:
        model = Mixer(config, key=jr.fold_in(jr.key(seed), 0))
        leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))]
        arrays = jax.tree.unflatten(jax.tree.structure(self._shapes), leaves)
        return Member(arrays, self.optimiser.init(self._split(arrays)[0]), seed, penalty, jnp.int32(-1))

    def model(self, arrays: PyTree) -> Mixer:
        """The model of one member."""
        return eqx.combine(arrays, self._static)

    def _split(self, arrays: PyTree) -> tuple[PyTree, PyTree]:
        return eqx.partition(arrays, self._trainable)

    def advance(
        self, members: Member, first_step: Int[Array, ""], deep: Bool[Array, ""], dataset: Dataset
    ) -> tuple[Member, metrics.Metrics]:
        """Train all members for an interval and measure them; a negative `first_step` only measures.

        With `deep`, spectra and fields are measured too.
        """
        self.traces += 1
        return self._over_members(partial(self._interval, first_step=first_step, deep=deep, dataset=dataset), members)

    def measure(
        self, members: Member, step: Int[Array, ""], deep: Bool[Array, ""], dataset: Dataset
    ) -> metrics.Metrics:
        """Measure all members as they are after so many steps."""
        return self._over_members(partial(self._measure, step=step, deep=deep, dataset=dataset), members)

    def _scores(self, arrays: PyTree, split: Images, dataset: Dataset) -> tuple[Array, Array]:
        """Mean cross-entropy and accuracy of all members on a split."""
        return self._over_members(partial(self.evaluate, split=split, dataset=dataset), arrays)

    def _over_members(self, function: Callable, members: PyTree):
        if self.config.together is None:
            return jax.vmap(function)(members)
        return jax.lax.map(function, members, batch_size=self.config.together)

    def compiled(self, members: Member, dataset: Dataset):
        """The compiled program of `advance`, whose first argument is donated."""
        step, deep = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), bool)
        return self._advance.lower(members, step, deep, dataset).compile()

    def _interval(
        self, member: Member, first_step: Int[Array, ""], deep: Bool[Array, ""], dataset: Dataset
    ) -> tuple[Member, metrics.Metrics]:
        zeros = jnp.full((4,), jnp.nan, jnp.float32)
        member, trained = jax.lax.cond(
            first_step >= 0,
            lambda m: self._train(m, first_step, dataset),
            lambda m: (m, zeros),
            member,
        )
        names = ("train_loss", "train_accuracy", "penalty_term", "gradient_norm")
        done = jnp.where(first_step >= 0, first_step + self.schedule.interval, 0)
        return member, dict(zip(names, trained, strict=True)) | self._measure(member, done, deep, dataset)

    def _train(self, member: Member, first_step: Int[Array, ""], dataset: Dataset) -> tuple[Member, Float[Array, " 4"]]:
        steps = first_step + jnp.arange(self.schedule.interval, dtype=jnp.int32)
        rows = self._batches(member.seed, first_step, dataset.train.labels.size)
        member, logs = jax.lax.scan(partial(self._step, dataset), member, (steps, rows))
        return member, jnp.mean(logs, axis=0)

    def _batches(self, seed: Int[Array, ""], first_step: Int[Array, ""], n: int) -> Int[Array, "interval batch"]:
        """The rows of the training split for each step of an interval: a fresh permutation each epoch."""
        per_epoch, interval = self.schedule.epoch, self.schedule.interval
        batch = min(self.config.batch, n)
        epochs = first_step // per_epoch + jnp.arange((interval + per_epoch - 2) // per_epoch + 1, dtype=jnp.int32)
        keys = jax.vmap(lambda epoch: jr.fold_in(jr.fold_in(jr.key(seed), 1), epoch))(epochs)
        orders = jax.vmap(lambda key: jr.permutation(key, n)[: per_epoch * batch])(keys).astype(jnp.int32)
        start = (first_step % per_epoch) * batch
        return jax.lax.dynamic_slice(orders.reshape(-1), (start,), (interval * batch,)).reshape(interval, batch)

    def _step(self, dataset: Dataset, member: Member, at) -> tuple[Member, Float[Array, " 4"]]:
        step, rows = at
        return self.learn(member, step, self.batch(dataset, member.seed, step, rows))

    def batch(self, dataset: Dataset, seed: Int[Array, ""], step: Int[Array, ""], rows: Int[Array, " batch"]) -> Batch:
        """The augmented images and the targets of a step."""
        return augment(
            self.augment,
            jr.fold_in(_step_key(seed, step), 0),
            dataset.train.pixels[rows],
            dataset.train.labels[rows],
            self.structure.classes,
            dataset.mean,
            dataset.std,
        )

    def learn(self, member: Member, step: Int[Array, ""], batch: Batch) -> tuple[Member, Float[Array, " 4"]]:
        """A member after a step on a batch, and the loss, accuracy, penalty and gradient norm of the step."""
        updates, optimiser, logs = self._update(member, step, batch)
        value, _, _, norm = logs
        parameters, frozen = self._split(member.arrays)
        bad = (member.diverged < 0) & ~(jnp.isfinite(value) & jnp.isfinite(norm))
        member = Member(
            eqx.combine(optax.apply_updates(parameters, updates), frozen),
            optimiser,
            member.seed,
            member.penalty,
            jnp.where(bad, step, member.diverged),
        )
        return member, logs

    def _update(self, member: Member, step: Int[Array, ""], batch: Batch) -> tuple[PyTree, PyTree, Float[Array, " 4"]]:
        """What the optimiser adds to the parameters in a step, its next state, and loss, accuracy, penalty and norm."""
        parameters, frozen = self._split(member.arrays)

        def loss(parameters):
            model = self.model(eqx.combine(parameters, frozen))
            drop = jr.fold_in(_step_key(member.seed, step), 1) if self.config.drop_path else None
            return objective(model, *batch, member.penalty, drop, self.config.precision)

        (value, (accuracy, term)), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, optimiser = self.optimiser.update(gradients, member.optimiser, parameters)
        return updates, optimiser, jnp.stack([value, accuracy, term, optax.tree.norm(gradients)])

    def _measure(
        self, member: Member, step: Int[Array, ""], deep: Bool[Array, ""], dataset: Dataset
    ) -> metrics.Metrics:
        model = self.model(member.arrays)
        loss, accuracy = self.evaluate(member.arrays, dataset.validation, dataset)
        fixed = self._fixed_images(dataset)
        return {
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "parameter_norm": optax.tree.norm(self._split(member.arrays)[0]),
            "diverged_step": member.diverged,
            **metrics.energy_descent(model, fixed),
            **metrics.asymmetry(model),
            **jax.lax.cond(
                deep,
                lambda: self._deep(member, step, fixed, dataset),
                lambda: metrics.unmeasured(len(model.blocks)),
            ),
        }

    def _deep(
        self, member: Member, step: Int[Array, ""], fixed: Float[Array, "batch height width colours"], dataset: Dataset
    ) -> metrics.Metrics:
        """Spectra and fields, and how fast the next step will break the symmetry."""
        model = self.model(member.arrays)
        rows = self._batches(member.seed, step, dataset.train.labels.size)[0]
        updates, _, _ = self._update(member, step, self.batch(dataset, member.seed, step, rows))
        key = jr.fold_in(jr.fold_in(jr.key(member.seed), 3), step)
        return (
            metrics.spectra(model)
            | metrics.breaking_rates(model, self.model(updates))
            | metrics.fields(model, fixed[:: max(1, ENERGY_BATCH // FIELD_BATCH)], key)
        )

    def _fixed_images(self, dataset: Dataset) -> Float[Array, "batch height width colours"]:
        """The validation images on which energies and fields are measured."""
        # Evenly spaced: image folders are in the order of their classes.
        split = dataset.validation
        stride = max(1, split.labels.size // ENERGY_BATCH)
        return normalise(split.pixels[::stride][:ENERGY_BATCH], dataset.mean, dataset.std)

    def evaluate(self, arrays: PyTree, split: Images, dataset: Dataset) -> tuple[Scalar, Scalar]:
        """Mean cross-entropy and accuracy of one member on a split, a bounded number of images at a time."""
        model = self.model(arrays)

        def one_batch(images: Images):
            pixels = normalise(images.pixels, dataset.mean, dataset.std)
            logits = logits_in(self.config.precision, model, pixels).astype(jnp.float32)
            return metrics.loss_and_hits(logits, images.labels)

        n = split.labels.size
        whole = n - n % EVALUATION_BATCH
        folded = jax.tree.map(lambda a: a[:whole].reshape(-1, EVALUATION_BATCH, *a.shape[1:]), split)
        totals = [jax.tree.map(jnp.sum, one_batch(jax.tree.map(lambda a: a[whole:], split)))] if n > whole else []
        if whole:
            totals.append(jax.tree.map(jnp.sum, jax.lax.map(one_batch, folded)))
        loss, hits = jax.tree.map(lambda *parts: sum(parts) / n, *totals)
        return loss, jnp.where(jnp.isfinite(loss), hits, jnp.nan)  # the argmax of NaN is a class like any other


def _step_key(seed: Int[Array, ""], step: Int[Array, ""]) -> PRNGKey:
    return jr.fold_in(jr.fold_in(jr.key(seed), 2), step)


def make_augment(config: StudyConfig, model: MixerConfig) -> Augment:
    """The augmentation that a study names."""
    match config.augment:
        case "none":
            return Augment.none()
        case "light":
            return Augment.light(model.image)
        case "paper":
            return Augment.paper(model.image)


def make_dataset(data: Data) -> Dataset:
    """The train and validation splits of loaded data, on the device."""
    train, validation = on_device(data.train), on_device(data.validation)
    return Dataset(train, validation, jnp.asarray(data.mean, jnp.float32), jnp.asarray(data.std, jnp.float32))


def on_device(split: Split) -> Images:
    """A split as arrays on the device; pixels stay uint8."""
    return Images(jnp.asarray(split.images), jnp.asarray(split.labels))
