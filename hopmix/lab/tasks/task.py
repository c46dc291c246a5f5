"""What a task is to the trainer: batches, a loss and scores."""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from hopmix._types import PRNGKey, Scalar
from hopmix.symmetry.quantities import Quantity


class Loss(NamedTuple):
    """What a task says of a model on a batch.

    - `value`: what is made small, without the penalty.
    - `model`: the model, in which buffers (what never trains) may have changed.
    - `score`: the `headline` on this batch.
    """

    value: Scalar
    model: Any
    score: Scalar


class AbstractTask(eqx.Module):
    """What is learned: batches, a loss to make small, and scores on a split.

    A task holds no arrays; what it learns from is a data set of its own kind, a tree on the device
    with the splits `train` and `validation`.
    """

    headline: ClassVar[str]
    """The score that tables begin with."""

    quantities: ClassVar[tuple[Quantity, ...]]
    """What is recorded of training and validation: `train_loss`, `train_<headline>`, `penalty`,
    `gradient_norm`, and `validation_<score>` for each score."""

    @abc.abstractmethod
    def batch(self, dataset: Any, key: PRNGKey, rows: Array) -> PyTree:
        """What a step learns from: rows of the training split."""

    @abc.abstractmethod
    def loss(self, model: Any, batch: PyTree, key: PRNGKey | None = None) -> Loss:
        """The loss of a model on a batch; `key` is of what is random in the model."""

    @abc.abstractmethod
    def scores(self, model: Any, split: PyTree, dataset: Any) -> dict[str, Scalar]:
        """The scores of a model on a split, `loss` and the headline among them."""

    @abc.abstractmethod
    def inputs(self, dataset: Any, count: int) -> PyTree:
        """So many inputs of the validation split, as a model takes them; always the same ones."""

    def size(self, dataset: Any) -> int:
        """The number of examples of the training split."""
        return jax.tree.leaves(dataset.train)[0].shape[0]
