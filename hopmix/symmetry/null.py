"""What each index is for independent weights: mean and standard deviation for given sizes.

To leading order in the sizes, for Gaussian entries with one variance for V and one for W; a
standard deviation is NaN where only the mean is known. Each function takes `Sizes` and returns
both.

**Source:** the tables of `hopmix.Asymmetry` and `hopmix.symmetry.Spectrum`; for standard deviations
below.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hopmix.symmetry.spectrum import null_departure

_LEADING = 8  # singular vectors of `overlap`, as they are measured


class Sizes(NamedTuple):
    """What null values depend on; numbers, or arrays that broadcast.

    - `visible`, `hidden`: how many units the coupling has.
    - `ratio`: of the norms of V and W.
    """

    visible: Any
    hidden: Any
    ratio: Any = 1.0


Moments = Callable[[Sizes], tuple[Any, Any]]
"""From sizes to mean and standard deviation for independent weights, NaN where unknown."""


def cosine(of: Sizes) -> tuple:
    """Of any mean of cosines in which all pairs of entries count alike."""
    return 0.0, 1 / (of.visible * of.hidden) ** 0.5


def quantile(share: float, score: float) -> Moments:
    """Of the quantile of a share of the cosines of hidden units, whose normal score is given."""
    # The spread of a sample quantile of h independent cosines that are normal with variance 1/n.
    spread = math.sqrt(2 * math.pi * share * (1 - share)) * math.exp(score**2 / 2)
    return lambda of: (score / of.visible**0.5, spread / (of.visible * of.hidden) ** 0.5)


def relative_breaking(of: Sizes) -> tuple:
    """Of squared norms, relative to both weights."""
    return 1.0, 2 * of.ratio / (1 + of.ratio**2) * cosine(of)[1]


def symmetry_score(of: Sizes) -> tuple:
    """Of the product VW and its transpose."""
    return 1 / of.visible, 2**0.5 / of.visible


def breaking_ratio(of: Sizes) -> tuple:
    """Of norms, relative to W alone."""
    mean = (1 + of.ratio**2) ** 0.5
    return mean, of.ratio / mean * cosine(of)[1]


def conservative_distance(of: Sizes) -> tuple:
    """Of V from all gains of W."""
    # A squared cosine has the variance 2/n^2; the squared distance is one minus the mean of h.
    mean = (1 - 1 / of.visible) ** 0.5
    return mean, (2 / of.hidden) ** 0.5 / (2 * of.visible * mean)


def directionality(of: Sizes) -> tuple:
    """Symmetric about 0; how wide is not known."""
    return 0.0, math.nan


def complex_fraction(of: Sizes) -> tuple:
    """Of the eigenvalues of VW."""
    # The variance of the number of real eigenvalues is (2 - sqrt 2) times its mean:
    # Akemann & Byun 2022.
    smaller = np.minimum(of.visible, of.hidden)
    real = _of_each(_real_eigenvalues, of)
    return 1 - real / smaller, ((2 - 2**0.5) * real) ** 0.5 / smaller


def _of_each(function: Callable[[int, int], float], of: Sizes) -> Any:
    one = lambda visible, hidden: function(int(visible), int(hidden))
    return np.vectorize(one, otypes=[float])(of.visible, of.hidden)


def _real_eigenvalues(visible: int, hidden: int) -> float:
    """How many eigenvalues of VW are real: the square root of half the density of all, along the
    real axis."""
    from scipy import integrate  # needed by pages alone, and training starts without it

    smaller, larger = sorted((visible, hidden))
    excess = larger / smaller - 1
    density = lambda x: (excess**2 + 4 * x**2) ** -0.25
    length, _ = integrate.quad(density, 0, math.sqrt(larger / smaller))
    return math.sqrt(2 * smaller / math.pi) * length


def largest_imaginary(of: Sizes) -> tuple:
    """Relative to the largest eigenvalue."""
    # Measured, on sizes from 32 to 160; below, it is less and varies more, above, the other way.
    smaller = np.minimum(of.visible, of.hidden)
    known = np.where((smaller < 32) | (smaller > 160), math.nan, 1.0)
    return 0.85 * known, 0.1 * known


def departure(of: Sizes) -> tuple:
    """Of VW from a normal matrix."""
    # The standard deviation is measured, on sizes from 16 to 256.
    return _of_each(null_departure, of), 0.5 / of.visible


def overlap(of: Sizes) -> tuple:
    """Of the leading singular vectors on either side."""
    # Of two independent subspaces of dimension k.
    n = of.visible
    k = np.minimum(_LEADING, np.minimum(of.visible, of.hidden))
    return k / n, 2**0.5 * (n - k) / (n * ((n - 1) * (n + 2)) ** 0.5)
