"""C05: the energy balance of an explicit step, to rounding, and the descent that follows.
`theory/C05-steps.md`.
"""

# pyright: reportAssignmentType=false, reportAttributeAccessIssue=false

import math
import runpy
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix import (
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    Exponential,
    GhostMax,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
    derive_block,
    descend,
)
from hopmix.claims import c05_steps as claim
from hopmix.claims._draws import draw_systems, mixer, pair
from hopmix.claims._mixer import BRANCHES
from hopmix.claims.c06_gelu import biased_pair

THEORY = Path(__file__).parents[2] / "theory"


def one(visible, hidden, up, **options) -> Block:
    """A block with one dense synapse."""
    up = jnp.asarray(up, float)
    neurons = {"v": Neurons(visible, up.shape[1:]), "h": Neurons(hidden, up.shape[:1])}
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")})
    return derive_block(memory, ["h"], **options)


@eqx.filter_jit
def changes(blocks: list[Block], states) -> list[claim.StepChange]:
    """What one step of each block does to each state; one program for all."""
    return [jax.vmap(partial(claim.step_change, block))(states) for block in blocks]


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 48)
    assert found.passed, found
    assert found.examples == 50  # ten of each structure


def test_the_balance_holds_symbolically():
    runpy.run_path(str(THEORY / "step_balance.py"))["main"]()


@pytest.mark.parametrize(
    "leak, step",
    [(0.0, 0.05), (0.0, 1.0), (0.0, 1e3), (1.0, 0.1), (1.0, 0.9), (1.0, 1.0), (4.0, 0.25)],
)
def test_descent_by_the_inequality_itself(leak, step, getkey):
    """With NumPy alone on a tied mixer of ReLU units: E by the formula, g and F by hand, nothing
    from the library.
    """
    wt = np.asarray(normal(getkey(), ((5, 4))))
    wc = np.asarray(normal(getkey(), ((8, 6))))
    x = np.asarray(normal(getkey(), ((4, 6))))
    x = 1.5 * x
    norm = lambda x: (x - x.mean()) / math.sqrt(x.var() + 1e-6)
    potential = lambda g: (
        0.5 * np.sum(np.maximum(wt @ g, 0) ** 2) + 0.5 * np.sum(np.maximum(g @ wc.T, 0) ** 2)
    )
    force = lambda g: wt.T @ np.maximum(wt @ g, 0) + np.maximum(g @ wc.T, 0) @ wc
    value = lambda x: x.size * math.sqrt(x.var() + 1e-6)
    energy = lambda x: leak * (np.sum(x * norm(x)) - value(x)) - potential(norm(x))
    for _ in range(20):
        g = norm(x)
        after = (1 - leak * step) * x + step * force(g)
        work = np.sum((after - x) * (norm(after) - g))
        rounding = 1e-12 * potential(g)
        assert work >= -rounding
        assert energy(after) - energy(x) <= -(1 / step - leak) * work + rounding
        if leak == 0:
            assert potential(norm(after)) - potential(g) >= work / step - rounding
        else:
            s = leak * step
            assert energy(after) - energy(x) <= -(1 - s) / s * leak * work + rounding
        x = after


def test_the_losses_of_all_steps_add_up(getkey):
    """Over a trajectory of a repeated block, the energy falls by the sum of what the identity says
    of each step.
    """
    make = partial(one, LayerNorm(eps=0.1), ReLU(), normal(getkey(), (6, 5)), leak=0.5, step=0.4)
    single = make()
    block = make(n_iter=3)
    x = normal(getkey(), (5,))
    change, of_block = changes([single, block], descend(single, x, 11).states)
    losses = (0.8 * change.backward + change.onward) / 0.4 + change.potential
    assert float(jnp.min(losses)) > 0
    energies = descend(block, x, 4).energies
    assert_close(energies[0] - energies[-1], jnp.sum(losses), 1e-11)
    assert_close(of_block.total, change.total)  # of a repeated block, the first step is taken apart


# ---- Mirror descent, and the procedure of Yuille and Rangarajan ----------------------------------

INVERTIBLE = [Quadratic(), Tanh(0.8), Sigmoid(), Exponential(0.5)]
GROUPS = [Softmax(1.3), GhostMax(), LayerNorm(eps=0.2), SphericalNorm(eps=0.3)]


