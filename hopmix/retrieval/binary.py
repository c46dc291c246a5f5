r"""Binary memories: spins $s \in \{-1, +1\}$, any energy $E(s)$, and the updates that lower it.

Updating one spin at a time, and only where that lowers the energy, ends in a local minimum: the
energy falls with every flip, and there are finitely many states. Updating all spins at once has no
such guarantee, not even for symmetric weights: with $E = s_0 s_1$ (weights $W_{01} = W_{10} = -1$)
it goes from $(1, 1)$ to $(-1, -1)$ and back for ever.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from hopmix._numerics.dtypes import need_floats, widened
from hopmix._numerics.special import Wide
from hopmix._synapse import HopfieldMemory
from hopmix._types import Layer, PRNGKey, Scalar

BinaryEnergy: TypeAlias = Callable[[Layer], Scalar] | HopfieldMemory
"""An energy of spins: any function, or stored patterns, of which a flip costs one addition for each
pattern.
"""


class Recalled(NamedTuple):
    """A trajectory of asynchronous sweeps; entry 0 of each array is the start.

    - `states`: the spins after each sweep, stacked on a new first axis.
    - `energies`: the energy of each state, which never rises (beyond rounding). It may overflow;
        flips of stored patterns are then still right, as `flip_costs` is.
    - `converged`: whether the last sweep changed nothing and no cost of its state is negative, so
        that it is a local minimum. False where a cost is NaN, as it is of a function that overflows
        before and after a flip.
    """

    states: Float[Array, "sweeps_and_start ..."]
    energies: Float[Array, " sweeps_and_start"]
    converged: Bool[Array, ""]


def flip_costs(energy: BinaryEnergy, spins: Layer) -> Layer:
    r"""What it costs to flip each spin alone, $c_i = E(\ldots, -s_i, \ldots) - E(s)$.

    A state is a local minimum if and only if no cost is negative. Those of stored patterns are sums
    over patterns of what a flip changes, not differences of sums: they have the right sign also
    where the energy overflows, and are then large or infinite. (A cost that would underflow is the
    smallest number of its sign.)

    **Arguments:**

    - `energy`: a function of the spins, or a `HopfieldMemory`. Each new function is compiled anew.
        Where a function overflows before and after a flip, the cost is NaN.
    - `spins`: -1 or +1, of any shape; batch with `jax.vmap`.

    **Raises:** `ValueError` for integers and other spins; inside a transformation such as
    `jax.jit`, a runtime error.
    """
    return _flip_costs(energy, _checked(spins))


@eqx.filter_jit
def _flip_costs(energy: BinaryEnergy, spins: Layer) -> Layer:
    view = _view(energy, spins)
    flat = spins.ravel()
    return _costs(view, flat).reshape(spins.shape)


def _costs(view: "_View", flat: Float[Array, " n"]) -> Float[Array, " n"]:
    seen = view.look(flat)
    return jax.vmap(lambda i: view.flip(seen, flat, i)[1])(jnp.arange(flat.size))


def update_all(energy: BinaryEnergy, spins: Layer) -> Layer:
    r"""One synchronous update: all spins whose flip alone would lower the energy flip together;
    ties keep.

    Where one pattern dominates it corrects all errors at once; elsewhere it may raise the energy,
    and cycle.

    **Arguments:** as in `flip_costs`.

    **Raises:** as in `flip_costs`, and likewise for a function whose costs are NaN, which say of no
    spin whether it should flip.

    **Source:** Demircigil et al. 2017 (arXiv 1702.01929), the dynamics of its theorem on retrieval.
    """
    costs = flip_costs(energy, spins)
    unknown = jnp.isnan(costs)
    rule = "The energy overflows before and after a flip, which says nothing about it"
    cure = (
        "scale the energy down, or store patterns in a HopfieldMemory, whose flips are "
        "decided without overflow"
    )
    if isinstance(unknown, Tracer):
        costs = eqx.error_if(costs, unknown, f"{rule}: {cure}.")
    elif unknown.any():
        raise ValueError(f"{rule}, for {int(unknown.sum())} of {costs.size} spins: {cure}.")
    return jnp.where(costs < 0, -spins, spins)


def recall(energy: BinaryEnergy, spins: Layer, *, sweeps: int, key: PRNGKey) -> Recalled:
    r"""Asynchronous updates: in a sweep each spin is visited once, in a random order, and flips if
    and only if that lowers the energy; ties keep.

    **Arguments:**

    - `energy`: a function of the spins, or a `HopfieldMemory`. Each new function is compiled anew.
    - `spins`: the start, -1 or +1, of any shape; batch with `jax.vmap`.
    - `sweeps`: how many to make.
    - `key`: of the orders.

    **Returns:** a `Recalled`; that the sweeps did not suffice is its `converged`, not an exception.

    **Raises:** `ValueError` for less than one sweep, and for other spins as in `flip_costs`.

    **Source:** Hopfield 1982; Krotov & Hopfield 2016 (arXiv 1606.01164), equation 3.
    """
    if sweeps < 1:
        raise ValueError(
            f"`recall` needs sweeps >= 1, got {sweeps}; most memories come to rest within ten."
        )
    return _recall(energy, _checked(spins), sweeps, key)


@eqx.filter_jit
def _recall(energy: BinaryEnergy, spins: Layer, sweeps: int, key: PRNGKey) -> Recalled:
    view = _view(energy, spins)

    def sweep(flat, key):
        flat = _sweep(view, flat, jr.permutation(key, flat.size))
        return flat, flat

    states = jax.lax.scan(sweep, spins.ravel(), jr.split(key, sweeps))[1]
    states = jnp.concatenate([spins.ravel()[None], states])
    energies = jax.lax.map(lambda flat: view.energy(view.look(flat)), states)
    at_rest = jnp.all(states[-1] == states[-2]) & jnp.all(_costs(view, states[-1]) >= 0)
    return Recalled(states.reshape(-1, *spins.shape), energies.astype(spins.dtype), at_rest)


def _sweep(view: "_View", flat: Float[Array, " n"], order: Int[Array, " n"]) -> Float[Array, " n"]:
    def visit(carry, i):
        flat, seen = carry
        flipped, cost = view.flip(seen, flat, i)
        falls = cost < 0
        flat = flat.at[i].set(jnp.where(falls, -flat[i], flat[i]))
        return (
            flat,
            jax.tree.map(lambda new, old: jnp.where(falls, new, old), flipped, seen),
        ), None

    seen = view.look(
        flat
    )  # afresh in every sweep: what flips add up to is rounded where patterns are no integers
    return jax.lax.scan(visit, (flat, seen), order)[0][0]


class _Spins(eqx.Module):
    """Any energy looks at the spins themselves; seen are they and their energy."""

    function: Callable[[Layer], Scalar]
    shape: tuple[int, ...] = eqx.field(static=True)

    def look(self, flat: Float[Array, " n"]) -> tuple[Float[Array, " n"], Scalar]:
        return flat, self.function(flat.reshape(self.shape))

    def flip(self, seen: Any, flat: Float[Array, " n"], i: Int[Array, ""]):
        """What is seen after a flip, and its cost."""
        flipped = self.look(flat.at[i].set(-flat[i]))
        return flipped, flipped[1] - seen[1]

    def energy(self, seen: Any) -> Scalar:
        return seen[1]


class _Similarities(eqx.Module):
    """Stored patterns see the spins only by their similarities, which a flip changes by one
    column.
    """

    memory: HopfieldMemory
    shape: tuple[int, ...] = eqx.field(static=True)

    def look(self, flat: Float[Array, " n"]) -> Float[Array, " patterns"]:
        return self.memory.similarities(widened(flat).reshape(self.shape))

    def flip(self, seen: Any, flat: Float[Array, " n"], i: Int[Array, ""]):
        """What is seen after a flip, and its cost."""
        # Of distances too: -(pattern - spin)^2 / 2 changes by -2 spin * pattern.
        step = -2 * widened(flat[i]) * self.memory.patterns.reshape(len(seen), -1)[:, i]
        mantissa, exponent = self.memory.separation.difference(seen, step)
        return seen + step, Wide(-mantissa, exponent).narrow(flat.dtype)

    def energy(self, seen: Any) -> Scalar:
        return -self.memory.separation(seen)


_View: TypeAlias = _Spins | _Similarities


def _view(energy: BinaryEnergy, spins: Layer) -> _View:
    if not isinstance(energy, HopfieldMemory):
        return _Spins(energy, spins.shape)
    if type(energy) is not HopfieldMemory:  # who knows what else its energy is
        return _Spins(energy.energy, spins.shape)
    energy.similarities(spins)  # complains where the patterns do not fit
    return _Similarities(jax.tree.map(widened, energy), spins.shape)


def _checked(spins: Layer) -> Layer:
    need_floats("The spins", spins)
    wrong = jnp.abs(spins) != 1
    rule = "Spins must be -1 or +1"
    if isinstance(wrong, Tracer):
        return eqx.error_if(spins, wrong, f"{rule}; take the sign of a state that has no zeros.")
    if wrong.any():
        raise ValueError(
            f"{rule}, got {spins[wrong][0]:g}; take the sign of a state that has no zeros."
        )
    return spins
