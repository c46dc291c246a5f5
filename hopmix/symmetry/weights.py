r"""How far the weights of a coupling are from symmetric, by indices with known ranges, invariances
and null values.

With $W$ (hidden x visible), $V$ (visible x hidden), columns $v_\alpha$ of $V$, rows $w_\alpha$ of
$W$ and $M = VW$. Two changes of weights leave the layer as it is or nearly so, and an index should
say how it takes them: the *gauge* of hidden units, $w_\alpha \to c_\alpha w_\alpha$ and $v_\alpha
\to v_\alpha/c_\alpha$ with $c_\alpha \ne 0$, which keeps $M$ (and the layer: of linear units for
every $c_\alpha$, of rectified ones for $c_\alpha > 0$, of odd ones such as tanh for $c_\alpha = \pm
1$), and *gains* $v_\alpha \to d_\alpha v_\alpha$ with $d_\alpha > 0$, which keep a conservative
coupling conservative (claim C07).

*-1 is as symmetric as 1* where an index is a cosine: $V = -W^\top$ is a symmetric coupling of the
opposite sign, with unit cosines of -1 and the symmetry score 1, as is $V = W^\top D$ with gains of
both signs, whose unit cosines are $\pm 1$. A symmetry score of -1 is another thing, an
antisymmetric $M$, which only rotates.

No index depends on a common scale of the weights, or on that of single units where the gauge says
so, as long as their numbers are in the range of the dtype: rows are brought to their own units
before anything is squared or multiplied. Weights in float16 and bfloat16 are computed with in
float32; what comes out has their dtype.

*Null* values are means (standard deviations) for independent weights with Gaussian entries, one
variance for $V$ and one for $W$, to leading order in the $n$ visible and $h$ hidden units.
`measure_significance` compares any index with the same weights in which hidden units are paired at
random.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._numerics.magnitude import Rows, in_own_units, max_abs, norm, safe_sqrt, working
from hopmix._numerics.tolerances import NORMS, rounding_of
from hopmix._types import Scalar

Up = Float[Array, "hidden visible"]
Down = Float[Array, "visible hidden"]

STANDS_OUT = 2.0
"""By how many standard deviations a row or a column of M stands out for its `directionality`."""


class Units(NamedTuple):
    r"""The weights $w_\alpha$ and $v_\alpha$ of all hidden units, each in units of its own."""

    w: Rows
    v: Rows

    @property
    def even(self) -> Float[Array, " hidden"]:
        r"""The size of $w_\alpha$ and $v_\alpha$ where both are given the same, which every gauge
        keeps.
        """
        return jnp.sqrt(self.w.sizes) * jnp.sqrt(self.v.sizes)

    @property
    def unit(self) -> Scalar:
        """The largest of these sizes."""
        return max_abs(self.even)


def units_of(v: Down, w: Up) -> Units:
    """The hidden units of V and W, in the dtype to compute in."""
    return Units(in_own_units(working(w, "up")), in_own_units(working(v, "down").T))


class Asymmetry(NamedTuple):
    r"""Indices of asymmetry of the weights of one coupling; see `measure_asymmetry`.

    | index | formula | range | tied | null | gauge: value | gauge: z, p | gains |
    |---|---|---|---|---|---|---|---|
    | `cosine` | $\langle V, W^\top\rangle / (\|V\|\|W\|)$ | [-1, 1] | 1 | 0 ($1/\sqrt{nh}$) | no | no | no |
    | `relative_breaking` | $\|V - W^\top\|^2 / (\|V\|^2 + \|W\|^2)$ | [0, 2] | 0 | 1 ($c/\sqrt{nh}$) | no | no | no |
    | `unit_cosine` | mean of $\cos(v_\alpha, w_\alpha)$ weighted by $\|v_\alpha\|\|w_\alpha\|$ | [-1, 1] | 1 |
      0 ($1/\sqrt{nh}$) | yes | yes | where it is $\pm 1$ |
    | `symmetry_score` | $\langle M, M^\top\rangle/\|M\|^2$ | [-1, 1] | 1 | $1/n$ ($\sqrt2/n$) | yes | yes | no |
    | `breaking_ratio` | $\|V - W^\top\|/\|W\|$ | [0, ∞) | 0 | $r = \sqrt{1 + \|V\|^2/\|W\|^2}$
      ($\|V\|/(r\|W\|\sqrt{nh})$) | no | no | no |
    | `mean_unit_cosine` | mean of $\cos(v_\alpha, w_\alpha)$ | [-1, 1] | 1 | 0 ($1/\sqrt{nh}$) | yes | yes | yes |
    | `low_unit_cosine`, `median_unit_cosine`, `high_unit_cosine` | 10, 50 and 90 % of the $\cos(v_\alpha, w_\alpha)$ | [-1, 1] | 1 |
      $-1.28/\sqrt n$, 0, $1.28/\sqrt n$ ($1.71$, $1.25$ and $1.71/\sqrt{nh}$) | yes | yes | yes |
    | `conservative_distance` | $\min_D \|V - W^\top D\|/\|V\|$, $D$ diagonal | [0, 1] | 0 |
      $\sqrt{1 - 1/n}$ ($1/(n\sqrt{2h})$) | no | no | where it is 0 |
    | `directionality` | excess norm of columns of $M$ less that of rows, over their sum | [-1, 1] | 0 | 0 |
      yes | yes | no |
    | `balance` | $(\|W\|^2 - \|V\|^2)/(\|W\|^2 + \|V\|^2)$ | [-1, 1] | 0 | that of the variances | no | none | no |

    $c = 2\|V\|\|W\|/(\|V\|^2 + \|W\|^2)$. Norms are Frobenius norms. The *excess* of columns is the
    sum of what column norms have above their mean plus two standard deviations, and likewise for
    rows; where none stands out the directionality is 0. Its null is symmetric, but wide:
    `measure_significance` tells how wide.

    *Gauge* says whether the value, and apart from it the z and p of `measure_significance`, keep
    what they are under $w_\alpha \to c_\alpha w_\alpha$, $v_\alpha \to v_\alpha/c_\alpha$ for all
    $c_\alpha \ne 0$. For $V = -W^\top$, which is as symmetric as $V = W^\top$, all cosines are -1,
    the score is 1, the conservative distance is 0, and both breakings are 2.
    """  # noqa: E501

    cosine: Scalar
    relative_breaking: Scalar
    unit_cosine: Scalar
    symmetry_score: Scalar
    breaking_ratio: Scalar
    mean_unit_cosine: Scalar
    low_unit_cosine: Scalar
    median_unit_cosine: Scalar
    high_unit_cosine: Scalar
    conservative_distance: Scalar
    directionality: Scalar
    balance: Scalar


def measure_asymmetry(
    coupling: Coupling | Float[Array | np.ndarray, "hidden visible"],
    down: Float[Array | np.ndarray, "visible hidden"] | None = None,
) -> Asymmetry:
    r"""The asymmetry of the weights of a coupling, or of two matrices, by the indices of
    `Asymmetry`.

    $M = VW$ is formed only where there are no more visible than hidden units; otherwise Gram
    matrices of hidden size serve.

    **Arguments:**

    - `coupling`: gives $W$ (`up`) and $V$ (`down`); or it is $W$ itself, of shape (hidden,
      visible).
    - `down`: $V$, of shape (visible, hidden), where `coupling` is $W$.

    **Returns:** an `Asymmetry` in the dtype of the weights. An index of a zero matrix is NaN;
    hidden units with a zero $v_\alpha$ or $w_\alpha$ are left out of the mean and the quantiles of
    the cosines. A ratio of sizes that the dtype cannot hold is 0 or infinite.

    **Raises:** `ValueError` for weights that are no floating-point numbers, and for shapes that are
    not transposed; `TypeError` for one matrix alone, and for a coupling with another $V$.

    **Source:** arXiv 2406.12220 (the ratio); Saponati et al. (arXiv 2502.10927) for symmetry score
    and directionality; claim C07 for cosines of units and the distance to a conservative coupling.
    """
    coupling = _coupling_of(coupling, down)
    v = coupling.down
    w = coupling.up
    units = units_of(v, w)
    product = moments(units)
    # A weight that is not a number must not pass as a unit that is left out.
    size = jnp.max(jnp.abs(units.w.entries)) + jnp.max(jnp.abs(units.v.entries))
    broken = jnp.where(jnp.isfinite(size), jnp.zeros_like(size), jnp.nan)
    found = Asymmetry(
        **_of_pairs(units),
        **_of_cosines(units, broken),
        **_of_sizes(units, working(v, "down"), working(w, "up")),
        symmetry_score=product.score,
        directionality=_directionality(product) + broken,
    )
    return Asymmetry(*(index.astype(w.dtype) for index in found))


def _coupling_of(
    coupling: Coupling | Array | np.ndarray, down: Array | np.ndarray | None
) -> Coupling:
    if isinstance(coupling, Coupling):
        if down is not None:
            raise TypeError(
                "`down` goes with up-weights; a coupling has its own: give coupling alone."
            )
        return coupling
    if down is None:
        raise TypeError("`down` is missing: give a Coupling, or up-weights and down-weights.")
    return Coupling.from_weights(coupling, down)


def unit_cosines(coupling: Coupling) -> Float[Array, " hidden"]:
    r"""The cosine of the outgoing and incoming weights of each hidden unit,
    $v_\alpha \cdot w_\alpha / (|v_\alpha||w_\alpha|)$, in [-1, 1]; NaN where one of them is zero.

    Where all are $\pm 1$, that is where $V = W^\top D$ with gains of any sign, a coupling of
    elementwise hidden units is conservative (claim C07); -1 is as symmetric as 1. The converse
    needs what C07 assumes: $\phi'$ of the units no polynomial on the inputs that they meet, rows
    $w_\alpha$ that are not zero and pairwise not parallel, activations that fill an open set, and
    no norm that removes a common part of the force. Linear units, for instance, need no more than a
    symmetric $VW$. Invariant under gauge (of either sign) and gains. Null: 0 ($1/\sqrt n$) for each
    unit.

    **Arguments:**

    - `coupling`: $V$ and $W$.
    """
    return _cosines(units_of(coupling.down, coupling.up)).astype(coupling.up.dtype)


def nearest_conservative(coupling: Coupling) -> Coupling:
    r"""The nearest coupling with the same $W$ and $V = W^\top D$, $D$ diagonal: what is
    conservative for every choice of elementwise hidden units (claim C07),

    $$D_\alpha = \frac{v_\alpha \cdot w_\alpha}{|w_\alpha|^2}, \qquad
      \min_D |V - W^\top D|^2 = \sum_\alpha |v_\alpha|^2\,(1 - \cos^2(v_\alpha, w_\alpha)).$$

    **Arguments:**

    - `coupling`: $V$ and $W$; units with $w_\alpha = 0$ get $D_\alpha = 0$.
    """
    units = units_of(coupling.down, coupling.up)
    nearest = _along(units) * units.v.sizes[:, None]
    return Coupling.from_weights(coupling.up, nearest.T.astype(coupling.up.dtype))


def symmetry_score(v: Down, w: Up) -> Scalar:
    r"""The symmetry score of $M = VW$, $\langle M, M^\top\rangle/|M|^2 = (|M_s|^2 -
    |M_a|^2)/|M|^2$, in [-1, 1].

    1 for a symmetric $M$, that of $V = -W^\top$ among them, and -1 for an antisymmetric one. With
    fewer hidden than visible units $M$ is never formed: $\langle M, M^\top\rangle =
    \mathrm{tr}\,(WV)^2$ and $|M|^2 = \sum_i V_i\,W W^\top V_i^\top$ take matrices of hidden size
    only.

    **Arguments:**

    - `v`: $V$, of shape (visible, hidden).
    - `w`: $W$, of shape (hidden, visible).

    **Source:** Saponati et al. (arXiv 2502.10927), whose score is $\tfrac12(1 + \text{this})$.
    """
    return moments(units_of(v, w)).score.astype(w.dtype)


# ---- Indices of pairs of weights -----------------------------------------------------------------


def _of_pairs(units: Units) -> dict[str, Scalar]:
    """Those that add what each unit has, weighted by its sizes."""
    w = units.w.entries
    v = units.v.entries
    inner = jnp.sum(w * v, axis=1)
    long_w = _lengths(w)
    long_v = _lengths(v)
    strength = (units.even / units.unit) ** 2
    size_w = units.w.sizes / max_abs(units.w.sizes)
    size_v = units.v.sizes / max_abs(units.v.sizes)
    all_v = _length(size_v * long_v)
    apart = norm(size_v * _lengths(v - _along(units)))
    return {
        "cosine": jnp.sum(inner * size_w * size_v) / (_length(size_w * long_w) * all_v),
        # The weights |v||w| of the mean cancel the denominators of the cosines.
        "unit_cosine": jnp.sum(strength * inner) / jnp.sum(strength * long_w * long_v),
        "conservative_distance": apart / all_v,
    }


def _of_cosines(units: Units, broken: Scalar) -> dict[str, Scalar]:
    """Those of the cosines of all units alike."""
    cosines = _cosines(units)
    low, median, high = jnp.nanquantile(cosines, jnp.asarray([0.1, 0.5, 0.9], cosines.dtype))
    return {
        "mean_unit_cosine": jnp.nanmean(cosines) + broken,
        "low_unit_cosine": low + broken,
        "median_unit_cosine": median + broken,
        "high_unit_cosine": high + broken,
    }


def _of_sizes(units: Units, v: Down, w: Up) -> dict[str, Scalar]:
    """Those of the norms of V, of W and of their difference."""
    unit = jnp.maximum(max_abs(units.w.sizes), max_abs(units.v.sizes))
    all_w = _length(units.w.sizes / unit * _lengths(units.w.entries))
    all_v = _length(units.v.sizes / unit * _lengths(units.v.entries))
    # Of equal matrices exactly zero, as that of quotients is not in compiled programs; halves do
    # not overflow.
    gap = 2 * norm((0.5 * v.T - 0.5 * w) / unit)
    both = all_w**2 + all_v**2
    return {
        "relative_breaking": gap**2 / both,
        "breaking_ratio": gap / all_w,
        "balance": (all_w**2 - all_v**2) / both,
    }


def _cosines(units: Units) -> Float[Array, " hidden"]:
    w = units.w.entries
    v = units.v.entries
    sizes = _lengths(w) * _lengths(v)
    return jnp.sum(w * v, axis=1) / jnp.where(sizes > 0, sizes, jnp.nan)


def _along(units: Units) -> Up:
    r"""The part of each $v_\alpha$ along $w_\alpha$, in the units of $v_\alpha$."""
    w = units.w.entries
    v = units.v.entries
    square = jnp.sum(w**2, axis=1)
    gains = jnp.sum(v * w, axis=1) / jnp.where(square > 0, square, 1)
    return w * gains[:, None]


def _length(a: Float[Array, " entries"]) -> Scalar:
    """The norm of what is in units of its largest entry."""
    return safe_sqrt(jnp.sum(a**2))


def _lengths(rows: Float[Array, "rows columns"]) -> Float[Array, " rows"]:
    return safe_sqrt(jnp.sum(rows**2, axis=1))


# ---- Indices of the product ----------------------------------------------------------------------


class Moments(NamedTuple):
    """Of $M = VW$ in some unit: its inner product with its transpose, and the squared norms of rows
    and columns.
    """

    inner: Scalar
    rows: Float[Array, " visible"]
    columns: Float[Array, " visible"]
    unit: Scalar

    @property
    def score(self) -> Scalar:
        """The symmetry score."""
        return self.inner / jnp.sum(self.rows)


def moments(units: Units) -> Moments:
    """The moments of the product of some units, by matrices of the smaller size; their unit counts
    from the units'.
    """
    w, v = shared(units)
    hidden, visible = w.shape
    if visible <= hidden:
        m = v.T @ w
        unit = max_abs(m)
        m = m / unit
        return Moments(jnp.sum(m * m.T), jnp.sum(m**2, axis=1), jnp.sum(m**2, axis=0), unit)
    small = w @ v.T
    rows = jnp.sum(((w @ w.T) @ v) * v, axis=0)
    columns = jnp.sum(((v @ v.T) @ w) * w, axis=0)
    return Moments(jnp.sum(small * small.T), rows, columns, jnp.ones_like(units.unit))


def shared(units: Units) -> tuple[Up, Up]:
    r"""The $w_\alpha$ and the $v_\alpha$ in the gauge in which the largest entries of both are the
    same, relative to the largest of all."""
    size = (units.even / units.unit)[:, None]
    return units.w.entries * size, units.v.entries * size


def _directionality(product: Moments) -> Scalar:
    column = _excess(product.columns)
    row = _excess(product.rows)
    total = column + row
    return jnp.where(
        total == 0, jnp.zeros_like(total), (column - row) / jnp.where(total == 0, 1, total)
    )


def _excess(squares: Float[Array, " visible"]) -> Scalar:
    """What norms have in sum above their mean plus two standard deviations, beyond rounding."""
    norms = safe_sqrt(jnp.maximum(squares, 0))
    deviation = norms - jnp.mean(norms)
    spread = safe_sqrt(jnp.sum(deviation**2) / max(norms.size - 1, 1))
    rounding = rounding_of(norms.dtype, NORMS) * jnp.max(norms)
    return jnp.sum(jnp.maximum(deviation - STANDS_OUT * spread - rounding, 0))
