"""Bad and odd data sets: each is refused in one line with exit code 2, or loaded.

Run it alone, `python experiments/reliability/bad_data.py`, to try all of them in one process,
without compiling.
"""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
from bad_data_files import FILES
from bad_data_folders import FOLDERS
from bad_data_leftovers import LEFTOVERS
from bad_data_tables import TABLES

Maker = Callable[[Path], list[str]]

SMALL = "--arms free --seeds 1 --dim 4 --depth 1 --epochs 1 --measurements 1 --batch 2".split()  # noqa: SIM905

MAKERS: dict[str, Maker] = {**FOLDERS, **LEFTOVERS, **TABLES, **FILES}
"""What makes each case in an empty folder and returns the options that name it, by "refused: ..."
or "loaded: ...".
"""


def cases(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The name of each case, which says what is right, "refused: ..." or "loaded: ...", and the
    arguments of `hopmix`.

    **Arguments:**

    - `folder`: where the data are made, each in a folder of its own.
    """
    datasets.disable_progress_bars()
    for number, (name, make) in enumerate(MAKERS.items()):
        place = folder / f"{number:03}"
        place.mkdir(parents=True)
        yield name, ["ablate", "--dry-run", "--out", str(place / "out"), *SMALL, *make(place)]


def fault(name: str, code: int, out: str, err: str) -> str | None:
    """What is wrong of how a case ended, or `None`."""
    if "Traceback" in out + err:
        return "a traceback"
    if name.startswith("loaded: "):
        return None if code == 0 and not err.strip() else f"exit code {code}: {err.strip()}"
    lines = err.strip().splitlines()
    if code != 2:
        return f"exit code {code}, not refused"
    return (
        None
        if len(lines) == 1 and lines[0].startswith("hopmix: ")
        else f"{len(lines)} lines: {err.strip()}"
    )


def main() -> int:
    """Try all cases and print those that end wrongly; 0 where there are none."""
    from hopmix.lab import cli
    from hopmix.lab.study import dry_run

    # What a study would cost is not what is tried here.
    dry_run.estimate = lambda study: dry_run.Estimate(0.0, 0.0, 0)
    wrong = 0
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        for name, arguments in cases(Path(folder)):
            out = io.StringIO()
            err = io.StringIO()
            begin = time.perf_counter()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = cli.run(arguments)
                except BaseException as error:
                    code = -1
                    name = f"{name} raised {error!r}"
            told = fault(name, code, out.getvalue(), err.getvalue())
            tried += 1
            wrong += told is not None
            seconds = time.perf_counter() - begin
            slow = f" after {seconds:.1f} s" if seconds > 2 else ""
            print(
                f"{'WRONG' if told else 'right'}  {name}{slow}" + (f": {told}" if told else ""),
                flush=True,
            )
            if "-v" in sys.argv:
                print(
                    "   ", err.getvalue().strip() or "\n    ".join(out.getvalue().splitlines()[:6])
                )
    print(f"{tried - wrong} of {tried} cases end as they should")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
