"""A step of one member: the whole trainer."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from hopmix._tree import couplings, trainable
from hopmix._types import PRNGKey, Scalar
from hopmix.lab.families.pairs import paired_couplings
from hopmix.lab.tasks.task import AbstractTask, Loss


class TrainState(eqx.Module):
    """The state of one member, or of a population with a leading axis.

    - `model`: the model, or its arrays alone; `optimiser`: the optimiser's state.
    - `seed`, `strength`: the numbers that it is a function of.
    - `diverged`: the step at which the loss was first not finite, or -1.
    """

    model: PyTree
    optimiser: PyTree
    seed: Int[Array, "..."]
    strength: Float[Array, "..."]
    diverged: Int[Array, "..."]


def squared_breaking(model: PyTree, pairs: Sequence[str] = ()) -> Scalar | float:
    r"""$\sum |\text{breaking}|_F^2$ over all couplings of a model, and $\sum |V - W^\top|_F^2$ over
    matrices that are paired by name.

    **Arguments:**

    - `model`: any tree.
    - `pairs`: as in `Arm`.
    """
    parts = [coupling.squared_breaking for coupling in couplings(model)]
    paired = paired_couplings(model, pairs).values()
    parts += [jnp.sum((one.down - one.up.T) ** 2) for one in paired]
    return sum(parts[1:], parts[0]) if parts else 0.0


def objective(
    task: AbstractTask,
    model: Any,
    batch: PyTree,
    strength: Scalar,
    key: PRNGKey | None = None,
    pairs: Sequence[str] = (),
) -> tuple[Scalar, tuple[Loss, Scalar]]:
    r"""What training makes small: the loss of the task $+\ \lambda \sum |\text{breaking}|_F^2$.

    **Arguments:**

    - `task`, `model`, `batch`: what is learned, one member's model, and what it learns from.
    - `strength`: lambda.
    - `key`: of what is random in the model, or `None`.
    - `pairs`: matrices whose breaking counts as well.

    **Returns:** the objective; the loss and the penalty as auxiliary values.

    **Source:** arXiv 2406.12220, code (no factor of one half).
    """
    loss = task.loss(model, batch, key)
    penalty = strength * squared_breaking(model, pairs)
    return loss.value + penalty, (loss, penalty)


def train_step(
    task: AbstractTask,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: PyTree,
    step: Int[Array, ""],
    key: PRNGKey | None = None,
    pairs: Sequence[str] = (),
) -> tuple[TrainState, Float[Array, " 4"], PyTree]:
    """A member after a step on a batch.

    **Arguments:**

    - `task`, `optimiser`: what is learned, and how.
    - `state`: the member, with its whole model.
    - `batch`: of the task.
    - `step`: its number, for the record of members that diverge.
    - `key`: of what is random in the model, or `None`.
    - `pairs`: matrices whose breaking counts as well.

    **Returns:** the member; the objective, the headline of the task, the penalty and the norm of
    the gradient; and what was added to the parameters.
    """
    parameters, rest = eqx.partition(state.model, trainable(state.model))

    def loss_of(parameters: PyTree):
        model = eqx.combine(parameters, rest)
        value, (loss, penalty) = objective(task, model, batch, state.strength, key, pairs)
        # Buffers ride back in the model; what trains, and what is no array, is known already.
        buffers = eqx.filter(eqx.filter(loss.model, trainable(model), inverse=True), eqx.is_array)
        return value, (loss.score, penalty, buffers)

    learned = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    (value, (score, penalty, buffers)), gradients = learned
    updates, moments = optimiser.update(gradients, state.optimiser, parameters)
    norm = optax.tree.norm(gradients)
    bad = (state.diverged < 0) & ~(jnp.isfinite(value) & jnp.isfinite(norm))
    after = TrainState(
        eqx.combine(optax.apply_updates(parameters, updates), buffers, rest),
        moments,
        state.seed,
        state.strength,
        jnp.where(bad, step, state.diverged),
    )
    return after, jnp.stack([value, score, penalty, norm]), updates
