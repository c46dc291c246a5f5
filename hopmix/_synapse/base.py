r"""Synapses: energies that couple the activations of one or more layers.

A synapse is a scalar function $E(g_1, g_2, \dots)$ of the activations that it joins, and sends the
current $-\partial E/\partial g_a$ into each of them; `HyperSynapse` takes any such function. A
*bilinear* synapse carries activity from a visible layer $v$ to a hidden layer $h$ by $W$ and back
by $V$, which need not be $W^\top$. Its energy is the symmetrised interaction

$$E(v, h) = -\tfrac12\left(h \cdot W v + v \cdot V h\right),$$

that is $-h \cdot W v$ for tied weights; its currents are $W v$ into the hidden and $V h$ into the
visible layer. They are minus the gradient of the energy exactly when $V = W^\top$.

Tokens are the first axis of an activation and channels the last; axes between them, if any, are a
batch. In this *token-major* layout both mixings of a batch and their weight gradients are plain 2-D
matrix products without a transpose.
"""

import abc
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hopmix._assumptions import Assumption, is_known
from hopmix._coupling import Coupling
from hopmix._lagrangian import AbstractLagrangian, broadcast_to_batch
from hopmix._numerics.dtypes import make_of_floats, need_floats, of_floats
from hopmix._numerics.norms import NOTHING, UNKNOWN, Disc, matrix_norm
from hopmix._numerics.rounding import state_magnitude
from hopmix._numerics.smooth import is_smooth
from hopmix._types import Energy, Layer, Scalar

Activations: TypeAlias = tuple[Any, ...]
"""One activation for each layer that a synapse joins; a layer whose activation is not known yet has
`None`.
"""


class AbstractSynapse(eqx.Module):
    """An interaction of layers: its energy, and the current that it sends into each of them.

    Subclasses give `energy`; they override `current` where it is not minus the gradient, or has a
    faster form. Both refuse integers by a `ValueError`. All else has a safe default, which is that
    nothing is known; what certificates ask for is believed of the synapses of hopmix alone
    (`hopmix._assumptions`).

    - `is_explicit`: whether the current into a layer does not depend on the activation of that
      layer.
    - `takes_batch`: whether activations may be a token-major batch.
    - `is_constant`: whether its currents depend on nothing; further layers that it is connected
      with are only named.
    - `is_linear`: whether its currents are linear in what the other layer sends, or constant.
    - `is_coupled`: whether it has a `coupling`, which is judged with all that join the same layers.
    - `is_matrix`: whether the coupling acts as one matrix, on each token or channel alike.
    - `flow_claim`: the claim of descent along the flow that it belongs to, as in `theory/`.
    """

    is_explicit: ClassVar[bool] = False
    takes_batch: ClassVar[bool] = False
    is_constant: ClassVar[bool] = False
    is_linear: ClassVar[bool] = False
    is_coupled: ClassVar[bool] = False
    is_matrix: ClassVar[bool] = False
    flow_claim: ClassVar[str] = "C01"

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        make_of_floats(cls, ("energy", "current"))

    @abc.abstractmethod
    def energy(self, *activations: Layer) -> Energy:
        """The energy of the interaction at these activations; of a token-major batch, that of each
        example.
        """

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        r"""The sum of the magnitudes of all that `energy` adds up at these activations, of one
        example.

        By default $|E|$ and what relative errors of one unit can change in it, $\sum |g\,\partial
        E/\partial g|$, over the activations and the parameters.
        """
        parameters, rest = eqx.partition(self, eqx.is_inexact_array)
        energy = lambda inputs: eqx.combine(inputs[0], rest).energy(*inputs[1])
        return jnp.abs(self.energy(*activations)) + state_magnitude(
            energy, (parameters, activations)
        )

    @of_floats
    def current(self, into: int, activations: Activations) -> Layer:
        r"""The current into the layer at position `into`, $-\partial E/\partial g$ where the
        synapse is conservative.

        Of an explicit synapse, the activation of the layer that the current enters may be `None`.
        """

        def total(g: Layer) -> Scalar:
            return jnp.sum(self.energy(*activations[:into], g, *activations[into + 1 :]))

        return -jax.grad(total)(activations[into])

    # ---- What certificates ask -------------------------------------------------------------------

    @property
    def made_of(self) -> tuple[AbstractLagrangian, ...]:
        """The Lagrangians that it is made of."""
        return ()

    def conservative(
        self, name: str, layers: Sequence[jax.ShapeDtypeStruct]
    ) -> list[Assumption] | None:
        """What is known of whether its currents are minus the gradient of its energy; `None` where
        that is to be tried.

        **Arguments:**

        - `name`: what the synapse is called in its memory.
        - `layers`: shapes and dtypes of the activations that it joins.
        """
        del name, layers
        return None

    @property
    def spectral_norm(self) -> float:
        """The spectral norm of the linear map into the second layer, or a bound on it; infinite
        where none is known.
        """
        return math.inf

    @property
    def norm_back(self) -> float:
        """Likewise of the map into the first layer."""
        return self.spectral_norm

    def own_concavity(self, shape: tuple[int, ...]) -> float:
        r"""A $K$ for which $-E(g) + \tfrac K2 |g|^2$ is convex, if it joins a layer of this shape
        with itself.
        """
        del shape
        return 2 * self.spectral_norm

    def own_disc(self, shape: tuple[int, ...], radius: float) -> Disc:
        """A disc around the mean Jacobians of its current, if it joins a layer with itself.

        **Arguments:**

        - `shape`: of the layer.
        - `radius`: the largest Euclidean norm of what one of its tokens sends.
        """
        del shape, radius
        return UNKNOWN


