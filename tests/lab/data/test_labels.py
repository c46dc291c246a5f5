"""Labels that stand for none are refused, and those that look like others are told."""

import datasets
import numpy as np
import pandas as pd
import pytest
from lab.pictures import encode, fails, noise, table, told, write, write_classes, write_parquet

from hopmix.lab.data.study_data import load

pytestmark = pytest.mark.usefixtures("private_cache")

MISSING = ["", " ", "NaN", "nan", "None", "NULL"]


def in_arrays(folder, labels):
    np.savez(folder / "a.npz", images=noise((len(labels), 6, 5)), labels=np.asarray(labels))
    return str(folder / "a.npz")


def in_a_list(folder, labels):
    lines = ["path,label"]
    for row, label in enumerate(labels):
        write(folder / f"{row}.png", noise((6, 5), row))
        lines.append(f"{row}.png,{label}")
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "a.csv")


def in_a_table(folder, labels):
    images = [encode(noise((6, 5), row))["bytes"] for row in range(len(labels))]
    pd.DataFrame({"image": images, "label": labels}).to_parquet(folder / "a.parquet")
    return str(folder / "a.parquet")


KINDS = [(in_arrays, "row 2 of labels"), (in_a_list, "line 4"), (in_a_table, "row 2 of train")]


@pytest.mark.parametrize("make, row", KINDS)
@pytest.mark.parametrize("label", MISSING)
def test_text_that_stands_for_no_label(folder, make, row, label):
    fails(make(folder, ["cat", "dog", label, "cat"] * 5), f"{row} has no label", "remove such rows")


@pytest.mark.parametrize("make", [in_arrays, in_a_list, in_a_table])
def test_words_that_only_hold_such_a_word_are_labels(folder, make):
    assert load(make(folder, ["nano", "none of these"] * 10)).classes == ("nano", "none of these")


def test_names_of_folders_and_declared_names_are_labels(folder):
    write_classes(folder, classes=("None", "nan"))
    assert load(str(folder)).classes == ("None", "nan")
    rows = table([0, 1] * 10, datasets.ClassLabel(names=["none", "some"]))
    assert load(write_parquet(folder / "a" / "a.parquet", rows)).classes == ("none", "some")


@pytest.mark.parametrize("make", [in_arrays, in_a_list, in_a_table])
def test_minus_one_is_told(folder, make):
    assert told(load(make(folder, [0, 1, -1, 1] * 5)), "label -1 is a class of its own")
    assert not told(load(make(folder, [0, 1, 2, 1] * 5)), "-1")


@pytest.mark.parametrize("make", [in_arrays, in_a_table])
def test_labels_beyond_64_bits(folder, make):
    fails(
        make(folder, np.asarray([0, 2**64 - 1] * 10, np.uint64)), "18446744073709551615", "64 bits"
    )


@pytest.mark.parametrize("alike", [("01", "1"), ("Cat", "cat"), ("007", "7")])
def test_names_that_are_much_alike_are_told(folder, alike):
    data = load(in_a_list(folder, [*alike, "x", "y"] * 5))
    assert len(data.classes) == 4
    assert told(data, f"classes {alike[0]!r}, {alike[1]!r} are different ones")
    assert not told(load(in_a_list(folder, ["1", "10", "x", "y"] * 5)), "alike")
