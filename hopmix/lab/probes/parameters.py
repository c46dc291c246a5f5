"""What is measured of all parameters of a model."""

from typing import Any, ClassVar

import equinox as eqx
import optax
from jaxtyping import PyTree

from hopmix._tree import trainable
from hopmix._types import PRNGKey
from hopmix.lab.probes.probe import AbstractModelProbe, Metrics
from hopmix.symmetry.quantities import PARAMETER_NORM, Quantity


class ParameterNorm(AbstractModelProbe):
    """The norm of all that trains."""

    quantities: ClassVar[tuple[Quantity, ...]] = (PARAMETER_NORM,)

    def __call__(self, model: Any, inputs: PyTree, key: PRNGKey) -> Metrics:
        return {PARAMETER_NORM.name: optax.tree.norm(eqx.filter(model, trainable(model)))}
