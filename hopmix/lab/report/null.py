"""What each index is for independent weights: means and standard deviations, where they are known."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import integrate

from hopmix._spectrum import null_departure

_LEADING = 8  # singular vectors of `overlap`, as they are measured


class Sizes(NamedTuple):
    """What null values depend on: visible and hidden units, and the ratio of norms of V and W; numbers or arrays."""

    visible: Any
    hidden: Any
    ratio: Any = 1.0


def null(key: str, sizes: xr.Dataset, balance: xr.DataArray | float = 0.0) -> xr.Dataset | None:
    """Mean and standard deviation (`mean`, `std`) of an index for one coupling of independent weights.

    To leading order in the sizes, for Gaussian entries with one variance for V and one for W; `std` is NaN where only
    the mean is known.

    **Arguments:**

    - `key`: the name of the index.
    - `sizes`: `visible` and `hidden`, such as (arm, branch).
    - `balance`: of the norms of W and V, as measured.

    **Returns:** the two as labelled arrays, or `None` for an index without a null value.

    **Source:** the tables of `hopmix.Asymmetry` and `hopmix.Spectrum`; for their standard deviations below.
    """
    if key not in _NULLS:
        return None
    ratio = ((1 - balance) / (1 + balance)) ** 0.5
    mean, std = _NULLS[key](Sizes(sizes.visible, sizes.hidden, ratio))
    shape = xr.zeros_like(sizes.visible * ratio, dtype=float)
    return xr.Dataset({"mean": shape + mean, "std": shape + std})


def _cosine(of: Sizes) -> tuple:
    return 0.0, 1 / (of.visible * of.hidden) ** 0.5


def _quantile(share: float, score: float) -> Callable[[Sizes], tuple]:
    # The spread of a sample quantile of h independent cosines that are normal with variance 1/n.
    spread = math.sqrt(2 * math.pi * share * (1 - share)) * math.exp(score**2 / 2)
    return lambda of: (score / of.visible**0.5, spread / (of.visible * of.hidden) ** 0.5)


def _relative_breaking(of: Sizes) -> tuple:
    return 1.0, 2 * of.ratio / (1 + of.ratio**2) * _cosine(of)[1]


def _breaking_ratio(of: Sizes) -> tuple:
    mean = (1 + of.ratio**2) ** 0.5
    return mean, of.ratio / mean * _cosine(of)[1]


def _conservative_distance(of: Sizes) -> tuple:
    # A squared cosine has the variance 2/n^2, and the square of the distance is one minus the mean of h of them.
    mean = (1 - 1 / of.visible) ** 0.5
    return mean, (2 / of.hidden) ** 0.5 / (2 * of.visible * mean)


def _complex_fraction(of: Sizes) -> tuple:
    # The variance of the number of real eigenvalues is (2 - sqrt 2) times its mean: Akemann & Byun 2022.
    smaller = np.minimum(of.visible, of.hidden)
    real = _of_each(_real_eigenvalues, of)
    return 1 - real / smaller, ((2 - 2**0.5) * real) ** 0.5 / smaller


def _of_each(function: Callable[[int, int], float], of: Sizes) -> Any:
    return xr.apply_ufunc(lambda n, h: function(int(n), int(h)), of.visible, of.hidden, vectorize=True)


def _real_eigenvalues(visible: int, hidden: int) -> float:
    """How many eigenvalues of VW are real: the square root of half the density of all, along the real axis."""
    smaller, larger = sorted((visible, hidden))
    excess = larger / smaller - 1
    length, _ = integrate.quad(lambda x: (excess**2 + 4 * x**2) ** -0.25, 0, math.sqrt(larger / smaller))
    return math.sqrt(2 * smaller / math.pi) * length


def _largest_imaginary(of: Sizes) -> tuple:
    # Measured, on sizes from 32 to 160; below, it is less and varies more, above, it is more and varies less.
    smaller = np.minimum(of.visible, of.hidden)
    known = xr.where((smaller < 32) | (smaller > 160), math.nan, 1.0)
    return 0.85 * known, 0.1 * known


def _departure(of: Sizes) -> tuple:
    # The standard deviation is measured, on sizes from 16 to 256.
    return _of_each(null_departure, of), 0.5 / of.visible


def _overlap(of: Sizes) -> tuple:
    # Of two independent subspaces of dimension k.
    n, k = of.visible, np.minimum(_LEADING, np.minimum(of.visible, of.hidden))
    return k / n, 2**0.5 * (n - k) / (n * ((n - 1) * (n + 2)) ** 0.5)


_NULLS: dict[str, Callable[[Sizes], tuple]] = {
    "cosine": _cosine,
    "relative_breaking": _relative_breaking,
    "unit_cosine": _cosine,
    "symmetry_score": lambda of: (1 / of.visible, 2**0.5 / of.visible),
    "breaking_ratio": _breaking_ratio,
    "mean_unit_cosine": _cosine,
    "low_unit_cosine": _quantile(0.1, -1.2816),
    "median_unit_cosine": _quantile(0.5, 0.0),
    "high_unit_cosine": _quantile(0.9, 1.2816),
    "conservative_distance": _conservative_distance,
    "directionality": lambda of: (0.0, math.nan),
    "complex_fraction": _complex_fraction,
    "largest_imaginary": _largest_imaginary,
    "departure": _departure,
    "overlap": _overlap,
}
