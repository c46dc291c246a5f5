r"""C11: how symmetry breaks in training, and the laws that hold on the way.

A hidden layer reads $g$ by $W$ and answers by $V$, $f(g) = V\phi(Wg)$; over data with inputs $g_n$
the loss has the gradients $\delta_n$ at the outputs. Each law is an oracle for
`hopmix.measure_asymmetry`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import scipy.optimize
from jaxtyping import Array, Float

from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, Quadratic, ReLU, Softmax, Sum, Tanh
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._numbers import normals
from hopmix.symmetry.breaking import breaking_rate, breaking_velocity, unit_balance
from hopmix.symmetry.weights import measure_asymmetry

VISIBLE = 5
HIDDEN = 4
DATA = 6
UNITS: tuple[AbstractLagrangian, ...] = (Quadratic(), ReLU(), GELU(), Softmax())
HOMOGENEOUS = 2  # the first two have activations of degree one

Data = Float[Array, "data visible"]


class Problem(NamedTuple):
    """Random weights, and data to train them on."""

    up: Float[Array, "hidden visible"]
    down: Float[Array, "visible hidden"]
    inputs: Data
    targets: Data


@jax.jit
def draw(key: PRNGKey) -> Problem:
    """A random problem; all its numbers are standard normal."""
    shapes = ((HIDDEN, VISIBLE), (VISIBLE, HIDDEN), (DATA, VISIBLE), (DATA, VISIBLE))
    return Problem(*normals(key, shapes))


def mixed_units(weights: Float[Array, " kinds"]) -> AbstractLagrangian:
    """Linear, rectified, Gaussian and softmax units in these shares: one compiled program serves
    all kinds.
    """
    return Sum(tuple(share * units for share, units in zip(weights, UNITS)))


def tied_velocity(
    up: Float[Array, "hidden visible"], units: AbstractLagrangian, inputs: Data, errors: Data
) -> Float[Array, "visible hidden"]:
    r"""The velocity of $V - W^\top$ for independent weights at the tied point $V = W^\top$, in
    closed form:

    $$-\sum_n \left[\delta_n\,\phi(h_n)^\top - g_n\,(\Phi''(h_n)\,W\delta_n)^\top\right], \qquad h_n = W g_n.$$

    **Arguments:**

    - `up`: $W$.
    - `units`: the Lagrangian $\Phi$ of the hidden units, $\phi = \Phi'$.
    - `inputs`, `errors`: $g_n$ and $\delta_n$, the gradients of the loss at the outputs.
    """  # noqa: E501

    def of_one(g: Layer, delta: Layer) -> Float[Array, "visible hidden"]:
        h = up @ g
        slope = units.hessian_vector_product(h, up @ delta)
        return jnp.outer(g, slope) - jnp.outer(delta, units.activation(h))

    return jnp.sum(jax.vmap(of_one)(inputs, errors), axis=0)


def task_loss(coupling: Coupling, units: AbstractLagrangian, inputs: Data, targets: Data) -> Scalar:
    r"""$\sum_n \log\cosh(f(g_n) - y_n)$, summed over entries: its $\delta_n$ are bounded and not
    linear in $f$.
    """
    outputs = jax.vmap(lambda g: coupling.down @ units.activation(coupling.up @ g))(inputs)
    return Tanh()(outputs - targets)


def autoencoder_loss(
    coupling: Coupling,
    covariance: Float[Array, "visible visible"],
    decay_up: Scalar,
    decay_down: Scalar,
) -> Scalar:
    r"""$\tfrac12\,\mathrm{tr}\,(VW - 1)\,\Sigma\,(VW - 1)^\top + \tfrac12\lambda_W|W|^2 +
    \tfrac12\lambda_V|V|^2$.
    """
    error = coupling.down @ coupling.up - jnp.eye(len(covariance), dtype=covariance.dtype)
    penalty = decay_up * jnp.sum(coupling.up**2) + decay_down * jnp.sum(coupling.down**2)
    return 0.5 * (jnp.sum((error @ covariance) * error) + penalty)


def solvable_time(start: float, target: complex, share: np.ndarray) -> np.ndarray:
    r"""When the exactly solvable problem has this share of its way left.

    Two visible and two hidden units, multiples of rotations, the loss $\tfrac12|VW - T|^2$: as
    complex numbers the product obeys $\dot M = -2|M|(M - T)$ from a tied point, and travels
    straight, $M = T + u\,(M_0 - T)$, with

    $$t(u) = \frac{\ell(u) - \ell(1)}{2|T|}, \quad \ell(u) = \log\frac{2a + bu + 2\sqrt a\sqrt{a + bu + cu^2}}{u},
      \quad a = |T|^2,\ b = 2\,\mathrm{Re}\,\bar T(M_0 - T),\ c = |M_0 - T|^2.$$

    **Arguments:**

    - `start`: $M_0 > 0$, the product at the tied start.
    - `target`: $T$, not zero and not negative.
    - `share`: $u$ in (0, 1].
    """  # noqa: E501
    way = start - target
    a = abs(target) ** 2
    b = 2 * (target.conjugate() * way).real
    c = abs(way) ** 2

    def log(u):
        return np.log((2 * a + b * u + 2 * np.sqrt(a * (a + b * u + c * u**2))) / u)

    return (log(share) - log(1.0)) / (2 * np.sqrt(a))


def solvable_product(start: float, target: complex, share: np.ndarray) -> np.ndarray:
    """The product $M$ of the exactly solvable problem when this share of its way is left; see
    `solvable_time`.
    """
    return target + share * (start - target)


def tied_gaps(
    problem: Problem, units: AbstractLagrangian, rate: float = 0.1
) -> Float[Array, " two"]:
    """At a tied point: the velocity by automatic differentiation of a loss beside the closed form,
    and the tracker after one step of gradient descent beside the predicted rate."""
    up = problem.up
    inputs = problem.inputs
    coupling = Coupling.from_weights(up, up.T)
    gradient = jax.grad(task_loss)(coupling, units, inputs, problem.targets)
    outputs = jax.vmap(lambda g: up.T @ units.activation(up @ g))(inputs)
    velocity = tied_velocity(up, units, inputs, jnp.tanh(outputs - problem.targets))
    sgd: Any = optax.sgd(rate)  # Optax's types know no Equinox modules
    later: Any = optax.apply_updates(coupling, sgd.update(gradient, sgd.init(coupling))[0])  # pyright: ignore
    tracked = (
        measure_asymmetry(later).breaking_ratio * jnp.linalg.norm(later.up) / jnp.linalg.norm(up)
    )
    return jnp.stack(
        [
            _distance(breaking_velocity(coupling, gradient), velocity),
            _distance(tracked, rate * breaking_rate(coupling, gradient)),
        ]
    )


def balance_gap(problem: Problem, units: AbstractLagrangian, decay: float = 0.1) -> Scalar:
    r"""How far $|w_\alpha|^2 - |v_\alpha|^2$ is from falling at the rate $2\lambda$ under gradient
    flow with decay.
    """
    coupling = Coupling.from_weights(problem.up, problem.down)
    gradient = jax.grad(task_loss)(coupling, units, problem.inputs, problem.targets)
    velocity = jax.tree.map(lambda g, p: -g - decay * p, gradient, coupling)
    change = jax.jvp(unit_balance, (coupling,), (velocity,))[1]
    scale = jnp.linalg.norm(coupling.up) * jnp.linalg.norm(gradient.up)  # the size of what cancels
    return jnp.max(jnp.abs(change + 2 * decay * unit_balance(coupling))) / scale


def kolen_pollack_gap(problem: Problem, steps: int = 30, decay: float = 0.05) -> Scalar:
    r"""How far $|V - W^\top|$, as the tracker sees it, is from $(1 - \lambda)^t$ under transposed
    updates.
    """

    def step(coupling: Coupling, time: Scalar) -> tuple[Coupling, Scalar]:
        update = jnp.sin(time + problem.inputs[:HIDDEN])  # any update does
        later = Coupling.from_weights(
            (1 - decay) * coupling.up + update, (1 - decay) * coupling.down + update.T
        )
        return later, measure_asymmetry(later).breaking_ratio * jnp.linalg.norm(later.up)

    times = jnp.arange(1.0, steps + 1)
    gaps = jax.lax.scan(step, Coupling.from_weights(problem.up, problem.down), times)[1]
    start = jnp.linalg.norm(problem.down - problem.up.T)
    return jnp.max(jnp.abs(gaps / start - (1 - decay) ** times))


def descent_gaps(problem: Problem) -> Float[Array, " laws"]:
    """All gaps of one random problem that concern single steps."""
    kinds = jnp.eye(len(UNITS))
    tied = jax.vmap(lambda kind: tied_gaps(problem, mixed_units(kind)))(kinds)
    balance = jax.vmap(lambda kind: balance_gap(problem, mixed_units(kind)))(kinds[:HOMOGENEOUS])
    return jnp.concatenate([jnp.ravel(tied), balance, kolen_pollack_gap(problem)[None]])


def critical_point(problem: Problem, decay_up: float, decay_down: float) -> tuple[Coupling, float]:
    """A critical point of the regularised linear autoencoder, and the largest entry of the gradient
    left there.

    It is found by least squares on the gradient from the weights of the problem, and may well be a
    saddle.
    """
    args = _autoencoder(problem, decay_up, decay_down)
    start = np.concatenate([np.ravel(problem.up), np.ravel(problem.down)])
    options = {"xtol": 1e-15, "ftol": 1e-15, "maxiter": 2000}
    found = scipy.optimize.root(
        _slope, start, args, method="lm", jac=_slope_matrix, options=options
    )
    return _unravel(jnp.asarray(found.x)), float(np.max(np.abs(found.fun)))


def lowest_curvature(coupling: Coupling, problem: Problem, decay: float) -> float:
    """The lowest eigenvalue of the Hessian of the autoencoder's loss: negative at a saddle."""
    flat = jnp.concatenate([jnp.ravel(coupling.up), jnp.ravel(coupling.down)])
    return float(np.linalg.eigvalsh(_slope_matrix(flat, *_autoencoder(problem, decay, decay)))[0])


