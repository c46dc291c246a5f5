"""The velocity and the rate of symmetry breaking: against automatic differentiation, for every
setting of the tie.
"""

# pyright: reportOptionalOperand=false, reportOptionalMemberAccess=false

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix import Coupling, measure_asymmetry
from hopmix.symmetry.breaking import (
    breaking_rate,
    breaking_velocity,
    product_gradient,
    unit_balance,
)

VISIBLE = 4
HIDDEN = 3
TIES = (0.0, 0.3, 1.0, -1.0, 2.0)


def random_coupling(getkey, tie: float, breaking: bool = True) -> Coupling:
    up = normal(getkey(), (HIDDEN, VISIBLE))
    down = normal(getkey(), (VISIBLE, HIDDEN))
    return Coupling(up, breaking=down if breaking else None, tie=tie)


def tied(up, tie: float) -> Coupling:
    """A coupling with V = W^T to the last bit, whatever share of it the tie carries."""
    return Coupling(up, breaking=up.T - tie * up.T, tie=tie)


def quartic(matrix, target) -> jax.Array:
    return jnp.sum((matrix - target) ** 2) + 0.1 * jnp.sum((matrix - target) ** 4)


def pace(coupling: Coupling, gradient: Coupling) -> jax.Array:
    """The size of the terms of the rate: how fast V - W^T and W move, in units of W."""
    gap = jnp.linalg.norm(coupling.down - coupling.up.T)
    up = jnp.linalg.norm(coupling.up)
    moving = jnp.linalg.norm(breaking_velocity(coupling, gradient))
    return (moving + gap * (0.0 if gradient.up is None else jnp.linalg.norm(gradient.up)) / up) / up


def moved(coupling: Coupling, gradient: Coupling, time) -> Coupling:
    """The coupling after a straight step of that length along minus the gradient."""
    return Coupling(
        coupling.up - time * gradient.up,
        breaking=coupling.breaking - time * gradient.breaking,
        tie=coupling.tie,
    )


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.quick
def test_the_velocity_is_that_of_a_step_along_the_gradient(tie, getkey):
    coupling = random_coupling(getkey, tie)
    target = normal(getkey(), (VISIBLE, VISIBLE))
    gradient = jax.grad(lambda c: quartic(c.down @ c.up, target))(coupling)
    gap = lambda c: c.down - c.up.T
    step = 0.01
    change = (gap(moved(coupling, gradient, step)) - gap(coupling)) / step
    assert_close(breaking_velocity(coupling, gradient), change, 1e-11)


@pytest.mark.parametrize("tie", TIES)
def test_the_rate_is_the_derivative_of_the_breaking_ratio(tie, getkey):
    coupling = random_coupling(getkey, tie)
    target = normal(getkey(), (VISIBLE, VISIBLE))
    gradient = jax.grad(lambda c: quartic(c.down @ c.up, target))(coupling)
    ratio = lambda time: measure_asymmetry(moved(coupling, gradient, time)).breaking_ratio
    assert_close(
        breaking_rate(coupling, gradient), jax.grad(ratio)(0.0), scale=pace(coupling, gradient)
    )


@pytest.mark.parametrize("tie", [0.0, 0.5, 1.0])
def test_the_rate_at_a_tied_point_is_the_slope_to_the_right(tie, getkey):
    """The ratio has a kink there: |V - W^T| = t |velocity| while |W| moves smoothly, so r(t) |W(t)|
    = t r' |W(0)|.
    """
    coupling = tied(normal(getkey(), (HIDDEN, VISIBLE)), tie)
    target = normal(getkey(), (VISIBLE, VISIBLE))
    gradient = jax.grad(lambda c: quartic(c.down @ c.up, target))(coupling)
    assert measure_asymmetry(coupling).breaking_ratio == 0
    rate = breaking_rate(coupling, gradient)
    assert rate > 0
    for time in (1e-3, 0.5):
        later = moved(coupling, gradient, time)
        growth = jnp.linalg.norm(later.up) / jnp.linalg.norm(coupling.up)
        assert_close(measure_asymmetry(later).breaking_ratio * growth, time * rate, 1e-10)


