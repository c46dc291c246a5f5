"""Special functions without cancellation: each has a few correct last digits at every state, tiny or huge."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp

from hopmix._types import Layer, Scalar

SERIES = 15
"""How many terms make the series here accurate in double precision."""


def in_single(method: Callable[[Any, Layer], Scalar]) -> Callable[[Any, Layer], Scalar]:
    """A method that adds up a layer, computed in at least float32; the result has the dtype of the state."""

    @functools.wraps(method)
    def computed(self: Any, x: Layer) -> Scalar:
        if jnp.finfo(x.dtype).bits >= 32:
            return method(self, x)
        return method(jax.tree.map(widened, self), widened(x)).astype(x.dtype)

    return computed


def widened(a: Any) -> Any:
    """An array of half precision in float32; anything else as it is."""
    half = eqx.is_inexact_array(a) and jnp.finfo(a.dtype).bits < 32
    return a.astype(jnp.float32) if half else a


def log_cosh(z: Layer) -> Layer:
    r"""$\log\cosh z$, as $\log(1 + 2\sinh^2\tfrac z2)$ near 0 and $|z| + \log(1 + e^{-2|z|}) - \log 2$ elsewhere."""
    near = jnp.abs(z) < 1
    small = jnp.where(near, z, jnp.zeros_like(z))
    large = jnp.abs(jnp.where(near, jnp.ones_like(z), z))
    above = large + jnp.log1p(jnp.exp(-2 * large)) - math.log(2)
    return jnp.where(near, jnp.log1p(2 * jnp.sinh(0.5 * small) ** 2), above)


@jax.custom_jvp
def tanh_energy(z: Layer) -> Layer:
    r"""$z \tanh z - \log\cosh z$, between 0 and $\log 2$."""
    size = jnp.abs(z)
    share = jnp.exp(-2 * jnp.maximum(size, 1))
    above = math.log(2) - 2 * size * share / (1 + share) - jnp.log1p(share)
    return jnp.where(size < 1, z * jnp.tanh(z) - log_cosh(z), above)


@tanh_energy.defjvp
def _tanh_energy_jvp(primals, tangents):
    (z,), (dz,) = primals, tangents
    slope = 4 * z * jax.nn.sigmoid(2 * z) * jax.nn.sigmoid(-2 * z)  # z / cosh^2 z
    return tanh_energy(z), slope * dz


@jax.custom_jvp
def logistic_energy(z: Layer) -> Layer:
    r"""$z\,\sigma(z) - \log(1 + e^z)$, an even function between $-\log 2$ and 0."""
    size = jnp.abs(z)
    share = jnp.exp(-size)
    return -(size * share / (1 + share) + jnp.log1p(share))


@logistic_energy.defjvp
def _logistic_energy_jvp(primals, tangents):
    (z,), (dz,) = primals, tangents
    return logistic_energy(z), z * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * dz


def gaussian_lobe(x: Layer) -> Layer:
    r"""$\mathrm{erf}(x/\sqrt2) - x\sqrt{2/\pi}\,e^{-x^2/2}$, which begins with $\tfrac13\sqrt{2/\pi}\,x^3$."""
    near = jnp.abs(x) < 1
    small = jnp.where(near, x, jnp.zeros_like(x))
    # sum over k >= 1 of x^2k / (1 * 3 * 5 ... (2k + 1)), from its last term
    square, series = small**2, jnp.zeros_like(x)
    for k in range(SERIES, 0, -1):
        series = square / (2 * k + 1) * (1 + series)
    gauss = math.sqrt(2 / math.pi) * jnp.exp(-0.5 * x**2)
    return jnp.where(near, gauss * small * series, jsp.erf(x * math.sqrt(0.5)) - x * gauss)


def log1p_gap(t: Layer) -> Layer:
    r"""$\log(1 + t) - \tfrac t{1 + t}$, which begins with $\tfrac12 t^2$."""
    near = jnp.abs(t) < 0.25
    small = jnp.where(near, t, jnp.zeros_like(t))
    # With w = t / (2 + t): log(1 + t) = 2 (w + w^3/3 + w^5/5 ...) and t / (1 + t) = 2 w / (1 + w).
    w = small / (2 + small)
    series = jnp.zeros_like(t)
    for k in range(SERIES, 0, -1):
        series = w**2 * (1 / (2 * k + 1) + series)
    return jnp.where(near, 2 * w * (w / (1 + w) + series), jnp.log1p(t) - t / (1 + t))
