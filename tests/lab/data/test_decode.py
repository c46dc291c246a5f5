"""What becomes of an image file, and how much memory it may take."""

import io
import tracemalloc

import datasets
import numpy as np
import pytest
from lab.pictures import encode, fails, noise, table, write, write_classes
from PIL import Image

from hopmix.lab.data.sources import room
from hopmix.lab.data.sources.decode import decode_images, formats, suffixes
from hopmix.lab.data.sources.tables import TableRows
from hopmix.lab.data.study_data import _statistics, load
from hopmix.lab.errors import UsageError


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(*contents, **options):
    return decode_images(
        [(f"image {i}", content) for i, content in enumerate(contents)], len(contents), **options
    )


def palette_image(palette):
    image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) % len(palette), "L")
    paletted = Image.new("P", (5, 6))
    paletted.putdata(list(image.tobytes()))
    paletted.putpalette([value for colour in palette for value in colour])
    return paletted


class TestColours:
    def test_a_palette_of_greys_is_grey(self):
        levels = [7 * level for level in range(30)]
        pixels = decode(saved(palette_image([(level, level, level) for level in levels])))
        assert pixels.shape == (1, 6, 5, 1)
        assert pixels.ravel().tolist() == levels

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_a_palette_with_one_colour_that_is_used_is_coloured(self, kind):
        palette = [(level, level, level) for level in range(0, 90, 3)]
        palette[4] = (10, 20, 30)
        assert decode(saved(palette_image(palette), kind)).shape == (1, 6, 5, 3)

    def test_a_colour_of_a_palette_that_is_not_used_does_not_count(self):
        image = palette_image([(0, 0, 0), (9, 9, 9)])
        image.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0])
        assert decode(saved(image)).shape == (1, 6, 5, 1)

    def test_grey_gifs(self):
        pixels = noise((6, 5))
        np.testing.assert_array_equal(
            decode(saved(Image.fromarray(pixels), "GIF"))[0, ..., 0], pixels
        )

    @pytest.mark.parametrize(
        "mode, colours", [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3)]
    )
    def test_modes(self, mode, colours):
        image = Image.fromarray(noise((6, 5, 3))).convert(mode)
        expected = np.asarray(image.convert("L" if colours == 1 else "RGB")).reshape(6, 5, colours)
        np.testing.assert_array_equal(decode(saved(image))[0], expected)


class TestFormats:
    def test_formats_that_call_other_programs_are_not_read(self, tmp_path):
        assert {"PNG", "JPEG", "GIF", "TIFF", "WEBP"} <= set(formats())
        assert not {"EPS", "WMF"} & set(formats())
        assert ".png" in suffixes()
        assert not {".eps", ".pdf"} & suffixes()
        with pytest.raises(UsageError, match="cannot be decoded"):
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no image",
            saved(Image.fromarray(noise((6, 5))))[:60],
            b"GIF89a" + bytes(range(99)),
        ],
    )
    def test_damaged_ones_are_named_in_one_line(self, content):
        with pytest.raises(
            UsageError, match=r"^data: image 0 cannot be decoded \(.+\); replace or remove it$"
        ):
            decode(content)

    @pytest.mark.parametrize("target", ["/dev/zero", "nowhere.png"])
    def test_what_is_no_file_is_not_opened(self, tmp_path, target):
        write_classes(tmp_path / "pets")
        (tmp_path / "pets" / "cat" / "x.png").symlink_to(target)
        fails(tmp_path / "pets", "cat/x.png", "cannot be decoded")


class TestResize:
    def test_images_of_many_sizes(self, tmp_path):
        write_classes(tmp_path / "pets")
        write(tmp_path / "pets" / "cat" / "odd.png", noise((9, 7, 3)))
        fails(tmp_path / "pets", "odd.png is 9 x 7", "--resize")
        data = load(str(tmp_path / "pets"), resize=(4, 3))
        assert data.image_shape == (4, 3, 3)
        assert load(str(tmp_path / "pets"), resize=4).image_shape == (4, 4, 3)

    def test_of_that_size_already_they_stay_as_they_are(self):
        content = encode(noise((6, 5)))["bytes"]
        np.testing.assert_array_equal(decode(content, size=(6, 5)), decode(content))

    def test_smaller_images_are_means_and_not_samples(self):
        rows, columns = np.indices((64, 64))
        checks = ((rows + columns) % 2 * 255).astype(np.uint8)
        small = decode(saved(Image.fromarray(checks)), size=(8, 8))
        assert np.abs(small.astype(int) - 127).max() <= 2

    def test_all_kinds_of_data_are_resized(self):
        assert load("digits", resize=12).image_shape == (12, 12, 1)

    @pytest.mark.parametrize("resize", [0, -1, (4, 0)])
    def test_sizes_that_are_none(self, resize):
        fails("digits", "resize: got", "at least 1", resize=resize)


