import dataclasses
import re

import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import equations

from hopmix.lab.data.augment import (
    Augment,
    augment,
    mix,
    normalise,
    random_crop,
    random_erase,
    random_flip,
)
from hopmix.lab.data.randaugment import RandAugment

MEAN, STD = np.array([[0.2, 0.5, 0.7], [0.1, 0.3, 0.25]], np.float32)
AUGMENT = jax.jit(augment, static_argnums=(0, 4))


def pictures(batch=6, shape=(8, 10, 3), seed=0):
    return jnp.asarray(
        np.random.default_rng(seed).integers(0, 256, (batch, *shape)).astype(np.uint8)
    )


def apply(config, key, images, labels=None, classes=4):
    labels = jnp.arange(len(images)) % classes if labels is None else labels
    colours = images.shape[-1]
    return AUGMENT(config, key, images, labels, classes, MEAN[:colours], STD[:colours])


def primitives(config, images):
    """The names of all operations in the program, inner programs included."""
    program = jax.make_jaxpr(lambda key: apply(config, key, images))(jr.key(0))
    return {equation.primitive.name for equation in equations(program.jaxpr)}


class TestConfiguration:
    def test_none_is_everything_off(self):
        assert Augment.none() == Augment()
        assert not any(dataclasses.astuple(Augment.none()))

    @pytest.mark.parametrize("height, border", [(8, 1), (28, 3), (32, 4), (4, 1)])
    def test_light(self, height, border):
        assert Augment.light((height, height, 1)) == Augment(crop=border, label_smoothing=0.1)

    @pytest.mark.parametrize(
        "size, borders", [((64, 4), (8, 1)), ((8, 64), (1, 8)), ((2, 1), (1, 0)), ((1, 1), (0, 0))]
    )
    def test_each_side_has_a_border_of_its_own(self, size, borders):
        assert Augment.light((*size, 1)).borders == Augment.paper((*size, 3)).borders == borders

    def test_one_number_is_for_both_sides(self):
        assert Augment(crop=3).borders == (3, 3)

    def test_paper_is_the_reference_recipe(self):
        expected = Augment(
            flip=0.5,
            crop=4,
            mixup=0.8,
            cutmix=1.0,
            erase=0.25,
            rand_augment=RandAugment(9.0, 0.5, 2),
            label_smoothing=0.1,
        )
        assert Augment.paper() == Augment.paper((32, 32, 3)) == expected

    @pytest.mark.parametrize(
        "name, value", [("flip", -0.1), ("erase", 1.1), ("label_smoothing", 2.0)]
    )
    def test_probabilities(self, name, value):
        with pytest.raises(ValueError, match=rf"{name} = {value} is no probability.*0\.\.1"):
            Augment(**{name: value})

    @pytest.mark.parametrize(
        "name, value", [("crop", -1), ("crop", (2, -1)), ("mixup", -0.5), ("cutmix", float("inf"))]
    )
    def test_sizes(self, name, value):
        with pytest.raises(
            ValueError, match=rf"{name} = {re.escape(str(value))} is negative or not finite"
        ):
            Augment(**{name: value})


class TestNormalise:
    def test_formula(self):
        images = pictures()
        result = normalise(images, MEAN, STD)
        assert result.dtype == jnp.float32
        expected = (np.asarray(images) / 255 - MEAN) / STD
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)

    def test_statistics_may_be_double(self):
        images = pictures()
        result = normalise(images, MEAN.astype(np.float64), jnp.asarray(STD, jnp.float64))
        np.testing.assert_array_equal(result, normalise(images, MEAN, STD))


