"""How messages show numbers, states and the places of entries in them."""

from typing import Any

import jax
import numpy as np


def show_numbers(values: np.ndarray) -> str:
    return np.array2string(
        values, precision=6, threshold=24, edgeitems=4, separator=", ", max_line_width=110
    )


def show_state(tree: Any) -> str:
    """The leaves of a state, the inner entries of large ones left out."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return "\n".join(
        (
            f"{jax.tree_util.keystr(path)} "
            f"{leaf.dtype}{leaf.shape}\n{show_numbers(np.asarray(leaf, float))}"
        ).lstrip()
        for path, leaf in leaves
    )


def name_entry(tree: Any, index: int) -> str:
    """The name of one entry of a flattened state."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if index < leaf.size:
            place = [int(i) for i in np.unravel_index(index, leaf.shape)]
            return f"{jax.tree_util.keystr(path)}{place}"
        index -= leaf.size
    raise IndexError(index)
