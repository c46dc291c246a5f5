"""Classification: images and their classes, mixed and augmented in training."""

from typing import ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from hopmix._numerics.dtypes import cast
from hopmix._types import PRNGKey, Scalar
from hopmix.lab.config import StudyConfig
from hopmix.lab.data.augment import Augment, augment, normalise
from hopmix.lab.data.study_data import Data, Split
from hopmix.lab.tasks.task import AbstractTask, Loss
from hopmix.models._interface import apply_batch
from hopmix.symmetry.quantities import LEARNING, Quantity

EVALUATION_BATCH = 500
"""Images that are scored at a time, which bounds the memory."""

Batch: TypeAlias = tuple[Float[Array, "batch height width colours"], Float[Array, "batch classes"]]
"""The images and the targets of a step."""


class Images(eqx.Module):
    """A split on the device: pixels and labels."""

    pixels: UInt8[Array, "n height width colours"]
    labels: Int[Array, " n"]


class Dataset(eqx.Module):
    """What training reads: the train and validation splits, the number of classes, and the
    statistics of the pixels in units of 0 to 1."""

    train: Images
    validation: Images
    mean: Float[Array, " colours"]
    std: Float[Array, " colours"]
    classes: int = eqx.field(static=True)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and number of colours."""
        height, width, colours = self.train.pixels.shape[1:]
        return height, width, colours


class Classification(AbstractTask):
    """The class of an image, by cross-entropy.

    **Arguments:**

    - `augment`: what is done to the images and targets of a training batch.
    - `precision`: the dtype in which logits are computed, by default that of the weights.
    """

    augment: Augment = eqx.field(static=True)
    precision: str | None = eqx.field(static=True, default=None)

    headline: ClassVar[str] = "accuracy"
    quantities: ClassVar[tuple[Quantity, ...]] = LEARNING

    def batch(self, dataset: Dataset, key: PRNGKey, rows: Int[Array, " batch"]) -> Batch:
        """The augmented images and the targets of a step."""
        return augment(
            self.augment,
            key,
            dataset.train.pixels[rows],
            dataset.train.labels[rows],
            dataset.classes,
            dataset.mean,
            dataset.std,
        )

    def loss(self, model, batch: Batch, key: PRNGKey | None = None) -> Loss:
        """The mean cross-entropy with the (smoothed, mixed) targets, and the accuracy."""
        images, targets = batch
        logits = self.logits(model, images, key).astype(targets.dtype)
        hits = (jnp.argmax(logits, -1) == jnp.argmax(targets, -1)).astype(targets.dtype)
        return Loss(optax.softmax_cross_entropy(logits, targets).mean(), model, hits.mean())

    def logits(
        self,
        model,
        images: Float[Array, "batch height width colours"],
        key: PRNGKey | None = None,
    ) -> Float[Array, "batch classes"]:
        """The logits of a batch, computed in this task's precision."""
        if self.precision is not None:
            model, images = cast((model, images), self.precision)
        return apply_batch(model, images, key)

    def scores(self, model, split: Images, dataset: Dataset) -> dict[str, Scalar]:
        """Mean cross-entropy and accuracy on a split, a bounded number of images at a time; the
        accuracy of logits that are not finite is NaN.
        """
        model = eqx.nn.inference_mode(model)

        def one_batch(images: Images):
            pixels = normalise(images.pixels, dataset.mean, dataset.std)
            logits = self.logits(model, pixels).astype(jnp.float32)
            return _loss_and_hits(logits, images.labels)

        n = split.labels.size
        whole = n - n % EVALUATION_BATCH
        folded = jax.tree.map(
            lambda a: a[:whole].reshape(-1, EVALUATION_BATCH, *a.shape[1:]), split
        )
        totals = []
        if n > whole:
            totals.append(
                jax.tree.map(jnp.sum, one_batch(jax.tree.map(lambda a: a[whole:], split)))
            )
        if whole:
            totals.append(jax.tree.map(jnp.sum, jax.lax.map(one_batch, folded)))
        loss, hits = jax.tree.map(lambda *parts: sum(parts) / n, *totals)
        # The argmax of NaN is a class like any other.
        return {"loss": loss, "accuracy": jnp.where(jnp.isfinite(loss), hits, jnp.nan)}

    def inputs(self, dataset: Dataset, count: int) -> Float[Array, "batch height width colours"]:
        """So many validation images, evenly spaced: image folders are in the order of classes."""
        split = dataset.validation
        stride = max(1, split.labels.size // count)
        return normalise(split.pixels[::stride][:count], dataset.mean, dataset.std)


def _loss_and_hits(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Cross-entropy and correctness of each example."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)


def make_task(config: StudyConfig, image: tuple[int, int, int]) -> Classification:
    """What a study learns, on images of a shape."""
    return Classification(make_augment(config, image), config.precision)


def make_augment(config: StudyConfig, image: tuple[int, int, int]) -> Augment:
    """The augmentation that a study names, of images of a shape."""
    match config.augment:
        case "none":
            return Augment.none()
        case "light":
            return Augment.light(image)
        case "paper":
            return Augment.paper(image)


def make_dataset(data: Data) -> Dataset:
    """The train and validation splits of loaded data, on the device."""
    train = on_device(data.train)
    validation = on_device(data.validation)
    mean = jnp.asarray(data.mean, jnp.float32)
    std = jnp.asarray(data.std, jnp.float32)
    return Dataset(train, validation, mean, std, len(data.classes))


def on_device(split: Split) -> Images:
    """A split as arrays on the device; pixels stay uint8."""
    return Images(jnp.asarray(split.images), jnp.asarray(split.labels))


def on_host(images: Images) -> Split:
    """A split on the device as the host sees it; on a CPU that is no copy."""
    return Split(np.asarray(images.pixels), np.asarray(images.labels))
