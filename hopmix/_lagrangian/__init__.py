"""Lagrangians: what they all are, and those that hopmix has."""

from hopmix._lagrangian.base import AbstractLagrangian as AbstractLagrangian
from hopmix._lagrangian.base import Scaled as Scaled
from hopmix._lagrangian.base import Sum as Sum
from hopmix._lagrangian.base import broadcast_to_batch as broadcast_to_batch
from hopmix._lagrangian.base import need_number as need_number
from hopmix._lagrangian.competition import Entmax as Entmax
from hopmix._lagrangian.competition import GhostMax as GhostMax
from hopmix._lagrangian.competition import LogSumReLU as LogSumReLU
from hopmix._lagrangian.competition import Softmax as Softmax
from hopmix._lagrangian.elementwise import GELU as GELU
from hopmix._lagrangian.elementwise import Exponential as Exponential
from hopmix._lagrangian.elementwise import Quadratic as Quadratic
from hopmix._lagrangian.elementwise import ReLU as ReLU
from hopmix._lagrangian.elementwise import RePU as RePU
from hopmix._lagrangian.elementwise import Sigmoid as Sigmoid
from hopmix._lagrangian.elementwise import Tanh as Tanh
from hopmix._lagrangian.norms import LayerNorm as LayerNorm
from hopmix._lagrangian.norms import SphericalNorm as SphericalNorm
