r"""Rounding: how much a computed energy may rise in a step that descends exactly.

$$\hat E(\hat x') - \hat E(\hat x) \le \left(8\,\epsilon + 24\,\epsilon_{32}\right) [M(x) + M(x \to x')]$$

with the unit $\epsilon$ in the last place of the dtype, that of the sums, $\epsilon_{32}$ (of
float32 for half precision, else $\epsilon$ itself), and the *magnitude* $M$ of an energy: the sum
of the magnitudes of all that it adds up, down to single products, and of what rounding of its state
changes, $\sum_i |x_i\,\partial E/\partial x_i|$; after a step from $x$ to $x'$, with $|x_i| +
|x_i'|$ for the state. The form is proved in `theory/C18-rounding.md`, with a constant for the worst
case; 8 and 24 are measured.
"""  # noqa: E501

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from hopmix._numerics.dtypes import widened
from hopmix._numerics.tolerances import rounding_of
from hopmix._types import Energy, Scalar

ROUNDINGS = 8
ADDITIONS = 24
"""Units in the last place for the roundings of each number on its way into a sum, and for those of
the sums.
"""


def rounding_unit(dtype: Any) -> float:
    """The rise that rounding explains, in units of the magnitudes of the two energies together."""
    of_sums = min(rounding_of(dtype), rounding_of(jnp.float32))
    return rounding_of(dtype, ROUNDINGS) + ADDITIONS * of_sums


def allowed_rise(before: Energy, after: Energy, dtype: Any) -> Energy:
    """The rise of a computed energy in one step that rounding explains.

    **Arguments:**

    - `before`, `after`: the magnitudes of the two energies.
    - `dtype`: of the states and energies.
    """
    return (
        rounding_unit(dtype) * before + rounding_unit(dtype) * after
    )  # not of a sum, which overflows sooner


def energy_magnitude(system: Any, state: Any) -> Energy:
    """The magnitude of the energy of a block or a memory, in at least float32, where sums of halves
    do not overflow.
    """
    return _magnitude(measured(system, state))


def state_magnitude(energy: Callable[[Any], Scalar], state: Any, sizes: Any = None) -> Scalar:
    r"""$\sum_i |s_i\,\partial E/\partial x_i|$: by how much errors relative to some sizes $s$ can
    change an energy.

    **Arguments:**

    - `energy`, `state`: $E$ and $x$.
    - `sizes`: $s$, in the form of the state; by default the state itself, whose errors are then
      relative ones.
    """
    return _along(state if sizes is None else sizes, jax.grad(energy)(state))


def _along(sizes: Any, slopes: Any) -> Scalar:
    return total(
        [jnp.sum(jnp.abs(s * g)) for s, g in zip(jax.tree.leaves(sizes), jax.tree.leaves(slopes))]
    )


class Measured(NamedTuple):
    """What judging a rise needs to know of a state: it, its energy, the magnitude of its terms, and
    its slopes.
    """

    state: Any
    energy: Scalar
    terms: Scalar
    slopes: Any


def measured(system: Any, state: Any) -> Measured:
    """What judging a rise of the energy of a block or a memory needs to know of a state, in at
    least float32.
    """
    system, state = jax.tree.map(widened, (system, state))
    energy, slopes = jax.value_and_grad(system.energy)(state)
    return Measured(state, energy, system.term_magnitude(state), slopes)


def step_magnitudes(system: Any, before: Any, after: Any) -> tuple[Scalar, Scalar]:
    r"""The magnitudes of the energies before and after a step."""
    return magnitudes_of_step(measured(system, before), measured(system, after))


def magnitudes_of_step(before: Measured, after: Measured) -> tuple[Scalar, Scalar]:
    r"""The magnitudes of the energies before and after a step, from what is known of the two
    states.

    Where a step nearly takes back a state, as a full leaky one does, what is left is rounded as the
    state before was: $\sum_i |x_i\,\partial E/\partial x_i'|$ counts for the energy after it.
    """
    left = _along(before.state, after.slopes)
    return _magnitude(before), _magnitude(after) + left


def _magnitude(of: Measured) -> Scalar:
    return of.terms + _along(of.state, of.slopes)


def total(magnitudes: list[Scalar]) -> Scalar:
    """The sum of some numbers."""
    return sum(magnitudes[1:], magnitudes[0])


def is_rounding(
    system: Any, rise: Scalar, before: tuple[Any, Scalar], after: tuple[Any, Scalar]
) -> Bool[Array, ""]:
    """Whether a rise of the energy is no more than rounding; one that is not a number is more.

    **Arguments:**

    - `system`: with `energy(state)` and `term_magnitude(state)`, as blocks and memories have them.
    - `before`, `after`: the state and its energy.
    """
    dtype = rise.dtype
    rise = widened(rise)
    # No energy is larger than its magnitude, which costs a gradient and is not asked for where this
    # says enough.
    sizes = [jnp.abs(widened(energy)) for _, energy in (before, after)]
    sure = rise <= allowed_rise(sizes[0], sizes[1], dtype)

    def by_terms() -> Bool[Array, ""]:
        return rise <= allowed_rise(*step_magnitudes(system, before[0], after[0]), dtype)

    return jax.lax.cond(sure, lambda: jnp.ones((), bool), by_terms)
