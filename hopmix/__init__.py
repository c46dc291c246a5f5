"""hopmix: energies of associative memory, the mixer layers that follow from them, and measures of their symmetry."""

import importlib.metadata

from hopmix._certificate import Assumption as Assumption
from hopmix._certificate import Certificate as Certificate
from hopmix._certificate import Check as Check
from hopmix._certificate import certify as certify
from hopmix._coupling import Coupling as Coupling
from hopmix._coupling import couplings as couplings
from hopmix._coupling import trainable as trainable
from hopmix._derive import Block as Block
from hopmix._derive import Potential as Potential
from hopmix._derive import derive_block as derive_block
from hopmix._derive import eliminate as eliminate
from hopmix._derive import gradient_force as gradient_force
from hopmix._dynamics import Descent as Descent
from hopmix._dynamics import descend as descend
from hopmix._dynamics import flow as flow
from hopmix._dynamics import settle as settle
from hopmix._lagrangian import GELU as GELU
from hopmix._lagrangian import AbstractLagrangian as AbstractLagrangian
from hopmix._lagrangian import Exponential as Exponential
from hopmix._lagrangian import LayerNorm as LayerNorm
from hopmix._lagrangian import Quadratic as Quadratic
from hopmix._lagrangian import ReLU as ReLU
from hopmix._lagrangian import RePU as RePU
from hopmix._lagrangian import Sigmoid as Sigmoid
from hopmix._lagrangian import Softmax as Softmax
from hopmix._lagrangian import SphericalNorm as SphericalNorm
from hopmix._lagrangian import Tanh as Tanh
from hopmix._memory import Affine as Affine
from hopmix._memory import AssociativeMemory as AssociativeMemory
from hopmix._memory import Neurons as Neurons
from hopmix._symmetry import Asymmetry as Asymmetry
from hopmix._symmetry import field_asymmetry as field_asymmetry
from hopmix._symmetry import measure_asymmetry as measure_asymmetry
from hopmix._symmetry import symmetry_score as symmetry_score
from hopmix._synapse import AbstractSynapse as AbstractSynapse
from hopmix._synapse import Bias as Bias
from hopmix._synapse import ChannelMixing as ChannelMixing
from hopmix._synapse import Dense as Dense
from hopmix._synapse import TokenMixing as TokenMixing
from hopmix.models.mixer import Mixer as Mixer
from hopmix.models.mixer import MixerConfig as MixerConfig

__version__ = importlib.metadata.version("hopmix")
