"""What images lose when they are read, and equal images of two classes, are told."""

import io
import struct
import zlib

import numpy as np
import pytest
from lab.pictures import encode, noise, table, told, write, write_classes, write_parquet
from PIL import Image

from hopmix.lab.data.sources.lost import collecting
from hopmix.lab.data.study_data import load

pytestmark = pytest.mark.usefixtures("private_cache")


def notes(folder, **options):
    data = load(str(folder), **options)
    return [line for line in told(data, "note:") if "test accuracy says little" not in line]


def see_through(pixels):
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 9, np.uint8)], 2)


def test_transparency_is_told(folder):
    write_classes(folder)
    for row in range(3):
        write(folder / "cat" / f"{row}.png", see_through(noise((6, 5, 3), row)))
    (note,) = notes(folder)
    assert "transparency of 3 images is dropped" in note
    assert "cat/0.png" in note


def test_opaque_images_lose_nothing(folder):
    write_classes(folder)
    write(folder / "cat" / "0.png", noise((6, 5, 3)), "RGBA")
    write(folder / "cat" / "1.png", noise((6, 5)), "LA")
    write(folder / "cat" / "2.png", noise((6, 5, 3)), "P")
    assert notes(folder) == []


def test_a_colour_that_is_transparent(folder):
    write_classes(folder)
    image = Image.fromarray(noise((6, 5, 3))).convert("P")
    image.save(folder / "cat" / "0.png", transparency=int(np.asarray(image)[0, 0]))
    (note,) = notes(folder)
    assert "transparency of 1 images" in note


@pytest.mark.parametrize("largest", [4095, 65535])
def test_depth_is_told_with_what_becomes_of_it(folder, largest):
    write_classes(folder, shape=(6, 5))
    for row in range(2):
        deep = noise((6, 5), row).astype(np.uint16)
        deep[0, 0] = largest
        Image.fromarray(deep).save(folder / "cat" / f"{row}.png")
    (note,) = notes(folder)
    assert "of 2 images of 16 bits the upper 8 are kept" in note
    assert f"largest value {largest:,} becomes {largest // 256}" in note


def test_colours_of_sixteen_bits_are_told(folder):
    write_classes(folder)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))]
    chunks += [
        (b"IDAT", zlib.compress(b"".join(b"\0" + noise((30,), row).tobytes() for row in range(6)))),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    (folder / "cat" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    (note,) = notes(folder)
    assert "of 1 images of 16 bits the upper 8 are kept" in note


@pytest.mark.parametrize("suffix", ["tiff", "bmp", "png", "ppm"])
def test_sixteen_pixels_are_no_sixteen_bits(folder, suffix):
    write_classes(folder, shape=(16, 16, 3))
    for row in range(3):
        Image.fromarray(noise((16, 16, 3), 7000 + row)).save(folder / "cat" / f"x{row}.{suffix}")
    assert notes(folder) == []


@pytest.mark.parametrize("suffix", ["gif", "tiff", "png"])
def test_frames_are_told(folder, suffix):
    write_classes(folder, shape=(6, 5))
    frames = [Image.fromarray(noise((6, 5), seed)) for seed in range(3)]
    frames[0].save(folder / "cat" / f"x.{suffix}", save_all=True, append_images=frames[1:])
    frames[2].save(folder / "cat" / f"one.{suffix}")
    (note,) = notes(folder)
    assert "of 1 images with several frames only the first is read" in note


def test_the_first_frame_is_the_first_one_still(folder):
    frames = [Image.fromarray(noise((6, 5), seed)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    cells = [
        {"bytes": buffer.getvalue(), "path": None},
        *(encode(noise((6, 5), 10 + row)) for row in range(19)),
    ]
    rows = table([0, 1] * 10).remove_columns("image").add_column("image", cells)
    data = load(write_parquet(folder / "a.parquet", rows))
    images = [*data.train.images, *data.validation.images, *data.test().images]
    assert any(np.array_equal(image[..., 0], noise((6, 5))) for image in images)
    assert told(data, "several frames")


def test_colours_of_the_test_split_are_told(folder):
    write_classes(folder / "train", shape=(6, 5))
    write_classes(folder / "test", shape=(6, 5, 3), count=4)
    (note,) = [note for note in notes(folder) if "grey" in note]
    assert "colours of 8 images are dropped" in note
    assert "test/cat/0.png" in note


def test_nothing_is_collected_outside():
    with collecting() as lost:
        pass
    assert lost.notes() == []


@pytest.mark.parametrize("split", [False, True])
def test_equal_images_of_two_classes_are_told(folder, split):
    root = folder / "train" if split else folder
    write_classes(root)
    if split:
        write_classes(folder / "test", seed=500)
    for row in range(3):
        write(root / "cat" / f"same{row}.png", noise((6, 5, 3), 7000 + row))
        write(
            (folder / "test" if split else root) / "dog" / f"same{row}.png",
            noise((6, 5, 3), 7000 + row),
        )
    (note,) = [note for note in notes(folder) if "two classes" in note]
    assert "6 images" in note
    assert "as 'cat'" in note
    assert "as 'dog'" in note
    assert "/cat/same" in note
    assert "/dog/same" in note


def test_equal_images_of_one_class_are_not_told_so(folder):
    write_classes(folder)
    for name in ("a", "b"):
        write(folder / "cat" / f"{name}.png", noise((6, 5, 3), 7000))
    assert notes(folder) == []
