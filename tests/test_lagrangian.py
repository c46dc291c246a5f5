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
    Entmax,
    Exponential,
    GhostMax,
    LayerNorm,
    LogSumReLU,
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
    """Everything about stacks of states of all shapes, in one program: compiling is most of the
    time.
    """
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
@pytest.mark.quick
def test_the_activation_is_the_gradient_of_the_value(name, dtype, getkey):
    stacks = [2 * normal(getkey(), (7, *shape), dtype) for shape in SHAPES]
    results, _ = program(name, dtype)(stacks)
    for shape, (value, activation, gradient) in zip(SHAPES, results):
        assert (value.shape, value.dtype) == ((7,), dtype)
        assert (activation.shape, activation.dtype) == ((7, *shape), dtype)
        assert_close(activation, gradient)


def extreme_states(shape: tuple[int, ...], signs: np.ndarray, dtype) -> jax.Array:
    one = np.ones(shape)
    spike = np.zeros(shape)
    spike.flat[1] = 1e3
    states = [1e3 * one, -1e3 * one, 1e3 * signs, spike + signs, spike - 1e3, 0 * one, 1e-3 * signs]
    return jnp.asarray(np.stack(states), dtype)


@pytest.mark.parametrize("name", [name for name in LAGRANGIANS if name not in OVERFLOWING])
@dtypes
def test_extreme_states_give_numbers(name, dtype, getkey):
    stacks = [extreme_states(shape, np.sign(normal(getkey(), shape)), dtype) for shape in SHAPES]
    results, curvature = program(name, dtype)(stacks)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((results, curvature)))
    for _, activation, gradient in results:
        assert_close(activation, gradient)


@pytest.mark.parametrize("number", [1000.1, -3e5, 0.1])
def test_a_norm_of_equal_numbers_is_zero_in_single_precision(number):
    """Their mean is off by an ulp, which eps would blow up to a fifth of the scale."""
    for axes, shape in ((None, (24,)), ((-1,), (3, 24)), ((0, -1), (7, 24))):
        assert np.all(
            np.abs(LayerNorm(axes).activation(jnp.full(shape, number, jnp.float32))) < 1e-6
        )


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float64], ids=lambda dtype: dtype.__name__
)
@pytest.mark.parametrize("axes", [None, (-1,), (0, -1)])
def test_a_layer_norm_does_not_see_the_unit_of_its_state(axes, dtype, getkey):
    """Of groups whose squares leave the range of the dtype too, next to a group whose squares do
    not.
    """
    x = normal(getkey(), (3, 5, 8)).astype(dtype)
    wide_range = float(jnp.finfo(dtype).maxexp)
    exact = LayerNorm(axes, eps=0.0).activation(x.astype(jnp.float64))
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    for share in (-0.75, -0.6, 0.0, 0.5, 0.6, 0.75, 0.9):
        unit = 2.0 ** int(share * wide_range)
        units = jnp.full((1, 5, 1), unit, dtype)
        if axes is not None:
            units = units.at[0, 2, 0].set(1)  # a group of its own, or a part of each
        parted = axes == (0, -1)
        scaled = x * (units if parted or axes == (-1,) else jnp.asarray(unit, dtype))
        for norm in (LayerNorm(axes, eps=0.0), LayerNorm(axes, eps=1e-30 if share >= 0 else 0.0)):
            found = norm.activation(scaled)
            assert found.dtype == dtype
            np.testing.assert_allclose(
                np.asarray(found, np.float64), exact, rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("exponent", [-70, 0, 70, 110])
def test_a_layer_norm_in_another_unit_has_the_same_derivatives(exponent, getkey):
    """First and second ones, under jit and vmap: those at u x are those at x over u and u^2."""
    unit = 2.0**exponent
    x, v, w = (normal(getkey(), (4, 6), jnp.float32) for _ in range(3))
    norm = LayerNorm((-1,), eps=0.0)

    def first(x):
        return jax.grad(lambda x: jnp.vdot(w, norm.activation(x)))(x)

    def second(x, v):
        return jax.jvp(first, (x,), (v,))[1]

    for f in (
        first,
        jax.jit(first),
        jax.vmap(lambda x: jax.grad(lambda x: jnp.sum(norm.activation(x) ** 3))(x)),
    ):
        np.testing.assert_allclose(f(unit * x) * jnp.float32(unit), f(x), rtol=1e-4, atol=1e-5)
    # Twice the unit is divided out: once by the direction, and once after.
    found = jax.jit(second)(unit * x, unit * v) * jnp.float32(unit)
    np.testing.assert_allclose(found, second(x, v), rtol=1e-4, atol=1e-4)
    exact = jax.grad(lambda x: jnp.vdot(w.astype(jnp.float64), _plain_norm(x)))(
        x.astype(jnp.float64)
    )
    np.testing.assert_allclose(first(x), exact, rtol=1e-4, atol=1e-5)


def _plain_norm(x):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True))


