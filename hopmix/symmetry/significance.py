r"""Significance: an index beside what it is for the same weights where hidden units are paired at
random.

Each null is an orbit of a group of changes of the weights, and each draw a change by a random
element $G_i$ of it.

*Why p is exact.* Let the law of the weights $X$ be that of $gX$ for every $g$ of the group (the
null hypothesis). For $G_0$ uniform in the group, $(X, G_1X, \dots, G_NX)$ then has the law of
$(G_0X, G_1G_0X, \dots, G_NG_0X)$, and $G_0, G_1G_0, \dots, G_NG_0$ are independent and uniform: the
index of the weights and those of the draws are $N + 1$ exchangeable numbers. So are their distances
from the mean of all of them, and that of the weights is among the $k$ largest with a probability of
at most $k/(N + 1)$, as ties count against it: $P(p \le a) \le a$ for every $a$ and $N$. ∎ That is
why the weights count as one more draw in mean, spread and rank; a z-score of $N$ draws is then at
most $N/\sqrt{N + 1}$.

| null | group | hypothesis | for |
|---|---|---|---|
| plain pairing | $v_\alpha \to v_{\pi(\alpha)}$, permutations $\pi$ | the $v_\alpha$ are exchangeable, given $W$ |
  indices that the gauge of hidden units changes |
| pairing of directions | $v_\alpha \to \pm\|v_\alpha\|\,\hat v_{\pi(\alpha)}$ with $\hat v = v/\|v\|$, permutations
  and signs | the $\hat v_\alpha$ are exchangeable and either sign is as likely, given $W$ and the
  $\|v_\alpha\|$ | indices that the gauge keeps |
| rotation | $U \to UR$, $Z \to ZR'$ in $M = USZ^\top$ | singular frames have no preferred direction in what they
  span, given $S$ and the spans | indices of $M$ where hidden units have no basis of their own
  (queries and keys) |

All three hold for independent Gaussian $V$ and $W$, the second in every gauge of theirs, the third
in every basis of the hidden units. The second says, in the gauge $|w_\alpha| = |v_\alpha|$, that
directions of ways down are paired with ways up, while the size $|w_\alpha||v_\alpha|$ of a unit,
which every gauge keeps, stays where it is. Were the sizes of $v_\alpha$ permuted in that gauge, the
weights would be unlike all draws: in them alone both sizes of a unit agree.
"""  # noqa: E501

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PyTree

from hopmix._coupling import Coupling
from hopmix._numerics.magnitude import safe_sqrt, working
from hopmix._numerics.tolerances import INDICES, rounding_of
from hopmix._types import PRNGKey, Scalar
from hopmix.symmetry.spectrum import singular_frames, thin_qr
from hopmix.symmetry.weights import Units, measure_asymmetry, units_of

Measure: TypeAlias = Callable[[Coupling], PyTree[Scalar]]

Hidden = Literal["units", "basis"]
"""What hidden units are: units of their own, or a basis in which any other would do as well."""

TOGETHER = 2**16
"""Up to how many entries of W several draws are computed at a time."""


class Significance(NamedTuple):
    """An index of some weights beside its null distribution; each field has the form of what
    `measure_significance` measures.

    - `value`: the index.
    - `mean`, `std`: of the null distribution, from the draws and the value, which counts as one of
      them.
    - `z`: (value - mean) / std, at most $N/\\sqrt{N + 1}$ for N draws; NaN for an index that no
      draw changes.
    - `p`: two-sided, the share of the value and the draws that are at least as far from the mean as
      the value is.
    """

    value: Any
    mean: Any
    std: Any
    z: Any
    p: Any


