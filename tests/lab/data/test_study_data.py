import socket
from typing import Any, cast

import datasets
import datasets.config
import numpy as np
import pytest
from lab.pictures import (
    check,
    encode,
    fails,
    noise,
    rows_of,
    splits,
    table,
    write,
    write_classes,
    write_parquet,
)
from PIL import Image
from sklearn.datasets import load_digits

from hopmix.lab.data.study_data import load
from hopmix.lab.runtime import hub

pytestmark = pytest.mark.usefixtures("private_cache")


class TestDigits:
    def test_splits(self):
        data = load("digits")
        check(data)
        assert data.image_shape == (8, 8, 1)
        assert data.classes == tuple("0123456789")
        assert (len(data.train), len(data.validation), data.test_size) == (1294, 144, 359)
        assert "load_digits" in data.provenance

    def test_every_digit_is_in_exactly_one_split(self):
        data = load("digits")
        splits = [rows_of(data.train), rows_of(data.validation), rows_of(data.test())]
        original = cast(Any, load_digits())
        images = np.rint(original.images / 16 * 255).astype(np.uint8)
        everything = {
            image.tobytes() + bytes([label]) for image, label in zip(images, original.target)
        }
        assert set.union(*splits) == everything
        assert sum(map(len, splits)) == len(everything) == 1797

    def test_every_split_has_the_class_shares_of_the_whole(self):
        data = load("digits")
        sizes = np.bincount(cast(Any, load_digits()).target)
        for split in (data.train, data.validation, data.test()):
            expected = sizes / sizes.sum() * len(split)
            assert np.abs(np.bincount(split.labels) - expected).max() <= 1

    def test_split_seed_moves_validation_and_leaves_test(self):
        first = load("digits")
        same = load("digits")
        other = load("digits", split_seed=1)
        assert first.digest == same.digest != other.digest
        assert rows_of(first.validation) != rows_of(other.validation)
        assert rows_of(first.test()) == rows_of(other.test())

    def test_limit(self):
        data = load("digits", limit=200, validation=0.25)
        check(data)
        assert (len(data.train), len(data.validation), data.test_size) == (150, 50, 200)
        assert "limited to 200" in data.provenance

    def test_summary_is_what_a_study_records(self):
        data = load("digits")
        counts = {"image": [8, 8, 1], "classes": 10, "train": 1294, "validation": 144, "test": 359}
        text = {"name": "digits", "provenance": data.provenance, "digest": data.digest}
        assert data.summary() == counts | text