@pytest.mark.parametrize("tie", TIES)
def test_the_gradient_through_a_linear_map(tie, getkey):
    coupling = random_coupling(getkey, tie)
    target = normal(getkey(), (VISIBLE, VISIBLE))
    expected = jax.grad(lambda c: quartic(c.down @ c.up, target))(coupling)
    found = product_gradient(
        coupling, jax.grad(partial(quartic, target=target))(coupling.down @ coupling.up)
    )
    assert_close((found.up, found.breaking), (expected.up, expected.breaking))
    assert found.tie == 0


def test_independent_weights_break_by_the_antisymmetric_part_alone(getkey):
    up = normal(getkey(), (HIDDEN, VISIBLE))
    g = normal(getkey(), (VISIBLE, VISIBLE))
    coupling = tied(up, 0.0)
    assert_close(breaking_velocity(coupling, product_gradient(coupling, g)), -(g - g.T) @ up.T)
    symmetric = breaking_velocity(coupling, product_gradient(coupling, g + g.T))
    assert float(jnp.max(jnp.abs(symmetric))) <= 1e-15 * jnp.linalg.norm(g) * jnp.linalg.norm(up)


def test_a_breaking_on_top_of_tied_weights_grows_by_the_symmetric_part_too(getkey):
    """The same matrices, other parameters: with tie 1 the velocity is -G W^T whatever the symmetry
    of G.
    """
    up = normal(getkey(), (HIDDEN, VISIBLE))
    g = normal(getkey(), (VISIBLE, VISIBLE))
    coupling = Coupling(up, breaking=jnp.zeros((VISIBLE, HIDDEN)))
    for matrix in (g, g + g.T):
        assert_close(
            breaking_velocity(coupling, product_gradient(coupling, matrix)), -matrix @ up.T
        )


def test_tied_weights_without_a_breaking_stay_tied(getkey):
    coupling = random_coupling(getkey, 1.0, breaking=False)
    gradient = product_gradient(coupling, normal(getkey(), (VISIBLE, VISIBLE)))
    assert gradient.breaking is None
    assert jnp.all(breaking_velocity(coupling, gradient) == 0)
    assert breaking_rate(coupling, gradient) == 0


def test_parameters_that_do_not_train_do_not_move(getkey):
    coupling = random_coupling(getkey, 0.0)
    gradient = product_gradient(coupling, normal(getkey(), (VISIBLE, VISIBLE)))
    frozen_up = eqx.tree_at(lambda c: (c.up, c.tie), gradient, (None, None))
    frozen_down = eqx.tree_at(lambda c: c.breaking, gradient, None)
    assert_close(breaking_velocity(coupling, frozen_up), -gradient.breaking)
    assert_close(breaking_velocity(coupling, frozen_down), gradient.up.T)
    ratio = lambda time: (
        measure_asymmetry(
            Coupling.from_weights(coupling.up, coupling.breaking - time * gradient.breaking)
        ).breaking_ratio
    )
    assert_close(
        breaking_rate(coupling, frozen_up), jax.grad(ratio)(0.0), scale=pace(coupling, frozen_up)
    )


def test_balance(getkey):
    coupling = random_coupling(getkey, 0.4)
    w = np.asarray(coupling.up)
    v = np.asarray(coupling.down)
    expected = [w[a] @ w[a] - v[:, a] @ v[:, a] for a in range(HIDDEN)]
    assert_close(unit_balance(coupling), jnp.asarray(expected))
    tied_balance = unit_balance(Coupling.symmetric(VISIBLE, HIDDEN, key=getkey()))
    assert_close(tied_balance, jnp.zeros(HIDDEN))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_rounding_is_no_breaking(dtype, getkey):
    """V = W^T up to the last bit counts as tied, in the rate as well; a breaking that is visible
    does not.
    """
    up = normal(getkey(), (HIDDEN, VISIBLE), dtype)
    gradient = product_gradient(
        Coupling.from_weights(up, up.T), normal(getkey(), (VISIBLE, VISIBLE), dtype)
    )
    expected = breaking_rate(Coupling.from_weights(up, up.T), gradient)
    assert_close(
        breaking_rate(Coupling.from_weights(up, jnp.nextafter(up.T, jnp.inf)), gradient), expected
    )
    against = -breaking_velocity(Coupling.from_weights(up, up.T), gradient)
    visible = 100 * jnp.finfo(dtype).eps * against / jnp.linalg.norm(against) * jnp.linalg.norm(up)
    assert breaking_rate(Coupling.from_weights(up, up.T + visible), gradient) < 0


