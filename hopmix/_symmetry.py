r"""How far the weights of a coupling are from symmetric, by indices with known ranges, invariances and null values.

With $W$ (hidden x visible), $V$ (visible x hidden), columns $v_\alpha$ of $V$, rows $w_\alpha$ of $W$ and $M = VW$.
Two changes of weights leave the layer as it is or nearly so, and an index should say how it takes them: the *gauge* of
hidden units, $w_\alpha \to a_\alpha w_\alpha$ and $v_\alpha \to v_\alpha/a_\alpha$ with $a_\alpha > 0$, which keeps $M$
(and the layer, for linear and rectified units), and *gains* $v_\alpha \to d_\alpha v_\alpha$ with $d_\alpha > 0$, which
keep a conservative coupling conservative (claim C07).

*Null* values are means (standard deviations) for independent weights with Gaussian entries, one variance for $V$ and
one for $W$, to leading order in the $n$ visible and $h$ hidden units. `significance` compares any index with the same
weights in which hidden units are paired at random.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Complex, Float, Int, PyTree

from hopmix._coupling import Coupling
from hopmix._magnitude import largest, root
from hopmix._types import PRNGKey, Scalar

Up = Float[Array, "hidden visible"]
Down = Float[Array, "visible hidden"]

STANDS_OUT = 2.0
"""By how many standard deviations a row or a column of M stands out for its `directionality`."""


class Asymmetry(NamedTuple):
    r"""Indices of asymmetry of the weights of one coupling; see `measure_asymmetry`.

    | index | formula | range | tied | null | gauge | gains |
    |---|---|---|---|---|---|---|
    | `cosine` | $\langle V, W^\top\rangle / (\|V\|\|W\|)$ | [-1, 1] | 1 | 0 ($1/\sqrt{nh}$) | no | no |
    | `relative_breaking` | $\|V - W^\top\|^2 / (\|V\|^2 + \|W\|^2)$ | [0, 2] | 0 | 1 ($c/\sqrt{nh}$) | no | no |
    | `unit_cosine` | mean of $\cos(v_\alpha, w_\alpha)$ weighted by $\|v_\alpha\|\|w_\alpha\|$ | [-1, 1] | 1 |
      0 ($1/\sqrt{nh}$) | yes | where it is $\pm 1$ |
    | `symmetry_score` | $\langle M, M^\top\rangle/\|M\|^2$ | [-1, 1] | 1 | $1/n$ ($\sqrt2/n$) | yes | no |
    | `breaking_ratio` | $\|V - W^\top\|/\|W\|$ | [0, ∞) | 0 | $r = \sqrt{1 + \|V\|^2/\|W\|^2}$
      ($\|V\|/(r\|W\|\sqrt{nh})$) | no | no |
    | `mean_unit_cosine` | mean of $\cos(v_\alpha, w_\alpha)$ | [-1, 1] | 1 | 0 ($1/\sqrt{nh}$) | yes | yes |
    | `low_`, `median_`, `high_unit_cosine` | 10, 50 and 90 % of the $\cos(v_\alpha, w_\alpha)$ | [-1, 1] | 1 |
      $-1.28/\sqrt n$, 0, $1.28/\sqrt n$ ($1.71$, $1.25$ and $1.71/\sqrt{nh}$) | yes | yes |
    | `conservative_distance` | $\min_D \|V - W^\top D\|/\|V\|$, $D$ diagonal | [0, 1] | 0 |
      $\sqrt{1 - 1/n}$ ($1/(n\sqrt{2h})$) | no |
      where it is 0 |
    | `directionality` | excess norm of columns of $M$ less that of rows, over their sum | [-1, 1] | 0 | 0 | yes | no |
    | `balance` | $(\|W\|^2 - \|V\|^2)/(\|W\|^2 + \|V\|^2)$ | [-1, 1] | 0 | that of the variances | no | no |

    $c = 2\|V\|\|W\|/(\|V\|^2 + \|W\|^2)$. Norms are Frobenius norms. The *excess* of columns is the sum of what column
    norms have above their mean plus two standard deviations, and likewise for rows; where none stands out the
    directionality is 0. Its null is symmetric, but wide: `significance` tells how wide.
    """

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


def measure_asymmetry(coupling: Coupling) -> Asymmetry:
    r"""The asymmetry of the weights of a coupling, by the indices of `Asymmetry`.

    $M = VW$ is formed only where there are no more visible than hidden units; otherwise Gram matrices of hidden size
    serve.

    **Arguments:**

    - `coupling`: gives $W$ (`up`) and $V$ (`down`).

    **Returns:** an `Asymmetry`. An index of a zero matrix is NaN; hidden units with a zero $v_\alpha$ or $w_\alpha$ are
    left out of the mean and the quantiles of the cosines.

    **Source:** arXiv 2406.12220 (the ratio); Saponati et al. (arXiv 2502.10927) for symmetry score and directionality;
    claim C07 for cosines of units and the distance to a conservative coupling.
    """
    # Squares of squares leave float32 soon: each matrix in units of its largest entry, or both in the same.
    size_w, size_v = largest(coupling.up), largest(coupling.down)
    w, v = coupling.up / size_w, coupling.down / size_v
    inner, w2, v2 = (jnp.sum(a * b, axis=1) for a, b in ((w, v.T), (w, w), (v.T, v.T)))
    both = jnp.maximum(size_w, size_v)
    all_w2, all_v2 = jnp.sum(w2) * (size_w / both) ** 2, jnp.sum(v2) * (size_v / both) ** 2
    # Of equal matrices exactly zero, as that of quotients is not in compiled programs; halves do not overflow.
    gap = 2 * _norm((0.5 * coupling.down.T - 0.5 * coupling.up) / both)
    cosines = unit_cosines(coupling)
    low, median, high = jnp.nanquantile(cosines, jnp.asarray([0.1, 0.5, 0.9], cosines.dtype))
    product = _moments(v, w)
    apart = _norm(v - nearest_conservative(Coupling(w, v, 0.0)).down)
    # A weight that is not a number must not pass as a unit that is left out.
    broken = jnp.where(jnp.isfinite(size_w + size_v), jnp.zeros_like(size_w), jnp.nan)
    return Asymmetry(
        cosine=jnp.sum(inner) / (_norm(w) * _norm(v)),
        relative_breaking=gap**2 / (all_w2 + all_v2),
        # The weights |v||w| of the mean cancel the denominators of the cosines.
        unit_cosine=jnp.sum(inner) / jnp.sum(root(w2) * root(v2)),
        symmetry_score=product.inner / jnp.sum(product.rows),
        breaking_ratio=gap / root(all_w2),
        mean_unit_cosine=jnp.nanmean(cosines) + broken,
        low_unit_cosine=low + broken,
        median_unit_cosine=median + broken,
        high_unit_cosine=high + broken,
        conservative_distance=apart / _norm(v),
        directionality=_directionality(product) + broken,
        balance=(all_w2 - all_v2) / (all_w2 + all_v2),
    )


def unit_cosines(coupling: Coupling) -> Float[Array, " hidden"]:
    r"""The cosine of the outgoing and incoming weights of each hidden unit,
    $v_\alpha \cdot w_\alpha / (|v_\alpha||w_\alpha|)$, in [-1, 1]; NaN where one of them is zero.

    A coupling of elementwise hidden units is conservative exactly where all are $\pm 1$ (claim C07). Invariant under
    gauge and gains. Null: 0 ($1/\sqrt n$) for each unit.

    **Arguments:**

    - `coupling`: $V$ and $W$.
    """
    w, v = coupling.up, coupling.down.T
    # Each divided by its own length first: the product of two small squares would underflow in float32.
    return jnp.sum(_unit_rows(w / largest(w)) * _unit_rows(v / largest(v)), axis=1)


def nearest_conservative(coupling: Coupling) -> Coupling:
    r"""The nearest coupling with the same $W$ and $V = W^\top D$, $D$ diagonal: what is conservative for every choice
    of elementwise hidden units (claim C07),

    $$D_\alpha = \frac{v_\alpha \cdot w_\alpha}{|w_\alpha|^2}, \qquad
      \min_D |V - W^\top D|^2 = \sum_\alpha |v_\alpha|^2\,(1 - \cos^2(v_\alpha, w_\alpha)).$$

    **Arguments:**

    - `coupling`: $V$ and $W$; units with $w_\alpha = 0$ get $D_\alpha = 0$.
    """
    w, v = coupling.up, coupling.down.T
    square = jnp.sum(w**2, axis=1)
    gains = jnp.sum(v * w, axis=1) / jnp.where(square > 0, square, 1)
    return Coupling(w, w.T * gains[None], 0.0)


def symmetry_score(v: Down, w: Up) -> Scalar:
    r"""The symmetry score of $M = VW$, $\langle M, M^\top\rangle/|M|^2 = (|M_s|^2 - |M_a|^2)/|M|^2$, in [-1, 1].

    With fewer hidden than visible units $M$ is never formed: $\langle M, M^\top\rangle = \mathrm{tr}\,(WV)^2$ and
    $|M|^2 = \sum_i V_i\,W W^\top V_i^\top$ take matrices of hidden size only.

    **Source:** Saponati et al. (arXiv 2502.10927), whose score is $\tfrac12(1 + \text{this})$.
    """
    product = _moments(v, w)
    return product.inner / jnp.sum(product.rows)


class Spectrum(NamedTuple):
    r"""Indices of the spectrum of $M = VW$; see `measure_spectrum`.

    | index | formula | range | symmetric $M$ | null |
    |---|---|---|---|---|
    | `complex_fraction` | share of the $s = \min(n, h)$ eigenvalues that are not real; a zero is real | [0, 1] | 0 |
      $c = 1 - \sqrt{4/\pi s}$ for $h = n$, up to $1 - \sqrt{2/\pi s}$ for very unequal sizes
      ($\sqrt{(2 - \sqrt2)(1 - c)/s}$) |
    | `largest_imaginary` | $\max_k |\mathrm{Im}\,\lambda_k| / \max_k |\lambda_k|$ | [0, 1] | 0 | about 0.85 (0.1)
      at sizes of 32 to 160 |
    | `departure` | $\sqrt{1 - \sum_k |\lambda_k|^2/|M|^2}$, from normality | [0, 1] | 0 | `null_departure` ($0.5/n$) |
    | `overlap` | share of the $k$ leading right singular vectors in the span of the left ones | [0, 1] | 1 |
      $k/n$ ($\sqrt2\,(n - k)/n^2$) |

    All keep their value under the gauge of hidden units, orthogonal changes of the visible basis, and scales of $V$ and
    $W$. A normal $M$, an antisymmetric one for instance, has departure 0 and (for simple pairs of singular values and
    even $k$) overlap 1 too: these two tell normality from symmetry only together with the others. Where singular values
    are equal, the leading vectors and their overlap are arbitrary.
    """

    complex_fraction: Scalar
    largest_imaginary: Scalar
    departure: Scalar
    overlap: Scalar


def measure_spectrum(coupling: Coupling, *, leading: int = 8) -> Spectrum:
    r"""Eigenvalues and singular vectors of $M = VW$ by the indices of `Spectrum`.

    Everything is computed at the smaller of the two sizes. An eigenvalue counts as real where its imaginary part is
    below the square root of the rounding unit, relative to the largest one.

    **Arguments:**

    - `coupling`: gives $V$ and $W$.
    - `leading`: $k$, how many singular vectors span what is compared; at most the smaller size.

    **Returns:** a `Spectrum`, NaN for a zero matrix. The rounding of `departure` is that of a square root: 1e-8 in
    float64, 1e-3 in float32.

    **Raises:** `ValueError` for `leading` below 1.

    **Source:** Henrici 1962 for the departure from normality; `theory/notation.md`.
    """
    if leading < 1:
        raise ValueError(f"`measure_spectrum` needs leading >= 1, got {leading}.")
    values = eigenvalues(coupling)
    sizes, imaginary = jnp.abs(values), jnp.abs(values.imag)
    radius = jnp.max(sizes)
    square = jnp.sum(_moments(coupling.down, coupling.up).rows)
    real = imaginary <= math.sqrt(float(jnp.finfo(imaginary.dtype).eps)) * radius
    left, right = _singular_vectors(coupling, leading)
    return Spectrum(
        complex_fraction=jnp.where(radius > 0, jnp.mean(1 - real.astype(imaginary.dtype)), jnp.nan),
        largest_imaginary=jnp.max(imaginary) / radius,
        departure=jnp.sqrt(jnp.maximum(1 - jnp.sum(sizes**2) / square, 0)),
        overlap=jnp.where(radius > 0, jnp.sum((left.T @ right) ** 2) / left.shape[1], jnp.nan),
    )


def eigenvalues(coupling: Coupling) -> Complex[Array, " smaller"]:
    r"""The eigenvalues of $M = VW$ that need not be zero, as many as the smaller size: those of $WV$ if $h < n$."""
    w, v = coupling.up, coupling.down
    return _one_by_one(jnp.linalg.eigvals)(v @ w if v.shape[0] <= w.shape[0] else w @ v)


def _one_by_one(decompose: Callable) -> Callable:
    """The same for matrices in a batch, one after another.

    On a CPU, jaxlib hands the matrices of a batch to the threads that run the program and waits for them in one of
    these threads: a few such calls at a time, of other layers or other programs, wait for each other for ever.
    """

    @jax.custom_jvp
    def one_by_one(matrix: Array) -> PyTree[Array]:
        return jax.custom_batching.sequential_vmap(lambda matrix: decompose(matrix))(matrix)

    # The rule of batches has no transpose.
    one_by_one.defjvp(lambda primals, tangents: jax.jvp(decompose, primals, tangents))
    return one_by_one


def null_departure(visible: int, hidden: int) -> float:
    r"""The departure from normality of $M = VW$ for large independent Gaussian $V$ and $W$,

    $$\sqrt{1 - \frac{s}{n}\left(\frac{1}{3\nu} + \frac{\nu - 1}{2\nu}\right)}, \qquad s = \min(n, h), \quad
      \nu = \max(n, h)/s,$$

    from the radial law of the eigenvalues of a product of two Ginibre matrices: 0.816 for $h = n$, 0.707 for
    $h \gg n$.

    **Source:** Burda, Janik & Waclaw 2010 (arXiv 0912.3422) for the law; the second moment of it: hopmix.
    """
    smaller, larger = sorted((visible, hidden))
    ratio = larger / smaller
    return math.sqrt(1 - smaller / visible * (1 / (3 * ratio) + (ratio - 1) / (2 * ratio)))


class Significance(NamedTuple):
    """An index of some weights beside its null distribution; each field has the form of what `significance` measures.

    - `value`: the index.
    - `mean`, `std`: of the null distribution.
    - `z`: (value - mean) / std; NaN for an index that does not depend on how hidden units are paired.
    - `p`: two-sided, the share of pairings at least as far from the mean as the value, which counts as one of them.
    """

    value: Any
    mean: Any
    std: Any
    z: Any
    p: Any


def significance(
    coupling: Coupling,
    measure: Callable[[Coupling], PyTree[Scalar]] = measure_asymmetry,
    *,
    key: PRNGKey,
    pairings: int = 199,
) -> Significance:
    r"""Compare indices with those of the same weights where hidden units are paired at random,
    $v_\alpha \to v_{\pi(\alpha)}$ with random permutations $\pi$.

    All $w_\alpha$ and $v_\alpha$ stay as they are: what is tested is whether the way down of a unit has to do with its
    way up, not how large either is. `balance` does not depend on that and gets no z-score.

    **Arguments:**

    - `coupling`: the weights.
    - `measure`: from a coupling to an index, of order one, or a tree of them.
    - `key`: of the permutations.
    - `pairings`: how many; the smallest p that can come out is 1/(pairings + 1).

    **Raises:** `ValueError` for fewer than 2 pairings or hidden units.
    """
    paired = lambda order: measure(Coupling(coupling.up, coupling.down[:, order], 0.0))
    return compare_pairings(measure(coupling), paired, coupling.up.shape[0], key=key, pairings=pairings)


def compare_pairings(
    value: PyTree[Scalar],
    measure: Callable[[Int[Array, " hidden"]], PyTree[Scalar]],
    hidden: int,
    *,
    key: PRNGKey,
    pairings: int,
) -> Significance:
    r"""`significance` of a value by a measure that takes, for each $w_\alpha$, the unit whose $v$ it is paired with."""
    if pairings < 2 or hidden < 2:
        raise ValueError(f"`significance` needs 2 pairings and 2 hidden units, got {pairings} and {hidden}.")
    orders = jax.vmap(lambda k: jr.permutation(k, hidden))(jr.split(key, pairings))
    null = jax.lax.map(measure, orders, batch_size=min(pairings, 16))
    compared = jax.tree.map(_compare, value, null)
    is_row = lambda node: isinstance(node, _Row)
    return Significance(*(jax.tree.map(lambda row, i=i: row[i], compared, is_leaf=is_row) for i in range(5)))


class _Row(NamedTuple):
    value: Scalar
    mean: Scalar
    std: Scalar
    z: Scalar
    p: Scalar


def _compare(value: Scalar, null: Float[Array, " pairings"]) -> _Row:
    mean, std = jnp.mean(null), jnp.std(null, ddof=1)
    # A spread of rounding is none; indices are of order one.
    spread = std > 64 * jnp.finfo(null.dtype).eps * jnp.maximum(jnp.max(jnp.abs(null)), 1)
    z = jnp.where(spread, (value - mean) / jnp.where(spread, std, 1), jnp.nan)
    beyond = jnp.sum(jnp.abs(null - mean) >= jnp.abs(value - mean)).astype(value.dtype)
    p = jnp.where(spread & jnp.isfinite(value), (1 + beyond) / (1 + null.size), jnp.nan)
    return _Row(value, mean, std, z, p)


class _Moments(NamedTuple):
    """Of M = VW: the inner product with its transpose, and the squared norms of its rows and columns."""

    inner: Scalar
    rows: Float[Array, " visible"]
    columns: Float[Array, " visible"]


def _moments(v: Down, w: Up) -> _Moments:
    visible, hidden = v.shape
    if visible <= hidden:
        m = v @ w
        return _Moments(jnp.sum(m * m.T), jnp.sum(m**2, axis=1), jnp.sum(m**2, axis=0))
    small, rows, columns = w @ v, jnp.sum((v @ (w @ w.T)) * v, axis=1), jnp.sum(((v.T @ v) @ w) * w, axis=0)
    return _Moments(jnp.sum(small * small.T), rows, columns)


def _directionality(product: _Moments) -> Scalar:
    column, row = _excess(product.columns), _excess(product.rows)
    total = column + row
    return jnp.where(total == 0, jnp.zeros_like(total), (column - row) / jnp.where(total == 0, 1, total))


def _excess(squares: Float[Array, " visible"]) -> Scalar:
    """What norms have in sum above their mean plus two standard deviations."""
    norms = root(jnp.maximum(squares, 0))
    deviation = norms - jnp.mean(norms)
    spread = root(jnp.sum(deviation**2) / max(norms.size - 1, 1))
    return jnp.sum(jnp.maximum(deviation - STANDS_OUT * spread, 0))


def _norm(a: Float[Array, "rows columns"]) -> Scalar:
    return root(jnp.sum(a**2))


def _unit_rows(a: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    size = jnp.linalg.norm(a, axis=1, keepdims=True)
    return a / jnp.where(size > 0, size, jnp.nan)


def _singular_vectors(coupling: Coupling, leading: int) -> tuple[Down, Down]:
    """The leading left and right singular vectors of M, as columns."""
    w, v = coupling.up, coupling.down
    k, svd, qr = min(leading, *v.shape), _one_by_one(_thin_svd), _one_by_one(_thin_qr)
    if v.shape[0] <= w.shape[0]:
        left, right = svd(v @ w)
        return left[:, :k], right[:, :k]
    (frame_v, small_v), (frame_w, small_w) = qr(v), qr(w.T)
    left, right = svd(small_v @ small_w.T)
    return frame_v @ left[:, :k], frame_w @ right[:, :k]


def _thin_svd(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    left, _, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left, right.T


def _thin_qr(matrix: Float[Array, "n h"]) -> tuple[Float[Array, "n h"], Float[Array, "h h"]]:
    frame, small = jnp.linalg.qr(matrix)
    return frame, small
