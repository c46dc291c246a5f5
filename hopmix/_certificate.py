r"""Certificate: which theorem covers an object, which of its assumptions hold, and a numerical check of it.

Two claims are known here:

- *flow descent*: with conservative synapses and convex Lagrangians of the layers that move, $\dot E = -\sum_a \tau_a
  \dot x_a^\top H_a \dot x_a \le 0$ along the flow (Krotov 2021, arXiv 2107.06446). Of a block only the visible layer
  moves.
- *step descent*: if the hidden Lagrangians are convex too, one explicit step of a residual block lowers the energy
  for every step size, and one of a leaky block for every leak * step in (0, 1] (concave-convex procedure).
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from hopmix._coupling import Coupling
from hopmix._derive import Block
from hopmix._memory import AssociativeMemory, Neurons
from hopmix._synapse import AbstractSynapse, Bias, ChannelMixing, Dense, TokenMixing
from hopmix._types import PRNGKey

Verdict = Literal["holds", "fails", "unknown"]


class Assumption(NamedTuple):
    """One assumption of a claim: what it says, whether it `holds`, `fails` or is `unknown`, and why."""

    statement: str
    verdict: Verdict
    reason: str


class Check(NamedTuple):
    """The worst case of a numerical check.

    - `passed`: whether the energy never rose by more than rounding.
    - `worst_rise`: the largest rise of the energy in one step, relative to the largest energy met.
    - `examples`: how many states were tried.
    """

    passed: bool
    worst_rise: float
    examples: int


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is known about the descent of a block or a memory; made by `certify`.

    - `flow`: the assumptions of descent along the continuous flow.
    - `step`: the further assumptions of descent in every explicit step (empty for a memory).
    - `step_bound`: the largest step for which step descent is proved; NaN where nothing is.
    """

    system: object = dataclasses.field(repr=False)
    flow: tuple[Assumption, ...]
    step: tuple[Assumption, ...]
    step_bound: float

    @property
    def descends_in_flow(self) -> bool:
        """Whether the energy is proved to fall along the continuous flow."""
        return all(a.verdict == "holds" for a in self.flow)

    @property
    def descends_in_steps(self) -> bool:
        """Whether the energy is proved to fall in every explicit step as taken."""
        return bool(self.step) and self.descends_in_flow and all(a.verdict == "holds" for a in self.step)

    def check(self, key: PRNGKey, *, examples: int = 64, steps: int = 16, scale: float = 1.0) -> Check:
        r"""Try descent on random states: follow explicit steps and record the worst rise of the energy.

        A block takes its own steps; a memory takes Euler steps of a hundredth of its smallest time constant.

        **Arguments:**

        - `key`: of the random states, Gaussian of standard deviation `scale`.
        - `examples`, `steps`: how many states, and how many steps from each.
        """
        energies = jax.vmap(lambda k: _energies(self.system, k, steps, scale))(jr.split(key, examples))
        largest = jnp.max(jnp.abs(energies))
        worst = float(jnp.max(jnp.diff(energies, axis=1)) / jnp.where(largest > 0, largest, 1.0))
        return Check(worst <= 64 * float(jnp.finfo(energies.dtype).eps), worst, examples)

    def __str__(self) -> str:
        yes = {True: "proved", False: "not proved"}
        lines = [f"energy descent along the flow: {yes[self.descends_in_flow]}"]
        if self.step:
            bound = "" if math.isnan(self.step_bound) else f" (step <= {self.step_bound:g})"
            lines.append(f"energy descent in every step: {yes[self.descends_in_steps]}{bound}")
        lines += [f"  [{a.verdict}] {a.statement}: {a.reason}" for a in self.flow + self.step]
        return "\n".join(lines)


def certify(system: Block | AssociativeMemory) -> Certificate:
    r"""State which descent theorem covers a block or a memory, assumption by assumption.

    Parameters must be concrete numbers: certify a model outside `jax.jit`.

    **Arguments:**

    - `system`: a `Block` or an `AssociativeMemory`.

    **Raises:** `TypeError` for anything else; a serial block in particular is no single gradient step.
    """
    if isinstance(system, AssociativeMemory):
        moving = tuple(system.neurons)
        return Certificate(system, _flow_assumptions(system, moving), (), math.nan)
    if not isinstance(system, Block):
        raise TypeError(
            f"No theorem covers a {type(system).__name__}: certify a Block or an AssociativeMemory. A serial block is "
            "a composition of two gradient steps and has no energy; certify its parts, or use the parallel form."
        )
    flow = _flow_assumptions(system.potential.memory, (system.potential.visible,))
    step, bound = _step_assumptions(system)
    return Certificate(system, flow, step, bound if all(a.verdict == "holds" for a in flow) else math.nan)


