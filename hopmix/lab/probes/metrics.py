"""What a study measures of a member, as pure functions inside compiled programs.

Weights, losses and energies are measured at every measurement; spectra of couplings and fields of
blocks, which cost more, at some of them. Blocks are alike in shape: they are stacked, and
everything is compiled once for all of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int

from hopmix._block import Block, SerialBlock
from hopmix._coupling import Coupling
from hopmix._numerics.rounding import allowed_rise, magnitudes_of_step, measured
from hopmix._pseudo_energy import descent_margin, power
from hopmix._tree import couplings
from hopmix._types import Energy, Layer, PRNGKey, Scalar
from hopmix.models.mixer import Mixer
from hopmix.symmetry.breaking import breaking_rate
from hopmix.symmetry.fields import estimate_field_asymmetry
from hopmix.symmetry.quantities import COUPLINGS, MEASURED, measure_product, measure_weights
from hopmix.symmetry.spectrum import eigenvalues

Metrics = dict[str, Array]

Couplings = dict[str, tuple[Coupling, ...]]
"""The couplings of all blocks of a model, by branch."""

BRANCHES = ("token", "channel")
DIMENSIONS = {one.name: one.dims for one in MEASURED if not one.expensive}
"""Each metric's dimensions beside arm, seed and step."""

DEEP = {one.name: one.dims for one in MEASURED if one.expensive}
"""Those of spectra and fields, which are NaN where they were not measured."""

EIGENVALUES = 32
"""How many of the largest eigenvalues of VW are kept."""

PROBES = 4
"""Random probes of the field asymmetry at each state."""


OF_SEVERAL_UNITS = tuple(one.name for one in COUPLINGS if one.of_several_units)
"""Indices that have the same value, that of symmetry, for all weights of a single visible unit."""


def asymmetry(couplings: Couplings) -> Metrics:
    """The indices of `ASYMMETRY`, each of shape (block, branch); NaN where they would say
    nothing.
    """
    return _of_couplings(lambda coupling: _telling(coupling, measure_weights(coupling)), couplings)


def _telling(coupling: Coupling, indices: Metrics) -> Metrics:
    """The indices, with NaN for those that a single visible unit decides: VW is a number then, and
    symmetric.
    """
    if coupling.up.shape[-1] > 1:
        return indices
    return {
        name: jnp.full_like(v, jnp.nan) if name in OF_SEVERAL_UNITS else v
        for name, v in indices.items()
    }


def spectra(couplings: Couplings) -> Metrics:
    """The indices of `SPECTRUM`, NaN where they would say nothing, and the largest eigenvalues of
    VW, padded with NaN."""

    def measure(coupling: Coupling) -> Metrics:
        values = eigenvalues(coupling)
        largest = values[jax.lax.top_k(jnp.abs(values), min(EIGENVALUES, values.size))[1]]
        padding = (0, EIGENVALUES - largest.size)
        parts = {"eigenvalue_real": largest.real, "eigenvalue_imaginary": largest.imag}
        padded = {
            name: jnp.pad(part, padding, constant_values=jnp.nan) for name, part in parts.items()
        }
        return _telling(coupling, measure_product(coupling)) | padded

    return _of_couplings(measure, couplings)


def unmeasured(members: int, blocks: int) -> Metrics:
    """NaN for everything of `DEEP`."""
    sizes = {"block": blocks, "branch": len(BRANCHES), "eigenvalue": EIGENVALUES}
    return {
        name: jnp.full([members, *(sizes[d] for d in dims)], jnp.nan, jnp.float32)
        for name, dims in DEEP.items()
    }


def breaking_rates(couplings: Couplings, updates: Couplings) -> Metrics:
    r"""How fast the breaking ratio of each coupling grows by the next update, per step, from the
    update alone (C11).

    **Arguments:**

    - `updates`: what the optimiser adds to the parameters of the couplings.
    """

    def rate(coupling: Coupling, update: Coupling) -> Metrics:
        return {"breaking_rate": breaking_rate(coupling, jax.tree.map(jnp.negative, update))}

    return _of_couplings(rate, couplings, updates)


def fields(
    model: Mixer, images: Float[Array, "batch height width colours"], key: PRNGKey
) -> Metrics:
    r"""What kind of vector field each block is at the states that reach it, each of shape (block,).

    - `field_asymmetry`, `field_asymmetry_stderr`: of the force, in the metric of the norm; mean
        over images of the estimate, and its standard error for these images.
    - `dissipation`, `work`: means over images of the two parts of the rate of the block's energy
      (C10).
    - `margin_used`: mean over images of $1/t^*$ with the descent margin $t^*$: above 1 the energy
        of the tied block rises. NaN for serial blocks.

    The field of a serial block is its displacement; dissipation and work are those of its two
    mixings together.
    """
    keys = jr.split(key, images.shape[0])

    def of_block(x: Layer, block: Block | SerialBlock) -> tuple[Layer, Metrics]:
        values, errors = jax.vmap(lambda x, key: _field_index(block, x, key), in_axes=(1, 0))(
            x, keys
        )
        spent = jax.vmap(lambda x: _field_energy(block, x), in_axes=1)(x)
        error = jnp.sqrt(jnp.mean(errors**2) / errors.size)
        index = {"field_asymmetry": jnp.mean(values), "field_asymmetry_stderr": error}
        return block(x), index | jax.tree.map(jnp.mean, spent)

    return _of_blocks(model, images, of_block)


