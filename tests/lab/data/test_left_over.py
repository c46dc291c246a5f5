"""Nothing that lies in a folder of data is missed without a word."""

import pytest
from lab.pictures import all_images, fails, noise, table, told, write, write_classes, write_parquet

from hopmix.lab.data.study_data import load


def notes(folder):
    return told(load(str(folder)), "note:")


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"something")


def about(folder, text):
    return [note for note in notes(folder) if text in note]


@pytest.mark.parametrize(
    "suffix, kind", [(".heic", "2 .heic"), ("", "2 without suffix"), (".txt", "2 .txt")]
)
def test_a_class_whose_files_are_no_images_is_told(folder, suffix, kind):
    write_classes(folder)
    put(folder, f"bird/0{suffix}", f"bird/1{suffix}")
    (note,) = about(folder, "1 folder")
    assert f"'bird' ({kind})" in note
    (note,) = about(folder, "not read")
    assert kind in note
    assert f"'bird/0{suffix}'" in note


def test_single_files_in_a_class_are_told(folder):
    write_classes(folder)
    put(folder, "cat/a.heic", "cat/b.HEIC")
    assert not about(folder, "folder")
    assert about(folder, "2 .heic: 'cat/a.heic', 'cat/b.HEIC'")


def test_empty_folders_of_both_levels_are_told(folder):
    for seed, split in ((0, "train"), (500, "test")):
        write_classes(folder / split, seed=seed)
    (folder / "test" / "bird").mkdir()
    assert about(folder, "'test/bird' (empty)")
    write_classes(folder.parent / "flat")
    (folder.parent / "flat" / "fox" / "deep").mkdir(parents=True)
    assert about(folder.parent / "flat", "1 folder: 'fox' (empty)")


def test_what_tells_of_data_is_not_told(folder):
    write_classes(folder)
    put(
        folder,
        "README.md",
        "LICENSE",
        "cat/Thumbs.db",
        ".git/x",
        "__MACOSX/cat/._0.png",
        "__pycache__/a.pyc",
    )
    assert not [note for note in notes(folder) if "test images" not in note]


def test_a_link_to_a_class_is_told(folder):
    write_classes(folder, classes=("a", "b"))
    (folder / "c").symlink_to("a")
    (folder / "A").symlink_to("a")  # before it in the order of names
    assert load(str(folder)).classes == ("a", "b")
    assert about(folder, "not entered: 'A', 'c'")


def test_a_folder_is_read_where_it_lies_and_not_where_a_link_leads_to_it(folder):
    write_classes(folder, classes=("a", "b"))
    (folder / "a" / "more").symlink_to(folder / "b")
    assert load(str(folder)).classes == ("a", "b")
    assert about(folder, "not entered: 'a/more'")


@pytest.mark.parametrize("name, target", [("val", "test"), ("test", "train"), ("Dev", "nowhere")])
def test_a_split_that_is_a_link_to_another_or_to_nothing_is_refused(folder, name, target):
    write_classes(folder / "train", seed=500)
    if name != "test":
        write_classes(folder / "test")
    (folder / name).symlink_to(target)
    fails(folder, f"folder {name!r}", "name of a split", "rename or remove it")


@pytest.mark.parametrize("files, held", [((), "empty"), (("test/cat/0.heic",), "1 .heic")])
def test_a_test_split_without_images_is_not_cut_from_the_rest(folder, files, held):
    write_classes(folder / "train")
    (folder / "test").mkdir()
    put(folder, *files)
    fails(folder, "folder 'test'", f"({held})", "put images there")


def test_a_training_split_without_images(folder):
    write_classes(folder / "test")
    (folder / "train").mkdir()
    fails(folder, "folder 'train'", "(empty)")


def test_an_empty_folder_of_a_splits_name_among_classes_is_told(folder):
    write_classes(folder)
    (folder / "test").mkdir()
    assert about(folder, "'test' (empty)")


@pytest.mark.usefixtures("private_cache")
def test_folders_of_tables(folder):
    write_parquet(folder / "train" / "0.parquet", table([0, 1] * 10))
    put(folder, "test.arrow", "train/labels.txt")
    assert about(folder, "not read: 1 .arrow, 1 .txt")
    (folder / "test").mkdir()
    fails(folder, "folder 'test'", "(empty)")


def test_a_folder_of_other_files_says_what_it_holds(folder):
    put(folder, "a/0.heic", "b/0.heic")
    fails(folder, "without images", "2 .heic")


@pytest.mark.parametrize("beside", ["metrics.zarr", "checkpoints"])
def test_a_study_inside_its_data_folder_is_left_out(folder, beside):
    write_classes(folder)
    before = load(str(folder))
    study = folder / "runs" / "ablation"
    put(study, "study.json", f"{beside}/x")
    write(study / "figures" / "loss.png", noise((90, 70, 3)))
    after = load(str(folder))
    assert after.digest == before.digest
    assert len(all_images(after)) == 20
    assert about(folder, "'runs/ablation'")
    assert not about(folder, "nothing is read")


def test_a_file_called_study_alone_makes_no_study(folder):
    write_classes(folder)
    put(folder, "cat/study.json")
    assert len(all_images(load(str(folder)))) == 20
