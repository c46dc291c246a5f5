"""The study of the drills: digits in few steps, and everything in its folder that counts."""

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import zarr

from experiments.reliability import commands

OPTIONS = (
    *(
        "--data",
        "digits",
        "--arms",
        "free",
        "symmetric",
        "--seeds",
        "1",
        "--dim",
        "8",
        "--depth",
        "1",
    ),
    *("--epochs", "2", "--measurements", "3", "--spectra-every", "0"),
)
STEPS = (14, 28, 42)
"""The steps of its checkpoints, the last of which is the end."""

PAGES = ("report.html", "symmetry.html", ".report.json")
OF_ONE_RUN = ("created", "command", "environment", "resumed", "timing", "checksum")
"""What two runs of one study may differ in."""


class Runs(NamedTuple):
    """The folders that drills copy: a study that has ended, one that was stopped, and another that
    has ended; and how many seconds one takes."""

    ended: Path
    stopped: Path
    foreign: Path
    seconds: float


def make_runs(folder: Path) -> Runs:
    """Train what the drills damage, copy and compare with."""
    folder.mkdir(parents=True, exist_ok=True)
    ended = folder / "ended" / "run"
    stopped = folder / "stopped" / "run"
    foreign = folder / "foreign" / "run"
    _train(folder, ended, OPTIONS)
    begin = time.perf_counter()
    _train(folder, foreign, (*OPTIONS, "--first-seed", "7"))
    seconds = time.perf_counter() - begin
    for step in STEPS:  # otherwise two checkpoints that nobody can read would be equal
        if not any(checkpoint(ended / "checkpoints" / str(step))):
            raise RuntimeError(f"the drills can't read the checkpoint of step {step}")
    _stop(folder, stopped)
    return Runs(ended, stopped, foreign, seconds)


def _train(folder: Path, out: Path, options: Sequence[str]):
    answer = commands.run(folder, "ablate", *options, "--out", out)
    if not answer.done:
        raise RuntimeError(f"the study itself fails: {answer}")


def _stop(folder: Path, out: Path):
    """Train, and stop the study by Ctrl-C after its second checkpoint."""
    saved = lambda: (out / "checkpoints" / str(STEPS[0])).exists()
    for _ in range(20):
        shutil.rmtree(out, ignore_errors=True)
        command = commands.Command(folder, "ablate", *OPTIONS, "--out", out)
        commands.wait_until(saved, command)
        if command.runs:
            command.signal(signal.SIGINT)
        command.wait()
        if not (out / "results.json").exists():
            return
    raise RuntimeError("the study ended before it was stopped, twenty times")


def copy_run(run: Path, place: Path) -> Path:
    """A copy of a run under the same name in an empty folder."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(run, place / run.name, symlinks=True))


def contents(run: Path) -> dict[str, str]:
    """A digest of each file and link of a run but its lock, and the time of its last change."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file() and name != ".lock":
            found[name] = f"{digest(path.read_bytes())} {path.stat().st_mtime_ns}"
    return found


def differences(run: Path, reference: Path) -> list[str]:
    """What counts and is not the same in two runs, the pages left out: they say when and how a
    study was run.
    """
    ours = dict(facts(run))
    theirs = dict(facts(reference))
    return sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )


def facts(run: Path) -> Iterator[tuple[str, str]]:
    """Everything in a run that counts, as a digest: descriptions, results, every array, every
    figure.
    """
    for name in ("study.json", "results.json"):
        yield (
            name,
            digest(
                json.dumps(
                    lasting(json.loads((run / name).read_text("utf-8"))), sort_keys=True
                ).encode()
            ),
        )
    for name, array in zarr.open_group(_metrics(run), mode="r").arrays():
        yield f"metrics.zarr/{name}", of_array(np.asarray(array[...]))
    with np.load(run / "weights.npz", allow_pickle=False) as weights:
        for name in weights.files:
            yield f"weights.npz/{name}", of_array(weights[name])
    for step in STEPS:
        for name, array in checkpoint(run / "checkpoints" / str(step)):
            yield f"checkpoints/{step}/{name}", of_array(array)
    for path in sorted((run / "figures").iterdir()):
        yield f"figures/{path.name}", digest(path.read_bytes())


def _metrics(run: Path) -> Path:
    path = run / "metrics.zarr"
    # Copied to a drive without links, it is a file that holds where the link led.
    return run / path.read_text() if path.is_file() else path.resolve()


def checkpoint(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a checkpoint; none where it can't be read."""
    try:
        with ocp.StandardCheckpointer() as reader:
            programs = reader.restore(path.absolute() / "state")
    except Exception:  # Orbax raises many kinds for damaged files
        return
    for name, leaves in programs.items():
        for i, leaf in enumerate(leaves):
            yield f"{name}/{i}", np.asarray(leaf)


def lasting(value: Any) -> Any:
    """A JSON value without what two runs of one study may differ in."""
    if not isinstance(value, dict):
        return value
    return {name: lasting(part) for name, part in value.items() if name not in OF_ONE_RUN}


def of_array(array: np.ndarray) -> str:
    """A digest of an array: its numbers, their type and its shape; NaN is NaN."""
    if array.dtype.kind == "f":
        # A bit that turns in what is no number leaves none: the store does not tell them apart.
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return digest(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())


def digest(content: bytes) -> str:
    """A short digest."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()
