"""What a probe is: some quantities, and how they are measured of one member."""

import abc
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, PyTree

from hopmix._coupling import Coupling
from hopmix._types import PRNGKey, Scalar
from hopmix.symmetry.quantities import Quantity

Metrics = dict[str, Array]


class AbstractProbe(eqx.Module):
    """One part of what is measured of a member of a study: a pure function, which is compiled.

    All probes of models are compiled in one program, and all probes of couplings in another; the
    expensive ones apart.
    """

    quantities: ClassVar[tuple[Quantity, ...]]
    """What it measures, with the dimensions of each."""

    expensive: ClassVar[bool] = False
    """Whether it is measured at some of the measurements only."""

    def applies(self, subject: Any) -> bool:
        """Whether such a model, or coupling, has what is measured; its arrays may be shapes."""
        return True


class AbstractModelProbe(AbstractProbe):
    """Measures a whole model: its call returns an array for each of the `quantities`, of shape ()
    or, with the dimension "block", (blocks,).
    """

    @abc.abstractmethod
    def __call__(self, model: Any, inputs: PyTree, key: PRNGKey) -> Metrics:
        """What is measured of a model.

        **Arguments:**

        - `model`: of one member, with explicit down-weights.
        - `inputs`: some inputs of the validation split, always the same.
        - `key`: for what is drawn, another one for each member and step.
        """


class AbstractCouplingProbe(AbstractProbe):
    """Measures each coupling of a model: its call returns a number, or a vector of one length, for
    each of the `quantities`.
    """

    @abc.abstractmethod
    def __call__(self, coupling: Coupling, update: Coupling | None) -> dict[str, Scalar | Array]:
        """What is measured of one coupling.

        **Arguments:**

        - `coupling`: with explicit down-weights.
        - `update`: what the optimiser adds to it next, in a tree of the same form; `None` for
          probes that are not `expensive`.
        """
