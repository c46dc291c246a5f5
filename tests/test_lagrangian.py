"""Lagrangians: the closed-form activations are their gradients, everywhere that numbers reach."""

import functools
import math
from functools import partial

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAGRANGIANS,
    NOT_CONVEX,
    OVERFLOWING,
    SHAPES,
    TOLERANCE,
    assert_close,
    differences,
    distance,
    normal,
)
from hypothesis import given
from hypothesis.extra.numpy import arrays

from hopmix import (
    GELU,
    AbstractLagrangian,
    Exponential,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    RePU,
    Sigmoid,
    Softmax,
    SphericalNorm,
    Tanh,
)

SHAPE = (4, 3)
rows = pytest.mark.parametrize("name", LAGRANGIANS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def make(name: str, shape: tuple[int, ...] = SHAPE, dtype=jnp.float64) -> AbstractLagrangian:
    return LAGRANGIANS[name](shape, dtype)


@functools.cache
def program(name: str, dtype):
    """Everything about stacks of states of all shapes, in one program: compiling is most of the time."""
    weights = np.random.default_rng(0).normal(size=SHAPE).astype(dtype)

    def everything(shape, x):
        lagrangian = make(name, shape, dtype)
        return lagrangian(x), lagrangian.activation(x), jax.grad(lagrangian)(x)

    def curvature(x):
        return jax.grad(lambda x: jnp.sum(weights * make(name, SHAPE, dtype).activation(x)))(x)

    @jax.jit
    def run(stacks):
        results = [jax.vmap(partial(everything, shape))(x) for shape, x in zip(SHAPES, stacks)]
        return results, jax.vmap(curvature)(stacks[SHAPES.index(SHAPE)])

    return run


@rows
@dtypes
def test_the_activation_is_the_gradient_of_the_value(name, dtype, getkey):
    stacks = [2 * normal(getkey(), (7, *shape), dtype) for shape in SHAPES]
    results, _ = program(name, dtype)(stacks)
    for shape, (value, activation, gradient) in zip(SHAPES, results):
        assert (value.shape, value.dtype) == ((7,), dtype)
        assert (activation.shape, activation.dtype) == ((7, *shape), dtype)
        assert_close(activation, gradient)


def extreme_states(shape: tuple[int, ...], signs: np.ndarray, dtype) -> jax.Array:
    one, spike = np.ones(shape), np.zeros(shape)
    spike.flat[1] = 1e3
    states = [1e3 * one, -1e3 * one, 1e3 * signs, spike + signs, spike - 1e3, 0 * one, 1e-3 * signs]
    return jnp.asarray(np.stack(states), dtype)


@pytest.mark.parametrize("name", [name for name in LAGRANGIANS if name not in OVERFLOWING])
@dtypes
def test_extreme_states_give_numbers(name, dtype, getkey):
    stacks = [extreme_states(shape, np.sign(normal(getkey(), shape)), dtype) for shape in SHAPES]
    results, curvature = program(name, dtype)(stacks)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((results, curvature)))
    # A float32 mean of equal numbers near 1000 is off by an ulp, of which the eps of a norm makes some percent: no
    # form of the gradient is better there, and the first two states only have to give numbers.
    first = 2 if dtype == jnp.float32 else 0
    for _, activation, gradient in results:
        assert_close(activation[first:], gradient[first:])


def test_the_exponential_overflows_and_says_so():
    assert jnp.isinf(Exponential()(jnp.full((2,), 1e3)))
    assert "overflows" in (Exponential.__doc__ or "")


@rows
def test_the_hessian_is_positive_semidefinite_exactly_where_convex(name, getkey):
    lagrangian, shape = make(name), (2, 3)
    states = [scale * normal(getkey(), shape) for scale in (0.1, 1.0, 5.0)] + [jnp.full(shape, -math.sqrt(2))]
    hessians = jax.jit(jax.vmap(jax.hessian(lagrangian)))(jnp.stack(states))
    eigenvalues = np.linalg.eigvalsh(hessians.reshape(-1, 6, 6))
    lowest = np.min(eigenvalues) / np.max(np.abs(eigenvalues))
    assert lagrangian.is_convex is (name not in NOT_CONVEX)
    assert (lowest >= -1e-12) if lagrangian.is_convex else (lowest < -0.1)


@pytest.mark.parametrize("kind", [Exponential, Tanh, Sigmoid, Softmax])
@pytest.mark.parametrize("beta", [2.0, -2.0])
def test_convexity_follows_the_sign_of_beta(kind, beta, getkey):
    lagrangian = kind(jnp.asarray(beta))
    curvature = np.linalg.eigvalsh(jax.jit(jax.hessian(lagrangian))(normal(getkey(), (3,))))
    assert lagrangian.is_convex is bool(curvature.min() >= -1e-12)
    assert lagrangian.is_convex is (beta > 0)


