"""Every option that a message advises exists."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

from hopmix.lab import cli

LAB = Path(cli.__file__).parent
OPTION = re.compile(r"(?:^|(?<=[\s`'\"]))--[a-z][a-z-]*(?![\w:-])", re.MULTILINE)
"""An option as a word: what has a colon behind it is a property of a style sheet."""

FOREIGN = {"--compile"}
"""Options of other programs: what `hopmix bench` calls its peer with."""

COMMANDS = ("ablate", "resume", "report", "measure", "verify", "bench")


def advised(source: str) -> set[str]:
    """All options in the strings of a module, those of docstrings among them, for they explain
    fields of options.
    """
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    spoken = [
        text for text in texts if isinstance(text, str) and " " in text
    ]  # else it is a program's argument
    return {option for text in spoken for option in OPTION.findall(text)}


@pytest.fixture(scope="module")
def existing() -> set[str]:
    told = io.StringIO()
    for command in COMMANDS:
        with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
            cli.run([command, "--help"])
    # Where an option is listed, not where another one's help speaks of it.
    listed = re.findall(
        r"^[│ ]{1,3}(?:-h, )?(--[\w-]+)(?:, (--[\w-]+))?", told.getvalue(), re.MULTILINE
    )
    return {option for pair in listed for option in pair if option}


def test_an_option_that_does_not_exist_is_found(existing):
    assert {"--data", "--image-column", "--resize", "--patch", "--json", "--pairs"} <= existing
    found = advised('raise UsageError(f"x = {y}; choose one with --no-such-option, or --data")')
    assert found - existing == {"--no-such-option"}


def test_every_option_that_is_advised_exists(existing):
    found = {
        path.name: advised(path.read_text("utf-8")) - existing - FOREIGN
        for path in LAB.rglob("*.py")
    }
    assert {name: options for name, options in found.items() if options} == {}
    assert any(
        "--image-column" in advised(path.read_text("utf-8")) for path in LAB.rglob("columns.py")
    )