def _field_index(block: Block | SerialBlock, x: Layer, key: PRNGKey) -> tuple[Scalar, Scalar]:
    first = block if isinstance(block, Block) else block.token
    if isinstance(block, Block):
        field = block.force
    else:
        field = lambda x: block(x) - x
    return estimate_field_asymmetry(
        field, x, first.potential.neurons.lagrangian, key=key, probes=PROBES
    )


def _field_energy(block: Block | SerialBlock, x: Layer) -> Metrics:
    if isinstance(block, Block):
        spent = power(block, x)
        return {
            "dissipation": spent.dissipation,
            "work": spent.work,
            "margin_used": 1 / descent_margin(block, x),
        }
    first = power(block.token, x)
    second = power(block.channel, block.token(x))
    both = {name: getattr(first, name) + getattr(second, name) for name in ("dissipation", "work")}
    return both | {"margin_used": jnp.full((), jnp.nan, x.dtype)}


def _of_blocks(
    model: Mixer, images: Float[Array, "batch height width colours"], measure: Callable
) -> Metrics:
    """What is measured of each block at the states that reach it: from state and block to the next
    state and that.
    """
    return jax.lax.scan(measure, jax.vmap(model.embed, out_axes=1)(images), _stack(model.blocks))[1]


def _of_couplings(measure: Callable[..., Metrics], *couplings: Couplings) -> Metrics:
    """What is measured of each coupling, or of those of several trees side by side, each of shape
    (block, branch).
    """
    rows = [jax.vmap(measure)(*(_stack(tree[branch]) for tree in couplings)) for branch in BRANCHES]
    return jax.tree.map(lambda *a: jnp.stack(a, axis=1), *rows)


def _stack(trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def branches(model: Mixer) -> Couplings:
    """The couplings of a model by branch, each for all blocks."""
    return {
        branch: tuple(branch_coupling(block, branch) for block in model.blocks)
        for branch in BRANCHES
    }


def branch_coupling(block: Block | SerialBlock, branch: str) -> Coupling:
    """The coupling of one branch, "token" or "channel", of a block."""
    part = block if isinstance(block, Block) else getattr(block, branch)
    (coupling,) = couplings(part.potential.memory.synapses[branch])
    return coupling


def energy_descent(model: Mixer, images: Float[Array, "batch height width colours"]) -> Metrics:
    r"""How the blocks change the energy of the states that reach them, each of shape (block,).

    - `energy_change`: mean over images of $E(\text{block}(x)) - E(x)$.
    - `energy_rise_fraction`: share of the images whose energy rises by more than rounding of its
      terms (C18).

    The energy is that of `Block.energy`, for untied weights the pseudo-energy of the symmetrised
    interaction. A serial block counts the changes of its two mixings, each in its own energy.
    """

    def of_block(x: Layer, block: Block | SerialBlock) -> tuple[Layer, Metrics]:
        change = allowed = jnp.zeros(x.shape[1], x.dtype)
        for part in (block,) if isinstance(block, Block) else block.parts:
            before = x
            x = part(x)
            rise, rounding = _rise(part, before, x)
            change = change + rise
            allowed = allowed + rounding
        rises = change > allowed
        return x, {
            "energy_change": jnp.mean(change),
            "energy_rise_fraction": jnp.mean(rises, dtype=x.dtype),
        }

    return _of_blocks(model, images, of_block)


def _rise(block: Block, before: Layer, after: Layer) -> tuple[Energy, Energy]:
    """How much the energy of each example rises in a step of a token-major batch, and the rise that
    rounding explains.

    Both states go through the block side by side, so that everything is traced and compiled once.
    """
    states = jnp.concatenate([before, after], axis=1)
    both = jax.vmap(partial(measured, block), in_axes=1)(states)
    start = jax.tree.map(lambda a: a[: before.shape[1]], both)
    end = jax.tree.map(lambda a: a[before.shape[1] :], both)
    magnitudes = jax.vmap(magnitudes_of_step)(start, end)
    return end.energy - start.energy, allowed_rise(*magnitudes, before.dtype)


def loss_and_hits(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Cross-entropy and correctness of each example."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)


def squared_breaking(model: Mixer) -> Scalar:
    r"""$\sum |\text{breaking}|_F^2$ over all couplings."""
    return sum(
        (coupling.squared_breaking for coupling in couplings(model)),
        jnp.zeros((), model.stem.weight.dtype),
    )
