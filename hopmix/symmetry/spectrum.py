r"""The spectrum of $M = VW$: eigenvalues and singular vectors, at the smaller of the two sizes and
at every scale.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PyTree

from hopmix._coupling import Coupling
from hopmix._numerics.magnitude import max_abs
from hopmix._numerics.tolerances import half_the_digits
from hopmix._types import Scalar
from hopmix.symmetry.weights import Units, moments, shared, units_of

Frame = Float[Array, "visible leading"]


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

    All keep their value under the gauge of hidden units, orthogonal changes of the visible basis,
    and scales of $V$ and $W$. A normal $M$, an antisymmetric one for instance, has departure 0 and
    (for simple pairs of singular values and even $k$) overlap 1 too: these two tell normality from
    symmetry only together with the others. Where singular values are equal, the leading vectors and
    their overlap are arbitrary.
    """  # noqa: E501

    complex_fraction: Scalar
    largest_imaginary: Scalar
    departure: Scalar
    overlap: Scalar


def measure_spectrum(coupling: Coupling, *, leading: int = 8) -> Spectrum:
    r"""Eigenvalues and singular vectors of $M = VW$ by the indices of `Spectrum`.

    Everything is computed at the smaller of the two sizes, in units in which the largest entries
    are about 1. An eigenvalue counts as real where its imaginary part is below the square root of
    the rounding unit, relative to the largest one.

    **Arguments:**

    - `coupling`: gives $V$ and $W$.
    - `leading`: $k$, how many singular vectors span what is compared; at most the smaller size.

    **Returns:** a `Spectrum` in the dtype of the weights, NaN for a zero matrix. The rounding of
    `departure` is that of a square root: 1e-8 in float64, 1e-3 in float32.

    **Raises:** `ValueError` for `leading` below 1, and for weights that are no floating-point
    numbers.

    **Source:** Henrici 1962 for the departure from normality; `theory/notation.md`.
    """
    if leading < 1:
        raise ValueError(f"`measure_spectrum` needs leading >= 1, got {leading}.")
    units = units_of(coupling.down, coupling.up)
    values, small = _eigenvalues(units)
    sizes = jnp.abs(values)
    imaginary = jnp.abs(values.imag)
    radius = jnp.max(sizes)
    product = moments(units)
    relative = sizes * (small / product.unit)
    real = imaginary <= half_the_digits(imaginary.dtype) * radius
    left, _, right = singular_frames(units, leading)
    found = Spectrum(
        complex_fraction=jnp.where(radius > 0, jnp.mean(1 - real.astype(imaginary.dtype)), jnp.nan),
        largest_imaginary=jnp.max(imaginary) / radius,
        departure=jnp.sqrt(jnp.maximum(1 - jnp.sum(relative**2) / jnp.sum(product.rows), 0)),
        overlap=jnp.where(radius > 0, jnp.sum((left.T @ right) ** 2) / left.shape[1], jnp.nan),
    )
    return Spectrum(*(index.astype(coupling.up.dtype) for index in found))


def eigenvalues(coupling: Coupling) -> Complex[Array, " smaller"]:
    r"""The eigenvalues of $M = VW$ that need not be zero, as many as the smaller size: those of
    $WV$ if $h < n$.

    They are computed in units of the largest entry, because LAPACK's of float32 can be wrong below
    1e-12 and above 1e12. Errors are those of rounding relative to the norm of $M$. Parts that the
    dtype cannot hold are 0 or infinite, and weights that are no numbers have eigenvalues that are
    none.

    **Arguments:**

    - `coupling`: gives $V$ and $W$.

    **Returns:** complex numbers of the precision of the weights, of single precision for float16
    and bfloat16.

    **Raises:** `ValueError` for weights that are no floating-point numbers.
    """
    units = units_of(coupling.down, coupling.up)
    values, small = _eigenvalues(units)
    real = values.real * small * units.unit * units.unit
    imaginary = values.imag * small * units.unit * units.unit
    return jax.lax.complex(real, imaginary)


def _eigenvalues(units: Units) -> tuple[Complex[Array, " smaller"], Scalar]:
    """The eigenvalues in units of a number, which itself is in the square of the unit of the units;
    and that number.
    """
    w, v = shared(units)
    matrix = v.T @ w if w.shape[1] <= w.shape[0] else w @ v.T
    small = max_abs(matrix)
    return _one_by_one(jnp.linalg.eigvals)(matrix / small), small


def singular_frames(units: Units, leading: int) -> tuple[Frame, Float[Array, " leading"], Frame]:
    r"""The leading left singular vectors, singular values and right singular vectors of $M$,
    vectors as columns.

    There are no more than the smaller size. Values are in the square of the unit of the units.
    """
    w, v = shared(units)
    hidden, visible = w.shape
    svd = _one_by_one(_thin_svd)
    if visible <= hidden:
        left, values, right = svd(v.T @ w)
        return left[:, :leading], values[:leading], right[:, :leading]
    frame_v, small_v = thin_qr(v.T)
    frame_w, small_w = thin_qr(w.T)
    left, values, right = svd(small_v @ small_w.T)
    return frame_v @ left[:, :leading], values[:leading], frame_w @ right[:, :leading]


def _one_by_one(decompose: Callable) -> Callable:
    """The same for matrices in a batch, one after another.

    On a CPU, jaxlib hands the matrices of a batch to the threads that run the program and waits for
    them in one of these threads: a few such calls at a time, of other layers or other programs,
    wait for each other for ever.
    """

    @jax.custom_jvp
    def one_by_one(matrix: Array) -> PyTree[Array]:
        return jax.custom_batching.sequential_vmap(lambda matrix: decompose(matrix))(matrix)

    # The rule of batches has no transpose.
    one_by_one.defjvp(lambda primals, tangents: jax.jvp(decompose, primals, tangents))
    return one_by_one


def _thin_svd(
    matrix: Float[Array, "n n"],
) -> tuple[Float[Array, "n n"], Float[Array, " n"], Float[Array, "n n"]]:
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left, values, right.T


def thin_qr(matrix: Float[Array, "n h"]) -> tuple[Float[Array, "n h"], Float[Array, "h h"]]:
    """Orthonormal columns and a triangle; of a batch one after another."""
    return _one_by_one(_qr)(matrix)


def _qr(matrix: Float[Array, "n h"]) -> tuple[Float[Array, "n h"], Float[Array, "h h"]]:
    frame, triangle = jnp.linalg.qr(matrix)
    return frame, triangle


def null_departure(visible: int, hidden: int) -> float:
    r"""The departure from normality of $M = VW$ for large independent Gaussian $V$ and $W$,

    $$\sqrt{1 - \frac{s}{n}\left(\frac{1}{3\nu} + \frac{\nu - 1}{2\nu}\right)}, \qquad s = \min(n, h), \quad
      \nu = \max(n, h)/s,$$

    from the radial law of the eigenvalues of a product of two Ginibre matrices: 0.816 for $h = n$,
    0.707 for $h \gg n$.

    **Arguments:**

    - `visible`, `hidden`: $n$ and $h$, how many units there are.

    **Source:** Burda, Janik & Waclaw 2010 (arXiv 0912.3422) for the law; the second moment of it:
    hopmix.
    """  # noqa: E501
    smaller, larger = sorted((visible, hidden))
    ratio = larger / smaller
    return math.sqrt(1 - smaller / visible * (1 / (3 * ratio) + (ratio - 1) / (2 * ratio)))
