r"""C12: one update of a memory returns a stored pattern, up to a bound exponentially small in its
separation; and how often bits fail when patterns are random."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Array, Bool, Float, Int8

from hopmix._lagrangian import AbstractLagrangian, LogSumReLU, Quadratic, RePU, Softmax
from hopmix._synapse import HopfieldMemory
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, share
from hopmix.claims._numbers import generator
from hopmix.retrieval.binary import update_all
from hopmix.retrieval.bounds import (
    bit_error,
    capacity,
    retrieval_bound,
    retrieval_failure,
    retrieve,
)

SHAPES = ((2, 1), (24, 12))
"""Numbers of patterns and of units; few units make the bound sharp, as patterns then stand opposite
each other.
"""

Update = Callable[[HopfieldMemory, Layer], Layer]


class Retrieval(NamedTuple):
    """Stored patterns, an inverse temperature, and a state near one of the patterns."""

    patterns: Layer
    beta: Scalar
    state: Layer


def make_retrieval(shape: tuple[int, int], numbers: Float[Array, " n"]) -> Retrieval:
    r"""Gaussian patterns, a $\beta$ that leaves the softmax between its ends, and a disturbed first
    pattern.

    **Arguments:**

    - `shape`: numbers of patterns and of units.
    - `numbers`: standard normal, as many as that takes or more.
    """
    size = shape[0] * shape[1]
    beta = jnp.exp(numbers[0])
    away = jnp.exp(2 * numbers[1] - 3)
    numbers = numbers[2:]
    patterns = numbers[:size].reshape(shape)
    return Retrieval(patterns, beta, patterns[0] + away * numbers[size : size + shape[1]])


def softmax_excess(example: Retrieval, update: Update = retrieve) -> Scalar:
    """The error of one update of the modern Hopfield network in units of its bound, the largest
    over all patterns.
    """
    patterns, beta, state = example
    error = jnp.linalg.norm(
        update(HopfieldMemory(patterns, Softmax(beta)), state)[None] - patterns, axis=1
    )
    return jnp.max(error / (retrieval_bound(patterns, state, beta) + _rounding(patterns)))


def compact_excess(example: Retrieval, update: Update = retrieve) -> Scalar:
    """The same of the log-sum-ReLU memory from a state that sees one pattern only, where the bound
    is rounding.

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

    With probability $1 - p$ it stores $\sqrt p\, c^{(d-1)/4}$ random patterns on the sphere of
    radius $K \sqrt{d - 1}$.

    **Arguments:**

    - `beta`, `radius`, `units`, `failure`: $\beta$, $K$, $d$ and $p$.

    **Source:** Ramsauer et al. 2020 (arXiv 2008.02217), theorem 3.
    """
    a = 2 / (units - 1) * (1 + math.log(2 * beta * radius**2 * failure * (units - 1)))
    b = 0.4 * radius**2 * beta
    return b / float(scipy.special.lambertw(math.exp(a + math.log(b))).real)


def elementary_constant(beta: float, radius: float, units: int, failure: float) -> float:
    r"""The largest $c$ for which the elementary argument of `theory/C12-retrieval.md` stores $N = 2
    \sqrt p\, c^{(d-1)/4}$ patterns: no two of them closer than the angle whose squared sine is
    $1/c$, and patterns at that angle well separated.

    **Arguments:** as in `published_constant`.

    **Source:** hopmix, `theory/C12-retrieval.md`.
    """

    def slack(c: float) -> float:
        count = 2 * math.sqrt(failure) * c ** ((units - 1) / 4)
        square = radius**2 * (units - 1)
        needed = (2 / count + math.log(2 * count**2 * beta * square)) / beta
        return square * (1 - math.sqrt(1 - 1 / c)) - needed

    return float(scipy.optimize.root_scalar(slack, bracket=(1 + 1e-9, 1e3)).root)


@eqx.filter_jit
def _excesses(
    shape: tuple[int, int], numbers: Float[Array, "examples n"]
) -> Float[Array, "examples 2"]:
    def excess(n):
        example = make_retrieval(shape, n)
        return jnp.stack([softmax_excess(example), compact_excess(example)])

    return jax.vmap(excess)(numbers)


def _rounding(patterns: Layer) -> Scalar:
    return 64 * jnp.finfo(patterns.dtype).eps * jnp.max(jnp.abs(patterns)) * len(patterns)


# ---- Random bits ---------------------------------------------------------------------------------

MEMORIES = 200
"""How many memories of random bits there are for each example: their bits fail seldom."""

LOADED = ((Quadratic(), 40), (RePU(3), 20))
"""Separations of degree 2 and 3, and the numbers of units at which their bits are counted."""

RECALLED = (20, 100, 1)
"""Units and patterns of exponential memories, and how many bits of a pattern are wrong before the
update.
"""

ESTIMATED = 0.02
"""The accuracy of `bit_error` at four times the capacity of `LOADED`; the exact laws are 0.01 and
1.7 % away.
"""

Bits = Int8[Array, "memories patterns units"]


@eqx.filter_jit
def unstable(separation: AbstractLagrangian, bits: Bits) -> Bool[Array, " memories"]:
    """In which of some memories the first bit of the first pattern wants to flip; one bit each, so
    that they are independent."""

    def one(patterns: Layer) -> Bool[Array, ""]:
        memory = HopfieldMemory(patterns, separation)
        state = patterns[0]
        return memory.energy(state.at[0].multiply(-1)) < memory.energy(state)

    return jax.lax.map(one, 2.0 * bits.astype(float) - 1, batch_size=50)


@eqx.filter_jit
def forgotten(flips: int, bits: Bits) -> Bool[Array, " memories"]:
    """In which of some exponential memories one update of the first pattern, of which some bits
    were flipped, leaves a wrong bit."""

    def one(patterns: Layer) -> Bool[Array, ""]:
        start = patterns[0].at[:flips].multiply(-1)
        return jnp.any(update_all(HopfieldMemory(patterns, Softmax()), start) != patterns[0])

    return jax.lax.map(one, 2.0 * bits.astype(float) - 1, batch_size=50)


def count(
    fails: Callable[[Bits], Bool[Array, " memories"]],
    shape: tuple[int, int],
    examples: int,
    key: PRNGKey,
) -> int:
    """How many random memories fail, of `MEMORIES` for each example; one example at a time, in
    bounded memory.
    """
    random = generator(key)
    draw = lambda: jnp.asarray(random.integers(0, 2, (MEMORIES, *shape), np.int8))
    return sum(int(jnp.sum(fails(draw()))) for _ in range(examples))


def deviation(probability: float, trials: int) -> float:
    r"""How far a binomial count may be from its mean, except with a probability of 1e-9:

    $$t = \tfrac\ell3 + \sqrt{\tfrac{\ell^2}9 + 2 \ell\,n p (1 - p)}, \qquad \ell = \ln(2 \cdot 10^9).$$

    **Source:** Bernstein's inequality, $P(|X - np| \ge t) \le 2 \exp(-\tfrac12 t^2 / (np(1 - p) +
    t/3))$.
    """  # noqa: E501
    level = math.log(2e9)
    return level / 3 + math.sqrt(
        level**2 / 9 + 2 * level * trials * probability * (1 - probability)
    )


def load_excesses(
    separation: AbstractLagrangian, units: int, examples: int, key: PRNGKey
) -> tuple[float, float]:
    """Unstable bits at the capacity, in units of the most that one in `units` makes likely; and how
    far their number at four times that is from `bit_error`, in units of what its accuracy and
    chance explain."""
    few = int(1 * capacity(separation, units))
    many = int(4 * capacity(separation, units))
    found = [
        count(partial(unstable, separation), (patterns, units), examples, key)
        for patterns in (few, many)
    ]
    trials = MEMORIES * examples
    most = trials / units + deviation(1 / units, trials)
    expected = bit_error(separation, units, many)
    away = ESTIMATED * trials * expected + deviation(expected, trials)
    return found[0] / most, abs(found[1] - trials * expected) / away


def recall_excess(examples: int, key: PRNGKey) -> float:
    """Failures of exponential memories, in units of the most that `retrieval_failure` makes
    likely.
    """
    units, patterns, flips = RECALLED
    bound = retrieval_failure(units, patterns, flips)
    trials = MEMORIES * examples
    found = count(partial(forgotten, flips), (patterns, units), examples, key)
    return found / (trials * bound + deviation(bound, trials))


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The largest error of one update in units of its bound, over random patterns and states; and
    what fails in memories of random bits, in units of what is granted."""
    number = share(examples, len(SHAPES))
    largest = max(2 + (patterns + 1) * units for patterns, units in SHAPES)
    numbers = jr.normal(
        key, (len(SHAPES), number, largest)
    )  # at once: drawing is most of what there is to compile
    errors = [float(jnp.max(_excesses(shape, n))) for shape, n in zip(SHAPES, numbers)]
    examples = number * len(SHAPES)
    for i, (separation, units) in enumerate(LOADED):
        errors += load_excesses(separation, units, examples, jr.fold_in(key, i))
    errors += [recall_excess(examples, jr.fold_in(key, len(LOADED)))]
    return Measurement(float(np.max(errors)), 1.0, examples)


CLAIM = Claim(
    id="C12",
    statement="one update misses x_i by < 2M(N-1) exp(-beta (D_i - 2M|x - x_i|)) (softmax), by 0 "
    "(log-sum-ReLU); of d "
    "bits < 1 is unstable at capacity (degree 2), none below it as d -> inf (degree n); "
    "exponential: a bound",
    source="Ramsauer et al. 2020 (arXiv 2008.02217); arXiv 2506.10801; Krotov & Hopfield 2016; "
    "Demircigil et al. 2017",
    status="proved",
    page="C12-retrieval.md",
    test="test_c12_retrieval.py",
    what="error of one update, and failures of 200 memories for each example (degree 2 and 3, "
    "exponential; one size "
    "each), in units of their bounds; and of bit_error's estimate at four times the capacity",
    measure=measure,
)
