r"""Assumptions of the descent theorems: which hold for the parts of a memory, and how concave a potential can be.

A verdict is `holds` only where it follows from the type and the parameters of an object; what can only be tried on
numbers is `fails` when the trial fails and `unknown` when it does not.
"""

import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hopmix._attention import Attention
from hopmix._convolution import Convolution, Pooling
from hopmix._coupling import Coupling
from hopmix._derive import Potential
from hopmix._hopfield import HopfieldMemory
from hopmix._lagrangian import GELU, AbstractLagrangian, Exponential, Quadratic, ReLU, RePU, Sigmoid, Sum, Tanh
from hopmix._lagrangian_groups import Entmax, GhostMax, LayerNorm, LogSumReLU, Softmax, SphericalNorm
from hopmix._memory import AssociativeMemory, Neurons
from hopmix._synapse import AbstractSynapse, Bias, ChannelMixing, Dense, TokenMixing

Verdict = Literal["holds", "fails", "unknown"]

# Exact types: a subclass may do anything.
CATALOGUE = {
    *(Quadratic, ReLU, RePU, GELU, Exponential, Tanh, Sigmoid),
    *(Softmax, GhostMax, Entmax, LogSumReLU, LayerNorm, SphericalNorm),
}
COUPLED = (Dense, TokenMixing, ChannelMixing, Convolution)


class Assumption(NamedTuple):
    """One assumption of a claim: what it says, whether it `holds`, `fails` or is `unknown`, and why."""

    statement: str
    verdict: Verdict
    reason: str


# ---- Synapses ---------------------------------------------------------------------------------------------------


def conservative_synapse(memory: AssociativeMemory, name: str) -> list[Assumption]:
    """Whether the currents of a synapse are minus the gradient of its energy."""
    synapse = memory.synapses[name]
    if type(synapse) is Bias or type(synapse) is Pooling:
        return []
    if type(synapse) in COUPLED:
        return [_symmetric(name, synapse.coupling)]  # pyright: ignore[reportAttributeAccessIssue]
    statement = f"synapse {name!r} is conservative"
    if type(synapse).current is AbstractSynapse.current:
        return [Assumption(statement, "holds", "its current is minus the derivative of its energy")]
    gap = _current_gap(memory, name)
    if not gap <= 1e-3:
        reason = f"at random activations its current is {gap:.3g} away from minus the derivative of its energy"
        return [Assumption(statement, "fails", reason)]
    return [Assumption(statement, "unknown", f"nothing is known here about the current of a {type(synapse).__name__}")]


def _symmetric(name: str, coupling: Coupling) -> Assumption:
    w, v, precision = np.asarray(coupling.up), np.asarray(coupling.down), jnp.finfo(coupling.up.dtype)
    gap = float(np.linalg.norm(v - w.T) / max(np.linalg.norm(w), float(precision.tiny)))
    holds = gap <= min(8 * float(precision.eps), 1e-6)  # half precision would let a visible breaking pass
    reason = f"|V - W^T|/|W| = {gap:.3g}"
    if not holds and _is_gained(w.astype(float), v.astype(float), float(precision.eps)):
        reason += "; V = W^T D with a diagonal D is conservative, but with another energy (C07)"
    return Assumption(f"synapse {name!r} is symmetric, V = W^T", "holds" if holds else "fails", reason)


def _is_gained(w: np.ndarray, v: np.ndarray, eps: float) -> bool:
    """Whether each column of V is a multiple of its row of W."""
    inner, sizes = np.sum(w * v.T, axis=1), np.linalg.norm(w, axis=1) * np.linalg.norm(v, axis=0)
    return bool(np.all(np.abs(sizes - np.abs(inner)) <= 64 * eps * sizes))


def _current_gap(memory: AssociativeMemory, name: str) -> float:
    """The largest relative distance of a synapse's currents from minus the derivative of its energy, at four draws."""
    synapse, ends = memory.synapses[name], dict(memory.connections)[name]
    gaps = []
    for key in jr.split(jr.key(0), 4):
        keys = jr.split(key, len(ends))
        g = [jr.normal(k, memory.neurons[end].shape, precision_of(memory)) for k, end in zip(keys, ends)]
        for i in range(len(ends)):
            expected = AbstractSynapse.current(synapse, i, tuple(g))
            given = jnp.broadcast_to(synapse.current(i, tuple(g)), expected.shape)
            size = jnp.maximum(jnp.linalg.norm(expected), jnp.linalg.norm(given))
            gaps.append(float(jnp.linalg.norm(given - expected) / jnp.where(size > 0, size, 1)))
    return float(np.max(gaps))


# ---- Layers -----------------------------------------------------------------------------------------------------


