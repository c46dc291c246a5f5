r"""Binary memories: spins $s \in \{-1, +1\}$, any energy $E(s)$, and the updates that lower it.

Updating one spin at a time, and only where that lowers the energy, ends in a local minimum: the energy falls with
every flip, and there are finitely many states. Updating all spins at once has no such guarantee, not even for symmetric
weights: with $E = s_0 s_1$ (weights $W_{01} = W_{10} = -1$) it goes from $(1, 1)$ to $(-1, -1)$ and back for ever.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from hopmix._hopfield import HopfieldMemory
from hopmix._lagrangian import AbstractLagrangian, Exponential
from hopmix._lagrangian_groups import Softmax
from hopmix._types import Layer, PRNGKey, Scalar

BinaryEnergy: TypeAlias = Callable[[Layer], Scalar] | HopfieldMemory
"""An energy of spins: any function, or stored patterns, of which a flip costs one addition for each pattern."""


class Recall(NamedTuple):
    """A trajectory of asynchronous sweeps; entry 0 of each array is the start.

    - `states`: the spins after each sweep, stacked on a new first axis.
    - `energies`: the energy of each state, which never rises (beyond rounding). That of `Exponential` may overflow;
        flips are then still right, as they follow its logarithm.
    - `converged`: whether the last sweep changed nothing, so that its state is a local minimum. False where the numbers
        that flips are decided by have overflowed.
    """

    states: Float[Array, "sweeps_and_start ..."]
    energies: Float[Array, " sweeps_and_start"]
    converged: Bool[Array, ""]


def flip_costs(energy: BinaryEnergy, spins: Layer) -> Layer:
    r"""What it costs to flip each spin alone, $c_i = E(\ldots, -s_i, \ldots) - E(s)$.

    A state is a local minimum if and only if no cost is negative.

    **Arguments:**

    - `energy`: a function of the spins, or a `HopfieldMemory`. Each new function is compiled anew.
    - `spins`: -1 or +1, of any shape; batch with `jax.vmap`.

    **Raises:** `ValueError` for other spins; inside a transformation such as `jax.jit`, a runtime error.
    """
    return _flip_costs(energy, _checked(spins))


@eqx.filter_jit
def _flip_costs(energy: BinaryEnergy, spins: Layer) -> Layer:
    view, flat = _view(energy, spins), spins.ravel()
    seen = view.look(flat)
    flipped = jax.vmap(lambda i: view.energy(view.flip(seen, flat, i)))(jnp.arange(flat.size))
    return (flipped - view.energy(seen)).reshape(spins.shape)


def update_all(energy: BinaryEnergy, spins: Layer) -> Layer:
    r"""One synchronous update: all spins whose flip alone would lower the energy flip together; ties keep.

    Where one pattern dominates it corrects all errors at once; elsewhere it may raise the energy, and cycle.

    **Arguments and errors:** as in `flip_costs`.

    **Source:** Demircigil et al. 2017 (arXiv 1702.01929), the dynamics of its theorem on retrieval.
    """
    return jnp.where(flip_costs(_decisive(energy), spins) < 0, -spins, spins)


def recall(energy: BinaryEnergy, spins: Layer, *, sweeps: int, key: PRNGKey) -> Recall:
    r"""Asynchronous updates: in a sweep each spin is visited once, in a random order, and flips if and only if that
    lowers the energy; ties keep.

    **Arguments:**

    - `energy`: a function of the spins, or a `HopfieldMemory`. Each new function is compiled anew.
    - `spins`: the start, -1 or +1, of any shape; batch with `jax.vmap`.
    - `sweeps`: how many to make.
    - `key`: of the orders.

    **Returns:** a `Recall`; that the sweeps did not suffice is its `converged`, not an exception.

    **Raises:** `ValueError` for less than one sweep, and for other spins as in `flip_costs`.

    **Source:** Hopfield 1982; Krotov & Hopfield 2016 (arXiv 1606.01164), equation 3.
    """
    if sweeps < 1:
        raise ValueError(f"`recall` needs sweeps >= 1, got {sweeps}; most memories come to rest within ten.")
    return _recall(energy, _checked(spins), sweeps, key)


@eqx.filter_jit
def _recall(energy: BinaryEnergy, spins: Layer, sweeps: int, key: PRNGKey) -> Recall:
    view, decisive = _view(energy, spins), _view(_decisive(energy), spins)

    def sweep(flat, key):
        flat = _sweep(decisive, flat, jr.permutation(key, flat.size))
        return flat, flat

    states = jax.lax.scan(sweep, spins.ravel(), jr.split(key, sweeps))[1]
    states = jnp.concatenate([spins.ravel()[None], states])
    energies = jax.lax.map(lambda flat: view.energy(view.look(flat)), states)
    at_rest = jnp.all(states[-1] == states[-2]) & jnp.isfinite(decisive.energy(decisive.look(states[-1])))
    return Recall(states.reshape(-1, *spins.shape), energies, at_rest)


def _decisive(energy: BinaryEnergy) -> BinaryEnergy:
    """An energy with the same order of states. That of exponentials overflows soon, its logarithm does not."""
    if not isinstance(energy, HopfieldMemory) or type(energy.separation) is not Exponential:
        return energy
    return dataclasses.replace(energy, separation=Softmax(energy.separation.beta))


def _sweep(view: "_View", flat: Float[Array, " n"], order: Int[Array, " n"]) -> Float[Array, " n"]:
    def visit(carry, i):
        flat, seen, lowest = carry
        flipped = view.flip(seen, flat, i)
        value = view.energy(flipped)
        falls = value < lowest
        flat = flat.at[i].set(jnp.where(falls, -flat[i], flat[i]))
        return (flat, jnp.where(falls, flipped, seen), jnp.where(falls, value, lowest)), None

    seen = view.look(flat)  # afresh in every sweep: what flips add up to is rounded where patterns are no integers
    return jax.lax.scan(visit, (flat, seen, view.energy(seen)), order)[0][0]


class _Spins(eqx.Module):
    """Any energy looks at the spins themselves."""

    function: Callable[[Layer], Scalar]
    shape: tuple[int, ...] = eqx.field(static=True)

    def look(self, flat: Float[Array, " n"]) -> Float[Array, " n"]:
        return flat

    def flip(self, seen: Float[Array, " n"], flat: Float[Array, " n"], i: Int[Array, ""]) -> Float[Array, " n"]:
        return seen.at[i].set(-flat[i])

    def energy(self, seen: Float[Array, " n"]) -> Scalar:
        return self.function(seen.reshape(self.shape))


class _Similarities(eqx.Module):
    """Stored patterns see the spins only by their products with them, which a flip changes by one column."""

    columns: Float[Array, "n patterns"]
    separation: AbstractLagrangian

    def look(self, flat: Float[Array, " n"]) -> Float[Array, " patterns"]:
        return flat @ self.columns

    def flip(self, seen: Float[Array, " p"], flat: Float[Array, " n"], i: Int[Array, ""]) -> Float[Array, " p"]:
        return seen - 2 * flat[i] * self.columns[i]

    def energy(self, seen: Float[Array, " patterns"]) -> Scalar:
        return -self.separation(seen)


_View: TypeAlias = _Spins | _Similarities


def _view(energy: BinaryEnergy, spins: Layer) -> _View:
    if not isinstance(energy, HopfieldMemory):
        return _Spins(energy, spins.shape)
    if energy.similarity != "dot":
        return _Spins(energy.energy, spins.shape)
    energy.similarities(spins)  # complains where the patterns do not fit
    return _Similarities(energy.patterns.reshape(len(energy.patterns), -1).T, energy.separation)


def _checked(spins: Layer) -> Layer:
    wrong = jnp.abs(spins) != 1
    rule = "Spins must be -1 or +1"
    if isinstance(wrong, Tracer):
        return eqx.error_if(spins, wrong, f"{rule}; take the sign of a state that has no zeros.")
    if wrong.any():
        raise ValueError(f"{rule}, got {spins[wrong][0]:g}; take the sign of a state that has no zeros.")
    return spins
