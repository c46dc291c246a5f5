"""Systems: what memories, blocks and serial blocks have in common, and a system of a user."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, dense_pair, make_block, normal, visible_neurons

from hopmix import Neurons, Quadratic, SerialBlock, Status, certify, descend, flow, settle, velocity
from hopmix._system import AbstractSystem


def serial(key: jax.Array) -> SerialBlock:
    return SerialBlock(
        make_block(key, branches=("token",)), make_block(key, branches=("channel",)), 2
    )


SYSTEMS: dict[str, Callable[[jax.Array], Any]] = {
    "memory": lambda key: dense_pair(key).clamp({"v": jnp.arange(5) == 1}),
    "block": lambda key: make_block(key, options={"leak": 0.5, "step": 0.2}),
    "serial block": serial,
}
systems = pytest.mark.parametrize("name", SYSTEMS)


@systems
def test_drawn_states_have_the_form_of_forces_and_the_scale_that_is_asked_for(name, getkey):
    system = SYSTEMS[name](getkey())
    states = jax.vmap(lambda key: system.draw(key, 3.0))(jax.random.split(getkey(), 500))
    one = jax.tree.map(lambda a: a[0], states)
    assert jax.tree.map(jnp.shape, system.force(one)) == jax.tree.map(jnp.shape, one)
    for leaf in jax.tree.leaves(states):
        # A mean square of n numbers is within eight standard errors of its mean, sqrt(2/n).
        assert abs(float(jnp.mean(leaf**2)) / 9 - 1) < 8 * math.sqrt(2 / leaf.size)


@systems
def test_the_metric_is_the_derivative_of_the_activation(name, getkey):
    system = SYSTEMS[name](getkey())
    state = system.draw(getkey(), 1.0)
    vector = system.draw(getkey(), 1.0)
    activation = lambda x: system.map_layers(lambda layer, x: layer.lagrangian.activation(x), x)
    assert_close(system.metric(state, vector), jax.jvp(activation, (state,), (vector,))[1])


@systems
def test_what_is_released_and_what_is_held_make_up_the_whole(name, getkey):
    system = SYSTEMS[name](getkey())
    free = system.draw(getkey(), 1.0)
    held = system.draw(getkey(), 1.0)
    nothing = jax.tree.map(jnp.zeros_like, free)
    parts = jax.tree.map(jnp.add, system.zero_clamped(free), system.hold(nothing, held))
    assert_close(parts, system.hold(free, held))


@systems
def test_the_identity_leaves_a_system_as_it_is(name, getkey):
    system = SYSTEMS[name](getkey())
    same = system.map_memory(lambda memory: memory)
    assert jax.tree.structure(same) == jax.tree.structure(system)
    assert all(a is b for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(system)))


def test_the_force_of_a_serial_block_is_its_displacement_and_it_has_no_energy(getkey):
    system = serial(getkey())
    x = system.draw(getkey(), 1.0)
    assert_close(x + system.force(x), system(x))
    assert_close(system.trial_step(x), system(x))
    for question in (system.energy, system.term_magnitude):
        with pytest.raises(TypeError, match="no energy"):
            question(x)


def test_no_system_is_made_of_nothing():
    with pytest.raises(TypeError, match="abstract"):
        AbstractSystem()  # pyright: ignore[reportAbstractUsage]


# ---- A system of a user --------------------------------------------------------------------------


class Spring(AbstractSystem):
    r"""One layer in a bowl: $E(x) = \tfrac k2 |x|^2$."""

    layer: Neurons
    stiffness: float

    def map_layers(self, function, *trees):
        return function(self.layer, *trees)

    def map_memory(self, function):
        del function
        return self

    def force(self, state):
        return self.layer.zero_clamped(-self.stiffness * state)

    def energy(self, state):
        return 0.5 * self.stiffness * jnp.sum(state**2)

    def trial_step(self, state):
        return self.advance(state, 0.01)


TAU = 0.7
STIFFNESS = 1.5


def spring() -> Spring:
    return Spring(Neurons(Quadratic(), (3,), tau=TAU), STIFFNESS)


def test_an_own_system_follows_its_closed_form(getkey):
    x = normal(getkey(), (3,))
    rate = STIFFNESS / TAU
    assert_close(velocity(spring(), x), -rate * x)
    ends = flow(spring(), x, 1.2, rtol=1e-10, atol=1e-12).ys
    assert ends is not None
    assert_close(ends[0], math.exp(-1.2 * rate) * x, 1e-8)
    descent = descend(spring(), x, 4, step=0.1)
    assert descent.status == Status.descended
    assert_close(descent.states, (1 - 0.1 * rate) ** np.arange(5)[:, None] * x[None])
    assert_close(settle(spring(), x, step=0.3).state, jnp.zeros(3), 1e-5, scale=1.0)


def test_of_an_own_system_nothing_is_proved_and_descent_is_tried(getkey):
    certificate = certify(spring())
    assert certificate.claim is None
    assert [a.verdict for a in certificate.flow] == ["unknown"]
    assert "Spring may override any of its methods" in str(certificate)
    assert certificate.check(getkey(), examples=4).passed


def test_an_own_system_that_climbs_is_found_out(getkey):
    climbing = Spring(Neurons(Quadratic(), (3,), tau=TAU), -STIFFNESS)
    wrong = type("Wrong", (Spring,), {"energy": lambda self, x: -Spring.energy(self, x)})(
        climbing.layer, -STIFFNESS
    )
    assert not certify(wrong).check(getkey(), examples=4).passed
    assert descend(wrong, normal(getkey(), (3,)), 3, step=0.1).status == Status.rose


def test_a_step_of_an_own_system_has_to_be_given():
    with pytest.raises(ValueError, match="needs `step`"):
        descend(spring(), jnp.ones(3), 3)


def test_the_visible_layer_of_a_block_is_the_one_that_moves(getkey):
    block = make_block(getkey())
    shape = block.map_layers(lambda layer: layer.shape)
    assert shape == visible_neurons("joint", "none").shape
