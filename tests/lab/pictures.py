"""Pictures and tables of them, and what holds for every data set that is loaded."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from hopmix.lab.data.study_data import Data, load
from hopmix.lab.errors import UsageError


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(path, pixels, mode=None):
    """A PNG, whatever folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def write_classes(folder, count=10, shape=(6, 5, 3), classes=("cat", "dog"), seed=0):
    """`count` pictures of each class, all different, and others for other seeds a hundred apart."""
    for number, name in enumerate(classes):
        for row in range(count):
            write(folder / name / f"{row}.png", noise(shape, 1000 * number + seed + row))


def encode(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(labels, feature=None, shape=(6, 5), seed=0, **columns):
    """A table of random pictures in the column `image`."""
    features = {"image": datasets.Image(), "label": feature or datasets.Value("int64")}
    features |= {name: datasets.Value("int64") for name in columns}
    images = [encode(noise(shape, seed + row)) for row in range(len(labels))]
    return datasets.Dataset.from_dict(
        {"image": images, "label": labels, **columns}, features=datasets.Features(features)
    )


def splits(**tables):
    result = datasets.DatasetDict()
    result.update(tables)
    return result


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path)
    return str(path)


def fails(data, *fragments, **arguments):
    """Loading raises one line that contains all fragments."""
    with pytest.raises(UsageError) as caught:
        load(str(data), **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def all_images(data: Data):
    return np.concatenate([data.train.images, data.validation.images, data.test().images])


def told(data: Data, text: str):
    """The lines of the overview that hold a text."""
    return [line for line in data.overview if text in line]


def rows_of(split):
    return {image.tobytes() + bytes([label]) for image, label in zip(split.images, split.labels)}


def check(data: Data):
    """What holds for every data set."""
    test = data.test()
    for split in (data.train, data.validation, test):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), *data.image_shape)
        assert split.labels.dtype == np.int32
        assert set(split.labels) <= set(range(len(data.classes)))
    assert set(data.train.labels) == set(range(len(data.classes)))
    assert len(test) == data.test_size
    pixels = data.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-5)
