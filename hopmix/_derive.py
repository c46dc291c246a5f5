r"""From a memory to a layer: eliminate the hidden neurons, then discretise.

In the adiabatic limit $\tau_h \to 0$ hidden states sit at $x_h = W g$, and the energy of the
visible layer is

$$E(x) = x \cdot g - L(x) - U(g), \qquad U(g) = \sum_h \Phi_h(W_h g)$$

with $\Phi_h$ the hidden Lagrangians: no convexity of $\Phi_h$ is needed. Hidden layers that are
joined with each other sit where all of them are at rest together, which is found by sweeps over
them. An explicit step of the resulting flow is a network layer.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jaxtyping import Array, Bool

from hopmix._memory import AssociativeMemory, Neurons
from hopmix._numerics.dtypes import cast, need_floats, solver_dtype
from hopmix._numerics.implicit import SWEEPS, fixed_point
from hopmix._numerics.rounding import state_magnitude, total
from hopmix._system import AbstractSystem
from hopmix._types import Energy, Layer, PRNGKey, Scalar


class Potential(eqx.Module):
    r"""The interaction potential $U(g)$ of a visible layer whose hidden layers have been
    eliminated.

    $$U(g) = \sum_h \left[\Phi_h(x_h) - x_h \cdot g_h\right] - \sum_s E_s(g, g_h), \qquad x_h = W_h g$$

    which is $\sum_h \Phi_h(W_h g)$ for tied weights. For others it is the pseudo-energy of the
    symmetrised interaction, $\sum_h [\Phi_h(W_h g) + \tfrac12 g \cdot (V_h - W_h^\top)\,\phi(W_h
    g)]$, and `force` is not its gradient. External inputs add $I \cdot g$, and synapses of the
    visible layer with itself minus their energy.

    Hidden layers that are joined with each other have no closed form. Starting from zero they are
    set, one after another, to the current into them, until nothing changes. For convex hidden
    Lagrangians and bilinear synapses each of these moves minimises the energy over one layer, so
    that the sweeps descend. The fixed point is differentiated implicitly, with a matrix of the size
    of the hidden layers squared. Where it is not reached or does not attract the sweeps, force and
    potential are NaN, and so are their gradients; outside of transformations such as `jax.jit` a
    warning says so, with the cures.

    The error left by sweeps that shrink it by $\rho$ each is at most $100\,\epsilon$ of the largest
    hidden state, and that of rounding a few $\epsilon/(1 - \rho)$, with $\epsilon$ the unit in the
    last place: 1.2e-7 for float32, in which half precision is computed too. At $\rho = 0.999$
    float32 is thus exact to about 1e-4.

    Made by `eliminate`.

    **Source:** arXiv 2406.12220, section 6 for the pseudo-energy, with the sign of its correction
    set right.
    """  # noqa: E501

    memory: AssociativeMemory
    visible: str = eqx.field(static=True)
    hidden: tuple[str, ...] = eqx.field(static=True)

    @property
    def neurons(self) -> Neurons:
        """The visible layer."""
        return self.memory.neurons[self.visible]

    def __call__(self, g: Layer) -> Energy:
        """The potential at `g`; of a token-major batch, that of each example."""
        outputs, states = self._settle(g)
        neurons = self.memory.neurons
        memory = self.memory
        terms = [
            neurons[h].energy(x) + neurons[h].input_energy(self._activation(h, x))
            for h, x in states.items()
        ]
        terms += [
            memory.synapses[s].energy(*(outputs[a] for a in layers))
            for s, layers in memory.connections
        ]
        return -sum(terms, self.neurons.input_energy(g))

    def energy_magnitude(self, g: Layer) -> Scalar:
        """The sum of the magnitudes of all that the potential adds up, of one example."""
        outputs, states = self._settle(g)
        hidden = [self.memory.neurons[h].energy_magnitude(x) for h, x in states.items()]
        driven = [
            self.memory.neurons[h].input_magnitude(self._activation(h, x))
            for h, x in states.items()
        ]
        return total(
            [
                self.neurons.input_magnitude(g),
                *hidden,
                *driven,
                *self.memory.synapse_magnitudes(outputs),
            ]
        )

    def force(self, g: Layer, gates: Mapping[str, Layer] | None = None) -> Layer:
        r"""The explicit force $F(g) = \sum_h V_h\, \phi_h(W_h g)$, which is $\nabla U$ when the
        field is conservative.

        **Arguments:**

        - `g`: the visible activation.
        - `gates`: factors on single branches, by the hidden layer's name (stochastic depth).
        """
        outputs, _ = self._settle(g)
        return self.memory.current(self.visible, outputs, gates)

    @property
    def is_explicit(self) -> bool:
        """Whether each hidden layer follows from the visible one alone, so that nothing has to be
        solved.
        """
        for name, layers in self.memory.connections:
            synapse = self.memory.synapses[name]
            hidden = sum(layer in self.hidden for layer in layers)
            if hidden > 1 and not synapse.is_constant:  # a bias only names further layers
                return False
            if hidden and not synapse.is_explicit:
                return False
        return True

    def _settle(self, g: Layer) -> tuple[dict[str, Layer], dict[str, Layer]]:
        """What all layers send out, and the states of the hidden ones, when these are at rest."""
        need_floats("The activation", g)
        outputs = {self.visible: self.neurons.output(g)}
        if self.is_explicit:
            states = {h: self.memory.current(h, outputs) for h in self.hidden}
        else:
            states = self._rest(outputs[self.visible])
        return outputs | {h: self._output(h, x) for h, x in states.items()}, states

    def _rest(self, output: Layer) -> dict[str, Layer]:
        """The states of the hidden layers that are at rest together, for what the visible layer
        sends out.
        """
        solve = self._solve
        for _ in range(output.ndim - len(self.neurons.shape)):
            solve = jax.vmap(solve, in_axes=1, out_axes=(1, 0))
        rest, at_rest = solve(output)
        if not isinstance(at_rest, Tracer) and not at_rest.all():
            warnings.warn(
                f"The hidden layers {list(self.hidden)}, which are joined with each other, did "
                f"not come to rest in "
                f"{SWEEPS} sweeps, and what follows is NaN: make the weights between them "
                f"smaller, take units that are "
                "bounded (Tanh, Sigmoid, Softmax), or keep one of them visible.",
                stacklevel=2,
            )
        return rest

    def _solve(self, output: Layer) -> tuple[dict[str, Layer], Bool[Array, ""]]:
        start = {h: jnp.zeros(self.memory.neurons[h].shape, output.dtype) for h in self.hidden}
        swept = jax.eval_shape(lambda states: self._sweep(states, output), start)
        dtype = jnp.result_type(
            *jax.tree.leaves(swept)
        )  # that of the weights may be wider than that of the state
        potential, output, start = cast((self, output, start), solver_dtype(dtype))
        rest, at_rest = fixed_point(lambda states: potential._sweep(states, output), start)
        return cast(rest, dtype), at_rest

    def _sweep(self, states: dict[str, Layer], output: Layer) -> dict[str, Layer]:
        """Set each hidden layer in turn to the current into it."""
        outputs = {self.visible: output} | {h: self._output(h, x) for h, x in states.items()}
        swept = {}
        for h in self.hidden:
            swept[h] = self.memory.current(h, outputs)
            outputs[h] = self._output(h, swept[h])
        return swept

    def _activation(self, layer: str, x: Layer) -> Layer:
        return self.memory.neurons[layer].lagrangian.activation(x)

    def _output(self, layer: str, x: Layer) -> Layer:
        return self.memory.neurons[layer].output(self._activation(layer, x))


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
        """The state after `n_iter` steps; without a key no branch is dropped.

        `x` is one example or a token-major batch (tokens, batch, channels), of which each example
        drops its own.
        """
        self._check(x)
        for gates in self._gates(x, key):
            force = self.potential.force(self.activation(x), gates)
            if self.potential.neurons.clamped is None:
                x = (1 - self.leak * self.step) * x + self.step * force
            else:
                x = x + self.step * self.potential.neurons.release(force - self.leak * x)
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
        """
        self._check(x)
        return self.potential.neurons.release(
            self.potential.force(self.activation(x)) - self.leak * x
        )

    def energy(self, x: Layer) -> Energy:
        r"""The energy $E(x) = \text{leak}\cdot[x \cdot g - L(x)] - U(g)$; of a token-major batch,
        of each example.
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


def eliminate(memory: AssociativeMemory, hidden: Iterable[str]) -> Potential:
    r"""The potential that is left of a memory when its hidden layers follow the visible one at
    once.

    **Arguments:**

    - `memory`: the memory; exactly one layer must remain visible.
    - `hidden`: the names of the layers to eliminate. Where they are joined with each other, this is
        the order in which they are swept.

    **Raises:** `ValueError` if a layer is unknown or clamped, or if not exactly one layer remains.

    **Source:** arXiv 2406.12220, section 3; Krotov & Hopfield 2020 (arXiv 2008.06996).
    """
    hidden = tuple(dict.fromkeys(hidden))
    unknown = set(hidden) - set(memory.neurons)
    if unknown:
        raise ValueError(
            f"Cannot eliminate {sorted(unknown)}: the layers are {sorted(memory.neurons)}."
        )
    visible = [name for name in memory.neurons if name not in hidden]
    if len(visible) != 1:
        raise ValueError(
            f"Exactly one layer must remain visible, but eliminating {list(hidden)} leaves "
            f"{visible}."
        )
    clamped = [name for name in hidden if memory.neurons[name].clamped is not None]
    if clamped:
        raise ValueError(
            f"A clamped layer follows nothing: free {clamped} before eliminating, or keep them "
            f"visible."
        )
    return Potential(memory, visible[0], hidden)


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
    """
    block._check(x)
    return block.potential.neurons.release(
        jax.grad(block.potential)(block.activation(x)) - block.leak * x
    )
