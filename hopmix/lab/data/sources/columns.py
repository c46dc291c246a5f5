"""Which columns of a table are the image and the label, and what the labels mean."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.table import InMemoryTable

from hopmix.lab.data.sources.decode import is_image
from hopmix.lab.data.sources.labels import refuse_missing
from hopmix.lab.data.sources.source import Options, Values
from hopmix.lab.data.sources.splits import split_column
from hopmix.lab.data.sources.words import list_names, reason
from hopmix.lab.errors import UsageError

LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
"""Names under which labels are found if no column, or more than one, is declared to be a class."""

CELL = {"bytes", "path"}
"""The fields of an image in a table: its content, or else where it lies."""

TEXT = ("string", "large_string", "string_view")

TRIED = 16
"""Rows in which a column of bytes is looked into for an image."""


class Columns(NamedTuple):
    """The names of the two columns that are read; that of a field of a column is COLUMN.FIELD."""

    image: str
    label: str


def find_columns(data: str, table: datasets.Dataset, options: Options) -> Columns:
    """The chosen columns, or else the only one that holds images and the one that must be the
    label.

    **Raises:** `UsageError` where a chosen column does not exist or the choice is not clear.
    """
    features = dict(_leaves(table.features))
    need_columns(data, features, options)
    image = options.image_column or _only_image(data, table, features)
    return Columns(image, options.label_column or _usual_label(data, features, image))


def need_columns(data: str, columns: Collection[str], options: Options):
    """Raise `UsageError` where a chosen column is not among those there are."""
    for option, chosen in options.columns.items():
        if chosen is not None and chosen not in columns:
            raise UsageError(
                f"{option} = {chosen!r} is not in data = {data!r}; its columns are "
                f"{list_names(columns)}"
            )


def _leaves(features: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The columns and, of those that are records, the fields, by their names with dots."""
    for name, feature in features.items():
        if isinstance(feature, dict) and not _is_cell(feature):
            yield from _leaves(feature, f"{prefix}{name}.")
        else:
            yield prefix + name, feature


def _is_cell(feature: Any) -> bool:
    return isinstance(feature, dict) and "bytes" in feature and set(feature) <= CELL


def _only_image(data: str, table: datasets.Dataset, features: dict[str, Any]) -> str:
    declared = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    found = declared or [
        name for name, feature in features.items() if _holds_images(table, name, feature)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"data = {data!r} has several image columns: {list_names(found)}; choose one with "
            f"--image-column"
        )
    texts = [name for name, feature in features.items() if getattr(feature, "dtype", "") in TEXT]
    if texts:
        cure = "choose one of paths with --image-column"
    else:
        cure = "give image files as bytes in one of them"
    raise UsageError(f"data = {data!r} has no image column among {list_names(features)}; {cure}")


def _holds_images(table: datasets.Dataset, name: str, feature: Any) -> bool:
    """Whether this is a column of bytes, or of cells, and the first of them that is not missing is
    an image.
    """
    if not (_is_cell(feature) or getattr(feature, "dtype", "") in ("binary", "large_binary")):
        return False
    cells = column_of(table.select(range(min(TRIED, len(table)))), name).to_pylist()
    contents = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
    first = next((content for content in contents if content), None)
    return first is not None and is_image(first)


def _may_hold_images(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "")
    return (
        isinstance(feature, datasets.Image)
        or _is_cell(feature)
        or kind in (*TEXT, "binary", "large_binary")
    )


def _usual_label(data: str, features: dict[str, Any], image: str) -> str:
    classes = [
        name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ]
    declared = [name for name in classes if not split_column([name])]
    named = [name for label in LABELS for name in features if name.strip().casefold() == label]
    fields = [name for name in features if name.rpartition(".")[2].strip().casefold() in LABELS]
    found = declared if len(declared) == 1 else (named or fields)
    if not found:
        raise UsageError(
            f"data = {data!r} has no label column among {list_names(features)}; choose one with "
            f"--label-column"
        )
    if not named and len(found) > 1:
        raise UsageError(
            f"data = {data!r} may have its labels in {list_names(found)}; choose one with "
            f"--label-column"
        )
    if found[0] == image:
        raise UsageError(
            f"data = {data!r}: column {image!r} would be both the image and the label; choose "
            f"another image with "
            "--image-column, or another label with --label-column"
        )
    return found[0]


