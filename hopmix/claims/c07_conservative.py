r"""C07: a force has an energy exactly where $H J$ is symmetric; $V = W^\top D$ has one for every
diagonal $D$.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hopmix._block import Block
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._mixer import asymmetry
from hopmix.claims._small_mixer import (
    draw_weights,
    free,
    gain_potential,
    gained,
    map_examples,
    small_mixer,
)


def gain_gap(block: Block, x: Layer) -> Scalar:
    r"""The force for $V = W^\top D$ against $\nabla\sum_\alpha D_\alpha\Phi(h_\alpha)$,
    relative.
    """
    g = block.activation(x)
    force = block.potential.force(g)
    gradient = jax.grad(lambda g: gain_potential(block, g))(g)
    return jnp.max(jnp.abs(force - gradient)) / jnp.max(jnp.abs(force))


def circulation_gap(block: Block, x: Layer, a: Layer, b: Layer) -> Scalar:
    r"""Relative gap of Green's theorem on the parallelogram of states $x + sa + tb$,

    $$\oint F \cdot dg = \int_0^1\!\!\int_0^1 b \cdot \left[HJ - (HJ)^\top\right] a\;ds\,dt.$$
    """
    sides = [
        _work(block, x, a),
        _work(block, x + a, b),
        -_work(block, x + b, a),
        -_work(block, x, b),
    ]
    curl = _mean(lambda s: _mean(lambda t: _curl(block, x + s * a + t * b, a, b)))
    return jnp.abs(sum(sides) - curl) / sum(map(jnp.abs, sides))


def _work(block: Block, x: Layer, side: Layer) -> Scalar:
    r"""$\int F \cdot dg$ along one side."""
    lift = block.potential.neurons.lagrangian.hessian_vector_product
    return _mean(lambda s: jnp.sum(block.force(x + s * side) * lift(x + s * side, side)))


def _curl(block: Block, x: Layer, a: Layer, b: Layer) -> Scalar:
    lift = lambda v: block.potential.neurons.lagrangian.hessian_vector_product(x, v)
    push = lambda v: jax.jvp(block.force, (x,), (v,))[1]
    return jnp.sum(lift(b) * push(a) - lift(a) * push(b))


def _mean(f: Callable[[Scalar], Scalar], nodes: int = 16) -> Scalar:
    """The mean of a function over [0, 1] by the Gauss-Legendre rule."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return jnp.sum(jnp.asarray(weights / 2) * jax.vmap(f)(jnp.asarray((points + 1) / 2)))


class Example(NamedTuple):
    """A mixer with conservative and one with free weights, a state, and the sides of a
    parallelogram.
    """

    conservative: Block
    broken: Block
    x: Layer
    a: Layer
    b: Layer


def draw_example(key: PRNGKey) -> Example:
    """The state has spread 1: nothing on the parallelogram comes near a constant state, where
    quadrature fails.
    """
    weights, (x, a, b) = draw_weights(key, 3)
    conservative = small_mixer(weights, gained, bias=True)
    broken = small_mixer(weights, free, bias=True)
    return Example(conservative, broken, x / jnp.std(x), 0.2 * a, 0.2 * b)


def worst_gap(e: Example) -> Scalar:
    """The worst of the three: index and energy of gained weights, circulation of free ones."""
    circulation = circulation_gap(e.broken, e.x, e.a, e.b)
    return jnp.max(
        jnp.stack([asymmetry(e.conservative, e.x), gain_gap(e.conservative, e.x), circulation])
    )


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random mixers with biases, gains of either sign, and states."""
    gaps = map_examples(draw_example, worst_gap, key, examples)
    return Measurement(float(jnp.max(gaps)), 1e-10, examples)


CLAIM = Claim(
    id="C07",
    statement="a force has an energy on a simply connected set of states iff H J is symmetric "
    "there; elementwise "
    "hidden units with V = W^T D have one for every diagonal D",
    source="Poincaré lemma; its use with the metric H and the criterion for hidden units: hopmix",
    status="proved",
    page="C07-conservative.md",
    test="test_c07_conservative.py",
    what="asymmetry and force of V = W^T D, and circulation against the integral of HJ - (HJ)^T; "
    "relative",
    measure=measure,
)
