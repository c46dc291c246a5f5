r"""Certificate: which theorem covers an object, which of its assumptions hold, and a numerical check of it.

- *Flow descent* (C01; with attention C13): with conservative synapses and convex Lagrangians of the layers that move,
  $\dot E = -\sum_a \tau_a \dot x_a^\top H_a \dot x_a \le 0$. Of a block only the visible layer moves.
- *Step descent* (C05): if the potential is convex too, one explicit step of a residual block lowers the energy for
  every step size, and one of a leaky block for every leak * step in (0, 1].
- *Step descent without convexity* (C06): if the potential is weakly convex, as with GELU units, up to a bound on the
  step.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from hopmix._assumptions import (
    Assumption,
    concavity_bound,
    conservative_affine,
    conservative_synapse,
    continuous,
    convex,
    free_groups,
    gradient_activation,
    one_rest,
    precision_of,
)
from hopmix._attention import Attention
from hopmix._derive import Block, SerialBlock
from hopmix._dynamics import velocity
from hopmix._lagrangian_groups import LayerNorm
from hopmix._memory import AssociativeMemory
from hopmix._types import Layer, PRNGKey

System = Block | AssociativeMemory | SerialBlock


class Check(NamedTuple):
    """The worst case of a numerical check.

    - `passed`: whether the energy never rose by more than rounding (64 ulp), and the field was conservative up to
        rounding.
    - `worst_rise`: the largest rise of the energy in one step, relative to the largest energy along its trajectory; NaN
        where there is no energy.
    - `asymmetry`: the metric-aware asymmetry of the field, $|HJ - (HJ)^\\top| / (2|HJ|)$, by random probes; 0 for a
        gradient.
    - `examples`: how many states were tried.
    """

    passed: bool
    worst_rise: float
    asymmetry: float
    examples: int


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is known about the descent of a block or a memory; made by `certify`.

    - `flow`: the assumptions of descent along the continuous flow.
    - `step`: the further assumptions of descent in every explicit step (empty for a memory).
    - `step_bound`: the largest step for which step descent is proved from every state; NaN where nothing is.
    - `concavity`: the $K$ of `concavity_bound`; 0 for convex potentials, NaN where it means nothing: for a memory, and
        where descent along the flow is not proved.
    - `flow_claim`, `step_claim`: the claims that these assumptions belong to, as in `theory/`.
    """

    system: System = dataclasses.field(repr=False)
    flow: tuple[Assumption, ...]
    step: tuple[Assumption, ...] = ()
    step_bound: float = math.nan
    concavity: float = math.nan
    flow_claim: str = "C01"
    step_claim: str = "C05"

    @property
    def descends_in_flow(self) -> bool:
        """Whether the energy is proved to fall along the continuous flow."""
        return all(a.verdict == "holds" for a in self.flow)

    @property
    def descends_in_steps(self) -> bool:
        """Whether the energy is proved to fall in every explicit step as taken, from every state."""
        return bool(self.step) and self.descends_in_flow and all(a.verdict == "holds" for a in self.step)

    @property
    def claim(self) -> str | None:
        """The strongest claim that covers the system, such as `"C05"`; `None` where none does."""
        if self.descends_in_steps:
            return self.step_claim
        return self.flow_claim if self.descends_in_flow else None

    def step_bound_at(self, x: Layer) -> float:
        r"""The largest step of a residual block for which descent from the state `x` is proved.

        With a layer norm, $s(x)/(\gamma K)$ with $s = \sqrt{\mathrm{var} + \epsilon}$ of the quietest group is often
        far above `step_bound`, which has to cover constant states too.

        **Source:** `theory/C06-gelu.md`.
        """
        block = self.system
        if not isinstance(block, Block) or math.isnan(self.step_bound) or block.leak or not self.concavity:
            return self.step_bound
        norm = block.potential.neurons.lagrangian
        if type(norm) is not LayerNorm:
            return self.step_bound
        quietest = float(jnp.min(jnp.sqrt(jnp.var(x, axis=norm.axes) + norm.eps)))
        return max(self.step_bound, quietest / (float(norm.scale) * self.concavity))

    def check(self, key: PRNGKey, *, examples: int = 64, steps: int = 16, scale: float = 1.0) -> Check:
        r"""Try descent and symmetry on random states, and report the worst case.

        A block takes its own steps; a memory takes Euler steps of a hundredth of its smallest time constant. A serial
        block has no energy; of it only the symmetry of its displacement is tried.

        **Arguments:**

        - `key`: of the random states, Gaussian of standard deviation `scale`.
        - `examples`, `steps`: how many states, and how many steps from each.
        """
        states = jax.vmap(lambda k: _draw(self.system, k, scale))(jr.split(key, examples))
        return self.check_from(states, steps=steps)

    def check_from(self, states: Any, *, steps: int = 16) -> Check:
        """Try descent and symmetry from given states, stacked on a first axis, and report the worst case."""
        energies, probes = eqx.filter_jit(_trial)(self.system, states, steps)
        largest = jnp.max(jnp.abs(energies), axis=1)
        rise = float(jnp.max(jnp.max(jnp.diff(energies, axis=1), axis=1) / jnp.where(largest > 0, largest, 1.0)))
        asymmetry = _asymmetry(probes)
        eps = float(jnp.finfo(energies.dtype).eps)
        passed = rise <= 64 * eps and asymmetry <= min(1e4 * eps, 0.1)
        return Check(passed, rise, asymmetry, energies.shape[0])

    def __str__(self) -> str:
        proved = lambda yes, claim: f"proved ({claim})" if yes else "not proved"
        lines = [f"energy descent along the flow: {proved(self.descends_in_flow, self.flow_claim)}"]
        if self.step:
            known = "" if math.isnan(self.step_bound) else f" ({_steps_up_to(self.step_bound)} would be)"
            bound = f", for {_steps_up_to(self.step_bound)}" if self.descends_in_steps else known
            lines.append(f"energy descent in every step: {proved(self.descends_in_steps, self.step_claim)}{bound}")
        lines += [f"  [{a.verdict}] {a.statement}: {a.reason}" for a in self.flow + self.step]
        return "\n".join(lines)


