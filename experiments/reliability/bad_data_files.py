"""Bad and odd files of arrays and of paths, names of data, and options."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from bad_data_folders import Maker, case, data, pets, picture, pixels

FILES: dict[str, Maker] = {}

LABELS = np.arange(24) % 2


def arrays(place: Path, *more: str, **named: Any) -> list[str]:
    np.savez(place / "a.npz", **named)
    return data(place / "a.npz", *more)


def alone(place: Path, images: Any, labels: Any = LABELS, *more: str) -> list[str]:
    return arrays(place, *more, images=images, labels=labels)


def bytes_of(*shape: int, seed: int = 0) -> np.ndarray:
    return pixels(seed, shape)


GREY = bytes_of(24, 8, 8)
FRACTIONS = GREY / 255

# ---- Arrays --------------------------------------------------------------------------------------

FILES["loaded: images and labels"] = lambda place: alone(place, GREY)
FILES["loaded: x_train and the others"] = lambda place: arrays(
    place, x_train=GREY, y_train=LABELS, x_test=bytes_of(24, 8, 8, seed=1), y_test=LABELS
)
FILES["loaded: three splits, and more arrays"] = lambda place: arrays(
    place,
    train_images=GREY,
    train_labels=LABELS[:, None],
    val_images=bytes_of(24, 8, 8, seed=1),
    val_labels=LABELS[:, None],
    test_images=bytes_of(24, 8, 8, seed=2),
    test_labels=LABELS[:, None],
    more=np.zeros(3),
)
FILES["loaded: colours first"] = lambda place: alone(place, bytes_of(24, 3, 8, 8))
FILES["loaded: colours last"] = lambda place: alone(place, bytes_of(24, 8, 8, 3))
FILES["loaded: transparency"] = lambda place: alone(place, bytes_of(24, 8, 8, 4))
FILES["loaded: fractions"] = lambda place: alone(place, FRACTIONS.astype(np.float32))
FILES["loaded: fractions of 64 bits"] = lambda place: alone(place, FRACTIONS)
FILES["loaded: floating-point numbers in 0..255"] = lambda place: alone(
    place, GREY.astype(np.float32)
)
FILES["loaded: whole numbers of 64 bits"] = lambda place: alone(place, GREY.astype(np.int64))
FILES["loaded: true and false"] = lambda place: alone(place, GREY > 127)
FILES["loaded: text as labels"] = lambda place: alone(place, GREY, np.where(LABELS, "cat", "dog"))
FILES["loaded: bytes as labels"] = lambda place: alone(
    place, GREY, np.where(LABELS, b"cat", b"dog")
)
FILES["loaded: arrays and --resize 4"] = lambda place: alone(place, GREY, LABELS, "--resize", "4")
FILES["loaded: big-endian labels"] = lambda place: alone(place, GREY, LABELS.astype(">i4"))

for told, images in {
    "NaN": np.where(FRACTIONS > 0.5, np.nan, FRACTIONS),
    "infinities": np.where(FRACTIONS > 0.5, np.inf, FRACTIONS),
    "negative numbers": 2 * FRACTIONS - 1,
    "16 bits": GREY.astype(np.uint16) * 257,
    "complex numbers": GREY.astype(np.complex64),
    "text": GREY.astype(str),
    "times": GREY.astype("datetime64[s]"),
    "flat images": GREY.reshape(24, -1),
    "five axes": GREY.reshape(24, 1, 8, 8, 1),
    "two colours": bytes_of(24, 8, 8, 2),
    "no images": bytes_of(0, 8, 8),
    "no pixels": bytes_of(24, 0, 8),
    "a single number": np.uint8(3),
    "fractions that overshoot": FRACTIONS * 1.02,
    "two layouts": bytes_of(24, 3, 8, 3),
    "transparency last or colours first": bytes_of(24, 3, 4, 4),
    "objects": np.array([None] * 24),
}.items():
    FILES[f"refused: arrays of {told}"] = lambda place, images=images: alone(place, images)

for told, labels in {
    "fractions": LABELS / 2,
    "one-hot rows": np.eye(2)[LABELS],
    "too few": LABELS[:20],
    "a single number": np.int64(1),
    "objects": np.array(["cat", None] * 12, dtype=object),
    "complex numbers": LABELS.astype(complex),
    "no UTF-8": np.array([b"\xff", b"\xfe"] * 12),
    "all the same": np.zeros(24, int),
    "blank": np.array(["cat", "", "dog"] * 8),
    "called nan": np.array(["cat", "nan", "dog"] * 8),
    "beyond 64 bits": np.array([0, 2**64 - 1] * 12, np.uint64),
}.items():
    FILES[f"refused: labels of arrays that are {told}"] = lambda place, labels=labels: alone(
        place, GREY, labels
    )

FILES["refused: arrays of other names"] = lambda place: arrays(place, a=GREY, b=LABELS)
FILES["refused: no arrays"] = lambda place: arrays(place)
FILES["refused: test arrays without training arrays"] = lambda place: arrays(
    place, x_test=GREY, y_test=LABELS
)
FILES["refused: a test array of another size"] = lambda place: arrays(
    place, x_train=GREY, y_train=LABELS, x_test=bytes_of(24, 6, 6), y_test=LABELS
)
FILES["refused: a test array of another range"] = lambda place: arrays(
    place, x_train=FRACTIONS, y_train=LABELS, x_test=GREY.astype(float), y_test=LABELS
)
FILES["refused: a test array with an unknown label"] = lambda place: arrays(
    place, x_train=GREY, y_train=LABELS, x_test=bytes_of(24, 8, 8, seed=1), y_test=LABELS + 1
)
FILES["refused: a test array of fractions beside bytes"] = lambda place: arrays(
    place, x_train=GREY, y_train=LABELS, x_test=FRACTIONS, y_test=LABELS
)
FILES["loaded: fractions that rounding took beyond 1"] = lambda place: alone(
    place, FRACTIONS * (1 + 1e-6)
)
FILES["loaded: labels of arrays that are -1"] = lambda place: alone(place, GREY, LABELS - 1)
FILES["refused: columns of arrays"] = lambda place: alone(
    place, GREY, LABELS, "--label-column", "labels"
)


@case("refused: one array under the name of several", FILES)
def _(place):
    with (place / "a.npz").open("wb") as file:
        np.save(file, GREY)
    return data(place / "a.npz")


@case("refused: a damaged .npz file", FILES)
def _(place):
    alone(place, GREY)
    path = place / "a.npz"
    path.write_bytes(path.read_bytes()[:900])
    return data(path)


@case("refused: an .npz file of text", FILES)
def _(place):
    (place / "a.npz").write_text("no array")
    return data(place / "a.npz")


@case("refused: an array that claims 10 PB", FILES)
def _(place):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000, 32000, 32000), }"
    header = header.ljust(118 - 1) + b"\n"
    claim = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    with zipfile.ZipFile(place / "a.npz", "w") as file:
        file.writestr("images.npy", claim)
        file.writestr("labels.npy", claim)
    return data(place / "a.npz")


@case("refused: an .npy file", FILES)
def _(place):
    np.save(place / "a.npy", GREY)
    return data(place / "a.npy")


# ---- Paths ---------------------------------------------------------------------------------------


def listed(
    place: Path, header: str, row: str, *more: str, name: str = "a.csv", encoding: str = "utf-8"
) -> list[str]:
    """A CSV file; `row` gets the path {path}, the number {row} and the class {kind} of each of 24
    pictures.
    """
    lines = [header]
    for number in range(24):
        path = f"pictures/{number}.png"
        picture(place / path, number)
        split = "test" if number % 4 < 2 else "train"
        lines.append(
            row.format(path=path, row=number, kind="dög" if number % 2 else "cat", split=split)
        )
    (place / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return data(place / name, *more)


FILES["loaded: a list of paths"] = lambda place: listed(place, "path,label", "{path},{kind}")
FILES["loaded: a list with semicolons"] = lambda place: listed(place, "path;label", "{path};{kind}")
FILES["loaded: a list with tabs"] = lambda place: listed(
    place, "path\tlabel", "{path}\t{kind}", name="a.tsv"
)
FILES["loaded: a list with a byte order mark"] = lambda place: listed(
    place, "label,path", "{kind},{path}", encoding="utf-8-sig"
)
FILES["loaded: a list with quotes"] = lambda place: listed(
    place, "path,label", '"{path}","a, {kind}"'
)
FILES["loaded: a list with splits"] = lambda place: listed(
    place, "path,label,split", "{path},{kind},{split}"
)
FILES["loaded: a list with folds called split"] = lambda place: listed(
    place, "path,label,split", "{path},{kind},{row}"
)
FILES["loaded: a list with more columns"] = lambda place: listed(
    place, "id,path,label", "{row},{path},{kind}"
)
FILES["loaded: a list with --label-column"] = lambda place: listed(
    place, "id,path,kind", "{row},{path},{kind}", "--label-column", "kind"
)
FILES["loaded: a list with blanks after commas"] = lambda place: listed(
    place, "path, label, Split", "{path}, {kind}, {split}"
)
FILES["loaded: a list with splits called set"] = lambda place: listed(
    place, "path,label,set", "{path},{kind},{split}"
)
FILES["refused: a list with repeated columns"] = lambda place: listed(
    place, "path,label,label", "{path},{kind},{split}"
)
FILES["refused: a list with labels called nan"] = lambda place: listed(
    place, "path,label", "{path},NaN"
)
FILES["refused: a list without a clear label"] = lambda place: listed(
    place, "id,path,kind", "{row},{path},{kind}"
)
FILES["refused: a list of paths alone"] = lambda place: listed(place, "path", "{path}")
FILES["refused: a list with two columns of paths"] = lambda place: listed(
    place, "path,mask,label", "{path},{path},{kind}"
)
FILES["refused: a list of missing files"] = lambda place: listed(
    place, "path,label", "no-{path},{kind}"
)
FILES["refused: a list without a header"] = lambda place: listed(
    place, "pictures/0.png,cat", "{path},{kind}"
)
FILES["refused: a list with a blank label"] = lambda place: listed(place, "path,label", "{path}, ")
FILES["refused: a list with ragged rows"] = lambda place: listed(place, "path,label", "{path}")
FILES["refused: a list with too long rows"] = lambda place: listed(
    place, "path,label", "{path},{kind},3"
)
FILES["refused: a list that is not UTF-8"] = lambda place: listed(
    place, "path,label", "{path},{kind}", encoding="latin-1"
)
FILES["refused: a list without that column"] = lambda place: listed(
    place, "path,label", "{path},{kind}", "--image-column", "picture"
)
FILES["refused: a list of folders"] = lambda place: listed(
    place, "path,label", "pictures,{kind}", "--image-column", "path"
)
FILES["refused: a list of devices"] = lambda place: listed(
    place, "path,label", "/dev/zero,{kind}", "--image-column", "path"
)

for told, content in {
    "nothing": b"",
    "a header": b"path,label\n",
    "zeros": bytes(400),
    "random bytes": pixels(0, (400,)).tobytes(),
    "an open quote": b'path,label\n"a.png,cat\n',
    "a row that is too long": b"path,label\n" + b"x" * 200_000 + b",cat\n",
}.items():

    def _content(place: Path, content=content) -> list[str]:
        (place / "a.csv").write_bytes(content)
        return data(place / "a.csv")

    FILES[f"refused: a list of {told}"] = _content


# ---- Names and options ---------------------------------------------------------------------------

for name in (
    "",
    " ",
    "digist",
    "Digits",
    "no/such/folder",
    "~nobody-of-this-name/x",
    "x" * 5000,
    "hub:",
    "hub:a b",
):
    FILES[f"refused: data called {name[:20]!r}"] = lambda place, name=name: ["--data", name]

FILES["refused: a picture"] = lambda place: data(pets(place) / "cat" / "000.png")
FILES["refused: a device"] = lambda place: data(Path("/dev/null"))


@case("refused: a zip file", FILES)
def _(place):
    pets(place)
    with zipfile.ZipFile(place / "a.zip", "w") as file:
        file.write(place / "pets" / "cat" / "000.png")
    return data(place / "a.zip")


@case("refused: a folder of a list", FILES)
def _(place):
    (place / "a.csv").write_text("path,label\n")
    return data(place)


@case("refused: a circle of links", FILES)
def _(place):
    (place / "a").symlink_to(place / "b")
    (place / "b").symlink_to(place / "a")
    return data(place / "a")


for share in ("0", "-0.1", "0.9", "nan"):
    FILES[f"refused: --validation {share}"] = lambda place, share=share: data(
        pets(place), "--validation", share
    )
FILES["refused: a batch larger than the data"] = lambda place: data(pets(place), "--batch", "1000")
FILES["refused: digits with a column"] = lambda place: [
    "--data",
    "digits",
    "--image-column",
    "image",
]
FILES["loaded: digits"] = lambda place: ["--data", "digits"]
FILES["loaded: digits and --resize 12"] = lambda place: ["--data", "digits", "--resize", "12"]
