"""Data sets in memory: uint8 images and labels, split into training, validation and test."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from hopmix.lab.config import UsageError
from hopmix.lab.source import AbstractRows, Index, Labels, Like, Source, open_digits

TEST_SHARE = 0.2
"""What is cut from the training images where the source has no test split."""

TEST_SEED = 0
"""Fixed, so that the same images are never trained on, whatever the seed of the validation split."""


@dataclass(frozen=True)
class Split:
    """Images and the class of each, 0..classes-1."""

    images: UInt8[np.ndarray, "n height width colours"]
    labels: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set on the host.

    **Arguments:**

    - `provenance`: one sentence on where it comes from and how it was split.
    - `classes`: names of the classes, by label.
    - `mean`, `std`: of each colour of the training images, in units of the full range (0..1).
    - `test`: reads the test split; nothing before the results may call it.
    - `digest`: of the pixels and labels of all three splits.
    """

    name: str
    provenance: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Callable[[], Split]
    test_size: int
    mean: Float32[np.ndarray, " colours"]
    std: Float32[np.ndarray, " colours"]
    digest: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and colours."""
        height, width, colours = self.train.images.shape[1:]
        return height, width, colours

    def summary(self) -> dict[str, object]:
        """What `study.json` says about the data."""
        return {
            "name": self.name,
            "provenance": self.provenance,
            "image": list(self.image_shape),
            "classes": len(self.classes),
            "train": len(self.train),
            "validation": len(self.validation),
            "test": self.test_size,
            "digest": self.digest,
        }


class _Part(NamedTuple):
    """Some rows of a source."""

    rows: AbstractRows
    index: Index

    def read(self, like: Like | None = None) -> Split:
        return Split(self.rows.read(self.index, like), self.rows.labels[self.index])


def load(
    data: str,
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
) -> Data:
    """A data set by name, with everything about it checked that can be wrong.

    The test split is decoded here once, so that a damaged image in it does not come to light at the very end, and
    forgotten again.

    **Arguments:**

    - `data`: `digits` (scikit-learn's), the path of a parquet file or of a folder of parquet files or of images (one
      subfolder per class, with or without `train` and `test` above them), or `hub:owner/name`.
    - `label_column`, `image_column`: their names, where a table leaves a choice.
    - `validation`: share of the training images, in (0, 0.5], that is held out, class by class.
    - `split_seed`: decides which; the test split does not depend on it.
    - `limit`: keep at most so many images for training and validation together, and as many for the test.

    **Raises:** `UsageError` for data that cannot be used.
    """
    if not 0 < validation <= 0.5:
        raise UsageError(f"validation = {validation} is outside (0, 0.5]; choose a share such as 0.1")
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} is not positive; leave it out to use all images")
    source = _open(data, image_column, label_column)
    parts = _partition(source, validation, split_seed, limit)
    _check_counts(data, source, *parts)
    train = parts[0].read()
    like = Like(train.images.shape[1:], parts[0].rows.name(int(parts[0].index[0])))
    held_out = parts[1].read(like)
    mean, std = _statistics(train)
    return Data(
        name=source.name,
        provenance=_provenance(source, train, parts, validation, split_seed, limit),
        classes=source.classes,
        train=train,
        validation=held_out,
        test=lambda: parts[2].read(like),
        test_size=len(parts[2].index),
        mean=mean,
        std=std,
        digest=_digest(train, held_out, parts[2].read(like)),
    )


def _open(data: str, image_column: str | None, label_column: str | None) -> Source:
    if data == "digits":
        if label_column is not None:
            raise UsageError(f"label_column: got {label_column!r}, but digits is no table; leave it out.")
        return open_digits()
    from hopmix.lab import tables  # `datasets` takes a second to import, and digits need it not

    if data.startswith("hub:"):
        return tables.open_hub(data, image_column, label_column)
    if not data.strip() or not Path(data).expanduser().exists():
        raise UsageError(
            f"data = {data!r} is neither 'digits' nor a local folder or file nor 'hub:owner/name'{_suggestion(data)}"
        )
    return tables.open_local(data, image_column, label_column)


def _suggestion(data: str) -> str:
    """The nearest thing that exists."""
    path = Path(data).expanduser()
    siblings = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(data, ["digits", *siblings], n=1)
    if not close and not siblings and data.count("/") == 1:
        close = [f"hub:{data}"]
    return f"; did you mean {close[0]!r}?" if close else ""


def _partition(source: Source, validation: float, seed: int, limit: int | None) -> tuple[_Part, _Part, _Part]:
    """Training, validation and test rows: cut from the training rows where the source has none."""
    pool = np.arange(len(source.train.labels))
    if source.test is None:
        test_rows = source.train
        pool, test = _cut(source.train.labels, pool, round(TEST_SHARE * len(pool)), TEST_SEED)
    else:
        test_rows = source.test
        test = np.arange(len(test_rows.labels))
    test = _cut(test_rows.labels, test, limit, TEST_SEED)[1]
    pool = _cut(source.train.labels, pool, limit, TEST_SEED)[1]
    if source.validation is None:
        pool, held_out = _cut(source.train.labels, pool, round(validation * len(pool)), seed)
        return _Part(source.train, pool), _Part(source.train, held_out), _Part(test_rows, test)
    held_out = np.arange(len(source.validation.labels))
    held_out = _cut(source.validation.labels, held_out, limit, TEST_SEED)[1]
    return _Part(source.train, pool), _Part(source.validation, held_out), _Part(test_rows, test)


def _cut(
    labels: Labels, index: Index, count: int | None, seed: int
) -> tuple[Int[np.ndarray, " rest"], Int[np.ndarray, " cut"]]:
    """`count` rows (all for `None`) in the class proportions of the whole, and the rest before them.

    The rows of a class of size $n_c$ get the places $(r + 1/2)/n_c$ in a random order $r$; the lowest places are cut.
    """
    order = np.random.default_rng(seed).permutation(index)
    by_class = np.argsort(labels[order], kind="stable")
    sizes = np.unique(labels[order], return_counts=True)[1]
    places = np.empty(len(order))
    places[by_class] = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    ranked = order[np.argsort(places, kind="stable")]
    count = len(ranked) if count is None else count
    return np.sort(ranked[count:]), np.sort(ranked[:count])


def _check_counts(data: str, source: Source, train: _Part, validation: _Part, test: _Part) -> None:
    classes = len(source.classes)
    if classes < 2:
        raise UsageError(f"data = {data!r} has one class only ({source.classes[0]!r}); at least two are needed")
    present = len(np.unique(train.rows.labels[train.index]))
    if present < classes:
        raise UsageError(
            f"data = {data!r} leaves {len(train.index)} images of {present} classes for training, but has {classes} "
            "classes; use more images per class, a larger limit, or another --label-column"
        )
    for name, part in (("validation", validation), ("test", test)):
        if not len(part.index):
            raise UsageError(f"data = {data!r} leaves no images for {name}; use more images or a larger share")


def _statistics(train: Split) -> tuple[Float32[np.ndarray, " colours"], Float32[np.ndarray, " colours"]]:
    """Mean and standard deviation of each colour in 0..1, exact; a constant colour gets 1, to be divided by."""
    chunks = np.array_split(train.images, max(1, len(train) // 1024))
    counts = np.sum([_histogram(images) for images in chunks], axis=0)
    levels = np.arange(256) / 255
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt(np.sum(shares * (levels[None] - mean[:, None]) ** 2, axis=1))
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)


def _histogram(images: UInt8[np.ndarray, "n height width colours"]) -> np.ndarray:
    return np.stack([np.bincount(images[..., colour].ravel(), minlength=256) for colour in range(images.shape[-1])])


def _digest(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(str(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return digest.hexdigest()[:16]


def _provenance(
    source: Source, train: Split, parts: tuple[_Part, _Part, _Part], share: float, seed: int, limit: int | None
) -> str:
    sizes = "{:,} training, {:,} validation and {:,} test images".format(*(len(part.index) for part in parts))
    shape = " x ".join(str(length) for length in train.images.shape[1:])
    validation = (
        f"{100 * share:g} % of the training images, seed {seed}" if source.validation is None else "as supplied"
    )
    test = f"{100 * TEST_SHARE:g} % of all images, seed {TEST_SEED}" if source.test is None else "as supplied"
    limited = "" if limit is None else f", limited to {limit:,}"
    return f"{sizes} of {shape} from {source.origin} (test: {test}; validation: {validation}{limited})."