@pytest.mark.parametrize("lagrangian", INVERTIBLE + GROUPS)
def test_the_divergence_is_that_of_the_conjugate(lagrangian, getkey):
    r"""$D_L(x', x) = L^*(g) - L^*(g') - x' \cdot (g - g')$, the divergence of the convex
    conjugate.
    """
    block = one(lagrangian, ReLU(), normal(getkey(), (3, 5)), leak=1.0, step=0.7)

    @jax.jit
    def divergences(x):
        after = block(x)
        conjugate = lagrangian.conjugate
        g = block.activation(x)
        g_after = block.activation(after)
        gap = conjugate(g) - conjugate(g_after)
        change = claim.step_change(block, x)
        return change, jnp.stack([gap - after @ (g - g_after), -gap - x @ (g_after - g)])

    change, dual = divergences(normal(getkey(), (5,)))
    assert_close(jnp.stack([change.onward, change.backward]), dual, 1e-9)
    assert_close(change.work, change.onward + change.backward, 1e-9)


@pytest.mark.parametrize(
    "lagrangian, leak, step", list(zip(INVERTIBLE, (0.0, 1.0, 2.0, 0.0), (0.4, 1.0, 0.3, 3.0)))
)
def test_a_step_minimises_a_convex_majorant(lagrangian, leak, step, getkey):
    r"""$g'$ minimises $\tfrac1\eta L^* - [\nabla U(g) + (\tfrac1\eta - \text{leak})\,x] \cdot g'$,
    which touches $E$ at $g$ and is above it elsewhere."""
    block = one(lagrangian, ReLU(), 0.5 * normal(getkey(), (3, 4)), leak=leak, step=step)

    def energy(g):
        return leak * lagrangian.conjugate(g) - block.potential(g)

    @jax.jit
    def analyse(x, others):
        g = block.activation(x)

        def majorant(g_new):
            tangent = block.potential(g) + (1 / step - leak) * lagrangian.conjugate(g)
            slope = block.potential.force(g) + (1 / step - leak) * x
            return lagrangian.conjugate(g_new) / step - tangent - slope @ (g_new - g)

        there = block.activation(block(x))
        tried = jax.vmap(block.activation)(others)
        heights = jax.vmap(majorant)(tried)
        depths = jax.vmap(energy)(tried)
        touching = jnp.stack([majorant(g) - energy(g), energy(there) - block.energy(block(x))])
        sizes = jnp.abs(
            jnp.stack([f(h) for f in (lagrangian.conjugate, block.potential) for h in (g, there)])
        )
        return (
            jax.grad(majorant)(there),
            touching,
            heights - depths,
            heights - majorant(there),
            1 + jnp.sum(sizes),
        )

    slope, touching, above, higher, size = analyse(
        normal(getkey(), (4,)), 2 * normal(getkey(), (50, 4))
    )
    assert jnp.max(jnp.abs(slope)) < 1e-9 * size
    assert jnp.max(jnp.abs(touching)) < 1e-9 * size
    assert jnp.min(above) > -1e-9 * size
    assert jnp.min(higher) > 0


def test_step_one_is_the_update_of_the_modern_hopfield_network(getkey):
    """Leak 1 and step 1 with linear visible and softmax hidden units: x' = X^T softmax(beta X
    x).
    """
    patterns = normal(getkey(), (7, 5))
    x = normal(getkey(), (5,))
    block = one(Quadratic(), Softmax(2.0), patterns, leak=1.0)
    assert_close(block(x), patterns.T @ jax.nn.softmax(2.0 * patterns @ x))


# ---- Beyond a full leaky step --------------------------------------------------------------------


def test_linear_visible_units_may_overshoot_up_to_twice(getkey):
    """Their divergence is symmetric, so that (1 - s) D + D >= 0 up to s = 2; beyond it a flat
    potential rises.
    """
    up = 1e-3 * normal(getkey(), (6, 5))
    steps = (1.5, 2.0, 2.1)
    blocks = [one(Quadratic(), ReLU(), up, leak=1.0, step=step) for step in steps]
    for step, change in zip(steps, changes(blocks, normal(getkey(), (20, 5)))):
        assert bool(jnp.all(change.total <= 1e-14 * change.magnitude)) is (step <= 2)


class Stretched(Quadratic):
    """A Lagrangian of curvatures 1 and 4."""

    curvature = (1.0, 4.0)

    def __call__(self, x):
        return 0.5 * jnp.sum(jnp.asarray([1.0, 4.0]) * jnp.logaddexp(x, -x)) + 0.25 * jnp.sum(x**2)

    def activation(self, x):
        return 0.5 * jnp.asarray([1.0, 4.0]) * jnp.tanh(x) + 0.5 * x


def test_curvature_bounds_the_ratio_of_the_divergences(getkey):
    r"""With Hessians in $[\mu, \ell]$ the ratio $D(x, x')/D(x', x)$ is at most $\ell/\mu$, which
    allows $s \le 1 + \mu/\ell$."""
    lowest = 0.5
    highest = 2.5
    block = one(Stretched(), ReLU(), normal(getkey(), (6, 2)), leak=1.0, step=1 + lowest / highest)
    (change,) = changes([block], 3 * normal(getkey(), (500, 2)))
    assert jnp.all(highest * change.onward >= lowest * change.backward)
    assert jnp.max(change.total / change.magnitude) <= 1e-14


