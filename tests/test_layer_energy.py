"""Layer energies and values in closed form: right to the last digits at every scale, against
mpmath.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import math
from functools import partial

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from helpers import LAGRANGIANS, OVERFLOWING, SHAPES, assert_close, cast, normal

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

UNITS = 6
SCALES = (1e-30, 1e-12, 1e-4, 1e-2, 0.3, 1.0, 3.0, 10.0, 60.0, 1e4, 1e30)
NEARBY = mp.mpf(10) ** -40
dtypes = pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__
)


# ---- References: a value and an energy of exact numbers ------------------------------------------


def of_units(value, activation):
    """The value and the energy of independent units."""

    def reference(lagrangian, x):
        beta = mp.mpf(float(getattr(lagrangian, "beta", 1)))
        total = mp.fsum(value(lagrangian, beta * a) for a in x)
        return total / beta, mp.fsum(
            beta * a * activation(lagrangian, beta * a) for a in x
        ) / beta - total / beta

    return reference


def compete(lagrangian, x):
    beta = mp.mpf(float(lagrangian.beta))
    scores = [beta * a for a in x] + ([mp.mpf(0)] if isinstance(lagrangian, GhostMax) else [])
    top = max(scores)
    log_partition = top + mp.log(mp.fsum(mp.exp(a - top) for a in scores))
    return log_partition / beta, mp.fsum(
        mp.exp(a - log_partition) * (a - log_partition) for a in scores
    ) / beta


def entmax(lagrangian, x):
    alpha = mp.mpf(lagrangian.alpha)
    beta = mp.mpf(float(lagrangian.beta))
    top = beta * max(x)
    below = [(alpha - 1) * (beta * a - top) for a in x]
    share = lambda a, theta: max(a - theta, mp.mpf(0)) ** (1 / (alpha - 1))
    low = mp.mpf(-1)
    high = mp.mpf(0)
    for _ in range(300):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if mp.fsum(share(a, middle) for a in below) > 1 else (low, middle)
        )
    g = [share(a, low) for a in below]
    entropy = mp.fsum(p**alpha - p for p in g) / (alpha * (alpha - 1))
    gain = mp.fsum(p * a / (alpha - 1) for p, a in zip(g, below, strict=True))
    return (top + gain - entropy) / beta, entropy / beta


def log_sum_relu(lagrangian, x):
    beta = mp.mpf(float(lagrangian.beta))
    eps = mp.mpf(lagrangian.eps)
    active = [beta * a for a in x if 1 + beta * a > 0]
    mass = eps + mp.fsum(1 + a for a in active)
    return mp.log(mass) / beta, (mp.fsum(active) / mass - mp.log(mass)) / beta


def layer_norm(lagrangian, x):
    mean = mp.fsum(x) / len(x)
    factor = mp.mpf(float(lagrangian.scale)) * len(x)
    spread = mp.sqrt(mp.fsum((a - mean) ** 2 for a in x) / len(x) + mp.mpf(lagrangian.eps))
    return factor * spread, -factor * mp.mpf(lagrangian.eps) / spread


def spherical_norm(lagrangian, x):
    length = mp.sqrt(mp.fsum(a**2 for a in x) + mp.mpf(lagrangian.eps))
    return length, -mp.mpf(lagrangian.eps) / length


def normal_cdf(a):
    return mp.erfc(-a / mp.sqrt(2)) / 2


def gelu_value(_, a):
    return (a**2 * normal_cdf(a) - mp.erf(a / mp.sqrt(2)) / 2 + a * mp.npdf(a)) / 2


def positive(a):
    return max(a, mp.mpf(0))


REFERENCES = {
    Quadratic: of_units(lambda _, a: a**2 / 2, lambda _, a: a),
    ReLU: of_units(lambda _, a: positive(a) ** 2 / 2, lambda _, a: positive(a)),
    RePU: of_units(
        lambda of, a: positive(a) ** of.power / of.power,
        lambda of, a: positive(a) ** (of.power - 1),
    ),
    GELU: of_units(gelu_value, lambda _, a: a * normal_cdf(a)),
    Exponential: of_units(lambda _, a: mp.exp(a), lambda _, a: mp.exp(a)),
    Tanh: of_units(lambda _, a: mp.log(mp.cosh(a)), lambda _, a: mp.tanh(a)),
    Sigmoid: of_units(lambda _, a: mp.log1p(mp.exp(a)), lambda _, a: 1 / (1 + mp.exp(-a))),
    Softmax: compete,
    GhostMax: compete,
    Entmax: entmax,
    LogSumReLU: log_sum_relu,
    LayerNorm: layer_norm,
    SphericalNorm: spherical_norm,
}

ROWS = {
    "quadratic": Quadratic(),
    "relu": ReLU(),
    "repu 4": RePU(4),
    "gelu": GELU(),
    "exponential": Exponential(),
    "exponential, beta": Exponential(0.5),
    "tanh": Tanh(),
    "tanh, beta": Tanh(0.75),
    "sigmoid": Sigmoid(),
    "sigmoid, beta": Sigmoid(-2.5),
    "softmax": Softmax(),
    "softmax, beta": Softmax(-3.0),
    "ghost-max": GhostMax(),
    "ghost-max, beta": GhostMax(2.5),
    "entmax": Entmax(),
    "entmax 1.5": Entmax(1.5, 0.5),
    "log-sum-relu": LogSumReLU(),
    "log-sum-relu, beta": LogSumReLU(0.25, eps=0.5),
    "layer norm": LayerNorm(),
    "layer norm, scale": LayerNorm(scale=-1.5, eps=0.25),
    "spherical norm": SphericalNorm(),
}


def assert_digits(found, exact, condition, dtype):
    """The value is right up to a few units in its last place, and in those of the state, as far as
    these matter.
    """
    info = jnp.finfo(dtype)
    if abs(exact) > mp.mpf(float(info.max)):
        assert math.isinf(found)
        return
    allowed = 8 * float(info.eps) * (abs(exact) + mp.mpf(condition)) + 256 * mp.mpf(
        float(info.tiny)
    )
    assert abs(mp.mpf(float(found)) - exact) <= allowed, f"{found}, exactly {mp.nstr(exact, 12)}"


def states(key, dtype) -> list[np.ndarray]:
    """Random states at all scales, with one unit alone ahead, equal units, and units that hardly
    compete.
    """
    noise = [np.asarray(scale * normal(key, (UNITS,)), dtype) for scale in SCALES]
    ahead = [
        np.asarray([0.0] + [-gap] * (UNITS - 1), dtype) for gap in (1e-3, 0.5, 8.0, 20.0, 60.0)
    ]
    alone = [np.asarray([a] + [-1e3] * (UNITS - 1), dtype) for a in (-1e-3, 1e-6, 0.2, 0.3)]
    level = [np.full(UNITS, a, dtype) for a in (1e8 / 3, 1000.1, 1.0, -4.0)]
    return noise + ahead + alone + level


@pytest.mark.parametrize("name", ROWS)
@dtypes
def test_values_and_energies_have_all_their_digits(name, dtype, getkey):
    lagrangian = ROWS[name]
    run = jax.jit(
        jax.vmap(lambda x: (lagrangian(x), lagrangian.energy(x), x * lagrangian.activation(x)))
    )
    slope = jax.jit(jax.vmap(lambda x: x * lagrangian.hessian_vector_product(x, x)))
    stack = jnp.asarray(np.stack(states(getkey(), dtype)))
    (values, energies, products) = run(stack)
    curved = slope(stack)
    with mp.workdps(200):
        for x, value, energy, product, curve in zip(
            stack, values, energies, products, curved, strict=True
        ):
            numbers = [mp.mpf(float(a)) for a in x]
            reference = REFERENCES[type(lagrangian)]
            exact = reference(lagrangian, [1 * a for a in numbers])
            nearby = reference(lagrangian, [(1 + NEARBY) * a for a in numbers])
            # What rounding of each state by itself, and of all of them together, makes of value and
            # energy.
            for found, at_x, stretched, own in zip(
                (value, energy), exact, nearby, (product, curve), strict=True
            ):
                condition = mp.mpf(float(np.nan_to_num(np.sum(np.abs(own)), nan=0.0, posinf=0.0)))
                assert_digits(found, at_x, condition + abs(stretched - at_x) / NEARBY, dtype)
    assert values.dtype == energies.dtype == dtype


@pytest.mark.parametrize("name", LAGRANGIANS)
@pytest.mark.quick
def test_the_energy_is_the_legendre_transform(name, getkey):
    """x.g - L(x), of every Lagrangian, with parameters that are arrays, and summed over groups."""
    for shape in SHAPES:
        lagrangian = LAGRANGIANS[name](shape, jnp.float64)
        x = 2 * normal(getkey(), shape)
        products = x * lagrangian.activation(x)
        value = lagrangian(x)
        size = jnp.sum(jnp.abs(products)) + jnp.abs(value)
        assert abs(lagrangian.energy(x) - (jnp.sum(products) - value)) <= 1e-13 * size
        assert_close(Neurons(lagrangian, shape).energy(x), lagrangian.energy(x), 0)
        assert abs(lagrangian.energy(x)) <= lagrangian.energy_magnitude(x) * (1 + 1e-12)


@pytest.mark.parametrize("name", LAGRANGIANS)
@pytest.mark.quick
def test_the_slope_of_the_energy_is_the_hessian_times_the_state(name, getkey):
    lagrangian = LAGRANGIANS[name]((4, 3), jnp.float64)
    shape = (4, 3)
    for x in (normal(getkey(), shape), 1e-4 * normal(getkey(), shape), 5 * normal(getkey(), shape)):
        slope = jax.jit(jax.grad(lagrangian.energy))(x)
        expected = lagrangian.hessian_vector_product(x, x)
        # Of norms H x is what a projection leaves of x, and known to the rounding of the
        # activation.
        rounding = 1e-14 * jnp.max(jnp.abs(lagrangian.activation(x)))
        assert jnp.max(jnp.abs(slope - expected)) <= 1e-11 * jnp.max(jnp.abs(expected)) + rounding


CURVED_AT_ZERO = {
    "tanh": (Tanh(2.0), 2.0),
    "sigmoid": (Sigmoid(2.0), 0.5),
    "gelu": (GELU(), 0.5),
    "norm": (LayerNorm(), 0),
}


@pytest.mark.parametrize("name", CURVED_AT_ZERO)
@pytest.mark.parametrize("x", [0.0, 1e-3, 0.999, 1.0, 1.001, -1.0, 40.0])
def test_second_derivatives_are_right_where_branches_meet(name, x):
    """Of value and energy, forwards and backwards: L'' = H, and E'' = H + x H'."""
    lagrangian, at_zero = CURVED_AT_ZERO[name]
    x = jnp.asarray([x])
    unit = jnp.ones(1)
    curvature = lambda x: lagrangian.hessian_vector_product(x, unit)[0]
    slope = jax.grad(curvature)(x)[0]
    expected = curvature(x), curvature(x) + x[0] * slope
    for f, value in zip((lagrangian, lagrangian.energy), expected, strict=True):
        backwards = jax.jit(jax.hessian(f))(x)[0, 0]
        forwards = jax.jit(
            lambda x, f=f: jax.jvp(lambda x: jax.jvp(f, (x,), (unit,))[1], (x,), (unit,))[1]
        )(x)
        for found in (backwards, forwards):
            np.testing.assert_allclose(found, value, rtol=1e-11, atol=1e-12)
    if x[0] == 0:
        np.testing.assert_allclose(curvature(x), at_zero, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", [name for name in LAGRANGIANS if name not in OVERFLOWING])
def test_half_precision_adds_up_in_single(name, dtype, getkey):
    """One float dtype in, the same out, with an error of its rounding alone, also where squares
    overflow.
    """
    shape = (8, 50)
    lagrangian = LAGRANGIANS[name](shape, dtype)
    exact = cast(lagrangian, jnp.float64)
    for scale in (1e-2, 1.0, 100.0):
        x = (scale * normal(getkey(), shape)).astype(dtype)
        for f, g in ((lagrangian, exact), (lagrangian.energy, exact.energy)):
            found = f(x)
            expected = g(x.astype(jnp.float64))
            assert found.dtype == dtype
            if abs(expected) < float(jnp.finfo(dtype).max):
                np.testing.assert_allclose(
                    float(found), expected, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-6
                )


@pytest.mark.parametrize(
    "name", ["tanh", "sigmoid", "tanh, cold", "sigmoid, cold", "softmax", "ghost-max"]
)
@pytest.mark.parametrize("size", [1e4, 1e37, 3e38])
def test_saturated_units_have_the_energy_of_their_limit(name, size):
    """At the largest finite numbers too: a number, with slopes that are 0, not 0 times infinity."""
    limits = {
        "tanh": math.log(2),
        "sigmoid": 0.0,
        "tanh, cold": math.log(2) / 10,
        "sigmoid, cold": 0.0,
    }
    cold = {"tanh, cold": Tanh(10.0), "sigmoid, cold": Sigmoid(10.0)}
    lagrangian = cold[name] if name in cold else ROWS[name]
    x = jnp.asarray([size, -size], jnp.float32)
    np.testing.assert_allclose(
        lagrangian.energy(x), 2 * limits.get(name, 0.0), rtol=1e-6, atol=1e-12
    )
    assert np.all(jax.grad(lagrangian.energy)(x) == 0)
    assert np.all(jax.jvp(jax.grad(lagrangian.energy), (x,), (jnp.ones_like(x),))[1] == 0)


def test_a_layer_norm_of_large_numbers_has_the_energy_of_its_spread():
    """Sums are centred: the mean of 1e8/3 is off by an ulp of it, which is much more than eps."""
    norm = LayerNorm()
    level = jnp.full((300,), 1e8 / 3, jnp.float32)
    steps = np.arange(16).repeat(16)
    assert_close(norm(level), 0.3, 1e-6)
    assert_close(norm.energy(level), -0.3, 1e-6)
    staircase = jnp.asarray(1e6 + 0.25 * steps, jnp.float32)
    assert_close(norm.energy(staircase), -256e-6 / math.sqrt(np.var(0.25 * steps) + 1e-6), 1e-6)


@pytest.mark.parametrize("make", [Softmax, GhostMax, Entmax, partial(Entmax, 1.5)])
@pytest.mark.parametrize("beta", [1e38, -1e38])
def test_competition_of_any_temperature_gives_numbers(make, beta):
    """At a huge beta the winner takes all: the value is the largest state, the smallest for a
    negative beta.
    """
    x = jnp.asarray([-50.0, 700.0, 3e5], jnp.float32)
    competition = make(beta=beta)
    winner = 2 if beta > 0 else 0
    assert_close(competition.activation(x), jnp.zeros(3, jnp.float32).at[winner].set(1), 0)
    assert_close(competition(x), x[winner], 0)
    assert competition.energy(x) == 0


CONJUGATES = {
    "tanh": (
        Tanh(),
        lambda g: ((1 + g) * mp.log1p(g) + (1 - g) * mp.log1p(-g)) / 2,
        (-0.75, -1e-4, 1e-12, 0.3, 0.6),
    ),
    "sigmoid": (
        Sigmoid(),
        lambda g: g * mp.log(g) + (1 - g) * mp.log1p(-g),
        (1e-20, 1e-9, 0.3, 0.75),
    ),
}


@pytest.mark.parametrize("name", CONJUGATES)
@dtypes
def test_conjugates_of_units_have_all_their_digits(name, dtype):
    lagrangian, exact, points = CONJUGATES[name]
    with mp.workdps(200):
        for g in np.asarray(points, dtype):
            expected = exact(mp.mpf(float(g)))
            assert_digits(lagrangian.conjugate(jnp.asarray(g)), expected, 0, dtype)


@dtypes
def test_conjugates_of_shares_know_the_largest_by_the_others(dtype):
    """A share within rounding of 1 says nothing about what is left; the other shares do."""
    small = [1e-9, 3e-10]
    g = jnp.asarray([1 - sum(small), *small], dtype)
    with mp.workdps(200):
        shares = [1 - mp.fsum(map(mp.mpf, map(float, g[1:]))), *(mp.mpf(float(a)) for a in g[1:])]
        assert_digits(Softmax().conjugate(g), mp.fsum(p * mp.log(p) for p in shares), 0, dtype)
        assert_digits(Entmax().conjugate(g), mp.fsum(p**2 - p for p in shares) / 2, 0, dtype)
        silent = 1 - mp.fsum(shares[1:])
        expected = mp.fsum(p * mp.log(p) for p in (silent, *shares[1:]))
        assert_digits(GhostMax().conjugate(g[1:]), expected, 0, dtype)


# ---- Lagrangians of others -----------------------------------------------------------------------


class Louder(Tanh):
    """Another value and another activation than those of its base class."""

    def __call__(self, x):
        return 3 * super().__call__(x)

    def activation(self, x):
        return 3 * super().activation(x)


class Hushed(LayerNorm):
    """The activation alone is another one."""

    def activation(self, x):
        return 0.5 * super().activation(x)


class Renamed(Tanh):
    """Nothing is another one."""


class Shifted(AbstractLagrangian):
    """Without a closed form."""

    def __call__(self, x):
        return jnp.sum(0.25 * x**4 + x)

    def activation(self, x):
        return x**3 + 1

    @property
    def curvature(self):
        return 0.0, math.inf


@pytest.mark.parametrize(
    "lagrangian", [Louder(), Hushed(), Shifted(), 2.0 * Louder() + Hushed()], ids=str
)
def test_a_closed_form_belongs_to_its_own_value_and_activation(lagrangian, getkey):
    x = normal(getkey(), (5,))
    products = x * lagrangian.activation(x)
    value = lagrangian(x)
    assert_close(lagrangian.energy(x), jnp.sum(products) - value)
    assert lagrangian.energy_magnitude(x) >= 0.5 * (jnp.sum(jnp.abs(products)))


def test_a_subclass_that_replaces_nothing_keeps_the_closed_form():
    x = jnp.asarray([1e-3, -2e-3], jnp.float32)
    assert_close(Renamed().energy(x), Tanh().energy(x), 0)
    assert_close(Louder().energy(x), 3 * Tanh().energy(x), 1e-3)
