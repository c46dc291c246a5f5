"""What decoding leaves out of images, collected so that it can be told once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from PIL import Image

TOLD = {
    "transparency": "transparency of {count:,} images is dropped",
    "frames": "of {count:,} images with several frames only the first is read",
    "depth": "of {count:,} images of 16 bits the upper 8 are kept",
    "colours": "colours of {count:,} images are dropped, for those of training are grey",
}
"""What each loss is called."""


@dataclass(eq=False)
class Lost:
    """How many images lost what, the first of each, and the largest number among greys of 16
    bits.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    largest: int = -1

    def notes(self) -> list[str]:
        return [self._note(loss) for loss in TOLD if self.counts[loss]]

    def _note(self, loss: str) -> str:
        dark = f"; their largest value {self.largest:,} becomes {self.largest >> 8}"
        more = dark if loss == "depth" and self.largest >= 0 else ""
        return f"{TOLD[loss].format(count=self.counts[loss])} (first: {self.first[loss]}){more}"


_COLLECTED: ContextVar[Lost | None] = ContextVar("_COLLECTED", default=None)


@contextmanager
def collecting() -> Iterator[Lost]:
    """A block in which what images lose is collected; images are read far below those who tell of
    it.
    """
    lost = Lost()
    token = _COLLECTED.set(lost)
    try:
        yield lost
    finally:
        _COLLECTED.reset(token)


def note_loss(name: str, loss: str, largest: int = -1):
    """Collect that an image lost something.

    **Arguments:**

    - `loss`: one of `TOLD`; `largest`: the largest number in it, where it is a grey one of 16 bits.
    """
    lost = _COLLECTED.get()
    if lost is not None:
        lost.counts[loss] += 1
        lost.first.setdefault(loss, name)
        lost.largest = max(lost.largest, largest)


def note_losses(name: str, image: Image.Image):
    """Collect what will be left out of an image that is open and not yet decoded."""
    if _COLLECTED.get() is None:
        return
    if _has_frames(image):
        note_loss(name, "frames")
    if not image.mode.startswith("I;16") and any(
        _is_deep(tile[3]) for tile in getattr(image, "tile", [])
    ):
        note_loss(name, "depth")  # Pillow itself makes colours of 16 bits such of 8
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        note_loss(name, "transparency")


def _is_deep(arguments: object) -> bool:
    """Whether a decoder of Pillow is told to expect colours of 16 bits, as in "RGB;16B"."""
    if isinstance(arguments, tuple) and arguments:
        packing = arguments[0]
    else:
        packing = arguments
    return isinstance(packing, str) and packing.endswith((";16B", ";16L", ";16N"))


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame may be damaged in any way, and is not read
        return True
    finally:
        image.seek(0)
