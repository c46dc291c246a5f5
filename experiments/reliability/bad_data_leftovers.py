"""Folders of which something is not read: refused where a split is lost, and otherwise loaded with
a note.
"""

from pathlib import Path

from bad_data_folders import Maker, classes, data, pets, picture

LEFTOVERS: dict[str, Maker] = {}


def _splits(place: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        classes(place / "pets" / name, "cat", "dog", seed=100 * number)
    return place / "pets"


def _put(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"something")
    return data(root)


def _link(root: Path, name: str, target: str) -> list[str]:
    (root / name).symlink_to(target)
    return data(root)


LEFTOVERS["loaded: a class of files that are no images"] = lambda place: _put(
    pets(place), "bird/0.heic", "bird/1.heic"
)
LEFTOVERS["loaded: a class of files without suffix"] = lambda place: _put(
    pets(place), "bird/0", "bird/1"
)
LEFTOVERS["loaded: a link to a class"] = lambda place: _link(pets(place), "bird", "cat")
LEFTOVERS["loaded: a link to a class before it"] = lambda place: _link(pets(place), "ape", "cat")
LEFTOVERS["refused: a test split of other files"] = lambda place: _put(
    _splits(place, "train"), "test/cat/0.heic"
)
LEFTOVERS["refused: a training split of other files"] = lambda place: _put(
    _splits(place, "test"), "train/cat/0.heic"
)
LEFTOVERS["refused: a validation split that is the test"] = lambda place: _link(
    _splits(place, "train", "test"), "val", "test"
)
LEFTOVERS["refused: a test split that is the training split"] = lambda place: _link(
    _splits(place, "train"), "test", "train"
)
LEFTOVERS["refused: a test split that leads nowhere"] = lambda place: _link(
    _splits(place, "train"), "test", "nowhere"
)


def _with_a_study(place: Path) -> list[str]:
    root = pets(place)
    picture(root / "runs" / "ablation" / "loss.png", 9, (60, 80))
    return _put(root, "runs/ablation/study.json", "runs/ablation/metrics.zarr/zarr.json")


LEFTOVERS["loaded: a study inside its data"] = _with_a_study