def test_conjugates_of_what_a_sign_made_concave_are_infinite():
    g = jnp.asarray([0.5])
    for lagrangian in (
        -1.0 * Quadratic(),
        Tanh(-1.0),
        Softmax(-1.0),
        Entmax(beta=-1.0),
        LayerNorm(scale=-1.0),
    ):
        assert not lagrangian.is_convex
        assert lagrangian.conjugate(g) == jnp.inf
    nothing = 0.0 * Quadratic()
    assert nothing.conjugate(g) == jnp.inf
    assert nothing.conjugate(0 * g) == 0


def test_the_exponential_overflows_and_says_so():
    assert jnp.isinf(Exponential()(jnp.full((2,), 1e3)))
    assert "overflows" in (Exponential.__doc__ or "")


@rows
@pytest.mark.quick
def test_the_hessian_is_positive_semidefinite_exactly_where_convex(name, getkey):
    lagrangian = make(name)
    shape = (2, 3)
    states = [scale * normal(getkey(), shape) for scale in (0.1, 1.0, 5.0)] + [
        jnp.full(shape, -math.sqrt(2))
    ]
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


# ---- Curvature, Hessian-vector products, conjugates ----------------------------------------------


@rows
@pytest.mark.quick
def test_the_hessian_vector_product_is_that_of_the_hessian(name, getkey):
    lagrangian = make(name)
    x = normal(getkey(), SHAPE)
    v = normal(getkey(), SHAPE)
    hessian = jax.jit(jax.hessian(lagrangian))(x)
    assert_close(lagrangian.hessian_vector_product(x, v), jnp.tensordot(hessian, v, 2), 1e-11)


@rows
@pytest.mark.quick
def test_the_curvature_bounds_the_hessian(name, getkey):
    lagrangian = make(name)
    shape = (2, 3)
    states = jnp.concatenate(
        [scale * normal(getkey(), (16, *shape)) for scale in (0.003, 0.3, 3.0)]
    )
    eigenvalues = np.linalg.eigvalsh(
        jax.jit(jax.vmap(jax.hessian(lagrangian)))(states).reshape(-1, 6, 6)
    )
    lowest, highest = lagrangian.curvature
    assert lowest - 1e-9 <= eigenvalues.min()
    assert eigenvalues.max() <= highest + 1e-9


