r"""RandAugment: a few random operations on an image, as `timm` 0.9 does them with Pillow, in a
compiled program.

Images are floats whose values are the integers 0..255, before and after every operation, as in
Pillow; `magnitude` runs over 0..10. The fifteen operations are timm's "increasing" set, whose
effect grows with the magnitude.

**Source:** Cubuk et al., arXiv 1909.13719; huggingface/pytorch-image-models,
`timm/data/auto_augment.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

from hopmix._types import Image, PRNGKey, Scalar

MAXIMUM = 10.0
"""The largest magnitude; timm calls it the level's denominator."""

ROUNDING = 1e-3
"""In grey levels: Pillow rounds a sample down, and the mean of equal values in float32 may lie
below them.
"""

Matrix = Float[Array, "2 3"]


@dataclass(frozen=True)
class RandAugment:
    """How strongly and how often images are changed; the default is timm's `rand-m9-mstd0.5-inc1`.

    **Arguments:**

    - `magnitude`: mean strength of an operation, 0..10.
    - `magnitude_std`: standard deviation of the strength; the result is clipped to 0..10.
    - `layers`: operations drawn for each image, with replacement.
    - `probability`: that a drawn operation is applied.

    **Raises:** `ValueError` for a value outside its range.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.5
    layers: int = 2
    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.magnitude <= MAXIMUM:
            raise ValueError(f"magnitude = {self.magnitude} is outside 0..10; the reference uses 9")
        if self.magnitude_std < 0:
            raise ValueError(
                f"magnitude_std = {self.magnitude_std} is negative; the reference uses 0.5"
            )
        if self.layers < 1:
            raise ValueError(
                f"layers = {self.layers} is not positive; use rand_augment=None for no operation"
            )
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"probability = {self.probability} is outside 0..1; the reference uses 0.5"
            )


def rand_augment(
    config: RandAugment, key: PRNGKey, image: Image, fill: Float[Array, " colours"]
) -> Image:
    """One image after `config.layers` random operations.

    **Arguments:**

    - `image`: values 0..255, whole numbers.
    - `fill`: the colour (0..255) of pixels that a shift, shear or rotation uncovers; timm takes the
      mean colour.
    """

    noise_key, choice_key = jr.split(key)
    noise = config.magnitude_std * jr.normal(noise_key, (config.layers,), jnp.float32)
    magnitudes = jnp.clip(config.magnitude + noise, 0.0, MAXIMUM)
    # Three numbers from one draw, because every draw costs a second of compilation.
    which, side, whether = jr.uniform(choice_key, (3, config.layers), jnp.float32)
    operations = (which * len(OPERATIONS)).astype(jnp.int32)
    signs = jnp.where(side < 0.5, -1.0, 1.0).astype(jnp.float32)

    def layer(image: Image, draws: tuple[Array, Array, Array, Array]) -> tuple[Image, None]:
        operation, magnitude, sign, applied = draws
        changed = apply_operation(operation, image, magnitude, sign, fill)
        return jnp.where(applied, changed, image), None

    return jax.lax.scan(
        layer, image, (operations, magnitudes, signs, whether < config.probability)
    )[0]


def apply_operation(
    operation: Int[Array, ""],
    image: Image,
    magnitude: Scalar,
    sign: Scalar,
    fill: Float[Array, " colours"],
) -> Image:
    """The operation of that index in `OPERATIONS` at a magnitude (0..10); `sign` (±1) is the side
    it moves to.

    The five geometric operations share one warp: under `vmap` every branch of the switch is
    computed.
    """
    matrices = jnp.stack([matrix(magnitude, sign, image) for matrix in _MATRICES.values()])
    matrix = matrices[jnp.maximum(operation - len(_POINT), 0)]
    branches: list[Callable[[], Image]] = [
        partial(f, image, magnitude, sign) for f in _POINT.values()
    ]
    branches.append(partial(warp, image, matrix, fill))
    return jax.lax.switch(jnp.minimum(operation, len(_POINT)), branches)


# Point operations, each equal to the Pillow function of its name up to one grey level.


def autocontrast(image: Image) -> Image:
    """Each colour stretched to 0..255 (`PIL.ImageOps.autocontrast`)."""
    low = image.min((0, 1), keepdims=True)
    high = image.max((0, 1), keepdims=True)
    stretched = jnp.floor((image - low) * 255.0 / jnp.maximum(high - low, 1.0))
    return jnp.where(high > low, stretched, image)


def equalize(image: Image) -> Image:
    """Each colour with its histogram made flat (`PIL.ImageOps.equalize`)."""
    return jax.vmap(_equalize_colour, in_axes=-1, out_axes=-1)(image)


def _equalize_colour(image: Float[Array, "height width"]) -> Float[Array, "height width"]:
    values = image.astype(jnp.int32)
    histogram = jnp.zeros(256, jnp.int32).at[values].add(1)
    step = (values.size - histogram[values.max()]) // 255
    darker = jnp.cumsum(histogram) - histogram
    table = jnp.minimum((step // 2 + darker) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[values].astype(image.dtype), image)


def invert(image: Image) -> Image:
    """255 minus the image (`PIL.ImageOps.invert`)."""
    return 255.0 - image


def posterize(image: Image, bits: Scalar) -> Image:
    """Only the highest `bits` of each value kept (`PIL.ImageOps.posterize`)."""
    quantum = jnp.ldexp(
        jnp.float32(1.0), 8 - bits.astype(jnp.int32)
    )  # exact, which a power need not be
    return jnp.floor(image / quantum) * quantum


def solarize(image: Image, threshold: Scalar) -> Image:
    """Values from `threshold` on inverted (`PIL.ImageOps.solarize`)."""
    return jnp.where(image < threshold, image, 255.0 - image)


def solarize_add(image: Image, addend: Scalar) -> Image:
    """`addend` added to the values of the darker half."""
    return jnp.where(image < 128.0, jnp.minimum(image + addend, 255.0), image)


def colour(image: Image, factor: Scalar) -> Image:
    """Towards grey (factor 0) or away from it (`PIL.ImageEnhance.Color`); grey images stay as they
    are.
    """
    return _blend(jnp.broadcast_to(_luminance(image), image.shape), image, factor)


def contrast(image: Image, factor: Scalar) -> Image:
    """Towards the mean grey (factor 0) or away from it (`PIL.ImageEnhance.Contrast`)."""
    grey = jnp.floor(_luminance(image).mean() + 0.5)
    return _blend(jnp.broadcast_to(grey, image.shape), image, factor)


def brightness(image: Image, factor: Scalar) -> Image:
    """Towards black (factor 0) or away from it (`PIL.ImageEnhance.Brightness`)."""
    return _blend(jnp.zeros_like(image), image, factor)


def sharpness(image: Image, factor: Scalar) -> Image:
    """Towards a smoothed image (factor 0) or away from it (`PIL.ImageEnhance.Sharpness`)."""
    return _blend(_smooth(image), image, factor)


def _blend(degenerate: Image, image: Image, factor: Scalar) -> Image:
    return jnp.floor(jnp.clip(degenerate + factor * (image - degenerate), 0.0, 255.0))


def _luminance(image: Image) -> Float[Array, "height width 1"]:
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        return jnp.floor(image.mean(-1, keepdims=True) + 0.5)
    red, green, blue = jnp.split(
        image, 3, axis=-1
    )  # Pillow's whole-number weights of ITU-R 601-2, in 1/65536
    return jnp.floor((19595.0 * red + 38470.0 * green + 7471.0 * blue) / 65536.0 + 0.5)


def _smooth(image: Image) -> Image:
    """The 3 x 3 mean in which the centre counts five times; pixels of the border stay
    (`PIL.ImageFilter.SMOOTH`).
    """
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    shifts = [image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    inner = jnp.floor((sum(shifts) + 4.0 * shifts[4]) / 13.0 + 0.5)
    return image.at[1:-1, 1:-1].set(inner)


# The five geometric operations are affine maps from output to input coordinates, in pixels.


def warp(image: Image, matrix: Matrix, fill: Float[Array, " colours"]) -> Image:
    r"""The image sampled bilinearly at $A\,(x, y, 1)$, x to the right, y down
    (`PIL.Image.transform`, `AFFINE`).

    **Arguments:**

    - `matrix`: $A$, from the centre of an output pixel to the place in the input, both in pixels.
    - `fill`: colour of the pixels that come from outside.
    """
    height, width, _ = image.shape
    y, x = jnp.mgrid[:height, :width].astype(image.dtype) + 0.5
    column, row = (
        matrix[:, 0, None, None] * x[None]
        + matrix[:, 1, None, None] * y[None]
        + matrix[:, 2, None, None]
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    sample = lambda plane: map_coordinates(
        plane, [row - 0.5, column - 0.5], order=1, mode="nearest"
    )
    sampled = jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
    whole = jnp.floor(sampled + ROUNDING)
    return jnp.where(inside[..., None], whole, fill[None, None])


def _matrix(*rows: tuple[Scalar | float, Scalar | float, Scalar | float]) -> Matrix:
    return jnp.stack(
        [jnp.stack([jnp.asarray(entry, jnp.float32) for entry in row]) for row in rows]
    )


def _rotate(magnitude: Scalar, sign: Scalar, image: Image) -> Matrix:
    """By up to 30 degrees about the centre."""
    angle = -sign * jnp.deg2rad(30.0 * magnitude / MAXIMUM)
    cosine = jnp.cos(angle)
    sine = jnp.sin(angle)
    x = image.shape[1] / 2
    y = image.shape[0] / 2
    return _matrix(
        (cosine, sine, x - cosine * x - sine * y), (-sine, cosine, y + sine * x - cosine * y)
    )


def _shear_x(magnitude: Scalar, sign: Scalar, image: Image) -> Matrix:
    return _matrix((1.0, sign * 0.3 * magnitude / MAXIMUM, 0.0), (0.0, 1.0, 0.0))


def _shear_y(magnitude: Scalar, sign: Scalar, image: Image) -> Matrix:
    return _matrix((1.0, 0.0, 0.0), (sign * 0.3 * magnitude / MAXIMUM, 1.0, 0.0))


def _translate_x(magnitude: Scalar, sign: Scalar, image: Image) -> Matrix:
    return _matrix((1.0, 0.0, sign * 0.45 * magnitude / MAXIMUM * image.shape[1]), (0.0, 1.0, 0.0))


def _translate_y(magnitude: Scalar, sign: Scalar, image: Image) -> Matrix:
    return _matrix((1.0, 0.0, 0.0), (0.0, 1.0, sign * 0.45 * magnitude / MAXIMUM * image.shape[0]))


def _factor(magnitude: Scalar, sign: Scalar) -> Scalar:
    """The weight of the image in a blend: 1 changes nothing, either side of it is a stronger
    change.
    """
    return jnp.maximum(1.0 + sign * 0.9 * magnitude / MAXIMUM, 0.1)


def _share(magnitude: Scalar, whole: float) -> Scalar:
    return jnp.floor(magnitude / MAXIMUM * whole)


_POINT: dict[str, Callable[[Image, Scalar, Scalar], Image]] = {
    "AutoContrast": lambda image, magnitude, sign: autocontrast(image),
    "Equalize": lambda image, magnitude, sign: equalize(image),
    "Invert": lambda image, magnitude, sign: invert(image),
    "PosterizeIncreasing": lambda image, magnitude, sign: posterize(
        image, 4.0 - _share(magnitude, 4.0)
    ),
    "SolarizeIncreasing": lambda image, magnitude, sign: solarize(
        image, 256.0 - _share(magnitude, 256.0)
    ),
    "SolarizeAdd": lambda image, magnitude, sign: solarize_add(image, _share(magnitude, 110.0)),
    "ColorIncreasing": lambda image, magnitude, sign: colour(image, _factor(magnitude, sign)),
    "ContrastIncreasing": lambda image, magnitude, sign: contrast(image, _factor(magnitude, sign)),
    "BrightnessIncreasing": lambda image, magnitude, sign: brightness(
        image, _factor(magnitude, sign)
    ),
    "SharpnessIncreasing": lambda image, magnitude, sign: sharpness(
        image, _factor(magnitude, sign)
    ),
}

_MATRICES: dict[str, Callable[[Scalar, Scalar, Image], Matrix]] = {
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}

OPERATIONS = (*_POINT, *_MATRICES)
"""timm's names of the fifteen operations, by index."""
