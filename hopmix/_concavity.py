"""Concavity: how far the potential of a block is from convex, and how strongly joined hidden layers pull each other."""

import math
import sys
from typing import Any

import numpy as np

from hopmix._attention import Attention
from hopmix._catalogue import COUPLED, is_known
from hopmix._convolution import Convolution, Pooling
from hopmix._derive import Potential
from hopmix._hopfield import HopfieldMemory
from hopmix._lagrangian import AbstractLagrangian, Exponential, Quadratic, Sigmoid, Tanh
from hopmix._lagrangian_groups import Entmax, GhostMax, Softmax, SphericalNorm
from hopmix._memory import Neurons
from hopmix._synapse import AbstractSynapse, Bias, ChannelMixing, Dense, TokenMixing


def concavity_bound(potential: Potential) -> float:
    r"""A $K \ge 0$ for which $U(g) + \tfrac{K}{2} |g|^2$ is convex; infinite where none is known.

    $$K = \gamma^2 \Big[\sum_h \max(0, -\mu_h)\,\gamma_h^2\,|W_h|_2^2 + \sum_s K_s\Big]$$

    with $\mu_h$ the lowest curvature of the hidden Lagrangians ($-0.1289$ for `GELU`), $|W_h|_2$ the spectral norms of
    the synapses, $\gamma$ the largest scales of the affines, and $K_s$ that of the synapses of the visible layer with
    itself. It is 0 for convex hidden units, also where they are joined with each other and have one state of rest.
    $K_s$ is 0 for `Bias` and for a `HopfieldMemory` of dot products with convex separation; with distances it is the
    largest sum of activations (1 for softmax and its kin); for `Attention` see there; for a coupling of the layer with
    itself it is minus the lowest eigenvalue of $W + V$.

    **Arguments:**

    - `potential`: of concrete, tied weights.

    **Source:** `theory/C06-gelu.md`; `theory/C13-transformer.md` for attention.
    """
    memory = potential.memory
    if not potential.is_explicit and not _joined_is_convex(potential):
        return math.inf
    visible = potential.visible
    own = [memory.synapses[name] for name, ends in memory.connections if set(ends) == {visible}]
    branches = [_branch_concavity(potential, h) for h in potential.hidden]
    loops = [_own_concavity(synapse, potential.neurons) for synapse in own]
    gain = largest_gain(potential.neurons)
    if gain == 0:  # nothing is read; and 0 * inf is no number
        return 0.0
    return sum(branches) + gain**2 * sum(loops)


def _joined_is_convex(potential: Potential) -> bool:
    """Whether U is a maximum over hidden activations of what is linear in g (`theory/C05-steps.md`)."""
    memory = potential.memory
    hidden = set(potential.hidden)
    layers = [memory.neurons[h].lagrangian for h in hidden]
    touching = [memory.synapses[name] for name, ends in memory.connections if set(ends) & hidden]
    return (
        all(is_known(lagrangian) and lagrangian.is_convex for lagrangian in layers)
        and all(type(synapse) in (*COUPLED, Bias, Pooling) for synapse in touching)
        and mutual_pull(potential) < 1
    )


def mutual_pull(potential: Potential) -> float:
    r"""The factor by which joined hidden layers move each other at most, in the norm that suits them best.

    $$\rho(M), \qquad M_{hk} = \gamma_h\,|W_{hk}|_2\,\gamma_k\,\max(|\mu_k|, |\ell_k|)$$

    the Perron root of the matrix of what a move of layer $k$ does to the state of layer $h$. Below 1 the hidden layers
    have one state of rest, and sweeps over them contract.

    **Source:** `theory/C05-steps.md`.
    """
    memory = potential.memory
    place = {h: i for i, h in enumerate(potential.hidden)}
    pulls = np.zeros((len(place), len(place)))
    for name, ends in memory.connections:
        synapse = memory.synapses[name]
        inner = [end for end in ends if end in place]
        if (len(inner) < 2 and (synapse.is_explicit or not inner)) or type(synapse) is Bias:
            continue
        if len(ends) != 2 or len(inner) != 2:
            return math.inf
        for into, out in (ends, ends[::-1]):
            pulls[place[into], place[out]] += _pull(memory.neurons[into], synapse, memory.neurons[out])
    if not np.all(np.isfinite(pulls)):
        return math.inf
    return float(np.max(np.abs(np.linalg.eigvals(pulls)), initial=0.0))


