"""Where labelled images come from: rows that are decoded when they are asked for."""

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int, Int32, UInt8

Labels = Int32[np.ndarray, " n"]
Index = Int[np.ndarray, " m"]
Pixels = UInt8[np.ndarray, "m height width colours"]


class Like(NamedTuple):
    """The shape (height, width, colours) that further images must have, and the image that set it."""

    shape: tuple[int, int, int]
    name: str


class AbstractRows(abc.ABC):
    """Labelled images, not yet decoded."""

    labels: Labels
    """The class of every row, 0..classes-1."""

    @abc.abstractmethod
    def name(self, row: int) -> str:
        """What an error message calls that row."""

    @abc.abstractmethod
    def read(self, index: Index, like: Like | None = None) -> Pixels:
        """The images of those rows, all of one size; that of `like` if it is given."""


@dataclass(frozen=True)
class ArrayRows(AbstractRows):
    """Rows of an array in memory."""

    images: UInt8[np.ndarray, "n height width colours"]
    labels: Labels

    def name(self, row: int) -> str:
        return f"row {row}"

    def read(self, index: Index, like: Like | None = None) -> Pixels:
        return self.images[index]


@dataclass(frozen=True)
class Source:
    """A labelled collection of images as its author split it.

    **Arguments:**

    - `origin`: a phrase for "images from ...".
    - `classes`: names of the classes, by label.
    - `validation`, `test`: `None` where the author gives none.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    train: AbstractRows
    validation: AbstractRows | None = None
    test: AbstractRows | None = None


def open_digits() -> Source:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries; its 17 grey levels become 0..255."""
    from sklearn.datasets import load_digits  # a second to import, and needed by this source alone

    digits = cast(Any, load_digits())
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    classes = tuple(str(name) for name in digits.target_names)
    return Source("digits", "scikit-learn's load_digits", classes, ArrayRows(images, digits.target.astype(np.int32)))
