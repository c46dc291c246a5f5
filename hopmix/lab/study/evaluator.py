"""The evaluator: measures the members of each arm by programs that arms share.

Every model is measured with explicit down-weights, a symmetric one with a breaking of zero, and
couplings are measured apart from the models that they are in. Free, broken and symmetric mixers of
one shape then need one program for their blocks, and all models whose couplings have the same names
and shapes one program for their weights.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PyTree

from hopmix._coupling import Coupling
from hopmix._tree import map_couplings
from hopmix.lab.config import StudyConfig
from hopmix.lab.families.arm import Arm
from hopmix.lab.probes.blocks import EnergyDescent, Fields, stacked
from hopmix.lab.probes.couplings import Onset, Spectra, Weights
from hopmix.lab.probes.layout import Layout
from hopmix.lab.probes.parameters import ParameterNorm
from hopmix.lab.probes.probe import (
    AbstractCouplingProbe,
    AbstractModelProbe,
    AbstractProbe,
    Metrics,
)
from hopmix.lab.runtime.compiler_options import forward_options
from hopmix.lab.tasks.task import AbstractTask
from hopmix.lab.train.cached_jit import CachedJit
from hopmix.lab.train.population import Population
from hopmix.lab.train.step import TrainState
from hopmix.symmetry.quantities import Quantity

PROBES: tuple[AbstractProbe, ...] = (
    ParameterNorm(),
    EnergyDescent(),
    Weights(),
    Spectra(),
    Onset(),
    Fields(),
)
"""What a study measures of every model and coupling that has it."""

INPUTS = 16
"""How many inputs of the validation split the probes of models see."""

Couplings = dict[str, Coupling]


class Subject(NamedTuple):
    """The members of one arm as they are measured: models and couplings with explicit down-weights,
    and seeds.
    """

    models: Any
    couplings: Couplings
    seeds: Int[Array, " members"]


class Evaluator:
    """Measures the members of one arm at a time: side by side, or as many together as the study
    says.

    Programs are compiled by `prepare`, or when they are first needed.

    **Arguments:**

    - `config`: of the study.
    - `task`: whose scores are measured too.
    - `probes`: what is measured.
    """

    def __init__(
        self, config: StudyConfig, task: AbstractTask, probes: Sequence[AbstractProbe] = PROBES
    ):
        self.config = config
        self.task = task
        self.probes = tuple(probes)
        self._models = self._compiled(self.models)
        self._expensive_models = self._compiled(self.expensive_models)
        self._couplings = self._compiled(self.couplings)
        self._expensive_couplings = self._compiled(self.expensive_couplings)
        self._scores = self._compiled(self.scores)

    def _compiled(self, function: Callable) -> CachedJit:
        return CachedJit(function, compiler_options=forward_options())

    @property
    def programs(self) -> list[jax.stages.Compiled]:
        """The compiled programs that a study runs again and again; waits for those that are being
        compiled.
        """
        parts = (self._models, self._couplings, self._expensive_models, self._expensive_couplings)
        return [program for part in parts for program in part.programs]

    def quantities(self, arms: Sequence[Arm]) -> tuple[Quantity, ...]:
        """What is measured of any of these arms."""
        found = list(self.task.quantities)
        for probe in self.probes:
            if any(subjects_of(probe, arm) for arm in arms):
                found += probe.quantities
        return tuple(found)

    def prepare(self, compiler: Executor, group: Population, members: TrainState, dataset: Any):
        """Trace what measures the arms of a population, and let `compiler` compile it; what is
        expensive if the study wants it.
        """
        for arm in group.arms:
            subject = eqx.filter_eval_shape(partial(subject_of, group, arm), members)
            step = jax.ShapeDtypeStruct((), jnp.int32)
            self._models.prepare(compiler, subject.models, subject.seeds, step, dataset)
            if subject.couplings:
                self._couplings.prepare(compiler, subject.couplings)
            if self.config.spectra_every:
                self._expensive_models.prepare(
                    compiler, subject.models, subject.seeds, step, dataset
                )
            if self.config.spectra_every and subject.couplings:
                updates = eqx.filter_eval_shape(
                    partial(updates_of, group, arm), group.parameters_of(members)
                )
                self._expensive_couplings.prepare(compiler, subject.couplings, updates)

    def measure(
        self, group: Population, members: TrainState, step: int, dataset: Any
    ) -> dict[str, Metrics]:
        """What is measured each time of the members of each arm of a population, after so many
        steps.
        """
        measured = {}
        for arm in group.arms:
            subject = subject_of(group, arm, members)
            found = {"diverged_step": group.of_arm(members.diverged, arm)}
            found |= self._models(subject.models, subject.seeds, jnp.int32(step), dataset)
            if subject.couplings:
                found |= self._couplings(subject.couplings)
            measured[arm.name] = found
        return measured

    def measure_expensive(
        self, group: Population, members: TrainState, step: int, dataset: Any
    ) -> dict[str, Metrics]:
        """What is expensive, of the members of each arm after so many steps; the next update of
        their couplings among it.
        """
        updates = group.next_updates(members, step, dataset)
        measured = {}
        for arm in group.arms:
            subject = subject_of(group, arm, members)
            found: Metrics = {}
            if subject.couplings:
                following = updates_of(group, arm, updates)
                found |= self._expensive_couplings(subject.couplings, following)
            found |= self._expensive_models(subject.models, subject.seeds, jnp.int32(step), dataset)
            measured[arm.name] = found
        return measured

    def score(
        self, group: Population, members: TrainState, split: PyTree, dataset: Any
    ) -> dict[str, Metrics]:
        """The scores of the task on a split of the members of each arm of a population."""
        return {
            arm.name: self._scores(subject_of(group, arm, members).models, split, dataset)
            for arm in group.arms
        }

    # ---- What is compiled: all members of an arm -------------------------------------------------

    def models(
        self, models: Any, seeds: Int[Array, " members"], step: Int[Array, ""], dataset: Any
    ) -> Metrics:
        """The scores on the validation split, and what probes of models measure each time."""

        def of_one(model: Any, seed: Int[Array, ""]) -> Metrics:
            scores = self.task.scores(model, dataset.validation, dataset)
            found = {f"validation_{name}": score for name, score in scores.items()}
            return found | self._measured(model, seed, step, dataset, expensive=False)

        return self._over_members(of_one, models, seeds)

    def expensive_models(
        self, models: Any, seeds: Int[Array, " members"], step: Int[Array, ""], dataset: Any
    ) -> Metrics:
        """What expensive probes of models measure."""
        of_one = partial(self._measured, step=step, dataset=dataset, expensive=True)
        return self._over_members(of_one, models, seeds)

    def couplings(self, couplings: Couplings) -> Metrics:
        """What probes of couplings measure each time."""
        return self._over_members(partial(measure_couplings, self.probes), couplings)

    def expensive_couplings(self, couplings: Couplings, updates: Couplings) -> Metrics:
        """What expensive probes of couplings measure."""
        return self._over_members(partial(measure_couplings, self.probes), couplings, updates)

    def scores(self, models: Any, split: PyTree, dataset: Any) -> Metrics:
        """The scores on a split."""
        of_one = partial(self.task.scores, split=split, dataset=dataset)
        return self._over_members(of_one, models)

    def _over_members(self, function: Callable, *members: PyTree) -> Any:
        arrays, constants = eqx.partition(members, eqx.is_array)

        def of_one(arrays: PyTree) -> Any:
            return function(*eqx.combine(arrays, constants))

        if self.config.members_at_once is None:
            return jax.vmap(of_one)(arrays)
        return jax.lax.map(of_one, arrays, batch_size=self.config.members_at_once)

    # ---- Of one member ---------------------------------------------------------------------------

    def _measured(
        self, model: Any, seed: Int[Array, ""], step: Int[Array, ""], dataset: Any, expensive: bool
    ) -> Metrics:
        model = eqx.nn.inference_mode(model)
        inputs = self.task.inputs(dataset, INPUTS)
        key = jr.fold_in(jr.fold_in(jr.key(seed), 3), step)
        found: Metrics = {}
        for probe in self.probes:
            if not isinstance(probe, AbstractModelProbe) or probe.expensive != expensive:
                continue
            if probe.applies(model):
                found |= probe(model, inputs, key)
        return found


def measure_couplings(
    probes: Sequence[AbstractProbe], couplings: Couplings, updates: Couplings | None = None
) -> Metrics:
    """What probes measure of each coupling of a model, in the order of `order_of`; those of one
    branch and shape side by side.

    **Arguments:**

    - `probes`: of which those of couplings measure; with updates the expensive ones.
    - `couplings`: with explicit down-weights, by name.
    - `updates`: what is added to each of them next.
    """
    expensive = updates is not None
    ours = [one for one in probes if isinstance(one, AbstractCouplingProbe)]

    def measure(coupling: Coupling, update: Coupling | None) -> Metrics:
        found: Metrics = {}
        for probe in ours:
            if probe.expensive == expensive and probe.applies(coupling):
                found |= probe(coupling, update)
        return found

    groups = []
    for names in _alike(couplings):
        side_by_side = stacked([couplings[name] for name in names])
        following = None if updates is None else stacked([updates[name] for name in names])
        groups.append((len(names), jax.vmap(measure)(side_by_side, following)))
    return _joined(groups)


def subjects_of(probe: AbstractProbe, arm: Arm) -> list[Any]:
    """What a probe applies to in an arm, as shapes: its model, or some of its couplings."""
    if isinstance(probe, AbstractModelProbe):
        found = [arm.shapes]
    else:
        found = list(arm.shaped_couplings.values())
    return [subject for subject in found if probe.applies(subject)]


def order_of(couplings: Couplings) -> list[str]:
    """The names of couplings in the order in which they are measured."""
    return [name for names in _alike(couplings) for name in names]


def _alike(couplings: Couplings) -> list[list[str]]:
    """The names of the couplings of each branch and shape, by block."""
    places = Layout.of(couplings).places
    groups: dict[Any, list[str]] = {}
    for name in sorted(couplings, key=lambda name: places[name]):
        shape = couplings[name].up.shape
        groups.setdefault((places[name].branch, shape), []).append(name)
    return list(groups.values())


def _joined(groups: Sequence[tuple[int, Metrics]]) -> Metrics:
    """What was measured of groups of couplings, one after the other; NaN where a probe did not
    apply.
    """
    like = {name: value for _, group in groups for name, value in group.items()}

    def column(name: str) -> Array:
        rest = like[name].shape[1:]
        parts = [
            group.get(name, jnp.full((size, *rest), jnp.nan, like[name].dtype))
            for size, group in groups
        ]
        return jnp.concatenate(parts)

    return {name: column(name) for name in like}


def subject_of(group: Population, arm: Arm, members: TrainState) -> Subject:
    """The members of one arm as they are measured."""
    models = group.model(group.of_arm(members.model, arm))
    explicit = map_couplings(Coupling.explicit, models)
    couplings = {name: one.explicit() for name, one in arm.couplings(models).items()}
    return Subject(explicit, couplings, group.of_arm(members.seed, arm))


def updates_of(group: Population, arm: Arm, updates: PyTree) -> Couplings:
    """The updates of the couplings of the members of one arm."""
    found = arm.couplings(group.of_arm(updates, arm))
    return {name: one.explicit() for name, one in found.items()}
