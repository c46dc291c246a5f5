r"""The indices of pairs of hidden units from their cosines: all pairings of a layer without moving
its weights.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from hopmix._coupling import Coupling
from hopmix._numerics.magnitude import Rows, max_abs
from hopmix._types import PRNGKey, Scalar
from hopmix.symmetry.significance import Pairing, Significance, compare, directed_pairing, polar
from hopmix.symmetry.weights import Units, units_of

UNITS = ("cosine", "unit_cosine", "mean_unit_cosine", "conservative_distance")
"""The indices that depend on how hidden units are paired through each unit's own two weight
vectors.
"""


def units_against_pairings(coupling: Coupling, key: PRNGKey, pairings: int) -> Significance:
    r"""`significance` of the indices of `UNITS`, from the cosines of $v_\alpha$ and $w_\beta$ of
    all pairs of units.

    Moving the weights for every pairing would take a hundred times as long.
    """
    units = units_of(coupling.down, coupling.up)
    pairs = _Pairs(units)
    draw = lambda key: pairs.measure(
        jr.permutation(key, len(pairs.here)), directed_pairing(units, key)
    )
    return compare(pairs.value, draw, coupling.up.shape, key=key, draws=pairings)


def of_units(
    overlap: Float[Array, " hidden"], w: Float[Array, " hidden"], v: Float[Array, " hidden"]
) -> dict[str, Scalar]:
    r"""The indices of `UNITS` as in `Asymmetry`, from $v_\alpha \cdot w_\alpha$, $|w_\alpha|$ and
    $|v_\alpha|$.
    """
    sizes = w * v
    cosines = overlap / jnp.where(sizes > 0, sizes, jnp.nan)
    apart = v**2 * (1 - jnp.where(sizes > 0, cosines, 0) ** 2)
    return {
        "cosine": jnp.sum(overlap) / (jnp.linalg.norm(w) * jnp.linalg.norm(v)),
        "unit_cosine": jnp.sum(overlap) / jnp.sum(sizes),
        "mean_unit_cosine": jnp.nanmean(cosines),
        "conservative_distance": jnp.sqrt(jnp.maximum(jnp.sum(apart), 0)) / jnp.linalg.norm(v),
    }


class _Sizes(NamedTuple):
    """The norms of the weights of all units, in common units."""

    w: Float[Array, " hidden"]
    v: Float[Array, " hidden"]

    def measure(self, cosines: Float[Array, " hidden"]) -> dict[str, Scalar]:
        return of_units(cosines * self.w * self.v, self.w, self.v)


class _Pairs:
    r"""The cosines of all $v_\alpha$ (rows) and $w_\beta$ (columns), and sizes of units in three
    gauges.

    Indices that a gauge keeps are computed where no size is out of range: those with weights in the
    gauge of equal sizes, the mean of all cosines for sizes of 1.
    """

    def __init__(self, units: Units):
        long_w, w = polar(units.w.entries)
        long_v, v = polar(units.v.entries)
        even = units.even / units.unit
        heard = ((long_w > 0) & (long_v > 0)).astype(w.dtype)
        self.cosines = v @ w.T
        self.here = jnp.arange(len(w))
        self.own = _Sizes(_relative(units.w, long_w), _relative(units.v, long_v))
        self.even = _Sizes(even * long_w, even * long_v)
        self.alike = _Sizes(heard, heard)

    @property
    def value(self) -> dict[str, Scalar]:
        """Of the units as they are."""
        return self.measure(self.here, Pairing(self.here, self.alike.w))

    def measure(self, plain: Int[Array, " hidden"], directed: Pairing) -> dict[str, Scalar]:
        """Of one pairing of weights, and for the indices that a gauge keeps of one of
        directions.
        """
        directions = directed.signs * self.cosines[directed.partners, self.here]
        paired = _Sizes(self.own.w, self.own.v[plain]).measure(self.cosines[plain, self.here])
        weighted = self.even.measure(directions)
        alike = self.alike.measure(directions)
        return paired | {
            "unit_cosine": weighted["unit_cosine"],
            "mean_unit_cosine": alike["mean_unit_cosine"],
        }


def _relative(rows: Rows, lengths: Float[Array, " rows"]) -> Float[Array, " rows"]:
    """Norms of rows in units of about the largest."""
    return lengths * (rows.sizes / max_abs(rows.sizes))
