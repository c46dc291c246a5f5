r"""C05: what an explicit step does to the energy, exactly, and why it never raises it where the
potential is convex.

$$E(x') - E(x) = -\tfrac1\eta\left[(1 - s)\,D_L(x, x') + D_L(x', x)\right] - D_U(g', g), \qquad s = \text{leak}\,\eta,$$

with the step $\eta$ and Bregman divergences $D_f(y, x) = f(y) - f(x) - \nabla f(x) \cdot (y - x)$.
"""  # noqa: E501

import dataclasses
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._lagrangian import LayerNorm
from hopmix._memory import AssociativeMemory
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, share
from hopmix.claims._draws import Structure, convolutional, draw_systems, driven, mixer, pair
from hopmix.claims._mixer import BRANCHES


class StepChange(NamedTuple):
    r"""One explicit step $x \to x'$, taken apart; see `step_change`.

    - `total`: $E(x') - E(x)$.
    - `onward`, `backward`: the divergences $D_L(x', x)$ and $D_L(x, x')$ of the visible Lagrangian.
    - `potential`: the divergence $D_U(g', g)$ of the potential, with the force in place of its
      gradient.
    - `work`: $(x' - x) \cdot (g' - g)$, which is `onward` + `backward`.
    - `magnitude`: the largest number that was added up; rounding is relative to it.
    """

    total: Scalar
    onward: Scalar
    backward: Scalar
    potential: Scalar
    work: Scalar
    magnitude: Scalar


def step_change(block: Block, x: Layer) -> StepChange:
    """The terms of the energy balance of one explicit step (of the first one, where the block
    repeats it).
    """
    after = dataclasses.replace(block, n_iter=1)(x)
    potential = block.potential
    lagrangian = block.potential.neurons.lagrangian
    g = block.activation(x)
    g_after = block.activation(after)
    force = potential.force(g)
    dx = after - x
    dg = g_after - g
    heights = jnp.stack(
        [lagrangian(x), lagrangian(after), jnp.sum(g * dx), jnp.sum(g_after * dx), jnp.sum(x * dg)]
    )
    depths = jnp.stack([potential(g), potential(g_after), jnp.sum(force * dg)])
    return StepChange(
        total=block.energy(after) - block.energy(x),
        onward=heights[1] - heights[0] - heights[2],
        backward=heights[0] - heights[1] + heights[3],
        potential=depths[1] - depths[0] - depths[2],
        work=jnp.sum(dx * dg),
        magnitude=jnp.maximum(jnp.max(jnp.abs(heights)) / block.step, jnp.max(jnp.abs(depths))),
    )


def identity_gap(block: Block, change: StepChange) -> Scalar:
    """How far the change of the energy is from what the identity says, relative."""
    kept = 1 - block.leak * block.step
    expected = -(kept * change.backward + change.onward) / block.step - change.potential
    return jnp.abs(change.total - expected) / change.magnitude


def descent_gap(block: Block, change: StepChange) -> Scalar:
    r"""By how much the change of the energy exceeds $-\tfrac{1-s}\eta\,(x' - x) \cdot (g' - g)$,
    relative.
    """
    bound = -(1 - block.leak * block.step) / block.step * change.work
    return (change.total - bound) / change.magnitude


def worst_gap(block: Block, x: Layer) -> Scalar:
    """The worst violation: of the identity, of the sign of the divergences, and of the inequality
    of descent.
    """
    change = step_change(block, x)
    divergences = jnp.stack(
        [change.onward / block.step, change.backward / block.step, change.potential]
    )
    gaps = [
        identity_gap(block, change),
        descent_gap(block, change),
        jnp.max(-divergences) / change.magnitude,
    ]
    return jnp.max(jnp.stack(gaps))


STRUCTURES: tuple[tuple[Structure, str, tuple[str, ...]], ...] = (
    (pair, "v", ("h",)),
    (mixer, "x", BRANCHES),
    (partial(mixer, visible=LayerNorm((-1,))), "x", BRANCHES),
    (convolutional, "x", ("h",)),
    (driven, "v", ("a", "b")),
)
"""Memories with convex potentials, with the layer that stays and those that are eliminated."""

STEPS = ((0.0, 0.3), (0.0, 30.0), (0.5, 1.0), (2.0, 0.5))
"""Leak and step: residual, small and large, and leaky, with half and with all of the state
replaced.
"""


@eqx.filter_jit
def gaps_of(
    memories: AssociativeMemory,
    states: Layer,
    hidden: tuple[str, ...],
    steps: tuple[tuple[float, float], ...],
) -> Float[Array, "examples settings"]:
    """The worst gap of each of a stack of memories, with each leak and step."""

    def gap(memory, x):
        blocks = [derive_block(memory, hidden, leak=leak, step=step) for leak, step in steps]
        return jnp.stack([worst_gap(block, x) for block in blocks])

    return eqx.filter_vmap(gap)(memories, states)


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random convex memories and states, with small and large steps."""
    number = share(examples, len(STRUCTURES))
    gaps = []
    for i, (structure, visible, hidden) in enumerate(STRUCTURES):
        memories, states = draw_systems(structure, jr.fold_in(key, i), number)
        steps = (
            STEPS[i % 4],
            STEPS[(i + 1) % 4],
        )  # each pair of settings with some structure: compiling is slow
        gaps.append(gaps_of(memories, states[visible], hidden, steps))
    return Measurement(float(jnp.max(jnp.concatenate(gaps))), 1e-13, number * len(STRUCTURES))


CLAIM = Claim(
    id="C05",
    statement="one step changes E by exactly -[(1 - s) D_L(x,x') + D_L(x',x)]/step - D_U(g',g), "
    "s = leak step: with "
    "convex L and U no residual step of any size and no leaky one with s <= 1 raises E",
    source="Yuille & Rangarajan 2003; relative smoothness: Bauschke, Bolte & Teboulle 2017; the "
    "identity: hopmix",
    status="proved",
    page="C05-steps.md",
    test="test_c05_steps.py",
    what="violation of the identity, of the divergences' signs, and of the inequality of "
    "descent; relative",
    measure=measure,
)
