"""Bad options, bad data and bad checkpoints: each is told in one line, before any long work."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.reliability import commands
from experiments.reliability.small_study import Runs
from experiments.reliability.workers import Outcome

SOURCES = ("bad_options", "bad_data", "bad_checkpoints")
"""Modules with `cases(folder)`: names and arguments of commands. What is only odd is named "loaded:
...".
"""


class Bad(NamedTuple):
    """An input: the module that it is of, its name, and the arguments."""

    source: str
    name: str
    arguments: tuple[str, ...]


def cases(folder: Path) -> list[Bad]:
    """Every case of every module."""
    return [bad for source in SOURCES for bad in _of_source(source, folder / source)]


def _of_source(source: str, folder: Path) -> Iterator[Bad]:
    here = Path(__file__).parent
    sys.path.append(str(here))  # they can be run alone, and import each other
    if not (here / f"{source}.py").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in importlib.import_module(source).cases(folder):
        yield Bad(source, name, tuple(map(str, arguments)))


def judge(bad: Bad, runs: Runs, place: Path) -> Outcome:
    """Give the command in an empty folder."""
    os.chdir(place)
    answer = commands.ask(*bad.arguments)
    told = answer.told and answer.code == commands.BAD_INPUT
    passed = answer.done if bad.name.startswith("loaded") else told
    how = "told" if told else "loaded" if answer.done else "neither told nor done"
    return Outcome(f"{bad.source}: {bad.name}", passed, how, "" if passed else str(answer))
