r"""Conservative form: the system of tied couplings with the same forces, whose energy is the one
that falls.

A field of untied weights can have an energy of its own. Couplings that join the same layers act
together, by the sums of their $W$ and of their $V$. Where $V = W^\top D$ with a gain $D_\alpha$ for
each hidden unit, tied weights and units with the Lagrangian $\sum_\alpha D_\alpha \Phi(x_\alpha)$
give the same currents (claim C10). Of a layer that is joined with itself the current is $(W +
V)\,g$: there $W + V$ has to be symmetric.
"""

import dataclasses
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from hopmix._assumptions import is_known
from hopmix._coupling import Coupling
from hopmix._lagrangian import AbstractLagrangian
from hopmix._lagrangian.gained import Gained
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Affine, Neurons
from hopmix._numerics.tolerances import tied_weights
from hopmix._synapse import AbstractCoupled, is_known_constant
from hopmix._system import AbstractSystem

Rows: TypeAlias = np.ndarray
"""A matrix (hidden, visible) in float64."""


class Joint(NamedTuple):
    r"""The couplings that join two layers in the same way, added up.

    - `names`: of their synapses.
    - `ends`: the layers, the hidden one last.
    - `up`, `down`: the sums of their $W$ and of their $V^\top$.
    - `is_loop`: whether they join a layer with itself by matrices, so that $W + V$ is what counts.
    - `gap`: the largest $|v - w|/\max(|v|, |w|)$ of an entry of $W$ and its counterpart in $V$; of
        a loop, that of $W + V$ and its transpose.
    - `gains`: $D$, where each $v_\alpha = D_\alpha w_\alpha$; `None` where there is no such $D$.
    - `rounding`: up to which gap weights count as tied.
    """

    names: tuple[str, ...]
    ends: tuple[str, ...]
    up: Rows
    down: Rows
    is_loop: bool
    gap: float
    gains: np.ndarray | None
    rounding: float

    @property
    def is_tied(self) -> bool:
        return self.gap <= self.rounding

    @property
    def joins_itself(self) -> bool:
        return self.ends[0] == self.ends[1]


def joints(memory: AssociativeMemory) -> list[Joint]:
    """The couplings of a memory, added up where they act together."""
    groups: dict[Hashable, list[str]] = {}
    for name, ends in memory.connections:
        synapse = memory.synapses[name]
        if is_known(synapse) and synapse.is_coupled:
            groups.setdefault(coupled(memory, name).kind(ends), []).append(name)
    return [_joint(memory, tuple(names)) for names in groups.values()]


def coupled(memory: AssociativeMemory, name: str) -> AbstractCoupled:
    """A synapse of a memory that has a coupling."""
    synapse: Any = memory.synapses[name]
    return synapse


def _joint(memory: AssociativeMemory, names: tuple[str, ...]) -> Joint:
    connections = dict(memory.connections)
    ends = connections[names[0]]
    couplings = [coupled(memory, name).coupling for name in names]
    rounding = max(tied_weights(coupling.up.dtype) for coupling in couplings)
    if len(names) == 1 and couplings[0].breaking is None and ends[0] != ends[1]:
        return _without_breaking(names, ends, couplings[0], rounding)
    pairs = [_rows(c, connections[name] != ends) for c, name in zip(couplings, names)]
    up = np.sum([w for w, _ in pairs], axis=0)
    down = np.sum([v for _, v in pairs], axis=0)
    if ends[0] == ends[1] and coupled(memory, names[0]).is_entrywise:
        both = up + down.T
        return Joint(names, ends, up, down, True, _gap(both, both.T), None, rounding)
    gains = None if ends[0] == ends[1] else _gains(up, down, rounding)
    return Joint(names, ends, up, down, False, _gap(up, down), gains, rounding)