class TestAugment:
    def test_none_normalises(self, getkey):
        images = pictures()
        pixels, targets = apply(Augment.none(), getkey(), images)
        np.testing.assert_allclose(pixels, normalise(images, MEAN, STD), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(targets, np.eye(4)[[0, 1, 2, 3, 0, 1]])

    @pytest.mark.parametrize("preset, colours", [("none", 3), ("light", 1), ("paper", 3)])
    def test_types_and_sums(self, getkey, preset, colours):
        images = pictures(shape=(8, 10, colours))
        config = Augment.none() if preset == "none" else getattr(Augment, preset)((8, 10, colours))
        pixels, targets = apply(config, getkey(), images)
        assert (pixels.dtype, pixels.shape) == (jnp.float32, images.shape)
        assert (targets.dtype, targets.shape) == (jnp.float32, (6, 4))
        assert images.dtype == jnp.uint8
        assert np.isfinite(pixels).all()
        assert (np.asarray(targets) >= 0).all()
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)

    def test_same_key_same_batch(self, getkey):
        images = pictures()
        config = Augment.paper((8, 10, 3))
        key = getkey()
        first = apply(config, key, images)
        same = apply(config, key, images)
        other = apply(config, getkey(), images)
        for a, b in zip(first, same):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(
            first[0], other[0]
        )  # the shares of two boxes, which are the labels, may be equal

    def test_population_is_its_members(self, getkey):
        images = jnp.stack([pictures(seed=seed) for seed in range(3)])
        config = Augment.paper((8, 10, 3))
        keys = jr.split(getkey(), 3)
        together = jax.jit(jax.vmap(lambda key, images: apply(config, key, images)))(keys, images)
        alone = [apply(config, key, images) for key, images in zip(keys, images)]
        for member in range(3):
            for a, b in zip(together, alone[member]):
                np.testing.assert_allclose(a[member], b, rtol=1e-5, atol=1e-5)

    def test_what_is_off_is_not_in_the_program(self):
        drawing = {"random_bits"}
        moving = {"gather", "dynamic_slice", "pad", "rev"}
        assert not primitives(Augment.none(), pictures()) & (drawing | moving | {"scan", "while"})
        light = primitives(Augment.light((8, 10, 3)), pictures())
        assert drawing <= light
        assert not light & {"scan", "while", "erf_inv", "scatter-add", "exp", "log"}

    def test_label_smoothing(self, getkey):
        _, targets = apply(Augment(label_smoothing=0.2), getkey(), pictures())
        expected = np.where(np.eye(4)[[0, 1, 2, 3, 0, 1]] == 1, 0.85, 0.05)
        np.testing.assert_allclose(targets, expected, rtol=1e-6)

    def test_rand_augment_fills_with_the_mean_colour(self, getkey):
        """An image of the mean colour looks the same wherever it is moved."""
        mean = np.array([51, 102, 204], np.float32) / 255
        images = jnp.broadcast_to(jnp.asarray([51, 102, 204], jnp.uint8), (200, 8, 8, 3))
        config = Augment(rand_augment=RandAugment(layers=1))
        labels = jnp.zeros(200, jnp.int32)
        pixels, _ = AUGMENT(config, getkey(), images, labels, 2, mean, np.ones(3, np.float32))
        spread = np.asarray(pixels).max((1, 2)) - np.asarray(pixels).min((1, 2))
        np.testing.assert_array_equal(spread, 0)


class TestCrop:
    def test_is_a_window_of_the_framed_image(self, getkey):
        images = pictures(batch=700, shape=(5, 6, 2))  # one of 25 is left out once in 10^11 times
        results = np.asarray(random_crop(getkey(), images, 2))
        assert results.dtype == np.uint8
        framed = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
        places = set()
        for frame, result in zip(framed, results):
            found = [
                (y, x)
                for y in range(5)
                for x in range(5)
                if np.array_equal(frame[y : y + 5, x : x + 6], result)
            ]
            assert len(found) == 1
            places.add(found[0])
        assert len(places) == 25

    def test_border_zero_is_the_identity(self, getkey):
        images = pictures()
        np.testing.assert_array_equal(random_crop(getkey(), images, 0), images)

    @pytest.mark.parametrize("shape", [(64, 4), (512, 16), (4, 64)])
    def test_of_a_thin_image_at_least_half_is_left(self, getkey, shape):
        config = Augment.light((*shape, 1))
        images = jnp.full((300, *shape, 1), 200, jnp.uint8)
        left = (np.asarray(random_crop(getkey(), images, config.borders)) > 0).mean((1, 2, 3))
        assert left.min() >= 0.75 * 0.75  # an eighth less on each side, or one of four pixels

    def test_borders_of_two_sides_differ(self, getkey):
        images = pictures(batch=400, shape=(5, 6, 1))
        results = np.asarray(random_crop(getkey(), images, (0, 2)))
        framed = np.pad(images, ((0, 0), (0, 0), (2, 2), (0, 0)))
        places = set()
        for frame, result in zip(framed, results):
            found = [x for x in range(5) if np.array_equal(frame[:, x : x + 6], result)]
            assert len(found) == 1
            places.add(found[0])
        assert places == set(range(5))


class TestFlip:
    def test_mirrors_some_images_left_to_right(self, getkey):
        images = np.asarray(pictures(batch=400))
        results = np.asarray(random_flip(getkey(), jnp.asarray(images), 0.3))
        assert results.dtype == np.uint8
        same = (results == images).all((1, 2, 3))
        mirrored = (results == images[:, :, ::-1]).all((1, 2, 3))
        assert (same ^ mirrored).all()
        assert abs(mirrored.mean() - 0.3) < 7 * np.sqrt(0.3 * 0.7 / 400)

    @pytest.mark.parametrize("probability, step", [(0.0, 1), (1.0, -1)])
    def test_certainty(self, getkey, probability, step):
        images = pictures()
        np.testing.assert_array_equal(
            random_flip(getkey(), images, probability), images[:, :, ::step]
        )