def certify(system: System) -> Certificate:
    r"""State which descent theorem covers a block or a memory, assumption by assumption.

    Parameters must be concrete numbers: certify a model outside `jax.jit`.

    **Arguments:**

    - `system`: a `Block`, an `AssociativeMemory`, or a `SerialBlock`, which no theorem covers.

    **Raises:** `TypeError` for anything else; `hopmix.testing` has assertions for the models of others.
    """
    if type(system) is AssociativeMemory:
        return Certificate(system, _flow_assumptions(system, tuple(system.neurons)), flow_claim=_flow_claim(system))
    if type(system) is Block:
        return _certify_block(system)
    if isinstance(system, AssociativeMemory | Block):
        reason = f"{type(system).__name__} may override any of its methods"
        return Certificate(system, (Assumption("the system is one of hopmix, unchanged", "unknown", reason),))
    if isinstance(system, SerialBlock):
        reason = (
            "a composition of two gradient steps is no gradient step, even with tied weights (C09); certify its "
            "`parts`, or use the parallel form"
        )
        return Certificate(system, (Assumption("the layer is one step of one potential", "fails", reason),))
    raise TypeError(
        f"No theorem covers a {type(system).__name__}: certify a Block or an AssociativeMemory, or try "
        "`hopmix.testing.assert_energy_descends` and `assert_conservative` on your own model."
    )


def _certify_block(block: Block) -> Certificate:
    potential = block.potential
    flow = (*one_rest(potential), *_flow_assumptions(potential.memory, (potential.visible,)))
    flow_claim = _flow_claim(potential.memory)
    if any(a.verdict != "holds" for a in flow):
        reason = "it needs all of the above"  # the bound on K is one for tied weights, the steps are those of a flow
        step = (Assumption("explicit steps follow the flow", "unknown", reason),)
        return Certificate(block, flow, step, flow_claim=flow_claim)
    concavity, decay = concavity_bound(potential), block.leak * block.step
    bound = math.nan if math.isinf(concavity) else _step_bound(block, concavity)
    bounded = "no bound is known" if math.isinf(concavity) else f"K = {concavity:.4g}"
    step = (
        Assumption("U + K/2 |g|^2 is convex", "unknown" if math.isinf(concavity) else "holds", bounded),
        Assumption("leak * step is at most 1", "holds" if decay <= 1 else "fails", f"leak * step = {decay:g}"),
        Assumption(
            "the step is within its bound",
            "holds" if block.step <= bound else "unknown",
            f"{block.step:g}, and descent from every state is proved for {_steps_up_to(bound)}; n_iter any",
        ),
    )
    step_claim = "C05" if not concavity else "C13" if flow_claim == "C13" else "C06"
    return Certificate(block, flow, step, bound, concavity, flow_claim, step_claim)


def _steps_up_to(bound: float) -> str:
    if math.isnan(bound):
        return "no step"
    return "steps of any size" if math.isinf(bound) else f"steps up to {bound:.4g}"


