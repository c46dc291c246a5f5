"""A `Mixer` in one file, as Equinox recommends it: a line of JSON with the configuration, then all
arrays in order.

The arrays are `.npy` records one after another, which `equinox.tree_serialise_leaves` writes.
Nothing in such a file is ever executed.
"""

import dataclasses
import json
import math
import os
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hopmix.models.mixer import Mixer, MixerConfig

LONGEST_LINE = 2**20
"""Bytes that the line of JSON may have."""

FORMAT = 2
"""The form of these files, which the line of JSON tells; the first one told none, and is read as
well.
"""


def save_mixer(path: str | Path, model: Mixer):
    """Write a mixer to a file that `load_mixer`, `hopmix measure` and Equinox's own functions read.

    **Arguments:**

    - `path`: the file; it is overwritten.
    - `model`: a `Mixer` as its configuration makes it, trained or not.
    """
    with Path(path).open("wb") as file:
        values = {"format": FORMAT} | dataclasses.asdict(model.config)
        file.write((json.dumps(values) + "\n").encode())
        eqx.tree_serialise_leaves(file, model)


def load_mixer(path: str | Path) -> Mixer:
    """The mixer in a file that `save_mixer` wrote; its arrays have the dtype that they were saved
    with.

    **Arguments:**

    - `path`: of the file.

    **Raises:** `ValueError` for a file that has no configuration of a mixer, or other arrays than
    its model.
    """
    with Path(path).open("rb") as file:
        config = mixer_config(read_hyperparameters(file))
        if config is None:
            raise ValueError(
                f"{path}: the first line is no configuration of a mixer; write it with "
                f"`save_mixer`."
            )
        start = file.tell()
        skeleton = _skeleton(path, config, list(stored_arrays(file)))
        file.seek(start)
        return eqx.tree_deserialise_leaves(file, skeleton)


def read_hyperparameters(file: BinaryIO) -> dict[str, Any] | None:
    """The JSON object in the first line of a file, which is then read up to its end; `None` if
    there is none.
    """
    start = file.tell()
    line = file.readline(LONGEST_LINE)
    try:
        values = json.loads(line) if line.startswith(b"{") else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        file.seek(start)
        return None
    return values


def mixer_config(values: dict[str, Any] | None) -> MixerConfig | None:
    """The `MixerConfig` with these fields, or `None` where they are not those of one.

    **Raises:** `ValueError` for a file of a later version of hopmix, whose fields may mean
    something else.
    """
    names = {field.name for field in dataclasses.fields(MixerConfig)} | {"format"}
    if not values or not set(values) <= names:
        return None
    fields: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
    }
    found = fields.pop("format", 1)
    if not (isinstance(found, int) and 1 <= found <= FORMAT):
        raise ValueError(
            f"format {found!r} is not known, only 1 to {FORMAT}; read it with the hopmix that "
            f"wrote it."
        )
    try:
        return MixerConfig(**fields)
    except (TypeError, ValueError):
        return None


class StoredArray(NamedTuple):
    """One array of a file of `.npy` records: what it is and where its numbers begin, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int


def stored_arrays(file: BinaryIO) -> Iterator[StoredArray]:
    """The arrays in the rest of a file, of which only the headers are read.

    **Raises:** `ValueError` for anything that is not a whole `.npy` record of numbers.
    """
    size = os.fstat(file.fileno()).st_size
    while file.tell() < size:
        shape, fortran, dtype = _header(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"an array of the shape {shape}, which there is not")
        yield StoredArray(shape, dtype, fortran, file.tell())
        end = file.tell() + math.prod(shape) * dtype.itemsize
        if end > size:
            raise ValueError(
                f"truncated: an array of shape {shape} should end at byte {end:,} of {size:,}"
            )
        file.seek(end)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy records of version {version} are not known, only (1, 0) and (2, 0)")
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    else:
        read = np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except (SyntaxError, tokenize.TokenError) as error:  # NumPy lets these of its parser through
        raise ValueError(f"a header that can't be parsed ({error})") from None
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which only running code could read")
    # NumPy has no name for bfloat16 and stores it as two bytes.
    return shape, fortran, np.dtype(jnp.bfloat16) if dtype == np.dtype("V2") else dtype


def _skeleton(path: str | Path, config: MixerConfig, stored: list[StoredArray]) -> Mixer:
    if config.depth > len(stored):
        raise ValueError(f"{path}: {len(stored)} arrays can't be {config.depth} blocks.")
    leaves, structure = jax.tree.flatten(eqx.filter_eval_shape(Mixer, config, key=jr.key(0)))
    shapes = [np.shape(leaf) for leaf in leaves]
    if shapes != [array.shape for array in stored]:
        raise ValueError(
            f"{path}: {len(stored)} arrays that are not the {len(shapes)} of the mixer of its "
            f"first line."
        )
    return jax.tree.unflatten(
        structure, [_like(leaf, array.dtype) for leaf, array in zip(leaves, stored)]
    )


def _like(leaf: Any, dtype: np.dtype) -> Any:
    # Plain numbers, such as the slope of an activation, are leaves too and stay plain numbers.
    is_array = isinstance(leaf, jax.ShapeDtypeStruct)
    if is_array:
        return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(dtype))
    return leaf
