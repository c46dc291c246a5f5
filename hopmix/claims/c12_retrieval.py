r"""C12: one update of a memory returns a stored pattern, up to a bound exponentially small in its separation."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import scipy.optimize
import scipy.special
from jaxtyping import Array, Float

from hopmix._hopfield import HopfieldMemory
from hopmix._lagrangian_groups import LogSumReLU, Softmax
from hopmix._retrieval import retrieval_bound, retrieve
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement

SHAPES = ((2, 1), (24, 12))
"""Numbers of patterns and of units; few units make the bound sharp, as patterns then stand opposite each other."""

Update = Callable[[HopfieldMemory, Layer], Layer]


class Retrieval(NamedTuple):
    """Stored patterns, an inverse temperature, and a state near one of the patterns."""

    patterns: Layer
    beta: Scalar
    state: Layer


def make_retrieval(shape: tuple[int, int], numbers: Float[Array, " n"]) -> Retrieval:
    r"""Gaussian patterns, a $\beta$ that leaves the softmax between its ends, and a disturbed first pattern.

    **Arguments:**

    - `shape`: numbers of patterns and of units.
    - `numbers`: standard normal, as many as that takes or more.
    """
    size = shape[0] * shape[1]
    beta, away, numbers = jnp.exp(numbers[0]), jnp.exp(2 * numbers[1] - 3), numbers[2:]
    patterns = numbers[:size].reshape(shape)
    return Retrieval(patterns, beta, patterns[0] + away * numbers[size : size + shape[1]])


def softmax_excess(example: Retrieval, update: Update = retrieve) -> Scalar:
    """The error of one update of the modern Hopfield network in units of its bound, the largest over all patterns."""
    patterns, beta, state = example
    error = jnp.linalg.norm(update(HopfieldMemory(patterns, Softmax(beta)), state)[None] - patterns, axis=1)
    return jnp.max(error / (retrieval_bound(patterns, state, beta) + _rounding(patterns)))


def compact_excess(example: Retrieval, update: Update = retrieve) -> Scalar:
    """The same of the log-sum-ReLU memory from a state that sees one pattern only, where the bound is rounding.

    The reach of the kernel is set just below the distance to the second nearest pattern.
    """
    patterns, _, state = example
    distances = jnp.linalg.norm(patterns - state[None], axis=1)
    reach = 0.999 * jnp.sort(distances)[1]
    memory = HopfieldMemory(patterns, LogSumReLU(2 / reach**2), "distance")
    error = jnp.linalg.norm(update(memory, state) - patterns[jnp.argmin(distances)])
    return jnp.where(jnp.min(distances) < reach, error / _rounding(patterns), 0.0)


def published_constant(beta: float, radius: float, units: int, failure: float) -> float:
    r"""The $c$ of the published theorem on exponential storage, $c = b / W_0(e^{a + \ln b})$ with
    $a = \tfrac{2}{d - 1}(1 + \ln(2 \beta K^2 p (d - 1)))$ and $b = \tfrac25 K^2 \beta$.

    With probability $1 - p$ it stores $\sqrt p\, c^{(d-1)/4}$ random patterns on the sphere of radius $K \sqrt{d - 1}$.

    **Arguments:**

    - `beta`, `radius`, `units`, `failure`: $\beta$, $K$, $d$ and $p$.

    **Source:** Ramsauer et al. 2020 (arXiv 2008.02217), theorem 3.
    """
    a = 2 / (units - 1) * (1 + math.log(2 * beta * radius**2 * failure * (units - 1)))
    b = 0.4 * radius**2 * beta
    return b / float(scipy.special.lambertw(math.exp(a + math.log(b))).real)


def elementary_constant(beta: float, radius: float, units: int, failure: float) -> float:
    r"""The largest $c$ for which the elementary argument of `theory/C12-retrieval.md` stores
    $N = 2 \sqrt p\, c^{(d-1)/4}$ patterns: no two of them closer than the angle whose squared sine is $1/c$, and
    patterns at that angle well separated.

    **Arguments:** as in `published_constant`.

    **Source:** hopmix, `theory/C12-retrieval.md`.
    """

    def slack(c: float) -> float:
        count = 2 * math.sqrt(failure) * c ** ((units - 1) / 4)
        square = radius**2 * (units - 1)
        needed = (2 / count + math.log(2 * count**2 * beta * square)) / beta
        return square * (1 - math.sqrt(1 - 1 / c)) - needed

    return float(scipy.optimize.root_scalar(slack, bracket=(1 + 1e-9, 1e3)).root)


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The largest error of one update in units of its bound, over random patterns and states."""
    share = -(-examples // len(SHAPES))
    largest = max(2 + (patterns + 1) * units for patterns, units in SHAPES)
    numbers = jr.normal(key, (len(SHAPES), share, largest))  # at once: drawing is most of what there is to compile
    worst = jnp.stack([jnp.max(_excesses(shape, n)) for shape, n in zip(SHAPES, numbers)])
    return Measurement(float(jnp.max(worst)), 1.0, examples)


@eqx.filter_jit
def _excesses(shape: tuple[int, int], numbers: Float[Array, "examples n"]) -> Float[Array, "examples 2"]:
    def excess(n):
        example = make_retrieval(shape, n)
        return jnp.stack([softmax_excess(example), compact_excess(example)])

    return jax.vmap(excess)(numbers)


def _rounding(patterns: Layer) -> Scalar:
    return 64 * jnp.finfo(patterns.dtype).eps * jnp.max(jnp.abs(patterns)) * len(patterns)


CLAIM = Claim(
    id="C12",
    statement="one update misses x_i by < 2M(N-1) exp(-beta (D_i - 2M|x - x_i|)) (softmax), by nothing (log-sum-ReLU)",
    source="Ramsauer et al. 2020 (arXiv 2008.02217); arXiv 2506.10801",
    status="proved",
    page="C12-retrieval.md",
    test="test_c12_retrieval.py",
    what="error of one update in units of its bound",
    measure=measure,
)
