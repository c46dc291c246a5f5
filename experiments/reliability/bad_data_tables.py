"""Bad and odd tables: parquet files, folders that `save_to_disk` wrote, and WebDataset archives."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from bad_data_folders import Maker, case, classes, data, pixels
from PIL import Image

TABLES: dict[str, Maker] = {}


def png(seed: int, shape: tuple[int, ...] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, shape)).save(buffer, "PNG")
    return buffer.getvalue()


def cells(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": png(seed + row), "path": None} for row in range(count)]


def table(labels: list[Any], kind: Any = None, seed: int = 0) -> datasets.Dataset:
    """A table with declared images."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": kind or datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(
        {"image": cells(len(labels), seed), "label": labels}, features=features
    )


def named(names: list[str], labels: list[int], seed: int = 0) -> datasets.Dataset:
    rows = table(labels, seed=seed)
    kind = datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset(
        rows.data.cast(features.arrow_schema), info=datasets.DatasetInfo(features=features)
    )


def parquet(place: Path, *more: str, **files: datasets.Dataset) -> list[str]:
    for name, rows in files.items():
        rows.to_parquet(str(place / f"{name.replace('_', '-')}.parquet"))
    return data(place, *more)


def frame(place: Path, columns: dict[str, list[Any]], *more: str) -> list[str]:
    """A file as pandas writes it, which declares no images."""
    pd.DataFrame(columns).to_parquet(place / "a.parquet")
    return data(place / "a.parquet", *more)


def plain(count: int = 24) -> list[bytes]:
    return [png(row) for row in range(count)]


HALF = [0, 1] * 12

# ---- Parquet: files ------------------------------------------------------------------------------


@case("refused: a damaged parquet file", TABLES)
def _(place):
    (place / "a.parquet").write_bytes(b"PAR1 and no more")
    return data(place / "a.parquet")


@case("refused: an empty parquet file", TABLES)
def _(place):
    (place / "a.parquet").write_bytes(b"")
    return data(place / "a.parquet")


@case("refused: a truncated parquet file", TABLES)
def _(place):
    parquet(place, a=table(HALF))
    path = place / "a.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    return data(path)


@case("refused: a parquet file with damaged pages", TABLES)
def _(place):
    parquet(place, a=table(HALF))
    path = place / "a.parquet"
    content = bytearray(path.read_bytes())
    content[50:1500] = bytes(1450)
    path.write_bytes(content)
    return data(path)


@case("refused: a folder called .parquet", TABLES)
def _(place):
    (place / "a.parquet").mkdir()
    return data(place / "a.parquet")


TABLES["loaded: a parquet file called [x]"] = lambda place: data(
    Path(parquet(place, **{"[x]*": table(HALF)})[1]) / "[x]*.parquet"
)
TABLES["loaded: words of splits in names of parquet files"] = lambda place: parquet(
    place, crash_test=table(HALF), road=table(HALF, seed=100), dev_set=table(HALF, seed=200)
)
TABLES["loaded: parts of splits"] = lambda place: parquet(
    place,
    train_00000_of_00002=table(HALF),
    train_00001_of_00002=table(HALF, seed=100),
    test_00000_of_00001=table(HALF, seed=200),
)
TABLES["refused: parquet files called test and val"] = lambda place: parquet(
    place, test=table(HALF), val=table(HALF, seed=100)
)
TABLES["refused: a test table without rows"] = lambda place: parquet(
    place, train=table(HALF), test=table([])
)
TABLES["refused: a training table without rows"] = lambda place: parquet(
    place, train=table([]), test=table(HALF)
)
TABLES["refused: a table without rows"] = lambda place: parquet(place, a=table([]))
TABLES["refused: a table of one row"] = lambda place: parquet(place, a=table([0]))
TABLES["refused: test and training tables are the same"] = lambda place: parquet(
    place, train=table(HALF), test=table(HALF)
)

# ---- Parquet: columns ----------------------------------------------------------------------------

