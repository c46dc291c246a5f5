"""Pillow, which timm works with, is the reference of every operation."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from hopmix.lab.data.randaugment import (
    OPERATIONS,
    RandAugment,
    apply_operation,
    equalize,
    rand_augment,
    warp,
)

SHAPES = [(8, 8, 1), (17, 13, 3), (32, 32, 3)]
GREY = 128


def picture(shape, seed=0):
    """Noise on a gradient, so that both rough and smooth places and several brightnesses occur."""
    noise = np.random.default_rng(seed).integers(0, 110, shape)
    gradient = np.linspace(10, 130, shape[1]).astype(int)[None, :, None]
    return (noise + gradient).astype(np.uint8)


def pillow(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def pixels_of(image, shape):
    return np.asarray(image).reshape(shape)


def fill_of(image):
    return GREY if image.mode == "L" else (GREY,) * 3


def affine(image, *matrix):
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=fill_of(image),
    )


def posterize(image, bits):
    return ImageOps.posterize(image, bits) if bits else image.point(lambda value: 0)


def solarize_add(image, addend):
    return image.point(
        [min(value + addend, 255) if value < 128 else value for value in range(256)]
        * len(image.getbands())
    )


def reference(name, image, magnitude, sign):
    """timm's operation at a magnitude, in Pillow's functions and timm's units."""
    share = magnitude / 10
    factor = max(1 + sign * 0.9 * share, 0.1)
    width, height = image.size
    slope = sign * 0.3 * share
    angle = sign * 30 * share
    operations = {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Rotate": lambda: image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill_of(image)),
        "PosterizeIncreasing": lambda: posterize(image, 4 - int(share * 4)),
        "SolarizeIncreasing": lambda: ImageOps.solarize(image, 256 - int(share * 256)),
        "SolarizeAdd": lambda: solarize_add(image, int(share * 110)),
        "ColorIncreasing": lambda: ImageEnhance.Color(image).enhance(factor),
        "ContrastIncreasing": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "BrightnessIncreasing": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "SharpnessIncreasing": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "ShearX": lambda: affine(image, 1, slope, 0, 0, 1, 0),
        "ShearY": lambda: affine(image, 1, 0, 0, slope, 1, 0),
        "TranslateXRel": lambda: affine(image, 1, 0, sign * 0.45 * share * width, 0, 1, 0),
        "TranslateYRel": lambda: affine(image, 1, 0, 0, 0, 1, sign * 0.45 * share * height),
    }
    assert set(operations) == set(OPERATIONS)
    return operations[name]()


@jax.jit
def apply_jitted(operation, image, magnitude, sign):
    return apply_operation(
        operation, image, magnitude, sign, jnp.full(image.shape[-1], GREY, jnp.float32)
    )


def apply(name, pixels, magnitude, sign):
    numbers = (jnp.float32(magnitude), jnp.float32(sign))
    return np.asarray(
        apply_jitted(jnp.int32(OPERATIONS.index(name)), jnp.asarray(pixels, jnp.float32), *numbers)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_the_one_of_pillow(name, shape):
    pixels = picture(shape)
    for magnitude, sign in [(9.3, 1), (9.3, -1), (4.1, 1), (0.0, -1), (10.0, 1)]:
        expected = pixels_of(reference(name, pillow(pixels), magnitude, sign), shape)
        result = apply(name, pixels, magnitude, sign)
        assert result.dtype == np.float32
        difference = np.abs(result - expected.astype(np.float32))
        # Both round down, and a value that is a whole number up to rounding can fall on either
        # side.
        assert difference.max() <= 1, (magnitude, sign)
        assert (difference > 0).mean() < 0.1, (magnitude, sign)


@pytest.mark.parametrize("name", OPERATIONS)
def test_result_is_whole_numbers_up_to_255(name):
    for seed in range(3):
        result = apply(
            name, np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8), 9.0, 1
        )
        np.testing.assert_array_equal(result, np.clip(np.round(result), 0, 255))


