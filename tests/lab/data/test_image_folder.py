"""Splits and classes of folders: by the first level, where all of it are names of splits, and by
nothing else.
"""

import os

import numpy as np
import pytest
from lab.pictures import all_images, check, fails, noise, told, write, write_classes

from hopmix.lab.data.study_data import load
from hopmix.lab.errors import UsageError


def sizes(data):
    return len(data.train), len(data.validation), data.test_size


@pytest.mark.parametrize(
    "classes",
    [
        ("car", "plane", "train"),
        ("blood test", "control", "urine-test"),
        ("crash-test", "dev", "road"),
        ("test", "control"),
        ("[x]", "a*b", "c?d"),
    ],
)
def test_words_in_the_names_of_classes_decide_nothing(folder, classes):
    write_classes(folder, classes=classes)
    data = load(str(folder))
    check(data)
    assert data.classes == tuple(sorted(classes))
    assert len(all_images(data)) == 10 * len(classes)
    assert "test: 20 % of all images" in data.provenance


def test_words_in_the_names_of_files_decide_nothing(folder):
    names = (
        "train",
        "test_3",
        "photo of a dev",
        "x_validation_y",
        "eval",
        "img",
        "test tube",
        "val-2",
    )
    for number, kind in enumerate(("cat", "dog")):
        for row, name in enumerate(names):
            write(folder / kind / f"{name}.png", noise((6, 5), 100 * number + row))
    data = load(str(folder), validation=0.2)
    check(data)
    assert len(all_images(data)) == 16


@pytest.mark.parametrize(
    "names", [("train", "test"), ("TRAIN", "Test"), ("training", "eval"), ("train", "val")]
)
def test_every_folder_is_a_split(folder, names):
    for seed, name in ((0, names[0]), (500, names[1])):
        write_classes(folder / name, seed=seed)
    data = load(str(folder))
    check(data)
    assert data.classes == ("cat", "dog")
    assert sizes(data) == (18, 2, 20)
    assert {image.tobytes() for image in data.test().images} == {
        noise((6, 5, 3), 1000 * number + 500 + row).tobytes()
        for number in (0, 1)
        for row in range(10)
    }
    assert any(f"folder {names[1]}" in line for line in data.overview)


def test_classes_are_matched_by_name_and_not_by_their_place(folder):
    write_classes(folder / "train", classes=("cat", "dog", "eel"))
    write_classes(folder / "test", count=3, classes=("dog", "eel"), seed=500)
    data = load(str(folder))
    assert data.classes == ("cat", "dog", "eel")
    assert data.test().labels.tolist() == [1, 1, 1, 2, 2, 2]


def test_a_class_that_only_the_test_split_has(folder):
    write_classes(folder / "train")
    write_classes(folder / "test", classes=("cat", "bird"), seed=500)
    fails(folder, "test/bird/0.png", "'bird'", "never occurs in training", "'cat', 'dog'")


def test_letters_composed_in_two_ways_are_one_class(folder):
    write_classes(folder / "train", classes=("caf\u00e9", "bar"))
    write_classes(folder / "test", count=5, classes=("cafe\u0301", "bar"), seed=500)
    data = load(str(folder))
    assert np.bincount(data.test().labels).tolist() == [5, 5]


def test_what_lies_deeper_belongs_to_its_class(folder):
    for number, kind in enumerate(("cat", "dog")):
        for place, seed in ((".", 0), ("train", 100), ("test/2026", 200)):
            for row in range(4):
                write(
                    folder / kind / place / f"{row}.png", noise((6, 5), 1000 * number + seed + row)
                )
    data = load(str(folder), validation=0.2)
    check(data)
    assert data.classes == ("cat", "dog")
    assert len(all_images(data)) == 24


def test_what_lies_deeper_belongs_to_its_class_in_splits(folder):
    write_classes(folder / "train" / "cat", classes=("indoor", "test"))
    write_classes(folder / "train" / "dog", classes=("train", "outdoor"), seed=500)
    write_classes(folder / "test", seed=800)
    assert load(str(folder)).classes == ("cat", "dog")


