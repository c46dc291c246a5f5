"""From a potential to a layer: an explicit step of the flow of a potential is a network layer."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.random as jr

from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.rounding import state_magnitude
from hopmix._potential import Potential, eliminate
from hopmix._system import AbstractSystem
from hopmix._types import Energy, Layer, PRNGKey, Scalar


class Block(AbstractSystem):
    r"""A network layer that is an explicit step of the dynamics of a potential:

    $$x \leftarrow (1 - \text{leak}\cdot\text{step})\,x + \text{step}\cdot F(g(x)), \qquad g = L'(x).$$

    `leak` 0 gives the residual (skip connection) form, `leak` 1 the leaky one. Made by
    `derive_block`.

    **Arguments:**

    - `potential`: gives $g$, $F$ and the energy.
    - `leak`: $\ge 0$, the strength of the decay.
    - `step`: $> 0$, in units of the visible layer's time constant.
    - `n_iter`: how often the step is repeated, with the same weights.
    - `drop_path`: the probability with which a call that is given a key drops a branch (stochastic
        depth); the others are divided by the probability of being kept.

    **Raises:** `ValueError` for values outside these ranges.

    **Source:** arXiv 2406.12220, section 5 (leak 0, step 1); stochastic depth: Huang et al. 2016
    (arXiv 1603.09382).
    """  # noqa: E501

    potential: Potential
    leak: float = eqx.field(static=True, default=0.0)
    step: float = eqx.field(static=True, default=1.0)
    n_iter: int = eqx.field(static=True, default=1)
    drop_path: float = eqx.field(static=True, default=0.0)
    has_own_step: ClassVar[bool] = True

    def __check_init__(self):
        if not 0 <= self.leak < math.inf:
            raise ValueError(
                f"Block needs a finite leak >= 0, got {self.leak}; 0 is the residual, 1 the "
                f"leaky form."
            )
        if not 0 < self.step < math.inf:
            raise ValueError(f"Block needs a finite step > 0, got {self.step}; 1 is usual.")
        if self.n_iter < 1:
            raise ValueError(f"Block needs n_iter >= 1, got {self.n_iter}.")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"Block needs 0 <= drop_path < 1, got {self.drop_path}.")

    def __call__(self, x: Layer, key: PRNGKey | None = None) -> Layer:
        """The state after `n_iter` steps.

        **Arguments:**

        - `x`: one example or a token-major batch (tokens, batch, channels).
        - `key`: of the branches that are dropped, by each example its own; without one none is.
        """
        self._check(x)
        for gates in self._gates(x, key):
            force = self.potential.force(self.activation(x), gates)
            if self.potential.neurons.clamped is None:
                x = (1 - self.leak * self.step) * x + self.step * force
            else:
                x = x + self.step * self.potential.neurons.zero_clamped(force - self.leak * x)
        return x

    def map_layers(self, function: Callable[..., Any], *trees: Any) -> Any:
        """A function of the visible layer and of some arrays of the form of its state."""
        return function(self.potential.neurons, *trees)

    def map_memory(self, function: Callable[[Any], Any]) -> "Block":
        """The block of a function of its memory."""
        memory = function(self.potential.memory)
        if memory is self.potential.memory:
            return self
        return dataclasses.replace(
            self, potential=dataclasses.replace(self.potential, memory=memory)
        )

    def activation(self, x: Layer) -> Layer:
        """The visible activation $g = L'(x)$."""
        return self.potential.neurons.lagrangian.activation(x)

    def force(self, x: Layer) -> Layer:
        r"""The force $F(g) - \text{leak}\cdot x$, which is $-\partial E/\partial g$ for a
        conservative block.

        At clamped entries it is zero.

        **Arguments:**

        - `x`: the state of one example, or a token-major batch.
        """
        self._check(x)
        return self.potential.neurons.zero_clamped(
            self.potential.force(self.activation(x)) - self.leak * x
        )

    def energy(self, x: Layer) -> Energy:
        r"""The energy $E(x) = \text{leak}\cdot[x \cdot g - L(x)] - U(g)$; of a token-major batch,
        of each example.

        **Arguments:**

        - `x`: the state of one example, or a token-major batch.
        """
        self._check(x)
        potential = self.potential(self.activation(x))
        if self.leak == 0:
            return -potential
        return self.leak * self.potential.neurons.energy(x) - potential

    def energy_magnitude(self, x: Layer) -> Energy:
        r"""The sum of the magnitudes of all that the energy adds up, down to single products, and
        of what rounding of the state changes, $\sum_i |x_i\,\partial E/\partial x_i|$; of a
        token-major batch, of each example.

        **Source:** `theory/C18-rounding.md`.
        """
        if x.ndim > len(self.potential.neurons.shape):
            self._check(x)
            return jax.vmap(self.energy_magnitude, in_axes=1)(x)
        return self.term_magnitude(x) + state_magnitude(self.energy, x)

    def term_magnitude(self, x: Layer) -> Scalar:
        """The sum of the magnitudes of all that the energy adds up, of one example."""
        self._check(x)
        potential = self.potential.energy_magnitude(self.activation(x))
        if self.leak == 0:
            return potential
        return potential + self.leak * self.potential.neurons.energy_magnitude(x)

    @property
    def steps_per_call(self) -> int:
        """How many explicit steps one call takes."""
        return self.n_iter

    @property
    def decays(self) -> bool:
        """Whether there is a leak; without one states grow for ever."""
        return self.leak != 0

    def step_length(self, step: Any) -> float:
        """The step of the block.

        **Raises:** `ValueError` for any other.
        """
        if step is not None:
            raise ValueError(
                f"A block has a step of its own, {self.step}; give it to `derive_block`, not here."
            )
        return self.step

    def direction(self, state: Layer) -> Layer:
        """The force: the step is in units of the time constant."""
        return self.force(state)

    def lengths(self, step: Any) -> float:
        """The step of the block."""
        del step
        return self.step

    def advance(self, state: Layer, step: Any) -> Layer:
        """The state after one call."""
        del step
        return self(state)

    def trial_step(self, state: Layer) -> Layer:
        """The state after one call."""
        return self(state)

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What no theorem covers: calls that drop branches."""
        if not self.drop_path:
            return ()
        return (f"calls with a key, which drop branches (drop_path = {self.drop_path:g})",)

    def _check(self, x: Layer):
        """Refuse states of another form, and a token-major batch where a norm or a synapse would
        run over the batch.
        """
        shape = self.potential.neurons.shape
        memory = self.potential.memory
        need_floats("The state", x)
        extra = x.ndim - len(shape)
        if extra < 0 or x.shape[:1] + x.shape[1 + extra :] != shape:
            raise ValueError(
                f"The block takes states of shape {shape}, or a token-major batch with the batch "
                f"after the first axis, "
                f"got {x.shape}."
            )
        if extra == 0:
            return
        layers = [
            f"layer {name!r}" for name, layer in memory.neurons.items() if not _takes_batch(layer)
        ]
        synapses = [
            f"synapse {name!r}"
            for name, synapse in memory.synapses.items()
            if not synapse.takes_batch
        ]
        if layers or synapses:
            raise ValueError(
                f"The block takes states of shape {shape}, got {x.shape}, and "
                f"{', '.join(layers + synapses)} does not "
                "allow a token-major batch (axes (0, -1) or (-1,) of a norm do, and "
                "`is_elementwise`); batch with "
                "`jax.vmap`."
            )

    def _gates(self, x: Layer, key: PRNGKey | None) -> list[dict[str, Layer] | None]:
        if key is None or self.drop_path == 0:
            return [None] * self.n_iter
        hidden = self.potential.hidden
        batch = x.ndim - len(self.potential.neurons.shape)
        shape = (1, *x.shape[1 : 1 + batch], *(1,) * (x.ndim - batch - 1))
        kept = jr.bernoulli(key, 1 - self.drop_path, (self.n_iter, len(hidden), *shape)).astype(
            x.dtype
        )
        return [dict(zip(hidden, row / (1 - self.drop_path), strict=True)) for row in kept]


def _takes_batch(neurons: Neurons) -> bool:
    """Whether no unit of a layer is joined with those of other examples, whose axis stands after
    the first.
    """
    if all(part.is_elementwise for part in neurons.lagrangian.parts):
        return True
    grouped = [part for part in neurons.lagrangian.parts if not part.is_elementwise]
    return len(neurons.shape) > 1 and all(
        getattr(part, "axes", None) in ((0, -1), (-1,)) for part in grouped
    )


class SerialBlock(AbstractSystem):
    """Token mixing, then channel mixing, each a block with its own norm.

    There is no energy of the whole: a composition of two gradient steps is not a gradient step
    (`theory/C09-serial.md`).

    **Arguments:**

    - `token`, `channel`: the two mixings, of one visible shape.
    - `n_iter`: how often both are repeated, with the same weights.

    **Source:** Tolstikhin et al. 2021 (arXiv 2105.01601), equation 1.
    """

    token: Block
    channel: Block
    n_iter: int = eqx.field(static=True, default=1)
    has_energy: ClassVar[bool] = False
    has_own_step: ClassVar[bool] = True

    def __call__(self, x: Layer, key: PRNGKey | None = None) -> Layer:
        """The state after `n_iter` rounds of both mixings; without a key no branch is dropped."""
        for i in range(self.n_iter):
            for j, part in enumerate(self.parts):
                x = part(x, None if key is None else jr.fold_in(key, 2 * i + j))
        return x

    @property
    def parts(self) -> tuple[Block, Block]:
        """The two mixings in the order in which they run."""
        return self.token, self.channel

    def map_layers(self, function: Callable[..., Any], *trees: Any) -> Any:
        """A function of the visible layer of the token mixing, which comes first."""
        return self.token.map_layers(function, *trees)

    def map_memory(self, function: Callable[[Any], Any]) -> "SerialBlock":
        """The serial block of a function of each of its two memories."""
        token = self.token.map_memory(function)
        return dataclasses.replace(self, token=token, channel=self.channel.map_memory(function))

    def force(self, state: Layer) -> Layer:
        """The displacement in one call, which is the gradient of nothing
        (`theory/C09-serial.md`).
        """
        return self(state) - state

    def energy(self, state: Layer) -> Energy:
        """There is none.

        **Raises:** `TypeError`.
        """
        raise TypeError("A serial block has no energy (C09); certify its `parts`.")

    def trial_step(self, state: Layer) -> Layer:
        """The state after one call."""
        return self(state)


def derive_block(
    memory: AssociativeMemory,
    hidden: Iterable[str],
    *,
    leak: float = 0.0,
    step: float = 1.0,
    n_iter: int = 1,
    drop_path: float = 0.0,
) -> Block:
    """The network layer of a memory: eliminate its hidden layers, then take explicit steps.

    **Arguments:** as in `eliminate` and `Block`.

    **Raises:** as in `eliminate` and `Block`.
    """
    return Block(eliminate(memory, hidden), leak, step, n_iter, drop_path)


def gradient_force(block: Block, x: Layer) -> Layer:
    r"""The force of a block by automatic differentiation of its energy: $-\partial E/\partial g$ at
    the state `x`, zero at clamped entries.

    It equals `block.force(x)` when the field is conservative, and is what tests compare the
    explicit path with.

    **Arguments:**

    - `block`: whose energy it is.
    - `x`: the state of one example, or a token-major batch.
    """
    block._check(x)
    return block.potential.neurons.zero_clamped(
        jax.grad(block.potential)(block.activation(x)) - block.leak * x
    )