def _step_bound(block: Block, concavity: float) -> float:
    highest = block.potential.neurons.lagrangian.curvature[1]
    # 0 * inf: a convex potential needs no bound however curved the visible Lagrangian is.
    steepness = block.leak + (concavity * highest if concavity else 0.0)
    bound = 2 / steepness if steepness else math.inf
    return min(bound, 1 / block.leak) if block.leak else bound


def _flow_assumptions(memory: AssociativeMemory, moving: tuple[str, ...]) -> tuple[Assumption, ...]:
    layers = memory.neurons.items()
    return (
        *continuous(memory),
        *(a for name in memory.synapses for a in conservative_synapse(memory, name)),
        *(a for name, n in layers for a in (*conservative_affine(name, n), *gradient_activation(name, n))),
        *(a for name in moving for a in (convex(name, memory.neurons[name]), *free_groups(name, memory.neurons[name]))),
    )


def _flow_claim(memory: AssociativeMemory) -> str:
    return "C13" if any(isinstance(s, Attention) for s in memory.synapses.values()) else "C01"


# ---- The numerical trial ----------------------------------------------------------------------------------------


def _visible(system: Block | SerialBlock):
    block = system if isinstance(system, Block) else system.token
    return block.potential.neurons


def _draw(system: System, key: PRNGKey, scale: float) -> Any:
    dtype = precision_of(system)
    if not isinstance(system, AssociativeMemory):
        return scale * jr.normal(key, _visible(system).shape, dtype)
    keys = jr.split(key, len(system.neurons))
    return {name: scale * jr.normal(k, n.shape, dtype) for k, (name, n) in zip(keys, system.neurons.items())}


def _trial(system: System, states: Any, steps: int) -> tuple[Array, Array]:
    """Energies along explicit steps from each state, and the two halves of a random antisymmetric probe."""
    keys = jr.split(jr.key(0), jax.tree.leaves(states)[0].shape[0])
    probes = jax.lax.map(lambda pair: _probe(system, *pair), (states, keys))
    return jax.lax.map(lambda x: _trace(system, x, steps), states, batch_size=64), probes


def _trace(system: System, start: Any, steps: int) -> Array:
    if isinstance(system, SerialBlock):
        return jnp.full(steps + 1, jnp.nan, start.dtype)
    if isinstance(system, Block):
        step = system.__call__
    else:
        dt = 0.01 * min(layer.tau for layer in system.neurons.values())
        step = lambda x: jax.tree.map(lambda a, v: a + dt * v, x, velocity(system, x))
    energy: Any = system.energy
    return jax.lax.scan(lambda x, _: (step(x), energy(x)), start, None, length=steps + 1)[1]


def _probe(system: System, x: Any, key: PRNGKey) -> Array:
    r"""$u \cdot HJv$ and $v \cdot HJu$ for random $u$ and $v$, equal where the field is a gradient."""
    leaves, structure = jax.tree.flatten(x)
    draws = ([jr.normal(k, a.shape, a.dtype) for k, a in zip(jr.split(k, len(leaves)), leaves)] for k in jr.split(key))
    u, v = (_release(system, jax.tree.unflatten(structure, draw)) for draw in draws)
    field = (lambda x: system(x) - x) if isinstance(system, SerialBlock) else system.force
    first, second = (_inner(a, _metric(system, x, jax.jvp(field, (x,), (b,))[1])) for a, b in ((u, v), (v, u)))
    return jnp.stack([first, second])


def _metric(system: System, x: Any, v: Any) -> Any:
    """H v, layer by layer."""
    if isinstance(system, AssociativeMemory):
        return {n: layer.lagrangian.hessian_vector_product(x[n], v[n]) for n, layer in system.neurons.items()}
    return _visible(system).lagrangian.hessian_vector_product(x, v)


def _release(system: System, v: Any) -> Any:
    if isinstance(system, AssociativeMemory):
        return {n: layer.release(v[n]) for n, layer in system.neurons.items()}
    return _visible(system).release(v)


def _inner(a: Any, b: Any) -> Array:
    return sum(jnp.sum(p * q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b)))  # pyright: ignore


def _asymmetry(probes: Array) -> float:
    """|M - M^T| / (2|M|): the mean of (u.Mv - v.Mu)^2 is |M - M^T|^2, that of (u.Mv)^2 is |M|^2."""
    first, second = np.asarray(probes, float).T
    return float(np.sqrt(np.sum((first - second) ** 2) / max(2 * np.sum(first**2 + second**2), np.finfo(float).tiny)))
