r"""Augmentation of a batch of images inside the compiled training step: uint8 in, normalised
float32 out.

The order is that of `timm`'s loader: crop, flip, RandAugment, normalise, mix two images, erase.
What a configuration switches off is not in the program. Every function is pure and maps over a
population with `jax.vmap`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from hopmix._types import PRNGKey, Scalar
from hopmix.lab.data.randaugment import RandAugment, rand_augment

Images = Float[Array, "batch height width colours"]
Bytes = UInt8[Array, "batch height width colours"]
PerColour = Float[Array | np.ndarray, " colours"]
Targets = Float[Array, "batch classes"]

CUTMIX_SHARE = 0.5
"""How often a batch is mixed by CutMix where Mixup is on as well (timm's `switch_prob`)."""

ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = 1 / 0.3
ERASE_ATTEMPTS = 10


@dataclass(frozen=True)
class Augment:
    r"""What is done to a training batch; the default is nothing.

    **Arguments:**

    - `flip`: probability of mirroring an image left to right.
    - `crop`: pixels of black border that are put above and below an image, and left and right of
        it, before a window of its size is cut out at random; one number for both.
    - `mixup`: $\alpha$ of the share $\lambda\sim\text{Beta}(\alpha,\alpha)$ that an image keeps; 0
      is off.
    - `cutmix`: $\alpha$ for the share of the area that an image keeps; 0 is off.
    - `erase`: probability of filling a random box of an image with Gaussian noise.
    - `rand_augment`: strength of RandAugment, or `None` for off.
    - `label_smoothing`: share of the target that is spread evenly over the classes.

    **Raises:** `ValueError` for a value outside its range.
    """

    flip: float = 0.0
    crop: int | tuple[int, int] = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: float = 0.0
    rand_augment: RandAugment | None = None
    label_smoothing: float = 0.0

    def __post_init__(self):
        for name in ("flip", "erase", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is no probability; choose one in 0..1"
                )
        for name, least in (
            ("crop", min(self.borders)),
            ("mixup", self.mixup),
            ("cutmix", self.cutmix),
        ):
            if not 0 <= least < math.inf:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is negative or not finite; 0 switches it off"
                )

    @property
    def borders(self) -> tuple[int, int]:
        """Pixels of border above and below, and left and right."""
        return _both(self.crop)

    @classmethod
    def none(cls) -> "Augment":
        """Normalisation alone."""
        return cls()

    @classmethod
    def light(cls, image_shape: tuple[int, int, int]) -> "Augment":
        """The default: a random crop from a border of an eighth of each side, and label smoothing
        0.1.

        Nothing is mirrored: a mirrored digit is no digit.

        **Arguments:**

        - `image_shape`: height, width and colours.
        """
        return cls(crop=_borders(image_shape), label_smoothing=0.1)

    @classmethod
    def paper(cls, image_shape: tuple[int, int, int] = (32, 32, 3)) -> "Augment":
        """The recipe of arXiv 2406.12220 for CIFAR-10, as its repository calls `timm` 0.9.2.

        One part differs: timm cuts out a region of random size and enlarges it to 224 pixels.
        Images here keep their own, small, size, so that the random crop from a border takes its
        place.

        **Arguments:**

        - `image_shape`: height, width and colours.
        """
        return cls(
            flip=0.5,
            crop=_borders(image_shape),
            mixup=0.8,
            cutmix=1.0,
            erase=0.25,
            rand_augment=RandAugment(magnitude=9.0, magnitude_std=0.5, layers=2, probability=0.5),
            label_smoothing=0.1,
        )


def _borders(image_shape: tuple[int, int, int]) -> int | tuple[int, int]:
    """An eighth of each side, at least one pixel; of a side of one pixel nothing may be lost."""
    height = _border(image_shape[0])
    width = _border(image_shape[1])
    if height == width:
        return height
    return (height, width)


