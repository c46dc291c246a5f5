"""What has left its place is found there for one version, with a notice."""

import importlib
import sys

import pytest

from hopmix.lab import _moved


@pytest.mark.parametrize("old, new", _moved.MOVED.items())
def test_a_module_is_found_under_its_old_name(old, new, monkeypatch):
    monkeypatch.delitem(sys.modules, f"hopmix.lab.{old}", raising=False)
    with pytest.warns(FutureWarning, match=f"hopmix.lab.{old} is now {new}"):
        found = importlib.import_module(f"hopmix.lab.{old}")
    assert found is importlib.import_module(new)
    assert found.__name__ == new


def test_names_of_a_module_that_is_a_package_now():
    from hopmix.lab.data import study_data

    with pytest.warns(
        FutureWarning, match=r"hopmix.lab.data.load is now hopmix.lab.data.study_data.load"
    ):
        from hopmix.lab.data import load
    assert load is study_data.load


@pytest.mark.parametrize(
    "package, name",
    [
        ("bench", "run_bench"),
        ("data", "Data"),
        ("report", "write_report"),
        ("study", "prepare"),
        ("train", "make_optimiser"),
        ("verify", "load_run"),
    ],
)
def test_names_of_every_package_that_was_a_module(package, name):
    with pytest.warns(FutureWarning, match=f"hopmix.lab.{package}.{name} is now"):
        found = getattr(importlib.import_module(f"hopmix.lab.{package}"), name)
    assert found.__module__.startswith(f"hopmix.lab.{package}.")


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("hopmix.lab.nowhere")
    with pytest.raises(AttributeError, match="no attribute nothing"):
        importlib.import_module("hopmix.lab.data").nothing  # noqa: B018
