"""C10: pseudo-energies of blocks with untied weights. `theory/C10-pseudo-energy.md`."""

# pyright: reportAttributeAccessIssue=false

import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from hopmix import Coupling, LayerNorm, Neurons, Quadratic, ReLU
from hopmix._dynamics import velocity
from hopmix._pseudo_energy import (
    descent_margin,
    power,
    radial_energy,
    radial_potential,
    residual_force,
    with_tied_weights,
)
from hopmix.claims import c10_pseudo_energy as claim
from hopmix.claims._small_mixer import CHANNELS, TOKENS, draw_weights, free, gained, small_mixer

THEORY = Path(__file__).parents[2] / "theory"


@pytest.fixture(scope="module")
def examples() -> claim.Example:
    return jax.jit(jax.vmap(claim.draw_example))(jr.split(jr.key(4), 40))


def each(f, *arguments):
    """A function of one example, of all examples."""
    return jax.jit(jax.vmap(f))(*arguments)


# ---- The claim -----------------------------------------------------------------------------------


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found


def test_the_sign_by_computer_algebra():
    script = runpy.run_path(str(THEORY / "pseudo_energy.py"))
    script["main"]()
    assert script["sign_of_the_correction"]() < 0


def test_each_part_fails_on_what_it_excludes(examples):
    """GELU where linear or ReLU units are meant, and free weights where conservative ones are."""
    wrong = examples._replace(linear=examples.gelu, relu=examples.gelu, conservative=examples.gelu)
    gaps = each(claim.gaps, wrong)
    for part in ("sign", "homogeneous", "radial"):
        assert jnp.min(gaps[part]) > 1e-4, part
    for part in ("orthogonality", "split", "margin"):
        assert jnp.max(gaps[part]) < 1e-9, part


# ---- The sign ------------------------------------------------------------------------------------


def test_the_other_sign_and_no_correction_miss_the_symmetric_part(examples):
    """Potentials of linear units: U + s g.B h with s = 1/2 (right), 0 and -1/2 (the notebook's, up
    to E = -U).
    """

    def gaps(block, x):
        g = block.activation(x)
        tied = with_tied_weights(block).potential
        m = jax.jacfwd(block.potential.force)(g).reshape(g.size, g.size)
        symmetric = (0.5 * (m + m.T) @ g.reshape(-1)).reshape(g.shape)
        corrected = lambda s: lambda g: tied(g) + 2 * s * (block.potential(g) - tied(g))
        return jnp.stack(
            [jnp.linalg.norm(jax.grad(corrected(s))(g) - symmetric) for s in (0.5, 0.0, -0.5)]
        )

    right, none, wrong = each(gaps, examples.linear, examples.x).T
    assert jnp.max(right) < 1e-12
    assert jnp.min(none) > 0.1
    assert_close(wrong, 2 * none)  # the error is linear in the sign


def test_the_residual_of_linear_units_is_the_antisymmetric_part(examples):
    def gap(block, x):
        g = block.activation(x)
        m = jax.jacfwd(block.potential.force)(g).reshape(g.size, g.size)
        return residual_force(block, x).reshape(-1) - 0.5 * (m - m.T) @ g.reshape(-1)

    assert jnp.max(jnp.abs(each(gap, examples.linear, examples.x))) < 1e-12


def test_biases_into_hidden_units_are_where_the_symmetrised_energy_goes_wrong(examples):
    """Linear units with a bias: at g = 0 the force is V b, a constant; only half of B b is in
    E_1/2, all in E_rad.
    """

    def residuals(weights):
        block = small_mixer(weights, free, hidden=Quadratic(), bias=True)
        zero = jnp.zeros((TOKENS, CHANNELS))
        synapse = block.potential.memory.synapses["token"]
        broken = (synapse.coupling.down - synapse.coupling.up.T) @ jnp.broadcast_to(
            weights.up, (5, CHANNELS)
        )
        own = residual_force(block, zero)
        radial = residual_force(block, zero, partial(radial_potential, block.potential))
        return own - 0.5 * broken, radial, broken

    weights, _ = each(lambda key: draw_weights(key, 1), jr.split(jr.key(6), 5))
    gap, radial, broken = each(residuals, weights)
    assert jnp.max(jnp.abs(gap)) < 1e-12
    assert jnp.max(jnp.abs(radial)) < 1e-12
    assert jnp.min(jnp.max(jnp.abs(broken), axis=(1, 2))) > 0.1


