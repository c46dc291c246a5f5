r"""Retrieval: how exactly a memory returns a stored pattern, and how many patterns it can store.

Of binary patterns the load is the question: `bit_error`, `capacity` and `retrieval_failure` are
about random patterns with independent fair bits. Of real patterns it is their distances: `retrieve`
is one update, `retrieval_bound` what it misses at most.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._lagrangian import AbstractLagrangian
from hopmix._numerics.dtypes import need_floats
from hopmix._synapse import HopfieldMemory
from hopmix._types import Layer, Scalar, ScalarLike

Patterns = Float[Array, "patterns ..."]


def retrieve(memory: HopfieldMemory, state: Layer) -> Layer:
    r"""One update towards the stored patterns, their mean weighted by the activation of the
    separation:

    $$f(x) = \frac{\sum_\mu a_\mu\, \xi_\mu}{\sum_\mu a_\mu}, \qquad a = L'(s(x)).$$

    With `Softmax(beta)` it is the update of the modern Hopfield network, $f(x) =
    \Xi\,\mathrm{softmax}(\beta\,\Xi^\top x)$. With `LogSumReLU(beta)` and distances it is the mean
    of the patterns within $\sqrt{2/\beta}$, thus a pattern itself where it is the only one; where
    there is none, the state stays.

    **Arguments:**

    - `memory`: the patterns, the similarity to them and the separation $L$.
    - `state`: $x$, of the shape of one pattern.

    **Raises:** `ValueError` for integers, and for a state that does not fit the patterns.

    **Source:** Ramsauer et al. 2020 (arXiv 2008.02217), equation 3; log-sum-ReLU: arXiv 2506.10801.
    """
    weights = memory.separation.activation(memory.similarities(state))
    total = jnp.sum(weights)
    mean = jnp.tensordot(weights / jnp.where(total == 0, 1, total), memory.patterns, 1)
    return jnp.where(total == 0, state, mean)


def pattern_separation(patterns: Patterns) -> Float[Array, " patterns"]:
    r"""How far each pattern stands out, $\Delta_i = \min_{j \ne i}\, (x_i \cdot x_i - x_i \cdot
    x_j)$.

    **Arguments:**

    - `patterns`: at least two, of shape (patterns, *shape of the layer).

    **Raises:** `ValueError` for a single pattern, and for integers.

    **Source:** Ramsauer et al. 2020 (arXiv 2008.02217), definition 2.
    """
    need_floats("The patterns", patterns)
    if len(patterns) < 2:
        raise ValueError(
            "The separation of a pattern is that from the others: at least 2 patterns are "
            "needed, got 1."
        )
    flat = patterns.reshape(len(patterns), -1)
    products = flat @ flat.T
    others = jnp.where(jnp.eye(len(flat), dtype=bool), -jnp.inf, products)
    return jnp.diagonal(products) - jnp.max(others, axis=1)


def retrieval_bound(
    patterns: Patterns, state: Layer, beta: ScalarLike
) -> Float[Array, " patterns"]:
    r"""What one update of a modern Hopfield network misses each pattern by at most:

    $$|f(x) - x_i| < 2 M (N - 1)\, e^{-\beta\,(\Delta_i - 2 M |x - x_i|)}, \qquad M = \max_j |x_j|.$$

    **Arguments:**

    - `patterns`: $x_1 \ldots x_N$, of shape (patterns, *shape of the layer); at least two.
    - `state`: $x$.
    - `beta`: the inverse temperature $\beta > 0$ of the softmax.

    **Raises:** `ValueError` as in `pattern_separation`.

    **Source:** Ramsauer et al. 2020 (arXiv 2008.02217), theorem 5, here with $|x - x_i|$ alone
    where it has the larger of that and $|x_i^* - x_i|$; proof in `theory/C12-retrieval.md`.
    """  # noqa: E501
    need_floats("The state", state)
    separation = pattern_separation(patterns)
    flat = patterns.reshape(len(patterns), -1)
    largest = jnp.max(jnp.linalg.norm(flat, axis=1))
    away = jnp.linalg.norm(state.ravel()[None] - flat, axis=1)
    exponent = separation - 2 * largest * away
    return 2 * largest * (len(patterns) - 1) * jnp.exp(-beta * exponent)


def bit_error(separation: AbstractLagrangian, units: int, patterns: int) -> float:
    r"""The probability that a bit of a stored binary pattern is unstable: that to flip it, and it
    alone, lowers the energy. In the Gaussian approximation it is

    $$P \approx \tfrac12\,\mathrm{erfc}\!\left(\frac{S}{\sqrt{2 (K - 1)\,\langle c^2\rangle}}\right), \qquad
      S = F(d) - F(d - 2), \quad c = F(m + 1) - F(m - 1),$$

    with $m$ the sum of $d - 1$ fair signs. The signal $S$ and the variance are exact; that the
    noise is Gaussian is an approximation, good for polynomials and many patterns, and useless for
    `Exponential`. For $F(z) = z^n$ and large $d$ it is $\sqrt{(2n-3)!!\,K/2\pi d^{n-1}}\;
    e^{-d^{n-1}/2K(2n-3)!!}$.

    Ties have no weight in it: a bit whose flip costs nothing keeps, as in `update_all` and
    `recall`. With few patterns that matters; of two, no bit is ever unstable for $F(z) = z^2$, as
    the noise is at most as large as the signal.

    **Arguments:**

    - `separation`: $F$, a Lagrangian that adds up over patterns, such as `Quadratic` or `RePU(3)`.
    - `units`: $d$, the number of bits of a pattern.
    - `patterns`: $K$, how many are stored.

    **Raises:** `ValueError` for fewer than 2 units or 1 pattern, and a separation that does not add
    up or overflows.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164), equations 5 and 6.
    """  # noqa: E501
    if patterns < 1:
        raise ValueError(f"`bit_error` needs patterns >= 1, got {patterns}.")
    ratio = _signal_to_noise(separation, units)
    if patterns == 1:
        return 0.0
    return 0.5 * math.erfc(math.sqrt(0.5 * ratio / (patterns - 1)))


def capacity(separation: AbstractLagrangian, units: int) -> float:
    r"""How many random binary patterns a memory of polynomial separation stores nearly without
    errors:

    $$K = 1 + \frac{S^2}{2 \langle c^2\rangle \ln d},$$

    where the exponential in `bit_error` is $1/d$: less than one bit of a given pattern is unstable
    on average, about $1/\sqrt{4\pi\ln d}$ of a bit. For $F(z) = z^n$ and large $d$ it is
    $d^{n-1}/(2 (2n-3)!!\,\ln d)$; the rectified polynomial `RePU(n)` stores twice as many, since
    half of the patterns are silent.

    **Arguments and errors:** as in `bit_error`.

    **Source:** Krotov & Hopfield 2016 (arXiv 1606.01164), equation 6; McEliece et al. 1987 for $n =
    2$.
    """
    return 1 + _signal_to_noise(separation, units) / (2 * math.log(units))


def retrieval_failure(units: int, patterns: int, flips: int, beta: float = 1.0) -> float:
    r"""A bound on the probability that one synchronous update of the exponential memory leaves a
    wrong bit:

    $$P \le d\,(K - 1) \min_{0 \le t \le 2\beta} e^{-t (d - 1 - 2k)} (\cosh t)^{d-1}$$

    for a stored pattern with any $k$ bits flipped (a little less, as the flipped bits have a larger
    signal).

    **Arguments:**

    - `units`: $d$, the number of bits of a pattern.
    - `patterns`: $K$, how many independent fair random patterns are stored.
    - `flips`: $k$, how many bits of one of them are wrong, chosen without regard to the other
      patterns.
    - `beta`: of the separation `Exponential(beta)`; log-sum-exp has the same updates.

    **Raises:** `ValueError` for numbers that make no sense.

    **Source:** the theorem of Demircigil et al. 2017 (arXiv 1702.01929); this form of it, which
    holds at every size, is proved in `theory/C12-retrieval.md`.
    """
    if units < 2 or patterns < 1 or not 0 <= flips <= units or beta <= 0:
        raise ValueError(
            "`retrieval_failure` needs units >= 2, patterns >= 1, 0 <= flips <= units and beta > "
            "0, got "
            f"{units}, {patterns}, {flips} and {beta}."
        )
    right = (units - flips) * _chernoff(units - 1, units - 1 - 2 * flips, 2 * beta)
    wrong = flips * _chernoff(units - 1, units + 1 - 2 * flips, 2 * beta)
    return min(1.0, (patterns - 1) * (right + wrong))


def _chernoff(signs: int, level: int, steepest: float) -> float:
    """The smallest exp(-t level) cosh(t)^signs with 0 <= t <= steepest."""
    slope = min(max(level / signs, 0.0), math.tanh(steepest))
    t = min(math.atanh(min(slope, 1 - 1e-16)), steepest)
    return math.exp(signs * math.log(math.cosh(t)) - t * level)


def _signal_to_noise(separation: AbstractLagrangian, units: int) -> float:
    r"""$S^2 / \langle c^2 \rangle$: the squared signal over the mean square of one pattern's
    noise.
    """
    if units < 2:
        raise ValueError(f"Binary patterns need units >= 2, got {units}.")
    _check_adds_up(separation)
    others = units - 1
    heads = np.arange(others + 1)
    logs = [
        math.lgamma(others + 1) - math.lgamma(k + 1) - math.lgamma(others - k + 1) for k in heads
    ]
    overlap = 2 * heads - others
    above = _values(separation, overlap + 1)
    below = _values(separation, overlap - 1)
    if not np.all(np.isfinite(above)):
        raise ValueError(
            f"{type(separation).__name__} overflows at an overlap of {units}; "
            f"`retrieval_failure` is for exponentials."
        )
    noise = above - below
    mean_square = np.sum(np.exp(np.array(logs) - others * math.log(2)) * noise**2)
    return float(noise[-1] ** 2 / mean_square)


def _values(separation: AbstractLagrangian, overlaps: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vmap(separation)(jnp.asarray(overlaps[:, None], float)), float)


def _check_adds_up(separation: AbstractLagrangian) -> None:
    pair = jnp.asarray([1.0, 2.0])
    parts: Scalar = separation(pair[:1]) + separation(pair[1:])
    if not jnp.allclose(separation(pair), parts, rtol=1e-5):
        raise ValueError(
            f"The separation must add up over patterns, got {type(separation).__name__}; "
            f"log-sum-exp flips the same "
            "spins as `Exponential`."
        )
