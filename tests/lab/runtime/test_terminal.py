"""The terminal: names are text and nothing else, and the count and the time left stay visible."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hopmix.lab.runtime.terminal import TrainingBar, printable, terminal
from hopmix.lab.study.study import Progress

HOSTILE = "\x1b[2J\x1b]0;title\x07red\r\u202eback\udcff"


@pytest.mark.parametrize("text", ["plain", "λ = 0.01", "Wᵀ  V", "猫"])
def test_what_can_be_printed_stays(text):
    assert printable(text) == text


def test_control_characters_are_told_apart_and_not_sent():
    assert printable(HOSTILE) == "?[2J?]0;title?red??back?"
    assert printable("two\nlines") == "two?lines"


@pytest.mark.parametrize("colours", [True, False])
def test_a_console_sends_no_control_characters_of_names(colours):
    file = io.StringIO()
    console = terminal(file=file, force_terminal=colours, width=80)
    table = Table("arm", "n")
    table.add_row(Text(HOSTILE), "1")
    console.print(table)
    console.print(Text(f"results go to {HOSTILE}"))
    console.print(HOSTILE, markup=False)
    sent = file.getvalue()
    for control in ("\x1b[2J", "\x1b]", "\x07", "\r", "\u202e", "\udcff"):
        assert control not in sent
    assert sent.count("title") == 3
    assert "results go to" in sent.split("\n")[-3]


def shown(width: int, arms: int, step: int | None) -> list[str]:
    """The last picture of the bar, line by line, as a terminal of that width has it."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False
    )
    with TrainingBar(console, 34_200) as watch:
        if step is not None:
            watch(
                Progress(step, 34_200, {f"broken λ={10.0**-arm:g}": 1.234 for arm in range(arms)})
            )
    last = file.getvalue().rsplit("\x1b[2K", 1)[-1] if step is not None else file.getvalue()
    return [re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line).rstrip() for line in last.splitlines()]


@pytest.mark.parametrize("arms", [1, 12])
def test_count_and_time_left_fit_beside_many_arms(arms):
    lines = shown(60, arms, 17_100)
    assert max(map(len, lines)) <= 60
    count = next(line for line in lines if "17100/34200" in line)
    assert re.search(r"\d+:\d\d:\d\d|-:--:--", count)
    assert "loss" not in count
    losses = "\n".join(lines)
    assert losses.count("1.234") == arms
    assert len(re.findall(r"broken λ=\S+ 1\.234", losses)) == arms


def test_the_bar_says_that_programs_are_compiled():
    assert any("compiling" in line and "0/34200" in line for line in shown(60, 3, None))


def test_nothing_is_drawn_off_a_terminal():
    file = io.StringIO()
    with TrainingBar(Console(file=file, force_terminal=False), 10) as watch:
        watch(Progress(5, 10, {"free": 1.0}))
    assert file.getvalue() == ""
