"""Concavity: how far the potential of a block is from convex, and how strongly joined hidden layers
pull each other.
"""

import math

import numpy as np

from hopmix._assumptions import is_known
from hopmix._neurons import Neurons
from hopmix._numerics.norms import product
from hopmix._potential import Potential
from hopmix._synapse import AbstractSynapse, is_known_constant


def concavity_bound(potential: Potential) -> float:
    r"""A $K \ge 0$ for which $U(g) + \tfrac{K}{2} |g|^2$ is convex; infinite where none is known.

    $$K = \gamma^2 \Big[\sum_h \max(0, -\mu_h)\,\gamma_h^2\,|W_h|_2^2 + \sum_s K_s\Big]$$

    with $\mu_h$ the lowest curvature of the hidden Lagrangians ($-0.1289$ for `GELU`), $|W_h|_2$
    the spectral norms of the synapses, $\gamma$ the largest scales of the affines, and $K_s$ that
    of the synapses of the visible layer with itself. It is 0 for convex hidden units, also where
    they are joined with each other and have one state of rest. $K_s$ is 0 for `Bias` and for a
    `HopfieldMemory` of dot products with convex separation; with distances it is the largest sum of
    activations (1 for softmax and its kin); for `Attention` see there; for a coupling of the layer
    with itself it is minus the lowest eigenvalue of $W + V$.

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
    loops = [_own_concavity(synapse, potential.neurons.shape) for synapse in own]
    gain = largest_gain(potential.neurons)
    if gain == 0:  # nothing is read; and 0 * inf is no number
        return 0.0
    return sum(branches) + gain**2 * sum(loops)


def _joined_is_convex(potential: Potential) -> bool:
    """Whether U is a maximum over hidden activations of what is linear in g
    (`theory/C05-steps.md`).
    """
    memory = potential.memory
    hidden = set(potential.hidden)
    layers = [memory.neurons[h].lagrangian for h in hidden]
    touching = [memory.synapses[name] for name, ends in memory.connections if set(ends) & hidden]
    return (
        all(is_known(lagrangian) and lagrangian.is_convex for lagrangian in layers)
        and all(is_known(synapse) and synapse.is_linear for synapse in touching)
        and mutual_pull(potential) < 1
    )


def mutual_pull(potential: Potential) -> float:
    r"""The factor by which joined hidden layers move each other at most, in the norm that suits
    them best.

    $$\rho(M), \qquad M_{hk} = \gamma_h\,|W_{hk}|_2\,\gamma_k\,\max(|\mu_k|, |\ell_k|)$$

    the Perron root of the matrix of what a move of layer $k$ does to the state of layer $h$. Below
    1 the hidden layers have one state of rest, and sweeps over them contract.

    **Source:** `theory/C05-steps.md`.
    """
    memory = potential.memory
    place = {h: i for i, h in enumerate(potential.hidden)}
    pulls = np.zeros((len(place), len(place)))
    for name, ends in memory.connections:
        synapse = memory.synapses[name]
        inner = [end for end in ends if end in place]
        if (len(inner) < 2 and (synapse.is_explicit or not inner)) or is_known_constant(synapse):
            continue
        if len(ends) != 2 or len(inner) != 2:
            return math.inf
        for into, out in (ends, ends[::-1]):
            pulls[place[into], place[out]] += _pull(
                memory.neurons[into], synapse, memory.neurons[out]
            )
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
    norm = sum(
        spectral_norm(memory.synapses[name]) for name, ends in memory.connections if hidden in ends
    )
    reach = product(largest_gain(neurons), norm, largest_gain(potential.neurons))
    return product(-lowest, reach, reach)


def _own_concavity(synapse: AbstractSynapse, shape: tuple[int, ...]) -> float:
    """The K of a synapse of a layer of this shape with itself, in terms of what it reads; infinite
    if not known.
    """
    if is_known(synapse):
        return synapse.own_concavity(shape)
    return math.inf


def spectral_norm(synapse: AbstractSynapse) -> float:
    """The spectral norm of the linear map of a bilinear synapse, or a bound on it; infinite where
    none is known.
    """
    if is_known(synapse):
        return synapse.spectral_norm
    return math.inf


def largest_gain(neurons: Neurons) -> float:
    """The largest scale of the affine behind a layer, 1 without one."""
    if neurons.affine is None:
        return 1.0
    return float(np.max(np.abs(np.asarray(neurons.affine.scale, float))))
