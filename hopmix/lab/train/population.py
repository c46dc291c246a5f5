"""Training: a population of members that share a form, in one compiled program for all steps of an
interval.

A member is a pure function of its seed and its arm's numbers. Members of one form are stacked
and mapped over, and stay on the device throughout.
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
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
from hopmix._numerics.dtypes import cast
from hopmix._tree import trainable
from hopmix._types import PRNGKey
from hopmix.lab.config import StudyConfig
from hopmix.lab.families.arm import Arm, is_shape
from hopmix.lab.runtime.compiler_options import once_options, training_options
from hopmix.lab.tasks.task import AbstractTask
from hopmix.lab.train.cached_jit import CachedJit
from hopmix.lab.train.sampler import Schedule, rows_of_seeds, step_key
from hopmix.lab.train.step import TrainState, train_step

CALL_SECONDS = 0.5
"""How long a call of the training lasts, about: Ctrl-C waits for its end."""

LINEAR = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose)
DECAYED = (Coupling, *LINEAR)
"""Whose weights decay."""


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
    """True at the leaves that weight decay acts on: couplings, linear maps and convolutions,
    neither norms nor biases.
    """

    def mark(node):
        spec = jax.tree.map(lambda _: isinstance(node, DECAYED), node)
        if isinstance(node, LINEAR) and node.bias is not None:
            return eqx.tree_at(lambda m: m.bias, spec, False)
        return spec

    return jax.tree.map(mark, tree, is_leaf=lambda node: isinstance(node, DECAYED))


def populations_of(
    config: StudyConfig, task: AbstractTask, arms: Sequence[Arm], dataset: Any
) -> list["Population"]:
    """One population for the arms of each form, in the order of the arms."""
    forms: dict[Hashable, list[Arm]] = {}
    for arm in arms:
        forms.setdefault(arm.form, []).append(arm)
    return [Population(config, task, alike, dataset) for alike in forms.values()]


class Population:
    """The training of all members of one form.

    **Arguments:**

    - `config`: of the study.
    - `task`: what they learn.
    - `arms`: arms whose `form` is the same.
    - `dataset`: on the device.
    """

    def __init__(self, config: StudyConfig, task: AbstractTask, arms: Sequence[Arm], dataset: Any):
        assert len({arm.form for arm in arms}) == 1, "one program trains one form"
        self.config = config
        self.task = task
        self.arms = tuple(arms)
        self.schedule = Schedule.of(config, task.size(dataset))
        self.optimiser = make_optimiser(config, self.schedule.total)
        self._shapes, self._constants = eqx.partition(arms[0].shapes, is_shape)
        self._trainable = trainable(self._shapes)
        self._pace = _Pace()
        self._starts = {arm.make: jax.vmap(partial(self._start, arm.make)) for arm in arms}
        first = partial(jax.jit, compiler_options=once_options())
        self._compiled_starts = {make: first(start) for make, start in self._starts.items()}
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

    def initial(self) -> TrainState:
        """The members before training; one seed gives the same stem, head and up-weights in every
        arm.
        """
        return self._stacked(self._compiled_starts)

    def shapes(self) -> TrainState:
        """The members as shapes, without making them."""
        return jax.eval_shape(lambda: self._stacked(self._starts))

    def _stacked(self, starts: Mapping[Callable, Callable]) -> TrainState:
        seeds = jnp.asarray(self.config.seed_numbers, jnp.int32)
        strengths = [jnp.full(seeds.shape, arm.strength or 0.0, jnp.float32) for arm in self.arms]
        parts = [starts[arm.make](seeds, strength) for arm, strength in zip(self.arms, strengths)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def _start(
        self, make: Callable[[PRNGKey], PyTree], seed: Int[Array, ""], strength: Float[Array, ""]
    ) -> TrainState:
        model = make(jr.fold_in(jr.key(seed), 0))
        arrays = cast(eqx.filter(model, eqx.is_array), "float32")
        moments = self.optimiser.init(eqx.filter(arrays, self._trainable))
        return TrainState(arrays, moments, seed, strength, jnp.int32(-1))

    def model(self, arrays: PyTree) -> Any:
        """The model of one member, or those of several side by side."""
        return eqx.combine(arrays, self._constants)

    def parameters_of(self, member: TrainState) -> PyTree:
        """What trains of one or of all members."""
        return eqx.filter(member.model, self._trainable)

    def train(
        self,
        members: TrainState,
        logs: Float[Array, "members 4"],
        first_step: Int[Array, ""],
        done: Int[Array, ""],
        steps: Int[Array, ""],
        rows: Int[Array, "members interval batch"],
        dataset: Any,
    ) -> tuple[TrainState, Float[Array, "members 4"], PyTree]:
        """Train all members for some steps of an interval, on these rows of the training split.

        **Arguments:**

        - `logs`: sums over the steps of the interval that were done before.
        - `first_step`: that of the interval.
        - `done`, `steps`: how many steps of it were done before, and how many to do now.
        - `rows`: of all steps of the interval.

        **Returns:** the members; objective, headline, penalty and gradient norm added to `logs`;
        and what the last step added to the parameters.
        """

        def run(
            learn: Callable,
            members: TrainState,
            logs: Array,
            rows: Int[Array, "... interval batch"],
        ):
            begin = self.parameters_of(members)
            return take_steps(
                learn, members, begin, jnp.moveaxis(rows, -2, 0), first_step, steps, done, logs
            )

        learn = lambda member, at, rows: self.step(member, at, rows, dataset)
        if self.config.members_at_once is None:
            # All members in each step, not all steps of each member: JAX would trace a loop within
            # a map thrice.
            return run(jax.vmap(learn, in_axes=(0, None, 0)), members, logs, rows)
        return jax.lax.map(
            lambda one: run(learn, *one),
            (members, logs, rows),
            batch_size=self.config.members_at_once,
        )

    def prepare(self, compiler: Executor, members: TrainState, dataset: Any):
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
        members: TrainState,
        first_step: int,
        steps: int,
        dataset: Any,
        between: Callable[[], None] = lambda: None,
    ) -> tuple[TrainState, Float[Array, "members 4"], PyTree]:
        """Train for so many steps, in calls of about half a second, with the same results as in
        one.

        **Arguments:**

        - `members`: their arrays are used up.
        - `first_step`, `steps`: where an interval begins, and how many of its steps to do.
        - `between`: called between two calls; what it raises ends the training.

        **Returns:** the members; objective, headline, penalty and gradient norm, means over the
        steps; and what the last step added to the parameters.
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

    def next_updates(self, members: TrainState, step: int, dataset: Any) -> PyTree:
        """What the next step will add to the parameters of all members, which stay as they are."""
        # Copies take that step and are forgotten: the program that trains is there already, with
        # its exact updates.
        return self.run(jax.device_put(members, may_alias=False), step, 1, dataset)[2]

    def of_arm(self, tree: PyTree, arm: Arm) -> PyTree:
        """The part of a tree over all members that belongs to one arm."""
        if len(self.arms) == 1:
            return tree
        return _slice(tree, self.arms.index(arm) * self.config.seeds, self.config.seeds)

    def rows(self, first_step: int, dataset: Any) -> Int[Array, "members interval batch"]:
        """The rows of the training split that each member sees in each step of an interval; those
        of a seed, in all arms."""
        examples = self.task.size(dataset)
        batch = min(self.config.batch, examples)
        seeds = self.config.seed_numbers
        drawn = rows_of_seeds(seeds, first_step, self.schedule, batch, examples)
        return jnp.tile(drawn, (len(self.arms), 1, 1))

    def step(
        self, member: TrainState, at: Int[Array, ""], rows: Int[Array, " batch"], dataset: Any
    ) -> tuple[TrainState, Float[Array, " 4"], PyTree]:
        """A step of one member, on rows of the training split; what it returns is that of
        `learn`.
        """
        return self.learn(member, at, self.batch(dataset, member.seed, at, rows))

    def batch(
        self, dataset: Any, seed: Int[Array, ""], step: Int[Array, ""], rows: Int[Array, " batch"]
    ) -> PyTree:
        """What a member learns from in a step."""
        return self.task.batch(dataset, jr.fold_in(step_key(seed, step), 0), rows)

    def learn(
        self, member: TrainState, step: Int[Array, ""], batch: PyTree
    ) -> tuple[TrainState, Float[Array, " 4"], PyTree]:
        """A member after a step on a batch; the objective, headline, penalty and gradient norm of
        the step; its updates.
        """
        key = jr.fold_in(step_key(member.seed, step), 1)
        whole = dataclasses.replace(member, model=self.model(member.model))
        pairs = self.arms[0].pairs
        after, logs, updates = train_step(self.task, self.optimiser, whole, batch, step, key, pairs)
        arrays = eqx.filter(after.model, eqx.is_array)
        return dataclasses.replace(after, model=arrays), logs, updates


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
    members: TrainState,
    parameters: PyTree,
    data: PyTree,
    first_step: Any,
    steps: Any,
    done: Any = 0,
    total: Float[Array, "... 4"] | None = None,
) -> tuple[TrainState, Float[Array, "... 4"], PyTree]:
    """So many steps of one member, or of all of them side by side.

    **Arguments:**

    - `learn`: from members, the number of a step and its data to what `Population.learn` returns.
    - `parameters`: those of the members, in the form of updates.
    - `data`: of each step, along the first axis.
    - `first_step`: the number of the step that the first of `data` is for.
    - `steps`, `done`: how many to take, after those of `data` that were taken before.
    - `total`: the sums of the logs of those.

    **Returns:** members, the sums of the logs and the updates of the last step, as
    `Population.train` does.
    """

    def step(i: Int[Array, ""], carry: tuple[TrainState, Float[Array, "... 4"], PyTree]):
        members, total, _ = carry
        members, logs, updates = learn(
            members, first_step + i, jax.tree.map(lambda leaf: leaf[i], data)
        )
        return members, total + logs, updates

    if total is None:
        total = jnp.zeros((*members.seed.shape, 4), jnp.float32)
    return jax.lax.fori_loop(done, done + steps, step, (members, total, parameters))


@partial(jax.jit, static_argnames="size")
def _slice(tree: PyTree, start: Int[Array, ""], size: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree)
