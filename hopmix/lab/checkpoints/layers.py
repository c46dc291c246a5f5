"""What can be measured in a network: its layers, each a pair of weights or a product, wherever they
come from.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from hopmix._coupling import Coupling
from hopmix.lab.checkpoints.formats.weights import AbstractWeights, shape_text

Kind = Literal["pair", "query-key", "square"]
"""Weights W and V of hidden units; queries and keys, with V = W_Q^T and W = W_K; or a square matrix
M by itself.
"""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose weights are read when they are asked for.

    - `place`, `part`: where it is in the network, "encoder.layer.3", and what it is there, "mlp".
    - `visible`, `hidden`: its sizes; of a square matrix both are its size.
    - `names`: of the weights that it is made of.
    - `load`: reads them.
    - `arm`, `seed`: whose it is, in a run of hopmix.
    """

    place: str
    part: str
    kind: Kind
    visible: int
    hidden: int
    names: tuple[str, ...]
    load: Callable[[], Coupling]
    arm: str = ""
    seed: int | None = None


class Skipped(NamedTuple):
    """Something that isn't measured, and why."""

    name: str
    why: str


class LayerSet(NamedTuple):
    """The layers of a network, and what in it looked like one but isn't.

    - `source`: what the numbers were read from, as in "a safetensors file".
    - `others`: the matrices in it that belong to no layer.
    """

    source: str
    layers: list[Layer]
    left_out: list[Skipped]
    others: tuple[str, ...] = ()


class Mismatch(ValueError):
    """Weights whose shapes don't go together; `name` has another shape than `wanted` beside
    `first`.
    """

    def __init__(
        self, first: str, name: str, shape: tuple[int, ...], wanted: tuple[int, ...], rule: str
    ):
        super().__init__(
            f"{rule}: {name} is {shape_text(shape)}, but beside {first} it must be "
            f"{shape_text(wanted)}"
        )
        self.first = first
        self.name = name
        self.wanted = wanted


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix of a checkpoint.

    - `transposed`: whether it is stored as its transpose.
    - `rows`: the first of its rows and the one behind the last, where it is a part of what is
      stored.
    """

    weights: AbstractWeights
    name: str
    transposed: bool = False
    rows: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        stored = self.weights.tensors[self.name].shape
        shape = stored[::-1] if self.transposed else stored
        if self.rows is None:
            return shape
        return (self.rows[1] - self.rows[0], *shape[1:])

    def share(self, index: int, of: int) -> "Matrix":
        """One of several equal parts of its rows."""
        first = (self.rows or (0, 0))[0]
        size = self.shape[0] // of
        return dataclasses.replace(self, rows=(first + index * size, first + (index + 1) * size))

    def read(self) -> Float32[np.ndarray, "rows columns"]:
        """Its numbers."""
        rows = slice(*self.rows) if self.rows else slice(None)
        if self.transposed:
            return self.weights.read(self.name, (slice(None), rows)).T
        return self.weights.read(self.name, (rows, slice(None)))


def pair(place: str, part: str, up: Matrix, down: Matrix, *, breaking: bool = False) -> Layer:
    """Weights W (hidden x visible) and V (visible x hidden); with `breaking` the second is V - W^T
    instead.

    **Raises:** `Mismatch` where their shapes aren't the transposes of each other.
    """
    hidden, visible = up.shape
    if down.shape != (visible, hidden):
        raise Mismatch(up.name, down.name, down.shape, (visible, hidden), "no pair")
    load = lambda: Coupling(
        jnp.asarray(up.read()), breaking=jnp.asarray(down.read()), tie=float(breaking)
    )
    return Layer(place, part, "pair", visible, hidden, (up.name, down.name), load)


def tied(place: str, part: str, up: Matrix) -> Layer:
    """A weight that is used both ways, V = W^T."""
    hidden, visible = up.shape
    return Layer(
        place, part, "pair", visible, hidden, (up.name,), lambda: Coupling(jnp.asarray(up.read()))
    )


def query_key(place: str, part: str, query: Matrix, key: Matrix) -> Layer:
    """Queries and keys (hidden x visible each), whose product M = W_Q^T W_K decides which tokens
    attend to which.

    **Raises:** `Mismatch` where their shapes differ.
    """
    if key.shape != query.shape:
        raise Mismatch(
            query.name, key.name, key.shape, query.shape, "no product of queries and keys"
        )
    hidden, visible = query.shape
    names = tuple(dict.fromkeys((query.name, key.name)))
    load = lambda: Coupling.from_weights(jnp.asarray(key.read()), jnp.asarray(query.read().T))
    return Layer(place, part, "query-key", visible, hidden, names, load)


def square(place: str, part: str, matrix: Matrix) -> Layer:
    """A square matrix M, as W with V = 1.

    **Raises:** `Mismatch` for a matrix that isn't square.
    """
    size = matrix.shape[-1]
    if matrix.shape != (size, size):
        raise Mismatch("itself", matrix.name, matrix.shape, (size, size), "no square matrix")
    load = lambda: Coupling.from_weights(
        jnp.asarray(matrix.read()), jnp.eye(size, dtype=jnp.float32)
    )
    return Layer(place, part, "square", size, size, (matrix.name,), load)
