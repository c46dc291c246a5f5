"""What is missing without the extras is said with the extra that brings it; the command answers to
its version.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import hopmix
from hopmix._extras import MissingExtra, needs_extra

ROOT = Path(__file__).parents[1]


def run(code: str, missing: str = "") -> subprocess.CompletedProcess[str]:
    hide = f"import sys; sys.modules[{missing!r}] = None\n" if missing else ""
    return subprocess.run(
        [sys.executable, "-c", hide + code], cwd=ROOT, capture_output=True, text=True
    )


COMMAND = (
    "import sys; sys.argv = ['hopmix', 'ablate', '--help']; from hopmix.__main__ import "
    "main; main()"
)


@pytest.mark.parametrize("library", ["tyro", "rich"])
def test_the_command_says_in_one_line_which_extra_it_needs(library):
    told = run(COMMAND, missing=library)
    assert told.returncode == 2
    assert told.stderr == (
        f"hopmix: The command line needs the extra 'lab', for {library} is missing: pip install "
        f"'hopmix[lab]'\n"
    )


def test_the_figures_say_which_extra_they_need():
    told = run("import hopmix.plot", missing="matplotlib")
    assert (
        "hopmix.plot needs the extra 'lab', for matplotlib is missing: pip install 'hopmix[lab]'"
        in told.stderr
    )


def test_the_strategies_say_which_extra_they_need():
    told = run("from hopmix.testing import couplings", missing="hypothesis")
    assert (
        "needs the extra 'testing', for hypothesis is missing: pip install 'hopmix[testing]'"
        in told.stderr
    )


def test_a_mistake_of_our_own_is_not_taken_for_a_missing_extra():
    with pytest.raises(ModuleNotFoundError) as told, needs_extra("This", "lab"):
        import hopmix.no_such_module  # noqa: F401  # pyright: ignore[reportMissingImports]
    assert not isinstance(told.value, MissingExtra)


@pytest.mark.parametrize("arguments", ["--version", "--help"])
def test_the_package_runs_as_a_module(arguments):
    told = subprocess.run(
        [sys.executable, "-m", "hopmix", arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert (hopmix.__version__ if arguments == "--version" else "usage: hopmix") in told.stdout
