"""An .npz file of images and labels as arrays."""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hopmix.lab.data.sources.array_rows import ArrayRows
from hopmix.lab.data.sources.files import refuse_columns
from hopmix.lab.data.sources.labels import refuse_missing
from hopmix.lab.data.sources.room import free_memory
from hopmix.lab.data.sources.source import Given, Options, Pixels, Source, Values, make_source
from hopmix.lab.data.sources.words import list_names, reason
from hopmix.lab.errors import UsageError

PAIRS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (("x_val", "y_val"), ("x_valid", "y_valid"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
"""The names of the arrays of images and labels, in any case."""

UNSPLIT = (("images", "labels"), ("x", "y"), ("data", "target"))
"""Those of an unsplit collection."""

OVERSHOOT = 1e-3
"""How far rounding takes fractions beyond 0 and 1; what is beyond comes of another range, or of
resizing.
"""


class Reading(NamedTuple):
    """How numbers become pixels, decided by the training images: what they are multiplied with, and
    what is told.
    """

    factor: int
    note: str


def open_array_file(data: str, path: Path, options: Options) -> Source:
    """The images and labels of an .npz file: `x_train` and `y_train`, with `x_test` and `y_test`
    and `x_val` and `y_val` where there are such; or `images` and `labels`.

    Images are height x width, height x width x colours or colours x height x width, of bytes, of
    floating-point numbers in 0..1, or of whole numbers in 0..255. Nothing is unpickled.

    **Raises:** `UsageError` for other arrays.
    """
    refuse_columns(data, "a file of arrays", options)
    if not zipfile.is_zipfile(path):
        raise UsageError(
            f"data = {data!r} is no .npz file of several arrays; save images and labels with "
            f"numpy.savez"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            take = lambda name: _array(data, path, arrays, name)
            where = f"the local file {data}"
            return _source(data, path.stem, where, list(arrays.files), take, options)
    except UsageError:
        raise
    # NumPy and zipfile raise whatever they stumble over in a damaged file.
    except Exception as error:
        pickled = "allow_pickle" in str(error)
        if pickled:
            told = "an array of objects, which is never unpickled"
        else:
            told = reason(error)
        raise UsageError(
            f"data = {data!r} cannot be read ({told}); save it again as plain arrays"
        ) from error


def open_arrays(data: str, arrays: Mapping[str, Any], options: Options) -> Source:
    """The images and labels of arrays in memory, under the names that an .npz file has for them.

    **Raises:** `UsageError` for other arrays.
    """
    refuse_columns(data, "a set of arrays", options)
    take = lambda name: np.asarray(arrays[name])
    return _source(data, "arrays", "arrays given in Python", list(arrays), take, options)


def _source(
    data: str,
    title: str,
    where: str,
    files: list[str],
    take: Callable[[str], np.ndarray],
    options: Options,
) -> Source:
    names = _pairs(data, files)
    given = {}
    reading = None
    notes: list[str] = []
    for split, (x, y) in names.items():
        images, layout = _in_layout(data, x, take(x))
        reading = reading or _reading(data, x, images)
        pixels, clipped = _as_bytes(data, x, images, reading)
        labels = _labels(data, y, take(y), len(pixels))
        given[split] = Given(ArrayRows(pixels, x, options.size), labels, f"array {x}")
        notes += [note for note in (layout, reading.note, clipped) if note and note not in notes]
    left = [
        name for name in files if name not in {name for pair in names.values() for name in pair}
    ]
    notes += [f"not read: {list_names(left)}"] if left else []
    return make_source(data, title, where, given, notes=notes)


def _pairs(data: str, names: list[str]) -> dict[str, tuple[str, str]]:
    """The names of images and labels of each split, as they are written."""
    written = {name.lower(): name for name in names}
    found = {split: _first_pair(written, pairs) for split, pairs in PAIRS.items()}
    found = {split: pair for split, pair in found.items() if pair}
    unsplit = _first_pair(written, UNSPLIT)
    if "train" not in found and unsplit and not found:
        found = {"train": unsplit}
    if "train" not in found:
        raise UsageError(
            f"data = {data!r} holds {list_names(names) or 'nothing'}; name the arrays x_train "
            f"and y_train, with x_test "
            "and y_test and x_val and y_val where you have them, or images and labels"
        )
    return found


def _first_pair(
    written: dict[str, str], pairs: Iterable[tuple[str, str]]
) -> tuple[str, str] | None:
    return next(((written[x], written[y]) for x, y in pairs if x in written and y in written), None)


def _array(data: str, path: Path, arrays: Any, name: str) -> np.ndarray:
    """An array, after a look at the size that its file gives it."""
    shape, dtype = _header(path, name)
    needed = int(np.prod([int(length) for length in shape], dtype=object)) * dtype.itemsize
    free = free_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"data = {data!r}: array {name!r} of shape {shape} and type {dtype} takes "
            f"{needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB of memory are free; save it as uint8, or smaller"
        )
    return arrays[name]


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with zipfile.ZipFile(path) as members:
        if f"{name}.npy" in members.namelist():
            stored = f"{name}.npy"
        else:
            stored = name
        with members.open(stored) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                read = np.lib.format.read_array_header_1_0
            else:
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    return shape, dtype


def _in_layout(data: str, name: str, images: np.ndarray) -> tuple[np.ndarray, str]:
    """Images as height x width x colours, and what to tell of what they were."""
    if images.ndim == 3:
        return images[..., None], ""
    _refuse_two_layouts(data, name, images.shape)
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images, ""
    if images.ndim == 4 and images.shape[3] == 4:
        return images[..., :3], f"array {name}: transparency is dropped"
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return np.moveaxis(images, 1, 3), f"array {name} is read as colours x height x width"
    raise UsageError(
        f"data = {data!r}: array {name!r} has the shape {images.shape}; images must be (number, "
        f"height, width), "
        "(number, height, width, colours) or (number, colours, height, width) with 1 or 3 colours"
    )


def _refuse_two_layouts(data: str, name: str, shape: tuple[int, ...]):
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] in (1, 3, 4) and shape[1:] != (1, 1, 1):
        raise UsageError(
            f"data = {data!r}: array {name!r} of shape {shape} may be (number, height, width, "
            f"colours) or (number, "
            "colours, height, width); transpose it to (number, height, width, colours) with a "
            "height that is neither 1 "
            "nor 3 (swap height and width, if need be), or leave out the axis of one colour"
        )


def _reading(data: str, name: str, images: np.ndarray) -> Reading:
    if images.size == 0:
        raise UsageError(
            f"data = {data!r}: array {name!r} has the shape {images.shape} and so no pixels; add "
            f"some"
        )
    if images.dtype == np.uint8:
        return Reading(1, "")
    if images.dtype == np.bool_:
        return Reading(255, "pixels that are true become 255")
    if not (np.issubdtype(images.dtype, np.integer) or np.issubdtype(images.dtype, np.floating)):
        raise UsageError(
            f"data = {data!r}: array {name!r} is of type {images.dtype}, no numbers; save it as "
            f"uint8"
        )
    low = images.min()
    high = images.max()
    if images.dtype.kind == "f":
        return _reading_of_fractions(data, name, images.dtype, low, high)
    if low >= 0 and high <= 255:
        return Reading(1, f"pixels are of type {images.dtype} in 0..255")
    raise _out_of_range(data, name, low, high)


def _reading_of_fractions(data: str, name: str, dtype: np.dtype, low: Any, high: Any) -> Reading:
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return Reading(255, f"pixels are of type {dtype} in 0..1: multiplied by 255 and rounded")
    if low >= -1 and 1 < high < 2:
        raise UsageError(
            f"data = {data!r}: array {name!r} has values from {low:.6g} to {high:.6g}, as "
            f"fractions have that "
            "overshoot 1; clip them to 0..1, or bring them to 0..255"
        )
    if low >= 0 and high <= 255:
        return Reading(1, f"pixels are of type {dtype} in 0..255: rounded")
    raise _out_of_range(data, name, low, high)


def _out_of_range(data: str, name: str, low: Any, high: Any) -> UsageError:
    return UsageError(
        f"data = {data!r}: array {name!r} has values from {low} to {high}; bring them to 0..255, "
        f"or to 0..1 as "
        "floating-point numbers"
    )


def _as_bytes(data: str, name: str, images: np.ndarray, reading: Reading) -> tuple[Pixels, str]:
    """Images in the range of those of training, and what is told of them."""
    if images.dtype == np.uint8 and reading.factor == 1:
        return np.ascontiguousarray(images), ""
    limit = 255 // reading.factor
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    beyond = OVERSHOOT if images.dtype.kind == "f" and limit == 1 else 0
    # Fractions among bytes would all become 0 and 1.
    fractions = limit == 255 and (
        images.dtype == np.bool_ or (images.dtype.kind == "f" and 0 < high < 2)
    )
    if fractions or not (low >= -beyond and high <= limit + beyond):
        raise UsageError(
            f"data = {data!r}: array {name!r} has values from {low} to {high}, those of training "
            f"are in 0..{limit}; "
            "bring all to one range"
        )
    pixels = np.empty(images.shape, np.uint8)
    for row, image in enumerate(images):
        pixels[row] = (
            _rounded(image, reading.factor) if image.dtype.kind == "f" else image * reading.factor
        )
    clipped = low < 0 or high > limit
    return (
        pixels,
        f"array {name} has values from {low:.6g} to {high:.6g}: clipped to 0..1" if clipped else "",
    )


def _rounded(image: np.ndarray, factor: int) -> np.ndarray:
    return np.clip(np.rint(image * np.float32(factor)), 0, 255)


def _labels(data: str, name: str, labels: np.ndarray, count: int) -> Values:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise UsageError(
            f"data = {data!r}: array {name!r} has the shape {labels.shape}, but there are "
            f"{count} images; give one "
            "label to each"
        )
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U":
        refuse_missing(data, labels, lambda row: f"row {row} of {name}")
        return labels
    if labels.dtype.kind not in "iub":
        raise UsageError(
            f"data = {data!r}: array {name!r} is of type {labels.dtype}; labels must be whole "
            f"numbers or text"
        )
    if labels.size and labels.max() > np.iinfo(np.int64).max:
        raise UsageError(
            f"data = {data!r}: array {name!r} has the label {labels.max()}, beyond whole numbers "
            f"of 64 bits; number "
            "the classes from 0"
        )
    return labels.astype(np.int64)
