"""What is measured of each coupling: indices of its weights, spectra of their product, and how fast
its symmetry breaks.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from hopmix._coupling import Coupling
from hopmix.lab.probes.probe import AbstractCouplingProbe, Metrics
from hopmix.symmetry.breaking import breaking_rate
from hopmix.symmetry.quantities import (
    ASYMMETRY,
    COUPLINGS,
    EIGENVALUES,
    ONSET,
    SPECTRUM,
    Quantity,
    measure_product,
    measure_weights,
)
from hopmix.symmetry.spectrum import eigenvalues

LARGEST = 32
"""How many of the largest eigenvalues of VW are kept."""

OF_SEVERAL_UNITS = tuple(one.name for one in COUPLINGS if one.of_several_units)
"""Indices that have the same value, that of symmetry, for all weights of a single visible unit."""


class Weights(AbstractCouplingProbe):
    """The indices of `ASYMMETRY`; NaN where they would say nothing."""

    quantities: ClassVar[tuple[Quantity, ...]] = ASYMMETRY

    def __call__(self, coupling: Coupling, update: Coupling | None = None) -> Metrics:
        return _telling(coupling, measure_weights(coupling))


class Spectra(AbstractCouplingProbe):
    """The indices of `SPECTRUM`, NaN where they would say nothing, and the largest eigenvalues of
    VW, padded with NaN.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (*SPECTRUM, *EIGENVALUES)
    expensive: ClassVar[bool] = True

    def __call__(self, coupling: Coupling, update: Coupling | None = None) -> Metrics:
        values = eigenvalues(coupling)
        largest = values[jax.lax.top_k(jnp.abs(values), min(LARGEST, values.size))[1]]
        padding = (0, LARGEST - largest.size)
        parts = {"eigenvalue_real": largest.real, "eigenvalue_imaginary": largest.imag}
        padded = {
            name: jnp.pad(part, padding, constant_values=jnp.nan) for name, part in parts.items()
        }
        return _telling(coupling, measure_product(coupling)) | padded


class Onset(AbstractCouplingProbe):
    """How fast the breaking ratio grows by the next update, from the update alone (C11)."""

    quantities: ClassVar[tuple[Quantity, ...]] = (ONSET,)
    expensive: ClassVar[bool] = True

    def __call__(self, coupling: Coupling, update: Coupling) -> Metrics:
        return {ONSET.name: breaking_rate(coupling, jax.tree.map(jnp.negative, update))}


def _telling(coupling: Coupling, indices: Metrics) -> Metrics:
    """The indices, with NaN for those that a single visible unit decides: VW is a number then, and
    symmetric.
    """
    if coupling.up.shape[-1] > 1:
        return indices
    return {
        name: jnp.full_like(v, jnp.nan) if name in OF_SEVERAL_UNITS else v
        for name, v in indices.items()
    }