# For each end of the curvature, the lowest and the highest, a state at which the Hessian has an
# eigenvalue there: by symmetry (a constant adds nothing to what competes or is normalised), at the
# steepest point, or so near a limit of silent or saturated units that rounding hides the rest.
# Where the end is infinite, the eigenvalue is above 1000 in size. `None`: in a kink, which has no
# Hessian.
EXTREMES: dict[str, tuple[AbstractLagrangian, list | None, list | None]] = {
    "quadratic": (Quadratic(), [0.3], [0.3]),
    "relu": (ReLU(), [-1.0], [1.0]),
    "repu 2": (RePU(2), [-1.0], [1.0]),
    "repu 3": (RePU(3), [-1.0], [1e4]),
    "gelu": (GELU(), [-math.sqrt(2)], [math.sqrt(2)]),
    "exponential": (Exponential(2.0), [-20.0], [9.0]),
    "exponential, negative": (Exponential(-2.0), [-9.0], [20.0]),
    "tanh": (Tanh(3.0), [20.0], [0.0]),
    "tanh, negative": (Tanh(-3.0), [0.0], [20.0]),
    "sigmoid": (Sigmoid(3.0), [20.0], [0.0]),
    "sigmoid, negative": (Sigmoid(-3.0), [0.0], [20.0]),
    "softmax, two alike": (Softmax(3.0), [1.0, 1.0], [1.0, 1.0]),
    "softmax, two alike and one far below": (Softmax(3.0), [1.0, 1.0, -20.0], [1.0, 1.0, -20.0]),
    "softmax, negative": (Softmax(-3.0), [1.0, 1.0], [1.0, 1.0]),
    "ghost-max, the silent one far below": (GhostMax(3.0), [-20.0, -20.0], [20.0, 20.0]),
    "ghost-max, negative": (GhostMax(-3.0), [-20.0, -20.0], [20.0, 20.0]),
    "entmax, two alike": (Entmax(2.0, 3.0), [0.1, 0.1], [0.1, 0.1]),
    "entmax, a support of two": (Entmax(2.0, 3.0), [0.1, 0.2, -5.0], [0.1, 0.2, -5.0]),
    "entmax, negative": (Entmax(2.0, -3.0), [0.1, 0.1], [0.1, 0.1]),
    "log-sum-relu, hardly active": (LogSumReLU(1.0, eps=1e-2), [1e-6 - 1], None),
    "layer norm, constant": (LayerNorm(scale=2.0, eps=0.25), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    "layer norm, nearly constant": (
        LayerNorm(),
        [5.0, 5 + 1e-8, 5 - 1e-8],
        [5.0, 5 + 1e-8, 5 - 1e-8],
    ),
    "layer norm, one constant group": (
        LayerNorm((-1,)),
        [[3.0, 3.0], [1.0, 9.0]],
        [[3.0, 3.0], [1.0, 9.0]],
    ),
    "layer norm, negative": (LayerNorm(scale=-2.0, eps=0.25), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    "spherical norm": (SphericalNorm(eps=0.25), [1e4, 0.0], [0.0, 0.0]),
    "sum": (ReLU() + 0.25 * Quadratic(), [-1.0], [1.0]),
    "scaled": (0.3 * Softmax(3.0), [1.0, 1.0], [1.0, 1.0]),
    "scaled, negative": (-2.0 * Tanh(3.0), [0.0], [20.0]),
}


@functools.cache
def spectra() -> dict[str, list[np.ndarray | None]]:
    """The eigenvalues of the Hessian at both states of each row."""
    ends = {
        name: (row[0], [None if x is None else jnp.asarray(x) for x in row[1:]])
        for name, row in EXTREMES.items()
    }
    hessian = lambda lagrangian, x: jax.jacfwd(lagrangian.activation)(x).reshape(x.size, x.size)
    run = jax.jit(
        lambda: {
            name: [x if x is None else hessian(of, x) for x in at]
            for name, (of, at) in ends.items()
        }
    )
    return {
        name: [h if h is None else np.linalg.eigvalsh(h) for h in both]
        for name, both in run().items()
    }


@pytest.mark.parametrize("end", [0, 1], ids=["lowest", "highest"])
@pytest.mark.parametrize("name", EXTREMES)
def test_the_ends_of_the_curvature_are_reached(name, end):
    bound = EXTREMES[name][0].curvature[end]
    eigenvalues = spectra()[name][end]
    if eigenvalues is None:
        assert math.isinf(bound)
        return
    reached = eigenvalues[-end]
    if math.isinf(bound):
        assert math.copysign(1, bound) * reached > 1e3
    else:
        assert abs(reached - bound) <= 1e-9 * max(1, abs(bound))


def test_the_table_of_extremes_has_every_lagrangian():
    parts = {type(part) for name in LAGRANGIANS for part in make(name).parts}
    assert {
        type(part) for lagrangian, *_ in EXTREMES.values() for part in lagrangian.parts
    } == parts


def conjugates() -> list[str]:
    return [name for name in LAGRANGIANS if name not in NOT_CONVEX | {"sum"}]


@pytest.mark.parametrize("name", conjugates())
@pytest.mark.quick
def test_the_conjugate_at_an_activation_is_the_layer_energy(name, getkey):
    """Fenchel-Young holds with equality at g = L'(x)."""
    lagrangian = make(name)
    x = normal(getkey(), SHAPE)
    g = lagrangian.activation(x)
    # Of norms it is the root of 1 - |g|^2, about 1e-6 here, which rounding leaves nine digits of.
    tolerance, size = (1e-8, 0.0) if "norm" in name else (1e-11, jnp.sum(jnp.abs(x * g)))
    assert_close(lagrangian.conjugate(g), jnp.sum(x * g) - lagrangian(x), tolerance, size)


@pytest.mark.parametrize("name", conjugates())
def test_the_conjugate_lies_above_every_other_line(name, getkey):
    """L*(g) >= y.g - L(y) for all y, and nearly with equality for y near x: it is the supremum."""
    lagrangian = make(name)
    x = normal(getkey(), SHAPE)
    g = lagrangian.activation(x)
    y = jnp.concatenate(
        [x[None] + scale * normal(getkey(), (64, *SHAPE)) for scale in (0.01, 1.0, 10.0)]
    )
    lines = jax.vmap(lambda y: jnp.sum(y * g) - lagrangian(y))(y)
    value = lagrangian.conjugate(g)
    assert jnp.max(lines) <= value + 1e-9
    assert jnp.max(lines) >= value - 0.1


OUTSIDE = {
    "relu": [1.0, -0.1],
    "repu 3": [1.0, -0.1],
    "exponential": [1.0, -0.1],
    "tanh": [0.5, 1.1],
    "sigmoid": [0.5, -0.1],
    "softmax": [0.5, 0.4],
    "entmax": [0.7, 0.4],
    "ghost-max": [0.7, 0.4],
    "layer norm": [1.0, -0.5],
    "spherical norm": [0.9, 0.9],
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_its_domain_the_conjugate_is_infinite(name):
    assert make(name).conjugate(jnp.asarray(OUTSIDE[name])) == jnp.inf


@pytest.mark.parametrize("name", [*sorted(NOT_CONVEX - {"layer norm, negative scale"}), "sum"])
def test_a_conjugate_that_is_not_known_is_refused(name):
    with pytest.raises(NotImplementedError, match="has no closed convex conjugate"):
        make(name).conjugate(jnp.zeros(SHAPE))


# ---- Sums and multiples --------------------------------------------------------------------------


@pytest.mark.quick
def test_lagrangians_add_and_scale(getkey):
    x = normal(getkey(), SHAPE)
    c = jnp.asarray(0.7)
    a = Tanh(2.0)
    b = LayerNorm((-1,))
    total = a + c * b
    assert_close(total(x), a(x) + c * b(x))
    assert_close(total.activation(x), a.activation(x) + c * b.activation(x))
    assert_close((a * 2)(x), 2 * a(x))
    assert_close((np.float64(2.0) * a)(x), 2 * a(x))
    assert (a + b + a).terms == (a, b, a)
    assert (a + (b + 3.0 * a)).parts == (a, b, a)
    leaky = ReLU() + 0.25 * Quadratic()
    assert leaky.curvature == (0.25, 1.25)
    assert (-1.0 * GELU()).curvature == tuple(-end for end in reversed(GELU().curvature))
    assert (0.0 * Exponential()).curvature == (0.0, 0.0)
    assert (GELU() + 0.13 * Quadratic()).is_convex
    assert not (GELU() + 0.12 * Quadratic()).is_convex


def test_a_factor_learns(getkey):
    x = normal(getkey(), SHAPE)
    factor = jnp.asarray(0.7)
    energy = lambda factor: Neurons(Tanh() + factor * Softmax(), SHAPE).energy(x)
    assert_close(jax.grad(energy)(factor), differences(energy, factor), 1e-7)


@pytest.mark.parametrize("operation", [lambda a: a + 1, lambda a: a * a, lambda a: "2" + a])
def test_only_lagrangians_add_and_only_numbers_scale(operation):
    with pytest.raises(TypeError):
        operation(ReLU())


# ---- Competition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Softmax, GhostMax, Entmax, partial(Entmax, 1.5)])
def test_competition_sees_only_differences_however_large_the_states(make, getkey):
    """Multiples of 1/64 plus 1024 are exact in float32, so that nothing but the function itself can
    lose digits.
    """
    x = jnp.asarray(np.round(64 * np.asarray(normal(getkey(), (5, 8)))) / 64, jnp.float32)
    competition = make(axes=(-1,))
    near, far = x + 64, x + 1088  # the silent unit of ghost-max is out of the race at both
    assert_close(competition.activation(far), competition.activation(near))
    assert_close(jax.grad(competition)(far), jax.grad(competition)(near))
    assert (
        abs(competition(far) - 5 * 1024 - competition(near))
        <= 2 * jnp.finfo(jnp.float32).eps * 5 * 1088
    )


def test_sparsemax_is_the_projection_on_the_simplex(getkey):
    """alpha 2 has the closed form of Martins & Astudillo 2016, by sorting."""
    for x in 2 * normal(getkey(), (8, 6)):
        ordered = np.sort(x)[::-1]
        sums = np.cumsum(ordered) - 1
        size = np.sum(ordered - sums / np.arange(1, 7) > 0)
        expected = np.maximum(x - sums[size - 1] / size, 0)
        assert_close(Entmax().activation(x), expected)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.75, 2.0])
def test_entmax_maximises_its_objective(alpha, getkey):
    """No point of the simplex does better than the activation, which is sparse where alpha is
    large.
    """
    x = 3 * normal(getkey(), (6,))
    rivals = np.random.default_rng(0).dirichlet(np.ones(6), 500)
    objective = lambda p: p @ np.asarray(x) - np.sum(p**alpha - p, axis=-1) / (alpha * (alpha - 1))
    g = np.asarray(Entmax(alpha).activation(x))
    np.testing.assert_allclose(g.sum(), 1, rtol=1e-12)
    assert g.min() >= 0
    assert np.all(objective(rivals) <= objective(g) + 1e-12)
    assert np.all(objective(0.99 * g + 0.01 * rivals) <= objective(g) + 1e-12)
    assert_close(Entmax(alpha)(x), objective(g), scale=np.sum(np.abs(g * x)) + 1)


def test_entmax_tends_to_softmax(fixedkey):
    x = normal(fixedkey(), (6,))
    errors = [
        distance(Entmax(1 + h).activation(x), Softmax().activation(x)) for h in (0.004, 0.002)
    ]
    assert errors[1] < 0.01
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_entmax_differentiates_twice(getkey):
    """Far from the kinks: four units are in the race, and one is out of it, wherever they are
    drawn.
    """
    x = jnp.append(0.2 * jnp.tanh(normal(getkey(), (4,))), -5.0)
    v = normal(getkey(), (5,))
    curve = lambda x: jnp.sum(v * Entmax(1.5).hessian_vector_product(x, v))
    assert_close(jax.grad(curve)(x), differences(curve, x), 1e-6)


def test_ghost_max_is_softmax_with_a_silent_unit_at_zero(getkey):
    x = normal(getkey(), (5,))
    full = jnp.append(x, 0.0)
    assert_close(GhostMax(1.7)(x), Softmax(1.7)(full))
    assert_close(GhostMax(1.7).activation(x), Softmax(1.7).activation(full)[:5])


def test_log_sum_relu_forgets_what_is_far(getkey):
    unit = LogSumReLU(0.5, eps=1e-9)
    x = jnp.asarray([-0.4, -3.0, -50.0])  # 1 + beta x > 0 for the first alone
    assert_close(unit.activation(x), jnp.asarray([1 / 0.8, 0.0, 0.0]), 1e-8)
    assert_close(unit(x), math.log(0.8) / 0.5, 1e-8)


@pytest.mark.quick
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
    x = normal(getkey(), SHAPE)
    shift = normal(getkey(), SHAPE)
    eps = 0.01
    scale = 1.7
    variance = jnp.var(x, axis=axes)
    expected = -jnp.sum((x.size // variance.size) * eps * scale / jnp.sqrt(variance + eps))
    neurons = Neurons(LayerNorm(axes, scale, shift, eps), SHAPE)
    assert_close(
        neurons.energy(x), expected, 1e-10
    )  # the difference of two numbers a hundred times larger
    assert -x.size * math.sqrt(eps) * scale <= neurons.energy(x) <= 0


def test_a_single_root_of_the_total_is_another_norm(fixedkey):
    """The trap of norms with several groups: the sum stands outside the root."""
    x, tokens, channels = normal(fixedkey(), SHAPE), *SHAPE
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
    size = jnp.sum(jnp.abs(x * kind(beta).activation(x)))
    assert_close(jax.grad(energy)(beta), differences(energy, beta), 1e-7, size)
    assert jax.grad(energy)(beta) != 0


def test_scale_and_shift_learn_through_the_lagrangian_and_the_energy(getkey):
    x = normal(getkey(), SHAPE)
    weights = normal(getkey(), SHAPE)
    scale = jnp.asarray(1.3)
    shift = normal(getkey(), (1, 3))

    def norm(scale, shift):
        return LayerNorm((-1,), scale, shift, eps=0.1)

    readouts = {
        "value": lambda *p: norm(*p)(x),
        "energy": lambda *p: Neurons(norm(*p), SHAPE).energy(x),
        "activation": lambda *p: jnp.sum(weights * norm(*p).activation(x)),
    }
    for readout in readouts.values():
        by_scale, by_shift = jax.grad(readout, argnums=(0, 1))(scale, shift)
        size = jnp.sum(jnp.abs(x)) + jnp.sum(jnp.abs(weights))
        assert_close(by_scale, differences(lambda a, f=readout: f(a, shift), scale), 1e-7, size)
        expected = differences(lambda a, f=readout: f(scale, a), shift)
        assert_close(by_shift, expected, 1e-8, size)  # of the energy it is zero


@rows
def test_a_lagrangian_is_a_pytree(name, getkey):
    lagrangian = make(name)
    states = normal(getkey(), (2, *SHAPE))
    leaves, structure = jax.tree.flatten(lagrangian)
    assert eqx.tree_equal(jax.tree.unflatten(structure, leaves), lagrangian)

    @jax.jit  # the Lagrangian goes in and comes out as an argument, its numbers traced
    def through(lagrangian, states):
        return lagrangian, jax.vmap(lambda o, x: (o(x), o.activation(x)), in_axes=(None, 0))(
            lagrangian, states
        )

    returned, results = through(lagrangian, states)
    assert returned.is_convex is lagrangian.is_convex
    one_by_one = [COMPILED[name](x) for x in states]
    assert_close(results, jax.tree.map(lambda *a: np.stack(a), *one_by_one))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: RePU(1), r"RePU needs power >= 2 .* got 1; use ReLU\(\)"),
        (
            lambda: LayerNorm(eps=-1e-6),
            r"LayerNorm needs eps >= 0, got -1e-06; the usual value is 1e-6",
        ),
        (lambda: Entmax(1.0), r"Entmax needs 1 < alpha <= 2, got 1.0; alpha -> 1 is Softmax"),
        (lambda: Entmax(3.0), r"Entmax needs 1 < alpha <= 2, got 3.0"),
        (
            lambda: LogSumReLU(eps=0.0),
            r"LogSumReLU needs eps > 0, got 0.0; the usual value is 1e-6",
        ),
        (
            lambda: SphericalNorm(eps=-1.0),
            r"SphericalNorm needs eps >= 0, got -1.0; the usual value is 1e-6",
        ),
    ],
)
@pytest.mark.quick
def test_bad_parameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ---- Properties of any state ---------------------------------------------------------------------

