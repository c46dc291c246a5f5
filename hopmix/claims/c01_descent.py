r"""C01: along the flow of a memory, $\dot E = -\sum_a \tau_a\, \dot x_a^\top H_a\, \dot x_a$."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from hopmix._block import Block
from hopmix._dynamics import velocity
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._types import Layer, PRNGKey, Scalar, State
from hopmix.claims._claim import Claim, Measurement, share
from hopmix.claims._draws import CONVEX, draw_systems, with_random_taus
from hopmix.claims._numbers import generator


def dissipation(memory: AssociativeMemory, state: State) -> Scalar:
    r"""The rate $\sum_a \tau_a\, \dot x_a^\top H_a\, \dot x_a$, which is not negative for convex
    Lagrangians.
    """
    moving = velocity(memory, state)
    terms = [
        layer.tau
        * jnp.sum(moving[a] * layer.lagrangian.hessian_vector_product(state[a], moving[a]))
        for a, layer in memory.neurons.items()
    ]
    return jnp.sum(jnp.stack(terms))


def identity_gap(memory: AssociativeMemory, state: State) -> Scalar:
    r"""How far $\dot E$ by automatic differentiation is from minus the dissipation, relative to the
    latter.

    Where activations rest while states move, as if one unit of a sparse group is active, the
    dissipation is rounding: relative to $10^{-3} \sum_a \tau_a |\dot x_a|^2$ where that is more, a
    thousandth of what linear units would lose.
    """
    moving = velocity(memory, state)
    rate = jax.jvp(memory.energy, (dict(state),), (moving,))[1]
    loss = dissipation(memory, state)
    linear = jnp.sum(
        jnp.stack([layer.tau * jnp.sum(moving[a] ** 2) for a, layer in memory.neurons.items()])
    )
    scale = jnp.maximum(jnp.abs(loss), 1e-3 * linear)
    return jnp.abs(rate + loss) / jnp.where(
        scale == 0, 1.0, scale
    )  # all may be held, and nothing move


def block_gap(block: Block, x: Layer) -> Scalar:
    r"""How far $\dot E$ is from $-\tau\,\dot x^\top H \dot x$ along the flow of a block, relative
    to the latter.
    """
    moving = velocity(block, x)
    neurons = block.potential.neurons
    loss = neurons.tau * jnp.sum(moving * neurons.lagrangian.hessian_vector_product(x, moving))
    return jnp.abs(jax.jvp(block.energy, (x,), (moving,))[1] / loss + 1)


def whole_groups(
    memory: AssociativeMemory, key: PRNGKey, number: int
) -> dict[str, Bool[Array, "..."]]:
    """Masks that hold single entries of elementwise layers and whole groups of others, in half of
    the memories.
    """
    random = generator(key)
    masks = {}
    some = random.random(number) < 0.5
    for name, layer in memory.neurons.items():
        shape = _one_per_group(layer)
        masks[name] = jnp.asarray(
            (random.random((number, *shape)) < 0.3) & some.reshape(-1, *(1,) * len(shape))
        )
    return masks


def _one_per_group(layer: Neurons) -> tuple[int, ...]:
    axes = next((part.axes for part in layer.lagrangian.parts if hasattr(part, "axes")), ())  # pyright: ignore
    return np.zeros(layer.shape).any(axis=axes, keepdims=True).shape


@eqx.filter_jit
def clamped_gaps(
    memories: AssociativeMemory, masks: dict[str, Bool[Array, "..."]], states: dict[str, Layer]
) -> Float[Array, " examples"]:
    """The gap of each of a stack of memories with these entries held."""
    return eqx.filter_vmap(lambda memory, mask, state: identity_gap(memory.clamp(mask), state))(
        memories, masks, states
    )


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst relative gap over random memories of several layers, time constants and states."""
    number = share(examples, len(CONVEX))
    gaps = []
    for i, structure in enumerate(CONVEX):
        draw, hold, pace = jr.split(jr.fold_in(key, i), 3)
        memories, states = draw_systems(with_random_taus(structure, pace), draw, number)
        gaps.append(clamped_gaps(memories, whole_groups(memories, hold, number), states))
    return Measurement(float(jnp.max(jnp.concatenate(gaps))), 1e-10, number * len(CONVEX))


CLAIM = Claim(
    id="C01",
    statement="dE/dt = -sum_a tau_a x_a'.H_a x_a' along the flow: any number of layers, any tau, "
    "conservative "
    "synapses; also with clamped entries of elementwise layers and clamped whole groups",
    source="Krotov 2021 (arXiv 2107.06446); clamping: hopmix",
    status="proved",
    page="C01-descent.md",
    test="test_c01_descent.py",
    what="relative gap of the two sides",
    measure=measure,
)
