"""Which columns of a table are the image and the label, and what the labels mean."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import datasets
import numpy as np
from jaxtyping import Shaped

from hopmix.lab.config import UsageError

LABELS = ("label", "labels", "fine_label", "class", "target")
"""Names under which labels are found if no column, or more than one, is declared to be a class."""

Values = Shaped[np.ndarray, " n"]
"""Labels as they stand in the table: whole numbers or text."""


class Columns(NamedTuple):
    """The names of the two columns that are read."""

    image: str
    label: str


def find_columns(data: str, table: datasets.Dataset, image: str | None, label: str | None) -> Columns:
    """The chosen columns, or else the only one that is declared an image and the one that must be the label.

    **Raises:** `UsageError` where a chosen column does not exist or the choice is not clear.
    """
    for option, chosen in (("image_column", image), ("label_column", label)):
        if chosen is not None and chosen not in table.features:
            listed = list_names(table.features)
            raise UsageError(f"{option} = {chosen!r} is not in data = {data!r}; its columns are {listed}")
    return Columns(image or _only_image(data, table), label or _usual_label(data, table))


def _only_image(data: str, table: datasets.Dataset) -> str:
    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if len(found) == 1:
        return found[0]
    some, none = f"several image columns: {list_names(found)}", f"no image column among {list_names(table.features)}"
    raise UsageError(f"data = {data!r} has {some if found else none}; choose one with --image-column")


def _usual_label(data: str, table: datasets.Dataset) -> str:
    declared = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    named = [name for name in LABELS if name in table.features]
    found = declared if len(declared) == 1 else named
    if not found:
        raise UsageError(
            f"data = {data!r} has no label column among {list_names(table.features)}; choose one with "
            "--label-column, or put the images of each class into a folder of its own"
        )
    return found[0]


def label_values(data: str, split: str, table: datasets.Dataset, column: str) -> Values:
    """The labels of one split: whole numbers, not negative where they stand for names, or text.

    **Raises:** `UsageError` for labels of another type and for missing ones.
    """
    feature = table.features[column]
    kind = getattr(feature, "dtype", type(feature).__name__)
    number, text = kind.startswith(("int", "uint")), kind in ("string", "large_string")
    if not (number or text):
        raise UsageError(
            f"label_column = {column!r} of data = {data!r} holds {kind}, neither whole numbers nor text; "
            "choose another with --label-column"
        )
    cells = cast(Any, table.select_columns([column]).with_format("arrow")[:]).column(column)
    values = cells.fill_null(0 if number else "").to_numpy()
    missing = cells.is_null().to_numpy()
    if isinstance(feature, datasets.ClassLabel):
        missing |= values < 0  # stands for "not labelled", as in the test splits of some competitions
    if missing.any():
        raise UsageError(f"data = {data!r}: row {missing.argmax()} of {split} has no label; remove such rows")
    return values if number else values.astype(str)


def class_names(feature: object, known: Values) -> tuple[str, ...]:
    """The names of the labels that occur."""
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names[value] for value in known)
    return tuple(str(value) for value in known)


def as_images(data: str, table: datasets.Dataset, column: str) -> datasets.Dataset:
    """The table with encoded images (content or path) in that column.

    **Raises:** `UsageError` where the column can hold no images.
    """
    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"image_column = {column!r} of data = {data!r} holds {table.features[column]}, no images; "
            "choose another with --image-column"
        ) from error


def list_names(names: Iterable[str]) -> str:
    """The names as one phrase of an error message."""
    return ", ".join(repr(name) for name in names)
