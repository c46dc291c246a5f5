"""Special functions without cancellation: each has a few correct last digits at every state, tiny
or huge.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jaxtyping import Array, Bool

from hopmix._numerics.dtypes import widened
from hopmix._types import Layer, Scalar, ScalarLike

SERIES = 15
"""How many terms make the series here accurate in double precision."""

SATURATED = 1e4
"""A size beyond which exponentials vanish in every dtype; a product of one with a larger size would
be 0 times inf.
"""


def in_single(method: Callable[[Any, Layer], Scalar]) -> Callable[[Any, Layer], Scalar]:
    """A method that adds up a layer, computed in at least float32; the result has the dtype of the
    state.
    """

    @functools.wraps(method)
    def computed(self: Any, x: Layer) -> Scalar:
        if jnp.finfo(x.dtype).bits >= 32:
            return method(self, x)
        return method(jax.tree.map(widened, self), widened(x)).astype(x.dtype)

    return computed


def log_cosh(z: Layer) -> Layer:
    r"""$\log\cosh z$, as $\log(1 + 2\sinh^2\tfrac z2)$ near 0 and $|z| + \log(1 + e^{-2|z|}) - \log
    2$ elsewhere.
    """
    near = jnp.abs(z) < 1
    small = jnp.where(near, z, jnp.zeros_like(z))
    large = jnp.abs(jnp.where(near, jnp.ones_like(z), z))
    above = large + jnp.log1p(jnp.exp(-2 * large)) - math.log(2)
    return jnp.where(near, jnp.log1p(2 * jnp.sinh(0.5 * small) ** 2), above)


@jax.custom_jvp
def tanh_energy(z: Layer) -> Layer:
    r"""$z \tanh z - \log\cosh z$, between 0 and $\log 2$."""
    size = jnp.minimum(jnp.abs(z), SATURATED)
    share = jnp.exp(-2 * jnp.maximum(size, 1))
    above = math.log(2) - 2 * size * share / (1 + share) - jnp.log1p(share)
    near = jnp.clip(z, -1, 1)
    return jnp.where(size < 1, near * jnp.tanh(near) - log_cosh(near), above)


@tanh_energy.defjvp
def _tanh_energy_jvp(primals, tangents):
    (z,) = primals
    (dz,) = tangents
    size = jnp.clip(z, -SATURATED, SATURATED)
    slope = 4 * size * jax.nn.sigmoid(2 * size) * jax.nn.sigmoid(-2 * size)  # z / cosh^2 z
    return tanh_energy(z), slope * dz


@jax.custom_jvp
def logistic_energy(z: Layer) -> Layer:
    r"""$z\,\sigma(z) - \log(1 + e^z)$, an even function between $-\log 2$ and 0."""
    size = jnp.minimum(jnp.abs(z), SATURATED)
    share = jnp.exp(-size)
    return -(size * share / (1 + share) + jnp.log1p(share))


@logistic_energy.defjvp
def _logistic_energy_jvp(primals, tangents):
    (z,) = primals
    (dz,) = tangents
    size = jnp.clip(z, -SATURATED, SATURATED)
    return logistic_energy(z), size * jax.nn.sigmoid(size) * jax.nn.sigmoid(-size) * dz


@jax.custom_jvp
def gaussian_lobe(x: Layer) -> Layer:
    r"""$\mathrm{erf}(x/\sqrt2) - x\sqrt{2/\pi}\,e^{-x^2/2}$, which begins with
    $\tfrac13\sqrt{2/\pi}\,x^3$.
    """
    near = jnp.abs(x) < 1
    small = jnp.where(near, x, jnp.zeros_like(x))
    # sum over k >= 1 of x^2k / (1 * 3 * 5 ... (2k + 1)), from its last term
    square = small**2
    series = jnp.zeros_like(x)
    for k in range(SERIES, 0, -1):
        series = square / (2 * k + 1) * (1 + series)
    large = jnp.clip(x, -SATURATED, SATURATED)
    gauss = math.sqrt(2 / math.pi) * jnp.exp(-0.5 * large**2)
    return jnp.where(near, gauss * small * series, jsp.erf(large * math.sqrt(0.5)) - large * gauss)


@gaussian_lobe.defjvp
def _gaussian_lobe_jvp(primals, tangents):
    (x,) = primals
    (dx,) = tangents
    large = jnp.clip(x, -SATURATED, SATURATED)
    slope = math.sqrt(2 / math.pi) * large**2 * jnp.exp(-0.5 * large**2)
    return gaussian_lobe(x), slope * dx


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


# ---- Differences that may overflow ---------------------------------------------------------------


class Wide(NamedTuple):
    r"""The number mantissa $\cdot\, 2^{\text{exponent}}$, whose sign is known also where it
    overflows or underflows.
    """

    mantissa: Scalar
    exponent: Scalar

    def narrow(self, dtype: Any) -> Scalar:
        """The number in this dtype: infinite where it overflows, and never 0 where it only
        underflows.
        """
        info = jnp.finfo(dtype)
        size = jnp.where(self.mantissa == 0, 1, jnp.abs(self.mantissa))
        exponent = jnp.where(self.mantissa == 0, 0, self.exponent)
        scaled = jnp.sign(self.mantissa) * jnp.exp2(jnp.log2(size) + exponent)
        number = jnp.where(self.exponent == 0, self.mantissa, scaled).astype(dtype)
        least = jnp.sign(self.mantissa).astype(dtype) * float(info.tiny)
        return jnp.where((jnp.abs(number) < float(info.tiny)) & (self.mantissa != 0), least, number)


def wide(mantissa: Scalar) -> Wide:
    """A number that is in range as it is."""
    return Wide(mantissa, jnp.zeros_like(mantissa))


def add(numbers: tuple[Wide, ...]) -> Wide:
    """Their sum, in the unit of the largest of those that do not cancel in pairs."""
    mantissas = [n.mantissa for n in numbers]
    for i, j in itertools.combinations(range(len(numbers)), 2):
        cancel = (mantissas[i] == -mantissas[j]) & (numbers[i].exponent == numbers[j].exponent)
        mantissas[i] = jnp.where(cancel, 0, mantissas[i])
        mantissas[j] = jnp.where(cancel, 0, mantissas[j])
    exponents = jnp.stack(
        [jnp.where(m == 0, -jnp.inf, n.exponent) for m, n in zip(mantissas, numbers)]
    )
    top = jnp.max(exponents)
    top = jnp.where(jnp.isfinite(top), top, 0)
    shifts = [jnp.exp2(n.exponent - top) for n in numbers]
    terms = [
        jnp.where((m == 0) | (shift == 1), m, m * shift) for m, shift in zip(mantissas, shifts)
    ]
    return Wide(sum(terms[1:], terms[0]), top)


def sum_in_pairs(a: Layer) -> Scalar:
    """The sum of all entries with what its additions round, so that terms which cancel exactly
    leave the others.
    """
    high = a.ravel()
    low = jnp.zeros_like(high)
    while high.size > 1:
        half = (high.size + 1) // 2
        first, second = _halves(high, half)
        one, other = _halves(low, half)
        high = first + second
        back = high - first
        rounded = (first - (high - back)) + (second - back)
        low = one + other + jnp.where(jnp.isfinite(high), rounded, 0)
    return jnp.sum(high) + jnp.sum(low)


def _halves(v: Layer, half: int) -> tuple[Layer, Layer]:
    """Two vectors of this size, the second with a zero behind it where there is no more."""
    return v[:half], jnp.pad(v[half:], (0, 2 * half - v.size))


def signed_exponentials(x: Layer, weights: Layer, beta: ScalarLike) -> Wide:
    r"""$\sum_i w_i e^{\beta x_i}$, where highest terms that cancel exactly leave the next ones."""
    size = jnp.abs(weights)

    def lead(alive):
        leading = alive & (x == _leader(x, alive, beta))
        # Of equal weights the signs are counted, which are not rounded.
        unit = jnp.max(jnp.where(leading, size, 0))
        count = jnp.sum(jnp.where(leading, jnp.sign(weights), 0))
        uneven = jnp.sum(jnp.where(leading, jnp.sign(weights) * (size - unit), 0))
        return alive & ~leading, leading, unit * count + uneven

    # Each round finds the next lower ones, as long as those above have cancelled.
    cancelled = lambda carry: (carry[2] == 0) & jnp.any(carry[0])
    rest, leading, weight = jax.lax.while_loop(
        cancelled, lambda carry: lead(carry[0]), lead(weights != 0)
    )
    top = _leader(x, leading, beta)
    shift = jnp.where(jnp.abs(beta * top) / math.log(2) < _room(x), 0, top)
    below = jnp.sum(jnp.where(rest, weights * jnp.exp(beta * (jnp.where(rest, x, top) - shift)), 0))
    exponent = jnp.clip(beta * shift / math.log(2), -_huge(x), _huge(x))
    return Wide(weight * jnp.exp(beta * (top - shift)) + below, exponent)


def difference_of_powers(x: Layer, step: Layer, power: int, rectified: bool) -> Wide:
    r"""$\tfrac1n \sum_i [(x_i + d_i)^n - x_i^n]$ of numbers or of their positive parts, term by
    term.
    """
    x = jnp.where(step == 0, 0, x)
    before = jax.nn.relu(x) if rectified else x
    after = jax.nn.relu(x + step) if rectified else (x + step)
    largest = jnp.max(jnp.maximum(jnp.abs(before), jnp.abs(after)), initial=0)
    rounds = jnp.log2(jnp.where(largest == 0, 1, largest))
    fits = power * jnp.abs(rounds) < _room(x)
    unit = jnp.where(fits, 1, largest)
    gap = jnp.where((before != 0) & (after != 0), step, after - before) / unit
    # a^n - b^n = (a - b) (a^(n - 1) + a^(n - 2) b + ... + b^(n - 1)), to the bit alike for a step
    # up and the step down
    lower = jnp.minimum(before, after) / unit
    upper = jnp.maximum(before, after) / unit
    factor = powers = jnp.ones_like(lower)
    for _ in range(power - 1):
        powers = powers * lower
        factor = factor * upper + powers
    return Wide(sum_in_pairs(gap * factor) / power, jnp.where(fits, 0, power * rounds))


def difference_of_exponentials(x: Layer, step: Layer, beta: ScalarLike) -> Wide:
    r"""$\tfrac1\beta \sum_i [e^{\beta (x_i + d_i)} - e^{\beta x_i}]$."""
    larger = jnp.where(beta > 0, jnp.maximum(x, x + step), jnp.minimum(x, x + step))
    smaller = jnp.where(beta > 0, jnp.minimum(x, x + step), jnp.maximum(x, x + step))
    sign = jnp.sign(beta * step)
    # A long step is two terms, the lower of which is left where the upper ones cancel; a short one
    # is their difference.
    long = jnp.abs(beta * step) > 1
    upper = jnp.where(long, sign, sign * -jnp.expm1(-jnp.abs(beta * step)))
    lower = jnp.where(long, -sign, 0)
    terms = _joined(larger, smaller), _joined(upper, lower)
    mantissa, exponent = signed_exponentials(*terms, beta)
    return Wide(mantissa / beta, exponent)


def difference_of_log_cosh(x: Layer, step: Layer, beta: ScalarLike) -> Wide:
    r"""$\tfrac1\beta \sum_i [\log\cosh \beta(x_i + d_i) - \log\cosh \beta x_i]$."""
    before = jnp.abs(x)
    after = jnp.abs(x + step)
    rise = jnp.where((x > 0) == (x + step > 0), jnp.where(x > 0, step, -step), after - before)
    return _softened(
        before, after, rise, jnp.sign(beta) * rise, jnp.zeros_like(rise), 2 * beta, beta
    )


def difference_of_softplus(x: Layer, step: Layer, beta: ScalarLike) -> Wide:
    r"""$\tfrac1\beta \sum_i [\log(1 + e^{\beta(x_i + d_i)}) - \log(1 + e^{\beta x_i})]$."""
    before = jnp.abs(x)
    after = jnp.abs(x + step)
    rise = jnp.where((x > 0) == (x + step > 0), jnp.where(x > 0, step, -step), after - before)
    active = beta * x > 0
    active_after = beta * (x + step) > 0
    from_zero = jnp.where(active_after, x + step, -x)
    straight = jnp.where(
        active & active_after, step, jnp.where(active | active_after, from_zero, 0)
    )
    return _softened(before, after, rise, straight, 0.5 * step, beta, beta)


def _softened(
    before: Layer,
    after: Layer,
    rise: Layer,
    straight: Layer,
    tilt: Layer,
    rate: ScalarLike,
    beta: ScalarLike,
) -> Wide:
    r"""$\tfrac1\beta \sum_i$ of differences of $\log\cosh(\text{rate}\,|x|/2)$ and a line.

    Near 0 as they stand; elsewhere as those of straight lines and of $\log(1 +
    e^{-\text{rate}\,|x|})$, of which the lines may cancel and leave no more than the highest of the
    exponentials that do not.

    **Arguments:**

    - `before`, `after`, `rise`: $|x|$, $|x + d|$, and their difference.
    - `straight`, `tilt`: the differences of all lines where these are the limits, and of the line
      alone near 0.
    """
    rate = jnp.abs(rate)
    most = jnp.maximum(before, after)
    least = jnp.minimum(before, after)
    near = rate * most < 2
    half = jnp.where(near, 0.5 * rate, 0)
    ratio = (
        2
        * jnp.sinh(0.5 * half * (most + least))
        * jnp.sinh(0.5 * half * jnp.abs(rise))
        / jnp.cosh(half * most)
    )
    curved = jnp.sign(rise) * -jnp.log1p(-ratio) / beta
    lines = sum_in_pairs(_joined(jnp.where(near, tilt, straight), jnp.where(near, curved, 0)))

    long = rate * jnp.abs(rise) > 1
    share = jnp.exp(-rate * least)
    short = jnp.expm1(-rate * jnp.abs(rise)) / (1 + share)
    whole = _log1p_ratio(share)
    upper = jnp.where(
        long, -jnp.sign(rise) * whole, jnp.sign(rise) * short * _log1p_ratio(share * short)
    )
    lower = jnp.where(long, jnp.sign(rise) * _log1p_ratio(jnp.exp(-rate * most)), 0)
    weights = _joined(jnp.where(near, 0, upper), jnp.where(near, 0, lower))
    mantissa, exponent = signed_exponentials(_joined(least, most), weights, -rate)
    return add((wide(lines), Wide(mantissa / beta, exponent)))


def _log1p_ratio(t: Layer) -> Layer:
    r"""$\log(1 + t)/t$, 1 at 0."""
    some = jnp.where(t == 0, 1, t)
    return jnp.where(t == 0, 1, jnp.log1p(some) / some)


def _joined(a: Layer, b: Layer) -> Layer:
    return jnp.concatenate([a.ravel(), b.ravel()])


def difference_of_logarithms(
    x: Layer, step: Layer, beta: ScalarLike, top: Layer, rivals: Layer, direct: Scalar
) -> Wide:
    r"""$\tfrac1\beta \log \frac{\sum_i e^{\beta (x_i + d_i)}}{\sum_i e^{\beta x_i}}$, whose sign is
    that of the difference of the sums.

    **Arguments:**

    - `top`, `rivals`: the sum before is $e^{\beta\,\text{top}} (1 + \text{rivals})$.
    - `direct`: the same as the difference of two logarithms, which is taken where it is not small.
    """
    change = difference_of_exponentials(x - top, step, beta)
    shares = Wide(change.mantissa * beta / (1 + rivals), change.exponent)
    ratio = jnp.where(shares.exponent < 0, 0, shares.narrow(x.dtype))
    tiny = Wide(shares.mantissa / beta, shares.exponent)
    near = wide(jnp.log1p(jnp.where(jnp.abs(ratio) < 0.5, ratio, 0)) / beta)
    known = wide(jnp.where(jnp.abs(ratio) < 0.5, near.mantissa, direct))
    return jax.tree.map(lambda a, b: jnp.where(shares.exponent < 0, a, b), tiny, known)


def _room(x: Layer) -> float:
    """The powers of two up to which a sum of many numbers is far from overflow, and as far from
    underflow.
    """
    return 0.7 * float(jnp.finfo(x.dtype).maxexp)


def _huge(x: Layer) -> float:
    return 1e-3 * float(jnp.finfo(x.dtype).max)


def _leader(x: Layer, taking_part: Bool[Array, "..."], beta: ScalarLike) -> Scalar:
    """The highest of the entries that take part, the lowest for a negative beta; 0 if there are
    none.
    """
    highest = jnp.max(jnp.where(taking_part, x, -jnp.inf))
    lowest = jnp.min(jnp.where(taking_part, x, jnp.inf))
    return jnp.where(jnp.any(taking_part), jnp.where(beta > 0, highest, lowest), 0)
