"""Notebooks run as they stand; what they claim, they assert themselves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.py")))
def test_the_notebook_runs(name, tmp_path):
    # A process of its own: the notebooks are for JAX as users have it, not for the strict mode of
    # the tests.
    environment = os.environ | {"MPLBACKEND": "Agg", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, str(NOTEBOOKS / name)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def test_each_derivation_takes_under_ten_lines():
    text = (NOTEBOOKS / "01_from_energy_to_layer.py").read_text("utf-8")
    sections = dict(re.findall(r"^# ## (.+?)$.*?^# %%\n(.*?)^# %%", text, re.DOTALL | re.MULTILINE))
    for title in (
        "Energy Transformer",
        "Symmetric ResMLP",
        "Symmetric pooling former",
        "Symmetric convolutional mixer",
    ):
        lines = [line for line in sections[title].splitlines() if line.strip()]
        assert 0 < len(lines) < 10
        assert any("derive_block" in line for line in lines)
