"""Which images are for training, for validation and for the test, so that no image is in two of
them.
"""

import hashlib

import numpy as np
from jaxtyping import Int, UInt64

from hopmix.lab.data.sources.source import Index, Labels, Pixels

TEST_SHARE = 0.2
"""What is cut from the training images where the source has no test split."""

TEST_SEED = 0
"""Fixed, so that the same images are never trained on, whatever the seed of the validation split.
"""

BYTES_AT_ONCE = 2**24
"""Of images that are moved in place."""

Marks = UInt64[np.ndarray, " _n"]
"""A hash of the pixels of each image."""


def mark(images: Pixels) -> Marks:
    """A hash of the pixels of each image, 64 bits of BLAKE2; equal images have equal ones."""
    digests = [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
        for image in images
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


def in_two_classes(marks: Marks, labels: Labels) -> Index:
    """The rows whose images are there under another label as well; equal ones follow each other."""
    order = np.lexsort((labels, marks))
    _, first, group, count = np.unique(
        marks[order], return_index=True, return_inverse=True, return_counts=True
    )
    lowest = labels[order][first]
    highest = labels[order][first + count - 1]
    return order[(lowest != highest)[group]]


def cut(
    labels: Labels, index: Index, count: int | None, seed: int, marks: Marks | None = None
) -> tuple[Int[np.ndarray, " rest"], Int[np.ndarray, " cut"]]:
    """`count` rows (all for `None`) in the class proportions of the whole, and the rest before
    them.

    The rows of a class of size $n_c$ get the places $(r + 1/2)/n_c$ in a random order $r$; the
    lowest places are cut. Rows with the same mark are cut together, or not at all, at the place of
    the first of them.

    **Arguments:**

    - `labels`, `marks`: of all rows; `index`: those that are divided.
    """
    if not len(index):
        return index, index
    order = np.random.default_rng(seed).permutation(index)
    by_class = np.argsort(labels[order], kind="stable")
    sizes = np.unique(labels[order], return_counts=True)[1]
    places = np.empty(len(order))
    places[by_class] = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    ranked = order[np.argsort(places, kind="stable")]
    count = len(ranked) if count is None else count
    if marks is not None:
        ranked, count = _together(ranked, count, marks)
    return np.sort(ranked[count:]), np.sort(ranked[:count])


def _together(ranked: Index, count: int, marks: Marks) -> tuple[Index, int]:
    """Rows in an order in which equal ones follow each other, and the nearest count that divides
    none of them.
    """
    rank = np.empty(ranked.max(initial=-1) + 1, np.int64)
    rank[ranked] = np.arange(len(ranked))
    rows = np.sort(ranked)
    _, first, group = np.unique(marks[rows], return_index=True, return_inverse=True)
    order = np.lexsort((rows, rank[rows[first]][group]))
    group = group[order]
    ends = np.flatnonzero(np.append(group[1:] != group[:-1], True)) + 1
    nearest = np.append(0, ends)
    return rows[order], int(nearest[np.argmin(np.abs(nearest - count))])


def keep_in_place(images: Pixels, index: Index) -> Pixels:
    """Those rows, in the memory of the array, which is used up.

    **Arguments:**

    - `index`: rows in ascending order.
    """
    step = max(1, BYTES_AT_ONCE // max(1, images[:1].nbytes))
    for start in range(0, len(index), step):
        rows = index[start : start + step]
        images[start : start + len(rows)] = images[
            rows
        ]  # never before their place, so that none is lost
    return images[: len(index)]
