import dataclasses

import pytest

from hopmix.lab.config import PAPER_LAMBDAS, StudyConfig, check_sides
from hopmix.lab.errors import UsageError


def test_json_round_trip_keeps_configuration_and_digest():
    config = StudyConfig(arms=("free", "broken"), lambdas=(0.5,), patch=4, seeds=3)
    again = StudyConfig.from_json(config.to_json())
    assert again == config
    assert again.digest == config.digest


def test_digest_tells_configurations_apart():
    assert StudyConfig().digest != StudyConfig(epochs=31).digest


def test_the_papers_grid_is_that_of_its_code():
    assert (
        StudyConfig(paper_lambdas=True).grid
        == PAPER_LAMBDAS
        == (0.0, 1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 1e-2, 1e-1, 1.0)
    )


@pytest.mark.parametrize(
    "field, value, cure",
    [
        ("arms", ("sideways",), "serial, free, broken"),
        ("arms", (), "one or more of"),
        ("arms", ("free", "free"), "without repetition"),
        ("lambdas", (-1.0,), "0 or more"),
        ("lambdas", (float("nan"),), "float32 holds"),
        ("lambdas", (), "at least one number"),
        ("seeds", 0, "at least 1"),
        ("first_seed", -1, "0 or more"),
        ("dim", 0, "at least 1"),
        ("depth", -2, "at least 1"),
        ("patch", 0, "at least 1"),
        ("patch", (2, 0), "at least 1"),
        ("resize", 0, "at least 1"),
        ("resize", (-1, 8), "at least 1"),
        ("resize", 10**6, "at most 65536"),
        ("resize", 10**400, "at most 2,147,483,647"),
        ("epochs", 0, "at least 1"),
        ("batch", 0, "at least 1"),
        ("measurements", 0, "at least 1"),
        ("members_at_once", 0, "at least 1"),
        ("learning_rate", 0.0, "positive"),
        ("learning_rate", float("inf"), "float32 holds"),
        ("weight_decay", -0.1, "0 or more"),
        ("clip", 0.0, "positive"),
        ("warmup", 1.0, "share of the steps"),
        ("drop_path", 1.0, "a probability"),
    ],
)
def test_bad_values_name_the_field_and_the_cure(field, value, cure):
    with pytest.raises(UsageError, match=cure) as error:
        StudyConfig(**{field: value})
    assert str(error.value).startswith(f"{field}: got ")


@pytest.mark.parametrize("sides", [(), (2,), (2, 2, 2)])  # as an edited study.json may have them
def test_sides_are_two(sides):
    with pytest.raises(UsageError, match=r"^patch: got .*one number or two, height and width"):
        check_sides("patch", sides)


def test_unknown_fields_of_a_stored_study_are_refused():
    with pytest.raises(UsageError, match="another version"):
        StudyConfig.from_json(StudyConfig().to_json() | {"dropout": 0.1})


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StudyConfig().seeds = 3  # pyright: ignore[reportAttributeAccessIssue]
