"""Splits that share no image."""

import numpy as np
import pytest
from lab.pictures import check, fails, noise, write, write_classes

from hopmix.lab.data import study_data
from hopmix.lab.data.partition import cut, keep_in_place, mark
from hopmix.lab.data.study_data import load


def by_hand(labels, index, count, seed):
    """The rows of each class in a random order, those of the lowest quantiles of their class."""
    order = np.random.default_rng(seed).permutation(index)
    places = {}
    for label in np.unique(labels):
        rows = [row for row in order if labels[row] == label]
        places |= {row: (rank + 0.5) / len(rows) for rank, row in enumerate(rows)}
    ranked = sorted(order, key=lambda row: places[row])
    return sorted(ranked[count:]), sorted(ranked[:count])


class TestCut:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_marks_that_all_differ_change_nothing(self, seed):
        labels = np.random.default_rng(seed).integers(0, 3, 200).astype(np.int32)
        index = np.sort(np.random.default_rng(seed + 10).permutation(200)[:150])
        marks = np.random.default_rng(seed).permutation(200).astype(np.uint64)
        for count in (0, 1, 37, 150):
            rest, taken = cut(labels, index, count, seed, marks)
            expected = by_hand(labels, index, count, seed)
            assert (rest.tolist(), taken.tolist()) == expected
            plain = cut(labels, index, count, seed)
            assert (plain[0].tolist(), plain[1].tolist()) == expected

    def test_equal_images_stay_together(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 4, 400).astype(np.int32)
        marks = rng.integers(0, 90, 400).astype(np.uint64)  # four or five of each
        rest, taken = cut(labels, np.arange(400), 80, 0, marks)
        assert not set(marks[rest]) & set(marks[taken])
        assert sorted([*rest, *taken]) == list(range(400))
        assert abs(len(taken) - 80) <= np.bincount(marks).max() / 2

    def test_proportions_are_kept(self):
        """Four copies of each of 500 images of two classes, one three times as large."""
        labels = np.repeat((np.arange(500) % 4 == 0).astype(np.int32), 4)
        marks = np.repeat(np.arange(500), 4).astype(np.uint64)
        order = np.random.default_rng(1).permutation(2000)
        _, taken = cut(labels[order], np.arange(2000), 400, 0, marks[order])
        shares = np.bincount(labels[order][taken]) / len(taken)
        assert len(taken) == 400
        assert abs(shares[1] - 0.25) < 0.1

    def test_one_pair_moves_one_image(self):
        labels = np.arange(300, dtype=np.int32) % 3
        marks = np.arange(300, dtype=np.uint64)
        _, before = cut(labels, np.arange(300), 60, 0, marks)
        inside = before[0]
        outside = next(row for row in range(inside + 1, 300) if row not in set(before))
        marks[outside] = marks[inside]
        _, after = cut(labels, np.arange(300), 60, 0, marks)
        assert {inside, outside} <= set(after)
        assert len(set(before) ^ set(after)) <= 2

    def test_nothing_is_cut_from_nothing(self):
        none = np.zeros(0, np.int64)
        rest, taken = cut(np.zeros(5, np.int32), none, 0, 0, np.zeros(5, np.uint64))
        assert len(rest) == len(taken) == 0


def test_marks_are_those_of_pixels():
    images = noise((6, 4, 3, 3))
    images[4] = images[1]
    marks = mark(images)
    assert marks.dtype == np.uint64
    assert len(set(marks)) == 5
    assert marks[4] == marks[1]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_rows_are_kept_in_place(step, monkeypatch):
    images = noise((50, 4, 3, 1))
    index = np.sort(np.random.default_rng(0).permutation(50)[:30])
    expected = images[index].copy()
    monkeypatch.setattr("hopmix.lab.data.partition.BYTES_AT_ONCE", step * 12)
    kept = keep_in_place(images, index)
    np.testing.assert_array_equal(kept, expected)
    assert kept.base is images


class TestLoaded:
    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "pets"

    def marks(self, data):
        return [set(mark(split.images)) for split in (data.train, data.validation, data.test())]

    def apart(self, data):
        train, validation, test = self.marks(data)
        assert not train & validation
        assert not train & test
        assert not validation & test

    @pytest.mark.parametrize("classes", [("cat", "dog"), ("blood test", "control", "urine-test")])
    def test_copies_in_one_collection(self, folder, classes):
        for copy in range(3):
            for number, kind in enumerate(classes):
                for row in range(20):
                    write(folder / kind / f"{copy}-{row}.png", noise((6, 5), 100 * number + row))
        data = load(str(folder))
        check(data)
        self.apart(data)
        sizes = [len(data.train), len(data.validation), data.test_size]
        assert sum(sizes) == 60 * len(classes)
        assert abs(sizes[2] - 12 * len(classes)) <= 3

    def test_an_image_of_two_classes_is_in_one_split(self, folder):
        write_classes(folder, count=20)
        for row in range(20):
            write(folder / "eel" / f"{row}.png", noise((6, 5, 3), row))  # those of cats
        self.apart(load(str(folder)))

    def test_what_supplied_splits_share_is_left_out_and_told(self, folder):
        write_classes(folder / "train", count=20)  # 0..19 of each class
        write_classes(folder / "val", count=10, seed=15)  # 15..24
        write_classes(folder / "test", count=10, seed=22)  # 22..31
        data = load(str(folder))
        check(data)
        self.apart(data)
        assert (len(data.train), len(data.validation), data.test_size) == (30, 14, 20)
        for place in (data.provenance, "\n".join(data.overview)):
            assert "10 training images" in place
            assert "6 validation images" in place

    def test_what_a_cut_validation_split_shares_with_the_test_is_left_out(self, folder):
        write_classes(folder / "train", count=40)
        write_classes(folder / "test", count=10, seed=30)
        data = load(str(folder), validation=0.5)
        self.apart(data)
        assert len(data.train) + len(data.validation) == 60

    @pytest.mark.parametrize("limit", [None, 30])
    def test_nothing_is_told_where_nothing_is_shared(self, folder, limit):
        write_classes(folder / "train", count=20)
        write_classes(folder / "test", count=10, seed=100)
        data = load(str(folder), limit=limit)
        self.apart(data)
        assert "left out" not in data.provenance

    def test_with_a_limit_shared_images_are_left_out_too(self, folder):
        write_classes(folder / "train", count=20)
        write_classes(folder / "test", count=20)
        write_classes(folder / "train", count=20, seed=100, classes=("eel", "fox"))
        for name in ("eel", "fox"):
            for row in range(20):
                path = folder / "train" / name / f"{row}.png"
                path.rename(folder / "train" / ("cat", "dog")[name == "fox"] / f"more {row}.png")
        self.apart(load(str(folder), limit=60))

    def test_a_class_of_which_nothing_is_left(self, folder):
        write_classes(folder / "train", count=10)
        write_classes(folder / "test", count=10, classes=("cat",))
        fails(folder, "'cat' has none left", "training images", "left out")

    def test_all_images_equal(self, folder):
        for row in range(12):
            write(folder / ("cat", "dog")[row % 2] / f"{row}.png", noise((6, 5)))
        fails(folder, "no images for", "equal ones count once")

    def test_digits_hold_no_two_equal_images(self):
        data = study_data.load("digits")
        assert sum(map(len, self.marks(data))) == 1797
