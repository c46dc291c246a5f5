"""Data as people have them: arrays, lists of paths, saved tables, archives, and tables that declare
nothing.
"""

import io
import json
import tarfile

import datasets
import datasets.config
import numpy as np
import pandas as pd
import pytest
from lab.pictures import (
    all_images,
    check,
    encode,
    fails,
    noise,
    splits,
    table,
    told,
    write,
    write_parquet,
)

from hopmix.lab.data.study_data import load

LABELS = np.arange(20) % 2


pytestmark = pytest.mark.usefixtures("private_cache")


def same_images(data, expected):
    assert {image.tobytes() for image in all_images(data)} == {
        image.tobytes() for image in expected
    }


class TestArrays:
    def save(self, folder, **arrays):
        np.savez(folder / "a.npz", **arrays)
        return str(folder / "a.npz")

    def one(self, folder, images, labels=LABELS):
        return self.save(folder, images=images, labels=labels)

    def test_splits_by_name(self, folder):
        grey = noise((60, 6, 5))
        path = self.save(
            folder,
            X_train=grey[:20],
            Y_train=LABELS,
            x_val=grey[20:40],
            y_val=LABELS[:, None],
            x_test=grey[40:],
            y_test=LABELS,
        )
        data = load(path)
        check(data)
        np.testing.assert_array_equal(data.train.images[..., 0], grey[:20])
        np.testing.assert_array_equal(data.validation.images[..., 0], grey[20:40])
        np.testing.assert_array_equal(data.test().images[..., 0], grey[40:])
        assert data.test().labels.tolist() == LABELS.tolist()

    def test_one_collection_is_split(self, folder):
        images = noise((20, 6, 5, 3))
        data = load(self.one(folder, images, np.where(LABELS, "cat", "dog")))
        check(data)
        assert data.classes == ("cat", "dog")
        same_images(data, images)

    def test_colours_first_are_turned_and_told(self, folder):
        images = noise((20, 6, 5, 3))
        data = load(self.one(folder, np.moveaxis(images, 3, 1)))
        assert data.image_shape == (6, 5, 3)
        same_images(data, images)
        assert told(data, "colours x height x width")

    @pytest.mark.parametrize(
        "make, text",
        [
            (lambda x: (x / 255).astype(np.float32), "0..1"),
            (lambda x: x / 255, "0..1"),
            (lambda x: x.astype(np.float32), "0..255"),
            (lambda x: x.astype(np.int64), "0..255"),
        ],
    )
    def test_other_numbers_give_the_same_pixels_and_are_told(self, folder, make, text):
        images = noise((20, 6, 5))
        data = load(self.one(folder, make(images)))
        same_images(data, images)
        assert told(data, text)

    @pytest.mark.parametrize(
        "images, fragments",
        [
            (np.full((20, 6, 5), np.nan), ("'images'", "nan", "0..255")),
            (noise((20, 6, 5)) / 255 - 0.5, ("'images'", "-0.5", "0..255")),
            (noise((20, 6, 5)).astype(np.uint16) * 257, ("'images'", "0..255")),
            (noise((20, 30)), ("'images'", "(20, 30)", "height")),
            (noise((20, 6, 5, 2)), ("'images'", "(20, 6, 5, 2)", "3 colours")),
            (noise((0, 6, 5)), ("'images'", "(0, 6, 5", "no pixels")),
            (np.full((20, 6, 5), "x"), ("'images'", "no numbers")),
        ],
    )
    def test_what_is_no_image(self, folder, images, fragments):
        fails(self.one(folder, images), *fragments)

    @pytest.mark.parametrize(
        "labels, fragments",
        [
            (LABELS / 2, ("'labels'", "float64", "whole numbers")),
            (np.eye(2)[LABELS], ("'labels'", "(20, 2)", "one label")),
            (LABELS[:9], ("'labels'", "(9,)", "20 images")),
        ],
    )
    def test_what_is_no_label(self, folder, labels, fragments):
        fails(self.one(folder, noise((20, 6, 5)), labels), *fragments)

    def test_nothing_is_unpickled(self, folder):
        class Loud:
            def __reduce__(self):
                return (pytest.fail, ("it was unpickled",))

        loud = np.empty(20, object)
        loud[:] = [Loud() for _ in range(20)]
        fails(self.one(folder, noise((20, 6, 5)), loud), "objects", "never unpickled")

    def test_other_names_and_damaged_files(self, folder):
        fails(self.save(folder, a=noise((20, 6, 5))), "'a'", "x_train and y_train")
        fails(self.save(folder, x_test=noise((20, 6, 5)), y_test=LABELS), "'x_test'", "x_train")
        path = folder / "a.npz"
        path.write_bytes(path.read_bytes()[:300])
        fails(path, "a.npz", "numpy.savez")

    def test_the_splits_have_one_range_and_one_shape(self, folder):
        images = noise((40, 6, 5))
        train = {"x_train": images[:20] / 255, "y_train": LABELS}
        fails(
            self.save(folder, **train, x_test=images[20:] * 1.0, y_test=LABELS),
            "'x_test'",
            "0..1",
            "one range",
        )
        train["x_train"] = images[:20]
        fails(
            self.save(folder, **train, x_test=noise((20, 4, 5)), y_test=LABELS),
            "x_test",
            "4 x 5",
            "--resize",
        )

    def test_an_array_too_large_is_refused_by_its_header(self, folder, monkeypatch):
        path = self.one(folder, noise((20, 6, 5)))
        monkeypatch.setattr("hopmix.lab.data.sources.array_file.free_memory", lambda: 100)
        fails(path, "'images'", "(20, 6, 5)", "memory")