def measure_significance(
    coupling: Coupling,
    measure: Measure = measure_asymmetry,
    *,
    key: PRNGKey,
    pairings: int = 199,
    hidden: Hidden = "units",
) -> Significance:
    r"""Compare indices with those of the same weights where hidden units are paired at random.

    What is tested is whether the way down of a unit has to do with its way up, not how large either
    is. The null is that of the table in `hopmix.symmetry.significance`, for each index by itself:

    - An index that is invariant under the gauge of hidden units ($w_\alpha \to c_\alpha w_\alpha$,
      $v_\alpha \to v_\alpha/c_\alpha$, $c_\alpha$ of any sign), such as unit cosines, symmetry
      score, directionality and all of `Spectrum`, is compared with pairings of directions: $z$ and
      $p$ are invariant too.
    - Any other, such as `cosine`, `relative_breaking` and `conservative_distance`, is compared with
      plain pairings $v_\alpha \to v_{\pi(\alpha)}$. `balance` does not depend on them and gets no
      z-score.

    Which of them an index is, is tried on Gaussian weights of the same sizes.

    $P(p \le a) \le a$ for every $a$ and any number of pairings, if the weights have no relation.

    **Arguments:**

    - `coupling`: the weights.
    - `measure`: from a coupling to an index, of order one, or a tree of them.
    - `key`: of the draws.
    - `pairings`: how many; the smallest p that can come out is 1/(pairings + 1).
    - `hidden`: `"units"`; or `"basis"` for queries and keys, $W = W_K$ and $V = W_Q^\top$, whose
        hidden basis is arbitrary ($W_Q \to AW_Q$, $W_K \to A^{-\top}W_K$): weights are compared in
        the singular basis of $M$ with random rotations of it, and $z$ and $p$ of indices of $M$
        alone are the same for every $A$.

    **Raises:** `ValueError` for fewer than 2 pairings or hidden units, or another word for
    `hidden`.
    """
    if hidden not in get_args(Hidden):
        raise ValueError(
            f'`measure_significance` needs hidden to be "units" or "basis", got {hidden!r}.'
        )
    _check(pairings, coupling.up.shape[0])
    dtype = coupling.up.dtype
    wide = _wide(coupling)
    if hidden == "basis":
        found = compare_rotations(wide, measure, key=key, draws=pairings)
    else:
        found = _compare_pairings(wide, measure, key, pairings)
    return jax.tree.map(lambda number: number.astype(dtype), found)


def _wide(coupling: Coupling) -> Coupling:
    return Coupling.from_weights(working(coupling.up, "up"), working(coupling.down, "down"))


def _compare_pairings(
    coupling: Coupling, measure: Measure, key: PRNGKey, pairings: int
) -> Significance:
    key, own = jr.split(key)
    invariant = _takes_gauge(measure, coupling, own)

    def draw(key: PRNGKey) -> PyTree[Scalar]:
        plain = measure(pair(coupling, key))
        directions = measure(pair_directions(coupling, key))
        return jax.tree.map(jnp.where, invariant, directions, plain)

    return compare(measure(coupling), draw, coupling.up.shape, key=key, draws=pairings)


def _takes_gauge(measure: Measure, coupling: Coupling, key: PRNGKey) -> PyTree[Bool[Array, ""]]:
    """Which of the indices are invariant under the gauge of hidden units: tried on weights of the
    same sizes.
    """
    hidden, visible = coupling.up.shape
    first, second = jr.split(key)
    w = jr.normal(first, (hidden, visible), coupling.up.dtype)
    v = jr.normal(second, (visible, hidden), coupling.up.dtype)
    # Powers of four and their roots round nothing.
    gauge = jnp.resize(jnp.asarray([1.0, -4.0, 16.0, -1.0, 4.0], w.dtype), (hidden,))
    before = measure(Coupling.from_weights(w, v))
    after = measure(Coupling.from_weights(gauge[:, None] * w, v / gauge[None]))
    return jax.tree.map(_equal, before, after)


def _equal(before: Scalar, after: Scalar) -> Bool[Array, ""]:
    return jnp.abs(after - before) <= _rounding(jnp.maximum(jnp.abs(before), 1))


