import dataclasses
import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from hopmix import couplings
from hopmix.lab.config import ARMS, StudyConfig
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.study.arms import default_patch, few_tokens, make_arms


def test_broken_stands_for_one_arm_per_lambda():
    arms = make_arms(StudyConfig(arms=("free", "broken"), lambdas=(0.0, 0.5)), (8, 8, 1), 10)
    assert [arm.name for arm in arms] == ["free", "broken λ=0", "broken λ=0.5"]
    assert [arm.title for arm in arms] == ["ParaMixer", "AsymMixer λ=0", "AsymMixer λ=0.5"]
    assert [arm.strength for arm in arms] == [None, 0.0, 0.5]


def test_names_tell_close_strengths_apart():
    arms = make_arms(StudyConfig(arms=("broken",), lambdas=(1e-4, 1.0000001e-4)), (8, 8, 1), 10)
    assert [arm.name for arm in arms] == ["broken λ=0.0001", "broken λ=0.00010000001"]


def test_arms_that_differ_in_numbers_only_share_a_form():
    arms = {
        arm.kind: arm for arm in make_arms(StudyConfig(arms=ARMS, lambdas=(1.0,)), (8, 8, 1), 10)
    }
    shared = {arms[kind].form for kind in ("free", "broken", "broken-xavier")}
    assert len(shared) == 1
    assert len({arms[kind].form for kind in ("serial", "free", "symmetric", "symmetric-wide")}) == 4


def test_an_arm_of_users_own_shares_the_form_of_a_tree_that_is_equal(getkey):
    width = 5
    make = {
        activation: partial(_own, width, activation) for activation in (jax.nn.relu, jax.nn.gelu)
    }
    one, other = (Arm("own", "own", "own", "", m) for m in make.values())
    again = Arm("again", "own", "own", "", partial(_own, width, jax.nn.relu), strength=0.1)
    assert one.form == again.form
    assert one.form != other.form
    assert one.form != Arm("wide", "own", "own", "", partial(_own, 6, jax.nn.relu)).form


def _own(width, activation, key):
    return eqx.nn.MLP(4, 2, width, 1, activation, key=key)


def test_what_makes_each_arm(getkey):
    key = getkey()
    arms = make_arms(StudyConfig(arms=ARMS, lambdas=(1.0,)), (8, 8, 1), 10)
    models = {arm.kind: arm.make(key) for arm in arms}
    configs = {kind: model.config for kind, model in models.items()}
    assert configs["serial"].block == "serial"
    assert configs["serial"].bias
    assert {configs[kind].block for kind in ARMS if kind != "serial"} == {"parallel"}
    assert configs["symmetric-wide"].hidden == tuple(
        2 * width for width in configs["symmetric"].hidden
    )
    assert all(jnp.all(coupling.breaking == 0) for coupling in couplings(models["broken"]))
    assert all(jnp.any(coupling.breaking != 0) for coupling in couplings(models["broken-xavier"]))


def test_published_sizes():
    (arm,) = make_arms(StudyConfig(arms=("free",), size="B/16"), (224, 224, 3), 10)
    model = arm.shapes.config
    assert (model.depth, model.dim, model.tokens) == (12, 768, 196)
    (arm,) = make_arms(StudyConfig(arms=("free",), size="S/16", patch=4, depth=2), (32, 32, 3), 10)
    model = arm.shapes.config
    assert (model.dim, model.tokens, model.depth) == (512, 64, 2)


@pytest.mark.parametrize("side, patch", [(8, 2), (28, 4), (32, 4), (224, 28)])
def test_default_patch_leaves_at_most_64_tokens(side, patch):
    assert default_patch(side, side) == patch


def test_patch_that_does_not_divide_the_image():
    with pytest.raises(
        UsageError,
        match=r"patch 3 does not divide the image height of 8 pixels; use one of \[1, 2, 4, 8\]",
    ):
        make_arms(StudyConfig(patch=3), (8, 8, 1), 10)


@pytest.mark.parametrize(
    "size", [(7, 11), (7, 7), (13, 13), (28, 30), (2, 2), (2, 1), (1, 16), (3, 1000)]
)
def test_without_a_default_patch_one_that_works_is_told(size):
    with pytest.raises(
        UsageError, match=f"patch: no square patch .*{size[0]} x {size[1]}.*--resize"
    ) as error:
        default_patch(*size)
    example = str(error.value).partition("such as --patch ")[2]
    sides = [int(side) for side in re.findall(r"\d+", example)]
    patch = sides[0] if len(sides) == 1 else (sides[0], sides[1])
    (arm,) = make_arms(StudyConfig(arms=("free",), patch=patch), (*size, 1), 2)
    assert 2 <= arm.shapes.config.tokens <= 64


def test_an_image_of_one_pixel_has_no_patch():
    with pytest.raises(UsageError, match=r"patch: .*1 x 1 images.*--resize"):
        default_patch(1, 1)


def test_patch_of_two_sides():
    (arm,) = make_arms(StudyConfig(arms=("free",), patch=(4, 2)), (8, 8, 1), 10)
    assert arm.shapes.config.patch_size == (4, 2)
    assert arm.shapes.config.tokens == 8


@pytest.mark.parametrize(
    "config", [StudyConfig(arms=("free",)), StudyConfig(arms=("free",), size="S/32")]
)
def test_one_token_is_refused_unless_asked_for(config):
    side = 32 if config.size else 7
    with pytest.raises(UsageError, match="patch: "):
        make_arms(config, (side, side, 1), 2)
    (arm,) = make_arms(dataclasses.replace(config, patch=side), (side, side, 1), 2)
    assert arm.shapes.config.tokens == 1


@pytest.mark.parametrize("patch, told", [(8, "one token"), ((4, 8), "only 2 tokens")])
def test_few_tokens_are_told(patch, told):
    (line,) = few_tokens(StudyConfig(arms=("free", "symmetric"), patch=patch), (8, 8, 1), 10)
    assert told in line


@pytest.mark.parametrize("patch", [4, 2, (2, 8)])
def test_of_four_tokens_nothing_is_told(patch):
    assert few_tokens(StudyConfig(arms=("free",), patch=patch), (8, 8, 1), 10) == []
