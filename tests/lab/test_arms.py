import pytest

from hopmix.lab.arms import default_patch, make_arms
from hopmix.lab.config import ARMS, StudyConfig, UsageError


def test_broken_stands_for_one_arm_per_lambda():
    arms = make_arms(StudyConfig(arms=("free", "broken"), lambdas=(0.0, 0.5)), (8, 8, 1), 10)
    assert [arm.name for arm in arms] == ["free", "broken λ=0", "broken λ=0.5"]
    assert [arm.paper_name for arm in arms] == ["ParaMixer", "AsymMixer λ=0", "AsymMixer λ=0.5"]
    assert [arm.penalty for arm in arms] == [0.0, 0.0, 0.5]


def test_names_tell_close_strengths_apart():
    arms = make_arms(StudyConfig(arms=("broken",), lambdas=(1e-4, 1.0000001e-4)), (8, 8, 1), 10)
    assert [arm.name for arm in arms] == ["broken λ=0.0001", "broken λ=0.00010000001"]


def test_arms_that_differ_in_numbers_only_share_a_structure():
    arms = {arm.kind: arm for arm in make_arms(StudyConfig(arms=ARMS, lambdas=(1.0,)), (8, 8, 1), 10)}
    shared = {arms[kind].structure for kind in ("free", "broken", "broken-xavier")}
    assert len(shared) == 1
    assert len({arms[kind].structure for kind in ("serial", "free", "symmetric", "symmetric-wide")}) == 4


def test_what_makes_each_arm():
    arms = {arm.kind: arm.model for arm in make_arms(StudyConfig(arms=ARMS, lambdas=(1.0,)), (8, 8, 1), 10)}
    assert arms["serial"].block == "serial"
    assert arms["serial"].bias
    assert {arms[kind].block for kind in ARMS if kind != "serial"} == {"parallel"}
    assert (arms["broken"].breaking, arms["broken-xavier"].breaking) == ("zeros", "xavier")
    assert arms["symmetric-wide"].hidden == tuple(2 * width for width in arms["symmetric"].hidden)


def test_published_sizes():
    (arm,) = make_arms(StudyConfig(arms=("free",), size="B/16"), (224, 224, 3), 10)
    assert (arm.model.depth, arm.model.dim, arm.model.tokens) == (12, 768, 196)
    (arm,) = make_arms(StudyConfig(arms=("free",), size="S/16", patch=4, depth=2), (32, 32, 3), 10)
    assert (arm.model.dim, arm.model.tokens, arm.model.depth) == (512, 64, 2)


@pytest.mark.parametrize("side, patch", [(8, 2), (28, 4), (32, 4), (224, 28)])
def test_default_patch_leaves_at_most_64_tokens(side, patch):
    assert default_patch(side, side) == patch


def test_patch_that_does_not_divide_the_image():
    with pytest.raises(
        UsageError, match=r"patch 3 does not divide the image height of 8 pixels; use one of \[1, 2, 4, 8\]"
    ):
        make_arms(StudyConfig(patch=3), (8, 8, 1), 10)
    with pytest.raises(UsageError, match="no square patch"):
        default_patch(7, 11)
