"""Commands of `hopmix` as a drill gives them: inside this process, or in a process of their own
that can be killed.
"""

import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

# What takes seconds to import is there already in each process that the server forks.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["hopmix.lab.cli", "hopmix.lab.study.study", "hopmix.lab.report.page", "zarr", "PIL.Image"]
)

DONE = 0
FAILED = 1
BAD_INPUT = 2
LONGEST = 900
"""Seconds after which a command hangs, on a machine that others use too."""

MEMORY = 16 * 2**30
"""Bytes of address space of a process: a damaged size must not take the machine."""


class Answer(NamedTuple):
    """What a command ended with: its exit code (`None` for a traceback), and what it printed."""

    code: int | None
    out: str
    err: str

    @property
    def told(self) -> bool:
        """Whether it refused in one line."""
        return self.code in (FAILED, BAD_INPUT) and len(self.err.strip().splitlines()) == 1

    @property
    def done(self) -> bool:
        """Whether it did what it was asked for, complained of nothing, and was plain: this is no
        terminal.
        """
        return self.code == DONE and not self.err.strip() and "\x1b" not in self.out

    def __str__(self) -> str:
        lines = self.err.strip().splitlines() or [""]
        return f"exit {self.code}, {len(lines)} lines, the last: {lines[-1][:300]}"


def prepare_process():
    """Bound the memory of this process, and let it keep every program that it compiles for the next
    one.
    """
    import jax

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def ask(*arguments: object) -> Answer:
    """Give a command inside this process."""
    words = [str(word) for word in arguments]
    # Futures of checkpoints that an earlier command could not read complain when they are found:
    # here, and not among what this command prints.
    gc.collect()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with _printing_to(out, err):
            code = _run(words)
        return Answer(code, _content(out), _content(err))


def _run(words: Sequence[str]) -> int | None:
    from hopmix.lab import cli

    try:
        return cli.run(words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
        return None


@contextlib.contextmanager
def _printing_to(out: IO[str], err: IO[str]) -> Iterator[None]:
    """Catch what is printed, by libraries that are not in Python too."""
    kept = [os.dup(1), os.dup(2)]
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _content(file: IO[str]) -> str:
    file.flush()
    file.seek(0)
    return file.read()


class Command:
    """A command in a process of its own, begun at once; it prints into files in `folder`."""

    def __init__(self, folder: Path, *arguments: object, cwd: Path | None = None):
        number, path = tempfile.mkstemp(dir=folder, prefix="command-")
        os.close(number)
        self._out = Path(path)
        self._err = self._out.with_suffix(".err")
        self._err.touch()
        words = [str(word) for word in arguments]
        self.process = PROCESSES.Process(
            target=_main, args=(words, self._out, self._err, cwd), daemon=True
        )
        self.process.start()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def signal(self, number: int):
        """Send it a signal."""
        os.kill(self.process.pid or 0, number)

    def hold(self):
        """Hold it still: a thread that writes may go on for a moment after the signal."""
        self.signal(signal.SIGSTOP)
        while self.runs and not self._is_still():
            time.sleep(0.01)

    def _is_still(self) -> bool:
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(") ")[2][0] in "TtZX" for thread in threads)

    def kill(self) -> bool:
        """Kill it at once; whether it was still running."""
        ran = self.runs
        self.process.kill()
        self.process.join()
        return ran and self.process.exitcode == -9

    def wait(self) -> Answer:
        """What it ends with."""
        self.process.join(LONGEST)
        if self.runs:
            self.kill()
            return Answer(None, "", f"it had not ended after {LONGEST} s")
        code = self.process.exitcode
        answers = (DONE, FAILED, BAD_INPUT)
        return Answer(
            code if code in answers else None, self._out.read_text(), self._err.read_text()
        )


def _main(words: Sequence[str], out: Path, err: Path, cwd: Path | None):
    prepare_process()
    if cwd is not None:
        os.chdir(cwd)
    with out.open("w") as printed, err.open("w") as complained, _printing_to(printed, complained):
        code = _run(words)
    sys.exit(3 if code is None else code)


def run(folder: Path, *arguments: object, cwd: Path | None = None) -> Answer:
    """Give a command in a process of its own, and wait for its end."""
    return Command(folder, *arguments, cwd=cwd).wait()


def wait_until(happened: Callable[[], bool], command: Command) -> bool:
    """Wait while a command runs; whether something has happened by then."""
    while not happened():
        if not command.runs:
            return happened()
        time.sleep(0.002)
    return True
