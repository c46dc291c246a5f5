"""hopmix: energies of associative memory, the mixer layers that follow from them, and measures of
their symmetry.

What most users need is here, by chapter. Measures of asymmetry and what it costs are in
`hopmix.symmetry`, binary memories and bounds on what a memory stores in `hopmix.retrieval`, checks
of other models in `hopmix.testing`, figures in `hopmix.plot`.
"""

import importlib.metadata
import typing

# Lagrangians and neurons
from hopmix._lagrangian import AbstractLagrangian as AbstractLagrangian
from hopmix._lagrangian import Quadratic as Quadratic
from hopmix._lagrangian import ReLU as ReLU
from hopmix._lagrangian import RePU as RePU
from hopmix._lagrangian import GELU as GELU
from hopmix._lagrangian import Exponential as Exponential
from hopmix._lagrangian import Tanh as Tanh
from hopmix._lagrangian import Sigmoid as Sigmoid
from hopmix._lagrangian import Softmax as Softmax
from hopmix._lagrangian import GhostMax as GhostMax
from hopmix._lagrangian import Entmax as Entmax
from hopmix._lagrangian import LogSumReLU as LogSumReLU
from hopmix._lagrangian import LayerNorm as LayerNorm
from hopmix._lagrangian import SphericalNorm as SphericalNorm
from hopmix._lagrangian import Sum as Sum
from hopmix._lagrangian import Scaled as Scaled
from hopmix._neurons import Affine as Affine
from hopmix._neurons import Neurons as Neurons

# Couplings and synapses
from hopmix._coupling import Coupling as Coupling
from hopmix._synapse import AbstractSynapse as AbstractSynapse
from hopmix._synapse import Dense as Dense
from hopmix._synapse import TokenMixing as TokenMixing
from hopmix._synapse import ChannelMixing as ChannelMixing
from hopmix._synapse import Convolution as Convolution
from hopmix._synapse import Pooling as Pooling
from hopmix._synapse import Attention as Attention
from hopmix._synapse import HopfieldMemory as HopfieldMemory
from hopmix._synapse import HyperSynapse as HyperSynapse
from hopmix._synapse import Bias as Bias

# Memory and energy
from hopmix._memory import AssociativeMemory as AssociativeMemory

# Dynamics
from hopmix._dynamics import velocity as velocity
from hopmix._dynamics import flow as flow
from hopmix._dynamics import descend as descend
from hopmix._dynamics import Descent as Descent
from hopmix._dynamics import settle as settle
from hopmix._dynamics import Settled as Settled
from hopmix._dynamics import Status as Status

# Derived layers
from hopmix._potential import eliminate as eliminate
from hopmix._potential import Potential as Potential
from hopmix._block import derive_block as derive_block
from hopmix._block import Block as Block
from hopmix._block import SerialBlock as SerialBlock
from hopmix._block import gradient_force as gradient_force

# Certificates, and how far from one
from hopmix._certificate.certificate import certify as certify
from hopmix._certificate.certificate import Certificate as Certificate
from hopmix._assumptions import Assumption as Assumption
from hopmix._certificate.check import Check as Check
from hopmix._certificate.concavity import concavity_bound as concavity_bound
from hopmix._certificate.contraction import contraction_rate as contraction_rate
from hopmix.symmetry import measure_asymmetry as measure_asymmetry
from hopmix.symmetry import Asymmetry as Asymmetry
from hopmix.symmetry import field_asymmetry as field_asymmetry

# Trees
from hopmix._tree import couplings as couplings
from hopmix._tree import named_couplings as named_couplings
from hopmix._tree import map_couplings as map_couplings
from hopmix._tree import trainable as trainable
from hopmix._tree import Frozen as Frozen

# Models, and further rooms
from hopmix.models.mixer import Mixer as Mixer
from hopmix.models.mixer import MixerConfig as MixerConfig
from hopmix import retrieval as retrieval
from hopmix import symmetry as symmetry

if not typing.TYPE_CHECKING:  # type checkers know the new places alone
    from hopmix._moved import old_name as __getattr__  # noqa: F401  # noqa: F401
    from hopmix._moved import public_names as __dir__  # noqa: F401  # noqa: F401

__version__ = importlib.metadata.version("hopmix")
