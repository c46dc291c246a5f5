"""Norms: of matrices, in double precision, and discs around all the matrices that a Jacobian can
be.
"""

import math
import sys
from typing import NamedTuple

import numpy as np


class Disc(NamedTuple):
    r"""The matrices within a distance of a multiple of the identity, $|A - a|_2 \le \rho$.

    - `centre`: $a$.
    - `radius`: $\rho$; infinite where nothing is known.
    """

    centre: float
    radius: float

    @property
    def size(self) -> float:
        """The largest norm in the disc."""
        return abs(self.centre) + self.radius


NOTHING = Disc(0.0, 0.0)
UNKNOWN = Disc(0.0, math.inf)


def between(low: float, high: float) -> Disc:
    """The disc of the symmetric matrices with eigenvalues between two numbers."""
    return Disc(0.5 * (low + high), 0.5 * (high - low))


def matrix_norm(matrix: np.ndarray) -> float:
    """The largest singular value, from the smaller Gram matrix: several times faster than the
    SVD.
    """
    size = largest_entry(matrix)
    if not 0 < size < math.inf:
        return size
    unit = matrix / size
    if unit.shape[0] <= unit.shape[1]:
        gram = unit @ unit.T
    else:
        gram = unit.T @ unit
    return size * math.sqrt(float(np.linalg.eigvalsh(gram)[-1]))


def largest_entry(matrix: np.ndarray) -> float:
    """The largest magnitude of an entry."""
    return float(np.max(np.abs(matrix), initial=0.0))


def unit_size(matrix: np.ndarray) -> np.ndarray:
    """A matrix divided by the largest magnitude of an entry, a matrix of zeros as it is."""
    return matrix / (largest_entry(matrix) or 1.0)


def product(*factors: float) -> float:
    """A product that is zero only where a factor is: a K that underflows would allow steps of any
    size.
    """
    found = math.prod(factors)
    if all(factors):
        return max(found, sys.float_info.min)
    return found


def largest_row(parameter: object, shape: tuple[int, ...]) -> float:
    """The largest Euclidean norm of one token of a parameter, which is broadcast to the shape of a
    layer.
    """
    rows = np.broadcast_to(np.asarray(parameter, float), shape).reshape(*shape[:1], -1)
    return float(np.max(np.linalg.norm(rows, axis=-1)))