def column_of(table: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column of a table, or the field of one."""
    first, *fields = _path(table, name)
    rows: Any = table.select_columns([first]).with_format("arrow")[:]
    column = rows.column(first)
    return pc.struct_field(column, fields) if fields else column  # pyright: ignore[reportAttributeAccessIssue]


def texts_of(table: datasets.Dataset, name: str) -> list[str]:
    """The values of a column of text or of named classes, without blanks around them; none of
    another column.
    """
    feature = table.features[name]
    column = column_of(table, name)
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))
        return [names.get(number, "").strip() for number in column.to_pylist()]
    if pa.types.is_dictionary(column.type):
        kind = column.type.value_type
    else:
        kind = column.type
    if str(kind) not in TEXT:
        return []
    return [(text or "").strip() for text in column.cast(pa.large_string()).to_pylist()]


def feature_of(table: datasets.Dataset, name: str) -> Any:
    """The type of a column, or of the field of one."""
    return dict(_leaves(table.features))[name]


def _path(table: datasets.Dataset, name: str) -> list[str]:
    """The names of a column and of its fields; a column whose own name has dots goes first."""
    if name in table.features:
        return [name]
    return name.split(".")


def label_values(
    data: str, where: str, table: datasets.Dataset, name: str
) -> tuple[Values, list[str]]:
    """The labels of a table, names or else whole numbers, and the order of the names where they are
    declared.

    **Arguments:**

    - `where`: what error messages call the table.

    **Raises:** `UsageError` for labels of another type, for missing ones, and for numbers without a
    name.
    """
    feature = feature_of(table, name)
    column = column_of(table, name)
    kind = str(column.type.value_type if pa.types.is_dictionary(column.type) else column.type)
    number = kind.startswith(("int", "uint"))
    if not number and kind not in TEXT:
        held = getattr(feature, "dtype", kind)
        raise UsageError(
            f"label_column = {name!r} of data = {data!r} holds {held}, neither whole numbers nor "
            f"text; write them so, "
            "or choose another with --label-column"
        )
    try:
        column = column.cast(pa.int64() if number else pa.large_string())
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"label_column = {name!r} of data = {data!r} has a label beyond 64 bits "
            f"({reason(error)}); choose another "
            "with --label-column"
        ) from error
    values = column.fill_null(0 if number else "").to_numpy()
    missing = column.is_null().to_numpy()
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
    else:
        names = []
    if names:
        missing |= (
            values < 0
        )  # stands for "not labelled", as in the test splits of some competitions
    if missing.any():
        raise UsageError(
            f"data = {data!r}: row {missing.argmax()} of {where} has no label; remove such rows"
        )
    if not number:
        refuse_missing(data, values.astype(str), lambda row: f"row {row} of {where}")
    if names:
        return (_by_name(data, where, values, names), names)
    return (values if number else values.astype(str), [])


def _by_name(data: str, where: str, values: Values, names: list[str]) -> Values:
    beyond = values >= len(names)
    if beyond.any():
        row = beyond.argmax()
        raise UsageError(
            f"data = {data!r}: row {row} of {where} has the label {values[row]}, but names for 0 "
            f"to {len(names) - 1} "
            "only; mend the labels or choose another column with --label-column"
        )
    return np.asarray(names, str)[values]


def as_images(
    data: str, table: datasets.Dataset, name: str, root: Path | None = None
) -> datasets.Dataset:
    """A table of one column, "image", of encoded images (content or path).

    **Arguments:**

    - `root`: the folder that paths count from.

    **Raises:** `UsageError` where the column can hold no images.
    """
    if name in table.features:
        alone = table.select_columns([name])
        if name == "image":
            alone = alone
        else:
            alone = alone.rename_column(name, "image")
    else:
        alone = datasets.Dataset(InMemoryTable(pa.table({"image": column_of(table, name)})))
    try:
        images = alone.cast_column("image", datasets.Image(decode=False))
    except Exception as error:  # of whatever kind Arrow raises for this type
        features = dict(_leaves(table.features))
        others = [
            other
            for other, feature in features.items()
            if other != name and _may_hold_images(feature)
        ]
        if others:
            cure = f"choose {list_names(others, 3)} with it"
        else:
            cure = "give image files as bytes in one column"
        raise UsageError(
            f"image_column = {name!r} of data = {data!r} holds {features[name]}, no images; {cure}"
        ) from error
    if root is None:
        return images
    return _from(root, images)


def _from(root: Path, images: datasets.Dataset) -> datasets.Dataset:
    """The same images, with paths that mean the same wherever the program is run."""
    rows: Any = images.with_format("arrow")[:]
    column = rows.column("image")
    if not pc.struct_field(column, "bytes").null_count:  # pyright: ignore[reportAttributeAccessIssue]
        return images
    cells = pa.chunked_array([_resolved(root, chunk) for chunk in column.chunks], column.type)
    return datasets.Dataset(InMemoryTable(pa.table({"image": cells}))).cast_column(
        "image", images.features["image"]
    )


def _resolved(root: Path, cells: Any) -> pa.StructArray:
    contents, paths = (pc.struct_field(cells, name) for name in ("bytes", "path"))  # pyright: ignore[reportAttributeAccessIssue]
    lying = [
        path if content.is_valid or not path or "://" in path else str(root / path)
        for path, content in zip(paths.to_pylist(), contents)
    ]
    return pa.StructArray.from_arrays(
        [contents, pa.array(lying, paths.type)], names=["bytes", "path"]
    )