class TestPaths:
    def listed(self, folder, header, row, name="a.csv", **options):
        lines = [header]
        for number in range(20):
            path = f"pictures/[{number}].png"
            write(folder / path, noise((6, 5), number))
            split = "test" if number % 4 < 2 else "train"
            lines.append(
                row.format(path=path, row=number, kind=("cat", "dog")[number % 2], split=split)
            )
        (folder / name).write_text("\n".join(lines) + "\n", **options)
        return str(folder / name)

    @pytest.mark.parametrize(
        "header, row",
        [
            ("path,label", "{path},{kind}"),
            ("class;file", "{kind};{path}"),
            ("id\tx\tlabel", "{row}\t{path}\t{kind}"),
        ],
    )
    def test_paths_count_from_the_file(self, folder, header, row, monkeypatch):
        path = self.listed(folder, header, row, encoding="utf-8-sig")
        monkeypatch.chdir(folder.parent)
        data = load(path)
        check(data)
        assert data.classes == ("cat", "dog")
        same_images(data, [noise((6, 5), number) for number in range(20)])

    def test_a_column_of_splits(self, folder):
        data = load(
            self.listed(folder, "path,label,split", "{path},{kind},{split}"), validation=0.2
        )
        check(data)
        assert (len(data.train), len(data.validation), data.test_size) == (8, 2, 10)

    def test_a_column_called_split_that_holds_something_else_is_told(self, folder):
        data = load(self.listed(folder, "path,label,split", "{path},{kind},fold {row}"))
        assert told(data, "'fold 0'")

    def test_chosen_columns(self, folder):
        path = self.listed(folder, "id,a,b,kind", "{row},{path},{path},{kind}")
        fails(path, "'a', 'b'", "--image-column")
        fails(path, "'id'", "--label-column", image_column="a")
        assert load(path, image_column="b", label_column="kind").classes == ("cat", "dog")
        fails(path, "label_column = 'c'", "'id', 'a', 'b', 'kind'", label_column="c")

    @pytest.mark.parametrize(
        "header, row, fragments",
        [
            ("path,label", "no-{path},{kind}", ("no-pictures/[0].png", "folder of the file")),
            ("path,label", "{path}, ", ("line 2", "no label")),
            ("path,label", "{path}", ("line 2", "cells")),
            ("path", "{path}", ("no column of labels", "'path'")),
            ("pictures/[0].png,cat", "{path},{kind}", ("no header", "pictures/[0].png")),
        ],
    )
    def test_bad_lists(self, folder, header, row, fragments):
        fails(self.listed(folder, header, row), *fragments)

    def test_one_missing_file_is_named(self, folder):
        path = self.listed(folder, "path,label", "{path},{kind}")
        (folder / "pictures" / "[7].png").unlink()
        fails(path, "line 9", "pictures/[7].png", "no such file")

    @pytest.mark.parametrize(
        "content", [b"", b"path,label\n", bytes(300), b'path,label\n"a.png,cat\n']
    )
    def test_files_that_are_no_lists(self, folder, content):
        (folder / "a.csv").write_bytes(content)
        fails(folder / "a.csv", "a.csv")


