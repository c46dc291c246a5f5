"""Symmetry of weights: what is measured of it, and what each number means."""

from hopmix.symmetry.null import Sizes as Sizes
from hopmix.symmetry.quantities import Quantity as Quantity
