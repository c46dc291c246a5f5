"""What is in the repository besides code: pins without addresses, notebooks without outputs."""

import json
import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)==(?P<version>[0-9][0-9a-z.!+]*)( ; [^/@]+)?")
# In two pieces, so that this file does not find itself.
REGISTRIES = [".".join(pair).encode() for pair in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")]]
ARCHIVE = re.compile(rb"https?://[^\s\"']+/(packages/[0-9a-f]{2}/[0-9a-f]{2}/|-/[\w.-]+\.tgz)")
"""How registries address the files of a Python or a JavaScript package."""
LOCKS = re.compile(
    r"(uv|poetry|pdm|Pipfile|yarn|pixi)\.lock|pylock.*\.toml|package-lock\.json|pnpm-lock\.yaml|conda-lock\.yml"
)


def pins() -> dict[str, str]:
    matches = [PIN.fullmatch(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    return {match["name"]: match["version"] for match in matches if match}


def requirements() -> list[Requirement]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = config["project"]
    groups = [config["build-system"]["requires"], project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def required_by(requirement: Requirement) -> list[Requirement]:
    """What an installed distribution needs, with the extras that `requirement` asks for."""
    lines = distribution(requirement.name).requires or []
    extras = ["", *requirement.extras]
    needed = [Requirement(line) for line in lines]
    return [r for r in needed if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def test_constraints_are_names_and_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert lines == sorted(lines)
    assert len(pins()) == len(lines)


@pytest.mark.parametrize(
    "line",
    ["numpy", "numpy>=2", "Numpy==2.0", "numpy @ https://example.org/numpy.whl", "-i https://example.org", "# why"],
)
def test_a_bad_pin_is_caught(line: str):
    assert PIN.fullmatch(line) is None


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_each_dependency_is_pinned_within_its_bounds(requirement: Requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_everything_that_dependencies_pull_in_is_pinned():
    waiting, seen = requirements(), set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) not in seen:
            seen.add(str(requirement))
            waiting += required_by(requirement)
    names = {canonicalize_name(Requirement(line).name) for line in seen}
    assert names - set(pins()) == set()


def files_in_git() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("needs a git checkout")
    return [path for path in (ROOT / name for name in run.stdout.split("\0") if name) if path.is_file()]


def test_no_file_names_a_package_registry():
    named = [path for path in files_in_git() if any(host in path.read_bytes() for host in REGISTRIES)]
    assert named == []


def test_no_file_holds_the_address_of_a_package():
    assert [path for path in files_in_git() if ARCHIVE.search(path.read_bytes())] == []


@pytest.mark.parametrize("path", ["packages/0a/1b/2c/numpy-2.whl", "d3/-/d3-7.0.tgz"])
def test_the_address_of_a_package_is_caught(path: str):
    assert ARCHIVE.search(f"https://example.org/{path}".encode())
    assert not ARCHIVE.search(b"https://example.org/packages/numpy")


def test_no_lock_file_is_in_git():
    assert [path for path in files_in_git() if LOCKS.fullmatch(path.name)] == []
    assert LOCKS.fullmatch("uv.lock")


def outputs(notebook: dict) -> list[int]:
    """Positions of the cells that hold an output or an execution count."""
    return [i for i, cell in enumerate(notebook["cells"]) if cell.get("outputs") or cell.get("execution_count")]


def test_notebooks_are_stored_without_outputs():
    books = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    assert {book.name: outputs(json.loads(book.read_bytes())) for book in books} == {book.name: [] for book in books}


def test_a_notebook_with_outputs_is_caught():
    assert outputs({"cells": [{"cell_type": "markdown"}, {"outputs": [], "execution_count": 3}]}) == [1]
