r"""Dynamics: follow a system in continuous time, take explicit steps, or settle in a fixed point.

`flow` integrates $\tau \dot x = f(x)$ with Diffrax, `descend` takes explicit steps, and `settle`
takes them to a fixed point and differentiates it implicitly. A *system* is a block, whose state is
one array, or a memory, whose state maps the names of its layers to arrays. (Binary memories are in
`hopmix.retrieval`.)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from hopmix._numerics.dtypes import cast, solver_dtype, widened
from hopmix._numerics.implicit import implicit_root, spoil
from hopmix._numerics.rounding import allowed_rise, energy_magnitude, is_rounding
from hopmix._system import AbstractSystem, move
from hopmix._types import Layer, Scalar, State


def velocity(system: AbstractSystem, state: Any) -> Any:
    r"""The velocity $\dot x = f(x)/\tau$ of a memory (a mapping of layers) or of a block (one
    array).

    **Arguments:**

    - `system`: a memory or a block.
    - `state`: $x$; of a memory a mapping from its layers to arrays.

    **Raises:** `TypeError` for anything else.
    """
    _need_system(system)
    return system.velocity(state)


def flow(  # noqa: PLR0913 (the options are those of `diffrax.diffeqsolve`)
    system: AbstractSystem,
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
    r"""Integrate $\tau \dot x = f(x)$ from a state over a duration, half precision in float32.

    **Arguments:**

    - `system`: a memory or a block.
    - `state`: the initial state.
    - `duration`: in the unit of the time constants; below 0 it goes back in time.
    - `solver`, `saveat`: as in `diffrax.diffeqsolve`; Tsit5 and the final state by default.
        `diffrax.SaveAt(dense=True)` gives a solution that can be evaluated at any time.
    - `step`: a fixed step, for solvers that can't adapt theirs; adaptive by default.
    - `rtol`, `atol`: tolerances of the adaptive steps.
    - `max_steps`: the bound on the number of solver steps.

    **Returns:** the `diffrax.Solution`; a failure is its `result`, not an exception.

    **Raises:** `ValueError` for integer states, a duration that is not finite, and steps that are
    not positive; `TypeError` for what is neither.
    """
    _need_system(system)
    if not isinstance(duration, Tracer) and not math.isfinite(duration):
        raise ValueError(
            f"`flow` takes a finite duration, got {duration}; `settle` follows a system to its "
            f"rest."
        )
    if step is not None:
        _need_positive(step)
    start = _start(system, state)
    own = jnp.result_type(*jax.tree.leaves(start))
    dtype = solver_dtype(own)  # that of time too
    system, start = cast((system, start), dtype)
    end = jnp.asarray(duration, dtype)
    adaptive = diffrax.PIDController(rtol=rtol, atol=atol)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: velocity(system, x)),
        diffrax.Tsit5() if solver is None else solver,
        t0=jnp.zeros((), dtype),
        t1=end,
        dt0=None if step is None else jnp.copysign(jnp.asarray(step, dtype), end),
        y0=start,
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        stepsize_controller=adaptive if step is None else diffrax.ConstantStepSize(),
        max_steps=max_steps,
        throw=False,
    )
    return eqx.tree_at(
        lambda s: s.ys, solution, cast(solution.ys, own), is_leaf=lambda leaf: leaf is None
    )


class Status(eqx.Enumeration):  # pyright: ignore[reportGeneralTypeIssues]
    """What became of the energy; `Status[descent.status]` is a sentence."""

    descended = "The energy never rose by more than rounding."
    rose = (
        "The energy rose: take smaller steps, descend with backtrack=True, or ask `certify` what "
        "is proved, and of "
        "which form."
    )
    stalled = (
        "No step along the force lowered the energy, however small: the force is not minus "
        "its gradient."
    )
    not_finite = (
        "The energy or its slope stopped being a finite number: take smaller steps, or "
        "start from a smaller state."
    )


class Descent(NamedTuple):
    """A trajectory of explicit steps; entry 0 of each array is the start.

    - `states`: the states, stacked on a new first axis.
    - `energies`: the energy of each state.
    - `descends`: whether no step raised the energy by more than rounding of the terms of the two
        energies compared (`theory/C18-rounding.md`).
    - `status`: a `Status`, which is `descended` or says what happened instead.
    """

    states: PyTree[Float[Array, "steps_and_start ..."]]
    energies: Float[Array, " steps_and_start"]
    descends: Bool[Array, ""]
    status: Status


@eqx.filter_jit
def descend(
    system: AbstractSystem,
    state: Layer | State,
    steps: int,
    *,
    step: float | None = None,
    backtrack: bool = False,
    form: AbstractSystem | None = None,
) -> Descent:
    r"""Take explicit steps from a state, recording states and energies.

    A block takes its own: $x \leftarrow (1 - \text{leak}\cdot\text{step})\,x + \text{step}\cdot
    F(g)$, which is the residual step for leak 0, the leaky one for leak 1, and the concave-convex
    procedure for leak 1 and step 1. A memory takes those of Euler, $x_a \leftarrow x_a +
    (\text{step}/\tau_a)\,f_a(x)$ for all layers at once.

    **Arguments:**

    - `system`: a block, of which each of the `steps` is one call (`n_iter` explicit steps), or a
      memory.
    - `state`: the initial state of one example.
    - `steps`: how many.
    - `step`: the step of a memory, in the unit of its time constants; a block has its own.
    - `backtrack`: halve each step until the energy falls by at least 1e-4 of what its slope
        promises (Armijo's rule), and the step does not turn the velocity round into a larger one,
        $\dot x \cdot \dot x' \ge -|\dot x|^2$: energies do not see a state run away where its units
        are saturated, or where all that is promised is below rounding. Where 40 halvings do not
        help, the state stays.
    - `form`: whose energy is recorded; the system itself by default. Of weights that are
        conservative but not tied, $V = W^\top D$, it is `certify(system).form` whose energy falls.

    **Returns:** a `Descent`; a rise of the energy is its `status`, not an exception.

    **Raises:** `ValueError` for a memory without a step, for a block with one, and for fewer than 0
    steps; `TypeError` for what is neither.
    """
    if steps < 0:
        raise ValueError(f"`descend` takes steps >= 0, got {steps}.")
    advance = _advance(system, step, backtrack, form)
    start = _start(system, state)
    form = form or system

    def record(carry, _):
        x, status = carry
        return advance(x, status), (x, form.energy(x))

    (_, status), (states, energies) = jax.lax.scan(
        record, (start, Status.descended), None, length=steps + 1
    )
    descends = jnp.all(_falls(form, states, energies))
    status = Status.where(descends | (status == Status.not_finite), status, Status.rose)
    status = Status.where(jnp.all(jnp.isfinite(energies)), status, Status.not_finite)
    return Descent(states, energies, descends, status)


def _falls(
    system: AbstractSystem, states: Any, energies: Float[Array, " n"]
) -> Bool[Array, " steps"]:
    """Whether each step of a trajectory raised the energy by no more than rounding."""
    at = lambda k: (jax.tree.map(lambda a: a[k], states), energies[k])
    falls = lambda k: is_rounding(system, energies[k + 1] - energies[k], at(k), at(k + 1))
    return jax.lax.map(falls, jnp.arange(energies.size - 1))


class Settled(NamedTuple):
    """Where a system came to rest, or how far it got.

    - `state`: the last state; NaN where numbers stopped being finite.
    - `residual`: the largest remaining velocity, in units of the state per unit of time; a constant
      of differentiation.
    - `result`: an `optimistix.RESULTS`; a failure is a value, not an exception. `stagnation` says
        that a step was too short to change the state, which is not at rest, in its dtype.
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
                "Each example of a batch has a sentence of its own: jax.tree.map(lambda a: a[i], "
                "settled).sentence."
            )
        moved = f"the state moves by {float(self.residual):.3g} per unit of time"
        if bool(self.result == optx.RESULTS.successful):
            return f"Settled after {int(self.steps)} steps; {moved}."
        dtype = jnp.result_type(*jax.tree.leaves(self.state))
        if bool(self.result == optx.RESULTS.stagnation):
            return (
                f"Not settled after {int(self.steps)} steps (rounding to {dtype} swallows the "
                f"steps); {moved}. Take "
                "longer steps, a larger tolerance, or numbers of a higher precision."
            )
        why = optx.RESULTS[self.result].strip().rstrip(".")
        return (
            f"Not settled after {int(self.steps)} steps ({why}); {moved}. Allow more steps, "
            f"or take smaller ones."
        )


