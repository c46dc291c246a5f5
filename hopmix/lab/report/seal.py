"""The seal of a report: what it shows, and its files as they were written, so that only what
changed is made again.
"""

import functools
import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from hopmix.lab import store
from hopmix.lab.store.files import file_digests

NAME = ".report.json"
SHOWN = ("study.json", "results.json", "weights.npz")
"""The files of a run that a report shows, beside its metrics."""

LIBRARIES = ("matplotlib", "numpy", "pillow", "plotly", "xarray")
"""What the pages and figures also depend on."""


def sources(run: Path) -> str:
    """A digest of everything that a report shows or is made with: files of the run, its name, code
    and libraries.
    """
    found = hashlib.blake2b(digest_size=16)
    found.update(json.dumps([run.resolve().name, _makers()]).encode())
    metrics = sorted(path for path in (run / "metrics.zarr").resolve().rglob("*") if path.is_file())
    for path in (*(run / name for name in SHOWN), *metrics):
        content = path.read_bytes() if path.is_file() else b""
        found.update(
            f"{path.parent.name}/{path.name} {path.is_file()} {len(content)} ".encode() + content
        )
    return found.hexdigest()


@functools.cache
def _makers() -> list[str]:
    """The versions of libraries, and a digest of the package's own code."""
    package = Path(str(resources.files("hopmix")))
    code = hashlib.blake2b(digest_size=16)
    for path in sorted(
        path for path in package.rglob("*") if path.suffix in (".py", ".css", ".js", ".tmpl")
    ):
        code.update(path.read_bytes())
    return [code.hexdigest(), *(version(name) for name in LIBRARIES)]


def whole_files(run: Path, sources: str) -> frozenset[str]:
    """The files of a report that are as they were written, by their paths in the run; none if it
    shows other things.
    """
    try:
        sealed = json.loads((run / NAME).read_text(encoding="utf-8"))
        files = sealed["files"] if sealed["sources"] == sources else {}
        there = file_digests(run, (run / name for name in files if (run / name).is_file()))
        return frozenset(name for name, digest in files.items() if digest == there.get(name))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # lost or damaged
        return frozenset()


def is_whole(run: Path, sources: str) -> bool:
    """Whether all files of a report are as they were written, and show what the run holds."""
    whole = whole_files(run, sources)
    return bool(whole) and len(whole) == len(
        json.loads((run / NAME).read_text(encoding="utf-8"))["files"]
    )


def seal(run: Path, sources: str, files: Iterable[str]):
    """Note what a report shows, and its files as they are now."""
    written = (run / name for name in files)
    store.write_json(
        run / NAME, {"sources": sources, "files": file_digests(run, filter(Path.is_file, written))}
    )
