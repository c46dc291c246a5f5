"""Each file of a run damaged in five ways: what reads it afterwards tells in one line, or gives the
true numbers.
"""

import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reliability.commands import Answer, ask
from experiments.reliability.small_study import PAGES, Runs, contents, copy_run, differences, digest
from experiments.reliability.workers import Outcome
from hopmix.lab import store
from hopmix.lab.report.seal import NAME as SEAL

WAYS = ("flip", "cut", "lose", "swap", "foreign")
"""One bit turned, the end missing, the file missing, another file of its kind in its place, that of
another study.
"""

STOPPED = 8
"""One case in so many is of a study that was stopped."""

RESUMED = 8
"""One case in so many is resumed as well as read: that trains where measurements or checkpoints
were lost, which takes longer than all the rest."""


class Damage(NamedTuple):
    """A file of a run that has ended, or was stopped, and how it is damaged."""

    number: int
    file: str
    way: str
    stopped: bool
    resumed: bool

    def __str__(self) -> str:
        return (
            f"{self.number}: {self.way} {self.file} of a study that "
            f"{'was stopped' if self.stopped else 'has ended'}"
        )


class Truth(NamedTuple):
    """What the commands give of runs that are whole: numbers by step, and pages and figures of both
    runs.
    """

    runs: Runs
    measured: dict[int, Any]
    verified: dict[int, Any]
    drawn: dict[bool, dict[str, str]]


def cases(count: int, seed: int, runs: Runs) -> list[Damage]:
    """Each file of the two runs in turn, each time damaged in another way."""
    rng = random.Random(seed)
    files = {False: _in_turn(_files(runs.ended), rng), True: _in_turn(_files(runs.stopped), rng)}
    stopped = [i % STOPPED == STOPPED - 1 for i in range(count)]
    return [
        Damage(i, *next(files[stopped[i]]), stopped[i], rng.randrange(RESUMED) == 0)
        for i in range(count)
    ]


