"""What `make quick` runs: one row of each test that is marked, the same ones every time."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PROBE = """
import pytest
from hypothesis import given, strategies as st

rows = pytest.mark.parametrize("row", ["a", "b", "c"])
examples = []

@rows
@pytest.mark.quick
def test_first(row):
    pass

@rows
def test_unmarked(row):
    assert False

@rows
@pytest.mark.quick
def test_second(row):
    pass

@pytest.mark.quick
@given(st.floats())
def test_given(x):
    examples.append(x)

@pytest.mark.quick
def test_alone():
    assert 0 < len(examples) <= 3
"""


def test_one_row_of_each_marked_test_runs_and_no_other_file_is_read(tmp_path):
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_probe.py").write_text(PROBE)
    (tmp_path / "test_unmarked.py").write_text("raise RuntimeError('read')")
    command = [sys.executable, "-m", "pytest", "-v", "--quick", "-p", "no:cacheprovider"]
    place = ["--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run([*command, *place], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    passed = re.findall(r"::test_(\S+) PASSED", done.stdout)
    assert passed == ["first[a]", "second[b]", "given", "alone"]
