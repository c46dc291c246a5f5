r"""C16: a nondegenerate rest survives small breaking, and the residual bounds the attractor.

The flow is $\tau\dot x = f = f_s + r$ with the force $f_s$ of tied weights, leak included, and what
the breaking $V - W^\top$ adds to it, $r$.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._certificate.small_breaking import breaking_bound
from hopmix._coupling import Coupling
from hopmix._dynamics import velocity
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm, Quadratic, Softmax, Tanh
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._pseudo_energy import with_tied_weights
from hopmix._synapse import Dense
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, share
from hopmix.claims._numbers import generator

VISIBLE = 5
HIDDEN = 4
LEAK = 0.8
KINDS: tuple[tuple[AbstractLagrangian, AbstractLagrangian], ...] = (
    (Quadratic(), Tanh(1.3)),
    (LayerNorm(eps=1e-3), GELU()),
    (Tanh(0.7), Softmax(1.5)),
)
"""Visible and hidden Lagrangians of the blocks that are tried."""

ROUNDING = 1e-11


class Sizes(NamedTuple):
    r"""Squares in the metric $H$, $|v|_H^2 = v \cdot Hv$: of the tied force, of what the breaking
    adds, and of both.
    """

    tied: Scalar
    residual: Scalar
    force: Scalar


def metric_sizes(block: Block, x: Layer) -> Sizes:
    r"""$|f_s|_H^2$, $|r|_H^2$ and $|f|_H^2$ at a state; the energy of the tied block changes at the
    rate

    $$\tau\dot E_s = \tfrac12\left(|r|_H^2 - |f_s|_H^2 - |f|_H^2\right).$$
    """
    force = block.force(x)
    tied = with_tied_weights(block).force(x)
    lift = block.potential.neurons.lagrangian.hessian_vector_product
    square = lambda v: jnp.sum(v * lift(x, v))
    return Sizes(square(tied), square(force - tied), square(force))


def rate_gap(block: Block, x: Layer) -> Scalar:
    r"""$\tau\dot E_s$ by automatic differentiation against the formula of `metric_sizes`, relative
    to its terms.
    """
    rate = jax.jvp(with_tied_weights(block).energy, (x,), (velocity(block, x),))[1]
    sizes = metric_sizes(block, x)
    formula = 0.5 * (sizes.residual - sizes.tied - sizes.force)
    return jnp.abs(block.potential.neurons.tau * rate - formula) / sum(sizes)


class Rest(NamedTuple):
    """A rest, the force that is left there, and the largest real part of the Jacobian's
    eigenvalues.
    """

    state: np.ndarray
    left: float
    growth: float


def find_rest(block: Block, x: Layer, steps: int = 60) -> Rest:
    """The rest near a state, by Newton's method, which converges under the conditions of the
    claim.
    """
    state = np.asarray(x)
    for _ in range(steps):
        force, jacobian = _linearised(block, jnp.asarray(state))
        change = np.linalg.solve(jacobian, force.ravel()).reshape(state.shape)
        state = state - change
        if np.linalg.norm(change) <= 1e-14 * np.linalg.norm(state):
            break
    force, jacobian = _linearised(block, jnp.asarray(state))
    return Rest(
        state, float(np.linalg.norm(force)), float(np.max(np.linalg.eigvals(jacobian).real))
    )


def _linearised(block: Block, x: Layer) -> tuple[np.ndarray, np.ndarray]:
    force, jacobian = _force_and_jacobian(block, x)
    return np.asarray(force), np.asarray(jacobian).reshape(x.size, x.size)


@eqx.filter_jit
def _force_and_jacobian(block: Block, x: Layer) -> tuple[Layer, Array]:
    return block.force(x), jax.jacfwd(block.force)(x)


def resting_block(
    visible: AbstractLagrangian,
    hidden: AbstractLagrangian,
    up: Float[Array, "hidden visible"],
    x: Float[Array, " visible"],
    leak: float = LEAK,
) -> Block:
    """A block without breaking, with a current into its visible layer for which it rests at a given
    state.
    """
    current = leak * x - up.T @ hidden.activation(up @ visible.activation(x))
    neurons = {"x": Neurons(visible, x.shape, input=current), "h": Neurons(hidden, up.shape[:1])}
    synapses = {"s": Dense(Coupling(up, breaking=jnp.zeros(up.shape[::-1])))}
    return derive_block(AssociativeMemory(neurons, synapses, {"s": ("x", "h")}), ["h"], leak=leak)


def draw(key: PRNGKey, kind: int) -> tuple[Block, Layer, np.ndarray]:
    r"""A tied block, its rest, and a direction of breaking of spectral norm 1.

    The weights are such that $|\Phi''|\,|W|^2|H|$ is 0.2 to 0.9 of the leak, so that the rest is
    stable.
    """
    visible, hidden = KINDS[kind]
    random = generator(key)
    x = random.normal(size=VISIBLE)
    x = x / np.std(x)
    up = random.normal(size=(HIDDEN, VISIBLE))
    direction = random.normal(size=(VISIBLE, HIDDEN))
    steepness = max(map(abs, hidden.curvature)) * _highest_curvature(visible, x)
    size = math.sqrt(random.uniform(0.2, 0.9) * LEAK / steepness) / np.linalg.norm(up, 2)
    block = resting_block(visible, hidden, jnp.asarray(size * up), jnp.asarray(x))
    return block, jnp.asarray(x), direction / np.linalg.norm(direction, 2)


def _highest_curvature(visible: AbstractLagrangian, x: np.ndarray) -> float:
    if isinstance(visible, LayerNorm):
        return 1 / math.sqrt(np.var(x) + visible.eps)
    return visible.curvature[1]


def break_by(block: Block, breaking: np.ndarray) -> Block:
    """A `resting_block` with this breaking."""
    return eqx.tree_at(
        lambda b: b.potential.memory.synapses["s"].coupling.breaking, block, jnp.asarray(breaking)
    )


def excess(key: PRNGKey, kind: int) -> float:
    """How far the rest moves by a breaking just below the bound, in units of what is promised; 2
    where it is lost.

    A gap of the rate of the tied energy counts in units of rounding.
    """
    tied, x, direction = draw(key, kind)
    broken = break_by(tied, 0.999 * breaking_bound(tied, x).bound * direction)
    found = breaking_bound(broken, x)
    rest = find_rest(broken, x)
    moved = float(np.linalg.norm(rest.state - np.asarray(x))) / found.distance
    stays = found.persists and rest.left < ROUNDING and rest.growth < 0
    return max(moved if stays else 2.0, float(_rate_gap(broken, x)) / ROUNDING)


_rate_gap = eqx.filter_jit(rate_gap)


def linear_gap(key: PRNGKey) -> float:
    r"""Linear units: the bound against $(\lambda - \sigma^2)/\sigma$, $\sigma = |W|_2$, beyond
    which the worst breaking leaves the rest unstable."""
    random = generator(key)
    up = random.normal(size=(HIDDEN, VISIBLE))
    sigma = math.sqrt(random.uniform(0.2, 0.9) * LEAK)
    up = sigma * up / np.linalg.norm(up, 2)
    x = jnp.asarray(random.normal(size=VISIBLE))
    block = resting_block(Quadratic(), Quadratic(), jnp.asarray(up), x)
    exact = (LEAK - sigma**2) / sigma
    return abs(breaking_bound(block, x).bound / exact - 1)


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst over random blocks of three kinds, and of linear ones, in units of what is
    promised.
    """
    number = share(examples, len(KINDS) + 1)
    keys = jr.split(key, (len(KINDS) + 1, number))
    found = [excess(k, kind) for kind in range(len(KINDS)) for k in keys[kind]]
    found += [linear_gap(k) / 1e-6 for k in keys[-1]]
    return Measurement(float(np.max(found)), 1.0, number * (len(KINDS) + 1))


CLAIM = Claim(
    id="C16",
    statement="a stable rest of a leaky tied block persists and is stable for |V - W^T| < c, c "
    "computed (the best for "
    "linear units); tau dE_s/dt = (|r|^2 - |f_s|^2 - |f|^2)/2 in the metric H: the residual r "
    "bounds the attractor",
    source="hopmix; contraction: Lohmiller & Slotine 1998; input-to-state stability: Sontag 1989",
    status="proved",
    page="C16-small-breaking.md",
    test="test_c16_small_breaking.py",
    what="distance of the moved rest in units of its bound (2 if lost); of the rate of E_s and "
    "of the best c, gap in "
    "units of rounding",
    measure=measure,
)