def test_the_curvature_of_gelu_has_its_known_bounds():
    curvature = jax.jit(jax.vmap(jax.grad(jax.grad(GELU()))))
    x = jnp.linspace(-6.0, 6.0, 20001)
    values = curvature(x)
    inner = jnp.where(jnp.abs(x) < 1.2, jnp.abs(values), jnp.inf)
    extremes = curvature(jnp.asarray([-math.sqrt(2), math.sqrt(2)]))
    np.testing.assert_allclose(extremes, [-0.12890, 1.12890], atol=5e-6)
    assert extremes[0] <= jnp.min(values)
    assert extremes[1] >= jnp.max(values)
    np.testing.assert_allclose(x[jnp.argmin(inner)], -0.7518, atol=6e-4)


@dtypes
def test_gelu_has_its_known_values(dtype):
    phi = GELU()
    assert phi(jnp.zeros((), dtype)) == 0
    for x in (-1e1, -1e2, -1e3):  # the naive form loses the quarter in the rounding of x^2
        assert_close(phi(jnp.asarray(x, dtype)), 0.25)
    assert_close(phi(jnp.asarray(10.0, dtype)), 50 - 0.25)
    g = GELU().activation(jnp.linspace(-2, 0, 20001, dtype=dtype))
    assert_close(jnp.min(g), -0.16997, 3e-5)


def test_the_tanh_form_of_gelu_is_another_function():
    x = jnp.linspace(-3, 3, 101)
    assert distance(jax.nn.gelu(x, approximate=True), GELU().activation(x)) > 1e-4


def test_values_at_known_states():
    x = jnp.asarray([-1.0, 2.0, 3.0])
    expected = [
        (Quadratic(), 7.0),
        (ReLU(), 6.5),
        (RePU(3), 35 / 3),
        (Exponential(2.0), sum(math.exp(2 * t) for t in (-1, 2, 3)) / 2),
        (Tanh(2.0), sum(math.log(math.cosh(2 * t)) for t in (-1, 2, 3)) / 2),
        (Sigmoid(2.0), sum(math.log1p(math.exp(2 * t)) for t in (-1, 2, 3)) / 2),
        (Softmax(2.0), math.log(sum(math.exp(2 * t) for t in (-1, 2, 3))) / 2),
        (LayerNorm(scale=2.0, eps=0.5), 2 * 3 * math.sqrt(26 / 9 + 0.5)),
        (SphericalNorm(eps=2.0), 4.0),
    ]
    for lagrangian, value in expected:
        assert_close(lagrangian(x), value)


def test_repu_of_degree_two_is_relu(getkey):
    x = normal(getkey(), SHAPE)
    assert_close((RePU(2)(x), RePU(2).activation(x)), (ReLU()(x), ReLU().activation(x)))


