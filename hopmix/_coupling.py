r"""Coupling: the pair of weight matrices between a visible and a hidden layer, with symmetry as a
dial.

$$V = \text{tie}\cdot W^\top + \text{breaking}$$

with up-weights $W$ (hidden x visible) and down-weights $V$ (visible x hidden). One object covers
every arm of a symmetry ablation: *symmetric* (tie 1, no breaking), *broken* (tie 1, breaking
trained), *free* (tie 0, so that the breaking is $V$ itself), and anything between.
"""

import math
import warnings
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._numerics.dtypes import need_floats
from hopmix._types import PRNGKey, Scalar

Breaking = Literal["zeros", "xavier"]


def xavier_uniform(key: PRNGKey, rows: int, columns: int) -> Float[Array, "{rows} {columns}"]:
    r"""A matrix with entries uniform in $\pm\sqrt{6/(\text{rows} + \text{columns})}$ (Glorot &
    Bengio 2010).

    Row $i$ depends on the key and $i$ alone, up to the bound: a wider layer of the same key extends
    a narrower one.
    """
    return math.sqrt(6 / (rows + columns)) * jr.uniform(key, (rows, columns), minval=-1.0)


class Coupling(eqx.Module):
    r"""Up-weights $W$ and down-weights $V = \text{tie}\cdot W^\top + \text{breaking}$.

    Build it with `symmetric`, `broken` or `free`; from two matrices with `from_weights`. `tie` is a
    number that training never changes: its gradient is zero, and `hopmix.trainable` leaves it out;
    a `None` breaking stands for zero and does not train either.

    **Arguments:**

    - `up`: $W$, of shape (hidden, visible).
    - `breaking`: of shape (visible, hidden), or `None` for exactly zero.
    - `tie`: the share of $W^\top$ in $V$: 1 for tied weights, 0 for independent ones.

    **Raises:** `ValueError` for integers, and if `breaking` has not the transposed shape and the
    dtype of `up`.

    **Source:** arXiv 2406.12220, sections 5 and 6 (SymMixer, AsymMixer, ParaMixer).
    """

    up: Float[Array, "hidden visible"]
    breaking: Float[Array, "visible hidden"] | None
    tie: Scalar

    def __init__(
        self,
        up: Float[Array, "hidden visible"],
        *,
        breaking: Float[Array, "visible hidden"] | None = None,
        tie: float | Scalar = 1.0,
    ):
        need_floats("`up`", up)
        need_floats("`breaking`", breaking)
        self.up = up
        self.breaking = breaking
        self.tie = jnp.asarray(tie, up.dtype)

    def __check_init__(self):
        if self.breaking is None:
            return
        if self.breaking.shape != self.up.shape[::-1]:
            raise ValueError(
                f"`breaking` must have the transposed shape of `up`, {self.up.shape[::-1]}, got "
                f"{self.breaking.shape}."
            )
        dtypes = [jnp.result_type(array) for array in (self.up, self.breaking)]
        if dtypes[0] != dtypes[1]:
            raise ValueError(
                f"`breaking` must have the dtype of `up`, {dtypes[0]}, got {dtypes[1]}; use "
                f"breaking.astype(up.dtype)."
            )

    @classmethod
    def symmetric(cls, visible: int, hidden: int, *, key: PRNGKey) -> "Coupling":
        r"""Tied weights: $V = W^\top$; only $W$ trains.

        **Arguments:**

        - `visible`, `hidden`: how many units the two layers have.
        - `key`: of the weights; $W$ is the same for every kind.
        """
        return cls(xavier_uniform(_up_key(key), hidden, visible))

    @classmethod
    def broken(
        cls, visible: int, hidden: int, *, key: PRNGKey, breaking: Breaking = "zeros"
    ) -> "Coupling":
        r"""Tied weights plus a breaking that trains: $V = W^\top + \text{breaking}$.

        `breaking` starts at `"zeros"` (exactly symmetric), or at `"xavier"` as in the reference
        implementation, where the cosine of $V$ and $W^\top$ is about $1/\sqrt2$ from the first
        step.

        **Arguments:**

        - `visible`, `hidden`: how many units the two layers have.
        - `key`: of the weights; $W$ is the same for every kind.
        - `breaking`: `"zeros"` or `"xavier"`.
        """
        if breaking not in ("zeros", "xavier"):
            raise ValueError(f'breaking must be "zeros" or "xavier", got {breaking!r}.')
        if breaking == "zeros":
            start = jnp.zeros((visible, hidden))
        else:
            start = _draw_down(key, visible, hidden)
        return cls(xavier_uniform(_up_key(key), hidden, visible), breaking=start)

    @classmethod
    def free(cls, visible: int, hidden: int, *, key: PRNGKey) -> "Coupling":
        """Independent weights: both $W$ and $V$ train, from independent draws.

        **Arguments:**

        - `visible`, `hidden`: how many units the two layers have.
        - `key`: of the weights; $W$ is the same for every kind.
        """
        return cls(
            xavier_uniform(_up_key(key), hidden, visible),
            breaking=_draw_down(key, visible, hidden),
            tie=0.0,
        )

    @classmethod
    def from_weights(
        cls,
        up: Float[Array | np.ndarray, "hidden visible"],
        down: Float[Array | np.ndarray, "visible hidden"],
    ) -> "Coupling":
        r"""Independent weights that are given: $W$ and $V$ themselves, as of a trained network.

        **Arguments:**

        - `up`: $W$, of shape (hidden, visible).
        - `down`: $V$, of shape (visible, hidden); it becomes the breaking of a tie of 0.

        **Raises:** `ValueError` for integers, and if `down` has not the transposed shape and the
        dtype of `up`.
        """
        need_floats("`up`", up)
        need_floats("`down`", down)
        if np.shape(down) != np.shape(up)[::-1]:
            raise ValueError(
                f"`down` must have the transposed shape of `up`, {np.shape(up)[::-1]}, got "
                f"{np.shape(down)}; "
                "give V, not its transpose."
            )
        return cls(jnp.asarray(up), breaking=jnp.asarray(down), tie=0.0)

    @property
    def down(self) -> Float[Array, "visible hidden"]:
        r"""The down-weights $V$."""
        if self.breaking is None:
            return jax.lax.stop_gradient(self.tie) * self.up.T
        return jax.lax.stop_gradient(self.tie) * self.up.T + self.breaking

    @property
    def squared_breaking(self) -> Scalar:
        r"""$|\text{breaking}|_F^2$, which the penalty of symmetry breaking multiplies by its
        strength $\lambda$.
        """
        if self.breaking is None:
            return jnp.zeros((), self.up.dtype)
        return jnp.sum(self.breaking**2)

    def explicit(self) -> "Coupling":
        """The same coupling with a breaking, be it zero; also of couplings side by side, along a
        leading axis.
        """
        if self.breaking is not None:
            return self
        zeros = jnp.zeros_like(jnp.swapaxes(self.up, -1, -2))
        return eqx.tree_at(lambda c: c.breaking, self, zeros, is_leaf=lambda leaf: leaf is None)

    @property
    def penalty(self) -> Scalar:
        r"""The former name of `squared_breaking`, which goes with the next version."""
        warnings.warn(
            "Coupling.penalty is now Coupling.squared_breaking.", FutureWarning, stacklevel=2
        )
        return self.squared_breaking


def _up_key(key: PRNGKey) -> PRNGKey:
    return jr.fold_in(key, 0)


def _draw_down(key: PRNGKey, visible: int, hidden: int) -> Float[Array, "visible hidden"]:
    # A key of its own: W of one seed is the same matrix in every kind, so that arms compare in
    # pairs.
    return xavier_uniform(jr.fold_in(key, 1), visible, hidden)