states = arrays(np.float64, SHAPE, elements=st.floats(-50, 50, width=32))


def _compile(name: str):
    lagrangian = make(name)
    return jax.jit(lambda x: (lagrangian(x), lagrangian.activation(x)))


COMPILED = {name: _compile(name) for name in LAGRANGIANS}


@pytest.mark.parametrize("name", [name for name in LAGRANGIANS if name not in NOT_CONVEX])
@given(x=states, y=states)
def test_a_convex_lagrangian_lies_above_its_tangents(name, x, y):
    """L(y) >= L(x) + g(x).(y - x): the inequality behind every descent theorem of the house."""
    (at_x, g) = COMPILED[name](x)
    (at_y, _) = COMPILED[name](y)
    size = abs(at_x) + abs(at_y) + jnp.sum(jnp.abs(g * (y - x)))
    assert at_y - at_x - jnp.sum(g * (y - x)) >= -TOLERANCE["float64"] * (size + 1)


@given(x=states, c=st.floats(-10, 10), a=st.floats(0.1, 10))
def test_norms_forget_what_they_should(x, c, a):
    joint = COMPILED["layer norm, joint"]
    np.testing.assert_allclose(joint(x + c)[1], joint(x)[1], atol=1e-6)
    g = COMPILED["layer norm, last axis"](x)[1]
    np.testing.assert_allclose(jnp.mean(g, axis=-1), 0, atol=1e-7)
    assert jnp.all(jnp.mean(g**2, axis=-1) <= 1 + 1e-12)
    scaled = LayerNorm(
        (-1,), eps=a**2 * 1e-6
    )  # with eps scaled along, the scale of the state drops out exactly
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
