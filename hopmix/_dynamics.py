r"""Dynamics: follow a system in continuous time, take explicit steps, or settle in a fixed point.

`flow` integrates $\tau \dot x = f(x)$ with Diffrax, `descend` takes explicit steps, and `settle` finds a fixed point of
them with Optimistix and differentiates it implicitly. A *system* is a block, whose state is one array, or a memory,
whose state maps the names of its layers to arrays. (Binary memories are in `hopmix._binary`.)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, PyTree

from hopmix._derive import Block
from hopmix._memory import AssociativeMemory
from hopmix._rounding import allowed_rise, energy_magnitude, is_rounding
from hopmix._special import widened
from hopmix._types import Layer, Scalar, State

System: TypeAlias = AssociativeMemory | Block


def velocity(system: System, state: Any) -> Any:
    r"""The velocity $\dot x = f(x)/\tau$ of a memory (a mapping of layers) or of a block (one array).

    **Raises:** `TypeError` for anything else.
    """
    _need_system(system)
    if isinstance(system, Block):
        return system.force(state) / system.potential.neurons.tau
    return {name: force / system.neurons[name].tau for name, force in system.force(state).items()}


def flow(
    system: System,
    state: Layer | State,
    duration: float,
    *,
    solver: diffrax.AbstractSolver | None = None,
    saveat: diffrax.SaveAt | None = None,
    step: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
) -> diffrax.Solution:
    r"""Integrate $\tau \dot x = f(x)$ from a state over a duration.

    **Arguments:**

    - `system`: a memory or a block.
    - `state`: the initial state.
    - `duration`: in the unit of the time constants.
    - `solver`, `saveat`: as in `diffrax.diffeqsolve`; Tsit5 and the final state by default.
        `diffrax.SaveAt(dense=True)` gives a solution that can be evaluated at any time.
    - `step`: a fixed step, for solvers that can't adapt theirs; adaptive by default.
    - `rtol`, `atol`: tolerances of the adaptive steps.
    - `max_steps`: the bound on the number of solver steps.

    **Returns:** the `diffrax.Solution`; a failure is its `result`, not an exception.
    """
    _need_system(system)
    state = dict(state) if isinstance(state, Mapping) else state
    dtype = jnp.result_type(*jax.tree.leaves(state))  # time in the precision of the state
    adaptive = diffrax.PIDController(rtol=rtol, atol=atol)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: velocity(system, x)),
        diffrax.Tsit5() if solver is None else solver,
        t0=jnp.zeros((), dtype),
        t1=jnp.asarray(duration, dtype),
        dt0=None if step is None else jnp.asarray(step, dtype),
        y0=state,
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        stepsize_controller=adaptive if step is None else diffrax.ConstantStepSize(),
        max_steps=max_steps,
        throw=False,
    )


class Status(eqx.Enumeration):  # pyright: ignore[reportGeneralTypeIssues]
    """What became of the energy; `Status[descent.status]` is a sentence."""

    descended = "The energy never rose by more than rounding."
    rose = "The energy rose: take smaller steps, descend with backtrack=True, or ask `certify` what is proved."
    stalled = "No step along the force lowered the energy, however small: the force is not minus its gradient."
    not_finite = "The energy stopped being a finite number: take smaller steps, or start from a smaller state."


class Descent(NamedTuple):
    """A trajectory of explicit steps; entry 0 of each array is the start.

    - `states`: the states, stacked on a new first axis.
    - `energies`: the energy of each state.
    - `descends`: whether no step raised the energy by more than rounding of the terms of the two energies compared
        (`theory/C18-rounding.md`).
    - `status`: a `Status`, which is `descended` or says what happened instead.
    """

    states: PyTree[Float[Array, "steps_and_start ..."]]
    energies: Float[Array, " steps_and_start"]
    descends: Bool[Array, ""]
    status: Status


@eqx.filter_jit
def descend(
    system: System, state: Layer | State, steps: int, *, step: float | None = None, backtrack: bool = False
) -> Descent:
    r"""Take explicit steps from a state, recording states and energies.

    A block takes its own: $x \leftarrow (1 - \text{leak}\cdot\text{step})\,x + \text{step}\cdot F(g)$, which is the
    residual step for leak 0, the leaky one for leak 1, and the concave-convex procedure for leak 1 and step 1. A memory
    takes those of Euler, $x_a \leftarrow x_a + (\text{step}/\tau_a)\,f_a(x)$ for all layers at once.

    **Arguments:**

    - `system`: a block, of which each of the `steps` is one call (`n_iter` explicit steps), or a memory.
    - `state`: the initial state of one example.
    - `steps`: how many.
    - `step`: the step of a memory, in the unit of its time constants; a block has its own.
    - `backtrack`: halve each step until the energy falls by at least 1e-4 of what its slope promises (Armijo's rule).
        Where 40 halvings do not help, the state stays.

    **Returns:** a `Descent`; a rise of the energy is its `status`, not an exception.

    **Raises:** `ValueError` for a memory without a step, for a block with one, and for fewer than 0 steps; `TypeError`
    for what is neither.
    """
    if steps < 0:
        raise ValueError(f"`descend` takes steps >= 0, got {steps}.")
    advance = _advance(system, step, backtrack)
    start = dict(state) if isinstance(state, Mapping) else state

    def record(carry, _):
        x, stalled = carry
        moved, stuck = advance(x)
        return (moved, stalled | stuck), (x, system.energy(x))

    (_, stalled), (states, energies) = jax.lax.scan(record, (start, jnp.zeros((), bool)), None, length=steps + 1)
    descends = jnp.all(_falls(system, states, energies))
    status = Status.where(stalled, Status.stalled, Status.descended)
    status = Status.where(descends, status, Status.rose)
    status = Status.where(jnp.all(jnp.isfinite(energies)), status, Status.not_finite)
    return Descent(states, energies, descends, status)


def _falls(system: System, states: Any, energies: Float[Array, " n"]) -> Bool[Array, " steps"]:
    """Whether each step of a trajectory raised the energy by no more than rounding."""
    at = lambda k: (jax.tree.map(lambda a: a[k], states), energies[k])
    falls = lambda k: is_rounding(system, energies[k + 1] - energies[k], at(k), at(k + 1))
    return jax.lax.map(falls, jnp.arange(energies.size - 1))


class Settled(NamedTuple):
    """Where a system came to rest, or how far it got.

    - `state`: the last state.
    - `residual`: the largest remaining velocity, in units of the state per unit of time.
    - `result`: an `optimistix.RESULTS`; a failure is a value, not an exception.
    - `steps`: how many steps were taken.
    """

    state: PyTree[Array]
    residual: Scalar
    result: optx.RESULTS
    steps: Array

    @property
    def sentence(self) -> str:
        """What happened, for people; outside `jax.jit`, of one system at a time.

        **Raises:** `ValueError` for a batch.
        """
        if self.residual.ndim:
            raise ValueError(
                "Each example of a batch has a sentence of its own: jax.tree.map(lambda a: a[i], settled).sentence."
            )
        moved = f"the state moves by {float(self.residual):.3g} per unit of time"
        if bool(self.result == optx.RESULTS.successful):
            return f"Settled after {int(self.steps)} steps; {moved}."
        why = optx.RESULTS[self.result].strip().rstrip(".")
        return f"Not settled after {int(self.steps)} steps ({why}); {moved}. Allow more steps, or take smaller ones."


def settle(
    system: System,
    state: Layer | State,
    *,
    step: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    max_steps: int = 256,
) -> Settled:
    r"""The fixed point that explicit steps reach from a state, with implicit gradients.

    **Arguments:**

    - `system`: a memory, or a block with `leak` > 0; without decay its states grow for ever.
    - `state`: the initial state.
    - `step`: the step of a memory, as in `descend`.
    - `rtol`, `atol`: the state is at rest where each entry moves by less than atol + rtol |x| per unit of time, however
        small the steps are.
    - `max_steps`: as in `optimistix.fixed_point`.

    **Returns:** a `Settled`; a failure is a value with a sentence, not an exception.

    **Raises:** `ValueError` if the leak of a block is 0, for a memory without a step, and for a block with one;
    `TypeError` for what is neither.
    """
    _need_system(system)
    if isinstance(system, Block) and system.leak == 0:
        raise ValueError("A block with leak 0 has no fixed point in general; derive it with leak > 0.")
    _advance(system, step)  # complain before the solver does
    length = system.step if isinstance(system, Block) else step
    assert length is not None
    # The solver looks at the change in one step, which says little where steps are short.
    solution = optx.fixed_point(
        lambda x, system: _advance(system, step)(x)[0],
        optx.FixedPointIteration(rtol=rtol * length, atol=atol * length),
        dict(state) if isinstance(state, Mapping) else state,
        args=system,
        max_steps=max_steps,
        throw=False,
    )
    speeds = jax.tree.map(lambda v: jnp.max(jnp.abs(v)), velocity(system, solution.value))
    residual = jnp.max(jnp.stack(jax.tree.leaves(speeds)))
    return Settled(solution.value, residual, solution.result, solution.stats["num_steps"])


def _advance(system: System, step: float | None, backtrack: bool = False) -> Callable[[Any], tuple[Any, Array]]:
    """One recorded step: the next state, and whether no step helped."""
    _need_system(system)
    never = jnp.zeros((), bool)
    if isinstance(system, Block):
        if step is not None:
            raise ValueError(f"A block has a step of its own, {system.step}; give it to `derive_block`, not here.")
        if not backtrack:
            return lambda x: (system(x), never)
        once = lambda _, carry: _backtrack(system, system.force, carry[0], system.step, carry[1])
        return lambda x: jax.lax.fori_loop(0, system.n_iter, once, (x, never))
    if step is None:
        raise ValueError("A memory needs `step`, in the unit of its time constants: a tenth of the smallest is safe.")
    direction = lambda x: velocity(system, x)
    if backtrack:
        return lambda x: _backtrack(system, direction, x, step, never)
    return lambda x: (_move(x, direction(x), step), never)


def _need_system(system: Any):
    if not isinstance(system, AssociativeMemory | Block):
        raise TypeError(
            f"Dynamics are those of a Block or an AssociativeMemory, got a {type(system).__name__}; the two `parts` of "
            "a serial block are blocks."
        )


def _move(x: Any, direction: Any, step: Any) -> Any:
    return jax.tree.map(lambda a, d: a + jnp.asarray(step, a.dtype) * d, x, direction)


def _backtrack(system: System, force: Callable, x: Any, step: float, stalled: Array) -> tuple[Any, Array]:
    """Armijo's rule along the force, with at most 40 halvings."""
    direction = force(x)
    start, slope = jax.jvp(system.energy, (x,), (direction,))
    first = jnp.asarray(step, start.dtype)
    nothing = jnp.zeros_like(widened(start))
    by_terms = lambda: allowed_rise(energy_magnitude(system, x), nothing, start.dtype)

    def halve(carry):
        size, _, rounding, known = carry
        excess = system.energy(_move(x, direction, size)) - start - 1e-4 * size * jnp.minimum(slope, 0)
        # What costs a gradient is asked for once, and only if the magnitude of the energy itself does not say enough.
        ask = ~known & ~(excess <= rounding)
        rounding = jax.lax.cond(ask, by_terms, lambda: rounding)
        too_high = ~(excess <= rounding)  # a NaN counts as too high
        return jnp.where(too_high, 0.5 * size, size), too_high, rounding, known | ask

    quick = allowed_rise(jnp.abs(widened(start)), nothing, start.dtype)
    begin = first, jnp.ones((), bool), quick, jnp.zeros((), bool)
    size, stuck, *_ = jax.lax.while_loop(lambda carry: carry[1] & (carry[0] > first * 2.0**-40), halve, begin)
    return _move(x, direction, jnp.where(stuck, jnp.zeros_like(size), size)), stalled | stuck