@pytest.mark.parametrize("axes", [None, (-1,), (0,), (0, -1)])
def test_the_energy_of_a_layer_norm_is_known(axes, getkey):
    """x.g - L = -N eps gamma / sqrt(var + eps), summed over groups; the shift drops out."""
    x, shift, eps, scale = normal(getkey(), SHAPE), normal(getkey(), SHAPE), 0.01, 1.7
    variance = jnp.var(x, axis=axes)
    expected = -jnp.sum((x.size // variance.size) * eps * scale / jnp.sqrt(variance + eps))
    neurons = Neurons(LayerNorm(axes, scale, shift, eps), SHAPE)
    assert_close(neurons.energy(x), expected, 1e-10)  # the difference of two numbers a hundred times larger
    assert -x.size * math.sqrt(eps) * scale <= neurons.energy(x) <= 0


def test_a_single_root_of_the_total_is_another_norm(getkey):
    """The trap of norms with several groups: the sum stands outside the root."""
    x, tokens, channels = normal(getkey(), SHAPE), *SHAPE
    per_token = LayerNorm((-1,))
    one_root = jax.grad(lambda x: channels * jnp.sqrt(jnp.sum(jnp.var(x, axis=-1) + 1e-6)))(x)
    assert_close(per_token.activation(x), jax.vmap(LayerNorm().activation)(x))
    assert distance(one_root, per_token.activation(x)) > 0.1
    assert distance(LayerNorm().activation(x), per_token.activation(x)) > 0.01
    assert tokens > 1


def test_layer_norm_in_half_precision_keeps_its_statistics(getkey):
    x = (100 + normal(getkey(), (16, 64))).astype(jnp.bfloat16)
    norm = LayerNorm((0, -1))
    assert norm.activation(x).dtype == jnp.bfloat16
    assert_close(norm.activation(x), norm.activation(x.astype(jnp.float64)), 0.01)


@pytest.mark.parametrize("kind", [Exponential, Tanh, Sigmoid, Softmax])
def test_beta_learns_through_the_energy(kind, getkey):
    x = normal(getkey(), SHAPE)

    def energy(beta):
        return Neurons(kind(beta), SHAPE).energy(x)

    beta = jnp.asarray(0.7)
    assert_close(jax.grad(energy)(beta), differences(energy, beta), 1e-7)
    assert abs(jax.grad(energy)(beta)) > 1e-3


def test_scale_and_shift_learn_through_the_lagrangian_and_the_energy(getkey):
    x, weights = normal(getkey(), SHAPE), normal(getkey(), SHAPE)
    scale, shift = jnp.asarray(1.3), normal(getkey(), (1, 3))

    def norm(scale, shift):
        return LayerNorm((-1,), scale, shift, eps=0.1)

    readouts = {
        "value": lambda *p: norm(*p)(x),
        "energy": lambda *p: Neurons(norm(*p), SHAPE).energy(x),
        "activation": lambda *p: jnp.sum(weights * norm(*p).activation(x)),
    }
    for readout in readouts.values():
        by_scale, by_shift = jax.grad(readout, argnums=(0, 1))(scale, shift)
        assert_close(by_scale, differences(lambda a, f=readout: f(a, shift), scale), 1e-7)
        expected = differences(lambda a, f=readout: f(scale, a), shift)
        np.testing.assert_allclose(by_shift, expected, rtol=1e-7, atol=1e-9)  # of the energy it is zero


@rows
def test_a_lagrangian_is_a_pytree(name, getkey):
    lagrangian, states = make(name), normal(getkey(), (2, *SHAPE))
    leaves, structure = jax.tree.flatten(lagrangian)
    assert eqx.tree_equal(jax.tree.unflatten(structure, leaves), lagrangian)

    @jax.jit  # the Lagrangian goes in and comes out as an argument, its numbers traced
    def through(lagrangian, states):
        return lagrangian, jax.vmap(lambda o, x: (o(x), o.activation(x)), in_axes=(None, 0))(lagrangian, states)

    returned, results = through(lagrangian, states)
    assert returned.is_convex is lagrangian.is_convex
    one_by_one = [COMPILED[name](x) for x in states]
    assert_close(results, jax.tree.map(lambda *a: np.stack(a), *one_by_one))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: RePU(1), r"RePU needs power >= 2 .* got 1; use ReLU\(\)"),
        (lambda: LayerNorm(eps=-1e-6), r"LayerNorm needs eps >= 0, got -1e-06; the usual value is 1e-6"),
        (lambda: SphericalNorm(eps=-1.0), r"SphericalNorm needs eps >= 0, got -1.0; the usual value is 1e-6"),
    ],
)
def test_bad_parameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ---- Properties of any state ------------------------------------------------------------------------------------

states = arrays(np.float64, SHAPE, elements=st.floats(-50, 50, width=32))


def _compile(name: str):
    lagrangian = make(name)
    return jax.jit(lambda x: (lagrangian(x), lagrangian.activation(x)))


COMPILED = {name: _compile(name) for name in LAGRANGIANS}


@pytest.mark.parametrize("name", [name for name in LAGRANGIANS if name not in NOT_CONVEX])
@given(x=states, y=states)
def test_a_convex_lagrangian_lies_above_its_tangents(name, x, y):
    """L(y) >= L(x) + g(x).(y - x): the inequality behind every descent theorem of the house."""
    (at_x, g), (at_y, _) = COMPILED[name](x), COMPILED[name](y)
    size = abs(at_x) + abs(at_y) + jnp.sum(jnp.abs(g * (y - x)))
    assert at_y - at_x - jnp.sum(g * (y - x)) >= -TOLERANCE["float64"] * (size + 1)


@given(x=states, c=st.floats(-10, 10), a=st.floats(0.1, 10))
def test_norms_forget_what_they_should(x, c, a):
    joint = COMPILED["layer norm, joint"]
    np.testing.assert_allclose(joint(x + c)[1], joint(x)[1], atol=1e-6)
    g = COMPILED["layer norm, last axis"](x)[1]
    np.testing.assert_allclose(jnp.mean(g, axis=-1), 0, atol=1e-7)
    assert jnp.all(jnp.mean(g**2, axis=-1) <= 1 + 1e-12)
    scaled = LayerNorm((-1,), eps=a**2 * 1e-6)  # with eps scaled along, the scale of the state drops out exactly
    np.testing.assert_allclose(scaled.activation(a * jnp.asarray(x)), g, atol=1e-6)
    assert jnp.sum(COMPILED["spherical norm"](x)[1] ** 2) <= 1 + 1e-12


@given(x=states, c=st.floats(-10, 10))
def test_softmax_is_a_distribution(x, c):
    value, g = COMPILED["softmax"](x)
    shifted, same = COMPILED["softmax"](x + c)
    np.testing.assert_allclose(jnp.sum(g), 1, rtol=1e-12)
    np.testing.assert_allclose(shifted - value, c, atol=1e-10)
    np.testing.assert_allclose(same, g, atol=1e-10)
    rows_sum = jnp.sum(COMPILED["softmax, beta, last axis"](x)[1], axis=-1)
    np.testing.assert_allclose(rows_sum, 1, rtol=1e-12)
