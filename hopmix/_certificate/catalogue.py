"""Catalogue: what a system has beside the exact types whose mathematics is proved, and beside
finite numbers.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax

from hopmix._assumptions import is_known, is_of_core
from hopmix._lagrangian import AbstractLagrangian
from hopmix._numerics.dtypes import precision_of, solver_dtype
from hopmix._numerics.smooth import is_finite
from hopmix._synapse import AbstractSynapse


def foreign_parts(system: Any) -> list[str]:
    """The types in a system, beside Lagrangians and synapses, that are not those of hopmix."""
    modules = [
        m for m in _modules(system) if not isinstance(m, AbstractLagrangian | AbstractSynapse)
    ]
    return sorted({type(module).__name__ for module in modules if not is_of_core(module)})


def _modules(tree: Any) -> Iterator[eqx.Module]:
    """The modules of a tree, outermost first; of Lagrangians and most synapses not what is
    inside.
    """
    for node in jax.tree.leaves(tree, is_leaf=_is_module):
        if not _is_module(node):
            continue
        yield node
        if not _is_closed(node):
            yield from _modules(list(vars(node).values()))


def _is_closed(module: eqx.Module) -> bool:
    """Whether a module is judged as a whole, by what it says of itself."""
    if isinstance(module, AbstractSynapse):
        return not (is_known(module) and module.is_coupled)
    return isinstance(module, AbstractLagrangian)


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)


def not_finite(system: Any) -> list[str]:
    """The places of the parameters of a system that are not finite numbers in its precision."""
    dtype = solver_dtype(precision_of(system))
    leaves = jax.tree_util.tree_leaves_with_path(system)
    return [
        jax.tree_util.keystr(path).removeprefix(".")
        for path, leaf in leaves
        if eqx.is_inexact_array_like(leaf) and not is_finite(leaf, dtype)
    ]
