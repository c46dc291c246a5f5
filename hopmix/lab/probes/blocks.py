"""What is measured of the blocks of a model, at the states that reach them: what they do to their
own energies, and what kind of vector fields they are.

Blocks are alike in shape: they are stacked, and everything is compiled once for all of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PyTree

from hopmix._block import Block, SerialBlock
from hopmix._numerics.rounding import allowed_rise, magnitudes_of_step, measured
from hopmix._pseudo_energy import descent_margin, power
from hopmix._types import Energy, Layer, PRNGKey, Scalar
from hopmix.lab.probes.probe import AbstractModelProbe, Metrics
from hopmix.models._interface import AbstractBlockModel
from hopmix.symmetry.fields import estimate_field_asymmetry
from hopmix.symmetry.quantities import ENERGY, FIELD_ERROR, FIELDS, Quantity

DRAWS = 4
"""Random probes of the field asymmetry at each state."""

FIELD_STRIDE = 4
"""Fields are measured at each fourth of the inputs."""


class AbstractBlockProbe(AbstractModelProbe):
    """Measures the blocks of a model that has several of one form."""

    def applies(self, subject: Any) -> bool:
        """Whether it is a model of blocks that can be stacked."""
        if not isinstance(subject, AbstractBlockModel):
            return False
        return len({_form(block) for block in subject.blocks}) == 1


def _form(block: Block | SerialBlock) -> Any:
    leaves, structure = jax.tree.flatten(block)
    return structure, tuple(jnp.shape(leaf) for leaf in leaves)


class EnergyDescent(AbstractBlockProbe):
    r"""How the blocks change the energy of the states that reach them, each of shape (block,).

    - `energy_change`: mean over inputs of $E(\text{block}(x)) - E(x)$.
    - `energy_rise_fraction`: share of the inputs whose energy rises by more than rounding of its
      terms (C18).

    The energy is that of `Block.energy`, for untied weights the pseudo-energy of the symmetrised
    interaction. A serial block counts the changes of its two mixings, each in its own energy.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = ENERGY

    def __call__(self, model: AbstractBlockModel, inputs: PyTree, key: PRNGKey) -> Metrics:
        return _of_blocks(model, inputs, _descent)


def _descent(x: Layer, block: Block | SerialBlock) -> tuple[Layer, Metrics]:
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


class Fields(AbstractBlockProbe):
    r"""What kind of vector field each block is at the states that reach it, each of shape (block,).

    - `field_asymmetry`, `field_asymmetry_stderr`: of the force, in the metric of the norm; mean
      over inputs of the estimate, and its standard error for these inputs.
    - `dissipation`, `work`: means over inputs of the two parts of the rate of the block's energy
      (C10).
    - `margin_used`: mean over inputs of $1/t^*$ with the descent margin $t^*$: above 1 the energy
      of the tied block rises. NaN for serial blocks.

    The field of a serial block is its displacement; dissipation and work are those of its two
    mixings together.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (*FIELDS, FIELD_ERROR)
    expensive: ClassVar[bool] = True

    def __call__(self, model: AbstractBlockModel, inputs: PyTree, key: PRNGKey) -> Metrics:
        some = jax.tree.map(lambda leaf: leaf[::FIELD_STRIDE], inputs)
        keys = jr.split(key, jax.tree.leaves(some)[0].shape[0])

        def of_block(x: Layer, block: Block | SerialBlock) -> tuple[Layer, Metrics]:
            values, errors = jax.vmap(lambda x, key: _field_index(block, x, key), in_axes=(1, 0))(
                x, keys
            )
            spent = jax.vmap(lambda x: _field_energy(block, x), in_axes=1)(x)
            error = jnp.sqrt(jnp.mean(errors**2) / errors.size)
            index = {"field_asymmetry": jnp.mean(values), "field_asymmetry_stderr": error}
            return block(x), index | jax.tree.map(jnp.mean, spent)

        return _of_blocks(model, some, of_block)


def _field_index(block: Block | SerialBlock, x: Layer, key: PRNGKey) -> tuple[Scalar, Scalar]:
    first = block if isinstance(block, Block) else block.token
    if isinstance(block, Block):
        field = block.force
    else:
        field = lambda x: block(x) - x
    return estimate_field_asymmetry(
        field, x, first.potential.neurons.lagrangian, key=key, probes=DRAWS
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


def _of_blocks(model: AbstractBlockModel, inputs: PyTree, measure: Callable) -> Metrics:
    """What is measured of each block at the states that reach it: from state and block to the next
    state and that.
    """
    states = jax.vmap(model.embed, out_axes=1)(inputs)
    return jax.lax.scan(measure, states, stacked(model.blocks))[1]


def stacked(trees: Any) -> Any:
    """Trees of one form side by side."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