class TestFolder:
    def test_class_folders_are_split_in_three(self, folder):
        write_classes(folder)
        data = load(str(folder), validation=0.25)
        check(data)
        assert data.name == "pets"
        assert data.classes == ("cat", "dog")
        assert (len(data.train), len(data.validation), data.test_size) == (12, 4, 4)
        assert "test: 20 % of all images" in data.provenance
        for number in (0, 1):
            files = {noise((6, 5, 3), 1000 * number + row).tobytes() for row in range(10)}
            splits = (data.train, data.validation, data.test())
            images = np.concatenate([split.images[split.labels == number] for split in splits])
            assert {image.tobytes() for image in images} == files

    def test_test_folder_is_the_test_split(self, folder):
        write_classes(folder / "train")
        write_classes(folder / "test", count=3, seed=100)
        data = load(str(folder))
        check(data)
        assert (len(data.train), len(data.validation), data.test_size) == (18, 2, 6)
        assert "test: as supplied" in data.provenance
        np.testing.assert_array_equal(data.test().images[0], noise((6, 5, 3), 100))
        assert data.test().labels.tolist() == [0, 0, 0, 1, 1, 1]

    def test_validation_folder_is_the_validation_split(self, folder):
        for seed, split, count in ((0, "train", 10), (100, "validation", 4), (200, "test", 3)):
            write_classes(folder / split, count, seed=seed)
        data = load(str(folder))
        check(data)
        assert (len(data.train), len(data.validation), data.test_size) == (20, 8, 6)
        assert "validation: as supplied" in data.provenance

    def test_validation_folder_is_the_test_split_where_there_is_no_other(self, folder):
        write_classes(folder / "train")
        write_classes(folder / "validation", count=4, seed=100)
        data = load(str(folder))
        assert (len(data.train), len(data.validation), data.test_size) == (18, 2, 8)

    def test_needs_no_network(self, folder, monkeypatch):
        write_classes(folder)

        def refuse(*arguments):
            raise AssertionError("a local folder must not need the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        check(load(str(folder)))

    def test_changed_picture_changes_the_data(self, folder):
        write_classes(folder)
        before = load(str(folder))
        write(folder / "cat" / "0.png", noise((6, 5, 3), 77))
        assert load(str(folder)).digest != before.digest


class TestModes:
    def read(self, folder, *pictures):
        """The pixels of these pictures, whichever split they fell into."""
        write_classes(folder, shape=pictures[0].shape)
        for row, picture in enumerate(pictures):
            write(folder / "cat" / f"{row}.png", picture)
        data = load(str(folder))
        check(data)
        return [*data.train.images, *data.validation.images, *data.test().images], data

    def contains(self, images, expected):
        return any(np.array_equal(image, expected) for image in images)

    def test_grey(self, folder):
        images, data = self.read(folder, noise((6, 5)))
        assert data.image_shape == (6, 5, 1)
        assert self.contains(images, noise((6, 5, 1)))

    def test_coloured_picture_among_grey_ones_makes_all_coloured(self, folder):
        images, data = self.read(folder, noise((6, 5)), noise((6, 5, 3), 5))
        assert data.image_shape == (6, 5, 3)
        assert self.contains(images, np.repeat(noise((6, 5, 1)), 3, axis=2))
        assert self.contains(images, noise((6, 5, 3), 5))

    def test_grey_picture_among_coloured_ones(self, folder):
        images, _ = self.read(folder, noise((6, 5, 3)), noise((6, 5), 5))
        assert self.contains(images, np.repeat(noise((6, 5, 1), 5), 3, axis=2))

    def test_transparency_is_dropped(self, folder):
        images, _ = self.read(folder, noise((6, 5, 3)), noise((6, 5, 4), 5))
        assert self.contains(images, noise((6, 5, 4), 5)[..., :3])

    def test_palettes_are_looked_up(self, folder):
        write_classes(folder)
        palette = Image.fromarray(noise((6, 5, 3), 5)).convert("P")
        palette.info["transparency"] = bytes([0, 128, 255])
        palette.save(folder / "cat" / "0.png")
        data = load(str(folder))
        images = [*data.train.images, *data.validation.images, *data.test().images]
        assert self.contains(images, np.asarray(palette.convert("RGBA"))[..., :3])

    def test_sixteen_bits_keep_their_upper_half(self, folder):
        deep = np.random.default_rng(1).integers(0, 2**16, (6, 5)).astype(np.uint16)
        images, data = self.read(folder, noise((6, 5)), deep)
        assert data.image_shape == (6, 5, 1)
        assert self.contains(images, (deep // 256).astype(np.uint8)[..., None])

    def test_coloured_test_pictures_follow_grey_training_pictures(self, folder):
        write_classes(folder / "train", shape=(6, 5))
        write_classes(folder / "test", shape=(6, 5, 3))
        data = load(str(folder))
        check(data)
        assert data.image_shape == (6, 5, 1)


class TestTables:
    def test_single_parquet_file(self, folder):
        path = write_parquet(folder / "pictures.parquet", table([3, 8] * 10))
        data = load(path)
        check(data)
        assert data.name == "pictures"
        assert data.classes == ("3", "8")
        assert data.image_shape == (6, 5, 1)

    def test_folder_of_parquet_files(self, folder):
        names = datasets.ClassLabel(names=["cat", "dog", "never seen"])
        write_parquet(folder / "train.parquet", table([0, 1] * 10, names))
        write_parquet(folder / "test.parquet", table([1, 1, 0], names, seed=50))
        data = load(str(folder))
        check(data)
        assert data.classes == ("cat", "dog")
        assert data.test().labels.tolist() == [1, 1, 0]
        np.testing.assert_array_equal(data.test().images[1, ..., 0], noise((6, 5), 51))

    def test_words_as_labels(self, folder):
        path = write_parquet(folder / "a.parquet", table(["b", "a"] * 10, datasets.Value("string")))
        assert load(path).classes == ("a", "b")

    def test_declared_class_is_the_label(self, folder):
        rows = table([0, 1] * 10, datasets.ClassLabel(names=["x", "y"]), target=list(range(20)))
        path = write_parquet(folder / "a.parquet", rows.rename_column("label", "kind"))
        assert load(path).classes == ("x", "y")

    def test_label_column_is_chosen(self, folder):
        path = write_parquet(folder / "a.parquet", table([0] * 20, shade=[5, 6, 7, 8] * 5))
        assert load(path, label_column="shade").classes == ("5", "6", "7", "8")

    def test_image_column_of_plain_bytes_is_chosen(self, folder):
        content = [encode(noise((6, 5), row))["bytes"] for row in range(20)]
        rows = datasets.Dataset.from_dict({"png": content, "label": [0, 1] * 10})
        data = load(write_parquet(folder / "a.parquet", rows), image_column="png")
        check(data)
        assert data.image_shape == (6, 5, 1)

    def test_columns_that_are_not_read_may_differ(self, folder):
        write_parquet(folder / "train.parquet", table([0, 1] * 10))
        write_parquet(folder / "test.parquet", table([0, 1] * 5, shade=[1] * 10, seed=50))
        check(load(str(folder)))

    def test_fashion_mnist(self, shared):
        data = load(str(shared / "data" / "fashion_mnist"), limit=400)
        check(data)
        assert data.image_shape == (28, 28, 1)
        assert data.classes[-1] == "Ankle boot"
        assert np.bincount(data.test().labels).tolist() == [40] * 10


class TestHub:
    @pytest.fixture(autouse=True)
    def reached(self, monkeypatch):
        monkeypatch.setattr(hub, "_answers", lambda ask: True)

    def test_name_goes_to_the_hub(self, monkeypatch):
        asked = []

        def load_dataset(name):
            asked.append(name)
            return splits(train=table([0, 1] * 10), test=table([1, 0], seed=90))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        data = load("hub:owner/pictures")
        check(data)
        assert asked == ["owner/pictures"]
        assert data.name == "owner/pictures"
        assert "Hugging Face Hub data set owner/pictures" in data.provenance

    def test_unlabelled_test_split(self, monkeypatch):
        names = datasets.ClassLabel(names=["cat", "dog"])
        rows = splits(train=table([0, 1] * 10, names), test=table([-1, -1], names))
        monkeypatch.setattr(datasets, "load_dataset", lambda name: rows)
        fails("hub:owner/pictures", "row 0 of test has no label")

    def test_no_network(self, monkeypatch):
        def load_dataset(name):
            raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nafter five attempts")

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        fails(
            "hub:owner/pictures",
            "'hub:owner/pictures'",
            "Couldn't reach",
            "check the name and the network",
        )

    def test_out_of_reach_nothing_is_tried_but_the_cache(self, monkeypatch):
        seen = []

        def load_dataset(name):
            seen.append(datasets.config.HF_HUB_OFFLINE)
            raise ConnectionError("not in the cache")

        before = datasets.config.HF_HUB_OFFLINE
        monkeypatch.setattr(hub, "_answers", lambda ask: False)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        fails(
            "hub:owner/pictures",
            "out of reach and nothing of that name is in its cache",
            "check the network",
        )
        assert seen == [True]
        assert before == datasets.config.HF_HUB_OFFLINE

    def test_malformed_name(self):
        fails("hub:", "'hub:'", "hub:owner/name")
        fails("hub:a b", "'hub:a b'", "hub:owner/name")


class TestBadInput:
    @pytest.mark.parametrize("validation", [0.0, -0.1, 0.51, 1.0, float("nan")])
    def test_validation(self, validation):
        fails("digits", f"validation = {validation}", "(0, 0.5]", validation=validation)

    @pytest.mark.parametrize("limit", [0, -3])
    def test_limit(self, limit):
        fails("digits", f"limit = {limit}", limit=limit)

    def test_limit_below_the_number_of_classes(self):
        fails("digits", "has 10 classes", "limit = 9", limit=9)

    @pytest.mark.parametrize("data", ["digist", "Digits", "didgits"])
    def test_unknown_name(self, data):
        fails(data, f"data = {data!r}", "did you mean 'digits'?")

    def test_hub_name_without_its_prefix(self):
        fails("owner/pictures", "did you mean 'hub:owner/pictures'?")

    def test_missing_folder(self, folder):
        fails(folder / "none" / "at all", "'hub:owner/name'")
        fails(str(folder)[:-1], "did you mean", repr(str(folder)))
        fails("", "data = ''")

    def test_folder_without_images(self, folder):
        fails(folder, "without images")
        (folder / "notes.txt").write_text("nothing to see")
        fails(folder, "without images")

    def test_file_that_is_no_table(self, folder):
        fails(
            write(folder / "a.png", noise((6, 5))), "a.png", "a .parquet, .npz, .csv or .tar file"
        )

    def test_damaged_parquet(self, folder):
        path = folder / "a.parquet"
        path.write_bytes(b"PAR1 and no more")
        fails(path, "a.parquet", "cannot be loaded", "check its files")

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_undecodable_picture_is_named(self, folder, split):
        write_classes(folder / "train")
        write_classes(folder / "test")
        (folder / split / "cat" / "3.png").write_text("no picture")
        fails(folder, f"{split}/cat/3.png", "cannot be decoded")

    def test_truncated_picture_is_named(self, folder):
        write_classes(folder)
        path = folder / "dog" / "2.png"
        path.write_bytes(path.read_bytes()[:60])
        fails(folder, "dog/2.png", "cannot be decoded")

    def test_undecodable_row_is_named(self, folder):
        images: list[dict | None] = [encode(noise((6, 5), row)) for row in range(20)]
        images[7] = {"bytes": b"no picture", "path": "seven.png"}
        images[9] = None  # the first bad row is told
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        rows = datasets.Dataset.from_dict(
            {"image": images, "label": [0, 1] * 10}, features=features
        )
        fails(
            write_parquet(folder / "a.parquet", rows),
            "row 7 of train (seven.png)",
            "cannot be decoded",
        )

    def test_floating_point_pictures(self, folder):
        write_classes(folder)
        Image.fromarray(np.zeros((6, 5), np.float32)).save(folder / "cat" / "x.tiff")
        fails(folder, "x.tiff", "32 bits")

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_mixed_sizes_name_two_pictures(self, folder, split):
        write_classes(folder / "train")
        write_classes(folder / "test")
        write(folder / split / "dog" / "odd.png", noise((5, 6, 3)))
        fails(folder, "train/cat/", "6 x 5", f"{split}/dog/odd.png is 5 x 6")

    def test_pictures_without_class_folders(self, folder):
        for row in range(5):
            write(folder / f"{row}.png", noise((6, 5), row))
        fails(folder, "no labels", "folder of its own")

    def test_missing_columns_are_listed(self, folder):
        path = write_parquet(folder / "a.parquet", table([0, 1] * 10))
        fails(path, "label_column = 'kind'", "'image', 'label'", label_column="kind")
        fails(path, "image_column = 'photo'", "'image', 'label'", image_column="photo")

    def test_table_without_images(self, folder):
        path = write_parquet(
            folder / "a.parquet", datasets.Dataset.from_dict({"x": [1, 2], "label": [0, 1]})
        )
        fails(path, "no image column among 'x', 'label'", "give image files as bytes")
        fails(
            path, "image_column = 'x'", "no images", "give image files as bytes", image_column="x"
        )

    def test_two_image_columns(self, folder):
        rows = table([0, 1] * 10)
        rows = rows.add_column(
            "mask", rows.cast_column("image", datasets.Image(decode=False))["image"]
        )
        rows = rows.cast_column("mask", datasets.Image())
        fails(
            write_parquet(folder / "a.parquet", rows),
            "several image columns: 'image', 'mask'",
            "--image-column",
        )

    def test_fractional_labels(self, folder):
        path = write_parquet(
            folder / "a.parquet", table([0.5, 1.5] * 10, datasets.Value("float64"))
        )
        fails(path, "label_column = 'label'", "float64")

    def test_missing_label(self, folder):
        path = write_parquet(folder / "a.parquet", table([0, 1, None, 1] * 5))
        fails(path, "row 2 of train has no label")

    def test_label_that_only_the_test_split_has(self, folder):
        write_parquet(folder / "train.parquet", table([0, 1] * 10))
        write_parquet(folder / "test.parquet", table([0, 7], seed=50))
        fails(folder, "row 1 of test has the label 7", "never occurs in training")

    def test_one_class(self, folder):
        fails(write_parquet(folder / "a.parquet", table([4] * 20)), "one class only ('4')")

    def test_one_picture_per_class(self, folder):
        fails(
            write_parquet(folder / "a.parquet", table(list(range(20)))),
            "20 classes",
            "--label-column",
        )

    def test_too_few_for_a_validation_split(self, folder):
        write_parquet(folder / "train.parquet", table([0, 1, 0, 1]))
        write_parquet(folder / "test.parquet", table([0, 1, 0, 1]))
        fails(folder, "no images for validation", validation=0.1)
