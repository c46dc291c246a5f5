r"""How fast training breaks a symmetry: the velocity of $V - W^\top$ under gradient flow.

A loss $\ell$ moves $V$ and $W$ by its gradients, and $V - W^\top$ by their difference. At a tied
point, that is where $V = W^\top$, this velocity tells whether, in which units and how fast symmetry
is lost, before a single step is taken. It depends on which parameters train: independent $V$ and
$W$ do not break like $W$ and a breaking added to $W^\top$.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._numerics.magnitude import in_own_units, norm, safe_sqrt, working
from hopmix._numerics.tolerances import TIED, rounding_of
from hopmix._types import Scalar


def breaking_velocity(coupling: Coupling, gradient: Coupling) -> Float[Array, "visible hidden"]:
    r"""The velocity of $V - W^\top$ when the parameters of a coupling follow $-\nabla\ell$:

    $$\frac{d}{dt}\left(V - W^\top\right) = -\frac{\partial\ell}{\partial B}
      + (1 - \text{tie})\,\frac{\partial\ell}{\partial W}^\top, \qquad V = \text{tie}\cdot W^\top +
      B.$$

    For independent weights (tie 0) this is $-(\partial\ell/\partial V - \partial\ell/\partial
    W^\top)$; for a breaking on top of tied weights (tie 1) it is $-\partial\ell/\partial V$. It is
    linear in the gradient: with minus the update of any optimiser in its place, the result is
    exactly the change of $V - W^\top$ in that step.

    **Arguments:**

    - `coupling`: the weights.
    - `gradient`: of the loss with respect to the parameters of that coupling, as `jax.grad` returns
        it. A `None` in place of a gradient stands for a parameter that does not train.

    **Raises:** `ValueError` if the gradient has not the shape of the coupling.

    **Source:** hopmix, claim C11 (`theory/C11-breaking.md`).
    """
    _check(coupling, gradient)
    velocity = jnp.zeros(coupling.up.shape[::-1], coupling.up.dtype)
    if gradient.up is not None:
        velocity = velocity + (1 - coupling.tie) * gradient.up.T
    if gradient.breaking is None:
        return velocity
    return velocity - gradient.breaking


def breaking_rate(coupling: Coupling, gradient: Coupling) -> Scalar:
    r"""The rate $\dot r$ of the breaking ratio $r = |V - W^\top|/|W|$ when parameters follow
    $-\nabla\ell$.

    At a tied point, where $r$ is 0 and can only grow, it is $|\tfrac{d}{dt}(V - W^\top)|/|W|$, the
    predicted initial rate of symmetry breaking; elsewhere it is the derivative of
    `measure_asymmetry(coupling).breaking_ratio`. Gradient descent with rate $\eta$ gains
    $\eta\,\dot r$ in its first step, up to terms of order $\eta^2$.

    **Arguments:** as in `breaking_velocity`. A ratio below four units of rounding counts as tied.

    **Returns:** the rate, in units of one over the time of the flow; not a number where $W$ is
    zero.

    **Raises:** as in `breaking_velocity`.

    **Source:** hopmix, claim C11 (`theory/C11-breaking.md`).
    """
    velocity = working(breaking_velocity(coupling, gradient), "gradient")
    up = working(coupling.up, "up")
    down = working(coupling.down, "down")
    gap = down - up.T
    size_gap = norm(gap)
    size_up = norm(up)
    # A compiled program may leave rounding where V = W^T: a gap without a direction counts as none.
    apart = size_gap > rounding_of(coupling.up.dtype, TIED) * size_up
    along = jnp.sum(gap / jnp.where(apart, size_gap, 1) * velocity)
    growth = jnp.where(apart, along, norm(velocity)) / size_up
    if gradient.up is not None:
        stretch = jnp.sum(up / size_up * working(gradient.up, "gradient")) / size_up
        growth = growth + size_gap / size_up * stretch
    return growth.astype(coupling.up.dtype)


def product_gradient(coupling: Coupling, gradient: Float[Array, "visible visible"]) -> Coupling:
    r"""The gradient with respect to a coupling of a loss that depends on it through the linear map
    $M = VW$ alone:

    $$\frac{\partial\ell}{\partial B} = G W^\top, \qquad
      \frac{\partial\ell}{\partial W} = V^\top G + \text{tie}\cdot(G W^\top)^\top, \qquad
      G = \frac{\partial\ell}{\partial M}.$$

    With it, `breaking_velocity` of independent weights at a tied point is $-(G - G^\top)\,W^\top$:
    only the antisymmetric part of $G$ breaks the symmetry.

    **Arguments:**

    - `coupling`: $V$ and $W$.
    - `gradient`: $G$; over data with inputs $g_n$ and gradients $\delta_n$ at the outputs it is
        $\sum_n \delta_n g_n^\top$.

    **Returns:** the gradient as a `Coupling`; its breaking is `None` where the coupling has none.

    **Source:** hopmix, claim C11 (`theory/C11-breaking.md`).
    """
    down = gradient @ coupling.up.T
    up = coupling.down.T @ gradient + coupling.tie * down.T
    return Coupling(up, breaking=None if coupling.breaking is None else down, tie=0.0)


def unit_balance(coupling: Coupling) -> Float[Array, " hidden"]:
    r"""The balance $|w_\alpha|^2 - |v_\alpha|^2$ of each hidden unit, with rows $w_\alpha$ of $W$,
    columns of $V$.

    Gradient flow on $V\phi(Wg)$ with linear or rectified hidden units and independent $V$ and $W$
    conserves it; with decay $\lambda$ of both it falls as $e^{-2\lambda t}$. A bias $b_\alpha$ in
    the hidden unit adds its square.

    **Arguments:**

    - `coupling`: $V$ and $W$.

    **Source:** Du, Hu & Lee 2018 (arXiv 1806.00900); claim C11 (`theory/C11-breaking.md`).
    """
    long_w = _lengths(working(coupling.up, "weights"))
    long_v = _lengths(working(coupling.down.T, "weights"))
    # By the third binomial formula large squares have no difference that is not a number.
    return ((long_w - long_v) * (long_w + long_v)).astype(coupling.up.dtype)


def _lengths(a: Float[Array, "rows columns"]) -> Float[Array, " rows"]:
    rows = in_own_units(a)
    return rows.sizes * safe_sqrt(jnp.sum(rows.entries**2, axis=1))


def _check(coupling: Coupling, gradient: Coupling):
    expected = {"up": coupling.up.shape, "breaking": coupling.up.shape[::-1]}
    for name, shape in expected.items():
        found = getattr(gradient, name)
        if found is not None and found.shape != shape:
            raise ValueError(
                f"The gradient of `{name}` must have the shape of what it is a gradient of, "
                f"{shape}, got {found.shape}."
            )