def settle(
    system: AbstractSystem,
    state: Layer | State,
    *,
    step: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    max_steps: int = 256,
) -> Settled:
    r"""The fixed point that explicit steps reach from a state, with implicit gradients.

    The state is at rest where each entry moves by at most atol + rtol |x| per unit of time, and
    also per time constant:

    $$|f_i| \le \min(\tau, 1)\,(\text{atol} + \text{rtol}\,|x_i|), \qquad f = \tau \dot x,$$

    however short the steps are. A step that rounding swallows is no rest: the state that is left is
    said to stagnate.

    Gradients are those of the implicit function $f(x) = 0$ of the free entries, whose parameters
    are the weights and the clamped entries of the start; free entries of the start have none. They
    take a matrix of the size of the state squared. Where the state did not come to rest they are
    what the same formula gives at the last state, and NaN where numbers stopped being finite; a bad
    example of a batch of `jax.vmap` leaves the others alone.

    **Arguments:**

    - `system`: a memory, or a block with `leak` > 0; without decay its states grow for ever.
    - `state`: the initial state.
    - `step`: the step of a memory, as in `descend`.
    - `rtol`, `atol`: the tolerances, in the unit of the state; both apply to each entry.
    - `max_steps`: how many steps may be taken, calls of a block.

    **Returns:** a `Settled`; a failure is a value with a sentence, not an exception.

    **Raises:** `ValueError` for integer states, a block whose leak is 0, a memory without a step >
    0, a block with a step, negative tolerances and numbers of steps; `TypeError` for what is
    neither.
    """
    _need_system(system)
    if not system.decays:
        raise ValueError(
            "A block with leak 0 has no fixed point in general; derive it with leak > 0."
        )
    _checked_step(system, step)  # complain before the steps are compiled
    for name, value in {"rtol": rtol, "atol": atol, "max_steps": max_steps}.items():
        if not isinstance(value, Tracer) and not value >= 0:
            raise ValueError(f"`settle` takes {name} >= 0, got {value}.")
    return _settle(system, _start(system, state), step, rtol, atol, max_steps)


