"""Assert that steps lower an energy."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hopmix.testing._show import show_numbers, show_state


def assert_energy_descends(
    step: Callable[[Any], Any],
    energy: Callable[[Any], Any],
    states: Any,
    *,
    steps: int = 10,
    rtol: float | None = None,
    stacked: bool = True,
) -> None:
    r"""Assert that no step raises the energy by more than rounding: $E(\text{step}(x)) \le E(x)$.

    **Arguments:**

    - `step`: from a state to the next one, an array or a tree of arrays; anything that JAX can trace.
    - `energy`: from a state to one number.
    - `states`: the states to start from, stacked on a first axis.
    - `steps`: how many steps to take from each.
    - `rtol`: the rise that is allowed, in units of the largest energy met on the way; 64 ulp if `None`.
    - `stacked`: `False` if `states` is a single state.

    **Raises:** `AssertionError` with the worst rise, its step and the state before it; also for an energy that is not
    a finite number. `ValueError` if a step changes shape or dtype, or the energy of a state is not one number.
    """
    states = jax.tree.map(jnp.asarray if stacked else lambda a: jnp.asarray(a)[None], states)
    path, energies = states, []
    for _ in range(steps + 1):
        following, values = _advance(step, energy, path)
        energies.append(np.asarray(values, float))
        path = following
    rtol = 64 * float(jnp.finfo(values.dtype).eps) if rtol is None else rtol
    if problem := _worst_rise(np.stack(energies), rtol):
        k, n, sentence = problem
        for _ in range(k):
            states, _ = _advance(step, energy, states)
        raise AssertionError(f"{sentence}\nState before this step:\n{show_state(jax.tree.map(lambda a: a[n], states))}")


@eqx.filter_jit
def _advance(step, energy, states) -> tuple[Any, Array]:
    return jax.vmap(lambda x: _checked(x, step(x), energy(x)))(states)


def _checked(x: Any, following: Any, value: Any) -> tuple[Any, Array]:
    here, there = (jax.tree.map(lambda a: f"{a.dtype}{a.shape}", tree) for tree in (x, following))
    if here != there:
        raise ValueError(f"A step keeps the shape and the dtype of its state: got {there} from {here}.")
    if jnp.shape(value) != ():
        raise ValueError(f"The energy of one state must be one number, got shape {jnp.shape(value)} for {here}.")
    return following, value


def _worst_rise(energies: np.ndarray, rtol: float) -> tuple[int, int, str] | None:
    """The step and the number of the state with the largest relative rise above `rtol`, and a sentence about it."""
    if not np.all(np.isfinite(energies)):
        k, n = map(int, np.argwhere(~np.isfinite(energies))[0])
        path = show_numbers(energies[: k + 1, n])
        return max(k - 1, 0), n, f"The energy of state {n} is not a finite number after {k} steps.\nEnergies: {path}"
    scale = np.max(np.abs(energies), axis=0)
    rises = np.diff(energies, axis=0) / np.where(scale > 0, scale, 1.0)
    k, n = map(int, np.unravel_index(np.argmax(rises), rises.shape))
    if rises[k, n] <= rtol:
        return None
    before, after = energies[k : k + 2, n]
    sentence = (
        f"The energy rises in step {k + 1} of state {n}, from {before:.10g} to {after:.10g}: by {rises[k, n]:.2g} of "
        f"the largest energy met, where {rtol:.2g} is allowed.\nEnergies: {show_numbers(energies[:, n])}"
    )
    return k, n, sentence
