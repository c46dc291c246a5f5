"""Encoded images to one uint8 array."""

import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from hopmix.lab.config import UsageError
from hopmix.lab.source import Like, Pixels

Encoded = bytes | str
"""The content of an image file, or its path."""

Array = UInt8[np.ndarray, "height width colours"]


def decode_images(encoded: Iterable[tuple[str, Encoded]], count: int, like: Like | None = None) -> Pixels:
    """Images of one size as an array: one colour if all are grey, otherwise red, green and blue.

    Transparency is dropped, palettes are looked up, and of 16 bits of grey the upper 8 are kept.

    **Arguments:**

    - `encoded`: `count` pairs of an image's name in error messages and its file.
    - `like`: the shape that the images must have; grey images become coloured, and coloured ones grey, if need be.

    **Raises:** `UsageError` for an image that cannot be decoded or has another size than the first.
    """
    fixed = like is not None
    images: Pixels = np.empty((count, *like.shape) if like else (0, 0, 0, 1), np.uint8)
    for row, (name, file) in enumerate(encoded):
        pixels = _decode(name, file)
        if like is None:
            like, images = Like(pixels.shape, name), np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape[:2] != like.shape[:2]:
            raise UsageError(_sizes(like, name, pixels))
        if pixels.shape[2] > images.shape[3] and not fixed:
            images = np.repeat(images, 3, axis=3)  # the first coloured image among grey ones
        images[row] = pixels if pixels.shape[2] <= images.shape[3] else _grey(pixels)
    return images


def _sizes(like: Like, name: str, pixels: Array) -> str:
    first, other = (f"{shape[0]} x {shape[1]}" for shape in (like.shape, pixels.shape))
    return (
        f"data: images differ in size (height x width): {like.name} is {first}, {name} is {other}; "
        "bring all images to one size"
    )


def _decode(name: str, file: Encoded) -> Array:
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _standard(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"data: {name} cannot be decoded ({reason}); replace or remove it") from error


def _standard(image: Image.Image) -> Array:
    """One grey plane, or red, green and blue, of 8 bits."""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: pixels of 32 bits, where 8 are expected")
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns about palettes with transparency that become RGB at once
    return np.asarray(image.convert("RGB"))


def _grey(pixels: Array) -> UInt8[np.ndarray, "height width 1"]:
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
