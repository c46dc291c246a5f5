"""Probes of the user's own, held against what a study can store before anything is trained."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PyTree

from hopmix._coupling import Coupling
from hopmix._numerics.dtypes import cast
from hopmix._tree import map_couplings
from hopmix.lab.errors import UsageError, one_line
from hopmix.lab.families.arm import Arm
from hopmix.lab.probes.probe import AbstractCouplingProbe, AbstractModelProbe, AbstractProbe
from hopmix.lab.store.described import COORDINATES
from hopmix.lab.study.evaluator import INPUTS, PROBES, subjects_of
from hopmix.lab.tasks.task import AbstractTask
from hopmix.models._interface import AbstractBlockModel
from hopmix.symmetry.quantities import BLOCK, COUPLING, DIVERGED, MEASURED, Quantity


def with_probes(own: Sequence[AbstractProbe]) -> tuple[AbstractProbe, ...]:
    """The probes of every study, and the user's own.

    **Raises:** `UsageError` for quantities that another probe has, and dimensions that a study does
    not know.
    """
    known = {one.name for one in MEASURED} | {DIVERGED.name, "eigenvalue", *COORDINATES}
    for probe in own:
        for one in probe.quantities:
            if not isinstance(one, Quantity):
                raise UsageError(
                    f"probes: quantities of {type(probe).__name__} hold {one!r}; give "
                    f"hopmix.symmetry.Quantity."
                )
            if not one.name.isidentifier():
                raise UsageError(
                    f"probes: got the name {one.name!r}; give one of letters, digits and "
                    f"underscores."
                )
            if one.name in known:
                raise UsageError(f"probes: {one.name!r} is measured already; name it otherwise.")
            if one.dims not in ((), BLOCK, COUPLING):
                raise UsageError(
                    f"probes: {one.name!r} has the dimensions {one.dims}; they must be (), "
                    f"{BLOCK} or {COUPLING}."
                )
            known.add(one.name)
    return (*PROBES, *own)


def check_probes(
    probes: Sequence[AbstractProbe], arms: Sequence[Arm], task: AbstractTask, dataset: Any
):
    """Trace probes of the user's own on the models that they apply to, before any training.

    **Raises:** `UsageError` for one that fails, or that measures something else than it says.
    """
    inputs = eqx.filter_eval_shape(lambda dataset: task.inputs(dataset, INPUTS), dataset)
    for probe in probes:
        for arm in arms:
            for subject in subjects_of(probe, arm):
                _check_probe(probe, arm, subject, inputs)


def _check_probe(probe: AbstractProbe, arm: Arm, subject: Any, inputs: PyTree):
    name = type(probe).__name__

    def measure(subject: Any, inputs: PyTree) -> Any:
        explicit = cast(map_couplings(Coupling.explicit, subject), "float32")
        if isinstance(probe, AbstractModelProbe):
            return probe(eqx.nn.inference_mode(explicit), inputs, jr.key(0))
        assert isinstance(probe, AbstractCouplingProbe)
        return probe(explicit, explicit if probe.expensive else None)

    try:
        found = eqx.filter_eval_shape(measure, subject, inputs)
    except Exception as error:
        raise UsageError(
            f"probes: {name} fails on {arm.name} ({one_line(error)}); mend it."
        ) from error
    wanted = {one.name: one.dims for one in probe.quantities}
    if not isinstance(found, dict) or set(found) != set(wanted):
        keys = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise UsageError(
            f"probes: {name} returns {keys} on {arm.name}; it must be a dictionary of "
            f"{', '.join(wanted)}."
        )
    blocks = len(subject.blocks) if isinstance(subject, AbstractBlockModel) else 0
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {COUPLING: ()}
    if isinstance(probe, AbstractModelProbe):
        shapes = {(): (), BLOCK: (blocks,)}
    for key, value in found.items():
        shape = shapes.get(wanted[key])
        real = jnp.issubdtype(getattr(value, "dtype", object), jnp.floating)
        if shape is None or getattr(value, "shape", None) != shape or not real:
            kind = f"{getattr(value, 'dtype', type(value).__name__)}{getattr(value, 'shape', '')}"
            raise UsageError(
                f"probes: {key} of {name} is {kind} on {arm.name}; a model gives one real number, "
                f"or one for each block with the dimension 'block', a coupling one with ('block', "
                f"'branch')."
            )
