"""A run copied as people copy folders: it is resumed to the same end, or one line says which file
is missing.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.reliability import commands
from experiments.reliability.commands import Answer
from experiments.reliability.small_study import Runs, differences
from experiments.reliability.workers import Outcome

FILES = ("metrics", "checkpoint", "study.json", "results.json", "weights.npz")
"""What a sentence about a missing file names one of."""


class Copy(NamedTuple):
    """A way to copy a run, and whether the run has ended."""

    way: str
    stopped: bool


def cases(count: int, seed: int) -> list[Copy]:
    """Each way once, of a study that was stopped; then of one that has ended."""
    return [Copy(way, stopped) for stopped in (True, False) for way in WAYS][:count]


def judge(copy: Copy, runs: Runs, place: Path) -> Outcome:
    """Copy a run and resume it, with the copy's folder as the one to work in."""
    source = runs.stopped if copy.stopped else runs.ended
    run = WAYS[copy.way](source, place)
    answer = commands.run(place, "resume", run.relative_to(place), cwd=place)
    name = f"{copy.way}, {'stopped' if copy.stopped else 'ended'}"
    if not answer.done:
        return Outcome(name, _says_what_is_missing(answer), "told", str(answer))
    changed = differences(run, runs.ended)
    return Outcome(name, not changed, "differs" if changed else "equal", ", ".join(changed)[:300])


def _says_what_is_missing(answer: Answer) -> bool:
    return answer.told and any(name in answer.err for name in FILES)


# ---- Ways to copy --------------------------------------------------------------------------------


def _with_links(source: Path, place: Path) -> Path:
    return shutil.copytree(source, place / "run", symlinks=True)


def _links_followed(source: Path, place: Path) -> Path:
    return shutil.copytree(source, place / "run")


def _without_dot_files(source: Path, place: Path) -> Path:
    return shutil.copytree(
        source, place / "run", symlinks=True, ignore=lambda folder, names: _hidden(names)
    )


def _without_dot_folders(source: Path, place: Path) -> Path:
    """Links followed, and what is hidden at the top left out, as `cp -rL run/* copy` does."""
    ignore = lambda folder, names: _hidden(names) if Path(folder) == source else []
    return shutil.copytree(source, place / "run", ignore=ignore)


def _hidden(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]


def _zipped(source: Path, place: Path) -> Path:
    """As `zip -r` does it: links followed, empty folders kept."""
    archive = place / "run.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for folder, _, names in os.walk(source, followlinks=True):
            file.write(folder, os.path.relpath(folder, source))
            for name in names:
                file.write(f"{folder}/{name}", os.path.relpath(f"{folder}/{name}", source))
    return _unpacked(archive, place)


def _zipped_without_links(source: Path, place: Path) -> Path:
    """As `shutil.make_archive` does it: a link to a folder becomes an empty folder."""
    return _unpacked(Path(shutil.make_archive(str(place / "run"), "zip", source)), place)


def _in_a_tar(source: Path, place: Path) -> Path:
    return _unpacked(Path(shutil.make_archive(str(place / "run"), "tar", source)), place)


def _unpacked(archive: Path, place: Path) -> Path:
    shutil.unpack_archive(archive, place / "run")
    archive.unlink()
    return place / "run"


def _under_an_odd_name(source: Path, place: Path) -> Path:
    return shutil.copytree(source, place / "thèse (final) [2]" / "my run", symlinks=True)


def _links_as_text(source: Path, place: Path) -> Path:
    """As drives do that know no links: a file that holds where the link led."""
    run = _with_links(source, place)
    for path in [path for path in run.iterdir() if path.is_symlink()]:
        target = path.readlink()
        path.unlink()
        path.write_text(str(target))
    return run


def _without_what_is_empty(source: Path, place: Path) -> Path:
    """As version control does: neither empty files nor folders, every file with the mode and time
    of now.
    """
    run = shutil.copytree(source, place / "run", symlinks=True, copy_function=shutil.copyfile)
    for path in sorted(run.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and not path.stat().st_size:
            path.unlink()
    return run


WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "links followed": _links_followed,
    "dot files lost": _without_dot_files,
    "links followed, dot folders lost": _without_dot_folders,
    "zipped": _zipped,
    "zipped without links": _zipped_without_links,
    "in a tar": _in_a_tar,
    "under an odd name": _under_an_odd_name,
    "links as text": _links_as_text,
    "without what is empty": _without_what_is_empty,
    "as it is": _with_links,
}
