"""Weight matrices as small pictures in the page: one pixel per weight, blue below zero, red
above.
"""

import base64
import io
from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image

# Larger matrices show their corner: shrunk to fit, independent weights would average out to grey.
VISIBLE = 96
HIDDEN = 256
_LEVELS = 64


def weight_limit(pictures: Mapping[str, xr.DataArray]) -> float:
    """Half-width of the colour scale that W and V of all arms share: their 99.5th percentile in
    size.
    """
    sizes = np.concatenate([np.abs(picture.values[:2]).ravel() for picture in pictures.values()])
    sizes = sizes[np.isfinite(sizes)]
    if sizes.size:
        return float(np.quantile(sizes, 0.995)) or 1.0
    return 1.0


def corner(picture: xr.DataArray) -> xr.DataArray:
    """The first 96 visible and 256 hidden units."""
    return picture.isel(visible=slice(VISIBLE), hidden=slice(HIDDEN))


def data_uri(weights: Float[np.ndarray, "visible hidden"], limit: float) -> str:
    """A PNG of one matrix, as an address that holds the picture itself."""
    image = Image.fromarray(_levels(weights, limit))
    image.putpalette(_palette())
    # Programs that print pictures smooth them when they enlarge; a small matrix is enlarged here
    # instead.
    factor = max(1, HIDDEN // weights.shape[1])
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, bits=8)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _levels(
    weights: Float[np.ndarray, "visible hidden"], limit: float
) -> UInt8[np.ndarray, "visible hidden"]:
    """Palette entries; the middle one is zero, the last one marks what is not finite."""
    scaled = np.clip(np.nan_to_num(weights / limit, posinf=1, neginf=-1), -1, 1)
    levels = np.round((scaled + 1) / 2 * _LEVELS).astype(np.uint8)
    return np.where(np.isfinite(weights), levels, np.uint8(_LEVELS + 1)).astype(np.uint8)


def _palette() -> list[int]:
    colours = colormaps["RdBu_r"](np.linspace(0, 1, _LEVELS + 1))[:, :3]
    return [*np.round(255 * colours).astype(int).ravel().tolist(), 187, 187, 187]
