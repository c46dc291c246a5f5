"""What the store says of each of its variables."""

from collections.abc import Sequence

import xarray as xr

from hopmix.symmetry.quantities import DIVERGED, MEASURED, Quantity

COORDINATES = {
    "arm": {
        "long_name": "arm",
        "comment": "what is compared: a model and the strength of its penalty",
    },
    "kind": {"long_name": "arm without its strength"},
    "title": {"long_name": "name of the arm in the literature"},
    "strength": {
        "long_name": "strength λ of the penalty λ‖breaking‖²",
        "range": "0 and up, NaN where there is no penalty",
        "units": "1",
    },
    "seed": {
        "long_name": "seed of a member",
        "comment": "the same seed gives every arm the same W and batches",
    },
    "step": {"long_name": "training steps done", "range": "0 and up", "units": "step"},
    "block": {"long_name": "block, from the stem on"},
    "branch": {"long_name": "branch of a block: mixing of tokens or of channels"},
}
"""What the coordinates of the store are."""


def describe(metrics: xr.Dataset, quantities: Sequence[Quantity] = MEASURED) -> xr.Dataset:
    """The metrics of a study with what each of them is as attributes.

    **Arguments:**

    - `metrics`: any of what a study measures, with its coordinates; changed in place.
    - `quantities`: what each of them is.

    **Returns:** the same, each variable with long name, formula, range, unit and reading.
    """
    described = {one.name: one.attributes for one in (*quantities, DIVERGED)}
    described |= COORDINATES
    for name, attributes in described.items():
        if name in metrics.variables:
            metrics[name].attrs |= attributes
    return metrics
