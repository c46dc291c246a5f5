"""Probes: what is measured of a model while it trains."""

from hopmix.lab.probes.probe import AbstractCouplingProbe as AbstractCouplingProbe
from hopmix.lab.probes.probe import AbstractModelProbe as AbstractModelProbe
from hopmix.lab.probes.probe import AbstractProbe as AbstractProbe
