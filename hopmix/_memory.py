r"""AssociativeMemory: layers of neurons joined by synapses, with one energy.

$$E(x) = \sum_a \left[(x_a - I_a) \cdot g_a - L_a(x_a)\right] + \sum_s E_s(g), \qquad
  \tau_a \dot x_a = f_a = -\frac{\partial E}{\partial g_a}$$

with external inputs $I_a$, which are zero unless the memory is driven. Everything is written for
one example; batch with `jax.vmap`. `current`, all that a layer's fast path needs, also takes a
token-major batch (see `hopmix._synapse`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool

from hopmix._lagrangian import broadcast_to_batch
from hopmix._neurons import Neurons, fits
from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.rounding import state_magnitude, total
from hopmix._synapse import AbstractSynapse
from hopmix._system import AbstractSystem
from hopmix._types import Layer, PRNGKey, Scalar, State


class AssociativeMemory(AbstractSystem):
    r"""A hypergraph of layers (nodes) and synapses (edges) with a common energy.

    **Arguments:**

    - `neurons`: the layers by name.
    - `synapses`: the synapses by name.
    - `connections`: for each synapse, the names of the layers it joins, in the order of its
      activations.

    **Raises:** `ValueError` if connections and synapses have different names, name an unknown
    layer, or join layers of shapes that the synapse does not fit.

    **Source:** Krotov 2021 (arXiv 2107.06446); hypergraphs as in HAMUX (Hoover et al. 2022).
    """

    neurons: dict[str, Neurons]
    synapses: dict[str, AbstractSynapse]
    connections: tuple[tuple[str, tuple[str, ...]], ...] = eqx.field(static=True)

    def __init__(
        self,
        neurons: Mapping[str, Neurons],
        synapses: Mapping[str, AbstractSynapse],
        connections: Mapping[str, tuple[str, ...]],
    ):
        self.neurons = dict(neurons)
        self.synapses = dict(synapses)
        self.connections = tuple(
            sorted((name, tuple(layers)) for name, layers in connections.items())
        )

    def __check_init__(self):
        if {name for name, _ in self.connections} != set(self.synapses):
            raise ValueError(
                f"Each synapse needs one connection: synapses {sorted(self.synapses)}, "
                f"connections {[name for name, _ in self.connections]}."
            )
        for name, layers in self.connections:
            for layer in layers:
                if layer not in self.neurons:
                    raise ValueError(
                        f"Synapse {name!r} joins {layer!r}, but the layers are "
                        f"{sorted(self.neurons)}."
                    )
            self._check_synapse(name, layers)

    def map_layers(self, function: Callable[..., Any], *trees: Any) -> dict[str, Any]:
        """A function of each layer and of its parts of some trees of the form of a state, by the
        layers' names.
        """
        return {
            name: function(layer, *(tree[name] for tree in trees))
            for name, layer in self.neurons.items()
        }

    def map_memory(self, function: Callable[[Any], Any]) -> "AssociativeMemory":
        """A function of this memory."""
        return function(self)

    def activations(self, state: State) -> dict[str, Layer]:
        """The activation of each layer."""
        self._check(state)
        return {
            name: layer.lagrangian.activation(state[name]) for name, layer in self.neurons.items()
        }

    def energy_terms(self, state: State) -> dict[str, dict[str, Scalar]]:
        """The energy of each layer, synapse and input, under `"neurons"`, `"synapses"` and
        `"inputs"`.

        **Arguments:**

        - `state`: the state of each layer, by name.
        """
        activations = self.activations(state)
        outputs = self._outputs(activations)
        driven = {name: layer for name, layer in self.neurons.items() if layer.input is not None}
        return {
            "neurons": {name: layer.energy(state[name]) for name, layer in self.neurons.items()},
            "inputs": {
                name: layer.input_energy(activations[name]) for name, layer in driven.items()
            },
            "synapses": {
                name: self.synapses[name].energy(*(outputs[layer] for layer in layers))
                for name, layers in self.connections
            },
        }

    def energy(self, state: State) -> Scalar:
        r"""The total energy $E(x)$ of one state.

        **Arguments:**

        - `state`: the state of each layer, by name.
        """
        return jnp.sum(jnp.stack(jax.tree.leaves(self.energy_terms(state))))

    def energy_magnitude(self, state: State) -> Scalar:
        r"""The sum of the magnitudes of all that the energy of one state adds up, down to single
        products, and of what rounding of the state changes, $\sum_i |x_i\,\partial E/\partial
        x_i|$: what rounding is relative to.

        **Source:** `theory/C18-rounding.md`.
        """
        state = dict(state)
        return self.term_magnitude(state) + state_magnitude(self.energy, state)

    def term_magnitude(self, state: State) -> Scalar:
        """The sum of the magnitudes of all that the energy of one state adds up."""
        activations = self.activations(state)
        layers = [n.energy_magnitude(state[name]) for name, n in self.neurons.items()]
        inputs = [n.input_magnitude(activations[name]) for name, n in self.neurons.items()]
        return total([*layers, *inputs, *self.synapse_magnitudes(self._outputs(activations))])

    def synapse_magnitudes(self, outputs: Mapping[str, Layer]) -> list[Scalar]:
        """The magnitude of the energy of each synapse where it reads these, of one example."""
        return [
            self.synapses[name].energy_magnitude(*(outputs[layer] for layer in layers))
            for name, layers in self.connections
        ]

    def force(self, state: State) -> dict[str, Layer]:
        r"""The force on each layer, $f_a = \tau_a \dot x_a$.

        It is $-\partial E/\partial g_a$ where all couplings are symmetric, and zero at clamped
        entries.

        **Arguments:**

        - `state`: the state of each layer, by name.
        """
        outputs = self._outputs(self.activations(state))
        return {
            name: n.zero_clamped(self.current(name, outputs) - state[name])
            for name, n in self.neurons.items()
        }

    def trial_step(self, state: State) -> dict[str, Layer]:
        """The state after a step of Euler of a hundredth of the smallest time constant."""
        return self.advance(state, 0.01 * min(layer.tau for layer in self.neurons.values()))

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What no theorem covers: steps of any length."""
        return ("explicit steps of a memory",)

    def drive(self, inputs: Mapping[str, Layer | None]) -> "AssociativeMemory":
        """The memory with external currents into some layers, by name; `None` takes an input away.

        **Arguments:**

        - `inputs`: currents by the names of layers, each of the rank of its layer and broadcast
          against it.

        **Raises:** `ValueError` for an unknown layer or a current that does not fit it.
        """
        return self._with_neurons(inputs, "input")

    def clamp(self, masks: Mapping[str, Bool[Array, "..."] | None]) -> "AssociativeMemory":
        """The memory with some entries of its state held fixed, by masks for the named layers;
        `None` frees a layer.

        A mask of shape (1, ..., 1) holds or frees a whole layer. Where only some entries of a group
        of a norm or of a softmax are held, the energy may rise (`theory/C01-descent.md`).

        **Arguments:**

        - `masks`: booleans by the names of layers, true at entries that are held, broadcast
          likewise.

        **Raises:** `ValueError` for an unknown layer or a mask that does not fit it.
        """
        return self._with_neurons(masks, "clamped")

    def _with_neurons(self, values: Mapping[str, Array | None], field: str) -> "AssociativeMemory":
        unknown = set(values) - set(self.neurons)
        if unknown:
            raise ValueError(f"The layers are {sorted(self.neurons)}, got {sorted(unknown)}.")
        neurons = {
            name: dataclasses.replace(self.neurons[name], **{field: value})
            for name, value in values.items()
        }
        return AssociativeMemory({**self.neurons, **neurons}, self.synapses, dict(self.connections))

    def current(
        self, into: str, outputs: Mapping[str, Layer], gates: Mapping[str, Layer] | None = None
    ) -> Layer:
        """What all synapses and the input together send into one layer.

        **Arguments:**

        - `into`: the layer.
        - `outputs`: what the synapses read from the layers they join; the entry of `into` itself is
            needed only where a synapse joins it to itself or is not explicit.
        - `gates`: factors on what comes from a layer, by the layer's name (default 1), broadcast
          against `into`.
        """
        total = jnp.zeros(self._batched_shape(into, outputs), jnp.result_type(*outputs.values()))
        for name, layers in self.connections:
            for end in (i for i, layer in enumerate(layers) if layer == into):
                current = self.synapses[name].current(end, tuple(map(outputs.get, layers)))
                total = total + _gate(broadcast_to_batch(current, total.ndim), layers, gates or {})
        neurons = self.neurons[into]
        total = neurons.pull_back(total)
        if neurons.input is None:
            return total
        return total + broadcast_to_batch(neurons.input, total.ndim)

    def _check_synapse(self, name: str, layers: tuple[str, ...]):
        synapse = self.synapses[name]
        shapes = [self.neurons[layer].shape for layer in layers]
        dtype = jnp.result_type(
            *[leaf for leaf in jax.tree.leaves(synapse) if eqx.is_inexact_array(leaf)] or [float]
        )
        outputs = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
        try:
            energy = jax.eval_shape(synapse.energy, *outputs)
            currents = [
                jax.eval_shape(lambda *g, i=i: synapse.current(i, g), *outputs)
                for i in range(len(shapes))
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Synapse {name!r} does not fit layers {layers} of shapes {shapes}: {error}"
            ) from None
        if energy.shape != ():
            raise ValueError(
                f"The energy of synapse {name!r} at layers {layers} of shapes {shapes} must be "
                f"one number, got shape "
                f"{energy.shape}; mixings and grids join layers of shape (tokens, channels)."
            )
        for i, (shape, current) in enumerate(zip(shapes, currents)):
            if not fits(current.shape, shape):
                raise ValueError(
                    f"Synapse {name!r} sends a current of shape {current.shape} into layer "
                    f"{layers[i]!r} "
                    f"of shape {shape}."
                )

    def _keys(self, key: PRNGKey) -> dict[str, PRNGKey]:
        return dict(zip(self.neurons, jr.split(key, len(self.neurons))))

    def _outputs(self, activations: Mapping[str, Layer]) -> dict[str, Layer]:
        return {name: self.neurons[name].output(g) for name, g in activations.items()}

    def _batched_shape(self, into: str, outputs: Mapping[str, Layer]) -> tuple[int, ...]:
        name, output = next(iter(outputs.items()))
        extra = output.ndim - len(self.neurons[name].shape)
        shape = self.neurons[into].shape
        return shape[:1] + output.shape[1 : 1 + extra] + shape[1:]

    def _check(self, state: State):
        if not isinstance(state, Mapping):
            raise ValueError(
                f"The state of a memory is one array for each of its layers "
                f"{sorted(self.neurons)}, by name, got a "
                f"{type(state).__name__}."
            )
        for name, layer in self.neurons.items():
            if name not in state:
                raise ValueError(f"The state lacks layer {name!r}; it has {sorted(state)}.")
            need_floats(f"The state of layer {name!r}", state[name])
            if state[name].shape != layer.shape:
                raise ValueError(
                    f"Layer {name!r} holds states of shape {layer.shape}, got {state[name].shape}; "
                    "batch with `jax.vmap`, the memory takes one example."
                )


def _gate(current: Layer, layers: tuple[str, ...], gates: Mapping[str, Layer]) -> Layer:
    for layer in set(layers) & set(gates):
        current = gates[layer] * current
    return current