class TestMemory:
    def test_images_that_do_not_fit_are_refused_before_they_are_read(self, monkeypatch):
        monkeypatch.setattr(room, "free_memory", lambda: 1000)
        content = encode(noise((6, 5)))["bytes"]
        assert decode(content).shape == (1, 6, 5, 1)
        with pytest.raises(UsageError, match=r"100 images of 6 x 5 x 1 .*free; .*--resize") as told:
            decode_images(
                (pytest.fail("read on") if i else ("first", content) for i in range(100)), 100
            )
        assert "\n" not in str(told.value)
        fails("digits", "1,797 images of 8 x 8 x 1", "--resize")

    def test_a_batch_must_fit_as_well(self, monkeypatch):
        monkeypatch.setattr(room, "free_memory", lambda: 2 * 1797 * 64 + 4 * 10 * 64)
        assert load("digits", batch=10)
        fails("digits", "a batch of 11", "--resize", batch=11)

    def test_a_size_that_cannot_fit_is_refused_before_the_first_image_is_read(
        self, tmp_path, monkeypatch
    ):
        write_classes(tmp_path / "pets")
        (tmp_path / "pets" / "cat" / "0.png").write_text("no image")
        monkeypatch.setattr(room, "free_memory", lambda: 2 * 20 * 64 - 1)
        fails(tmp_path / "pets", "20 images of 8 x 8 x 1", resize=8)

    def test_all_splits_are_counted_before_the_second_image_is_read(self, tmp_path, monkeypatch):
        write_classes(tmp_path / "pets" / "train")
        write_classes(tmp_path / "pets" / "test", seed=500)
        (tmp_path / "pets" / "train" / "cat" / "1.png").write_text("no image")
        monkeypatch.setattr(room, "free_memory", lambda: 2 * 30 * 90)
        fails(tmp_path / "pets", "40 images of 6 x 5 x 3", "--resize")

    def test_memory_is_told(self):
        free = room.free_memory()
        assert free is None or 0 < free < 2**60

    def test_one_image_at_a_time(self):
        """Of 40 images of 1 MB, whose files are small, all but the array is a few MB."""
        content = saved(Image.new("1", (1000, 1000)))
        tracemalloc.start()
        pixels = decode(*[content] * 40)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - pixels.nbytes < 8e6

    def test_encoded_images_are_read_by_bytes(self, monkeypatch):
        monkeypatch.setattr("hopmix.lab.data.sources.tables.CHUNK_BYTES", 1000)
        rows = table([0] * 30, shape=(16, 16)).select_columns(["image"])
        rows = TableRows(rows.cast_column("image", datasets.Image(decode=False)), "train")
        lengths = rows._bytes
        assert lengths.tolist() == [len(encode(noise((16, 16), row))["bytes"]) for row in range(30)]
        index = np.asarray([3, 4, 9, *range(12, 30)])
        chunks = rows._chunks(index)
        assert [row for start, stop in chunks for row in range(start, stop)] == list(
            range(len(index))
        )
        for start, stop in chunks:
            assert stop == start + 1 or lengths[index[start:stop]].sum() <= 1000
            assert stop == len(index) or lengths[index[start : stop + 1]].sum() > 1000
        np.testing.assert_array_equal(rows.read(index)[1, ..., 0], noise((16, 16), 4))

    def test_statistics_of_one_large_image(self):
        images = noise((2, 1500, 1000, 1))
        tracemalloc.start()
        mean, std = _statistics(images)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16e6  # a million pixels at a time, in eight bytes each
        np.testing.assert_allclose(mean, images.mean() / 255, rtol=1e-6)
        np.testing.assert_allclose(std, images.std() / 255, rtol=1e-5)
