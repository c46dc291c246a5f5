"""A study killed at a random moment, and resumed, ends as if nothing had happened."""

import random
from pathlib import Path
from typing import NamedTuple

from experiments.reliability import commands
from experiments.reliability.small_study import OPTIONS, Runs, differences
from experiments.reliability.workers import Outcome


class Kill(NamedTuple):
    """A study that is killed at a share of the time that it takes, counted from its first file or
    from its start; and the command that resumes it, killed in the same way where `again` is a share
    too."""

    number: int
    share: float
    from_start: bool
    again: float | None


def cases(count: int, seed: int) -> list[Kill]:
    """So many moments: one in six is counted from the start, before there is anything; one in four
    is a kill of the resumed study too."""
    rng = random.Random(seed)
    return [
        Kill(i, rng.random(), i % 6 == 5, rng.random() if i % 4 == 3 else None)
        for i in range(count)
    ]


def judge(kill: Kill, runs: Runs, place: Path) -> Outcome:
    """Kill, resume, and compare everything that counts with the study that nobody touched."""
    out = place / "run"
    begin = ("ablate", *OPTIONS, "--out", out)
    when = _killed(
        begin, kill.share * runs.seconds, place if kill.from_start else out / "study.json", out
    )
    if kill.again is not None and (out / "study.json").exists():
        when += f"; resumed, {_killed(('resume', out), kill.again * runs.seconds, place, out)}"
    answer = commands.run(place, *(("resume", out) if (out / "study.json").exists() else begin))
    name = f"{kill.number}: {when}"
    if not answer.done:
        return Outcome(name, False, "not resumed", str(answer))
    changed = differences(out, runs.ended)
    return Outcome(name, not changed, "differs" if changed else "equal", ", ".join(changed)[:500])


def _killed(words: tuple, seconds: float, since: Path, out: Path) -> str:
    """Give a command and kill it so many seconds after a path is there; what was in its folder by
    then.
    """
    command = commands.Command(out.parent, *words)
    commands.wait_until(since.exists, command)
    command.process.join(seconds)
    ran = command.kill()
    saved = sorted(int(path.name) for path in out.glob("checkpoints/*") if path.name.isdigit())
    there = [
        name for name in ("study.json", "results.json", "report.html") if (out / name).exists()
    ]
    return (
        f"{'killed' if ran else 'ended'} with checkpoints {saved}, "
        f"{', '.join(there) or 'nothing else'}"
    )