@eqx.filter_jit
def _settle(
    system: AbstractSystem, start: Any, step: float | None, rtol: float, atol: float, max_steps: int
) -> Settled:
    def residual(x):
        return system.hold(system.force(x), jax.tree.map(jnp.subtract, x, start))

    def find(x):
        walk = _walk(system, x, step, rtol, atol, max_steps)
        return walk.x, walk

    state, walk = implicit_root(residual, start, find)
    finite = _all(jax.tree.map(jnp.isfinite, (walk.x, walk.force)))
    stuck: Any = optx.RESULTS.stagnation  # inherited, which type checkers do not see
    result = optx.RESULTS.where(walk.stuck, stuck, optx.RESULTS.nonlinear_max_steps_reached)
    result = optx.RESULTS.where(_at_rest(system, walk, rtol, atol), optx.RESULTS.successful, result)
    result = optx.RESULTS.where(finite, result, optx.RESULTS.nonfinite)
    speeds = system.map_layers(lambda layer, force: jnp.max(jnp.abs(force / layer.tau)), walk.force)
    return Settled(
        spoil(state, ~finite), jnp.max(jnp.stack(jax.tree.leaves(speeds))), result, walk.steps
    )


class _Walk(NamedTuple):
    """A state, the force at it, whether the step to it changed nothing, and how many steps were
    taken.
    """

    x: Any
    force: Any
    stuck: Bool[Array, ""]
    steps: Array


def _walk(
    system: AbstractSystem, start: Any, step: float | None, rtol: float, atol: float, max_steps: int
) -> _Walk:
    def once(walk: _Walk) -> _Walk:
        x = walk.x
        force = walk.force
        for _ in range(system.steps_per_call):
            x = jax.tree.map(_euler, x, force, system.lengths(step))
            force = system.force(x)
        return _Walk(x, force, _all(jax.tree.map(jnp.equal, x, walk.x)), walk.steps + 1)

    def goes_on(walk: _Walk) -> Bool[Array, ""]:
        finite = _all(jax.tree.map(jnp.isfinite, (walk.x, walk.force)))
        return finite & ~walk.stuck & (walk.steps < max_steps) & ~_at_rest(system, walk, rtol, atol)

    begun = _Walk(start, system.force(start), jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, once, begun)


def _at_rest(system: AbstractSystem, walk: _Walk, rtol: float, atol: float) -> Bool[Array, ""]:
    def slow(layer, x, force):
        return jnp.abs(force) <= min(layer.tau, 1.0) * (atol + rtol * jnp.abs(x))

    return _all(system.map_layers(slow, walk.x, walk.force))


def _all(tree: PyTree[Bool[Array, "..."]]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(leaf) for leaf in jax.tree.leaves(tree)]))