def _rounding(size: Scalar) -> Scalar:
    return rounding_of(size.dtype, INDICES) * size


# ---- Draws ---------------------------------------------------------------------------------------


class Pairing(NamedTuple):
    r"""For each hidden unit the one whose $v$ it is paired with, and its sign."""

    partners: Int[Array, " hidden"]
    signs: Float[Array, " hidden"]


def pair(coupling: Coupling, key: PRNGKey) -> Coupling:
    r"""The same weights with $v_\alpha \to v_{\pi(\alpha)}$ for a random permutation."""
    partners = jr.permutation(key, coupling.up.shape[0])
    return Coupling.from_weights(coupling.up, coupling.down[:, partners])


def pair_directions(coupling: Coupling, key: PRNGKey) -> Coupling:
    r"""The same weights with $v_\alpha \to \pm|v_\alpha|\,\hat v_{\pi(\alpha)}$ for random signs
    and a random permutation of the units that have both weights."""
    units = units_of(coupling.down, coupling.up)
    partners, signs = directed_pairing(units, key)
    lengths, directions = polar(units.v.entries)
    sizes = signs * lengths * units.v.sizes
    return Coupling.from_weights(coupling.up, (directions[partners] * sizes[:, None]).T)


def directed_pairing(units: Units, key: PRNGKey) -> Pairing:
    """A random pairing of directions with random signs, among the units that have both weights.

    One key gives one pairing of the weights whatever the signs of their units are: each unit is
    turned first such that the largest entry of its $w$ is positive.
    """
    first, second = jr.split(key)
    w = units.w.entries
    silent = (units.w.sizes == 0) | (units.v.sizes == 0)
    ranks = jnp.where(silent, 2, jr.uniform(first, silent.shape))
    # Both orders end with the silent units as they are, so that these are paired with themselves.
    partners = (
        jnp.zeros(silent.size, jnp.int32)
        .at[jnp.argsort(silent)]
        .set(jnp.argsort(ranks).astype(jnp.int32))
    )
    turn = _positive(w)
    return Pairing(partners, jr.rademacher(second, silent.shape, w.dtype) * turn * turn[partners])


def _positive(rows: Float[Array, "rows columns"]) -> Float[Array, " rows"]:
    """The sign of the largest entry of each row."""
    largest = jnp.argmax(jnp.abs(rows), axis=1, keepdims=True)
    return jnp.where(jnp.take_along_axis(rows, largest, axis=1)[:, 0] < 0, -1, 1).astype(rows.dtype)


def polar(
    rows: Float[Array, "rows columns"],
) -> tuple[Float[Array, " rows"], Float[Array, "rows columns"]]:
    """The lengths and the directions of rows, 0 for those of zeros."""
    lengths = safe_sqrt(jnp.sum(rows**2, axis=1))
    return lengths, rows / jnp.where(lengths > 0, lengths, 1)[:, None]


class Rotations(NamedTuple):
    r"""$M = V C W$ with orthonormal columns of $V$ and rows of $W$, in random bases of what they
    span.
    """

    v: Float[Array, "visible rank"]
    core: Float[Array, "rank rank"]
    w: Float[Array, "rank visible"]

    @property
    def coupling(self) -> Coupling:
        """The weights as they are."""
        return Coupling.from_weights(self.core @ self.w, self.v)

    def draw(self, key: PRNGKey) -> Coupling:
        """The weights with both frames rotated: basis vectors in random order with random signs."""
        first, second = jr.split(key)
        rows = _signed_order(first, len(self.core), self.core.dtype)
        columns = _signed_order(second, len(self.core), self.core.dtype)
        core = (
            self.core[rows.partners][:, columns.partners]
            * rows.signs[:, None]
            * columns.signs[None]
        )
        return Coupling.from_weights(core @ self.w, self.v)


