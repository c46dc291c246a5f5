"""Synapses: what they all are, and those that hopmix has."""

from hopmix._synapse.attention import Attention as Attention
from hopmix._synapse.base import AbstractCoupled as AbstractCoupled
from hopmix._synapse.base import AbstractSynapse as AbstractSynapse
from hopmix._synapse.base import Bias as Bias
from hopmix._synapse.base import HyperSynapse as HyperSynapse
from hopmix._synapse.base import inner as inner
from hopmix._synapse.base import is_known_constant as is_known_constant
from hopmix._synapse.grid import Convolution as Convolution
from hopmix._synapse.grid import Pooling as Pooling
from hopmix._synapse.mixing import ChannelMixing as ChannelMixing
from hopmix._synapse.mixing import Dense as Dense
from hopmix._synapse.mixing import TokenMixing as TokenMixing
from hopmix._synapse.mixing import mix_last as mix_last
from hopmix._synapse.patterns import HopfieldMemory as HopfieldMemory