def _pull(into: Neurons, synapse: AbstractSynapse, out: Neurons) -> float:
    steepness = max(map(abs, out.lagrangian.curvature))
    return largest_gain(into) * spectral_norm(synapse) * largest_gain(out) * steepness


def _branch_concavity(potential: Potential, hidden: str) -> float:
    memory = potential.memory
    neurons = memory.neurons[hidden]
    if not is_known(neurons.lagrangian):
        return math.inf
    lowest = neurons.lagrangian.curvature[0]
    if lowest >= 0:
        return 0.0
    norm = sum(spectral_norm(memory.synapses[name]) for name, ends in memory.connections if hidden in ends)
    reach = _product(largest_gain(neurons), norm, largest_gain(potential.neurons))
    return _product(-lowest, reach, reach)


def _own_concavity(synapse: AbstractSynapse, visible: Neurons) -> float:
    """The K of a synapse of the visible layer with itself, in terms of what it reads."""
    if type(synapse) is Bias:
        return 0.0
    if type(synapse) is Attention:
        return _attention_concavity(synapse, visible.shape[0])
    if type(synapse) is HopfieldMemory and is_known(synapse.separation):
        return _stored_concavity(synapse)
    if type(synapse) in (Dense, TokenMixing, ChannelMixing):
        coupling: Any = synapse.coupling  # pyright: ignore[reportAttributeAccessIssue]
        both = np.asarray(coupling.up, float) + np.asarray(coupling.down, float)
        return max(0.0, -float(np.linalg.eigvalsh(0.5 * (both + both.T))[0]))
    return 2 * spectral_norm(synapse)


def _attention_concavity(attention: Attention, tokens: int) -> float:
    """`Attention.concavity` in float64, whatever the precision of the weights: a small K is not none."""
    queries = np.asarray(attention.queries, float)
    keys = np.asarray(attention.keys, float)
    norms = [matrix_norm(k.T @ q) for k, q in zip(_unit(keys), _unit(queries))]
    return _product(attention.mask_factor(tokens), sum(norms), _size(keys), _size(queries))


def _stored_concavity(memory: HopfieldMemory) -> float:
    """Convex functions of dot products are convex; distances have the curvature -1 for each unit of activation."""
    if not memory.separation.is_convex:
        return math.inf
    return 0.0 if memory.similarity == "dot" else _most_activation(memory.separation, len(memory.patterns))


def _most_activation(separation: AbstractLagrangian, patterns: int) -> float:
    """The largest sum of activations where no similarity is positive; infinite where it is not known."""
    kind = type(separation)
    if kind in (Softmax, Entmax, GhostMax):
        groups: Any = separation
        return 1.0 if groups.axes is None or groups.axes else float(patterns)
    if kind is Exponential:
        return float(patterns)
    if kind is Sigmoid:
        return 0.5 * patterns
    return 0.0 if kind in (Quadratic, Tanh, SphericalNorm) else math.inf


def spectral_norm(synapse: AbstractSynapse) -> float:
    """The spectral norm of the linear map of a bilinear synapse, or a bound on it."""
    if type(synapse) is Bias:
        return 0.0
    if type(synapse) is Pooling:
        return 1.0  # its rows and its columns add up to at most one
    if type(synapse) not in COUPLED:
        return math.inf
    up = np.asarray(synapse.coupling.up, float)  # pyright: ignore[reportAttributeAccessIssue]
    if type(synapse) is Convolution:
        taps = up.reshape(up.shape[0], synapse.window[0] * synapse.window[1], -1)
        return sum(matrix_norm(taps[:, i]) for i in range(taps.shape[1]))
    return matrix_norm(up)


def matrix_norm(matrix: np.ndarray) -> float:
    """The largest singular value, from the smaller Gram matrix: several times faster than the SVD."""
    size = _size(matrix)
    if not 0 < size < math.inf:
        return size
    unit = matrix / size
    gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
    return size * math.sqrt(float(np.linalg.eigvalsh(gram)[-1]))


def _size(matrix: np.ndarray) -> float:
    return float(np.max(np.abs(matrix), initial=0.0))


def _unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / (_size(matrix) or 1.0)


def _product(*factors: float) -> float:
    """A product that is zero only where a factor is: a K that underflows would allow steps of any size."""
    product = math.prod(factors)
    return max(product, sys.float_info.min) if all(factors) else product


def largest_gain(neurons: Neurons) -> float:
    """The largest scale of the affine behind a layer, 1 without one."""
    return 1.0 if neurons.affine is None else float(np.max(np.abs(np.asarray(neurons.affine.scale, float))))