class AbstractCoupled(AbstractSynapse):
    r"""A bilinear synapse: its currents are linear maps by the $W$ and the $V$ of a coupling.

    - `units_last`: whether the hidden units of the coupling are the last axis of the hidden layer,
      not the first.
    """

    coupling: Coupling
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True
    is_coupled: ClassVar[bool] = True
    units_last: ClassVar[bool] = False

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        return bilinear_magnitude(self, *activations)

    def conservative(self, name: str, layers: Sequence[jax.ShapeDtypeStruct]) -> list[Assumption]:
        """Nothing: what counts is the sum of all couplings that join its layers."""
        del name, layers
        return []

    def kind(self, ends: tuple[str, ...]) -> Hashable:
        """What couplings that add up have in common; a matrix between the layers in reverse is its
        transpose.
        """
        return type(self), frozenset(ends)

    @property
    def is_entrywise(self) -> bool:
        """Whether $W$ and $V$ act alike where they join a layer with itself, so that $W + V$ is
        what counts.
        """
        return self.is_matrix

    @property
    def spectral_norm(self) -> float:
        return self.norm_of(np.asarray(self.coupling.up, float))

    @property
    def norm_back(self) -> float:
        coupling = self.coupling
        if coupling.breaking is None:
            return abs(float(coupling.tie)) * self.spectral_norm
        return self.norm_of(np.asarray(coupling.down, float).T)

    def norm_of(self, up: np.ndarray) -> float:
        """The spectral norm of the linear map with another $W$, or a bound on it."""
        return matrix_norm(up)

    def own_concavity(self, shape: tuple[int, ...]) -> float:
        del shape
        if not self.is_matrix:
            return 2 * self.spectral_norm
        both = np.asarray(self.coupling.up, float) + np.asarray(self.coupling.down, float)
        return max(0.0, -float(np.linalg.eigvalsh(0.5 * (both + both.T))[0]))


def is_known_constant(synapse: AbstractSynapse) -> bool:
    """Whether the currents of a synapse are known to be constants."""
    return synapse.is_constant and is_known(synapse)


class HyperSynapse(AbstractSynapse):
    r"""A many-body interaction given by any scalar function: $E(g_1, \dots, g_k) = f(g_1, \dots,
    g_k)$.

    **Arguments:**

    - `function`: $f$, from one activation for each joined layer to a number; an `equinox.Module` if
      it has parameters.

    **Source:** hypergraphs of Krotov 2021 (arXiv 2107.06446), Hoover et al. 2022 (HAMUX).
    """

    function: Callable[..., Scalar]

    def energy(self, *activations: Layer) -> Scalar:
        return self.function(*activations)

    def conservative(
        self, name: str, layers: Sequence[jax.ShapeDtypeStruct]
    ) -> list[Assumption] | None:
        """It is where the function is a program of smooth operations."""
        if not is_smooth(self.function, *layers):
            return None
        reason = "its function is made of smooth operations alone"
        return [Assumption(f"synapse {name!r} is conservative", "holds", reason)]


class Bias(AbstractSynapse):
    r"""A constant current into one layer: $E(g) = -\sum b\,g$.

    **Arguments:**

    - `bias`: $b$, of the rank of the layer and broadcast against it: (tokens, 1) for one number per
      token.

    It acts on the first of the layers it is connected with. Others, of the same rank, are only
    named: the bias counts as a part of what they send, so that stochastic depth drops it with them.

    **Raises:** `ValueError` for integers.
    """

    bias: Layer
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True
    is_constant: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True

    def __check_init__(self):
        need_floats("`bias`", self.bias)

    def energy(self, *activations: Layer) -> Energy:
        return -inner(
            broadcast_to_batch(self.bias, activations[0].ndim), activations[0], self.bias.ndim
        )

    def current(self, into: int, activations: Activations) -> Layer:
        del activations
        if into:
            return jnp.zeros((1,) * self.bias.ndim, self.bias.dtype)
        return self.bias

    def conservative(self, name: str, layers: Sequence[jax.ShapeDtypeStruct]) -> list[Assumption]:
        """Nothing: constants always are."""
        del name, layers
        return []

    @property
    def spectral_norm(self) -> float:
        return 0.0

    def own_disc(self, shape: tuple[int, ...], radius: float) -> Disc:
        del shape, radius
        return NOTHING


def bilinear_energy(synapse: AbstractSynapse, *activations: Layer, rank: int = 2) -> Energy:
    """The symmetrised interaction of two layers of this rank, from the currents between them."""
    v, h = activations
    upwards = synapse.current(1, (v, None))
    downwards = synapse.current(0, (None, h))
    return -0.5 * (inner(h, upwards, rank) + inner(v, downwards, rank))


def bilinear_magnitude(synapse: AbstractSynapse, *activations: Layer) -> Scalar:
    r"""The magnitudes of all single products of `bilinear_energy`, $\tfrac12(|h| \cdot |W||v| + |v|
    \cdot |V||h|)$.
    """
    positive = lambda leaf: jnp.abs(leaf) if eqx.is_inexact_array(leaf) else leaf
    synapse, activations = jax.tree.map(positive, (synapse, activations))
    return -synapse.energy(*activations)


def inner(a: Layer, b: Layer, rank: int) -> Energy:
    """The inner product of two layers of this rank, or of each example of a token-major batch of
    them.
    """
    batch = range(1, 1 + a.ndim - rank)
    return jnp.sum(a * b, axis=tuple(axis for axis in range(a.ndim) if axis not in batch))
