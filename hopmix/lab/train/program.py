"""Training: a population of members that share a form, in one compiled program for all steps of an
interval.

A member is a pure function of its seed and its arm's numbers. Members of one form are stacked and
mapped over, and stay on the device throughout.
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree, UInt8

from hopmix._coupling import Coupling
from hopmix._numerics.dtypes import cast
from hopmix._tree import trainable
from hopmix._types import PRNGKey, Scalar
from hopmix.lab.config import StudyConfig
from hopmix.lab.data.augment import Augment, augment
from hopmix.lab.data.study_data import Data, Split
from hopmix.lab.errors import need
from hopmix.lab.families.arm import Arm, is_shape
from hopmix.lab.fields import LARGEST
from hopmix.lab.probes import metrics
from hopmix.lab.runtime.compiler_options import once_options, training_options
from hopmix.lab.train.cached_jit import CachedJit
from hopmix.models.mixer import Mixer

CALL_SECONDS = 0.5
"""How long a call of the training lasts, about: Ctrl-C waits for its end."""

Batch: TypeAlias = tuple[Float[Array, "batch height width colours"], Float[Array, "batch classes"]]
"""The images and the targets of a step."""


class Images(eqx.Module):
    """A split on the device: pixels and labels."""

    pixels: UInt8[Array, "n height width colours"]
    labels: Int[Array, " n"]


class Dataset(eqx.Module):
    """What training reads: the train and validation splits, the number of classes, and the
    statistics of the pixels in units of 0 to 1."""

    train: Images
    validation: Images
    mean: Float[Array, " colours"]
    std: Float[Array, " colours"]
    classes: int = eqx.field(static=True)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and number of colours."""
        height, width, colours = self.train.pixels.shape[1:]
        return height, width, colours


class Member(eqx.Module):
    """The state of one member, or of a population with a leading axis.

    - `arrays`: all arrays of the model; `optimiser`: the optimiser's state.
    - `seed`, `strength`: the numbers that it is a function of.
    - `diverged`: the step at which the loss was first not finite, or -1.
    """

    arrays: PyTree
    optimiser: PyTree
    seed: Int[Array, "..."]
    strength: Float[Array, "..."]
    diverged: Int[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps of a training: how many in all, in an epoch, and between two measurements."""

    total: int
    epoch: int
    interval: int

    @classmethod
    def of(cls, config: StudyConfig, images: int) -> "Schedule":
        """The schedule of a study; the total is rounded up to whole intervals.

        **Raises:** `UsageError` for more steps than the device counts.
        """
        epoch = max(1, images // config.batch)
        interval = max(1, -(-config.epochs * epoch // config.measurements))
        total = interval * -(-config.epochs * epoch // interval)
        need(
            total <= LARGEST,
            "epochs",
            config.epochs,
            f"so few that their {total:,} steps are at most {LARGEST:,}",
        )
        return cls(total, epoch, interval)


def make_optimiser(config: StudyConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine, clipping by the norm of the whole gradient, decay of matrices
    only.
    """
    warmup = int(config.warmup * steps)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=decayed),
    )


def decayed(tree: PyTree) -> PyTree:
    """True at the leaves that weight decay acts on: couplings and linear maps, neither norms nor
    biases.
    """
    matrices = (Coupling, eqx.nn.Linear)

    def mark(node):
        spec = jax.tree.map(lambda _: isinstance(node, matrices), node)
        if isinstance(node, eqx.nn.Linear):
            return eqx.tree_at(lambda m: m.bias, spec, False)
        return spec

    return jax.tree.map(mark, tree, is_leaf=lambda node: isinstance(node, matrices))