def _without_breaking(
    names: tuple[str, ...], ends: tuple[str, ...], coupling: Coupling, rounding: float
) -> Joint:
    """Of V = tie W^T nothing has to be compared."""
    tie = float(coupling.tie)
    up = np.asarray(coupling.up, float)
    gap = abs(tie - 1) / max(abs(tie), 1.0)
    return Joint(
        names, ends, up, up if tie == 1 else tie * up, False, gap, np.full(len(up), tie), rounding
    )


def _rows(coupling: Coupling, turned: bool) -> tuple[Rows, Rows]:
    """W and V^T in float64; for layers the other way round, what they are as seen from there."""
    up = np.asarray(coupling.up, float)
    down = np.asarray(coupling.down, float)
    if turned:
        return (down, up.T)
    return (up, down.T)


def _gap(w: Rows, v: Rows) -> float:
    """The largest distance of an entry of v from that of w, relative to the larger of both."""
    # Entry by entry: what a large entry rounds off may be all that counts behind a scale, or where
    # it is clamped.
    sizes = np.maximum(np.abs(w), np.abs(v))
    return float(np.max(np.abs(v - w) / np.where(sizes == 0, 1.0, sizes), initial=0.0))


def _gains(w: Rows, v: Rows, rounding: float) -> np.ndarray | None:
    """D with v = D w, row by row; 1 for a pair of empty rows."""
    unit_w = w / _sizes(w)
    unit_v = v / _sizes(v)
    square = np.sum(unit_w**2, axis=1)
    ratio = np.sum(unit_v * unit_w, axis=1) / np.where(square == 0, 1, square)
    if not _gap(ratio[:, None] * unit_w, unit_v) <= rounding:
        return None
    gains = ratio * (_sizes(v) / _sizes(w))[:, 0]
    return np.where(square == 0, 1.0, gains)


def _sizes(rows: Rows) -> Rows:
    """The largest entry of each row, 1 for an empty one."""
    sizes = np.max(np.abs(rows), axis=1, keepdims=True, initial=0.0)
    return np.where(sizes == 0, 1.0, sizes)


# ---- The form ------------------------------------------------------------------------------------


class Ties(NamedTuple):
    """What is known of the couplings of a memory; see `ties_of`.

    - `joints`: the couplings, added up where they act together.
    - `gains`: of the hidden layers that are conservative by them alone, of the shape of the layer.
    """

    joints: list[Joint]
    gains: dict[str, np.ndarray]


def ties_of(memory: AssociativeMemory) -> Ties:
    """How the couplings of a memory are tied: one by one, together, or up to gains."""
    found = joints(memory)
    gained = {}
    for layer in {joint.ends[-1] for joint in found}:
        gains = _gains_of_layer(memory, layer, found)
        if gains is not None:
            gained[layer] = gains
    return Ties(found, gained)


def _gains_of_layer(
    memory: AssociativeMemory, layer: str, found: Iterable[Joint]
) -> np.ndarray | None:
    """D, if all that reads the layer has the same one, and it or a scale on the way out alone is
    not 1.
    """
    neurons = memory.neurons[layer]
    here = [joint for joint in found if layer in joint.ends]
    others = {name for name, ends in memory.connections if layer in ends}
    others -= {name for joint in here for name in joint.names}
    if all(joint.is_tied for joint in here) and not _scales_one_way(neurons):
        return None
    if any(joint.ends[-1] != layer or joint.joins_itself or joint.gains is None for joint in here):
        return None
    if not all(is_known_constant(memory.synapses[name]) for name in others):
        return None
    shaped = [_of_layer(joint.gains, coupled(memory, joint.names[0]), neurons) for joint in here]
    rounding = max(joint.rounding for joint in here)
    if any(not np.allclose(gains, shaped[0], rtol=rounding, atol=0) for gains in shaped):
        return None
    sent = shaped[0] * _own_gains(neurons)
    uniform = np.allclose(sent, sent.flat[0], rtol=rounding, atol=0)
    if uniform or is_elementwise(neurons.lagrangian):
        return shaped[0]
    return None