def _border(length: int) -> int:
    if length == 1:
        return 0
    return max(1, length // 8)


def _both(crop: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(crop, int):
        return (crop, crop)
    return crop


def augment(
    config: Augment,
    key: PRNGKey,
    images: Bytes,
    labels: Int[Array, " batch"],
    classes: int,
    mean: PerColour,
    std: PerColour,
) -> tuple[Images, Targets]:
    """A training batch: normalised images (float32) and the distribution over the classes that each
    should get.

    **Arguments:**

    - `images`: pixel values 0..255.
    - `labels`: 0..classes-1.
    - `mean`, `std`: of each colour of the training images, in units of the full range (0..1).
    """
    crop_key, flip_key, rand_key, mix_key, erase_key = jr.split(key, 5)
    if any(config.borders):
        images = random_crop(crop_key, images, config.crop)
    if config.flip:
        images = random_flip(flip_key, images, config.flip)
    pixels = images
    if config.rand_augment is not None:
        pixels = _rand_augment_batch(config.rand_augment, rand_key, images, mean)
    pixels = normalise(pixels, mean, std)
    targets = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    if config.mixup or config.cutmix:
        pixels, targets = mix(mix_key, pixels, targets, config.mixup, config.cutmix)
    if config.erase:
        pixels = random_erase(erase_key, pixels, config.erase)
    if config.label_smoothing:
        targets = optax.smooth_labels(targets, config.label_smoothing)
    return pixels, targets


def normalise(images: Bytes | Images, mean: PerColour, std: PerColour) -> Images:
    r"""$(x/255 - \text{mean})/\text{std}$ in float32.

    **Arguments:**

    - `images`: pixel values 0..255.
    - `mean`, `std`: of each colour, in units of the full range (0..1).
    """
    mean = jnp.asarray(mean, jnp.float32)
    std = jnp.asarray(std, jnp.float32)
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - mean[None, None, None]) / std[None, None, None]


def random_crop(key: PRNGKey, images: Bytes, border: int | tuple[int, int]) -> Bytes:
    """A window of the image's size, at a random place in the image with black pixels around it.

    **Arguments:**

    - `border`: how many of them above and below, and how many left and right; one number for both.
    """
    height, width = _both(border)
    places = 2 * jnp.asarray([height, width], jnp.int32) + 1
    corners = jr.randint(key, (len(images), 2), 0, places[None], jnp.int32)
    framed = jnp.pad(images, ((0, 0), (height, height), (width, width), (0, 0)))
    corners = jnp.pad(corners, ((0, 0), (0, 1)))  # the first colour
    cut = lambda image, corner: jax.lax.dynamic_slice(image, corner, images.shape[1:])
    return jax.vmap(cut)(
        framed, corners
    )  # measured: faster than shift matrices and than chains of selects


def random_flip(key: PRNGKey, images: Bytes, probability: float) -> Bytes:
    """Each image mirrored left to right with that probability."""
    flipped = jr.bernoulli(key, probability, (len(images),))
    columns = jnp.arange(images.shape[2])
    columns = jnp.where(flipped[:, None], columns[::-1][None], columns[None])
    return jax.vmap(lambda image, columns: image[:, columns])(
        images, columns
    )  # 15 times faster than `rev` on a CPU


def _rand_augment_batch(
    config: RandAugment, key: PRNGKey, images: Bytes, mean: PerColour
) -> Images:
    fill = jnp.round(255.0 * jnp.asarray(mean, jnp.float32))
    one = lambda key, image: rand_augment(config, key, image, fill)
    return jax.vmap(one)(jr.split(key, len(images)), images.astype(jnp.float32))


def mix(
    key: PRNGKey, images: Images, targets: Targets, mixup: float, cutmix: float
) -> tuple[Images, Targets]:
    r"""Each image mixed with its partner in the reversed batch, and the targets in the same
    proportion.

    $$x_i \leftarrow w\,x_i + (1-w)\,x_{n-1-i},\qquad y_i \leftarrow \bar w\,y_i + (1-\bar w)\,y_{n-1-i}$$

    with one weight $w$ per pixel for the whole batch and $\bar w$ its mean: constant for Mixup, 0
    in a box and 1 outside for CutMix, so that a target has exactly the share of the pixels that its
    image has.

    **Arguments:**

    - `mixup`, `cutmix`: the two $\alpha$; where both are positive, each batch draws one of the two.

    **Source:** arXiv 1710.09412 and 1905.04899; `timm/data/mixup.py`, mode "batch".
    """  # noqa: E501
    share_key, box_key, switch_key = jr.split(key, 3)
    if mixup and cutmix:
        cut = jr.bernoulli(switch_key, CUTMIX_SHARE)
    else:
        cut = jnp.asarray(cutmix > 0)
    alpha = jnp.where(cut, cutmix, mixup).astype(jnp.float32)
    kept = jr.beta(share_key, alpha, alpha, dtype=jnp.float32)
    weight = jnp.full(images.shape[1:3], kept)
    if cutmix:
        box = _cutmix_box(box_key, 1.0 - kept, *images.shape[1:3])
        weight = jnp.where(cut, (~box).astype(jnp.float32), weight)
    share = weight.mean()
    weight = weight[None, :, :, None]
    partner = jnp.arange(len(images))[::-1]
    mixed = weight * images + (1.0 - weight) * images[partner]
    return mixed, share * targets + (1.0 - share) * targets[partner]


def _cutmix_box(
    key: PRNGKey, area: Scalar, height: int, width: int
) -> Bool[Array, "{height} {width}"]:
    """True in a box that would cover that share of the image if the border did not cut it."""
    row, column = jr.uniform(key, (2,), jnp.float32)
    return (
        _around(row, jnp.sqrt(area), height)[:, None] & _around(column, jnp.sqrt(area), width)[None]
    )


def _around(place: Scalar, share: Scalar, size: int) -> Bool[Array, " {size}"]:
    """True on about `share` of `size` pixels about a centre that `place` in [0, 1) chooses."""
    centre = jnp.floor(place * size)
    half = jnp.floor(jnp.floor(share * size) / 2)
    position = jnp.arange(size, dtype=jnp.float32)
    return (position >= centre - half) & (position < centre + half)


def random_erase(key: PRNGKey, images: Images, probability: float) -> Images:
    """Each normalised image, with that probability, with a box of unit Gaussian noise.

    The box covers 2 to 33 % of the image and is between 0.3 and 3.3 times as high as it is wide.

    **Source:** arXiv 1708.04896; `timm/data/random_erasing.py`, mode "pixel".
    """
    box_key, noise_key = jr.split(key)
    draws = jr.uniform(box_key, (len(images), 2 * ERASE_ATTEMPTS + 3), jnp.float32)
    boxes = jax.vmap(lambda draws: _erased_box(draws[:-1], *images.shape[1:3]))(draws)
    erased = boxes & (draws[:, -1] < probability)[:, None, None]
    return jnp.where(erased[..., None], jr.normal(noise_key, images.shape, jnp.float32), images)


def _erased_box(
    draws: Float[Array, " draws"], height: int, width: int
) -> Bool[Array, "{height} {width}"]:
    """True in the first of ten random boxes that is smaller than the image in both directions."""
    top, left, *shape = jnp.split(draws, [1, 2, 2 + ERASE_ATTEMPTS])
    area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * shape[0])
    aspect = jnp.exp(math.log(ERASED_ASPECT) * (2.0 * shape[1] - 1.0))
    rows = jnp.round(jnp.sqrt(area * aspect))
    columns = jnp.round(jnp.sqrt(area / aspect))
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    box = (
        _interval(top[0], rows[first], height)[:, None]
        & _interval(left[0], columns[first], width)[None]
    )
    return box & fits[first]


def _interval(place: Scalar, length: Scalar, size: int) -> Bool[Array, " {size}"]:
    """True on `length` of `size` pixels; `place` in [0, 1) says where, every position equally
    likely.
    """
    start = jnp.floor(place * (size - length + 1.0))
    position = jnp.arange(size, dtype=jnp.float32)
    return (position >= start) & (position < start + length)