def objective(
    model: Mixer,
    images: Float[Array, "batch height width colours"],
    targets: Float[Array, "batch classes"],
    strength: Scalar,
    key: PRNGKey | None = None,
    precision: str | None = None,
) -> tuple[Scalar, tuple[Scalar, Scalar]]:
    r"""The training loss, cross-entropy $+\ \lambda \sum |\text{breaking}|_F^2$.

    **Arguments:**

    - `model`, `images`, `targets`: one member's model, a batch, and the (smoothed, mixed) label
      distributions.
    - `strength`: lambda.
    - `key`: of the stochastic depth, or `None`.
    - `precision`: the dtype in which logits are computed, by default the model's; the rest keeps
      the model's.

    **Returns:** the loss, and the accuracy with the penalty as auxiliary values.

    **Source:** arXiv 2406.12220, code (no factor of one half).
    """
    logits = logits_in(precision, model, images, key).astype(targets.dtype)
    penalty = strength * metrics.squared_breaking(model)
    hits = (jnp.argmax(logits, -1) == jnp.argmax(targets, -1)).astype(targets.dtype)
    return optax.softmax_cross_entropy(logits, targets).mean() + penalty, (hits.mean(), penalty)


def logits_in(
    precision: str | None,
    model: Mixer,
    images: Float[Array, "batch height width colours"],
    key: PRNGKey | None = None,
) -> Float[Array, "batch classes"]:
    """The logits of a batch, computed in another precision than that of the weights."""
    if precision is not None:
        model, images = cast((model, images), precision)
    return model.batch(images, key)


def programs_of(config: StudyConfig, arms: Sequence[Arm], dataset: Dataset) -> list["Program"]:
    """One program for the arms of each form, in the order of the arms."""
    forms: dict[Hashable, list[Arm]] = {}
    for arm in arms:
        forms.setdefault(arm.form, []).append(arm)
    return [Program(config, alike, dataset) for alike in forms.values()]