class TestTables:
    """Parquet files as pandas and others write them."""

    def frame(self, folder, **columns):
        pd.DataFrame(columns).to_parquet(folder / "a.parquet")
        return str(folder / "a.parquet")

    def pictures(self):
        return [encode(noise((6, 5), row))["bytes"] for row in range(20)]

    def test_images_are_found_by_what_they_are(self, folder):
        expected = [noise((6, 5), row) for row in range(20)]
        same_images(load(self.frame(folder, photo=self.pictures(), label=LABELS)), expected)
        cells = [{"bytes": content, "path": None} for content in self.pictures()]
        same_images(load(self.frame(folder, photo=cells, label=LABELS)), expected)
        fails(self.frame(folder, photo=[b"no"] * 20, label=LABELS), "no image column", "as bytes")
        fails(
            self.frame(folder, photo=["x.png"] * 20, label=LABELS),
            "no image column",
            "of paths with --image-column",
        )

    def test_two_columns_of_images(self, folder):
        path = self.frame(folder, photo=self.pictures(), mask=self.pictures(), label=LABELS)
        fails(path, "'photo', 'mask'", "--image-column")
        check(load(path, image_column="mask"))

    def test_fields_of_columns(self, folder):
        pairs = [
            {"png": content, "kind": row % 2, "cls": row % 4}
            for row, content in enumerate(self.pictures())
        ]
        path = self.frame(folder, pair=pairs)
        assert load(path).classes == ("0", "1", "2", "3")
        assert load(path, image_column="pair.png", label_column="pair.kind").classes == ("0", "1")
        fails(path, "image_column = 'pair.jpg'", "'pair.png'", image_column="pair.jpg")

    def test_categories(self, folder):
        path = self.frame(
            folder, photo=self.pictures(), label=pd.Categorical(np.where(LABELS, "cat", "dog"))
        )
        assert load(path).classes == ("cat", "dog")

    def named(self, names, labels, seed=0):
        return table(labels, datasets.ClassLabel(names=names), seed=seed)

    def test_names_of_classes_in_another_order(self, folder):
        write_parquet(folder / "train-0.parquet", self.named(["cat", "dog"], LABELS.tolist()))
        write_parquet(
            folder / "train-1.parquet", self.named(["dog", "cat"], LABELS.tolist(), seed=100)
        )
        write_parquet(
            folder / "test.parquet", self.named(["x", "dog", "cat"], [1, 1, 2, 2], seed=200)
        )
        data = load(str(folder))
        assert data.classes == ("cat", "dog")
        assert data.test().labels.tolist() == [1, 1, 0, 0]
        expected = {noise((6, 5), row).tobytes(): row % 2 for row in range(20)}
        expected |= {noise((6, 5), 100 + row).tobytes(): 1 - row % 2 for row in range(20)}
        for split in (data.train, data.validation):
            assert [expected[image.tobytes()] for image in split.images] == split.labels.tolist()

    def test_names_and_numbers_are_never_taken_for_each_other(self, folder):
        write_parquet(folder / "train.parquet", self.named(["cat", "dog"], LABELS.tolist()))
        write_parquet(folder / "test.parquet", table(LABELS.tolist(), seed=100))
        fails(folder, "names", "numbers", "test.parquet")

    def test_labels_beyond_their_names(self, folder):
        rows = table([0, 1, 7, 1] * 5)
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        )
        rows = datasets.Dataset(
            rows.data.cast(features.arrow_schema), info=datasets.DatasetInfo(features=features)
        )
        fails(write_parquet(folder / "a.parquet", rows), "row 2 of train", "label 7", "0 to 1")

    def test_words_in_the_names_of_files_decide_nothing(self, folder):
        for seed, name in ((0, "crash-test"), (100, "road"), (200, "[train]*")):
            write_parquet(folder / f"{name}.parquet", table(LABELS.tolist(), seed=seed))
        data = load(str(folder))
        assert "test: 20 % of all images" in data.provenance
        assert len(all_images(data)) == 60

    def test_a_split_without_rows(self, folder):
        write_parquet(folder / "train.parquet", table(LABELS.tolist()))
        write_parquet(folder / "test.parquet", table([]))
        fails(folder, "no rows", "test split", "test.parquet")


class TestSaved:
    def test_a_table(self, folder):
        table(LABELS.tolist()).save_to_disk(str(folder / "[saved]"))
        data = load(str(folder / "[saved]"))
        check(data)
        same_images(data, [noise((6, 5), row) for row in range(20)])

    def test_splits(self, folder):
        more = {"test": table(LABELS.tolist(), seed=50), "extra": table([0, 1], seed=90)}
        splits(train=table(LABELS.tolist()), **more).save_to_disk(str(folder / "saved"))
        data = load(str(folder / "saved"))
        assert (len(data.train), data.test_size) == (18, 20)
        assert told(data, "'extra'")

    def test_a_damaged_one(self, folder):
        table(LABELS.tolist()).save_to_disk(str(folder / "saved"))
        (folder / "saved" / "state.json").write_text("{")
        fails(folder / "saved", "cannot be loaded", "check its files")


