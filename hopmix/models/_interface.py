"""What the lab asks of a model: a function of one example, and where it has them, blocks."""

import abc
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, PyTree

from hopmix._block import Block, SerialBlock
from hopmix._types import Layer, PRNGKey


class AbstractBlockModel(eqx.Module):
    """A model whose states go through blocks that keep their energies, such as `Mixer`.

    What is measured of blocks, their energies and fields, is measured of every such model.
    """

    blocks: eqx.AbstractVar[tuple[Block | SerialBlock, ...]]

    @abc.abstractmethod
    def embed(self, inputs: PyTree) -> Layer:
        """The state of one example before the first block."""


def apply_batch(model: Callable[..., Any], inputs: PyTree, key: PRNGKey | None = None) -> Array:
    """The outputs of a model for a batch.

    **Arguments:**

    - `model`: called as `model.batch(inputs, key)` where it has that method, or else for each
      example as `model(example, key=key)`, or `model(example)` if it knows no key.
    - `inputs`: a tree of arrays, examples along the first axis.
    - `key`: of what is random in training; each example gets its own.

    **Returns:** the outputs, examples along the first axis.
    """
    if hasattr(model, "batch"):
        return model.batch(inputs, key)
    if key is None or not _knows_key(model):
        return jax.vmap(model)(inputs)
    keys = jr.split(key, jax.tree.leaves(inputs)[0].shape[0])
    return jax.vmap(lambda example, key: model(example, key=key))(inputs, keys)


def _knows_key(model: Callable[..., Any]) -> bool:
    return "key" in inspect.signature(model).parameters
