"""Assert that steps lower an energy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hopmix._numerics.dtypes import widened
from hopmix._numerics.rounding import energy_magnitude, rounding_unit, state_magnitude
from hopmix._system import AbstractSystem
from hopmix.testing._show import show_numbers, show_state


def assert_energy_descends(
    step: Callable[[Any], Any],
    energy: Callable[[Any], Any],
    states: Any,
    *,
    steps: int = 10,
    rtol: float | None = None,
    stacked: bool = True,
    magnitude: Callable[[Any], Any] | None = None,
) -> None:
    r"""Assert that no step raises the energy by more than rounding: $E(\text{step}(x)) \le E(x)$.

    What rounding may do follows from the magnitudes of the two energies compared, the sums of the
    magnitudes of all that they add up (`theory/C18-rounding.md`).

    **Arguments:**

    - `step`: from a state to the next one, an array or a tree of arrays; anything that JAX can
      trace.
    - `energy`: from a state to one number.
    - `states`: the states to start from, stacked on a first axis.
    - `steps`: how many steps to take from each.
    - `rtol`: the rise that is allowed, in units of the magnitudes of the two energies together; if
        `None`, what rounding explains, 32 ulp.
    - `stacked`: `False` if `states` is a single state.
    - `magnitude`: from a state to the magnitude of its energy. By default `energy_magnitude` of the
        block or the memory whose `energy` this is, and of any other function $|E| + \sum_i
        |x_i\,\partial E/\partial x_i|$ by automatic differentiation, which does not see what the
        energy adds up and cancels inside. It is asked for only if an energy rises.

    **Raises:** `AssertionError` with the worst rise, its step and the state before it; also for an
    energy that is not a finite number. `ValueError` if a step changes shape or dtype, or the energy
    of a state is not one number.
    """
    states = jax.tree.map(jnp.asarray if stacked else lambda a: jnp.asarray(a)[None], states)
    path = states
    energies = []
    for _ in range(steps + 1):
        following, values = _advance(step, energy, path)
        energies.append(np.asarray(values, float))
        path = following
    rtol = rounding_unit(values.dtype) if rtol is None else rtol
    energies = np.stack(energies)
    sizes = np.abs(energies[1:]) + np.abs(energies[:-1])
    if np.any(np.diff(energies, axis=0) > rtol * sizes):
        sizes = np.maximum(
            sizes, _magnitudes(step, energy, magnitude or _magnitude_of(energy), states, steps)
        )
    if problem := _worst_rise(energies, sizes, rtol):
        k, n, sentence = problem
        for _ in range(k):
            states, _ = _advance(step, energy, states)
        raise AssertionError(
            f"{sentence}\nState before this "
            f"step:\n{show_state(jax.tree.map(lambda a: a[n], states))}"
        )


@eqx.filter_jit
def _advance(step, energy, states) -> tuple[Any, Array]:
    return jax.vmap(lambda x: _checked(x, step(x), energy(x)))(states)


def _magnitude_of(energy: Callable[[Any], Any]) -> Callable[[Any], Any]:
    owner = getattr(energy, "__self__", None)
    if isinstance(owner, AbstractSystem) and energy.__name__ == "energy":
        return partial(energy_magnitude, owner)

    def by_state(x: Any) -> Any:
        moving, rest = eqx.partition(x, eqx.is_inexact_array)
        return jnp.abs(energy(x)) + state_magnitude(
            lambda moving: energy(eqx.combine(moving, rest)), moving
        )

    return by_state


def _magnitudes(step, energy, magnitude, states: Any, steps: int) -> np.ndarray:
    """The magnitudes of the energies before and after each step together, along the steps from each
    state.
    """

    @eqx.filter_jit
    @jax.vmap
    def of_step(x, following):
        moving, rest = eqx.partition(following, eqx.is_inexact_array)
        value = lambda moving: energy(eqx.combine(moving, rest))
        left = state_magnitude(value, moving, eqx.filter(x, eqx.is_inexact_array))
        return sum(widened(part) for part in (magnitude(x), magnitude(following), left))

    sizes = []
    for _ in range(steps):
        following, _ = _advance(step, energy, states)
        sizes.append(np.asarray(of_step(states, following), float))
        states = following
    return np.stack(sizes)


def _checked(x: Any, following: Any, value: Any) -> tuple[Any, Array]:
    form = partial(jax.tree.map, lambda a: f"{a.dtype}{a.shape}")
    here = form(x)
    there = form(following)
    if here != there:
        raise ValueError(
            f"A step keeps the shape and the dtype of its state: got {there} from {here}."
        )
    if jnp.shape(value) != ():
        raise ValueError(
            f"The energy of one state must be one number, got shape {jnp.shape(value)} for {here}."
        )
    return following, value


def _worst_rise(
    energies: np.ndarray, sizes: np.ndarray, rtol: float
) -> tuple[int, int, str] | None:
    """The step and the number of the state with the largest relative rise above `rtol`, and a
    sentence about it.
    """
    if not np.all(np.isfinite(energies)):
        k, n = map(int, np.argwhere(~np.isfinite(energies))[0])
        path = show_numbers(energies[: k + 1, n])
        return (
            max(k - 1, 0),
            n,
            f"The energy of state {n} is not a finite number after {k} steps.\nEnergies: {path}",
        )
    rises = np.diff(energies, axis=0) / np.where(sizes > 0, sizes, 1.0)
    k, n = map(int, np.unravel_index(np.argmax(rises), rises.shape))
    if rises[k, n] <= rtol:
        return None
    before, after = energies[k : k + 2, n]
    sentence = (
        f"The energy rises in step {k + 1} of state {n}, from {before:.10g} to {after:.10g}: by "
        f"{rises[k, n]:.2g} of "
        f"the magnitudes of both, where {rtol:.2g} is allowed.\nEnergies: "
        f"{show_numbers(energies[:, n])}"
    )
    return k, n, sentence