def test_behind_an_exact_norm_no_overshoot_is_safe():
    """A weak force leaves x' = (1 - s) x: for s > 1 the activation turns round, and the hidden unit
    falls silent.
    """
    steps = (0.99, 1.0, 1.01)
    blocks = [one(LayerNorm(eps=0.0), ReLU(), [[1e-2, 0.0]], leak=1.0, step=step) for step in steps]
    for step, change in zip(steps, changes(blocks, jnp.asarray([[1.0, -1.0]]))):
        assert (float(change.total[0]) <= 1e-18) is (step <= 1)


# ---- What it needs -------------------------------------------------------------------------------


def gaps_of(memories, states, hidden=BRANCHES, steps=((0.0, 1.0),)):
    return claim.gaps_of(memories, states, hidden, steps)


def test_free_weights_fail(getkey):
    memories, states = draw_systems(mixer, getkey(), 20)
    assert jnp.max(gaps_of(memories, states["x"])) < 1e-14
    loose = jax.tree.map(lambda leaf: leaf, memories)
    for name in BRANCHES:
        up = memories.synapses[name].coupling.up
        down = normal(getkey(), jnp.swapaxes(up, -1, -2).shape)
        get = lambda m, name=name: (
            m.synapses[name].coupling.breaking,
            m.synapses[name].coupling.tie,
        )
        loose = eqx.tree_at(get, loose, (down, jnp.zeros(20)), is_leaf=lambda leaf: leaf is None)
    assert jnp.max(gaps_of(loose, states["x"])) > 1e-2


def test_a_norm_with_a_negative_scale_fails(getkey):
    def structure(key):
        memory = pair(key)
        neurons = memory.neurons | {"v": Neurons(LayerNorm(None, -1.0), (5,))}
        return AssociativeMemory(neurons, memory.synapses, dict(memory.connections))

    memories, states = draw_systems(structure, getkey(), 20)
    assert jnp.median(gaps_of(memories, states["v"], ("h",))) > 1e-2


def test_a_potential_that_is_not_convex_fails():
    """GELU units at a maximum of U, where the divergence of U is negative. The identity holds all
    the same.
    """
    blocks = [derive_block(biased_pair(jnp.asarray(4.0)), ["h"], step=step) for step in (0.1, 1.0)]
    within, beyond = changes(blocks, jnp.asarray([[0.02]]))
    for block, change in zip(blocks, (within, beyond)):
        one_change = jax.tree.map(lambda leaf: leaf[0], change)
        assert claim.identity_gap(block, one_change) < 1e-14
        assert change.potential[0] < 0
    assert within.total[0] < 0  # the divergence of the visible Lagrangian outweighs it, see C06
    assert beyond.total[0] > 1e-4


def test_part_of_a_group_held_fixed_fails():
    """Softmax of two units, one held: the free one moves towards its force and the energy rises, at
    any step.
    """
    held = jnp.asarray([False, True])
    neurons = Neurons(Softmax(), (2,), input=jnp.asarray([1.0, 2.0]), clamped=held)
    free = Neurons(Softmax(), (2,), input=jnp.asarray([1.0, 2.0]))
    memories = [AssociativeMemory({"v": layer}, {}, {}) for layer in (neurons, free)]
    partly, freely = changes(
        [derive_block(m, [], leak=1.0, step=0.1) for m in memories], jnp.zeros((1, 2))
    )
    assert partly.total[0] > 1e-3
    assert freely.total[0] < -1e-3


# ---- Joined hidden layers ------------------------------------------------------------------------


def test_joined_hidden_layers_with_one_rest_are_convex(getkey):
    """U is a maximum of functions that are linear in g, where the sweeps find that maximum."""
    neurons = {
        "v": Neurons(Tanh(), (4,)),
        "m": Neurons(Tanh(), (5,)),
        "l": Neurons(Sigmoid(), (3,)),
    }
    synapses = {
        "vm": Dense(Coupling(normal(getkey(), (5, 4)))),
        "ml": Dense(Coupling(0.5 * normal(getkey(), (3, 5)))),
    }
    memory = AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")})
    block = derive_block(memory, ["m", "l"], leak=1.0, step=0.8)
    (change,) = changes([block], 2 * normal(getkey(), (40, 4)))
    assert jnp.min(change.potential) > -1e-10
    assert jnp.max(change.total) < 0
    assert jnp.median(change.potential) > 1e-4
