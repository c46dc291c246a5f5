"""The memory of a parallel mixer from its weights: what claims about mixers are measured on."""

from collections.abc import Mapping
from types import MappingProxyType

from hopmix._block import Block
from hopmix._coupling import Coupling
from hopmix._lagrangian import AbstractLagrangian
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._synapse import AbstractSynapse, Bias, ChannelMixing, TokenMixing
from hopmix._types import Layer, Scalar
from hopmix.symmetry.fields import field_asymmetry

BRANCHES = ("token", "channel")
CLEAR = 1e-6
"""An asymmetry above this is no rounding: the field has no energy."""

NO_BIASES: Mapping[str, Layer] = MappingProxyType({})


def mixer_memory(
    visible: Neurons,
    hidden: AbstractLagrangian,
    couplings: Mapping[str, Coupling],
    biases: Mapping[str, Layer] = NO_BIASES,
) -> AssociativeMemory:
    """A layer `"x"` of tokens with a Hopfield network of each channel (`"token"`), each token
    (`"channel"`), or both.

    **Arguments:**

    - `visible`: the layer, of shape (tokens, channels).
    - `hidden`: the Lagrangian of the hidden units.
    - `couplings`: of the branches `"token"` and `"channel"`, or of one of them.
    - `biases`: `"token_up"` and `"channel_up"` into the hidden layers, `"token_down"` and
      `"channel_down"` into `"x"`.
    """
    neurons = {"x": visible}
    synapses: dict[str, AbstractSynapse] = {name: Bias(bias) for name, bias in biases.items()}
    ends = {name: (name.removesuffix("_up") if name.endswith("_up") else "x",) for name in biases}
    for name, coupling in couplings.items():
        neurons[name] = Neurons(hidden, _hidden_shape(name, visible.shape, len(coupling.up)))
        synapses[name] = TokenMixing(coupling) if name == "token" else ChannelMixing(coupling)
    return AssociativeMemory(neurons, synapses, ends | {name: ("x", name) for name in couplings})


def _hidden_shape(branch: str, visible: tuple[int, ...], units: int) -> tuple[int, int]:
    tokens, channels = visible
    if branch == "token":
        return (units, channels)
    return (tokens, units)


def asymmetry(block: Block, x: Layer) -> Scalar:
    r"""The index $|HJ - (HJ)^\top|/(2|HJ|)$ of a block's force at a state."""
    return field_asymmetry(block.force, x, block.potential.neurons.lagrangian)