@pytest.mark.quick
def test_a_zero_map_has_no_rate(getkey):
    coupling = Coupling.from_weights(jnp.zeros((HIDDEN, VISIBLE)), jnp.zeros((VISIBLE, HIDDEN)))
    gradient = Coupling.from_weights(
        normal(getkey(), (HIDDEN, VISIBLE)), normal(getkey(), (VISIBLE, HIDDEN))
    )
    assert jnp.isnan(breaking_rate(coupling, gradient))


def test_a_gradient_of_another_shape_is_refused(getkey):
    coupling = random_coupling(getkey, 0.0)
    other = Coupling.free(VISIBLE, HIDDEN + 1, key=getkey())
    with pytest.raises(
        ValueError, match=r"gradient of `up` must have the shape .*\(3, 4\), got \(4, 4\)"
    ):
        breaking_velocity(coupling, other)
    wrong = eqx.tree_at(lambda c: c.breaking, coupling, coupling.breaking.T)
    with pytest.raises(
        ValueError, match=r"gradient of `breaking` must have the shape .*\(4, 3\), got \(3, 4\)"
    ):
        breaking_rate(coupling, wrong)


def test_single_precision_stays(getkey):
    coupling = jax.tree.map(lambda a: a.astype(jnp.float32), random_coupling(getkey, 0.3))
    gradient = product_gradient(coupling, normal(getkey(), (VISIBLE, VISIBLE), jnp.float32))
    for result in (
        breaking_velocity(coupling, gradient),
        breaking_rate(coupling, gradient),
        unit_balance(coupling),
    ):
        assert result.dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_rates_of_weights_of_any_scale(scale):
    """In float32: the rate is that of float64, and a balance out of range is infinite or zero,
    never not a number.
    """
    random = np.random.default_rng(0)
    up, down, of_up, of_down = (random.normal(size=s) for s in ((3, 4), (4, 3)) * 2)
    make = lambda up, down, scale, dtype: Coupling.from_weights(
        jnp.asarray(scale * up, dtype), jnp.asarray(scale * down, dtype)
    )
    expected = breaking_rate(
        make(up, down, 1.0, jnp.float64), make(of_up, of_down, 1.0, jnp.float64)
    )
    coupling = make(up, down, scale, jnp.float32)
    for of_gradient in (scale, 1.0):
        if 1e-8 < of_gradient / scale < 1e38:
            rate = breaking_rate(coupling, make(of_up, of_down, of_gradient, jnp.float32))
            assert_close(rate * np.float32(scale / of_gradient), expected, 1e-5)
    tied = Coupling.from_weights(coupling.up, coupling.up.T)
    expected = breaking_rate(
        make(up, up.T, 1.0, jnp.float64), make(of_up, of_down, 1.0, jnp.float64)
    )
    assert_close(breaking_rate(tied, make(of_up, of_down, scale, jnp.float32)), expected, 1e-5)
    balance = np.sum(up**2, axis=1) - np.sum(down**2, axis=0)
    with np.errstate(over="ignore", under="ignore"):
        held = (scale**2 * balance).astype(np.float32)
    np.testing.assert_allclose(unit_balance(coupling), held, rtol=1e-4, atol=1e-37)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays(dtype, getkey):
    coupling = jax.tree.map(lambda a: a.astype(dtype), random_coupling(getkey, 0.0))
    gradient = product_gradient(coupling, normal(getkey(), (VISIBLE, VISIBLE), dtype))
    assert breaking_rate(coupling, gradient).dtype == dtype
    assert unit_balance(coupling).dtype == dtype