def _euler(x: Layer, force: Layer, length: Any) -> Layer:
    return x + jnp.asarray(length, x.dtype) * force


def _start(system: AbstractSystem, state: Any) -> Any:
    """A state as arrays of the dtype that forces have, which is a wider one where the weights
    are.
    """
    state = dict(state) if isinstance(state, Mapping) else state
    forces = jax.eval_shape(system.force, state)
    dtype = jnp.result_type(*jax.tree.leaves(forces))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), state)


def _advance(
    system: AbstractSystem,
    step: float | None,
    backtrack: bool = False,
    form: AbstractSystem | None = None,
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One recorded step: from a state and the status so far to the next ones."""
    length = _checked_step(system, step)
    if not backtrack:
        return lambda x, status: (system.advance(x, length), status)
    once = lambda _, carry: _backtrack(form or system, system.direction, carry[0], length, carry[1])
    if not system.has_own_step:
        return lambda x, status: once(None, (x, status))
    return lambda x, status: jax.lax.fori_loop(0, system.steps_per_call, once, (x, status))


def _checked_step(system: AbstractSystem, step: float | None) -> Any:
    _need_system(system)
    length = system.step_length(step)
    _need_positive(length)
    return length


def _need_positive(step: Any):
    if not isinstance(step, Tracer) and not step > 0:
        raise ValueError(
            f"Steps are > 0, got {step}; a tenth of the smallest time constant is safe."
        )


def _need_system(system: Any):
    if not (isinstance(system, AbstractSystem) and system.has_energy):
        raise TypeError(
            f"Dynamics are those of a Block or an AssociativeMemory, got a "
            f"{type(system).__name__}; the two `parts` of "
            "a serial block are blocks."
        )


def _backtrack(
    system: AbstractSystem, force: Callable, x: Any, step: float, status: Any
) -> tuple[Any, Any]:
    """Armijo's rule along the force and that of `_is_stable`, with at most 40 halvings."""
    direction = force(x)
    start, slope = jax.jvp(system.energy, (x,), (direction,))
    first = jnp.asarray(step, start.dtype)
    nothing = jnp.zeros_like(widened(start))
    by_terms = lambda: allowed_rise(energy_magnitude(system, x), nothing, start.dtype)

    def halve(carry):
        size, _, rounding, known, risen = carry
        moved = move(x, direction, size)
        excess = widened(system.energy(moved) - start - 1e-4 * size * jnp.minimum(slope, 0))
        # What costs a gradient is asked for once, and only if the magnitude of the energy itself
        # does not say enough.
        ask = ~known & ~(excess <= rounding)
        rounding = jax.lax.cond(ask, by_terms, lambda: rounding)
        low = excess <= rounding  # a NaN is not
        risen = risen | ~low
        # A slope may be above 0 by rounding; where energies rise too, short steps climb by less
        # than that.
        climbs = risen & (widened(first) * widened(slope) > rounding)
        accepted = low & ~climbs & _is_stable(direction, force(moved))
        return jnp.where(accepted, size, 0.5 * size), ~accepted, rounding, known | ask, risen

    quick = allowed_rise(jnp.abs(widened(start)), nothing, start.dtype)
    begin = first, jnp.ones((), bool), quick, jnp.zeros((), bool), jnp.zeros((), bool)
    goes_on = lambda carry: carry[1] & (carry[0] > first * 2.0**-40)
    size, stuck, rounding, _, risen = jax.lax.while_loop(goes_on, halve, begin)
    promised = widened(first) * widened(jnp.abs(slope)) > rounding
    stalled = stuck & risen & promised & (status == Status.descended)
    status = Status.where(stalled, Status.stalled, status)
    status = Status.where(jnp.isfinite(slope), status, Status.not_finite)
    return move(x, direction, jnp.where(stuck, jnp.zeros_like(size), size)), status


def _is_stable(before: Any, after: Any) -> Bool[Array, ""]:
    """Whether a step does not turn a force round into a larger one, as stable steps of a linear
    system do not.
    """
    size = jnp.max(jnp.stack([jnp.max(jnp.abs(a)) for a in jax.tree.leaves(before)]))
    unit = jnp.where(size > 1, 0.125 * size, 1)  # whose reciprocal is not subnormal
    along = jax.tree.map(lambda a, b: jnp.sum(a / unit * (a / unit + b / unit)), before, after)
    return jnp.sum(jnp.stack(jax.tree.leaves(along))) >= 0
