r"""Softness: how strongly the divergence of a visible Lagrangian holds back a step, at a state.

$D_L(y, x) \ge \tfrac12 \sum_{\text{groups}} r(y)\,|g(y) - g(x)|^2$ with a softness $r > 0$ in each group of units:
$1/\ell$ for curvatures up to $\ell$, and for norms the far larger $s(y)/\gamma$ (claim C06). A step $\eta$ from $x$
descends where $\eta \le r(x)/(K + \text{leak}\,r(x))$ in every group.
"""

import dataclasses
import math

import numpy as np

from hopmix._catalogue import COUPLED
from hopmix._convolution import Pooling
from hopmix._derive import Block, Potential
from hopmix._lagrangian import GELU, AbstractLagrangian, Quadratic, ReLU, RePU, Tanh
from hopmix._lagrangian_groups import LayerNorm, SphericalNorm
from hopmix._memory import Neurons
from hopmix._types import Layer

AT_REST_AT_ZERO = {Quadratic, ReLU, RePU, Tanh, SphericalNorm}
"""Lagrangians whose activation is 0 at 0."""


def safe_step(block: Block, x: Layer, concavity: float) -> float:
    r"""The largest step from a state for which descent follows from the softness there, 0 where none is known.

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
        return 1 / block.leak if block.leak else math.inf
    if not block.leak and _never_shrinks(block.potential):
        soft = 2 * soft  # the state after the step is as soft (C06.5)
    return soft / (concavity + block.leak * soft)


def softness(lagrangian: AbstractLagrangian, x: Layer) -> float:
    """The least softness of the groups of a norm at a state; 0 for other Lagrangians."""
    state = np.asarray(x, float)
    if type(lagrangian) is SphericalNorm:
        square = np.sum(state**2, axis=lagrangian.axes)
        return float(np.sqrt(np.min(square) + lagrangian.eps))
    if type(lagrangian) is not LayerNorm:
        return 0.0
    quietest = float(np.sqrt(np.min(np.var(state, axis=lagrangian.axes)) + lagrangian.eps))
    scale = float(lagrangian.scale)
    return quietest / scale if scale > 0 else math.inf


def _never_shrinks(potential: Potential) -> bool:
    r"""Whether the visible norm is one group, and $F(g) \cdot g \ge 0$: then no residual step makes it smaller."""
    memory = potential.memory
    layers = [memory.neurons[h] for h in potential.hidden]
    return (
        _is_one_group(potential.neurons)
        and potential.is_explicit
        and all(type(synapse) in (*COUPLED, Pooling) for synapse in memory.synapses.values())
        and all(set(ends) != {potential.visible} for _, ends in memory.connections)
        and all(_pushes_outward(layer.lagrangian) for layer in layers)
        and all(_is_centred(layer) for layer in (potential.neurons, *layers))
    )


def _pushes_outward(lagrangian: AbstractLagrangian) -> bool:
    r"""Whether $x \cdot L'(x) \ge 0$ everywhere: convex with the least value at 0, or GELU."""
    return type(lagrangian) is GELU or (type(lagrangian) in AT_REST_AT_ZERO and lagrangian.is_convex)


def _is_one_group(neurons: Neurons) -> bool:
    axes = neurons.lagrangian.axes  # pyright: ignore[reportAttributeAccessIssue]
    return axes is None or len(set(axis % len(neurons.shape) for axis in axes)) == len(neurons.shape)


def _is_centred(neurons: Neurons) -> bool:
    """Whether nothing is added to a layer: no input, and no shift of its norm or of its affine."""
    shifts = [getattr(neurons.lagrangian, "shift", None)]
    if neurons.affine is not None:
        shifts.append(neurons.affine.shift)
    return neurons.input is None and all(shift is None or not np.any(np.asarray(shift)) for shift in shifts)
