"""Images that are arrays in memory already."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hopmix.lab.data.sources.room import require_room
from hopmix.lab.data.sources.source import AbstractRows, Index, Like, Pixels, Size
from hopmix.lab.errors import UsageError


@dataclass(frozen=True)
class ArrayRows(AbstractRows):
    """Rows of an array.

    **Arguments:**

    - `images`: pixel values 0..255.
    - `split`: what error messages call them.
    - `size`: what each image is brought to.
    """

    images: Pixels
    split: str
    size: Size | None = None

    def name(self, row: int) -> str:
        return f"row {row} of {self.split}"

    def read(self, index: Index, like: Like | None = None) -> Pixels:
        height, width = self.size or self.images.shape[1:3]
        shape = (height, width, self.images.shape[3])
        if like is not None and shape != like.shape:
            first = " x ".join(map(str, like.shape))
            other = " x ".join(map(str, shape))
            raise UsageError(
                f"data: images of {self.split} are {other} (height x width x colours), those of "
                f"training {first}; "
                "bring all to one shape, their sizes with --resize"
            )
        require_room(len(index), shape)
        if self.size is None:
            return self.images[index]
        return np.stack([_resized(self.images[row], self.size) for row in index])


def _resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    height, width = size
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(
        height, width, -1
    )
