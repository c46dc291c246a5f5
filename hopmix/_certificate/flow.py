r"""Assumptions of descent along the flow: which hold for the parts of a memory.

Each part answers for itself, where it is known (`hopmix._assumptions`); what is not known is tried
on numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hopmix._assumptions import Assumption, Verdict, foreign_type, is_known
from hopmix._certificate.catalogue import foreign_parts, not_finite
from hopmix._certificate.concavity import mutual_pull
from hopmix._certificate.conservative_form import Joint, Ties
from hopmix._lagrangian import AbstractLagrangian
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.dtypes import precision_of, solver_dtype
from hopmix._numerics.tolerances import NUDGE, rounding_of
from hopmix._potential import Potential
from hopmix._synapse import AbstractSynapse
from hopmix._types import Layer

# ---- What the theorems are about -----------------------------------------------------------------


def sound(system: Any) -> list[Assumption]:
    """Whether a system is made of the types of hopmix and of finite numbers; nothing to say where
    it is.
    """
    foreign = foreign_parts(system)
    wrong = not_finite(system)
    found = []
    if foreign:
        reason = f"{' and '.join(foreign)} may override any of its methods"
        found.append(Assumption("the system is one of hopmix, unchanged", "unknown", reason))
    if wrong:
        reason = (
            f"{wrong[0]} is not, of {len(wrong)} in all; train with smaller steps, or load "
            f"other weights"
        )
        found.append(Assumption("all parameters are finite numbers", "unknown", reason))
    return found


# ---- Synapses ------------------------------------------------------------------------------------


def tied_couplings(ties: Ties) -> list[Assumption]:
    """Whether the couplings that act together are symmetric, or conservative by their gains."""
    return [_tied(joint, joint.ends[-1] in ties.gains) for joint in ties.joints]


def _tied(joint: Joint, is_gained: bool) -> Assumption:
    names = " and ".join(map(repr, joint.names))
    if len(joint.names) == 1:
        who = f"synapse {names} is"
    else:
        who = f"synapses {names} together are"
    if joint.is_loop:
        verdict: Verdict = "holds" if joint.is_tied else "fails"
        return Assumption(
            f"{who} symmetric, W + V = (W + V)^T",
            verdict,
            f"entries differ by {joint.gap:.3g} at most",
        )
    statement = f"{who} symmetric, V = W^T"
    reason = f"entries differ by {joint.gap:.3g} at most"
    if joint.joins_itself and not joint.is_tied:
        return Assumption(
            statement, "unknown", f"{reason}; of a layer joined with itself that may still be so"
        )
    if joint.is_tied:
        return Assumption(statement, "holds", reason)
    if joint.gains is None:
        return Assumption(statement, "fails", reason)
    span = f"D from {joint.gains.min():.3g} to {joint.gains.max():.3g}"
    if is_gained:
        own = f"{span}; the energy that falls is its own, with sum D Phi for the hidden units (C10)"
        return Assumption(f"{who} conservative, V = W^T D", "holds", own)
    elsewhere = "a diagonal D is conservative for elementwise units that nothing else reads (C07)"
    return Assumption(statement, "fails", f"{reason}; V = W^T D with {elsewhere}, {span}")


def conservative_synapse(memory: AssociativeMemory, name: str) -> list[Assumption]:
    """Whether the currents of a synapse without a coupling are minus the gradient of its energy."""
    synapse = memory.synapses[name]
    if is_known(synapse):
        known = synapse.conservative(name, _shapes(memory, name))
    else:
        known = None
    if known is not None:
        return known
    statement = f"synapse {name!r} is conservative"
    gap = _current_gap(memory, name)
    if not gap <= 1e-3:
        reason = (
            f"at random activations its current is {gap:.3g} away from minus the derivative "
            f"of its energy"
        )
        return [Assumption(statement, "fails", reason)]
    return [
        Assumption(
            statement,
            "unknown",
            f"nothing is known here about the energy of a {type(synapse).__name__}",
        )
    ]


def _shapes(memory: AssociativeMemory, name: str) -> list[jax.ShapeDtypeStruct]:
    dtype = precision_of(memory)
    return [
        jax.ShapeDtypeStruct(memory.neurons[end].shape, dtype)
        for end in dict(memory.connections)[name]
    ]


def _current_gap(memory: AssociativeMemory, name: str) -> float:
    """The largest relative distance of a synapse's currents from minus the derivative of its
    energy, at four draws.

    By automatic differentiation, and along a random direction by differences, which no rule can
    mislead.
    """
    synapse = memory.synapses[name]
    shapes = _shapes(memory, name)
    gaps = []
    for key in jr.split(jr.key(0), 4):
        g = tuple(
            jr.normal(k, s.shape, s.dtype) for k, s in zip(jr.split(key, len(shapes)), shapes)
        )
        for i, shape in enumerate(shapes):
            expected = AbstractSynapse.current(synapse, i, g)
            given = jnp.broadcast_to(synapse.current(i, g), shape.shape)
            gaps.append(_relative(given, expected))
            energy = lambda a, i=i, g=g: synapse.energy(*g[:i], a, *g[i + 1 :])
            gaps.append(_slope_gap(energy, g[i], -given))
    return float(np.max(gaps))


def _relative(given: Layer, expected: Layer) -> float:
    size = jnp.maximum(jnp.linalg.norm(expected), jnp.linalg.norm(given))
    return float(jnp.linalg.norm(given - expected) / jnp.where(size > 0, size, 1))


def _slope_gap(function: Callable[[Layer], Any], x: Layer, gradient: Layer) -> float:
    """How far a slope by differences is from a gradient, as a share of the latter beyond what
    rounding explains.
    """
    direction = jr.rademacher(jr.key(1), x.shape, x.dtype)
    length = rounding_of(x.dtype) ** (1 / 3)
    ends = [float(function(x + side * length * direction)) for side in (-1, 1)]
    slope = (ends[1] - ends[0]) / (2 * length)
    expected = float(jnp.sum(gradient * direction))
    # Kinks and third derivatives leave an error of the order of the length; it takes more than that
    # to be a lie.
    rounding = rounding_of(x.dtype, NUDGE) * max(map(abs, ends))
    allowed = 0.1 * float(jnp.sum(jnp.abs(gradient))) + rounding / length
    excess = abs(slope - expected) - allowed
    return max(0.0, excess) / max(abs(slope), abs(expected), float(jnp.finfo(x.dtype).tiny))


# ---- Layers --------------------------------------------------------------------------------------


def conservative_affine(name: str, neurons: Neurons) -> list[Assumption]:
    """Whether the elementwise scale of a layer, if it has one, keeps a gradient a gradient."""
    affine = neurons.affine
    if affine is None:
        return []
    statement = f"the scale of layer {name!r} keeps the field conservative"
    scale = np.asarray(affine.scale, float)
    if affine.conservative:
        return [Assumption(statement, "holds", "it stands on the way in and on the way out")]
    if np.all(scale == 1):
        return [
            Assumption(
                statement,
                "holds",
                "it is 1 everywhere (as at initialisation; training may change that)",
            )
        ]
    reason = f"elementwise on the way in only, from {scale.min():.3g} to {scale.max():.3g}"
    return [Assumption(statement, "fails", reason)]


def continuous(memory: AssociativeMemory) -> list[Assumption]:
    """Whether all activations and currents are continuous; nothing to say unless one of them is
    known to jump.
    """
    layers = [
        Assumption(f"the activation of layer {name!r} is continuous", "fails", why)
        for name, neurons in memory.neurons.items()
        for why in _jumps(neurons.lagrangian, precision_of(memory))
    ]
    synapses = [
        Assumption(f"the current of synapse {name!r} is continuous", "fails", why)
        for name, synapse in memory.synapses.items()
        for inner in synapse.made_of
        for why in _jumps(inner, precision_of(memory))
    ]
    return layers + synapses


def _jumps(lagrangian: AbstractLagrangian, dtype: Any) -> list[str]:
    """Where the activation of a Lagrangian is not continuous, or not a number in a precision."""
    found = []
    tiny = float(jnp.finfo(solver_dtype(dtype)).tiny)
    for part in lagrangian.parts:
        found += part.jumps(tiny)
        beta = abs(float(part.divisor)) if is_known(part) else 1.0
        if not tiny <= beta <= 1 / tiny:
            found.append(
                f"{type(part).__name__} has |beta| = {beta:g}, which {dtype} can't divide by; 1 "
                f"is usual"
            )
    return found


def gradient_activation(name: str, neurons: Neurons) -> list[Assumption]:
    """Whether the activation is the gradient of the Lagrangian; nothing to say of those that hopmix
    brings.
    """
    lagrangian = neurons.lagrangian
    if is_known(lagrangian):
        return []
    statement = f"the activation of layer {name!r} is the gradient of its Lagrangian"
    x = jr.normal(jr.key(0), (4, *neurons.shape), precision_of(neurons))
    given = jax.vmap(lagrangian.activation)(x)
    gap = _relative(given, jax.vmap(jax.grad(lagrangian))(x))
    slopes = [_slope_gap(lagrangian, a, g) for a, g in zip(x, given)]
    gap = float(np.max([gap, *slopes]))
    if not gap <= 1e-3:
        return [Assumption(statement, "fails", f"at random states it is {gap:.3g} away from it")]
    return [
        Assumption(
            statement,
            "unknown",
            f"{foreign_type(lagrangian)} is not of hopmix; at four states it is",
        )
    ]


def convex(name: str, neurons: Neurons) -> Assumption:
    """Whether the Lagrangian of a layer is convex."""
    lagrangian = neurons.lagrangian
    kind = type(lagrangian).__name__
    statement = f"the Lagrangian of layer {name!r} is convex"
    if not is_known(lagrangian):
        lowest = _lowest_curvature(neurons)
        if lowest < -1e-3:
            return Assumption(
                statement, "fails", f"{kind} has curvature {lowest:.3g} at a random state"
            )
        return Assumption(
            statement,
            "unknown",
            f"{foreign_type(lagrangian)} is not of hopmix; at four states it is",
        )
    if lagrangian.is_convex:
        return Assumption(statement, "holds", kind)
    return Assumption(statement, "fails" if lagrangian.has_exact_curvature else "unknown", kind)


def free_groups(name: str, neurons: Neurons) -> list[Assumption]:
    """Whether clamped entries fill whole groups of a norm or of a competition."""
    if neurons.clamped is None:
        return []
    mask = np.broadcast_to(np.asarray(neurons.clamped), neurons.shape)
    statement = f"the clamped entries of layer {name!r} are whole groups of its Lagrangian"
    reason = f"{int(mask.sum())} of {mask.size} entries are clamped"
    if mask.all() or not mask.any():
        return [Assumption(statement, "holds", reason)]
    if not is_known(neurons.lagrangian):
        unknown = (
            f"{reason}, and which units {foreign_type(neurons.lagrangian)} couples is not known"
        )
        return [Assumption(statement, "unknown", unknown)]
    axes = [part.axes for part in neurons.lagrangian.parts if not part.is_elementwise]  # pyright: ignore
    whole = all(np.array_equal(mask.any(axis=a), mask.all(axis=a)) for a in axes)
    return [Assumption(statement, "holds" if whole else "fails", reason)]


def _lowest_curvature(neurons: Neurons) -> float:
    x, v = jr.normal(jr.key(1), (2, 4, *neurons.shape), precision_of(neurons))
    products = jax.vmap(neurons.lagrangian.hessian_vector_product)(x, v)
    return float(np.min([jnp.sum(a * b) / jnp.sum(a * a) for a, b in zip(v, products)]))


# ---- Hidden layers that are joined ---------------------------------------------------------------


def one_rest(potential: Potential) -> list[Assumption]:
    r"""Whether joined hidden layers have one state of rest: they move each other by a factor below
    one.
    """
    if potential.is_explicit:
        return []
    pull = mutual_pull(potential)
    statement = "the joined hidden layers have one state of rest"
    reason = f"they move each other by a factor of at most {pull:.3g}"
    return [Assumption(statement, "holds" if pull < 1 else "unknown", reason)]