class TestMix:
    """Image i has the value i everywhere, so that a pixel tells where it comes from."""

    BATCH = 5
    SHAPE = (6, 8, 1)
    IMAGES = jnp.broadcast_to(jnp.arange(5, dtype=jnp.float32)[:, None, None, None], (5, 6, 8, 1))
    TARGETS = jnp.eye(5, dtype=jnp.float32)

    def draw(self, key, mixup, cutmix, count=300):
        one = lambda key: mix(key, self.IMAGES, self.TARGETS, mixup, cutmix)
        images, targets = jax.jit(jax.vmap(one))(jr.split(key, count))
        return np.asarray(images), np.asarray(targets)

    def test_mixup(self, getkey):
        images, targets = self.draw(getkey(), 0.8, 0.0)
        share = targets[:, 0, 0]
        np.testing.assert_allclose(targets[:, 0, 4], 1 - share, atol=1e-6)
        np.testing.assert_allclose(
            images[:, 0],
            np.broadcast_to(4 * (1 - share[:, None, None, None]), images[:, 0].shape),
            atol=1e-5,
        )
        np.testing.assert_allclose(images[:, 2], 2, atol=1e-5)  # its own partner
        deviation = 0.5 / np.sqrt(2 * 0.8 + 1)  # of Beta(a, a)
        assert abs(share.mean() - 0.5) < 7 * deviation / np.sqrt(len(share))
        assert abs(share.std() - deviation) < 0.06

    def test_cutmix_label_is_the_share_of_pixels(self, getkey):
        images, targets = self.draw(getkey(), 0.0, 1.0)
        foreign = images[:, 0, ..., 0] == 4
        assert np.isin(images[:, 0], (0, 4)).all()
        np.testing.assert_allclose(targets[:, 0, 4], foreign.mean((1, 2)), atol=1e-6)
        np.testing.assert_array_equal(
            targets[:, 2], np.broadcast_to(self.TARGETS[2], targets[:, 2].shape)
        )
        rows = foreign.any(2)
        columns = foreign.any(1)
        np.testing.assert_array_equal(foreign, rows[:, :, None] & columns[:, None])  # a box
        assert (np.abs(np.diff(rows, axis=1)).sum(1) <= 2).all()  # without gaps
        assert (np.abs(np.diff(columns, axis=1)).sum(1) <= 2).all()
        assert rows.any(0).all()
        assert columns.any(0).all()

    def test_both_take_turns(self, getkey):
        images, targets = self.draw(getkey(), 0.8, 1.0, 400)
        cut = np.isin(images[:, 0], (0, 4)).all((1, 2, 3))
        assert abs(cut.mean() - 0.5) < 7 * 0.5 / np.sqrt(400)
        np.testing.assert_allclose(images[:, 0].mean((1, 2, 3)), 4 * targets[:, 0, 4], atol=1e-5)


ERASE = jax.jit(random_erase, static_argnums=2)


class TestErase:
    SHAPE = (16, 20)

    def draw(self, key, probability, count=1000):
        return np.asarray(ERASE(key, jnp.zeros((count, *self.SHAPE, 2), jnp.float32), probability))

    def test_fills_boxes_with_noise(self, getkey):
        results = self.draw(getkey(), 1.0)
        assert results.dtype == np.float32
        erased = (results != 0).all(-1)
        np.testing.assert_array_equal(erased, (results != 0).any(-1))
        rows = erased.any(2)
        columns = erased.any(1)
        np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None])
        assert (np.abs(np.diff(rows, axis=1)).sum(1) <= 2).all()
        assert (np.abs(np.diff(columns, axis=1)).sum(1) <= 2).all()
        noise = results[results != 0]
        assert abs(noise.mean()) < 7 / np.sqrt(noise.size)
        assert abs(noise.std() - 1) < 7 / np.sqrt(2 * noise.size)

    def test_area_and_aspect(self, getkey):
        erased = (self.draw(getkey(), 1.0) != 0).all(-1)
        height = erased.any(2).sum(1)
        width = erased.any(1).sum(1)
        assert (height > 0).all()
        # Each side is rounded by up to half a pixel.
        assert ((height - 0.5) * (width - 0.5) <= 320 / 3).all()
        assert ((height + 0.5) * (width + 0.5) >= 0.02 * 320).all()
        assert ((height - 0.5) / (width + 0.5) <= 1 / 0.3).all()
        assert ((height + 0.5) / (width - 0.5) >= 0.3).all()
        assert abs((height * width).mean() / 320 - (0.02 + 1 / 3) / 2) < 0.03
        assert abs(np.log(height / width).mean()) < 0.2

    def test_every_place_can_be_hit(self, getkey):
        erased = (self.draw(getkey(), 1.0) != 0).all(-1)
        assert erased.any((0, 1)).all()
        assert erased.any((0, 2)).all()

    def test_probability(self, getkey):
        erased = (self.draw(getkey(), 0.25) != 0).any((1, 2, 3))
        assert abs(erased.mean() - 0.25) < 7 * np.sqrt(0.25 * 0.75 / 1000)
        assert not self.draw(getkey(), 0.0).any()

    def test_keeps_the_rest(self, getkey):
        images = normalise(pictures(batch=50), MEAN, STD)
        results = np.asarray(ERASE(getkey(), images, 1.0))
        assert 0.6 < (results == np.asarray(images)).mean() < 0.99