# ---- The radial potential ------------------------------------------------------------------------


def test_the_symmetrised_energy_is_not_exact_for_conservative_weights(examples):
    own = each(
        lambda b, x: jnp.linalg.norm(residual_force(b, x)), examples.conservative, examples.x
    )
    assert jnp.min(own) > 0.1


def test_the_radial_energy_falls_at_minus_the_dissipation_where_weights_are_conservative(examples):
    def rates(block, x):
        return power(block, x, partial(radial_potential, block.potential)), power(block, x)

    radial, own = each(rates, examples.conservative, examples.x)
    assert_close(radial.rate, -radial.dissipation, 1e-9)
    assert_close(own.dissipation, radial.dissipation)
    assert jnp.max(jnp.abs(own.work / own.dissipation)) > 1e-2


def test_an_orthogonal_residual_determines_the_potential(examples):
    """U_rad changes along a ray by the work of the force: d/ds U_rad(s g) = g.F(s g), and so would
    any other.
    """

    def gap(block, x):
        g = block.activation(x)
        s = 0.6
        slope = jax.jvp(lambda s: radial_potential(block.potential, s * g), (s,), (1.0,))[1]
        return slope - jnp.sum(g * block.potential.force(s * g))

    assert jnp.max(jnp.abs(each(gap, examples.gelu, examples.x))) < 1e-10


