"""Bad and odd folders of images."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Maker = Callable[[Path], list[str]]
FOLDERS: dict[str, Maker] = {}


def case(name: str, cases: dict[str, Maker] = FOLDERS) -> Callable[[Maker], Maker]:
    """Enter a function under this name."""

    def enter(make: Maker) -> Maker:
        assert name not in cases
        assert name.startswith(("loaded: ", "refused: "))
        cases[name] = make
        return make

    return enter


def pixels(seed: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def picture(path: Path, seed: int, shape: tuple[int, ...] = (8, 8), mode: str | None = None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels(seed, shape))
    (image.convert(mode) if mode else image).save(path)


def classes(
    root: Path, *names: str, count: int = 12, shape: tuple[int, ...] = (8, 8), seed: int = 0
) -> Path:
    """A folder of pictures for each name, all different."""
    for number, name in enumerate(names):
        for row in range(count):
            picture(root / name / f"{row:03}.png", seed + 1000 * number + row, shape)
    return root


def pets(place: Path, **options) -> Path:
    return classes(place / "pets", "cat", "dog", **options)


def data(path: Path, *more: str) -> list[str]:
    return ["--data", str(path), *more]


# ---- Names ---------------------------------------------------------------------------------------

for words, told in {
    ("car", "plane", "train"): "a class called train",
    ("blood test", "control", "urine-test"): "words of splits in the names of classes",
    ("crash-test", "dev", "road"): "a class called dev",
    ("test", "control"): "a class called test",
    ("[x]", "a*b", "c?d"): "class folders with signs of patterns",
    ("кот", "猫", "🐕"): "class folders in other scripts",
    ("\x1b[31mred", "tab\there", "\u202eright"): "control characters in the names of classes",
    ("a" * 200, "b" * 200): "class folders with long names",
    ("01", "1", "10"): "numbers as names of classes",
    ("NA", "null", "None"): "classes that are called nothing",
    ("--data", "-x"): "class folders that look like options",
}.items():
    FOLDERS[f"loaded: {told}"] = lambda place, words=words: data(classes(place / "pets", *words))

for split in ("train", "test", "val"):
    FOLDERS[f"loaded: a folder under one called {split}"] = lambda place, split=split: data(
        classes(place / split / "pets", "cat", "dog")
    )


def _in_splits(place: Path, words: tuple[str, ...]) -> list[str]:
    for number, word in enumerate(words):
        classes(place / "pets" / word, "cat", "dog", seed=100 * number)
    return data(place / "pets")


for words in (
    ("train", "test"),
    ("TRAIN", "Test"),
    ("training", "valid", "testing"),
    ("train", "dev", "eval"),
):
    FOLDERS[f"loaded: splits called {', '.join(words)}"] = lambda place, words=words: _in_splits(
        place, words
    )

for words in (("test", "val"), ("train", "val", "dev"), ("test", "testing")):
    FOLDERS[f"refused: splits called {', '.join(words)}"] = lambda place, words=words: _in_splits(
        place, words
    )


@case("loaded: file names with words of splits")
def _(place):
    for number, name in enumerate(
        ("train", "test_3", "photo of a dev", "validation-1", "x", "y", "z", "eval")
    ):
        for kind in ("cat", "dog"):
            picture(place / "pets" / kind / f"{name}.png", number + 100 * (kind == "cat"))
    return data(place / "pets")


@case("loaded: a folder called [x]*")
def _(place):
    return data(classes(place / "[x]*", "cat", "dog"))


@case("loaded: a class folder whose name is not UTF-8")
def _(place):
    root = classes(place / "pets", "cat", "dog")
    os.rename(root / "dog", os.path.join(os.fsencode(root), b"do\xffg"))
    return data(root)


@case("refused: a folder whose name breaks a line")
def _(place):
    return data(classes(place / "two\nlines", "cat", "dog"))


# ---- Layout --------------------------------------------------------------------------------------


@case("refused: an empty folder")
def _(place):
    return data(place)


@case("refused: a folder of text")
def _(place):
    (place / "notes.txt").write_text("no image")
    return data(place)


@case("refused: images in no class folder")
def _(place):
    return data(classes(place / "pets", "."))


@case("refused: one class folder")
def _(place):
    return data(classes(place / "pets", "cat"))


@case("refused: one image of each class")
def _(place):
    return data(pets(place, count=1))


@case("refused: many classes of one image each")
def _(place):
    return data(classes(place / "pets", *(f"class {number}" for number in range(30)), count=1))


@case("loaded: three images of each class")
def _(place):
    return data(classes(place / "pets", "a", "b", "c", count=4), "--validation", "0.3")


@case("refused: splits without class folders")
def _(place):
    return data(classes(place / "pets", "train", "test"))


@case("refused: a split without class folders")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets", "test", seed=500))


@case("refused: a class that only the test split has")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets" / "test", "cat", "bird", seed=500).parent)


@case("loaded: a class that the test split lacks")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets" / "test", "dog", seed=500).parent)


@case("loaded: a folder of pictures beside the splits")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets", "docs", seed=7000))


@case("loaded: folders in class folders")
def _(place):
    for number in range(3):
        classes(
            place / "pets" / "cat" / f"day {number}", "indoor", "train", seed=10 * number, count=2
        )
        classes(
            place / "pets" / "dog" / f"day {number}",
            "test",
            "outdoor",
            seed=500 + 10 * number,
            count=2,
        )
    return data(place / "pets")


@case("loaded: pictures beside class folders")
def _(place):
    picture(place / "pets" / "logo.png", 9)
    return data(pets(place))


@case("loaded: hidden files, and what macOS leaves")
def _(place):
    root = pets(place)
    for name in (".DS_Store", ".git/x.png", "__MACOSX/cat/._0.png", "cat/.hidden.png", "Thumbs.db"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    return data(root)


@case("loaded: a script of the folder's name")
def _(place):
    root = pets(place)
    (root / "pets.py").write_text("raise SystemExit('a script of a data set ran')\n")
    (root / "setup.py").write_text("raise SystemExit('a script of a data set ran')\n")
    return data(root)


@case("loaded: a broken README")
def _(place):
    root = pets(place)
    (root / "README.md").write_bytes(b"---\nconfigs: [\n  : x\n\xff\n---\n")
    return data(root)


@case("loaded: metadata.csv beside class folders")
def _(place):
    root = pets(place)
    (root / "metadata.csv").write_text("file_name,label\ncat/000.png,dog\n")
    return data(root)


@case("refused: flat images with their labels in metadata.csv")
def _(place):
    root = classes(place / "pets", ".")
    (root / "metadata.csv").write_text("file_name,label\n000.png,dog\n001.png,cat\n")
    return data(root)


@case("loaded: a link to a folder, and a circle of links")
def _(place):
    root = classes(place / "pets", "cat")
    classes(place / "elsewhere", "dog", seed=100)
    (root / "dog").symlink_to(place / "elsewhere" / "dog")
    (root / "cat" / "again").symlink_to(root)
    return data(root)


@case("refused: class folders beside parquet files")
def _(place):
    root = pets(place)
    (root / "a.parquet").write_bytes(b"PAR1")
    return data(root)


@case("refused: columns of a folder")
def _(place):
    return data(pets(place), "--label-column", "label")


@case("refused: an image column of a folder")
def _(place):
    return data(pets(place), "--image-column", "image")


# ---- Equal images --------------------------------------------------------------------------------


@case("refused: test and training are the same images")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets" / "test", "cat", "dog").parent)


@case("loaded: test and training share some images")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets" / "test", "cat", "dog", seed=6).parent)


@case("loaded: each image is there four times")
def _(place):
    for copy in range(4):
        for kind, seed in (("cat", 0), ("dog", 100)):
            for row in range(6):
                picture(place / "pets" / kind / f"{copy}-{row}.png", seed + row)
    return data(place / "pets")


@case("refused: all images are equal")
def _(place):
    for row in range(12):
        picture(place / "pets" / ("cat", "dog")[row % 2] / f"{row}.png", 0)
    return data(place / "pets")


# ---- Sizes ---------------------------------------------------------------------------------------

for size in ((1, 1), (2, 2), (1, 2), (7, 7), (13, 11)):
    FOLDERS[f"refused: images of {size[0]} x {size[1]}"] = lambda place, size=size: data(
        pets(place, shape=size)
    )
FOLDERS["loaded: images of 7 x 7 and --patch 7"] = lambda place: data(
    pets(place, shape=(7, 7)), "--patch", "7"
)
FOLDERS["loaded: images of 2 x 2 and --patch 1"] = lambda place: data(
    pets(place, shape=(2, 2)), "--patch", "1"
)
FOLDERS["loaded: images of 7 x 11 and --patch 7 1"] = lambda place: data(
    pets(place, shape=(7, 11)), "--patch", "7", "1"
)
FOLDERS["loaded: images of 1 x 1 and --patch 1"] = lambda place: data(
    pets(place, shape=(1, 1)), "--patch", "1"
)
FOLDERS["loaded: images of 64 x 4"] = lambda place: data(pets(place, shape=(64, 4)))
FOLDERS["refused: --patch 3 of 8 x 8"] = lambda place: data(pets(place), "--patch", "3")
FOLDERS["refused: --patch 2 0"] = lambda place: data(pets(place), "--patch", "2", "0")
FOLDERS["refused: --resize 0"] = lambda place: data(pets(place), "--resize", "0")
FOLDERS["refused: --resize 8 -8"] = lambda place: data(pets(place), "--resize", "8", "-8")
FOLDERS["refused: --resize of 301 digits"] = lambda place: data(
    pets(place), "--resize", "1" + 300 * "0"
)
FOLDERS["refused: --resize 60000"] = lambda place: data(pets(place), "--resize", "60000")
FOLDERS["loaded: --resize 4 6"] = lambda place: data(pets(place), "--resize", "4", "6")


def _two_sizes(place: Path) -> Path:
    picture(pets(place) / "dog" / "odd.png", 99, (9, 7))
    return place / "pets"


FOLDERS["refused: two sizes"] = lambda place: data(_two_sizes(place))
FOLDERS["loaded: two sizes and --resize 8"] = lambda place: data(_two_sizes(place), "--resize", "8")


@case("refused: two sizes in two splits")
def _(place):
    classes(place / "pets" / "train", "cat", "dog")
    return data(classes(place / "pets" / "test", "cat", "dog", seed=500, shape=(9, 7)).parent)


# ---- Files ---------------------------------------------------------------------------------------


def _with(place: Path, content: bytes, name: str = "x.png") -> list[str]:
    (pets(place) / "cat" / name).write_bytes(content)
    return data(place / "pets")


def png_header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


FOLDERS["refused: text called .png"] = lambda place: _with(place, b"no image")
FOLDERS["refused: an empty .png"] = lambda place: _with(place, b"")
FOLDERS["refused: an empty .jpg"] = lambda place: _with(place, b"", "x.jpg")
FOLDERS["refused: a .gif of random bytes"] = lambda place: _with(
    place, b"GIF89a" + pixels(0, (99,)).tobytes(), "x.gif"
)
FOLDERS["refused: a header of 100,000 x 100,000"] = lambda place: _with(
    place, png_header(100_000, 100_000)
)
FOLDERS["refused: a header of 8 x 8 and no more"] = lambda place: _with(place, png_header(8, 8))
FOLDERS["refused: a header of 0 x 0"] = lambda place: _with(place, png_header(0, 0))
FOLDERS["loaded: PostScript beside images"] = lambda place: _with(
    place, b"%!PS-Adobe-3.0 EPSF-3.0\n", "x.eps"
)


@case("refused: a truncated .png")
def _(place):
    path = pets(place) / "dog" / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    return data(place / "pets")


@case("refused: floating-point pixels")
def _(place):
    root = pets(place)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(root / "cat" / "x.tiff")
    return data(root)


@case("refused: a link to nowhere")
def _(place):
    (pets(place) / "cat" / "x.png").symlink_to(place / "nowhere.png")
    return data(place / "pets")


@case("refused: a pipe called .png")
def _(place):
    os.mkfifo(pets(place) / "cat" / "x.png")
    return data(place / "pets")


@case("refused: a device called .png")
def _(place):
    (pets(place) / "cat" / "x.png").symlink_to("/dev/zero")
    return data(place / "pets")


@case("loaded: images of all modes")
def _(place):
    root = pets(place)
    for number, mode in enumerate(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")):
        kind = "tiff" if mode in ("CMYK", "YCbCr") else "png"
        path = root / "cat" / f"{mode}.{kind}"
        picture(path, 700 + number, (8, 8, 3), mode)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(
        root / "cat" / "deep.png"
    )
    return data(root)


@case("loaded: a moving .gif")
def _(place):
    root = pets(place)
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    frames[0].save(root / "cat" / "x.gif", save_all=True, append_images=frames[1:])
    return data(root)
