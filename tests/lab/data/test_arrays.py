"""Arrays whose range or layout may be taken for another are refused, or what is made of them is
told.
"""

import numpy as np
import pytest
from lab.pictures import all_images, fails, noise, told

from hopmix.lab.data.study_data import load

LABELS = np.arange(20) % 2
GREY = noise((20, 6, 5))


def save(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return str(folder / "a.npz")


def alone(folder, images):
    return save(folder, images=images, labels=LABELS)


def with_test(folder, train, test):
    return save(folder, x_train=train, y_train=LABELS, x_test=test, y_test=LABELS)


def stretched(low, high):
    """Fractions from one value to another."""
    images = GREY / 255
    return (low + (high - low) * (images - images.min()) / (images.max() - images.min())).astype(
        np.float32
    )


@pytest.mark.parametrize("low, high", [(0, 1.02), (-0.05, 1.04), (0, 1.9), (-0.9, 1.5)])
def test_fractions_that_overshoot(folder, low, high):
    fails(alone(folder, stretched(low, high)), "'images'", f"to {high:.3g}", "clip them to 0..1")


@pytest.mark.parametrize("low, high", [(0, 1.0005), (-0.0005, 1), (-1e-7, 1 + 1e-6)])
def test_what_overshoots_by_rounding_is_clipped_and_told(folder, low, high):
    images = stretched(low, high)
    data = load(alone(folder, images))
    expected = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    assert {image.tobytes() for image in all_images(data)} == {
        image.tobytes() for image in expected
    }
    assert told(data, "clipped to 0..1")
    assert not told(load(alone(folder, stretched(0, 1))), "clipped")


def test_few_levels_above_one_are_levels(folder):
    images = (GREY % 3).astype(np.float32)
    assert all_images(load(alone(folder, images))).max() == 2


@pytest.mark.parametrize("high", [1.02, 1.9])
def test_a_test_split_that_overshoots(folder, high):
    fails(with_test(folder, stretched(0, 1), stretched(0, high)), "'x_test'", "one range")


def test_a_test_split_that_overshoots_by_rounding(folder):
    test = stretched(0, 1.0005)
    data = load(with_test(folder, stretched(0, 0.9), test))
    assert told(data, "array x_test")
    np.testing.assert_array_equal(data.test().images[..., 0], np.rint(np.clip(test, 0, 1) * 255))


@pytest.mark.parametrize("train", [GREY, GREY.astype(float), GREY.astype(int)])
@pytest.mark.parametrize("test", [stretched(0, 1), stretched(0, 0.9), GREY > 127])
def test_fractions_beside_bytes_do_not_become_black(folder, train, test):
    fails(with_test(folder, train, test), "'x_test'", "0..255", "one range")


@pytest.mark.parametrize(
    "shape",
    [(3, 4, 4), (3, 8, 3), (3, 3, 3), (1, 8, 3), (3, 8, 1), (1, 8, 1), (1, 4, 4), (1, 1, 3)],
)
def test_two_layouts(folder, shape):
    fails(
        alone(folder, noise((20, *shape))),
        f"(20, {', '.join(map(str, shape))})",
        "transpose it",
        "neither 1 nor 3",
    )


@pytest.mark.parametrize(
    "shape, image",
    [
        ((4, 3, 3), (4, 3, 3)),
        ((8, 3, 1), (8, 3, 1)),
        ((3, 8, 8), (8, 8, 3)),
        ((8, 1, 4), (8, 1, 3)),
    ],
)
def test_one_layout(folder, shape, image):
    assert load(alone(folder, noise((20, *shape)))).image_shape == image


def test_single_pixels_are_the_same_in_both(folder):
    assert load(alone(folder, np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1))).image_shape == (
        1,
        1,
        1,
    )