def test_what_is_left_out_is_named(folder):
    write_classes(folder)
    write(folder / "logo.png", noise((6, 5, 3), 7))
    (folder / "metadata.csv").write_text("file_name,label\ncat/0.png,dog\n")
    data = load(str(folder))
    assert len(all_images(data)) == 20
    assert [
        line for line in told(data, "note:") if "1 of 21 images" in line and "'logo.png'" in line
    ]
    assert [line for line in told(data, "note:") if "metadata.csv" in line]


def test_a_split_name_among_classes_is_told(folder):
    write_classes(folder, classes=("train", "tram"))
    assert [
        line for line in told(load(str(folder)), "note:") if "'train'" in line and "classes" in line
    ]
    write_classes(folder.parent / "plain", classes=("train of thought", "tram"))
    assert not [
        line for line in told(load(str(folder.parent / "plain")), "note:") if "split" in line
    ]


def test_hidden_files_scripts_and_readmes_are_not_read(folder):
    write_classes(folder)
    for name in (".git/x.png", "__MACOSX/cat/._0.png", "cat/.hidden.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    (folder / "pets.py").write_text("raise SystemExit('ran')\n")
    (folder / "README.md").write_bytes(b"---\nconfigs: [\n\xff\n---\n")
    assert sum(sizes(load(str(folder)))) == 20


def test_links_are_followed_but_not_in_circles(folder):
    write_classes(folder, classes=("cat",))
    write_classes(folder.parent / "elsewhere", classes=("dog",), seed=500)
    (folder / "dog").symlink_to(folder.parent / "elsewhere" / "dog")
    (folder / "cat" / "again").symlink_to(folder)
    assert sum(sizes(load(str(folder)))) == 20


@pytest.mark.parametrize(
    "names, told",
    [
        (("test", "val"), ("'test', 'val'", "no 'train'")),
        (("train", "val", "dev"), ("'dev'", "'val'", "validation", "rename")),
        (("train", "TRAINING"), ("'TRAINING'", "'train'", "rename")),
    ],
)
def test_splits_that_are_not_clear(folder, names, told):
    for number, name in enumerate(names):
        write_classes(folder / name, seed=100 * number)
    fails(folder, *told)


def test_splits_without_class_folders(folder):
    write_classes(folder, classes=("train", "test"))
    fails(folder, "no labels", "folder of its own")
    write_classes(folder.parent / "mixed" / "train")
    write_classes(folder.parent / "mixed", classes=("test",), seed=500)
    fails(folder.parent / "mixed", "'test'", "no class folder")


def test_labels_in_a_file_beside_are_pointed_at(folder):
    write_classes(folder, classes=(".",))
    (folder / "metadata.csv").write_text("file_name,label\n0.png,cat\n")
    fails(folder, "no labels", "'metadata.csv'")


@pytest.mark.parametrize("option", ["label_column", "image_column"])
def test_a_folder_has_no_columns(folder, option):
    write_classes(folder)
    fails(folder, f"{option}: got 'kind'", "leave it out", **{option: "kind"})


def test_names_that_are_no_text_are_shown_as_such(folder):
    write_classes(folder, classes=("\x1b[31mred", "b\u202elue"))
    data = load(str(folder))
    told = "\n".join(data.overview)
    assert "\\x1b[31mred" in told
    assert "\\u202e" in told
    assert "\x1b" not in told
    assert "\u202e" not in told


def test_a_folder_that_cannot_be_read_is_told_and_not_left_out(folder, monkeypatch):
    write_classes(folder, classes=("a", "b", "c"))
    scan = os.scandir

    def closed(place):
        if str(place).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    fails(str(folder), "Permission denied")


def test_a_test_split_that_changed_since_is_not_scored(folder):
    write_classes(folder, classes=("a", "b"))
    data = load(str(folder))
    for path in folder.rglob("*.png"):
        write(path, noise((6, 5), 7))
    with pytest.raises(UsageError, match="its test images have changed since the study began"):
        data.test()