@pytest.mark.parametrize(
    "name", ["AutoContrast", "Equalize", "SharpnessIncreasing", "ContrastIncreasing"]
)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_image(name, value):
    pixels = np.full((8, 8, 1), value, np.uint8)
    expected = pixels_of(reference(name, pillow(pixels), 9.0, 1), pixels.shape)
    np.testing.assert_array_equal(apply(name, pixels, 9.0, 1), expected)


def test_equalize_of_many_pixels():
    """With more than 255 pixels beside the brightest ones a histogram does get flat."""
    pixels = picture((64, 48, 1))
    expected = pixels_of(ImageOps.equalize(pillow(pixels)), pixels.shape)
    result = jax.jit(equalize)(jnp.asarray(pixels, jnp.float32))
    np.testing.assert_array_equal(result, expected)
    assert np.unique(expected).size > 50


def test_colour_leaves_grey_alone():
    pixels = picture((8, 8, 1))
    np.testing.assert_array_equal(apply("ColorIncreasing", pixels, 9.0, 1), pixels)


@pytest.mark.parametrize("shape", [(1, 5, 1), (2, 7, 4)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_unusual_shapes(name, shape):
    assert apply(name, picture(shape), 9.0, 1).shape == shape


def test_warp_by_the_identity():
    pixels = jnp.asarray(picture((7, 5, 3)), jnp.float32)
    identity = jnp.eye(2, 3, dtype=jnp.float32)
    np.testing.assert_array_equal(
        jax.jit(warp)(pixels, identity, jnp.zeros(3, jnp.float32)), pixels
    )


def test_warp_by_whole_pixels_shifts_and_fills():
    pixels = picture((4, 5, 1))
    matrix = jnp.array([[1, 0, 2], [0, 1, -1]], jnp.float32)
    expected = np.full((4, 5, 1), 9.0)
    expected[1:, :3] = pixels[:3, 2:]
    np.testing.assert_array_equal(
        jax.jit(warp)(jnp.asarray(pixels, jnp.float32), matrix, jnp.full(1, 9, jnp.float32)),
        expected,
    )


class TestRandAugment:
    IMAGE = jnp.asarray(picture((8, 8, 3)), jnp.float32)
    FILL = jnp.full(3, GREY, jnp.float32)

    def draw(self, config, key, count=1000):
        one = lambda key: rand_augment(config, key, self.IMAGE, self.FILL)
        return np.asarray(jax.jit(jax.vmap(one))(jr.split(key, count)))

    def test_one_certain_layer_is_one_of_the_operations(self, getkey):
        results = self.draw(RandAugment(magnitude_std=0.0, layers=1, probability=1.0), getkey())
        pixels = np.asarray(self.IMAGE).astype(np.uint8)
        possible = {
            apply(name, pixels, 9.0, sign).tobytes() for name in OPERATIONS for sign in (-1, 1)
        }
        assert {
            result.tobytes() for result in results
        } == possible  # one of thirty is left out once in 10^13 times

    def test_half_of_the_operations_are_applied_with_varying_strength(self, getkey):
        results = self.draw(RandAugment(layers=1), getkey())
        unchanged = (results == np.asarray(self.IMAGE)).all((1, 2, 3)).mean()
        assert abs(unchanged - 0.5) < 7 * 0.5 / np.sqrt(len(results))
        assert len({result.tobytes() for result in results}) > 50

    def test_bad_values(self):
        with pytest.raises(ValueError, match=r"magnitude = 11.*0\.\.10"):
            RandAugment(magnitude=11.0)
        with pytest.raises(ValueError, match=r"magnitude_std = -1.*negative"):
            RandAugment(magnitude_std=-1.0)
        with pytest.raises(ValueError, match=r"layers = 0.*rand_augment=None"):
            RandAugment(layers=0)
        with pytest.raises(ValueError, match=r"probability = 1\.5"):
            RandAugment(probability=1.5)
