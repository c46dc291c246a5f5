"""C04: leak and skip are one dynamics in two gauges. `theory/C04-gauge.md`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, distance, largest

from hopmix import Block, LayerNorm, Potential, ReLU, SphericalNorm, Tanh, flow
from hopmix.claims import c04_gauge as claim

EXACT = LayerNorm(eps=0.0)


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found


@pytest.fixture(scope="module")
def examples() -> claim.Example:
    return claim.draw_examples(jax.random.key(4), 20)


@pytest.fixture(scope="module")
def example(examples) -> claim.Example:
    return jax.tree.map(lambda leaf: leaf[0], examples)


@pytest.fixture(scope="module")
def potential(example) -> Potential:
    return claim.potential_of(example, EXACT, ReLU(), 1.0)


# ---- The maps between the two --------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.05, 0.3, 0.9])
def test_constant_steps_give_gains_that_grow_geometrically(step):
    """eta (1 - eta)^-(t + 1), as for a constant leak."""
    t = np.arange(30)
    assert_close(
        claim.residual_gains(jnp.full(30, step)),
        jnp.asarray(step * (1 - step) ** -(t + 1.0)),
        1e-11,
    )
    assert_close(
        claim.shrinkage(jnp.full(30, step)), jnp.asarray((1 - step) ** np.arange(31.0)), 1e-11
    )


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_constant_gains_give_steps_that_shrink_harmonically(gain):
    """An ordinary residual stack moves less and less: layer t takes the leaky step gain / (1 + gain
    (t + 1)).
    """
    t = np.arange(30)
    assert_close(claim.leaky_steps(jnp.full(30, gain)), jnp.asarray(gain / (1 + gain * (t + 1))))


def test_the_maps_are_inverse_to_each_other(examples):
    there_and_back = jax.vmap(lambda s: claim.leaky_steps(claim.residual_gains(s)))
    assert_close(there_and_back(examples.steps), examples.steps, 1e-12)
    assert_close(
        jax.vmap(lambda s: claim.residual_gains(claim.leaky_steps(s)))(examples.gains),
        examples.gains,
        1e-11,
    )


def test_a_residual_stack_is_a_running_mean(example, potential):
    """With gains 1 the leaky state is the mean of the start and of all that the branches have
    sent.
    """

    @jax.jit
    def both(x):
        force = claim.force_of(potential)
        ones = jnp.ones(12)
        sent = jax.vmap(force)(claim.residual(force, x, ones)[:-1])
        return claim.leaky(force, x, claim.leaky_steps(ones))[-1], (x + jnp.sum(sent, axis=0)) / 13

    leaky, mean = both(example.x)
    assert_close(leaky, mean, 1e-12)


# ---- Blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("leak, step", [(1.0, 0.9), (0.5, 0.8)])
def test_a_leaky_block_is_a_residual_one_whose_step_grows(leak, step, example, potential):
    """x <- (1 - leak step) x + step F(g), against y <- y + step (1 - leak step)^-(t + 1) F(g):
    states and energies.
    """
    x = y = example.x
    shrink = 1 - leak * step
    leaky = Block(potential, leak, step)
    once = jax.jit(lambda x: leaky(x))
    energies = jax.jit(lambda x, y: (leaky.energy(x), -potential(leaky.activation(y))))
    force = jax.jit(claim.force_of(potential))
    for t in range(16):
        leaky_energy, residual_energy = energies(x, y)
        assert_close(leaky_energy, residual_energy, 1e-11)
        x = once(x)
        y = y + step * shrink ** -(t + 1) * force(y)
        assert_close(shrink ** (t + 1) * y, x, 1e-11)


def test_the_flows_with_and_without_leak_have_the_same_orbits(example, potential):
    """x(t) = e^-t y(e^t - 1): the leak is a change of scale and of time."""
    leaky = Block(potential, leak=1.0)
    residual = Block(potential)

    @eqx.filter_jit
    def end(block, duration):
        states = flow(block, example.x, duration, rtol=1e-10, atol=1e-12).ys
        assert states is not None
        return states[0]

    x = end(leaky, 1.5)
    y = end(residual, float(np.expm1(1.5)))
    assert largest(x - example.x) > 0.1
    assert_close(np.exp(-1.5) * y, x, 1e-8)


def test_the_norms_see_the_same_in_both_gauges(example, potential):
    """What a network computes after the last norm does not depend on the gauge."""

    @jax.jit
    def both(x):
        force = claim.force_of(potential)
        return [
            claim.leaky(force, x, example.steps),
            claim.residual(force, x, claim.residual_gains(example.steps)),
        ]

    xs, ys = both(example.x)
    norm = jax.vmap(EXACT.activation)
    assert_close(norm(xs), norm(ys), 1e-10)
    assert largest(ys[-1]) > 1e3 * largest(xs[-1])


# ---- What it needs -------------------------------------------------------------------------------


@jax.jit
def gaps_of_smoothed(examples):
    norms = [LayerNorm(eps=0.1), LayerNorm(eps=1e-6), SphericalNorm(eps=0.1), Tanh()]

    def gaps(e):
        forces = [claim.force_of(claim.potential_of(e, norm, ReLU(), 1.0)) for norm in norms]
        return jnp.stack(
            [claim.orbit_gap(f, e.x, e.steps, claim.residual_gains(e.steps)) for f in forces]
        )

    return jax.vmap(gaps)(examples)


def test_activations_that_see_the_scale_need_more(examples):
    """A smoothed norm is off by about eps/var, and an activation that sees the scale altogether."""
    coarse, fine, sphere, tanh = np.median(gaps_of_smoothed(examples), axis=0)
    assert coarse > 1e-4
    assert 1e-9 < fine < 1e-5
    assert sphere > 1e-4
    assert tanh > 0.1


def test_steps_of_one_and_more_leave_the_gauge(examples):
    """The factor must stay positive: a norm sees the sign, and a factor of zero forgets the
    scale.
    """

    @jax.jit
    @jax.vmap
    def gaps(e):
        force = claim.force_of(claim.potential_of(e, EXACT, ReLU(), 0.0))
        stacks = jnp.asarray([[0.9] * 3, [1.0] * 3, [1.5] * 3])
        return jax.vmap(
            lambda steps: claim.orbit_gap(force, e.x, steps, claim.residual_gains(steps))
        )(stacks)

    below, at, above = gaps(examples).T
    assert jnp.max(below) < 1e-11
    assert jnp.all(jnp.isnan(at))
    assert jnp.min(above) > 1e-2


@pytest.mark.parametrize("kind", [LayerNorm, SphericalNorm])
def test_with_eps_the_gauge_scales_eps_along(kind, examples, getkey):
    """g(a y; eps) = g(y; eps/a^2), so that layer t of the residual stack has eps_t = (1 -
    eta)^(-2t) eps.
    """
    eps = 1.0
    step = 0.3
    e = jax.tree.map(lambda leaf: leaf[1], examples)
    x = y = e.x
    fixed = e.x
    for t in range(14):
        growing = kind(eps=eps * (1 - step) ** (-2 * t))
        assert_close(kind(eps=eps).activation(x), growing.activation(y), 1e-11)
        force = lambda state, norm: e.w_s.T @ jnp.maximum(e.w_s @ norm.activation(state), 0.0)
        gain = step * (1 - step) ** -(t + 1)
        x = (1 - step) * x + step * force(x, kind(eps=eps))
        y = y + gain * force(y, growing)
        fixed = fixed + gain * force(fixed, kind(eps=eps))
    assert_close((1 - step) ** 14 * y, x, 1e-11)
    assert distance((1 - step) ** 14 * fixed, x) > 1e-3


def test_with_eps_the_energies_differ_by_at_most_n_sqrt_eps(examples):
    """E_leaky + U = x.g - L lies in [-gamma N sqrt(eps), 0]."""
    norm = LayerNorm((-1,), scale=1.7, eps=0.1)

    def difference(e):
        potential = claim.potential_of(e, norm, ReLU(), 1.0)
        return Block(potential, leak=1.0).energy(e.x) + potential(norm.activation(e.x))

    found = jax.jit(jax.vmap(difference))(examples)
    assert jnp.all(found < 0)
    assert jnp.all(found > -1.7 * examples.x[0].size * np.sqrt(0.1))
