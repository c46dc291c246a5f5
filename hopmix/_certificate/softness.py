r"""Softness: how strongly the divergence of a visible Lagrangian holds back a step, at a state.

$D_L(y, x) \ge \tfrac12 \sum_{\text{groups}} r(y)\,|g(y) - g(x)|^2$ with a softness $r > 0$ in each
group of units: $1/\ell$ for curvatures up to $\ell$, and for norms the far larger $s(y)/\gamma$
(claim C06). A step $\eta$ from $x$ descends where $\eta \le r(x)/(K + \text{leak}\,r(x))$ in every
group.
"""

import dataclasses
import math

import numpy as np

from hopmix._assumptions import is_known
from hopmix._block import Block
from hopmix._lagrangian import AbstractLagrangian
from hopmix._neurons import Neurons
from hopmix._potential import Potential
from hopmix._synapse import AbstractSynapse
from hopmix._types import Layer


def safe_step(block: Block, x: Layer, concavity: float) -> float:
    r"""The largest step from a state for which descent follows from the softness there, 0 where
    none is known.

    Of a block that repeats its step it is the least over the states that its own steps pass.

    **Arguments:**

    - `block`: of tied weights, whose visible Lagrangian is convex.
    - `x`: the state of one example.
    - `concavity`: $K > 0$.

    **Source:** `theory/C06-gelu.md`.
    """
    once = dataclasses.replace(block, n_iter=1, drop_path=0.0)
    states = [x]
    while len(states) < block.n_iter:
        states.append(once(states[-1]))
    return min(_safe_step(block, state, concavity) for state in states)


def _safe_step(block: Block, x: Layer, concavity: float) -> float:
    soft = softness(block.potential.neurons.lagrangian, x)
    if not soft:
        return 0.0
    if math.isinf(soft):
        if block.leak:
            return 1 / block.leak
        return math.inf
    if not block.leak and _never_shrinks(block.potential):
        soft = 2 * soft  # the state after the step is as soft (C06.5)
    return soft / (concavity + block.leak * soft)


def softness(lagrangian: AbstractLagrangian, x: Layer) -> float:
    """The least softness of the groups of a norm at a state; 0 for other Lagrangians."""
    if is_known(lagrangian):
        return lagrangian.softness(np.asarray(x, float))
    return 0.0


def _never_shrinks(potential: Potential) -> bool:
    r"""Whether the visible norm is one group, and $F(g) \cdot g \ge 0$: then no residual step makes
    it smaller.
    """
    memory = potential.memory
    visible = potential.neurons
    layers = [memory.neurons[h] for h in potential.hidden]
    return (
        visible.lagrangian.stays_soft(visible.shape)
        and potential.is_explicit
        and all(_is_linear(synapse) for synapse in memory.synapses.values())
        and all(set(ends) != {potential.visible} for _, ends in memory.connections)
        and all(is_known(layer.lagrangian) and layer.lagrangian.pushes_outward for layer in layers)
        and all(_is_centred(layer) for layer in (visible, *layers))
    )


def _is_linear(synapse: AbstractSynapse) -> bool:
    """Whether it is known that a synapse adds no constant to what is linear."""
    return is_known(synapse) and synapse.is_linear and not synapse.is_constant


def _is_centred(neurons: Neurons) -> bool:
    """Whether nothing is added to a layer: no input, and no shift of its affine."""
    affine = neurons.affine
    return neurons.input is None and (affine is None or not np.any(np.asarray(affine.shift)))
