"""Models as trees: where their couplings are, and what of them trains."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hopmix._coupling import Coupling

INNER = frozenset({"potential", "memory", "synapses", "coupling"})
"""Fields between a block and its couplings, which the name of a coupling leaves out."""


class Frozen(eqx.Module):
    """An array that is a part of a model and never trains, such as a random matrix or the weights
    of a prior.

    **Arguments:**

    - `array`: of any shape; `trainable` is false there.
    """

    array: Array


def couplings(tree: PyTree) -> list[Coupling]:
    """All couplings in a model, in the order of its fields.

    **Arguments:**

    - `tree`: any pytree.
    """
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=_is_coupling) if _is_coupling(leaf)]


def named_couplings(tree: PyTree) -> dict[str, Coupling]:
    """All couplings in a model by their paths, in the order of its fields: `"blocks.0.token"` of a
    `Mixer`.

    A path has the fields, keys and positions that lead to a coupling. Those that every block has in
    between are left out, and so is a name that repeats the one before, unless two couplings would
    have one name then.

    **Arguments:**

    - `tree`: any pytree.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_coupling)
    found = [(path, leaf) for path, leaf in leaves if _is_coupling(leaf)]
    short = [_short(path) for path, _ in found]
    shared = Counter(short)
    names = [
        name if shared[name] == 1 else path_name(path) for name, (path, _) in zip(short, found)
    ]
    return {name: coupling for name, (_, coupling) in zip(names, found)}


def _words(path: tuple[Any, ...]) -> list[str]:
    return [jax.tree_util.keystr((key,), simple=True) for key in path]


def path_name(path: tuple[Any, ...]) -> str:
    """A path in a tree as text: its fields, keys and positions between dots."""
    return ".".join(_words(path))


def _short(path: tuple[Any, ...]) -> str:
    fields = [isinstance(key, jax.tree_util.GetAttrKey) for key in path]
    words = [word for word, field in zip(_words(path), fields) if not (field and word in INNER)]
    kept = [word for before, word in zip([None, *words], words) if word != before]
    return ".".join(kept) or path_name(path) or "coupling"


def map_couplings(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """A tree with a function of each of its couplings in its place; everything else stays as it is.

    **Arguments:**

    - `function`: of a coupling, and of what is at its place in each of the `rest`.
    - `tree`: with couplings.
    - `rest`: trees of the same form.
    """

    def at(node: Any, *others: Any) -> Any:
        if _is_coupling(node):
            return function(node, *others)
        return node

    return jax.tree.map(at, tree, *rest, is_leaf=_is_coupling)


def trainable(tree: PyTree) -> PyTree:
    """A tree of booleans, true at the leaves that training may change.

    These are all floating-point arrays except the `tie` of a `Coupling` and those in a `Frozen`; it
    serves as filter of `eqx.partition`. Shapes (`jax.ShapeDtypeStruct`) count as the arrays they
    stand for.

    **Arguments:**

    - `tree`: any pytree.
    """

    def mark(node: Any) -> Any:
        if isinstance(node, Frozen):
            return jax.tree.map(lambda _: False, node)
        spec = jax.tree.map(_is_floating, node)
        if _is_coupling(node):
            return eqx.tree_at(lambda c: c.tie, spec, False)
        return spec

    return jax.tree.map(mark, tree, is_leaf=lambda node: isinstance(node, Coupling | Frozen))


def _is_coupling(node: Any) -> bool:
    return isinstance(node, Coupling)


def _is_floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
