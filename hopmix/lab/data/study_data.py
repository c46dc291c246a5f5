"""Data sets in memory: uint8 images and labels, split into training, validation and test."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from hopmix.lab.config import GIVEN, StudyConfig, check_sides
from hopmix.lab.data.overview import Row, describe
from hopmix.lab.data.partition import (
    TEST_SEED,
    TEST_SHARE,
    Marks,
    cut,
    in_two_classes,
    keep_in_place,
    mark,
)
from hopmix.lab.data.sources.array_file import open_arrays
from hopmix.lab.data.sources.lost import Lost, collecting
from hopmix.lab.data.sources.names import exists, suggestion
from hopmix.lab.data.sources.room import require_room
from hopmix.lab.data.sources.source import Index, Labels, Like, Options, Part, Pixels, Size, Source
from hopmix.lab.errors import UsageError

PIXELS_AT_ONCE = 2**20
"""In counting grey levels, which takes eight bytes for each."""


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
    - `overview`: lines that the user sees before training: counts, classes, origins, and what is
      unusual.
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
    overview: tuple[str, ...] = ()

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


class _Chosen(NamedTuple):
    """Some rows of a part of a source."""

    part: Part
    index: Index

    @property
    def labels(self) -> Labels:
        return self.part.labels[self.index]

    def read(self, like: Like | None = None) -> Pixels:
        return self.part.rows.read(self.index, like)


class _Shared(NamedTuple):
    """How many images were left out, for they are in another split as well: of training, and of
    validation.
    """

    train: int
    validation: int


def load_for(config: StudyConfig, data: str | Mapping[str, Any] | None = None) -> Data:
    """The data of a study.

    **Arguments:**

    - `config`: of the study.
    - `data`: where they are now, or arrays; by default where the configuration says.

    **Raises:** `UsageError` for data that cannot be used.
    """
    return load(
        config.data if data is None else data,
        label_column=config.label_column,
        image_column=config.image_column,
        resize=config.resize,
        validation=config.validation,
        batch=config.batch,
    )


def load(
    data: str | Mapping[str, Any],
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    resize: int | Size | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    batch: int = 0,
) -> Data:
    """A data set by name, with everything about it checked that can be wrong.

    No image is in two splits. Where splits are cut here, equal images stay together; where the
    author's splits share images, they are left out of training, or out of validation where the test
    has them.

    The test split is decoded here once, so that a damaged image in it does not come to light at the
    very end, and forgotten again.

    **Arguments:**

    - `data`: `digits` (scikit-learn's); a .parquet, .tar (WebDataset), .npz or .csv file; a folder
      of parquet or tar files, of images (one subfolder per class, with or without `train` and
      `test` above them), or one that `save_to_disk` of `datasets` wrote; or `hub:owner/name`.
      Or arrays by the names that an .npz file has: `x_train`, `y_train`, `x_test`, `y_test`, or
      `images` and `labels`.
    - `label_column`, `image_column`: their names, where a table leaves a choice; a field of a
      column is COLUMN.FIELD.
    - `resize`: height and width that all images are brought to, or one number for both.
    - `validation`: share of the training images, in (0, 0.5], that is held out, class by class.
    - `split_seed`: decides which; the test split does not depend on it.
    - `limit`: keep at most so many images for training and validation together, and as many for the
      test.
    - `batch`: how many images a training step will take, which must fit into memory too.

    **Raises:** `UsageError` for data that cannot be used.
    """
    if not 0 < validation <= 0.5:
        raise UsageError(
            f"validation = {validation} is outside (0, 0.5]; choose a share such as 0.1"
        )
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} is not positive; leave it out to use all images")
    if resize is not None:
        check_sides("resize", resize)
    size = (resize, resize) if isinstance(resize, int) else resize
    options = Options(image_column, label_column, size)
    if isinstance(data, Mapping):
        source = open_arrays(GIVEN, data, options)
        data = GIVEN
    else:
        source = _open(data, options)
    _check_classes(data, source)
    _check_room(source, size, limit, batch)
    with collecting() as lost:
        return _load(data, source, validation, split_seed, limit, lost)


def _load(
    data: str, source: Source, share: float, seed: int, limit: int | None, lost: Lost
) -> Data:
    # Equal images of what is cut here stay together, and only all of the pixels tell which are
    # equal.
    if limit is None:
        pool = source.train.rows.read(np.arange(len(source.train.labels)))
    else:
        pool = None
    marks = None if pool is None else mark(pool)
    train, held_out, test = _partition(source, share, seed, limit, marks)
    _check_counts(
        data, source, train, held_out, test, "" if limit is None else f" (limit = {limit})"
    )
    images = train.read() if pool is None else pool
    like = Like(images.shape[1:], train.part.rows.name(int(train.index[0])))
    held_images = _pixels(held_out, source.train, pool, like)
    test_images = _pixels(test, source.train, pool, like)
    marks = mark(images) if marks is None else marks[train.index]
    test_marks = mark(test_images)
    held_marks = mark(held_images)
    kept, kept_held, shared = _apart(marks, held_marks, test_marks)
    chosen = (train, held_out, test)
    twice = _told_twice(source.classes, chosen, np.concatenate([marks, held_marks, test_marks]))
    train_split = Split(
        keep_in_place(images, kept if pool is None else train.index[kept]), train.labels[kept]
    )
    validation_split = Split(held_images[kept_held], held_out.labels[kept_held])
    left = "".join(f" ({told})" for told in _told(shared))
    _check_counts(data, source, train_split, validation_split, test, left)
    digest = _digest(train_split, validation_split, Split(test_images, test.labels))
    mean, std = _statistics(train_split.images)
    rows = _rows(source, train_split.labels, validation_split.labels, test.labels, share, seed)
    notes = [*source.notes, *lost.notes(), *twice, *_told(shared)]
    return Data(
        name=source.name,
        provenance=_provenance(source, like.shape, rows, limit, shared),
        classes=source.classes,
        train=train_split,
        validation=validation_split,
        test=lambda: _unchanged(data, Split(test.read(like), test.labels), test_marks),
        test_size=len(test.index),
        mean=mean,
        std=std,
        digest=digest,
        overview=describe(source.name, like.shape, source.classes, rows, notes),
    )


def _unchanged(data: str, test: Split, marks: np.ndarray) -> Split:
    """The test split as it is read at the end, which must be the one that the digest is of."""
    if not np.array_equal(mark(test.images), marks):
        raise UsageError(
            f"data = {data!r}: its test images have changed since the study began; restore and "
            f"resume"
        )
    return test


def _open(data: str, options: Options) -> Source:
    if data == GIVEN:
        raise UsageError(
            "data: this study was begun in Python with arrays; go on with run_study(..., "
            "data=arrays, resume=True)."
        )
    if not data.isprintable():
        raise UsageError(
            f"data = {data!r} has characters that cannot be printed; rename it, or make a link "
            f"to it"
        )
    if data == "digits":
        from hopmix.lab.data.sources.digits import open_digits

        return open_digits(options)
    if data.startswith("hub:"):
        # `datasets` takes a second to import, and digits need it not.
        from hopmix.lab.data.sources.declared import open_hub

        return open_hub(data, options)
    if not data.strip() or not exists(data):
        raise UsageError(
            f"data = {data!r} is neither 'digits' nor a local folder or file nor "
            f"'hub:owner/name'{suggestion(data)}"
        )
    from hopmix.lab.data.sources.local import open_local

    return open_local(data, options)


def _partition(
    source: Source, validation: float, seed: int, limit: int | None, marks: Marks | None
) -> tuple[_Chosen, _Chosen, _Chosen]:
    """Training, validation and test rows: cut from the training rows where the source has none."""
    labels = source.train.labels
    pool = np.arange(len(labels))
    if source.test is None:
        pool, rows = cut(labels, pool, round(TEST_SHARE * len(pool)), TEST_SEED, marks)
        test = _limited(_Chosen(source.train, rows), limit)
    else:
        test = _limited(_Chosen(source.test, np.arange(len(source.test.labels))), limit)
    pool = _limited(_Chosen(source.train, pool), limit).index
    if source.validation is None:
        pool, rows = cut(labels, pool, round(validation * len(pool)), seed, marks)
        held_out = _Chosen(source.train, rows)
    else:
        held_out = _limited(
            _Chosen(source.validation, np.arange(len(source.validation.labels))), limit
        )
    return _Chosen(source.train, pool), held_out, test


def _limited(chosen: _Chosen, limit: int | None) -> _Chosen:
    return _Chosen(chosen.part, cut(chosen.part.labels, chosen.index, limit, TEST_SEED)[1])


def _pixels(chosen: _Chosen, train: Part, pool: Pixels | None, like: Like) -> Pixels:
    """The images of some rows, which those of training may be decoded for already."""
    if pool is None or chosen.part is not train:
        return chosen.read(like)
    return pool[chosen.index]


def _apart(train: Marks, held_out: Marks, test: Marks) -> tuple[Index, Index, _Shared]:
    """The rows of training and of validation whose images are in no later split, and how many
    are.
    """
    kept_held = np.flatnonzero(~np.isin(held_out, test))
    kept = np.flatnonzero(~np.isin(train, test) & ~np.isin(train, held_out))
    return kept, kept_held, _Shared(len(train) - len(kept), len(held_out) - len(kept_held))


def _told(shared: _Shared) -> list[str]:
    told = []
    if shared.train:
        told.append(
            f"{shared.train:,} training images, which validation or test have as well, are left out"
        )
    if shared.validation:
        told.append(
            f"{shared.validation:,} validation images, which the test has as well, are left out"
        )
    return told


def _told_twice(classes: Sequence[str], chosen: Sequence[_Chosen], marks: Marks) -> list[str]:
    """A note on images that are there under two labels, with two of them that are equal."""
    labels = np.concatenate([each.labels for each in chosen])
    rows = in_two_classes(marks, labels)
    if not len(rows):
        return []
    owner = np.repeat(np.arange(len(chosen)), [len(each.index) for each in chosen])
    index = np.concatenate([each.index for each in chosen])
    name = lambda row: chosen[int(owner[row])].part.rows.name(int(index[row]))
    other = next(row for row in rows if labels[row] != labels[rows[0]])
    pair = " and ".join(f"{name(row)} as {classes[int(labels[row])]!r}" for row in (rows[0], other))
    return [f"{len(rows):,} images are there in two classes, with the same pixels (first: {pair})"]


def _check_classes(data: str, source: Source):
    if len(source.classes) == 1:
        raise UsageError(
            f"data = {data!r} has one class only ({source.classes[0]!r}); at least two are "
            f"needed, each in a folder or "
            "with a label of its own"
        )


def _check_room(source: Source, size: Size | None, limit: int | None, batch: int):
    """Raise `UsageError` where all images, of that size or else that of the first one, cannot fit
    into memory.
    """
    parts = [part for part in (source.train, source.validation, source.test) if part is not None]
    count = sum(min(len(part.labels), limit or len(part.labels)) for part in parts)
    if size is not None:
        require_room(count, (*size, 1), batch)  # before the first one is made so large
    shape = source.train.rows.read(np.zeros(1, np.int64)).shape[1:]
    require_room(count, shape, batch)


def _check_counts(
    data: str,
    source: Source,
    train: _Chosen | Split,
    validation: _Chosen | Split,
    test: _Chosen | Split,
    why: str,
):
    """Raise `UsageError` where a class has no training images, or a split none at all."""
    classes = len(source.classes)
    counts = np.bincount(train.labels, minlength=classes)
    if not counts.all():
        raise UsageError(
            f"data = {data!r} leaves {counts.sum()} images of {np.count_nonzero(counts)} classes "
            f"for training, but has "
            f"{classes} classes ({source.classes[int(counts.argmin())]!r} has none left){why}; "
            f"use more images of each "
            f"class{source.label_cure}"
        )
    cures = {"validation": "a larger --validation", "test": "give a test split"}
    for (name, cure), split in zip(cures.items(), (validation, test)):
        if not len(split.labels):
            raise UsageError(
                f"data = {data!r} leaves no images for {name}{why}; use more images (equal ones "
                f"count once), or {cure}"
            )


def _statistics(
    images: Pixels,
) -> tuple[Float32[np.ndarray, " colours"], Float32[np.ndarray, " colours"]]:
    """Mean and standard deviation of each colour in 0..1, exact; a constant colour gets 1, to be
    divided by.
    """
    pixels = images.reshape(-1, images.shape[-1])
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(pixels), PIXELS_AT_ONCE):
        counts += _histogram(pixels[start : start + PIXELS_AT_ONCE])
    levels = np.arange(256) / 255
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt(np.sum(shares * (levels[None] - mean[:, None]) ** 2, axis=1))
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)


def _histogram(pixels: UInt8[np.ndarray, "n colours"]) -> np.ndarray:
    return np.stack([np.bincount(colour, minlength=256) for colour in pixels.T])


def _digest(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(str(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return digest.hexdigest()[:16]


def _rows(
    source: Source, train: Labels, validation: Labels, test: Labels, share: float, seed: int
) -> tuple[Row, Row, Row]:
    supplied = "as supplied"
    cut_test = f"{100 * TEST_SHARE:g} % of all images, seed {TEST_SEED}"
    cut_held = f"{100 * share:g} % of the training images, seed {seed}"
    return (
        Row("training", train, source.train.where),
        Row(
            "validation",
            validation,
            f"{supplied}, {source.validation.where}" if source.validation else cut_held,
        ),
        Row("test", test, f"{supplied}, {source.test.where}" if source.test else cut_test),
    )


def _provenance(
    source: Source,
    image: tuple[int, ...],
    rows: tuple[Row, Row, Row],
    limit: int | None,
    shared: _Shared,
) -> str:
    _, validation, test = rows
    sizes = "{:,} training, {:,} validation and {:,} test images".format(
        *(len(row.labels) for row in rows)
    )
    shape = " x ".join(str(length) for length in image)
    limited = "" if limit is None else f", limited to {limit:,}"
    told = "".join(f"; {each}" for each in _told(shared))
    splits = f"test: {test.origin}; validation: {validation.origin}{limited}{told}"
    return f"{sizes} of {shape} from {source.origin} ({splits})."
