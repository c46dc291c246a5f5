r"""How far weights are from symmetric couplings, and vector fields from gradients.

For weights: $W$ (hidden x visible), $V$ (visible x hidden), columns $v_\alpha$ of $V$ and rows $w_\alpha$ of $W$.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._lagrangian import AbstractLagrangian
from hopmix._types import Layer, Scalar


class Asymmetry(NamedTuple):
    r"""Indices of asymmetry of one coupling; see `measure_asymmetry`.

    - `cosine`: $\langle V, W^\top\rangle / (|V||W|)$, in [-1, 1]; tied 1, independent weights 0.
    - `relative_breaking`: $|V - W^\top|^2 / (|V|^2 + |W|^2)$, in [0, 2]; tied 0, independent weights 1.
    - `unit_cosine`: mean over hidden units of $\cos(v_\alpha, w_\alpha)$, weighted by $|v_\alpha||w_\alpha|$, in
        [-1, 1]; 1 whenever $V = W^\top D$ with $D \ge 0$ diagonal, which is conservative too.
    - `symmetry_score`: $\langle M, M^\top\rangle/|M|^2$ of $M = VW$, in [-1, 1]; symmetric 1, antisymmetric -1,
        independent weights about 0.
    - `breaking_ratio`: $|V - W^\top|/|W|$, which is $|\text{breaking}|/|W|$ where tie is 1; tied 0.
    """

    cosine: Scalar
    relative_breaking: Scalar
    unit_cosine: Scalar
    symmetry_score: Scalar
    breaking_ratio: Scalar


def measure_asymmetry(coupling: Coupling) -> Asymmetry:
    r"""The asymmetry of the weights of a coupling, by five indices.

    **Arguments:**

    - `coupling`: gives $W$ (`up`) and $V$ (`down`).

    **Returns:** an `Asymmetry`. An index of a zero matrix is NaN.

    **Source:** arXiv 2406.12220 (the ratio); Saponati et al. (arXiv 2502.10927) for the symmetry score.
    """
    w, v = coupling.up, coupling.down.T
    inner, w2, v2 = (jnp.sum(a * b, axis=1) for a, b in ((w, v), (w, w), (v, v)))
    gap2 = jnp.sum((v - w) ** 2)
    # The weights |v||w| of the mean cancel the denominators of the cosines.
    return Asymmetry(
        cosine=jnp.sum(inner) / jnp.sqrt(jnp.sum(w2) * jnp.sum(v2)),
        relative_breaking=gap2 / (jnp.sum(w2) + jnp.sum(v2)),
        unit_cosine=jnp.sum(inner) / jnp.sum(jnp.sqrt(w2 * v2)),
        symmetry_score=symmetry_score(coupling.down, w),
        breaking_ratio=jnp.sqrt(gap2 / jnp.sum(w2)),
    )


def symmetry_score(v: Float[Array, "visible hidden"], w: Float[Array, "hidden visible"]) -> Scalar:
    r"""The symmetry score of $M = VW$, $\langle M, M^\top\rangle/|M|^2$.

    With fewer hidden than visible units $M$ is never formed: $\langle M, M^\top\rangle = \mathrm{tr}\,(WV)^2$ and
    $|M|^2 = \langle V^\top V, W W^\top\rangle$ take matrices of hidden size only.

    **Source:** Saponati et al. (arXiv 2502.10927), whose score is $\tfrac12(1 + \text{this})$.
    """
    hidden, visible = w.shape
    if visible <= hidden:
        m = v @ w
        return jnp.sum(m * m.T) / jnp.sum(m**2)
    small = w @ v
    return jnp.sum(small * small.T) / jnp.sum((v.T @ v) * (w @ w.T))


def field_asymmetry(f: Callable[[Layer], Layer], x: Layer, lagrangian: AbstractLagrangian | None = None) -> Scalar:
    r"""The metric-aware asymmetry of a vector field at a state,

    $$\frac{|HJ - (HJ)^\top|_F}{2\,|HJ|_F}, \qquad J = \frac{\partial f}{\partial x}, \quad H = \nabla^2 L(x),$$

    in [0, 1]. It vanishes where $f$ is the gradient of a scalar with respect to $g = L'(x)$; the raw Jacobian
    ($H = 1$) of a layer of an energy model is in general not symmetric. Exact: the whole Jacobian is formed.

    **Arguments:**

    - `f`: the field, from states to forces of the same shape. A residual layer enters as its displacement.
    - `x`: the state.
    - `lagrangian`: the visible Lagrangian $L$; `None` for $H = 1$.

    **Raises:** `ValueError` if `f` changes the shape.

    **Source:** `theory/C07-conservative.md`.
    """
    out = jax.eval_shape(f, x)
    if out.shape != x.shape:
        raise ValueError(f"A vector field keeps the shape of its state: got {out.shape} from {x.shape}.")
    jacobian = jax.jacfwd(f)(x).reshape(x.size, x.size)
    if lagrangian is not None:
        jacobian = jax.jacfwd(lagrangian.activation)(x).reshape(x.size, x.size) @ jacobian
    return jnp.linalg.norm(jacobian - jacobian.T) / (2 * jnp.linalg.norm(jacobian))
