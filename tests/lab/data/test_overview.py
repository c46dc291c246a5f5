"""What is told of the data before training."""

import numpy as np
import pytest
from lab.pictures import write_classes
from lab.tiny import tiny_data

from hopmix.lab import cli
from hopmix.lab.config import StudyConfig
from hopmix.lab.data import study_data
from hopmix.lab.data.overview import Row, describe
from hopmix.lab.data.sources.words import escaped, list_names, short
from hopmix.lab.data.study_data import load, load_for
from hopmix.lab.study import dry_run, study


def rows(*counts):
    """Splits with so many images of each class."""
    names = ("training", "validation", "test")
    return [
        Row(name, np.repeat(np.arange(len(each)), each).astype(np.int32), f"where {name} is")
        for name, each in zip(names, counts)
    ]


def described(*counts, classes=("cat", "dog"), notes=()):
    return describe("pets", (6, 5, 3), classes, rows(*counts), notes)


def test_counts_classes_and_origins():
    head, train, validation, test = described((30, 30), (4, 5), (7, 7))
    assert "pets" in head
    assert "6 x 5 x 3" in head
    assert "2 classes: cat, dog" in head
    assert "60 images, 30 of each class: where training is" in train
    assert "9 images, 4 to 5 of a class: where validation is" in validation
    assert "14 images" in test


def test_fewer_than_five_test_images_of_a_class_are_told():
    assert not [line for line in described((9, 9), (2, 2), (5, 5)) if "note" in line]
    (note,) = [line for line in described((9, 9), (2, 2), (7, 4)) if "note" in line]
    assert "1 of 2 classes" in note
    assert "fewer than 5 test images (dog: 4)" in note


def test_many_classes_are_not_all_listed():
    names = tuple(f"class {number}" for number in range(300))
    head = described(*[[9] * 300] * 3, classes=names)[0]
    assert "300 classes: class 0," in head
    assert len(head) < 250


def test_names_are_cleaned():
    lines = described(
        (9, 9),
        (9, 9),
        (9, 9),
        classes=("\x1b]0;title\x07", "a" * 500),
        notes=["left out: '\u202e'"],
    )
    assert all(line.isprintable() for line in lines)
    assert len(lines[0]) < 200


@pytest.mark.parametrize(
    "text, expected",
    [
        ("plain Ünicode 猫", "plain Ünicode 猫"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable(text, expected):
    assert escaped(text) == expected


def test_short():
    assert short("x" * 400) == "x" * 39 + "…"
    assert list_names(range(20), 2) == "0, 1 and 18 more"


def test_a_dry_run_and_a_study_begin_with_it(tmp_path, monkeypatch, capsys, as_in_a_study):
    monkeypatch.setattr(dry_run, "estimate", lambda study: dry_run.Estimate(0.0, 0.0, 0))
    write_classes(tmp_path / "pets", shape=(8, 8))
    options = [
        *[
            "--arms",
            "free",
            "--seeds",
            "1",
            "--dim",
            "4",
            "--depth",
            "1",
            "--batch",
            "2",
            "--patch",
            "4",
            "8",
        ],
        "--data",
        str(tmp_path / "pets"),
    ]
    assert cli.run(["ablate", "--dry-run", *options]) == 0
    told = capsys.readouterr().out
    monkeypatch.setattr(study, "run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.run(["ablate", "--out", str(tmp_path / "run"), *options])
    for text in (told, capsys.readouterr().out):
        assert "2 classes: cat, dog" in text
        assert "2 of each class: 20 % of all images" in text
        assert "fewer than 5 test images" in text
        assert "only 2 tokens" in text


def test_the_data_of_a_study_are_loaded_with_all_of_its_options(monkeypatch):
    asked = []

    def told(data, **options):
        asked.append((data, options))
        return tiny_data()

    monkeypatch.setattr(study_data, "load", told)
    config = StudyConfig(
        data="a", label_column="b", image_column="c", resize=(4, 3), validation=0.3, batch=7
    )
    load_for(config)
    load_for(config, "elsewhere")
    options = {
        "label_column": "b",
        "image_column": "c",
        "resize": (4, 3),
        "validation": 0.3,
        "batch": 7,
    }
    assert asked == [("a", options), ("elsewhere", options)]


@pytest.mark.parametrize(
    "fields", [{"resize": (4, 3), "patch": (2, 1)}, {"resize": 4, "patch": 2}, {}]
)
def test_sizes_survive_json(fields):
    config = StudyConfig(**fields)
    assert StudyConfig.from_json(config.to_json()) == config


def test_digits():
    lines = load("digits").overview
    assert "10 classes" in lines[0]
    assert "1,294 images" in lines[1]
    assert not [line for line in lines if "note" in line]
