"""A labelled collection of images as its author split it: rows that are decoded when they are asked
for.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Shaped, UInt8

from hopmix.lab.data.sources.labels import notes_on_labels
from hopmix.lab.data.sources.words import escaped, list_names
from hopmix.lab.errors import UsageError

Labels = Int32[np.ndarray, " _n"]
Index = Int[np.ndarray, " _m"]
Pixels = UInt8[np.ndarray, "_m height width colours"]
Size = tuple[int, int]
"""Height and width in pixels."""

Values = Shaped[np.ndarray, " _n"]
"""Labels as their author writes them: whole numbers or text."""


LABEL_CURE = ", or choose another column with --label-column"


class Like(NamedTuple):
    """The shape (height, width, colours) that further images must have, and the image that set
    it.
    """

    shape: tuple[int, int, int]
    name: str


class Options(NamedTuple):
    """What the user says about how to read.

    **Arguments:**

    - `image_column`, `label_column`: names of columns, where they cannot be told.
    - `size`: what each image is brought to; `None` leaves them as they are.
    """

    image_column: str | None = None
    label_column: str | None = None
    size: Size | None = None

    @property
    def columns(self) -> dict[str, str | None]:
        """The names of columns by the options that give them."""
        return {"image_column": self.image_column, "label_column": self.label_column}


class AbstractRows(abc.ABC):
    """Images, not yet decoded."""

    @abc.abstractmethod
    def name(self, row: int) -> str:
        """What an error message calls that row."""

    @abc.abstractmethod
    def read(self, index: Index, like: Like | None = None) -> Pixels:
        """The images of those rows, all of one size; that of `like` if it is given."""


class Given(NamedTuple):
    """One split as its author gives it.

    **Arguments:**

    - `where`: where it lies, as a phrase: "folder train".
    """

    rows: AbstractRows
    values: Values
    where: str


@dataclass(frozen=True)
class Part:
    """One split whose labels are the numbers 0..classes-1."""

    rows: AbstractRows
    labels: Labels
    where: str


@dataclass(frozen=True)
class Source:
    """A labelled collection of images as its author split it.

    **Arguments:**

    - `origin`: a phrase for "images from ...".
    - `classes`: names of the classes, by label.
    - `validation`, `test`: `None` where the author gives none.
    - `notes`: sentences that the user should read before training.
    - `label_cure`: what ends a message about labels, where their column may be chosen.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    train: Part
    validation: Part | None = None
    test: Part | None = None
    notes: tuple[str, ...] = ()
    label_cure: str = ""


def make_source(
    data: str,
    name: str,
    origin: str,
    splits: dict[str, Given],
    order: Sequence[str] = (),
    notes: Sequence[str] = (),
    columns: bool = False,
) -> Source:
    """The source of these splits, in which classes are the labels that occur in training.

    **Arguments:**

    - `splits`: "train", and "validation" and "test" where the author gives them.
    - `order`: the order of the names of classes; other labels follow, sorted.
    - `columns`: whether the user may choose the column of labels.

    **Raises:** `UsageError` for a split without images, for labels of two kinds, and for labels of
    another split that
        never occur in training.
    """
    for split, given in splits.items():
        if not len(given.values):
            raise UsageError(
                f"data = {data!r} has no images in its {split} split ({given.where}); add some"
            )
    known = _in_order(np.unique(splits["train"].values), order)
    code_of = {value: code for code, value in enumerate(known)}
    cure = LABEL_CURE if columns else ""
    parts = {split: _part(data, split, given, code_of, cure) for split, given in splits.items()}
    # A lone validation split is the test, as usual where the labels of the test split are not
    # published.
    held_out = parts.get("validation") if "test" in parts else None
    test = parts.get("test", parts.get("validation"))
    notes = [*notes, *notes_on_labels(known)]
    # Names of folders need not be text in any encoding.
    classes = tuple(str(value).encode("utf-8", "backslashreplace").decode() for value in known)
    return Source(
        escaped(name), origin, classes, parts["train"], held_out, test, tuple(notes), cure
    )


def _in_order(known: Values, order: Sequence[str]) -> list[Any]:
    place = {name: number for number, name in enumerate(order)}
    return sorted(known.tolist(), key=lambda value: (place.get(value, len(place)), value))


def _part(data: str, split: str, given: Given, code_of: dict[Any, int], cure: str) -> Part:
    texts = {isinstance(value, str) for value in code_of}
    if texts != {given.values.dtype.kind == "U"}:
        raise UsageError(
            f"data = {data!r}: labels are names in one split and numbers in another ({split}, "
            f"{given.where}), and "
            "nothing tells which is which; give them the same names"
        )
    values, inverse = np.unique(given.values, return_inverse=True)
    codes = np.asarray([code_of.get(value, -1) for value in values.tolist()], np.int32)
    labels = codes[inverse]
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        value = given.values[unknown[0]].item()
        row = escaped(given.rows.name(int(unknown[0])))
        raise UsageError(
            f"data = {data!r}: {row} has the label {value!r}, which never occurs in training "
            f"(there are "
            f"{list_names(code_of)}); remove or rename it{cure}"
        )
    return Part(given.rows, labels, escaped(given.where))
