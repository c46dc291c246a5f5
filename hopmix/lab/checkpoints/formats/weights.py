"""Weights: the arrays of a checkpoint by name, of which only shapes are known until one is read."""

import abc
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from hopmix.lab.errors import UsageError
from hopmix.lab.runtime.terminal import printable

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""What weights can be stored as; integers are quantised, and what they stand for is not in the file
alone.
"""


SHOWN = 24
"""How many names a message lists before it only counts them."""


class Tensor(NamedTuple):
    """An array in a file: its shape, and its dtype by NumPy's name."""

    shape: tuple[int, ...]
    dtype: str


class AbstractWeights(abc.ABC):
    """The arrays of a checkpoint, read one at a time.

    - `source`: what they are read from, as in "a safetensors file".
    - `tensors`: all of them.
    """

    source: str
    tensors: dict[str, Tensor]

    @abc.abstractmethod
    def cut(self, name: str, part: tuple[slice, slice]) -> Any:
        """A part of a matrix, in a form that NumPy takes."""

    def read(self, name: str, part: tuple[slice, slice]) -> Float32[np.ndarray, "rows columns"]:
        """A part of a matrix in float32.

        **Raises:** `UsageError` where the file is damaged.
        """
        try:
            return np.asarray(self.cut(name, part)).astype(np.float32)
        except Exception as error:  # each format has its own kinds; all mean the same here
            raise UsageError(
                f"path: {name} can't be read from {self.source} ({first_line(error)})."
            ) from None


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0][:160]
    return type(error).__name__


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The three names that are most like a name, best first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.0)


def fitting(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], but: str = "") -> str:
    """Which weights have a shape, but for one, the most like a name first, for a message."""
    names = nearest(
        name, (other for other, tensor in tensors.items() if tensor.shape == shape and other != but)
    )
    if names:
        return f"nearest that fit: {listed(tensors, names)}"
    return f"no weight is {shape_text(shape)}"


def listed(tensors: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """Names with their shapes, as far as a message has room for."""
    shown = ", ".join(
        f"{printable(name)} ({shape_text(tensors[name].shape)})" for name in names[:SHOWN]
    )
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as it is read aloud: 64 x 16."""
    return " x ".join(map(str, shape)) or "one number"


def shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """What names have in common up to a dot, and the rest of each."""
    pieces = [name.split(".") for name in names]
    common = [
        same[0]
        for same in itertools.takewhile(
            lambda same: len(set(same)) == 1, zip(*(p[:-1] for p in pieces))
        )
    ]
    return ".".join(common), [".".join(p[len(common) :]) for p in pieces]
