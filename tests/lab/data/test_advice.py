"""What a message advises can be done."""

import numpy as np
import pandas as pd
import pytest
from lab.pictures import encode, fails, noise, told, write_classes

from hopmix.lab.data.study_data import load
from hopmix.lab.errors import UsageError

pytestmark = pytest.mark.usefixtures("private_cache")

HALF = np.arange(20) % 2


def message(data, **options):
    with pytest.raises(UsageError) as caught:
        load(str(data), **options)
    return str(caught.value)


def in_arrays(folder, train, test):
    arrays = {
        "x_train": noise((20, 6, 5)),
        "y_train": train,
        "x_test": noise((20, 6, 5), 1),
        "y_test": test,
    }
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def in_a_table(folder, **columns):
    pictures = [encode(noise((6, 5), row))["bytes"] for row in range(20)]
    pd.DataFrame({"photo": pictures, **columns}).to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def test_a_column_is_advised_only_where_there_are_columns(folder):
    path = in_arrays(folder, HALF, HALF + 1)
    assert "never occurs in training" in message(path)
    assert "--label-column" not in message(path)
    write_classes(folder / "p" / "train")
    write_classes(folder / "p" / "test", classes=("cat", "bird"), seed=500)
    assert "never occurs in training" in message(folder / "p")
    assert "--label-column" not in message(folder / "p")
    write_classes(folder / "q", count=1, classes="abcdefgh")
    assert "none left" in message(folder / "q")
    assert "--label-column" not in message(folder / "q")
    assert "--label-column" not in message("digits", limit=3)
    fails(in_a_table(folder, label=np.arange(20)), "20 classes", "--label-column")


@pytest.mark.parametrize("name", ["Class", "LABEL", "Target", " label"])
def test_names_of_labels_in_any_case(folder, name):
    assert load(str(in_a_table(folder, **{name: HALF, "other": HALF * 2}))).classes == ("0", "1")


def test_an_image_column_is_advised_where_another_may_hold_images(folder):
    path = in_a_table(folder, label=HALF, shade=HALF)
    fails(path, "image_column = 'shade'", "choose 'photo' with it", image_column="shade")
    fails(
        path,
        "both the image and the label",
        "another image with --image-column",
        image_column="label",
    )


def test_a_namesake_of_digits_is_told(folder, monkeypatch):
    write_classes(folder / "digits")
    monkeypatch.chdir(folder)
    assert told(load("digits"), "write --data ./digits")
    assert load("./digits").classes == ("cat", "dog")
    monkeypatch.chdir(folder.parent)
    assert not told(load("digits"), "note:")
