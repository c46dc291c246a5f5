"""What the probes of a study measure of one model, by block and branch, and the tables of it."""

import equinox as eqx
import jax
import numpy as np

from hopmix import Coupling, couplings, map_couplings, named_couplings
from hopmix._block import Block
from hopmix.lab.probes.layout import Layout
from hopmix.lab.store.history import History
from hopmix.lab.study.evaluator import PROBES, measure_couplings, order_of
from hopmix.symmetry.quantities import MEASURED

BRANCHES = ("token", "channel")
DIMENSIONS = {one.name: one.dims for one in MEASURED if not one.expensive}
EXPENSIVE = {one.name: one.dims for one in MEASURED if one.expensive}


def branch_coupling(block, branch: str) -> Coupling:
    """The coupling of one branch, "token" or "channel", of a block of a mixer."""
    part = block if isinstance(block, Block) else getattr(block, branch)
    (coupling,) = couplings(part.potential.memory.synapses[branch])
    return coupling


@eqx.filter_jit
def _measured(model, updates):
    named = named_couplings(map_couplings(Coupling.explicit, model))
    if updates is None:
        return measure_couplings(PROBES, named)
    following = named_couplings(map_couplings(Coupling.explicit, updates))
    return measure_couplings(PROBES, named, following)


def of_couplings(model, updates=None) -> dict[str, np.ndarray]:
    """The cheap measures of the couplings of a model, or with updates the expensive ones, each of
    shape (block, branch, ...).
    """
    named = named_couplings(model)
    layout = Layout.of(named)
    names = order_of(named)
    found = jax.tree.map(np.asarray, _measured(model, updates))
    return {key: layout.arranged(names, value[None])[0] for key, value in found.items()}


def made_history(arms, seeds, depth: int) -> History:
    """A history of arms of mixers of so many blocks, of all that a study measures."""
    return History(arms, seeds, Layout(tuple(range(depth)), BRANCHES, {}), MEASURED)
