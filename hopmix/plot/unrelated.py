"""What each index is for independent weights, as labelled arrays."""

import numpy as np
import xarray as xr

from hopmix.symmetry.null import Sizes
from hopmix.symmetry.quantities import quantity


def null(name: str, sizes: xr.Dataset, balance: xr.DataArray | float = 0.0) -> xr.Dataset | None:
    """Mean and standard deviation (`mean`, `std`) of an index for one coupling of independent
    weights.

    To leading order in the sizes, for Gaussian entries with one variance for V and one for W; `std`
    is NaN where only the mean is known.

    **Arguments:**

    - `name`: of the index.
    - `sizes`: `visible` and `hidden`, such as (arm, branch); NaN for what is not there.
    - `balance`: of the norms of W and V, as measured.

    **Returns:** the two as labelled arrays, NaN where sizes are, or `None` for an index without a
    null value.

    **Source:** the tables of `hopmix.Asymmetry` and `hopmix.symmetry.Spectrum`, and the
    `Quantity` itself.
    """
    known = quantity(name)
    if known is None or known.null is None:
        return None
    moments = known.null

    def broadcast(visible, hidden, ratio):
        of = Sizes(visible, hidden, ratio)
        shape = np.zeros(np.broadcast_shapes(*map(np.shape, of)))
        mean, std = moments(of)
        return shape + mean, shape + std

    ratio = ((1 - balance) / (1 + balance)) ** 0.5
    there = sizes.visible.notnull()
    whole = sizes.fillna(2).astype(int)
    found = xr.apply_ufunc(broadcast, whole.visible, whole.hidden, ratio, output_core_dims=[[], []])
    return xr.Dataset(dict(zip(("mean", "std"), found))).where(there)
