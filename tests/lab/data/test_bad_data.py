"""A part of the drill of bad data: each of them is refused in one line, or loaded."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "experiments" / "reliability"
EVERY = 5


@pytest.fixture(scope="module")
def drill():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("bad_data")
    sys.path.remove(str(FOLDER))


def test_there_are_enough_cases_of_both_kinds(drill):
    kinds = [name.partition(":")[0] for name in drill.MAKERS]
    assert set(kinds) == {"refused", "loaded"}
    assert kinds.count("refused") >= 90
    assert kinds.count("loaded") >= 40


@pytest.mark.usefixtures("private_cache")
def test_a_part_of_them_ends_as_it_should(drill, tmp_path, monkeypatch, capsys, as_in_a_study):
    from hopmix.lab import cli
    from hopmix.lab.study import dry_run

    monkeypatch.setattr(dry_run, "estimate", lambda study: dry_run.Estimate(0.0, 0.0, 0))
    monkeypatch.setattr(drill, "MAKERS", dict(list(drill.MAKERS.items())[::EVERY]))
    wrong = {}
    for name, arguments in drill.cases(tmp_path):
        capsys.readouterr()
        code = cli.run(arguments)
        told = drill.fault(name, code, *capsys.readouterr())
        wrong |= {name: told} if told else {}
    assert wrong == {}


@pytest.mark.parametrize(
    "name, code, out, err",
    [
        ("refused: x", 0, "fine", ""),
        ("refused: x", 2, "", "hopmix: a\nhopmix: b"),
        ("refused: x", 2, "", "hopmix: a\nTraceback"),
        ("refused: x", 1, "", "hopmix: a"),
        ("refused: x", 2, "", "a"),
        ("loaded: x", 2, "", "hopmix: a"),
        ("loaded: x", 0, "fine", "a warning"),
    ],
)
def test_a_wrong_end_is_seen(drill, name, code, out, err):
    assert drill.fault(name, code, out, err)


def test_a_right_end_is_seen(drill):
    assert drill.fault("refused: x", 2, "", "hopmix: data = 3; give another\n") is None
    assert drill.fault("loaded: x", 0, "fine", "") is None
