"""The handwritten digits that scikit-learn carries."""

from typing import Any, cast

import numpy as np

from hopmix.lab.data.sources.array_rows import ArrayRows
from hopmix.lab.data.sources.names import exists
from hopmix.lab.data.sources.source import Given, Options, Source, make_source
from hopmix.lab.errors import UsageError


def open_digits(options: Options) -> Source:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries; its 17 grey levels
    become 0..255.

    **Raises:** `UsageError` for names of columns, which they don't have.
    """
    for option, column in options.columns.items():
        if column is not None:
            raise UsageError(f"{option}: got {column!r}, but digits is no table; leave it out.")
    from sklearn.datasets import load_digits  # a second to import, and needed by this source alone

    digits = cast(Any, load_digits())
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    given = Given(
        ArrayRows(images, "digits", options.size), digits.target.astype(np.int64), "digits"
    )
    return make_source(
        "digits", "digits", "scikit-learn's load_digits", {"train": given}, notes=_namesakes()
    )


def _namesakes() -> list[str]:
    """A note on a folder or file of the user's with the same name."""
    if exists("digits"):
        return ["./digits here is not read: to read it, write --data ./digits"]
    return []