def critical_gap(problem: Problem, decay: float = 0.05) -> float:
    r"""How far a critical point of the autoencoder is from $V = W^\top$, as the tracker sees it."""
    found, residual = critical_point(problem, decay, decay)
    return float(measure_asymmetry(found).breaking_ratio) + residual


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random weights, data and losses, and over autoencoders of the same data at
    their ends.
    """
    problems = jax.vmap(draw)(jr.split(key, examples))
    worst = [float(jnp.max(jax.jit(jax.vmap(descent_gaps))(problems)))]
    worst += [
        critical_gap(jax.tree.map(lambda leaf, i=i: leaf[i], problems)) for i in range(examples)
    ]
    return Measurement(float(np.max(worst)), 1e-10, examples)


def _distance(a: Array, b: Array) -> Scalar:
    return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)


def _autoencoder(
    problem: Problem, decay_up: float, decay_down: float
) -> tuple[Array, Array, Array]:
    return problem.inputs.T @ problem.inputs / DATA, jnp.asarray(decay_up), jnp.asarray(decay_down)


def _unravel(flat: Float[Array, " weights"]) -> Coupling:
    up, down = jnp.split(flat, 2)
    return Coupling.from_weights(up.reshape(HIDDEN, VISIBLE), down.reshape(VISIBLE, HIDDEN))


def _flat_loss(flat: Float[Array, " weights"], *args: Array) -> Scalar:
    return autoencoder_loss(_unravel(flat), *args)


_slope = jax.jit(jax.grad(_flat_loss))
_slope_matrix = jax.jit(jax.hessian(_flat_loss))


CLAIM = Claim(
    id="C11",
    statement="independent V, W at a tied point: d(V - W^T)/dt = -(G - G^T) W^T, and its "
    "nonlinear form; balance of "
    "linear and rectified units, Kolen-Pollack decay, regularised linear autoencoders end tied, "
    "as the tracker sees it",
    source="Kunin et al. 2019; Du, Hu & Lee 2018; Kolen & Pollack 1994; the velocities: hopmix",
    status="proved",
    page="C11-breaking.md",
    test="test_c11_breaking.py",
    what="largest relative gap between training and the closed forms",
    measure=measure,
)
