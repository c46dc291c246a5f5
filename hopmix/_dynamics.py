r"""Dynamics: follow a memory in continuous time, take explicit steps, or settle in a fixed point.

`flow` integrates $\tau \dot x = f(x)$ with Diffrax, `descend` repeats a block's explicit step, and `settle` finds
$f(x) = 0$ with Optimistix and differentiates it implicitly.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float

from hopmix._derive import Block
from hopmix._memory import AssociativeMemory
from hopmix._types import Layer, Scalar, State


def velocity(system: AssociativeMemory | Block, state: Any) -> Any:
    r"""The velocity $\dot x = f(x)/\tau$ of a memory (a mapping of layers) or of a block (one array)."""
    if isinstance(system, Block):
        return system.force(state) / system.potential.neurons.tau
    return {name: force / system.neurons[name].tau for name, force in system.force(state).items()}


def flow(
    system: AssociativeMemory | Block,
    state: Layer | State,
    duration: float,
    *,
    solver: diffrax.AbstractSolver | None = None,
    saveat: diffrax.SaveAt | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
) -> diffrax.Solution:
    r"""Integrate $\tau \dot x = f(x)$ adaptively from a state over a duration.

    **Arguments:**

    - `system`: a memory (`state` maps layers to states) or a block (`state` is the visible state).
    - `state`: the initial state.
    - `duration`: in the unit of the time constants.
    - `solver`, `saveat`: as in `diffrax.diffeqsolve`; Tsit5 and the final state by default.
    - `rtol`, `atol`, `max_steps`: tolerances and the bound on the number of solver steps.

    **Returns:** the `diffrax.Solution`; a failure is its `result`, not an exception.
    """
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: velocity(system, x)),
        diffrax.Tsit5() if solver is None else solver,
        t0=0.0,
        t1=duration,
        dt0=None,
        y0=dict(state) if isinstance(state, Mapping) else state,
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )


class Descent(NamedTuple):
    """A trajectory of explicit steps; entry 0 of each array is the start.

    - `states`: the states, stacked on a new first axis.
    - `energies`: the energy of each state.
    - `descends`: whether no step raised the energy by more than rounding (64 ulp of the largest magnitude).
    """

    states: Float[Array, "steps_and_start ..."]
    energies: Float[Array, " steps_and_start"]
    descends: Bool[Array, ""]


@eqx.filter_jit
def descend(block: Block, x: Layer, steps: int) -> Descent:
    """Repeat a block from a state, recording states and energies.

    **Arguments:**

    - `block`: the block; each of the `steps` calls it once, that is `block.n_iter` explicit steps.
    - `x`: the initial state of one example.
    - `steps`: how many calls.

    **Returns:** a `Descent`.
    """
    (_, (states, energies)) = jax.lax.scan(lambda x, _: (block(x), (x, block.energy(x))), x, None, length=steps + 1)
    rounding = 64 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(energies))
    return Descent(states, energies, jnp.all(jnp.diff(energies) <= rounding))


def settle(
    block: Block, x: Layer, *, rtol: float = 1e-6, atol: float = 1e-6, max_steps: int = 256
) -> tuple[Layer, Scalar, optx.RESULTS]:
    r"""The fixed point that a leaky block reaches from a state, with implicit gradients.

    **Arguments:**

    - `block`: a block with `leak` > 0; without decay its states grow for ever.
    - `x`: the initial state.
    - `rtol`, `atol`, `max_steps`: as in `optimistix.fixed_point`.

    **Returns:** the state, the largest remaining change in one call of the block, and the `optimistix.RESULTS`;
    a failure is a value, not an exception.

    **Raises:** `ValueError` if `leak` is 0.
    """
    if block.leak == 0:
        raise ValueError("A block with leak 0 has no fixed point in general; derive it with leak > 0.")
    solution = optx.fixed_point(
        lambda x, block: block(x),
        optx.FixedPointIteration(rtol=rtol, atol=atol),
        x,
        args=block,
        max_steps=max_steps,
        throw=False,
    )
    return solution.value, jnp.max(jnp.abs(block(solution.value) - solution.value)), solution.result
