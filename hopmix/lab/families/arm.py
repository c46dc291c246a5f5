"""Arms: what a study compares."""

import dataclasses
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from hopmix._types import PRNGKey


@dataclasses.dataclass(frozen=True)
class Look:
    """How an arm is drawn, the same in every chart, table and picture.

    - `colours`: one of them as `#rrggbb`, or a ramp from light to dark along which arms of one kind
      are graded by their strength.
    - `dash`: solid, dash, dot or dashdot; `marker`: circle, square, diamond, triangle-up or
      triangle-down. They tell arms apart where colour cannot.
    """

    colours: tuple[str, ...]
    dash: str
    marker: str


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm of a study.

    - `name`: what reports call it; no two arms of a study share it.
    - `kind`: the name without the strength.
    - `title`: the name in the literature.
    - `about`: what it is, in a sentence of HTML.
    - `make`: from a key to a model. Arms whose models have the same tree and shapes train in one
        compiled program; the weights of a seed are those of its key in every arm.
    - `strength`: lambda, by which the squared breaking counts in the loss; `None` where there is no
      such penalty.
    - `activations`: how many numbers of one example the gradients need at the least, for an
      estimate of memory.
    """

    name: str
    kind: str
    title: str
    about: str
    make: Callable[[PRNGKey], Any]
    strength: float | None = None
    activations: int = 0

    @property
    def shapes(self) -> PyTree:
        """A model with shapes in place of its arrays."""
        return _shapes(self.make)

    @property
    def form(self) -> Hashable:
        """The tree, shapes and constants of a model: arms with equal ones train in one program."""
        leaves, structure = jax.tree.flatten(self.shapes)
        return structure, tuple(
            (leaf.shape, leaf.dtype) if is_shape(leaf) else leaf for leaf in leaves
        )


def is_shape(leaf: Any) -> bool:
    """Whether a leaf stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


@lru_cache
def _shapes(make: Callable[[PRNGKey], Any]) -> PyTree:
    return eqx.filter_eval_shape(make, jax.random.key(0))
