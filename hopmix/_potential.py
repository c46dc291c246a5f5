r"""From a memory to a potential: eliminate the hidden neurons.

In the adiabatic limit $\tau_h \to 0$ hidden states sit at $x_h = W g$, and the energy of the
visible layer is

$$E(x) = x \cdot g - L(x) - U(g), \qquad U(g) = \sum_h \Phi_h(W_h g)$$

with $\Phi_h$ the hidden Lagrangians: no convexity of $\Phi_h$ is needed. Hidden layers that are
joined with each other sit where all of them are at rest together, which is found by sweeps over
them.
"""

import warnings
from collections.abc import Iterable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool

from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.dtypes import cast, need_floats, solver_dtype
from hopmix._numerics.implicit import SWEEPS, fixed_point
from hopmix._numerics.rounding import total
from hopmix._types import Energy, Layer, Scalar


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

    **Arguments:**

    - `memory`: with all layers, the hidden ones too.
    - `visible`: the name of the layer that remains.
    - `hidden`: the names of the eliminated layers, in the order in which they are swept.

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
