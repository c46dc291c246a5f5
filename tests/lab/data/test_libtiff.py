"""A damaged TIFF is told in one line, and nothing that others write is lost."""

import os
import threading

import numpy as np
import pytest
from lab.pictures import fails, noise, write_classes
from PIL import Image

from hopmix.lab.data.sources.libtiff import libtiff_silent
from hopmix.lab.data.study_data import load


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_damaged_files_are_silent(folder, capfd, compression):
    write_classes(folder, shape=(8, 8))
    path = folder / "cat" / "x.tiff"
    Image.fromarray(noise((8, 8))).save(path, compression=compression)
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)
    fails(folder, "x.tiff cannot be decoded")
    assert capfd.readouterr().err == ""


def test_sound_files_are_read_as_before(folder, capfd):
    write_classes(folder, shape=(8, 8))
    Image.fromarray(noise((8, 8), 7000)).save(folder / "cat" / "x.tiff", compression="tiff_lzw")
    data = load(str(folder))
    images = [*data.train.images, *data.validation.images, *data.test().images]
    assert any(np.array_equal(image[..., 0], noise((8, 8), 7000)) for image in images)
    assert capfd.readouterr().err == ""


def test_what_others_write_meanwhile_is_kept(capfd):
    with libtiff_silent():
        other = threading.Thread(target=lambda: os.write(2, b"a warning: of another\nand no end"))
        other.start()
        other.join()
        os.write(2, b"\nLZWDecode: Corrupted table.\ntempfile.tif: Using code not yet in table.\n")
    assert capfd.readouterr().err == "a warning: of another\nand no end\n"


def test_an_error_leaves_standard_error_as_it_was(capfd):
    with pytest.raises(KeyError), libtiff_silent():
        raise KeyError
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