def conservative_affine(name: str, neurons: Neurons) -> list[Assumption]:
    """Whether the elementwise scale of a layer, if it has one, keeps a gradient a gradient."""
    affine = neurons.affine
    if affine is None:
        return []
    statement = f"the scale of layer {name!r} keeps the field conservative"
    scale = np.asarray(affine.scale)
    if affine.conservative:
        return [Assumption(statement, "holds", "it stands on the way in and on the way out")]
    if np.all(scale == 1):
        return [Assumption(statement, "holds", "it is 1 everywhere (as at initialisation; training may change that)")]
    reason = f"elementwise on the way in only, from {scale.min():.3g} to {scale.max():.3g}"
    return [Assumption(statement, "fails", reason)]


def continuous(memory: AssociativeMemory) -> list[Assumption]:
    """Whether all activations and currents are continuous; nothing to say unless one of them is known to jump."""
    jumps = "log-sum-ReLU jumps where a unit joins or leaves: the rate of the energy holds between the jumps alone"
    layers = [
        Assumption(f"the activation of layer {name!r} is continuous", "fails", jumps)
        for name, neurons in memory.neurons.items()
        if _has_jumps(neurons.lagrangian)
    ]
    synapses = [
        Assumption(f"the current of synapse {name!r} is continuous", "fails", jumps)
        for name, synapse in memory.synapses.items()
        if isinstance(synapse, HopfieldMemory) and _has_jumps(synapse.separation)
    ]
    return layers + synapses


def _has_jumps(lagrangian: AbstractLagrangian) -> bool:
    return any(isinstance(part, LogSumReLU) for part in lagrangian.parts)


def gradient_activation(name: str, neurons: Neurons) -> list[Assumption]:
    """Whether the activation is the gradient of the Lagrangian; nothing to say of those that hopmix brings."""
    lagrangian = neurons.lagrangian
    if _is_known(lagrangian):
        return []
    statement = f"the activation of layer {name!r} is the gradient of its Lagrangian"
    x = jr.normal(jr.key(0), (4, *neurons.shape), precision_of(neurons))
    given, expected = jax.vmap(lagrangian.activation)(x), jax.vmap(jax.grad(lagrangian))(x)
    gap = float(jnp.linalg.norm(given - expected) / jnp.maximum(jnp.linalg.norm(expected), jnp.finfo(x.dtype).tiny))
    if not gap <= 1e-3:
        return [Assumption(statement, "fails", f"at random states it is {gap:.3g} away from it")]
    return [Assumption(statement, "unknown", f"{type(lagrangian).__name__} is not of hopmix; at four states it is")]


def convex(name: str, neurons: Neurons) -> Assumption:
    """Whether the Lagrangian of a layer is convex."""
    lagrangian, kind = neurons.lagrangian, type(neurons.lagrangian).__name__
    statement = f"the Lagrangian of layer {name!r} is convex"
    if not _is_known(lagrangian):
        lowest = _lowest_curvature(neurons)
        if lowest < -1e-3:
            return Assumption(statement, "fails", f"{kind} has curvature {lowest:.3g} at a random state")
        return Assumption(statement, "unknown", f"{kind} is not of hopmix; at four states it is")
    if lagrangian.is_convex:
        return Assumption(statement, "holds", kind)
    return Assumption(statement, "unknown" if isinstance(lagrangian, Sum) else "fails", kind)


def free_groups(name: str, neurons: Neurons) -> list[Assumption]:
    """Whether clamped entries fill whole groups of a norm or of a competition."""
    if neurons.clamped is None:
        return []
    mask = np.broadcast_to(np.asarray(neurons.clamped), neurons.shape)
    axes = [part.axes for part in neurons.lagrangian.parts if hasattr(part, "axes")]  # pyright: ignore
    whole = all(np.array_equal(mask.any(axis=a), mask.all(axis=a)) for a in axes)
    statement = f"the clamped entries of layer {name!r} are whole groups of its Lagrangian"
    reason = f"{int(mask.sum())} of {mask.size} entries are clamped"
    return [Assumption(statement, "holds" if whole else "fails", reason)]


def _is_known(lagrangian: AbstractLagrangian) -> bool:
    return all(type(part) in CATALOGUE for part in lagrangian.parts)


def _lowest_curvature(neurons: Neurons) -> float:
    x, v = jr.normal(jr.key(1), (2, 4, *neurons.shape), precision_of(neurons))
    products = jax.vmap(neurons.lagrangian.hessian_vector_product)(x, v)
    return float(np.min([jnp.sum(a * b) / jnp.sum(a * a) for a, b in zip(v, products)]))


# ---- Hidden layers that are joined, and the concavity of a potential ----------------------------------------------


def one_rest(potential: Potential) -> list[Assumption]:
    r"""Whether joined hidden layers have one state of rest: each is moved by the others by a factor below one."""
    if potential.is_explicit:
        return []
    statement = "the joined hidden layers have one state of rest"
    factors = {h: _pull(potential, h) for h in potential.hidden}
    worst = max(factors.values())
    reason = f"the others move {max(factors, key=factors.__getitem__)!r} by a factor of at most {worst:.3g}"
    return [Assumption(statement, "holds" if worst < 1 else "unknown", reason)]