class TestArchives:
    def archive(self, path, label="cls", seed=0, **more):
        with tarfile.open(path, "w") as file:
            for row in range(20):
                written = {"cls": str(row % 2), "json": json.dumps({"label": row % 2})}[label]
                members = {
                    "png": encode(noise((6, 5), seed + row))["bytes"],
                    label: written.encode(),
                    **more,
                }
                for suffix, content in members.items():
                    entry = tarfile.TarInfo(f"{row:03}.{suffix}")
                    entry.size = len(content)
                    file.addfile(entry, io.BytesIO(content))
        return str(path)

    @pytest.mark.parametrize("label", ["cls", "json"])
    def test_labels(self, folder, label):
        data = load(self.archive(folder / "[a].tar", label))
        check(data)
        assert data.classes == ("0", "1")
        same_images(data, [noise((6, 5), row) for row in range(20)])

    def test_parts_of_splits(self, folder):
        for seed, name in ((0, "train-000"), (100, "train-001"), (200, "test-000")):
            self.archive(folder / f"{name}.tar", seed=seed)
        data = load(str(folder))
        assert (len(data.train), len(data.validation), data.test_size) == (36, 4, 20)

    def test_pickles_are_refused(self, folder):
        fails(self.archive(folder / "a.tar", pth=b"?"), "000.pth", "a pickle")

    def test_damaged_ones(self, folder):
        path = self.archive(folder / "a.tar")
        (folder / "b.tar").write_bytes((folder / "a.tar").read_bytes()[:700])
        (folder / "c.tar").write_bytes(b"")
        for broken in ("b.tar", "c.tar"):
            fails(folder / broken, broken, "cannot be loaded")
        with tarfile.open(folder / "d.tar", "w"):
            pass
        fails(folder / "d.tar", "d.tar holds nothing")
        assert load(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.npy", "a.txt", "a"])
def test_other_files_are_refused_with_what_is_read(folder, name):
    (folder / name).write_bytes(b"something")
    fails(
        folder / name,
        "not read",
        "unpack" if name.endswith(("zip", "gz")) else ".parquet, .npz, .csv or .tar",
    )


def test_two_kinds_in_one_folder(folder):
    write_parquet(folder / "a.parquet", table(LABELS.tolist()))
    for kind in ("cat", "dog"):
        write(folder / kind / "0.png", noise((6, 5)))
    fails(folder, "1 .parquet files and 2 images", "one kind")


class TestPathsInTables:
    """They count from the folder of their table, wherever the program is run."""

    def pictures(self, folder, seed=0):
        for row in range(20):
            write(folder / "pictures" / f"{row}.png", noise((6, 5), seed + row))
        return [f"pictures/{row}.png" for row in range(20)]

    @pytest.mark.parametrize("cells", [False, True])
    @pytest.mark.parametrize("place", ["..", "."])
    def test_one_table(self, folder, monkeypatch, cells, place):
        paths = self.pictures(folder)
        column = [{"bytes": None, "path": path} for path in paths] if cells else paths
        pd.DataFrame({"photo": column, "label": LABELS}).to_parquet(folder / "a.parquet")
        monkeypatch.chdir(folder / place)
        data = load(str(folder / "a.parquet"), image_column="photo")
        check(data)
        same_images(data, [noise((6, 5), row) for row in range(20)])
        monkeypatch.chdir("/")
        data.test()

    def test_tables_in_several_folders(self, folder, monkeypatch):
        for seed, split in ((0, "train"), (100, "test")):
            paths = [f"../../{split}/{path}" for path in self.pictures(folder.parent / split, seed)]
            frame = pd.DataFrame({"photo": paths, "label": LABELS})
            (folder / split).mkdir()
            frame.to_parquet(folder / split / "0.parquet")
        monkeypatch.chdir(folder.parent)
        data = load("pets", image_column="photo")
        same_images(data, [noise((6, 5), seed + row) for seed in (0, 100) for row in range(20)])

    def test_paths_and_contents_in_one_table(self, folder, monkeypatch):
        cells = [{"bytes": None, "path": path} for path in self.pictures(folder)]
        cells[3] = {"bytes": encode(noise((6, 5), 300))["bytes"], "path": "elsewhere/3.png"}
        pd.DataFrame({"photo": cells, "label": LABELS}).to_parquet(folder / "a.parquet")
        monkeypatch.chdir(folder.parent)
        expected = [noise((6, 5), 300 if row == 3 else row) for row in range(20)]
        same_images(load(str(folder / "a.parquet"), image_column="photo"), expected)

    def test_one_that_is_missing_is_named(self, folder):
        pd.DataFrame({"photo": self.pictures(folder), "label": LABELS}).to_parquet(
            folder / "a.parquet"
        )
        (folder / "pictures" / "7.png").unlink()
        fails(folder / "a.parquet", "pets/pictures/7.png", "No such file", image_column="photo")

    def test_a_saved_table(self, folder, monkeypatch):
        rows = datasets.Dataset.from_dict(
            {"photo": self.pictures(folder / "saved"), "label": LABELS}
        )
        rows.save_to_disk(str(folder / "saved"))
        monkeypatch.chdir(folder.parent)
        same_images(
            load(str(folder / "saved"), image_column="photo"),
            [noise((6, 5), row) for row in range(20)],
        )
