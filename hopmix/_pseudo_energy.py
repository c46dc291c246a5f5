r"""Pseudo-energies of a block with untied weights, and how fast they rise or fall along its flow.

Where the force $F$ is no gradient there is no energy, but there are yardsticks. Any potential $U$
splits the force into a part that it accounts for and a *residual*,

$$F = \nabla U + r, \qquad E = \text{leak}\,[x \cdot g - L(x)] - U(g), \qquad
  \dot E = -\tau\,\dot x^\top H \dot x + \dot x^\top H r,$$

with $H = \nabla^2 L(x)$: what is dissipated, and the work of the residual. A block's own `energy`
has the potential of the symmetrised interaction; the *radial* potential is the one whose residual
is orthogonal to $g$.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import Block
from hopmix._coupling import Coupling
from hopmix._dynamics import velocity
from hopmix._neurons import Affine
from hopmix._numerics.dtypes import need_floats
from hopmix._potential import Potential
from hopmix._types import Layer, Scalar

Tree = TypeVar("Tree")


class EnergyBalance(NamedTuple):
    r"""The rate of a pseudo-energy along the flow, and the two parts it is made of; see `power`.

    - `dissipation`: $\tau\,\dot x^\top H \dot x$, not negative for a convex visible Lagrangian.
    - `work`: $\dot x^\top H r$, the power of the residual force; zero where the potential explains
      all of the force.
    - `rate`: $\dot E = \text{work} - \text{dissipation}$.
    """

    dissipation: Scalar
    work: Scalar
    rate: Scalar


def radial_potential(potential: Potential, g: Layer, *, nodes: int = 32) -> Scalar:
    r"""The radial (homotopy) potential of a force,

    $$U_\mathrm{rad}(g) = U(0) + \int_0^1 g \cdot F(t g)\,dt,$$

    the only one with $g \cdot (F - \nabla U_\mathrm{rad}) = 0$ everywhere. If $F$ is the gradient
    of anything on the segments from 0, it is the gradient of $U_\mathrm{rad}$. For elementwise
    hidden units without biases the integral is $\sum_h V_h^\top g \cdot [\Phi(W_h g) -
    \Phi(0)]/(W_h g)$, entry by entry.

    **Arguments:**

    - `potential`: gives $F$ and $U(0)$.
    - `g`: the visible activation of one example; $F$ is evaluated between 0 and it.
    - `nodes`: of the Gauss-Legendre rule. It is exact for units that are homogeneous (ReLU and RePU
        without biases) and never divides by a small $h$. With 32 nodes and no biases the relative
        error for GELU is rounding up to $|h| = 10$, 1e-12 at 30 and 1e-8 at 100; for tanh 1e-9 at
        30 and 1e-6 at 100. A kink inside the segment (ReLU with biases) leaves up to 2e-4 $|W_h g|$
        per unit.

    **Raises:** `ValueError` if `g` is not one example, and for integers.

    **Source:** hopmix (the Poincaré lemma, applied with respect to $g$);
    `theory/C10-pseudo-energy.md`.
    """
    _check_example(potential, g)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    t = jnp.asarray((points + 1) / 2, g.dtype)
    forces = jax.vmap(lambda t: potential.force(t * g))(t)
    mean = jnp.tensordot(jnp.asarray(weights / 2, g.dtype), forces, 1)
    return potential(jnp.zeros_like(g)) + jnp.sum(g * mean)


def radial_energy(block: Block, x: Layer, *, nodes: int = 32) -> Scalar:
    r"""The radial pseudo-energy $E_\mathrm{rad}(x) = \text{leak}\,[x \cdot g - L(x)] -
    U_\mathrm{rad}(g)$.

    It is the energy of every conservative block, whatever its weights (up to quadrature), and
    equals `block.energy` for tied weights and for ReLU units without biases.

    **Arguments:**

    - `block`: its weights need not be tied.
    - `x`: the state of one example.
    - `nodes`: as in `radial_potential`.

    **Raises:** `ValueError` if `x` is not one example, and for integers.

    **Source:** hopmix; `theory/C10-pseudo-energy.md`.
    """
    _check_example(block.potential, x)
    potential = radial_potential(block.potential, block.activation(x), nodes=nodes)
    if block.leak == 0:
        return -potential
    return block.leak * block.potential.neurons.energy(x) - potential


def residual_force(
    block: Block, x: Layer, potential: Callable[[Layer], Scalar] | None = None
) -> Layer:
    r"""The residual force $r = F(g) - \nabla U(g)$, the part of the force that a potential leaves
    unexplained.

    **Arguments:**

    - `block`: gives $F$.
    - `x`: the state of one example.
    - `potential`: $U$ as a function of $g$; `None` for the block's own.

    **Raises:** `ValueError` if `x` is not one example, and for integers.
    """
    _check_example(block.potential, x)
    g = block.activation(x)
    return block.potential.force(g) - jax.grad(potential or block.potential)(g)


def power(
    block: Block, x: Layer, potential: Callable[[Layer], Scalar] | None = None
) -> EnergyBalance:
    r"""The rate of a pseudo-energy along the flow of a block, split in dissipation and work:

    $$\dot E = -\tau\,\dot x^\top H \dot x + \dot x^\top H r, \qquad r = F - \nabla U.$$

    **Arguments:**

    - `block`: gives the flow $\tau\dot x = F(g) - \text{leak}\,x$. What holds clamped entries
      counts as residual.
    - `x`: the state of one example.
    - `potential`: the $U$ of the pseudo-energy $\text{leak}\,[x \cdot g - L(x)] - U(g)$, as a
        function of $g$; `None` for the block's own, so that the rate is that of `block.energy`.

    **Returns:** an `EnergyBalance`.

    **Raises:** `ValueError` if `x` is not one example, and for integers.

    **Source:** hopmix; `theory/C10-pseudo-energy.md`.
    """
    _check_example(block.potential, x)
    neurons = block.potential.neurons
    moving = velocity(block, x)
    downhill = jax.grad(potential or block.potential)(block.activation(x)) - block.leak * x
    lifted = neurons.lagrangian.hessian_vector_product(x, moving)
    driving = neurons.tau * moving
    return EnergyBalance(
        jnp.sum(driving * lifted),
        jnp.sum((driving - downhill) * lifted),
        -jnp.sum(downhill * lifted),
    )


def energy_budget(
    block: Block,
    times: Float[Array, " times"],
    states: Float[Array, "times ..."],
    potential: Callable[[Layer], Scalar] | None = None,
) -> EnergyBalance:
    r"""What a pseudo-energy has lost and gained along a trajectory of the flow, from its start to
    each of its times:

    $$E(t) - E(0) = \int_0^t \dot x^\top H r\,dt - \int_0^t \tau\,\dot x^\top H \dot x\,dt.$$

    By the trapezoidal rule, with an error of second order in the distance of the times.

    **Arguments:**

    - `block`, `potential`: as in `power`.
    - `times`, `states`: of a trajectory, such as `ts` and `ys` of a solution of `flow`.

    **Returns:** an `EnergyBalance` of integrals, each of the shape of `times`: energy dissipated,
    work done by the residual force, and the change of the energy.

    **Raises:** `ValueError` if the states are not examples.

    **Source:** hopmix; `theory/C10-pseudo-energy.md`.
    """

    def integral(rates: Float[Array, " times"]) -> Float[Array, " times"]:
        pieces = 0.5 * (rates[1:] + rates[:-1]) * jnp.diff(times)
        return jnp.concatenate([jnp.zeros(1, pieces.dtype), jnp.cumsum(pieces)])

    return jax.tree.map(integral, jax.vmap(lambda x: power(block, x, potential))(states))


def with_tied_weights(tree: Tree) -> Tree:
    r"""The same block, memory or model with $V = W^\top$: every coupling at tie 1 without breaking.

    An `Affine` that is not conservative becomes so, since it breaks the symmetry just as well.

    **Arguments:**

    - `tree`: any pytree with couplings.
    """
    return jax.tree.map(_tied, tree, is_leaf=_can_break)


def descent_margin(block: Block, x: Layer) -> Scalar:
    r"""How many times the present breaking of the weights a state tolerates before the tied energy
    rises.

    With $f_s$ the force for tied weights (leak included) and $f_s + t\,r$ the one with $t$ times
    the breaking $V - W^\top$, the energy $E_s$ of the tied block changes by $\tau\dot E_s = -f_s
    \cdot H f_s - t\,f_s \cdot H r$, which is not positive exactly for $t$ up to

    $$t^* = \frac{f_s \cdot H f_s}{-f_s \cdot H r} \quad\text{where } f_s \cdot H r < 0, \qquad
      t^* = \infty \quad\text{elsewhere.}$$

    $E_s$ does not rise at this state if and only if $t^* \ge 1$.

    **Arguments:**

    - `block`: with a convex visible Lagrangian, hidden layers that are not joined with each other
        (the force is then linear in $V$), and nothing but couplings and scales that is not
        conservative.
    - `x`: the state of one example.

    **Raises:** `ValueError` if `x` is not one example, and for integers.

    **Source:** hopmix; `theory/C10-pseudo-energy.md`.
    """
    _check_example(block.potential, x)
    tied = with_tied_weights(block)
    downhill = tied.potential.force(block.activation(x)) - block.leak * x
    lifted = block.potential.neurons.lagrangian.hessian_vector_product(x, downhill)
    falling = tied.force(x)
    fall = jnp.sum(falling * lifted)
    rise = -jnp.sum((block.force(x) - falling) * lifted)
    return jnp.where(rise > 0, fall / jnp.where(rise > 0, rise, 1), jnp.inf)


def _tied(node):
    if isinstance(node, Coupling):
        return Coupling(node.up, tie=jnp.ones_like(node.tie))
    if isinstance(node, Affine):
        return Affine(node.scale, node.shift)
    return node


def _can_break(node) -> bool:
    return isinstance(node, Coupling | Affine)


def _check_example(potential: Potential, x: Layer):
    need_floats("The state or activation", x)
    shape = potential.neurons.shape
    if x.shape != shape:
        raise ValueError(
            f"A pseudo-energy takes one example, of shape {shape}, got {x.shape}; batch with "
            f"`jax.vmap`."
        )