def _in_turn(files: list[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    rng.shuffle(files)
    first = 0
    while True:
        for i, file in enumerate(files):
            yield file, WAYS[(first + i) % len(WAYS)]
        first += 1


def _files(run: Path) -> list[str]:
    # The lock is empty and says nothing.
    paths = (
        path
        for path in run.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != ".lock"
    )
    return sorted(str(path.relative_to(run)) for path in paths)


# ---- Damage --------------------------------------------------------------------------------------


def do_damage(damage: Damage, run: Path, foreign: Path) -> tuple[str, ...]:
    """Damage a file of a run; what can't be exchanged for another one of its kind is cut.

    Returns the files that are damaged, two where they are exchanged.
    """
    rng = random.Random(str(damage))
    path = run / damage.file
    content = path.read_bytes()
    others = _of_its_kind(run, damage.file, content, exactly=False) if damage.way == "swap" else []
    strangers = (
        _of_its_kind(foreign, damage.file, content, exactly=True) if damage.way == "foreign" else []
    )
    if damage.way == "lose":
        path.unlink()
    elif others:
        other = rng.choice(others)
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return damage.file, str(other.relative_to(run))
    elif strangers:
        shutil.copyfile(rng.choice(strangers), path)
    elif damage.way == "flip" and content:
        place = rng.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
    else:
        path.write_bytes(content[: rng.randrange(len(content) or 1)])
    return (damage.file,)


def _of_its_kind(run: Path, file: str, content: bytes, *, exactly: bool) -> list[Path]:
    """Files of a run with other contents that stand where another one does, but for what is counted
    or drawn at random; not `exactly` so, also those of other arrays."""
    kind = _kind(file, exactly)
    found = [run / name for name in _files(run) if _kind(name, exactly) == kind]
    return [path for path in found if path.read_bytes() != content]


def _kind(file: str, exactly: bool) -> str:
    place = re.sub(r"[0-9a-f]{8,}", "*", file)
    if exactly:
        return place
    *folders, last = re.sub(r"\d+", "*", place).split("/")
    return f"{folders[:1]} {len(folders)} {re.sub('^[a-z_]+(?=[.])', '*', last)}"


# ---- Judgement -----------------------------------------------------------------------------------


def truth(runs: Runs, place: Path) -> Truth:
    """What the commands give of the two runs before anything is damaged."""
    measured = {}
    verified = {}
    # Also those that only one of two runs keeps: where the newer ones are damaged, an older one is
    # read.
    paths = {
        int(path.name): path for run in (runs.stopped, runs.ended) for path in _checkpoints(run)
    }
    for step, path in paths.items():
        measured[step] = _measured(place, _need(ask(*_measure(path, place))))[1]
        verified[step] = _verified(place, _need(ask(*_verify(path, place))))[1]
    drawn = {}
    for stopped, run in ((False, runs.ended), (True, runs.stopped)):
        copy = copy_run(run, place / "drawn")
        _need(ask("report", copy))
        drawn[stopped] = _drawn(copy)
    return Truth(runs, measured, verified, drawn)


def _checkpoints(run: Path) -> list[Path]:
    return [run / "checkpoints" / str(step) for step in store.steps_in(run)]


def _need(answer: Answer) -> Answer:
    if not answer.done:
        raise RuntimeError(f"a run that is whole can't be read: {answer}")
    return answer


def judge(damage: Damage, truth: Truth, place: Path) -> Outcome:
    """Damage a copy of a run; then measure it, verify it, report on it, and resume it where the
    case says so.
    """
    run = copy_run(truth.runs.stopped if damage.stopped else truth.runs.ended, place)
    damaged = do_damage(damage, run, truth.runs.foreign)
    told = []
    for command, ask_and_check in (
        ("measure", _check_numbers),
        ("verify", _check_numbers),
        ("report", _check_report),
    ):
        answer, fault = ask_and_check(command, damage, truth, run)
        if fault:
            return Outcome(str(damage), False, f"{command}: {fault[0]}", fault[1])
        told += [command] * answer.told
    if damage.resumed:
        answer, fault = _check_resume(damaged, truth, run)
        if fault:
            return Outcome(str(damage), False, f"resume: {fault[0]}", fault[1])
        told += ["resume"] * answer.told
    return Outcome(str(damage), True, "told" if told else "true", ", ".join(told))


Fault = tuple[str, str] | None
"""In a word what is wrong, and what was seen; nothing where a command told, or did as if there were
no damage.
"""


def _check_numbers(command: str, damage: Damage, truth: Truth, run: Path) -> tuple[Answer, Fault]:
    before = contents(run)
    asked, read, true = {
        "measure": (_measure, _measured, truth.measured),
        "verify": (_verify, _verified, truth.verified),
    }[command]
    answer = ask(*asked(run, run.parent))
    if contents(run) != before:
        return answer, ("changed the run", ", ".join(_lost(before, run))[:300])
    if not answer.done:
        return answer, None if answer.told else ("neither told nor done", str(answer))
    step, numbers = read(run.parent, answer)
    return answer, None if numbers == true[step] else ("wrong numbers", f"of step {step}")


def _measure(path: Path, place: Path) -> tuple[object, ...]:
    return "measure", path, "--pairings", "0", "--json", place / "measured.json"


def _verify(path: Path, place: Path) -> tuple[object, ...]:
    return "verify", path, "--examples", "1", "--json", place / "verified.json"


def _measured(place: Path, answer: Answer) -> tuple[int, Any]:
    record = json.loads((place / "measured.json").read_text("utf-8"))
    found = re.search(r"after ([\d,]+)(?: of [\d,]+)? steps", record["source"])
    step = int(found[1].replace(",", "")) if found else -1
    return step, {name: value for name, value in record.items() if name not in ("path", "source")}


def _verified(place: Path, answer: Answer) -> tuple[int, Any]:
    record = json.loads((place / "verified.json").read_text("utf-8"))
    return record["step"], record


def _check_report(command: str, damage: Damage, truth: Truth, run: Path) -> tuple[Answer, Fault]:
    before = contents(run)
    answer = ask(command, run)
    lost = [name for name in _lost(before, run) if not _is_drawn(name)]
    if lost:
        return answer, ("changed the run", ", ".join(lost)[:300])
    if not answer.done:
        return answer, None if answer.told else ("neither told nor done", str(answer))
    # Without its results a run is shown as one that has not ended, which is said.
    if damage.way == "lose" and f"{damage.file} is not there" in answer.out:
        return answer, None
    drawn = _drawn(run)
    right = truth.drawn[damage.stopped]
    wrong = [name for name in right if drawn.get(name) != right[name]]
    return answer, ("wrong pages", ", ".join(wrong)[:300]) if wrong else None


def _unit(file: str) -> str:
    """What is lost with a file: its checkpoint, its version of the metrics, or the file alone."""
    return "/".join(file.split("/")[:2])


def _check_resume(damaged: Sequence[str], truth: Truth, run: Path) -> tuple[Answer, Fault]:
    before = contents(run)
    units = tuple(map(_unit, damaged))
    answer = ask("resume", run)
    if not answer.done:
        lost = [
            name
            for name in _lost(before, run)
            if not _is_drawn(name) and not name.startswith(units)
        ]
        if answer.told:
            return answer, (
                "told, but lost what was whole",
                ", ".join(lost)[:300],
            ) if lost else None
        return answer, ("neither told nor done", str(answer))
    # A damaged checkpoint that is not needed stays as it is.
    beside = tuple(f"{unit}/" for unit in units if unit.startswith("checkpoints/"))
    wrong = [name for name in differences(run, truth.runs.ended) if not name.startswith(beside)]
    return answer, ("differs", ", ".join(wrong)[:300]) if wrong else None


def _lost(before: dict[str, str], run: Path) -> list[str]:
    after = contents(run)
    return [name for name, content in before.items() if after.get(name) != content]


def _is_drawn(name: str) -> bool:
    return name in PAGES or name.startswith("figures/")


def _drawn(run: Path) -> dict[str, str]:
    """A digest of each page and figure of a run; their seal also holds the bytes of what they were
    drawn from, which damage may change without changing a number."""
    paths = (path for path in run.rglob("*") if path.is_file() and path.name != SEAL)
    names = ((str(path.relative_to(run)), path) for path in paths)
    return {name: digest(path.read_bytes()) for name, path in names if _is_drawn(name)}
