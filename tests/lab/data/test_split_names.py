"""What names splits is used, or told: no test image of the author's is trained on without a
word.
"""

import io
import tarfile

import datasets
import pytest
from lab.pictures import check, encode, fails, noise, table, told, write, write_parquet

from hopmix.lab.data.study_data import load

pytestmark = pytest.mark.usefixtures("private_cache")

SPLITS = ["train", "train", "test", "train"] * 10


def listed(folder, header, row, splits=SPLITS, count=40):
    """A CSV file of 40 images; `row` gets {path}, {kind} and {split}."""
    lines = [header]
    for number in range(count):
        path = f"{number}.png"
        write(folder / path, noise((6, 5), number))
        lines.append(
            row.format(path=path, kind="cat" if number % 8 < 4 else "dog", split=splits[number])
        )
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "a.csv")


def sizes(data):
    check(data)
    return len(data.train) + len(data.validation), data.test_size


def with_column(name, values, seed=0):
    return table([row // 4 % 2 for row in range(len(values))], seed=seed).add_column(name, values)


@pytest.mark.parametrize(
    "header, row",
    [
        ("path,label,Split", "{path},{kind},{split}"),
        ("path, label, split", "{path}, {kind}, {split}"),
        (" SPLIT ;path;label", "{split} ; {path} ;{kind}"),
        ('"path", "label", "split"', '"{path}", "{kind}", "{split}"'),
    ],
)
def test_a_column_of_splits_in_other_writing(folder, header, row):
    assert sizes(load(listed(folder, header, row))) == (30, 10)


@pytest.mark.parametrize("name", ["set", "subset", "Partition"])
def test_a_column_of_another_name_is_told(folder, name):
    data = load(listed(folder, f"path,label,{name}", "{path},{kind},{split}"))
    assert sizes(data) == (32, 8)
    assert told(
        data,
        f"column {name!r} is not read, but names splits ('train', 'test'); to use them, call it "
        f"'split'",
    )


def test_a_column_that_names_splits_in_part_is_told(folder):
    splits = ["train", "test", "unlabelled", "train"] * 10
    data = load(listed(folder, "path,label,split", "{path},{kind},{split}", splits))
    assert told(data, "'unlabelled' beside 'train', 'test', which makes no split")


def test_a_column_of_one_split_other_than_train_is_told(folder):
    data = load(listed(folder, "path,label,split", "{path},{kind},{split}", ["test"] * 40))
    assert told(data, "'test', which makes no split")


@pytest.mark.parametrize(
    "header", ["path,label,label", "path,label, label", "path,split,label,Split"]
)
def test_repeated_headers_are_refused(folder, header):
    row = "{path},{kind},{kind}" if "split" not in header else "{path},{split},{kind},{split}"
    fails(listed(folder, header, row), "several columns called", "rename all but one")


def test_paths_in_folders_of_splits_are_told(folder):
    lines = ["path,label"]
    for number in range(40):
        path = f"{SPLITS[number]}/{number}.png"
        write(folder / path, noise((6, 5), number))
        lines.append(f"{path},{number // 4 % 2}")
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    assert told(
        load(str(folder / "a.csv")), "paths in the folders 'test', 'train' are read as one pool"
    )


@pytest.mark.parametrize("name", ["split", "Split"])
def test_a_column_of_splits_in_a_table(folder, name):
    data = load(write_parquet(folder / "a.parquet", with_column(name, SPLITS)))
    assert sizes(data) == (30, 10)
    assert told(data, "rows with the split test")
    assert not told(data, "not read")
    expected = {noise((6, 5), row).tobytes() for row, split in enumerate(SPLITS) if split == "test"}
    assert {image.tobytes() for image in data.test().images} == expected


def test_a_column_of_splits_in_several_tables(folder):
    for seed, name in ((0, "a"), (100, "b")):
        write_parquet(folder / f"{name}.parquet", with_column("split", SPLITS, seed))
    assert sizes(load(str(folder))) == (60, 20)


def test_a_declared_class_of_splits(folder):
    rows = with_column("split", [int(split == "test") for split in SPLITS])
    rows = rows.cast_column("split", datasets.ClassLabel(names=["train", "test"]))
    assert sizes(load(write_parquet(folder / "a.parquet", rows), label_column="label")) == (30, 10)


def test_a_column_of_splits_that_is_the_label(folder):
    data = load(
        write_parquet(folder / "a.parquet", with_column("split", SPLITS)), label_column="split"
    )
    assert data.classes == ("test", "train")


def test_columns_of_tables_that_name_splits_unused_are_told(folder):
    data = load(write_parquet(folder / "a.parquet", with_column("set", SPLITS)))
    assert told(data, "column 'set' is not read, but names splits")
    data = load(
        write_parquet(folder / "b.parquet", with_column("split", ["fold 1", "fold 2"] * 20))
    )
    assert told(data, "'fold 1'")
    write_parquet(folder / "c" / "train.parquet", with_column("split", SPLITS))
    write_parquet(folder / "c" / "test.parquet", with_column("split", SPLITS, 100))
    assert told(load(str(folder / "c")), "column 'split' is not read")


def test_files_that_name_splits_in_part_are_told(folder):
    for seed, name in enumerate(("train-a", "train-b", "test")):
        write_parquet(folder / f"{name}.parquet", table([0, 1] * 10, seed=100 * seed))
    data = load(str(folder))
    assert told(data, "files 'test', 'train-a', 'train-b' are read as one pool")


def test_files_that_name_no_other_split_are_not_told(folder):
    for seed, name in enumerate(("a", "b")):
        write_parquet(folder / f"{name}.parquet", table([0, 1] * 10, seed=100 * seed))
    assert not told(load(str(folder)), "pool")


@pytest.mark.parametrize("name, expected", [("a", True), ("train", True), ("b", False)])
def test_folders_in_an_archive(folder, name, expected):
    with tarfile.open(folder / f"{name}.tar", "w") as file:
        for row in range(20):
            place = ("train", "test")[row // 2 % 2] if expected else "pictures"
            for suffix, content in (
                ("png", encode(noise((6, 5), row))["bytes"]),
                ("cls", str(row % 2).encode()),
            ):
                entry = tarfile.TarInfo(f"{place}/{row:03}.{suffix}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    notes = told(
        load(str(folder / f"{name}.tar")),
        "folders in the archive 'train', 'test' are read as one pool",
    )
    assert bool(notes) == expected
