"""What the numbers of a test depend on: the seed and its name, in one run for many seeds as in a
single one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import json, os
import jax.random as jr
import pytest
from hypothesis import given, strategies as st

def say(**found):
    with open(os.environ["PROBE"], "a") as file:
        file.write(json.dumps(found) + "\\n")

@pytest.fixture
def drawn(getkey):
    return float(jr.uniform(getkey()))

@pytest.mark.parametrize("row", ["a", "b"])
def test_drawn(row, drawn, run_seed):
    say(name=f"drawn {row}", seed=run_seed, value=drawn)

def test_fixed(fixedkey, run_seed):
    say(name="fixed", seed=run_seed, value=float(jr.uniform(fixedkey())))

@given(st.floats())
def test_given(x):
    say(name="given", seed=None, value=repr(x))
"""


def run(folder: Path, seeds: str | None) -> list[dict]:
    """What the probe says under this setup of the tests, for no, one or several seeds."""
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "conftest.py", folder)
    (folder / "test_probe.py").write_text(PROBE)
    said = folder / "said.json"
    kept = {name: value for name, value in os.environ.items() if name != "HOPMIX_TEST_SEED"}
    environment = (
        kept | {"PROBE": str(said)} | ({} if seeds is None else {"HOPMIX_TEST_SEED": seeds})
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        str(folder),
    ]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"Numbers drawn with HOPMIX_TEST_SEED={seeds or 0}" in done.stdout
    return [json.loads(line) for line in said.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str | None, list[dict]]:
    folder = tmp_path_factory.mktemp("probes")
    return {seeds: run(folder / f"{seeds}", seeds) for seeds in (None, "7", "7,8")}


def values(found: list[dict], name: str, seed: int | None = None) -> list:
    return [one["value"] for one in found if one["name"] == name and seed in (None, one["seed"])]


def test_a_seed_gives_the_same_numbers_alone_and_among_others(runs):
    for row in ("drawn a", "drawn b"):
        assert values(runs["7"], row) == values(runs["7,8"], row, 7)
    assert len({one["value"] for one in runs["7,8"] if one["name"].startswith("drawn")}) == 4


def test_without_a_seed_the_numbers_are_those_of_zero(runs):
    assert {one["seed"] for one in runs[None] if one["seed"] is not None} == {0}
    assert values(runs[None], "drawn a") != values(runs["7"], "drawn a")


def test_fixed_examples_run_once_and_are_the_same_for_every_seed(runs):
    assert values(runs["7,8"], "fixed") == values(runs["7"], "fixed") == values(runs[None], "fixed")


def test_hypothesis_draws_from_the_seed_and_more_than_by_default(runs):
    few = values(runs[None], "given")
    one = values(runs["7"], "given")
    both = values(runs["7,8"], "given")
    assert (len(few), len(one), len(both)) == (25, 100, 200)
    assert both[:100] == one != both[100:]