TABLES["loaded: bytes, as pandas writes them"] = lambda place: frame(
    place, {"picture": plain(), "label": HALF}
)
TABLES["loaded: cells, as pandas writes them"] = lambda place: frame(
    place, {"picture": cells(24), "label": HALF}
)
TABLES["loaded: labels of pandas' categories"] = lambda place: frame(
    place, {"picture": plain(), "label": pd.Categorical(["cat", "dog"] * 12)}
)
TABLES["loaded: image and label in one column"] = lambda place: frame(
    place, {"pair": [{"png": cell, "cls": row % 2} for row, cell in enumerate(plain())]}
)
TABLES["loaded: fields that are named"] = lambda place: frame(
    place,
    {"pair": [{"png": cell, "mask": cell, "kind": row % 2} for row, cell in enumerate(plain())]},
    *("--image-column", "pair.png", "--label-column", "pair.kind"),
)
TABLES["refused: a field that is not there"] = lambda place: frame(
    place,
    {"pair": [{"png": cell, "cls": row % 2} for row, cell in enumerate(plain())]},
    "--image-column",
    "pair.jpg",
)
TABLES["refused: two columns of images"] = lambda place: frame(
    place, {"picture": plain(), "mask": plain(), "label": HALF}
)
TABLES["loaded: two columns of images and --image-column"] = lambda place: frame(
    place, {"picture": plain(), "mask": plain(), "label": HALF}, "--image-column", "picture"
)
TABLES["refused: bytes that are no images"] = lambda place: frame(
    place, {"picture": [b"no"] * 24, "label": HALF}
)
TABLES["refused: no column of images"] = lambda place: frame(place, {"x": HALF, "label": HALF})
TABLES["refused: numbers as --image-column"] = lambda place: frame(
    place, {"x": HALF, "label": HALF}, "--image-column", "x"
)
TABLES["refused: no column of labels"] = lambda place: frame(place, {"picture": plain()})
TABLES["refused: a label column that is not there"] = lambda place: frame(
    place, {"picture": plain(), "label": HALF}, "--label-column", "kind"
)
TABLES["refused: images as labels"] = lambda place: frame(
    place, {"picture": plain(), "label": HALF}, "--label-column", "picture"
)
TABLES["refused: paths of images that are not there"] = lambda place: frame(
    place, {"path": ["nowhere.png"] * 24, "label": HALF}, "--image-column", "path"
)
TABLES["refused: a missing image"] = lambda place: frame(
    place, {"picture": [*plain(23), None], "label": HALF}
)
TABLES["refused: a damaged image"] = lambda place: frame(
    place, {"picture": [*plain(23), b"no"], "label": HALF}
)

# ---- Parquet: labels -----------------------------------------------------------------------------

for told, labels in {
    "missing": [0, None] * 12,
    "fractions": [0.5, 1.5] * 12,
    "lists": [[0], [1]] * 12,
    "times": list(pd.date_range("2026-01-01", periods=24)),
    "true and false": [True, False] * 12,
    "all the same": [3] * 24,
    "all different": list(range(24)),
    "beyond whole numbers of 64 bits": [2**63 + row % 2 for row in range(24)],
}.items():
    TABLES[f"refused: labels that are {told}"] = lambda place, labels=labels: frame(
        place, {"picture": plain(), "label": labels}
    )

TABLES["loaded: negative labels without names"] = lambda place: frame(
    place, {"picture": plain(), "label": [-1, 1] * 12}
)
TABLES["refused: -1 for a class with a name"] = lambda place: parquet(
    place, a=named(["cat", "dog"], [0, 1, -1] * 8)
)
TABLES["refused: labels beyond their names"] = lambda place: parquet(
    place, a=named(["cat", "dog"], [0, 1, 7] * 8)
)
TABLES["loaded: names of classes in another order"] = lambda place: parquet(
    place, train=named(["cat", "dog"], HALF), test=named(["dog", "cat"], HALF, seed=100)
)
TABLES["loaded: parts whose names are in another order"] = lambda place: parquet(
    place,
    train_0=named(["cat", "dog"], HALF),
    train_1=named(["dog", "cat", "bird"], HALF, seed=100),
)
TABLES["refused: names in one split and numbers in another"] = lambda place: parquet(
    place, train=named(["cat", "dog"], HALF), test=table(HALF, seed=100)
)
TABLES["refused: names in one part and numbers in another"] = lambda place: parquet(
    place, train_0=named(["cat", "dog"], HALF), train_1=table(HALF, seed=100)
)
TABLES["refused: a name that only the test has"] = lambda place: parquet(
    place, train=named(["cat", "dog"], HALF), test=named(["cat", "bird"], HALF, seed=100)
)

TABLES["refused: labels that are blank in part"] = lambda place: frame(
    place, {"picture": plain(), "label": ["cat", "", "dog"] * 8}
)
TABLES["refused: labels that are called nan"] = lambda place: frame(
    place, {"picture": plain(), "label": ["cat", "NaN", "dog"] * 8}
)
TABLES["loaded: labels in a column called Class"] = lambda place: frame(
    place, {"picture": plain(), "Class": HALF}
)
TABLES["loaded: a column of splits"] = lambda place: frame(
    place, {"picture": plain(), "label": HALF, "Split": ["train", "train", "test", "test"] * 6}
)
TABLES["loaded: a column that names splits in part"] = lambda place: frame(
    place, {"picture": plain(), "label": HALF, "split": ["train", "extra", "test", "test"] * 6}
)
TABLES["loaded: files that name splits in part"] = lambda place: parquet(
    place, train_a=table(HALF), train_b=table(HALF, seed=100), test=table(HALF, seed=200)
)

