r"""C10: pseudo-energies of blocks with untied weights: sign, radial potential, split of the rate,
descent margin.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hopmix._block import Block
from hopmix._coupling import Coupling
from hopmix._dynamics import velocity
from hopmix._lagrangian import Quadratic, ReLU
from hopmix._pseudo_energy import (
    descent_margin,
    power,
    radial_energy,
    radial_potential,
    residual_force,
    with_tied_weights,
)
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._small_mixer import draw_weights, free, gained, map_examples, small_mixer


def sign_gap(block: Block, x: Layer) -> Scalar:
    r"""Linear units: the potential of the block's energy against $\tfrac12(M + M^\top)\,g$, where
    $F(g) = M g$.
    """
    g = block.activation(x)
    m = jax.jacfwd(block.potential.force)(g).reshape(g.size, g.size)
    symmetric = 0.5 * (m + m.T) @ g.reshape(-1)
    return _relative(jax.grad(block.potential)(g).reshape(-1), symmetric)


def radial_gap(block: Block, x: Layer) -> Scalar:
    r"""Conservative weights: $\nabla U_\mathrm{rad}$ against the force."""
    residual = residual_force(block, x, partial(radial_potential, block.potential))
    return jnp.max(jnp.abs(residual)) / jnp.max(jnp.abs(block.potential.force(block.activation(x))))


def homogeneous_gap(block: Block, x: Layer) -> Scalar:
    """ReLU units without biases: radial and block's own energy, in units of the terms of both."""
    size = jnp.sum(jnp.abs(x * block.activation(x)))
    return jnp.abs(radial_energy(block, x) - block.energy(x)) / size


def orthogonality_gap(block: Block, x: Layer) -> Scalar:
    """Any weights: the residual of the radial potential along the activation."""
    residual = residual_force(block, x, partial(radial_potential, block.potential))
    g = block.activation(x)
    return jnp.abs(jnp.sum(residual * g)) / jnp.sum(jnp.abs(residual * g))


def split_gap(block: Block, x: Layer) -> Scalar:
    r"""Any weights: $\dot E$ by automatic differentiation of both energies, against work minus
    dissipation.
    """
    moving = velocity(block, x)
    radial = partial(radial_potential, block.potential)
    pairs = ((block.energy, None), (partial(radial_energy, block), radial))
    return jnp.max(
        jnp.stack(
            [
                _split_gap(power(block, x, u), jax.jvp(energy, (x,), (moving,))[1])
                for energy, u in pairs
            ]
        )
    )


def margin_gap(block: Block, x: Layer) -> Scalar:
    r"""Any weights: the rate of the tied energy at $t^*$ times the breaking, in units of $1 + t^*$
    times that at none, the size of what cancels; 0 where $t^* = \infty$."""
    tied = with_tied_weights(block)
    margin = descent_margin(block, x)
    finite = jnp.isfinite(margin)
    rate = lambda t: jax.jvp(tied.energy, (x,), (velocity(scale_breaking(block, t), x),))[1]
    gap = jnp.abs(rate(jnp.where(finite, margin, 0)) / rate(jnp.zeros_like(margin)))
    return jnp.where(finite, gap / (1 + margin), 0)


def scale_breaking(block: Block, t: Scalar) -> Block:
    r"""The block with $t$ times its breaking $V - W^\top$."""
    scale = lambda c: (
        Coupling(c.up, breaking=t * (c.down - c.up.T)) if isinstance(c, Coupling) else c
    )
    return jax.tree.map(scale, block, is_leaf=lambda node: isinstance(node, Coupling))


def _split_gap(found, rate: Scalar) -> Scalar:
    size = found.dissipation + jnp.abs(found.work)
    gaps = jnp.stack([found.rate - rate, found.work - found.dissipation - rate])
    return jnp.max(jnp.abs(gaps)) / size


def _relative(found: Layer, expected: Layer) -> Scalar:
    return jnp.max(jnp.abs(found - expected)) / jnp.max(jnp.abs(expected))


class Example(NamedTuple):
    """Mixers of one set of weights: linear units, ReLU, and GELU with biases, all untied; and gains
    with biases.
    """

    linear: Block
    relu: Block
    gelu: Block
    conservative: Block
    x: Layer


def draw_example(key: PRNGKey) -> Example:
    weights, (x,) = draw_weights(key, 1)
    return Example(
        small_mixer(weights, free, hidden=Quadratic()),
        small_mixer(weights, free, hidden=ReLU()),
        small_mixer(weights, free, bias=True),
        small_mixer(weights, gained, bias=True),
        x,
    )


def gaps(e: Example) -> dict[str, Scalar]:
    """Each part of the claim on one example; 0 in exact arithmetic."""
    return {
        "sign": sign_gap(e.linear, e.x),
        "homogeneous": homogeneous_gap(e.relu, e.x),
        "radial": radial_gap(e.conservative, e.x),
        "orthogonality": orthogonality_gap(e.gelu, e.x),
        "split": split_gap(e.gelu, e.x),
        "margin": margin_gap(e.gelu, e.x),
    }


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst of all parts over random mixers and states."""
    worst = map_examples(
        draw_example, lambda e: jnp.max(jnp.stack([*gaps(e).values()])), key, examples
    )
    return Measurement(float(jnp.max(worst)), 1e-9, examples)


CLAIM = Claim(
    id="C10",
    statement="untied weights: the correction of the energy has the sign -1/2; E_rad is exact "
    "where F is a "
    "gradient on segments from g = 0; dE/dt = work - dissipation; the tied energy falls up to t* "
    "times the breaking",
    source="arXiv 2406.12220, section 6 (with the sign of its notebook set right); the rest hopmix",
    status="proved",
    page="C10-pseudo-energy.md",
    test="test_c10_pseudo_energy.py",
    what="largest relative gap of its six identities (the radial ones up to quadrature)",
    measure=measure,
)