class Program:
    """The training of all members of one form.

    **Arguments:**

    - `config`: of the study.
    - `arms`: arms whose `form` is the same.
    - `dataset`: on the device.
    """

    def __init__(self, config: StudyConfig, arms: Sequence[Arm], dataset: Dataset):
        assert len({arm.form for arm in arms}) == 1, "one program trains one form"
        self.config = config
        self.arms = tuple(arms)
        self.schedule = Schedule.of(config, dataset.train.labels.size)
        self.optimiser = make_optimiser(config, self.schedule.total)
        self.augment = make_augment(config, dataset.image)
        self._shapes, self._constants = eqx.partition(arms[0].shapes, is_shape)
        self._trainable = trainable(self._shapes)
        self._pace = _Pace()
        self.compiled = CachedJit(self.train, donate_argnums=0, compiler_options=training_options())

    @property
    def members(self) -> list[tuple[Arm, int]]:
        """Arm and seed of each member, in the order of the leading axis."""
        return [(arm, seed) for arm in self.arms for seed in self.config.seed_numbers]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters of one member."""
        leaves = jax.tree.map(
            lambda leaf, train: leaf.size if train else 0, self._shapes, self._trainable
        )
        return sum(jax.tree.leaves(leaves))

    def initial(self) -> Member:
        """The members before training; one seed gives the same stem, head and up-weights in every
        arm.
        """
        return self._stacked(partial(jax.jit, compiler_options=once_options()))

    def shapes(self) -> Member:
        """The members as shapes, without making them."""
        return jax.eval_shape(lambda: self._stacked(lambda function: function))

    def _stacked(self, compile: Callable) -> Member:
        start = {
            make: compile(jax.vmap(partial(self._start, make)))
            for make in {arm.make for arm in self.arms}
        }
        seeds = jnp.asarray(self.config.seed_numbers, jnp.int32)
        strengths = [jnp.full(seeds.shape, arm.strength or 0.0, jnp.float32) for arm in self.arms]
        parts = [start[arm.make](seeds, strength) for arm, strength in zip(self.arms, strengths)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _start(
        self, make: Callable[[PRNGKey], PyTree], seed: Int[Array, ""], strength: Float[Array, ""]
    ) -> Member:
        model = make(jr.fold_in(jr.key(seed), 0))
        arrays = cast(eqx.filter(model, eqx.is_array), "float32")
        return Member(
            arrays, self.optimiser.init(self._split(arrays)[0]), seed, strength, jnp.int32(-1)
        )

    def model(self, arrays: PyTree) -> Any:
        """The model of one member, or those of several side by side."""
        return eqx.combine(arrays, self._constants)

    def parameters_of(self, member: Member) -> PyTree:
        """What trains of one or of all members."""
        return self._split(member.arrays)[0]

    def _split(self, arrays: PyTree) -> tuple[PyTree, PyTree]:
        return eqx.partition(arrays, self._trainable)

    def train(
        self,
        members: Member,
        logs: Float[Array, "members 4"],
        first_step: Int[Array, ""],
        done: Int[Array, ""],
        steps: Int[Array, ""],
        rows: Int[Array, "members interval batch"],
        dataset: Dataset,
    ) -> tuple[Member, Float[Array, "members 4"], PyTree]:
        """Train all members for some steps of an interval, on these rows of the training split.

        **Arguments:**

        - `logs`: sums over the steps of the interval that were done before.
        - `first_step`: that of the interval.
        - `done`, `steps`: how many steps of it were done before, and how many to do now.
        - `rows`: of all steps of the interval.

        **Returns:** the members; loss, accuracy, penalty and gradient norm added to `logs`; and
        what the last step added to the parameters.
        """

        def run(
            learn: Callable, members: Member, logs: Array, rows: Int[Array, "... interval batch"]
        ):
            begin = self.parameters_of(members)
            return take_steps(
                learn, members, begin, jnp.moveaxis(rows, -2, 0), first_step, steps, done, logs
            )

        learn = lambda member, at, rows: self.step(member, at, rows, dataset)
        if self.config.together is None:
            # All members in each step, not all steps of each member: JAX would trace a loop within
            # a map thrice.
            return run(jax.vmap(learn, in_axes=(0, None, 0)), members, logs, rows)
        return jax.lax.map(
            lambda one: run(learn, *one), (members, logs, rows), batch_size=self.config.together
        )

    def prepare(self, compiler: Executor, members: Member, dataset: Dataset):
        """Trace the training, and let `compiler` compile it."""
        number = jax.ShapeDtypeStruct((), jnp.int32)
        self.compiled.prepare(
            compiler,
            members,
            self.no_logs(),
            number,
            number,
            number,
            self.rows(0, dataset),
            dataset,
        )

    def run(
        self,
        members: Member,
        first_step: int,
        steps: int,
        dataset: Dataset,
        between: Callable[[], None] = lambda: None,
    ) -> tuple[Member, Float[Array, "members 4"], PyTree]:
        """Train for so many steps, in calls of about half a second, with the same results as in
        one.

        **Arguments:**

        - `members`: their arrays are used up.
        - `first_step`, `steps`: where an interval begins, and how many of its steps to do.
        - `between`: called between two calls; what it raises ends the training.

        **Returns:** the members; loss, accuracy, penalty and gradient norm, means over the steps;
        and what the last step added to the parameters.
        """
        assert 0 < steps <= self.schedule.interval, "the rows are those of an interval"
        rows = self.rows(first_step, dataset)
        logs = self.no_logs()
        updates = None
        done = 0
        while done < steps:
            if done > 0:
                between()
            now = min(self._pace.steps, steps - done)
            begin = time.perf_counter()
            numbers = (jnp.int32(first_step), jnp.int32(done), jnp.int32(now))
            members, logs, updates = self.compiled(members, logs, *numbers, rows, dataset)
            done += now
            if done < steps:
                jax.block_until_ready(logs)
                self._pace.adjust(now, time.perf_counter() - begin)
        return members, logs / steps, updates

    def no_logs(self) -> Float[Array, "members 4"]:
        """The logs before the first step of an interval."""
        return jnp.zeros((len(self.members), 4), jnp.float32)

    def next_updates(self, members: Member, step: int, dataset: Dataset) -> PyTree:
        """What the next step will add to the parameters of all members, which stay as they are."""
        # Copies take that step and are forgotten: the program that trains is there already, with
        # its exact updates.
        return self.run(jax.device_put(members, may_alias=False), step, 1, dataset)[2]

    def of_arm(self, tree: PyTree, arm: Arm) -> PyTree:
        """The part of a tree over all members that belongs to one arm."""
        if len(self.arms) == 1:
            return tree
        return _slice(tree, self.arms.index(arm) * self.config.seeds, self.config.seeds)

    def rows(self, first_step: int, dataset: Dataset) -> Int[Array, "members interval batch"]:
        """The rows of the training split that each member sees in each step of an interval; those
        of a seed, in all arms."""
        images = dataset.train.labels.size
        batch = min(self.config.batch, images)
        drawn = _rows_of_seeds(self.config.seed_numbers, first_step, self.schedule, batch, images)
        return jnp.tile(drawn, (len(self.arms), 1, 1))

    def step(
        self, member: Member, at: Int[Array, ""], rows: Int[Array, " batch"], dataset: Dataset
    ) -> tuple[Member, Float[Array, " 4"], PyTree]:
        """A step of one member, on rows of the training split; what it returns is that of
        `learn`.
        """
        return self.learn(member, at, self.batch(dataset, member.seed, at, rows))

    def batch(
        self,
        dataset: Dataset,
        seed: Int[Array, ""],
        step: Int[Array, ""],
        rows: Int[Array, " batch"],
    ) -> Batch:
        """The augmented images and the targets of a step."""
        return augment(
            self.augment,
            jr.fold_in(_step_key(seed, step), 0),
            dataset.train.pixels[rows],
            dataset.train.labels[rows],
            dataset.classes,
            dataset.mean,
            dataset.std,
        )

    def learn(
        self, member: Member, step: Int[Array, ""], batch: Batch
    ) -> tuple[Member, Float[Array, " 4"], PyTree]:
        """A member after a step on a batch; the loss, accuracy, penalty and gradient norm of the
        step; its updates.
        """
        parameters, frozen = self._split(member.arrays)

        def loss(parameters):
            model = self.model(eqx.combine(parameters, frozen))
            if self.config.drop_path:
                drop = jr.fold_in(_step_key(member.seed, step), 1)
            else:
                drop = None
            return objective(model, *batch, member.strength, drop, self.config.precision)

        (value, (accuracy, penalty)), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, optimiser = self.optimiser.update(gradients, member.optimiser, parameters)
        norm = optax.tree.norm(gradients)
        bad = (member.diverged < 0) & ~(jnp.isfinite(value) & jnp.isfinite(norm))
        member = Member(
            eqx.combine(optax.apply_updates(parameters, updates), frozen),
            optimiser,
            member.seed,
            member.strength,
            jnp.where(bad, step, member.diverged),
        )
        return member, jnp.stack([value, accuracy, penalty, norm]), updates


class _Pace:
    """How many steps a call takes, so that it lasts about half a second: between two calls a study
    can stop.
    """

    def __init__(self):
        self.steps = 1

    def adjust(self, steps: int, seconds: float):
        """Learn from a call of so many steps that took so long."""
        fitting = int(steps * CALL_SECONDS / max(seconds, 1e-6))
        self.steps = max(1, min(fitting, 8 * steps))


def take_steps(
    learn: Callable,
    members: Member,
    parameters: PyTree,
    data: PyTree,
    first_step: Any,
    steps: Any,
    done: Any = 0,
    total: Float[Array, "... 4"] | None = None,
) -> tuple[Member, Float[Array, "... 4"], PyTree]:
    """So many steps of one member, or of all of them side by side.

    **Arguments:**

    - `learn`: from members, the number of a step and its data to what `Program.learn` returns.
    - `parameters`: those of the members, in the form of updates.
    - `data`: of each step, along the first axis.
    - `first_step`: the number of the step that the first of `data` is for.
    - `steps`, `done`: how many to take, after those of `data` that were taken before.
    - `total`: the sums of the logs of those.

    **Returns:** members, the sums of the logs and the updates of the last step, as `Program.train`
    does.
    """

    def step(i: Int[Array, ""], carry: tuple[Member, Float[Array, "... 4"], PyTree]):
        members, total, _ = carry
        members, logs, updates = learn(
            members, first_step + i, jax.tree.map(lambda leaf: leaf[i], data)
        )
        return members, total + logs, updates

    if total is None:
        total = jnp.zeros((*members.seed.shape, 4), jnp.float32)
    return jax.lax.fori_loop(done, done + steps, step, (members, total, parameters))


@partial(jax.jit, static_argnames=("schedule", "batch", "images"))
def draw_rows(
    seeds: Int[Array, " seeds"],
    first_step: Int[Array, ""],
    schedule: Schedule,
    batch: int,
    images: int,
) -> Int[Array, "seeds interval batch"]:
    """The rows of a split of so many images for each step of an interval: a fresh permutation each
    epoch.
    """
    per_epoch = schedule.epoch
    interval = schedule.interval
    epochs = first_step // per_epoch + jnp.arange(
        (interval + per_epoch - 2) // per_epoch + 1, dtype=jnp.int32
    )
    start = (first_step % per_epoch) * batch

    def draw(seed: Int[Array, ""]) -> Int[Array, "interval batch"]:
        keys = jax.vmap(lambda epoch: jr.fold_in(jr.fold_in(jr.key(seed), 1), epoch))(epochs)
        orders = jax.vmap(lambda key: jr.permutation(key, images)[: per_epoch * batch])(
            keys
        ).astype(jnp.int32)
        return jax.lax.dynamic_slice(orders.reshape(-1), (start,), (interval * batch,)).reshape(
            interval, batch
        )

    return jax.vmap(draw)(seeds)


@lru_cache(
    maxsize=2
)  # all programs of a study ask for those of an interval and, to look ahead, of the next one
def _rows_of_seeds(
    seeds: range, first_step: int, schedule: Schedule, batch: int, images: int
) -> Int[Array, "seeds interval batch"]:
    return draw_rows(jnp.asarray(seeds, jnp.int32), jnp.int32(first_step), schedule, batch, images)


@partial(jax.jit, static_argnames="size")
def _slice(tree: PyTree, start: Int[Array, ""], size: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree)


def _step_key(seed: Int[Array, ""], step: Int[Array, ""]) -> PRNGKey:
    return jr.fold_in(jr.fold_in(jr.key(seed), 2), step)


def make_augment(config: StudyConfig, image: tuple[int, int, int]) -> Augment:
    """The augmentation that a study names, of images of a shape."""
    match config.augment:
        case "none":
            return Augment.none()
        case "light":
            return Augment.light(image)
        case "paper":
            return Augment.paper(image)


def make_dataset(data: Data) -> Dataset:
    """The train and validation splits of loaded data, on the device."""
    train = on_device(data.train)
    validation = on_device(data.validation)
    mean = jnp.asarray(data.mean, jnp.float32)
    std = jnp.asarray(data.std, jnp.float32)
    return Dataset(train, validation, mean, std, len(data.classes))


def on_device(split: Split) -> Images:
    """A split as arrays on the device; pixels stay uint8."""
    return Images(jnp.asarray(split.images), jnp.asarray(split.labels))


def on_host(images: Images) -> Split:
    """A split on the device as the host sees it; on a CPU that is no copy."""
    return Split(np.asarray(images.pixels), np.asarray(images.labels))
