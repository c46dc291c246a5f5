"""Attention: the synapse of a layer of tokens with itself that makes an Energy Transformer."""

import math
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from hopmix._assumptions import Assumption
from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.norms import (
    NOTHING,
    UNKNOWN,
    Disc,
    between,
    largest_entry,
    matrix_norm,
    product,
    unit_size,
)
from hopmix._synapse.base import AbstractSynapse
from hopmix._types import Energy, PRNGKey, Scalar, ScalarLike


class Attention(AbstractSynapse):
    r"""Multi-head attention as an energy:

    $$E(g) = -\frac1\beta \sum_{h, C} \log \sum_{B \in \mathcal N(C)} e^{\beta K_{hB} \cdot Q_{hC}}, \qquad
      Q_{hC} = W^Q_h g_C, \quad K_{hB} = W^K_h g_B.$$

    $\mathcal N(C)$ are the tokens that token $C$ attends to: all others; with `include_self` itself
    too; with `causal` only those before it. A token that attends to none adds nothing. The current
    into a token is what it reads from its neighbours *plus* what those that attend to it send back;
    the usual attention layer has the first part alone and is the gradient of nothing.

    **Arguments:**

    - `queries`, `keys`: $W^Q$ and $W^K$, of shape (heads, dim, channels).
    - `beta`: inverse temperature $\beta > 0$; $1/\sqrt{\text{dim}}$ is usual.
    - `include_self`: whether a token attends to itself.
    - `causal`: whether a token attends to earlier tokens only.

    **Raises:** `ValueError` for integers, and if queries and keys differ in shape.

    **Source:** Hoover et al. 2023 (arXiv 2302.07253), equation 4.
    """  # noqa: E501

    queries: Float[Array, "heads dim channels"]
    keys: Float[Array, "_ _ _"]
    beta: ScalarLike
    include_self: bool = eqx.field(static=True, default=False)
    causal: bool = eqx.field(static=True, default=False)
    takes_batch: ClassVar[bool] = True
    flow_claim: ClassVar[str] = "C13"

    def __check_init__(self):
        need_floats("`queries`", self.queries)
        need_floats("`keys`", self.keys)
        need_floats("`beta`", self.beta)
        if self.queries.shape != self.keys.shape:
            raise ValueError(
                f"Queries and keys must have one shape, (heads, dim, channels), got "
                f"{self.queries.shape} and "
                f"{self.keys.shape}."
            )

    @classmethod
    def random(
        cls,
        channels: int,
        heads: int,
        dim: int,
        *,
        key: PRNGKey,
        include_self: bool = False,
        causal: bool = False,
    ) -> "Attention":
        r"""Independent Gaussian queries and keys of variance $1/\text{channels}$, and $\beta =
        1/\sqrt{\text{dim}}$.

        **Arguments:**

        - `channels`: of a token.
        - `heads`, `dim`: how many heads, and of how many dimensions each.
        - `key`: of the weights.
        - `include_self`, `causal`: as in `Attention`.
        """
        queries, keys = jr.normal(key, (2, heads, dim, channels)) / math.sqrt(channels)
        return cls(queries, keys, 1 / math.sqrt(dim), include_self, causal)

    def neighbours(self, tokens: int) -> Bool[Array, "{tokens} {tokens}"]:
        r"""Whether token $B$ (column) is among those that token $C$ (row) attends to."""
        if self.causal:
            mask = jnp.tri(tokens, dtype=bool)
        else:
            mask = jnp.ones((tokens, tokens), bool)
        if self.include_self:
            return mask
        return mask & ~jnp.eye(tokens, dtype=bool)

    def concavity(self, tokens: int) -> Scalar:
        r"""A $K$ for which $-E(g) + \tfrac K2 |g|^2$ is convex: $c_n \sum_h |W^{K\top}_h W^Q_h|_2$,
        with $c_n$ the largest eigenvalue of $A + A^\top$ over all attention matrices $A$ of these
        masks on $n$ tokens.

        **Source:** `theory/C13-transformer.md`.
        """
        norms = jnp.linalg.norm(jnp.einsum("hdc,hde->hce", self.keys, self.queries), 2, axis=(1, 2))
        return self.mask_factor(tokens) * jnp.sum(norms)

    def mask_factor(self, tokens: int) -> float:
        r"""$c_n$, a bound on the largest eigenvalue of $A + A^\top$ over all attention matrices $A$
        of these masks.

        **Source:** `theory/C13-transformer.md`.
        """
        if self.include_self:
            return 1 + tokens**0.5
        if tokens == 1:
            return 0.0
        if self.causal:
            return (tokens - 1) ** 0.5
        return (tokens + 2) ** 0.5

    def conservative(self, name: str, layers: Sequence[jax.ShapeDtypeStruct]) -> list[Assumption]:
        """It is, for beta > 0."""
        del layers
        statement = f"synapse {name!r} is attention with beta > 0"
        beta = float(self.beta)
        if beta > 0:
            return [
                Assumption(statement, "holds", "its current is minus the derivative of its energy")
            ]
        return [Assumption(statement, "unknown", f"beta = {beta:g}, of which C13 says nothing")]

    def own_concavity(self, shape: tuple[int, ...]) -> float:
        """`concavity` in float64, whatever the precision of the weights: a small K is not none."""
        queries = np.asarray(self.queries, float)
        keys = np.asarray(self.keys, float)
        norms = [matrix_norm(k.T @ q) for k, q in zip(unit_size(keys), unit_size(queries))]
        return product(
            self.mask_factor(shape[0]), sum(norms), largest_entry(keys), largest_entry(queries)
        )

    def own_disc(self, shape: tuple[int, ...], radius: float) -> Disc:
        return attention_disc(self, shape[0], radius)

    def energy(self, *activations: Float[Array, "tokens *batch channels"]) -> Energy:
        (g,) = activations
        q = jnp.einsum("hdc,t...c->...htd", self.queries, g)
        k = jnp.einsum("hdc,t...c->...htd", self.keys, g)
        scores = self.beta * jnp.einsum("...htd,...hsd->...hts", q, k)
        mask = self.neighbours(g.shape[0])
        lonely = ~jnp.any(mask, axis=-1, keepdims=True)
        # A sum over nothing has no logarithm: lonely tokens get all neighbours here, and are left
        # out below.
        rows = jax.nn.logsumexp(
            scores, axis=-1, where=jnp.broadcast_to(mask | lonely, scores.shape)
        )
        heard = jnp.broadcast_to(~lonely[:, 0], rows.shape)
        return -jnp.sum(jnp.where(heard, rows, jnp.zeros((), g.dtype)), axis=(-2, -1)) / self.beta


def attention_disc(attention: Attention, tokens: int, radius: float) -> Disc:
    r"""The interval of the Hessian of attention as an energy, for tokens of size $R$ at most:

    $$-K \le \nabla^2 U \le K + \beta R^2 \left(1 + \sqrt{n/2}\right)^2 \sum_h |W^{K\top}_h W^Q_h|_2^2$$

    with the $K$ of `Attention.concavity` and the number $n$ of tokens that attend to one token, at
    most.
    """  # noqa: E501
    keys = np.asarray(attention.keys, float)
    queries = np.asarray(attention.queries, float)
    products = np.einsum("hdc,hde->hce", keys, queries)
    if not np.all(np.isfinite(products)):
        return UNKNOWN
    norms = np.linalg.norm(products, 2, axis=(1, 2))
    concavity = attention.mask_factor(tokens) * float(np.sum(norms))
    listeners = tokens if attention.include_self else tokens - 1
    reach = radius * (1 + math.sqrt(listeners / 2))
    spread = float(attention.beta) * reach * reach * float(np.sum(norms**2))
    if listeners:
        return between(-concavity + min(spread, 0.0), concavity + max(spread, 0.0))
    return NOTHING