def rotations(coupling: Coupling, key: PRNGKey) -> Rotations:
    r"""The singular basis of $M = USZ^\top$ in two random bases: $V = UQ$, $W = Q'^\top Z^\top$, $C
    = Q^\top SQ'$.

    With Haar matrices $Q$ and $Q'$ that are drawn once, signed permutations of the two bases are a
    group of rotations $U \to UR$, $Z \to ZR'$, the moments of which up to the third are those of
    all rotations; a draw takes products of matrices and no decomposition. The signs of singular
    vectors, which are arbitrary, are fixed by the largest entry of the right ones; that changes the
    law of no draw, as $Q$ and $Q'$ with turned rows have the law of $Q$ and $Q'$.
    """
    units = units_of(coupling.down, coupling.up)
    left, values, right = singular_frames(units, min(coupling.up.shape))
    turn = _positive(right.T)
    one, other = jr.split(key)
    first = _haar(one, values.size, values.dtype)
    second = _haar(other, values.size, values.dtype)
    return Rotations(
        (left * turn[None]) @ first,
        (first.T * values[None]) @ second,
        second.T @ (right * turn[None]).T,
    )


def _haar(key: PRNGKey, size: int, dtype: Any) -> Float[Array, "size size"]:
    frame, triangle = thin_qr(jr.normal(key, (size, size), dtype))
    return frame * jnp.where(jnp.diagonal(triangle) < 0, -1, 1).astype(dtype)[None]


def _signed_order(key: PRNGKey, size: int, dtype: Any) -> Pairing:
    first, second = jr.split(key)
    return Pairing(jr.permutation(first, size), jr.rademacher(second, (size,), dtype))


# ---- Comparisons ---------------------------------------------------------------------------------


def compare_rotations(
    coupling: Coupling, measure: Measure, *, key: PRNGKey, draws: int
) -> Significance:
    """The significance of a measure of M alone where hidden units have no basis of their own."""
    key, own = jr.split(key)
    basis = rotations(coupling, own)
    draw = lambda key: measure(basis.draw(key))
    return compare(measure(basis.coupling), draw, coupling.up.shape, key=key, draws=draws)


def compare(
    value: PyTree[Scalar],
    draw: Callable[[PRNGKey], PyTree[Scalar]],
    shape: tuple[int, ...],
    *,
    key: PRNGKey,
    draws: int,
) -> Significance:
    r"""The significance of a value among draws, each of which takes a key, for $W$ of some shape
    (hidden, visible).
    """
    _check(draws, shape[0])
    together = min(draws, 16) if math.prod(shape) <= TOGETHER else None
    null = jax.lax.map(draw, jr.split(key, draws), batch_size=together)
    compared = jax.tree.map(_compare, value, null)
    is_row = lambda node: isinstance(node, Significance)
    return Significance(
        *(jax.tree.map(lambda row, i=i: row[i], compared, is_leaf=is_row) for i in range(5))
    )


def _compare(value: Scalar, null: Float[Array, " draws"]) -> Significance:
    """One number: the value is one more draw in the mean, in the spread and in the rank."""
    every = jnp.concatenate([value[None], null])
    mean = jnp.mean(every)
    std = jnp.std(every, ddof=1)
    # A spread of rounding is none, and what differs by rounding is equal; indices are of order one.
    rounding = _rounding(jnp.maximum(jnp.max(jnp.abs(every)), 1))
    spread = std > rounding
    z = jnp.where(spread, (value - mean) / jnp.where(spread, std, 1), jnp.nan)
    beyond = jnp.abs(every - mean) >= jnp.abs(value - mean) - rounding
    p = jnp.where(
        spread & jnp.isfinite(value), jnp.sum(beyond.astype(every.dtype)) / every.size, jnp.nan
    )
    return Significance(value, mean, std, z, p)


def _check(draws: int, hidden: int):
    if draws < 2 or hidden < 2:
        raise ValueError(
            f"`measure_significance` needs 2 pairings and 2 hidden units, got {draws} and {hidden}."
        )
