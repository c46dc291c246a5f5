"""Two commands that write one run: one of them waits or tells, and the run ends as if it had been
alone.
"""

import random
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

from experiments.reliability import commands
from experiments.reliability.commands import Answer, Command
from experiments.reliability.small_study import (
    OPTIONS,
    PAGES,
    Runs,
    contents,
    copy_run,
    differences,
)
from experiments.reliability.workers import Outcome

LATE = ("resume", "ablate --resume", "ablate")
"""What is given while a study trains."""


class Two(NamedTuple):
    """A second command: given at a share of the time of a study (`late`), with it (`together`), or
    two reports.
    """

    number: int
    kind: str
    command: str
    share: float


def cases(count: int, seed: int) -> list[Two]:
    """Three in five are late, one in five begins together with the first, one in five are two
    reports.
    """
    rng = random.Random(seed)
    kinds = ("late", "late", "late", "together", "reports")
    return [Two(i, kinds[i % 5], LATE[(i // 5 + i % 5) % 3], rng.random()) for i in range(count)]


def judge(two: Two, runs: Runs, place: Path) -> Outcome:
    """Give both commands, and compare what is there in the end with a run that nobody disturbed."""
    how, fault = {"late": _late, "together": _together, "reports": _reports}[two.kind](
        two, runs, place
    )
    return Outcome(f"{two.number}: {two.kind}, {two.command}", not fault, how, fault)


def _late(two: Two, runs: Runs, place: Path) -> tuple[str, str]:
    """The first one is held still in the midst, so that every byte that changes is of the second
    one.
    """
    out = place / "run"
    first = _hold(place, out, two.share * 0.6 * runs.seconds)
    before = contents(out)
    second = commands.run(place, *_words(two.command, out))
    changed = [
        name for name, content in contents(out).items() if before.pop(name, None) != content
    ] + [*before]
    first.signal(signal.SIGCONT)
    answer = first.wait()
    if changed:
        return "changed", ", ".join(changed)[:300]
    if not second.told:
        return "second not told", str(second)
    return _ended_well(answer, out, runs)


def _hold(place: Path, out: Path, seconds: float) -> Command:
    """A study that trains, and is held still; begun again where it had ended by then."""
    while True:
        command = Command(place, "ablate", *OPTIONS, "--out", out)
        commands.wait_until((out / "study.json").exists, command)
        command.process.join(seconds)
        if command.runs:
            command.hold()
        if not (out / "results.json").exists():
            return command
        command.kill()
        shutil.rmtree(out)
        seconds /= 2


def _together(two: Two, runs: Runs, place: Path) -> tuple[str, str]:
    out = place / "run"
    both = [Command(place, "ablate", *OPTIONS, "--out", out) for _ in range(2)]
    answers = [command.wait() for command in both]
    told = [answer for answer in answers if answer.told]
    if len(told) != 1:
        return "not one is told", "; ".join(map(str, answers))
    return _ended_well(answers[answers.index(told[0]) - 1], out, runs)


def _ended_well(answer: Answer, out: Path, runs: Runs) -> tuple[str, str]:
    if not answer.done:
        return "first not done", str(answer)
    changed = differences(out, runs.ended)
    return ("differs", ", ".join(changed)[:300]) if changed else ("equal", "")


def _reports(two: Two, runs: Runs, place: Path) -> tuple[str, str]:
    """Two reports of a run whose pages and figures are lost: the last one of them is right."""
    run = copy_run(runs.ended, place)
    lost = [*(run / name for name in PAGES), *(run / "figures").iterdir()]
    for path in lost:
        path.unlink()
    both = [Command(place, "report", run) for _ in range(2)]
    answers = [command.wait() for command in both]
    if not all(answer.told or answer.done for answer in answers) or not any(
        answer.done for answer in answers
    ):
        return "neither told nor done", "; ".join(map(str, answers))
    wrong = [str(path) for path in lost if not path.exists()] or differences(run, runs.ended)
    beside = [
        path.name
        for path in run.iterdir()
        if path.name not in {p.name for p in runs.ended.iterdir()}
    ]
    return ("differs", ", ".join(wrong + beside)[:300]) if wrong + beside else ("equal", "")


def _words(command: str, out: Path) -> tuple[object, ...]:
    if command == "resume":
        return "resume", out
    return "ablate", *OPTIONS, "--out", out, *command.split()[1:]