def _of_layer(gains: Any, synapse: AbstractCoupled, neurons: Neurons) -> np.ndarray:
    """The gains of hidden units at their places in the layer."""
    others = (1,) * (len(neurons.shape) - 1)
    axes = (*others, -1) if synapse.units_last else (-1, *others)
    return np.broadcast_to(gains.reshape(axes), neurons.shape)


def is_elementwise(lagrangian: AbstractLagrangian) -> bool:
    """Whether a Lagrangian is known to be a sum over single units."""
    return is_known(lagrangian) and all(part.is_elementwise for part in lagrangian.parts)


def _scales_one_way(neurons: Neurons) -> bool:
    """Whether a scale other than 1 stands on the way out only: then it is a gain as well."""
    affine = neurons.affine
    return (
        affine is not None
        and not affine.conservative
        and bool(np.any(np.asarray(affine.scale, float) != 1))
    )


def _own_gains(neurons: Neurons) -> np.ndarray:
    if neurons.affine is None or neurons.affine.conservative:
        return np.ones(neurons.shape)
    return np.broadcast_to(np.asarray(neurons.affine.scale, float), neurons.shape)


def conservative_form(system: AbstractSystem, ties: Ties) -> Any:
    """The system with tied couplings and the same forces, as far as there is one; itself where it
    is that.

    **Arguments:**

    - `system`: a block or a memory, of concrete weights.
    - `ties`: of its memory.

    **Source:** `theory/C10-pseudo-energy.md`.
    """
    return system.map_memory(lambda memory: _tied(memory, ties))


def _tied(memory: AssociativeMemory, ties: Ties) -> AssociativeMemory:
    gained = ties.gains
    changed = [joint for joint in ties.joints if _changes(joint, gained)]
    if not changed:
        return memory
    synapses = dict(memory.synapses)
    connections = dict(memory.connections)
    neurons = dict(memory.neurons)
    for joint in changed:
        for name in joint.names[1:]:
            del synapses[name], connections[name]
        layer = joint.ends[-1]
        synapses[joint.names[0]] = _with_coupling(memory, joint)
        if layer in gained:
            dtype = coupled(memory, joint.names[0]).coupling.up.dtype
            neurons[layer] = _with_gains(memory.neurons[layer], gained[layer], dtype)
    return AssociativeMemory(neurons, synapses, connections)


def _changes(joint: Joint, gained: dict[str, np.ndarray]) -> bool:
    if joint.ends[-1] in gained:
        return True
    return joint.is_tied and (
        len(joint.names) > 1 or (joint.is_loop and not np.array_equal(joint.up, joint.down))
    )


def _with_coupling(memory: AssociativeMemory, joint: Joint) -> AbstractCoupled:
    """The first synapse of a joint, with the tied coupling of them all."""
    synapse = coupled(memory, joint.names[0])
    up = 0.5 * (joint.up + joint.down.T) if joint.is_loop else joint.up
    return dataclasses.replace(
        synapse, coupling=Coupling(jnp.asarray(up, synapse.coupling.up.dtype))
    )


def _with_gains(neurons: Neurons, gains: np.ndarray, dtype: Any) -> Neurons:
    """The layer whose units send out their activations times these gains, and their shifts too."""
    sent = gains * _own_gains(neurons)
    lagrangian = neurons.lagrangian
    # Of units that are joined all gains are equal.
    if is_elementwise(lagrangian):
        units = Gained(lagrangian, jnp.asarray(sent, dtype))
    else:
        units = float(sent.flat[0]) * lagrangian
    affine = neurons.affine
    if affine is not None:
        if affine.conservative:
            scale = affine.scale
        else:
            scale = jnp.ones_like(affine.scale)
        affine = Affine(scale, jnp.asarray(gains, dtype) * affine.shift)
    return dataclasses.replace(neurons, lagrangian=units, affine=affine)
