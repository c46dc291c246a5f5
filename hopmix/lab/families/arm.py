"""Arms: what a study compares."""

import dataclasses
import numbers
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from hopmix._coupling import Coupling
from hopmix._tree import named_couplings
from hopmix._types import PRNGKey
from hopmix.lab.errors import UsageError, need
from hopmix.lab.families.pairs import paired_couplings

COLOUR = re.compile("#[0-9a-fA-F]{6}")
DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down")


@dataclasses.dataclass(frozen=True)
class Look:
    """How an arm is drawn, the same in every chart, table and picture.

    - `colours`: one of them as `#rrggbb`, or a ramp from light to dark along which arms of one kind
      are graded by their strength.
    - `dash`: solid, dash, dot or dashdot; `marker`: circle, square, diamond, triangle-up or
      triangle-down. They tell arms apart where colour cannot.

    **Raises:** `UsageError` for others.
    """

    colours: tuple[str, ...]
    dash: str
    marker: str

    def __post_init__(self):
        ramp = len(self.colours) > 0 and all(map(COLOUR.fullmatch, self.colours))
        need(ramp, "look", self.colours, "one or more colours such as '#0072b2'")
        need(self.dash in DASHES, "look", self.dash, f"one of {', '.join(DASHES)}")
        need(self.marker in MARKERS, "look", self.marker, f"one of {', '.join(MARKERS)}")


def _no_model(key: PRNGKey) -> Any:
    """What an arm must bring itself."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm of a study: a model, made again for each seed, and what counts in its loss.

    - `name`: what reports call it; no two arms of a study share it.
    - `kind`: the name without the strength; by default the name.
    - `title`: the name in the literature; by default the name.
    - `about`: what it is, in a sentence.
    - `make`: from a key to a model: any Equinox module that takes one example, `model(x)` or
      `model(x, key=key)`, or has `model.batch(x, key)` for many. Arms whose models have the same
      tree and shapes train in one compiled program; the weights of a seed are those of its key in
      every arm.
    - `strength`: lambda, by which the squared breaking counts in the loss; `None` where there is no
      such penalty.
    - `look`: how it is drawn; by default one of its own kind's, or of those that are left.
    - `pairs`: matrices that are measured as a coupling though the model has none there:
      "layers.*.up.weight:layers.*.down.weight", with W (hidden x visible) before the colon and V
      (visible x hidden) behind it, `*` for a piece between dots, and `.T` behind the name of what
      is stored as its transpose.
    - `activations`: how many numbers of one example the gradients need at the least, for an
      estimate of memory.

    **Raises:** `UsageError` for a name that is empty or has a control character or `|`, and for a
    `make` that cannot be called.
    """

    name: str
    kind: str = ""
    title: str = ""
    about: str = ""
    make: Callable[[PRNGKey], Any] = _no_model
    strength: float | None = None
    look: Look | None = None
    pairs: Sequence[str] = ()
    activations: int = 0

    def __post_init__(self):
        if not (isinstance(self.name, str) and self.name.strip() and self.name.isprintable()):
            raise UsageError(f"arms: got the name {self.name!r}; give each arm one, in plain text.")
        if "|" in self.name:
            raise UsageError(f"arms: got the name {self.name!r}; give it one without '|'.")
        if not callable(self.make) or self.make is _no_model:
            raise UsageError(f"arms: {self.name} has no make, a function from a key to a model.")
        if self.strength is not None and not _is_strength(self.strength):
            raise UsageError(
                f"arms: {self.name} has the strength {self.strength!r}; give a number of 0 or more "
                f"that float32 holds, or None."
            )
        for field in ("kind", "title", "about"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.isprintable():
                raise UsageError(f"arms: {field} of {self.name} is {text!r}; give plain text.")
        object.__setattr__(self, "kind", self.kind or self.name)
        object.__setattr__(self, "title", self.title or self.name)
        object.__setattr__(self, "pairs", self._texts_of_pairs())
        if not _is_hashable(self.make):  # a module with arrays
            object.__setattr__(self, "make", partial(self.make))

    def _texts_of_pairs(self) -> tuple[str, ...]:
        given = (self.pairs,) if isinstance(self.pairs, str) else self.pairs
        if not isinstance(given, Iterable) or not all(isinstance(one, str) for one in given):
            raise UsageError(f"arms: pairs of {self.name} are {given!r}; give texts 'UP:DOWN'.")
        return tuple(given)

    @property
    def shapes(self) -> PyTree:
        """A model with shapes in place of its arrays."""
        return _shapes(self.make)

    @property
    def form(self) -> Hashable:
        """The tree, shapes and constants of a model, and its pairs: arms with equal ones train in
        one program.
        """
        leaves, structure = jax.tree.flatten(self.shapes)
        constants = tuple((leaf.shape, leaf.dtype) if is_shape(leaf) else leaf for leaf in leaves)
        return structure, constants, tuple(self.pairs)

    def couplings(self, tree: PyTree) -> dict[str, Coupling]:
        """The couplings of a model of this arm by name: those that it has, and those that are
        paired by name.

        **Arguments:**

        - `tree`: a model, several of them side by side along a leading axis, or a tree of the same
          form, such as its updates.

        **Raises:** `UsageError` for pairs that there are not.
        """
        return named_couplings(tree) | paired_couplings(tree, self.pairs)

    @cached_property
    def shaped_couplings(self) -> dict[str, Coupling]:
        """The couplings of a model by name, with shapes in place of arrays."""
        return eqx.filter_eval_shape(self.couplings, self.shapes)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """How many visible and hidden units each coupling has, by name."""
        found = self.shaped_couplings
        return {name: (one.up.shape[-1], one.up.shape[-2]) for name, one in found.items()}


def _is_strength(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    held = np.finfo(np.float32)
    return value == 0 or float(held.tiny) <= float(value) <= float(held.max)


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_shape(leaf: Any) -> bool:
    """Whether a leaf stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


@lru_cache
def _shapes(make: Callable[[PRNGKey], Any]) -> PyTree:
    return eqx.filter_eval_shape(make, jax.random.key(0))
