"""What is in the repository besides code: pins without addresses, notebooks without outputs."""

import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import jupytext
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)==(?P<version>[0-9][0-9a-z.!+]*)( ; [^/@]+)?")
REGISTRY = re.compile(
    rb"(?i)https?://[^\s\"'<>]+/"
    rb"(simple/[\w.-]*|packages/[0-9a-f]{2}/[0-9a-f]{2}/|-/[\w.-]+\.tgz|[^\s\"'<>]+\.whl|[^\s\"'<>]+\.tar\.gz)"
)
"""How registries address an index, or the files of a Python or a JavaScript package: by form,
whatever the host.
"""
INDEX = re.compile(
    rb"(?im)^\s*(-i|--(extra-)?index-url|--find-links|registry|index-url)\b[ \t=:]*https?://"
)
"""How the files and commands of installers name an index."""
LOCKS = re.compile(
    r"(uv|poetry|pdm|Pipfile|yarn|pixi)\.lock|pylock.*\.toml|package-lock\.json|pnpm-lock\.yaml|conda-lock\.yml"
)

PICTURE = re.compile(r"data:[\w/+.-]+;base64,")
"""An output that was pasted into the text."""


def pins() -> dict[str, str]:
    matches = [
        PIN.fullmatch(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    ]
    return {match["name"]: match["version"] for match in matches if match}


def requirements() -> list[Requirement]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = config["project"]
    groups = [
        config["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    return [Requirement(line) for group in groups for line in group]


def required_by(requirement: Requirement) -> list[Requirement]:
    """What an installed distribution needs, with the extras that `requirement` asks for."""
    lines = distribution(requirement.name).requires or []
    extras = ["", *requirement.extras]
    needed = [Requirement(line) for line in lines]
    return [
        r
        for r in needed
        if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def test_constraints_are_names_and_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert lines == sorted(lines)
    assert len(pins()) == len(lines)


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2",
        "Numpy==2.0",
        "numpy @ https://example.org/numpy.whl",
        "-i https://example.org",
        "# why",
    ],
)
def test_a_bad_pin_is_caught(line: str):
    assert PIN.fullmatch(line) is None


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_each_dependency_is_pinned_within_its_bounds(requirement: Requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_everything_that_dependencies_pull_in_is_pinned():
    waiting = requirements()
    seen = set()
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
    return [
        path for path in (ROOT / name for name in run.stdout.split("\0") if name) if path.is_file()
    ]


def test_no_file_holds_the_address_of_a_registry():
    found = {
        path: form.search(path.read_bytes())
        for path in files_in_git()
        for form in (REGISTRY, INDEX)
    }
    assert [path for path, match in found.items() if match] == []


HOST = "https:" + "//example.org/"


@pytest.mark.parametrize(
    "path",
    [
        "simple/numpy/",
        "packages/0a/1b/2c/numpy-2.tar",
        "d3/-/d3-7.0.tgz",
        "a/numpy-2.whl",
        "files/numpy-2.tar.gz",
    ],
)
def test_the_address_of_a_registry_is_caught(path: str):
    assert REGISTRY.search((HOST + path).encode())
    assert not REGISTRY.search((HOST + "packages/numpy").encode())


@pytest.mark.parametrize(
    "option", ["-i ", "--index-url=", "  --extra-index-url ", "registry = ", "index-url: "]
)
def test_the_name_of_an_index_is_caught(option: str):
    assert INDEX.search((option + HOST).encode())
    assert not INDEX.search((option + "x").encode())


def test_no_lock_file_is_in_git():
    assert [path for path in files_in_git() if LOCKS.fullmatch(path.name)] == []
    assert LOCKS.fullmatch("uv.lock")


def notebooks() -> list[Path]:
    return [
        path
        for path in files_in_git()
        if path.parent == ROOT / "notebooks" and path.suffix == ".py"
    ]


def test_notebooks_are_kept_as_scripts_which_have_no_outputs():
    assert [path for path in files_in_git() if path.suffix == ".ipynb"] == []
    assert notebooks() != []


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name)
def test_a_notebook_has_cells_and_no_pictures_in_its_text(path: Path):
    book = jupytext.read(path)
    assert {cell.cell_type for cell in book.cells} == {"markdown", "code"}
    assert [cell.source for cell in book.cells if PICTURE.search(cell.source)] == []


def test_a_picture_in_the_text_is_caught():
    assert PICTURE.search("![energy](data:image/" + "png;base64,iVBORw0KGgo=)")
