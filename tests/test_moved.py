"""What has left its place is found there for one version, with a notice."""

import importlib
import subprocess
import sys

import pytest

import hopmix
from hopmix import _moved


@pytest.mark.parametrize("old, new", _moved.PLACES.items())
def test_a_name_is_found_in_its_old_place(old, new):
    with pytest.warns(FutureWarning, match=rf"hopmix\.{old} is now {new}; the old name goes"):
        found = getattr(hopmix, old)
    module, _, name = new.rpartition(".")
    assert found is getattr(importlib.import_module(module), name)


@pytest.mark.quick
def test_names_that_were_two_by_case_alone():
    with pytest.warns(FutureWarning, match=r"is now hopmix.symmetry.measure_significance"):
        from hopmix import significance  # pyright: ignore[reportAttributeAccessIssue]
    assert significance is hopmix.symmetry.measure_significance


def test_the_notice_names_the_line_that_uses_the_old_name(tmp_path):
    script = tmp_path / "user.py"
    script.write_text("import hopmix as hm\n\nhm.flip_costs\n")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert f"{script}:3: FutureWarning: hopmix.flip_costs is now" in run.stderr


def test_old_names_are_not_listed():
    assert not set(dir(hopmix)) & set(_moved.PLACES)


def test_what_never_was_is_not_found():
    with pytest.raises(AttributeError, match="module hopmix has no attribute nothing"):
        hopmix.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from hopmix import nothing  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]