# ---- save_to_disk --------------------------------------------------------------------------------


def saved(place: Path, **splits: datasets.Dataset) -> list[str]:
    together = datasets.DatasetDict()
    together.update(splits)
    together.save_to_disk(str(place / "saved"))
    return data(place / "saved")


@case("loaded: a saved table", TABLES)
def _(place):
    table(HALF).save_to_disk(str(place / "saved"))
    return data(place / "saved")


TABLES["loaded: saved splits"] = lambda place: saved(
    place, train=table(HALF), test=table(HALF, seed=100), extra=table(HALF, seed=200)
)
TABLES["refused: saved splits without train"] = lambda place: saved(
    place, a=table(HALF), b=table(HALF, seed=100)
)


@case("refused: a saved table with a damaged state", TABLES)
def _(place):
    table(HALF).save_to_disk(str(place / "saved"))
    (place / "saved" / "state.json").write_text("{")
    return data(place / "saved")


@case("refused: a saved table with a damaged file", TABLES)
def _(place):
    table(HALF).save_to_disk(str(place / "saved"))
    for path in (place / "saved").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:100])
    return data(place / "saved")


@case("refused: saved splits of which one is lost", TABLES)
def _(place):
    saved(place, train=table(HALF), test=table(HALF, seed=100))
    for path in (place / "saved" / "test").iterdir():
        path.unlink()
    return data(place / "saved")


# ---- WebDataset ----------------------------------------------------------------------------------


def archive(
    place: Path, members: dict[str, bytes], name: str = "a.tar", mode: str = "w"
) -> list[str]:
    with tarfile.open(place / name, mode) as file:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for member, content in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return data(place / name)


def samples(label: str = "cls", seed: int = 0, **more: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for row in range(24):
        told = {"cls": str(row % 2), "json": json.dumps({"label": row % 2, "id": row}), "": ""}[
            label
        ]
        members[f"{row:03}.png"] = png(seed + row)
        if label:
            members[f"{row:03}.{label}"] = told.encode()
        members |= {f"{row:03}.{suffix}": content for suffix, content in more.items()}
    return members


TABLES["loaded: an archive with cls"] = lambda place: archive(place, samples())
TABLES["loaded: an archive with json"] = lambda place: archive(place, samples("json"))
TABLES["loaded: an archive called [x]"] = lambda place: archive(place, samples(), "[x].tar")
TABLES["refused: an archive without labels"] = lambda place: archive(place, samples(""))
TABLES["refused: an archive with pickles"] = lambda place: archive(
    place, samples(pth=b"no pickle, but who knows")
)
TABLES["refused: an archive with packed pickles"] = lambda place: archive(
    place, {"0.pth.gz": b"", **samples()}
)
TABLES["refused: an archive with broken labels"] = lambda place: archive(
    place, samples() | {"005.cls": b"two"}
)
TABLES["refused: an archive with broken json"] = lambda place: archive(
    place, samples("json") | {"001.json": b"{"}
)
TABLES["refused: an empty archive"] = lambda place: archive(place, {})
TABLES["refused: a packed archive"] = lambda place: archive(place, samples(), "a.tar.gz", "w:gz")
TABLES["refused: a packed archive under a wrong name"] = lambda place: archive(
    place, samples(), "a.tar", "w:gz"
)
TABLES["refused: an archive of class folders"] = lambda place: archive(
    place, {f"{'cat' if row % 2 else 'dog'}/{row}.png": png(row) for row in range(24)}
)


TABLES["loaded: folders of splits in an archive"] = lambda place: archive(
    place,
    {
        f"{('train', 'test')[int(name[2]) % 2]}/{name}": content
        for name, content in samples().items()
    },
)


@case("loaded: archives of two splits", TABLES)
def _(place):
    archive(place, samples(), "train-000.tar")
    archive(place, samples(seed=100), "test-000.tar")
    return data(place)


@case("refused: a damaged archive", TABLES)
def _(place):
    archive(place, samples())
    path = place / "a.tar"
    path.write_bytes(b"\xff" * 600 + path.read_bytes()[600:])
    return data(path)


@case("refused: a truncated archive", TABLES)
def _(place):
    archive(place, samples())
    path = place / "a.tar"
    path.write_bytes(path.read_bytes()[:700])
    return data(path)


@case("refused: archives beside parquet files", TABLES)
def _(place):
    archive(place, samples())
    return parquet(place, a=table(HALF))


@case("loaded: pictures beside parquet files", TABLES)
def _(place):
    classes(place, "docs")
    return parquet(place, a=table(HALF, seed=500))
