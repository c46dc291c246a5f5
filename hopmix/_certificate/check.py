"""Check: descent and symmetry of a system tried on numbers, and the worst case."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.rounding import rounding_unit, step_magnitudes
from hopmix._numerics.tolerances import CHANGES, NUDGE, conservative_field, rounding_of
from hopmix._system import AbstractSystem
from hopmix._types import PRNGKey


class Check(NamedTuple):
    """The worst case of a numerical check.

    - `passed`: whether the energy never rose by more than rounding of its terms
        (`theory/C18-rounding.md`), and the field was conservative up to rounding.
    - `worst_rise`: the largest rise of the energy in one step, in units of the two energies
        compared; where that is more than rounding of these, in units of their magnitudes, which
        count all terms. NaN where there is no energy.
    - `asymmetry`: the metric-aware asymmetry of the field, $|HJ - (HJ)^\\top| / (2|HJ|)$, by random
        probes; 0 for a gradient.
    - `examples`: how many states were tried.
    """

    passed: bool
    worst_rise: float
    asymmetry: float
    examples: int


def draw_states(system: AbstractSystem, key: PRNGKey, examples: int, scale: float) -> Any:
    """Gaussian states of this standard deviation, stacked on a first axis."""
    return jax.vmap(lambda k: system.draw(k, scale))(jr.split(key, examples))


def check_descent(
    system: AbstractSystem, form: AbstractSystem | None, states: Any, steps: int
) -> Check:
    """Try descent and symmetry from given states.

    **Arguments:**

    - `system`: whose steps and forces are tried.
    - `form`: whose energy and metric they are held against; the system itself, or its conservative
      form.
    - `states`: stacked on a first axis.
    - `steps`: how many from each state.
    """
    for leaf in jax.tree.leaves(states):
        need_floats("The states", leaf)
    # Once: of weights that are given twice the compiler does not know that forces and energies
    # share their products.
    form = None if form is system else form
    energies, probes = eqx.filter_jit(_trial)(system, form, states, steps)
    rise = _worst_rise(system, form, energies, states)
    probes = np.asarray(probes, float)
    allowed = conservative_field(energies.dtype)
    asymmetry = _asymmetry(probes, np.zeros(len(probes)))
    if not asymmetry <= allowed:
        asymmetry = _asymmetry(probes, _rounding_of_probes(system, form, states, probes))
    return Check(
        rise <= rounding_unit(energies.dtype) and asymmetry <= allowed,
        rise,
        asymmetry,
        len(energies),
    )


def _rounding_of_probes(
    system: AbstractSystem, form: AbstractSystem | None, states: Any, probes: np.ndarray
) -> np.ndarray:
    """How much the two halves of each probe change with numbers that differ by rounding alone."""
    moved = eqx.filter_jit(_nudged_probes)(system, form, states)
    return CHANGES * np.max(np.sum(np.abs(np.asarray(moved, float) - probes), axis=2), axis=0)


def _worst_rise(
    system: AbstractSystem, form: AbstractSystem | None, energies: Array, states: Any
) -> float:
    """The largest relative rise along trajectories, of which these are the first states."""
    values = np.asarray(energies, float)
    with np.errstate(invalid="ignore"):  # of energies that are infinite
        rises = np.diff(values, axis=1)
    sizes = np.abs(values[:, 1:]) + np.abs(values[:, :-1])
    doubtful = rises > rounding_unit(energies.dtype) * sizes
    examples = np.flatnonzero(np.any(doubtful, axis=1))
    if (
        examples.size
    ):  # no energy is larger than its magnitude, which is asked for only where it may matter
        few = jax.tree.map(lambda a: a[examples], states)
        before, after = eqx.filter_jit(_magnitudes)(system, form, few, rises.shape[1])
        by_terms = np.asarray(before, float) + np.asarray(after, float)
        sizes[examples] = np.where(
            doubtful[examples], np.fmax(by_terms, sizes[examples]), sizes[examples]
        )
    return float(np.max(rises / np.where((sizes > 0) & np.isfinite(sizes), sizes, 1.0)))


def _trial(
    system: AbstractSystem, form: AbstractSystem | None, states: Any, steps: int
) -> tuple[Array, Array]:
    """Energies along explicit steps from each state, and the two halves of a random antisymmetric
    probe.
    """
    form = form or system
    probes = _probes(system, form, states, jnp.zeros(()))
    # Small systems side by side; of large ones one fills the cache.
    together = max(1, min(64, 2**16 // sum(a[0].size for a in jax.tree.leaves(states))))
    return jax.lax.map(
        lambda x: _trace(system, form, x, steps), states, batch_size=together
    ), probes


def _probes(system: AbstractSystem, form: AbstractSystem, states: Any, nudge: Array) -> Array:
    keys = jr.split(jr.key(0), jax.tree.leaves(states)[0].shape[0])
    return jax.lax.map(lambda pair: _probe(system, form, pair[0], pair[1], nudge), (states, keys))


def _nudged_probes(system: AbstractSystem, form: AbstractSystem | None, states: Any) -> Array:
    return jax.lax.map(
        lambda nudge: _probes(system, form or system, states, nudge), jnp.asarray([1.0, -0.7, 0.4])
    )


def _trace(system: AbstractSystem, form: Any, start: Any, steps: int) -> Array:
    if not system.has_energy:
        return jnp.full(steps + 1, jnp.nan, start.dtype)
    end, energies = jax.lax.scan(
        lambda x, _: (system.trial_step(x), form.energy(x)), start, None, length=steps
    )
    return jnp.concatenate([energies, form.energy(end)[None]])


def _magnitudes(system: Any, form: Any, starts: Any, steps: int) -> tuple[Array, Array]:
    """The magnitudes of the energies before and after each of the explicit steps from each
    state.
    """
    form = form or system

    def once(x: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
        following = system.trial_step(x)
        return following, step_magnitudes(form, x, following)

    return jax.lax.map(lambda x: jax.lax.scan(once, x, None, length=steps)[1], starts)


def _probe(
    system: AbstractSystem, form: AbstractSystem, x: Any, key: PRNGKey, nudge: Array
) -> Array:
    r"""$u \cdot HJv$ and $v \cdot HJu$ for random $u$ and $v$, equal where the field is a gradient.

    A nudge changes all numbers by that many times a random share of eight units in the last place.
    """
    leaves, structure = jax.tree.flatten(x)
    keys = jr.split(key, len(leaves))
    draws = [_nudged(jr.normal(k, (2, *a.shape), a.dtype), k, nudge) for k, a in zip(keys, leaves)]
    x = jax.tree.unflatten(structure, [_nudged(a, k, nudge) for k, a in zip(keys, leaves)])
    both = jax.vmap(system.zero_clamped)(jax.tree.unflatten(structure, draws))
    pushed = jax.vmap(lambda v: form.metric(x, jax.jvp(system.force, (x,), (v,))[1]))(
        both
    )  # the field itself once
    swapped = jax.tree.map(lambda a: a[::-1], both)
    return jax.vmap(_inner)(swapped, pushed)


def _nudged(a: Array, key: PRNGKey, nudge: Array) -> Array:
    share = rounding_of(a.dtype, NUDGE) * nudge.astype(a.dtype)
    return a * (1 + share * jr.uniform(jr.fold_in(key, 1), a.shape, a.dtype, -1, 1))


def _inner(a: Any, b: Any) -> Array:
    return sum(jnp.sum(p * q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b)))  # pyright: ignore


def _asymmetry(probes: np.ndarray, rounding: np.ndarray) -> float:
    """|M - M^T| / (2|M|): the mean of (u.Mv - v.Mu)^2 is |M - M^T|^2, that of (u.Mv)^2 is |M|^2."""
    largest = np.max(np.abs(probes))
    unit = largest if 0 < largest < np.inf else 1.0
    first, second = (probes / unit).T
    gaps = np.maximum(np.abs(first - second) - rounding / unit, 0)
    return float(
        np.sqrt(np.sum(gaps**2) / max(2 * np.sum(first**2 + second**2), np.finfo(float).tiny))
    )
