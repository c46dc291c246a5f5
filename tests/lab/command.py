"""The command line, given in the process of a test."""

import pytest

from hopmix.lab import cli


def give(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit code of a command, and what it printed on both streams."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, arguments)])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def flat(text: str) -> str:
    """Words that are not broken into lines, nor framed."""
    return " ".join(text.replace("│", "").split())