def test_conservative_on_the_activations_alone_is_not_enough():
    """Three units behind the exact norm: every force without circulation has an energy on the
    circle of activations, but the segments to 0 leave the circle, and E_rad misses it."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    plane = np.linalg.svd(np.ones((1, 3)))[2][1:]
    g = np.stack([np.cos(angles), np.sin(angles)], 1) @ plane * np.sqrt(3)
    tangent = (
        np.stack([np.cos(angles + np.pi / 2), np.sin(angles + np.pi / 2)], 1) @ plane * np.sqrt(3)
    )
    turn = np.asarray([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    shape = jnp.asarray([[1.0, 0, 0], [0, 2, 0], [0, 0, -1]])
    raw = lambda g: shape @ jnp.tanh(2 * g[jnp.asarray([1, 2, 0])])
    swirl = np.mean(np.sum(jax.vmap(raw)(g) * tangent, 1)) / np.mean(
        np.sum(g @ turn.T * tangent, 1)
    )
    force = lambda g: raw(g) - swirl * jnp.asarray(turn) @ g
    points, weights = np.polynomial.legendre.leggauss(32)
    radial = lambda g: jnp.sum(
        weights / 2 * jax.vmap(lambda t: jnp.sum(g * force(t * g)))((points + 1) / 2)
    )
    along = np.sum(jax.vmap(force)(g) * tangent, 1)
    missed = along - np.sum(jax.vmap(jax.grad(radial))(g) * tangent, 1)
    assert (
        abs(np.mean(along)) < 1e-12
    )  # no circulation: minus its integral over the angle is an energy
    assert np.max(np.abs(missed)) > 0.1


# ---- The split -----------------------------------------------------------------------------------


def test_work_can_exceed_dissipation():
    """Neither the symmetrised nor the radial energy is a Lyapunov function of a broken block."""

    def turned(up, noise):
        gram = noise @ noise.T
        return Coupling.from_weights(up, up.T + (jnp.tril(gram) - jnp.triu(gram)) @ up.T)

    def rates(weights, x):
        block = small_mixer(weights, turned)
        return power(block, x[0]).rate, power(
            block, x[0], partial(radial_potential, block.potential)
        ).rate

    drawn = each(lambda key: draw_weights(key, 1), jr.split(jr.key(5), 40))
    for rate in each(rates, *drawn):
        assert jnp.max(rate) > 0
        assert jnp.min(rate) < 0


def test_swapping_the_parts_is_noticed(examples):
    found = each(power, examples.gelu, examples.x)
    assert_close(found.rate, found.work - found.dissipation)
    assert jnp.min(jnp.abs(found.rate - (found.dissipation - found.work))) > 1e-3
    assert jnp.min(found.dissipation) > 0


# ---- The margin ----------------------------------------------------------------------------------


def test_the_tied_energy_falls_exactly_where_the_margin_is_at_least_one(examples):
    def measure(block, x):
        rate = jax.jvp(with_tied_weights(block).energy, (x,), (velocity(block, x),))[1]
        return descent_margin(block, x), rate

    margin, rate = each(measure, examples.gelu, examples.x)
    np.testing.assert_array_equal(rate <= 0, margin >= 1)
    assert 0.1 < jnp.mean(rate <= 0) < 0.9
    assert jnp.min(margin) > 0


def test_the_margin_counts_in_units_of_the_present_breaking(examples):
    margins = lambda t: each(
        lambda b, x: descent_margin(claim.scale_breaking(b, t), x), examples.gelu, examples.x
    )
    assert_close(1 / margins(jnp.asarray(0.25)), 0.25 / margins(jnp.asarray(1.0)), 1e-9)


def test_the_margin_is_about_the_angle_of_two_forces(examples):
    """E_s falls if and only if f_s.H f >= 0, and t* = 1/(1 - f_s.H f / f_s.H f_s)."""

    def measure(block, x):
        tied = with_tied_weights(block).force(x)
        lifted = block.potential.neurons.lagrangian.hessian_vector_product(x, tied)
        return jnp.sum(lifted * block.force(x)) / jnp.sum(lifted * tied), descent_margin(block, x)

    ratio, margin = each(measure, examples.gelu, examples.x)
    assert_close(jnp.where(ratio < 1, 1 / margin, 0), jnp.where(ratio < 1, 1 - ratio, 0), 1e-9)
    assert jnp.all(jnp.isinf(margin) == (ratio >= 1))


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(THEORY / "descent_margins.py"))


def test_the_opposite_down_weights_have_the_opposite_angle(script):
    """-V in place of V changes the sign of f_s.H f / f_s.H f_s = 1 - 1/t*: one of the two margins
    is below 1. Not so with a bias into the visible units, which is a part of both forces."""
    reversed_down = lambda up, noise: Coupling.from_weights(up, -noise)
    drawn = each(lambda key: draw_weights(key, 1), jr.split(jr.key(7), 60))
    margins = lambda couple, bias: each(
        lambda *drawn: script["margin"](drawn, bias, couple), *drawn
    )
    for bias in (False, True):
        here = margins(free, bias)
        there = margins(reversed_down, bias)
        both = jnp.isfinite(here) & jnp.isfinite(there)
        assert jnp.sum(both) > 30
        gaps = jnp.abs(jnp.where(both, 1 / here + 1 / there - 2, 0.0))
        assert bool(jnp.max(gaps) < 1e-10) is (not bias)
        assert bool(jnp.all((here < 1) != (there < 1))) is (not bias)


@pytest.mark.parametrize("bias, share", [(False, 0.5), (True, 0.449)])
def test_how_often_the_tied_energy_falls_for_independent_weights(bias, share, script):
    """The shares of the page: exactly a half without biases, and less with them."""
    margins = script["measure"](jr.key(11), 4000, bias)
    assert abs(np.mean(margins < 1) - share) < 4.5 * script["standard_error"](share, 4000)


def test_tied_weights_tolerate_everything(examples):
    margins = each(lambda b, x: descent_margin(with_tied_weights(b), x), examples.gelu, examples.x)
    assert jnp.all(margins == jnp.inf)


def test_relu_units_without_biases_make_both_energies_one():
    """For other norms and time constants too; for conservative weights both are then exact."""

    def measure(weights, x, couple):
        visible = Neurons(LayerNorm((-1,)), (TOKENS, CHANNELS), tau=0.7)
        block = small_mixer(weights, couple, hidden=ReLU(), visible=visible)
        return radial_energy(block, x[0]), block.energy(x[0]), power(block, x[0])

    drawn = each(lambda key: draw_weights(key, 1), jr.split(jr.key(5), 10))
    for couple in (gained, free):
        radial, own, found = each(partial(measure, couple=couple), *drawn)
        assert_close(radial, own)
        assert jnp.all((jnp.abs(found.work) < 1e-12 * found.dissipation) == (couple is gained))