def _pull(potential: Potential, hidden: str) -> float:
    """How much the state of a hidden layer can move when those joined with it move by one, at most."""
    memory, total = potential.memory, 0.0
    for name, ends in memory.connections:
        others = [end for end in ends if end in potential.hidden and end != hidden]
        if hidden in ends and (others or ends.count(hidden) > 1 or not memory.synapses[name].is_explicit):
            if len(ends) != 2 or not others:
                return math.inf
            total += _norm(memory.synapses[name]) * _slope(memory.neurons[others[0]]) * _gain(memory.neurons[hidden])
    return total


def _slope(neurons: Neurons) -> float:
    return max(map(abs, neurons.lagrangian.curvature)) * _gain(neurons)


def concavity_bound(potential: Potential) -> float:
    r"""A $K \ge 0$ for which $U(g) + \tfrac{K}{2} |g|^2$ is convex; infinite where none is known.

    $$K = \gamma^2 \sum_h \max(0, -\mu_h)\,\gamma_h^2\,|W_h|_2^2$$

    with $\mu_h$ the lowest curvature of the hidden Lagrangians ($-0.1289$ for `GELU`), $|W_h|_2$ the spectral norms of
    the synapses and $\gamma$ the largest scales of the affines. It is 0 for convex hidden units, also where they are
    joined with each other and have one state of rest. Synapses of the visible layer with itself count as far as they
    are known: `Bias`, `HopfieldMemory` with convex separation, and `Attention`.

    **Arguments:**

    - `potential`: of concrete, tied weights.

    **Source:** `theory/C06-gelu.md`; `theory/C13-transformer.md` for attention.
    """
    memory = potential.memory
    if not potential.is_explicit and not _joined_is_convex(potential):
        return math.inf
    own = [memory.synapses[name] for name, ends in memory.connections if set(ends) == {potential.visible}]
    branches = [_branch_concavity(potential, h) for h in potential.hidden]
    return sum(branches) + sum(_own_concavity(synapse, potential.neurons) for synapse in own)


def _joined_is_convex(potential: Potential) -> bool:
    """Whether U is a maximum over hidden activations of what is linear in g (`theory/C05-steps.md`)."""
    memory = potential.memory
    layers = [memory.neurons[h].lagrangian for h in potential.hidden]
    touching = [memory.synapses[name] for name, ends in memory.connections if set(ends) & set(potential.hidden)]
    return (
        all(_is_known(lagrangian) and lagrangian.is_convex for lagrangian in layers)
        and all(type(synapse) in (*COUPLED, Bias, Pooling) for synapse in touching)
        and all(assumption.verdict == "holds" for assumption in one_rest(potential))
    )


def _branch_concavity(potential: Potential, hidden: str) -> float:
    memory, neurons = potential.memory, potential.memory.neurons[hidden]
    if not _is_known(neurons.lagrangian):
        return math.inf
    lowest = neurons.lagrangian.curvature[0]
    if lowest >= 0:
        return 0.0
    norm = sum(_norm(memory.synapses[name]) for name, ends in memory.connections if hidden in ends)
    return -lowest * (_gain(neurons) * norm * _gain(potential.neurons)) ** 2


def _own_concavity(synapse: AbstractSynapse, visible: Neurons) -> float:
    if type(synapse) is Bias:
        return 0.0
    if type(synapse) is Attention:
        return float(synapse.concavity(visible.shape[0])) * _gain(visible) ** 2
    if type(synapse) is HopfieldMemory and synapse.similarity == "dot" and _is_known(synapse.separation):
        return 0.0 if synapse.separation.is_convex else math.inf
    return math.inf


def _norm(synapse: AbstractSynapse) -> float:
    """The spectral norm of the linear map of a bilinear synapse, or a bound on it."""
    if type(synapse) is Bias:
        return 0.0
    if type(synapse) is Pooling:
        return 1.0  # its rows and its columns add up to at most one
    if type(synapse) is Convolution:
        up = np.asarray(synapse.coupling.up, float)
        taps = up.reshape(up.shape[0], synapse.window[0] * synapse.window[1], -1)
        return float(sum(np.linalg.norm(taps[:, i], 2) for i in range(taps.shape[1])))
    if type(synapse) in COUPLED:
        return float(np.linalg.norm(np.asarray(synapse.coupling.up, float), 2))  # pyright: ignore
    return math.inf


def _gain(neurons: Neurons) -> float:
    return 1.0 if neurons.affine is None else float(np.max(np.abs(np.asarray(neurons.affine.scale))))


def precision_of(system):
    """The floating-point type of a system's parameters, JAX's default if it has none."""
    return jnp.result_type(float, *(leaf for leaf in jax.tree.leaves(system) if eqx.is_inexact_array(leaf)))
