"""Claim: one statement of the theory, and how to measure that it holds."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hopmix._types import PRNGKey

Status = Literal["proved", "checked numerically", "open"]


class Measurement(NamedTuple):
    """What came out of measuring a claim.

    - `error`: the largest deviation from the statement that was met; 0 in exact arithmetic, unless
      `what` says else.
    - `bound`: the largest error that counts as agreement: rounding, or the accuracy that the
      statement itself grants.
    - `examples`: how many random systems or states were tried: as many as asked for, or a few more,
        as kinds of systems have equal shares of at least one.
    """

    error: float
    bound: float
    examples: int

    @property
    def passed(self) -> bool:
        """Whether the statement held everywhere; an error that is no number does not pass."""
        return self.error <= self.bound


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the theory.

    - `id`: `"C01"` and so on; its page is `theory/<page>`, its tests are in `tests/theory/<test>`.
    - `statement`: in one line, with the assumptions that matter.
    - `source`: the paper and equation it comes from, or `"hopmix"` for what is new here.
    - `status`: whether it is proved on its page, only checked numerically, or open.
    - `what`: what the measured error is, in one phrase.
    - `measure`: measures the statement on this many random examples.
    """

    id: str
    statement: str
    source: str
    status: Status
    page: str
    test: str
    what: str
    measure: Callable[[PRNGKey, int], Measurement] = dataclasses.field(repr=False)


def share(examples: int, kinds: int) -> int:
    """How many examples of each kind make at least so many together."""
    return -(-examples // kinds)


def where_it_fails(fails: Bool[Array, "..."], gap: Float[Array, "..."]) -> Float[Array, "..."]:
    """A gap where a counter-example fails as it should, and an error of 1 where it does not."""
    return jnp.where(fails, gap, 1.0)
