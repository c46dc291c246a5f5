"""Encoded images to one uint8 array."""

import io
import stat
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from hopmix.lab.data.sources.libtiff import libtiff_silent
from hopmix.lab.data.sources.lost import note_loss, note_losses
from hopmix.lab.data.sources.room import require_room
from hopmix.lab.data.sources.source import Like, Pixels, Size
from hopmix.lab.data.sources.words import escaped, reason
from hopmix.lab.errors import UsageError

Encoded = bytes | str
"""The content of an image file, or its path."""

Array = UInt8[np.ndarray, "height width colours"]

NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats for which Pillow calls another program, or which it only recognises."""


@lru_cache
def formats() -> tuple[str, ...]:
    """The formats that are decoded, the usual ones first, for they are tried in turn."""
    Image.init()
    return tuple(
        sorted(
            set(Image.OPEN) - set(NOT_DECODED), key=lambda name: (name not in ("PNG", "JPEG"), name)
        )
    )


def suffixes() -> set[str]:
    """The suffixes of files of those formats, in small letters."""
    known = set(formats())
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known}


def is_image(content: bytes) -> bool:
    """Whether this is the content of an image file."""
    try:
        with Image.open(io.BytesIO(content), formats=formats()):
            return True
    except Exception:  # of whatever kind: see `_decode`
        return False


def decode_images(
    encoded: Iterable[tuple[str, Encoded]],
    count: int,
    like: Like | None = None,
    size: Size | None = None,
) -> Pixels:
    """Images of one size as an array: one colour if all are grey, otherwise red, green and blue.

    Transparency is dropped, palettes are looked up, of 16 bits the upper 8 are kept, and of several
    frames the first (see `lost`). Beside the array there is never more than one image in memory.

    **Arguments:**

    - `encoded`: `count` pairs of an image's name in error messages and its file.
    - `like`: the shape that the images must have; grey images become coloured, and coloured ones
      grey, if need be.
    - `size`: what each image is brought to, whatever it was.

    **Raises:** `UsageError` for an image that cannot be decoded or has another size than the first,
    and for more images
        than fit into memory.
    """
    if size is not None:
        require_room(count, (*size, 1))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # what is wrong is raised, and what is large is checked here
        return _decode_all(encoded, count, like, size)


def _decode_all(
    encoded: Iterable[tuple[str, Encoded]], count: int, like: Like | None, size: Size | None
) -> Pixels:
    fixed = like is not None
    images: Pixels = (
        np.empty((0, 0, 0, 1), np.uint8) if like is None else _room_for(count, like.shape)
    )
    for row, (name, file) in enumerate(encoded):
        pixels = _decode(name, file, size)
        if like is None:
            like = Like(pixels.shape, name)
            images = _room_for(count, pixels.shape)
        if pixels.shape[:2] != like.shape[:2]:
            raise UsageError(_sizes(like, name, pixels))
        if (
            pixels.shape[2] > images.shape[3] and not fixed
        ):  # the first coloured image among grey ones
            require_room(count, pixels.shape)
            images = np.repeat(images, 3, axis=3)
        if pixels.shape[2] > images.shape[3]:
            note_loss(name, "colours")
            pixels = _grey(pixels)
        images[row] = pixels
    return images


def _room_for(count: int, shape: tuple[int, int, int]) -> Pixels:
    require_room(count, shape)
    return np.empty((count, *shape), np.uint8)


def _sizes(like: Like, name: str, pixels: Array) -> str:
    first, other = (f"{shape[0]} x {shape[1]}" for shape in (like.shape, pixels.shape))
    return (
        f"data: images differ in size (height x width): {escaped(like.name)} is {first}, "
        f"{escaped(name)} is "
        f"{other}; bring all to one size with --resize"
    )


def _decode(name: str, file: Encoded, size: Size | None) -> Array:
    try:
        with Image.open(_opened(file), formats=formats()) as image, _silent(image):
            note_losses(name, image)
            ImageOps.exif_transpose(image, in_place=True)
            return _standard(name, image, size)
    # Damaged files make Pillow raise whatever it stumbles over: struct.error, IndexError,
    # zlib.error, ...
    except Exception as error:
        raise UsageError(
            f"data: {escaped(name)} cannot be decoded ({_why(error)}); replace or remove it"
        ) from error


def _silent(image: Image.Image) -> AbstractContextManager[None]:
    if image.format == "TIFF":
        return libtiff_silent()
    return nullcontext()


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return "it has more pixels than are decoded"
    told = reason(error)
    if "cannot identify image file" in told:
        return "it is no image"
    return told


def _opened(file: Encoded) -> io.BytesIO | Path:
    if isinstance(file, bytes):
        return io.BytesIO(file)
    path = Path(file)
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would never end
        raise ValueError("it is no file")
    return path


def _standard(name: str, image: Image.Image, size: Size | None) -> Array:
    """One grey plane, or red, green and blue, of 8 bits."""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: pixels of 32 bits, where 8 are expected")
    plain = _plain(name, image)
    if size is not None and plain.size != (size[1], size[0]):
        plain = plain.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(plain)
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels


def _plain(name: str, image: Image.Image) -> Image.Image:
    """The image in the mode L, or RGB where it has colours."""
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        note_loss(name, "depth", int(deep.max()))
        return Image.fromarray((deep >> 8).astype(np.uint8))
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode in ("P", "PA"):
        coloured = image.convert("RGBA").convert(
            "RGB"
        )  # Pillow warns of transparent palettes made RGB at once
        if _grey_palette(image):
            return coloured.getchannel(0)
        return coloured
    return image.convert("RGB")


def _grey_palette(image: Image.Image) -> bool:
    """Whether all colours that the image uses are grey."""
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    used = np.flatnonzero(
        image.getchannel(0).histogram() if image.mode == "PA" else image.histogram()
    )
    used = used[used < len(palette)]
    return bool((palette[used] == palette[used, :1]).all())


def _grey(pixels: Array) -> UInt8[np.ndarray, "height width 1"]:
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
