"""The family of mixers: each row is all that a kind of arm needs."""

import dataclasses
import re

import pytest

from hopmix.lab import config
from hopmix.lab.families.arm import Look
from hopmix.lab.families.mixers import BY_NAME, KINDS, REFERENCE
from hopmix.models.mixer import MixerConfig

DASHES = {"solid", "dash", "dot", "dashdot"}
MARKERS = {"circle", "square", "diamond", "triangle-up", "triangle-down"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_row_is_whole(kind):
    assert kind.title
    assert kind.about.endswith(".")
    assert kind.look.dash in DASHES
    assert kind.look.marker in MARKERS
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in kind.look.colours)
    assert len(kind.look.colours) > 1 or not kind.penalised, (
        "strengths are told apart by their shade"
    )
    model = MixerConfig((8, 8, 1), patch=2, dim=8, depth=1, classes=2, **kind.options)
    assert kind.penalised == (model.coupling == "broken")


def test_rows_differ_in_name_look_and_model():
    assert len(BY_NAME) == len(KINDS)
    assert len({kind.look for kind in KINDS}) == len(KINDS)
    assert len({str(sorted(kind.options.items())) for kind in KINDS}) == len(KINDS)
    assert REFERENCE in BY_NAME


def test_the_command_line_reads_the_rows():
    assert tuple(BY_NAME) == config.ARMS
    assert set(config.StudyConfig().arms) == {kind.name for kind in KINDS if kind.by_default}
    assert all(name in config.HELP_OF_ARMS for name in BY_NAME)
    # One kind for each that the baseline knows: the first of those that take as many operations.
    assert config.BENCH_ARMS == ("serial", "free", "broken", "symmetric")


def test_a_row_is_the_only_place_of_a_kind(monkeypatch):
    """A new kind of arm is laid out, named, drawn and explained from its row alone."""
    from hopmix.lab.study import arms
    from hopmix.plot.style import arm_styles

    look = Look(("#123456", "#abcdef"), "dash", "diamond")
    new = dataclasses.replace(
        BY_NAME["broken"], name="half", title="HalfMixer", about="New.", look=look
    )
    monkeypatch.setitem(BY_NAME, "half", new)
    monkeypatch.setattr(config, "ARMS", tuple(BY_NAME))
    made = arms.make_arms(config.StudyConfig(arms=("half",), lambdas=(0.0, 1.0)), (8, 8, 1), 2)
    assert [(arm.name, arm.title, arm.about) for arm in made] == [
        ("half λ=0", "HalfMixer λ=0", "New."),
        ("half λ=1", "HalfMixer λ=1", "New."),
    ]
    styles = arm_styles(labelled([arm.name for arm in made], ["half", "half"], [0.0, 1.0]))
    assert [(style.colour, style.dash) for style in styles.values()] == [
        ("#123456", "dash"),
        ("#abcdef", "dash"),
    ]


def labelled(names, kinds, strengths):
    import xarray as xr

    coords = {"arm": names, "kind": ("arm", kinds), "strength": ("arm", strengths)}
    return xr.DataArray([0.0] * len(names), dims="arm", coords=coords)