def _flow_assumptions(memory: AssociativeMemory, moving: tuple[str, ...]) -> tuple[Assumption, ...]:
    synapses = [a for name, synapse in memory.synapses.items() for a in _conservative_synapse(name, synapse)]
    affines = [_conservative_affine(name, n) for name, n in memory.neurons.items() if n.affine is not None]
    return (*synapses, *affines, *(_convex(name, memory.neurons[name]) for name in moving))


def _conservative_synapse(name: str, synapse: AbstractSynapse) -> list[Assumption]:
    # Exact types: a subclass may send any current.
    if type(synapse) is Bias:
        return []
    if type(synapse) is Dense or type(synapse) is TokenMixing or type(synapse) is ChannelMixing:
        return [_symmetric(name, synapse.coupling)]
    reason = f"nothing is known here about a {type(synapse).__name__}"
    return [Assumption(f"synapse {name!r} is conservative", "unknown", reason)]


def _symmetric(name: str, coupling: Coupling) -> Assumption:
    w, v, precision = np.asarray(coupling.up), np.asarray(coupling.down), jnp.finfo(coupling.up.dtype)
    gap = float(np.linalg.norm(v - w.T) / max(np.linalg.norm(w), float(precision.tiny)))
    holds = gap <= min(8 * float(precision.eps), 1e-6)  # half precision would let a visible breaking pass
    reason = f"|V - W^T|/|W| = {gap:.3g}"
    if not holds and gap == gap and coupling.breaking is not None:
        reason += "; no theorem here covers untied weights"
    return Assumption(f"synapse {name!r} is symmetric, V = W^T", "holds" if holds else "fails", reason)


def _conservative_affine(name: str, neurons: Neurons) -> Assumption:
    affine = neurons.affine
    assert affine is not None
    statement = f"the scale of layer {name!r} keeps the field conservative"
    scale = np.asarray(affine.scale)
    if affine.conservative:
        return Assumption(statement, "holds", "it stands on the way in and on the way out")
    if np.all(scale == 1):
        return Assumption(statement, "holds", "it is 1 everywhere (as at initialisation; training may change that)")
    return Assumption(
        statement, "fails", f"elementwise on the way in only, from {scale.min():.3g} to {scale.max():.3g}"
    )


def _convex(name: str, neurons: Neurons) -> Assumption:
    lagrangian = neurons.lagrangian
    verdict = "holds" if lagrangian.is_convex else "fails"
    return Assumption(f"the Lagrangian of layer {name!r} is convex", verdict, type(lagrangian).__name__)


def _step_assumptions(block: Block) -> tuple[tuple[Assumption, ...], float]:
    memory, decay = block.potential.memory, block.leak * block.step
    convex = tuple(_convex(name, memory.neurons[name]) for name in block.potential.hidden)
    bound = math.inf if block.leak == 0 else 1 / block.leak
    in_range = Assumption(
        "leak * step is at most 1", "holds" if decay <= 1 else "fails", f"leak * step = {decay:g}, n_iter any"
    )
    proved = all(a.verdict == "holds" for a in convex)
    return (*convex, in_range), bound if proved else math.nan


def _energies(system, key: PRNGKey, steps: int, scale: float) -> Array:
    if isinstance(system, Block):
        start = scale * jr.normal(key, system.potential.neurons.shape, _precision(system))
        return _trace(system, system.energy, start, steps)
    keys = jr.split(key, len(system.neurons))
    layers, dtype = system.neurons.items(), _precision(system)
    start = {name: scale * jr.normal(k, layer.shape, dtype) for k, (name, layer) in zip(keys, layers, strict=True)}
    dt = 0.01 * min(layer.tau for layer in system.neurons.values())
    return _trace(lambda x: _euler(system, x, dt), system.energy, start, steps)


def _precision(system: Block | AssociativeMemory):
    return jnp.result_type(float, *(leaf for leaf in jax.tree.leaves(system) if eqx.is_inexact_array(leaf)))


def _euler(memory: AssociativeMemory, state, dt: float):
    return {name: state[name] + dt / memory.neurons[name].tau * force for name, force in memory.force(state).items()}


def _trace(step, energy, start, steps: int) -> Array:
    return jax.lax.scan(lambda x, _: (step(x), energy(x)), start, None, length=steps + 1)[1]
