"""Cases judged side by side, each worker a process; one that dies or hangs costs its case alone."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from experiments.reliability import commands

LONGEST = 3600
"""Seconds after which a case hangs, on a machine that others use too."""


class Outcome(NamedTuple):
    """How a case ended: its name, whether it is as it should be, in a word how, and what was seen
    where it is not.
    """

    name: str
    passed: bool
    how: str
    seen: str = ""


Judge = Callable[[Any, Any, Path], Outcome]
"""Judges a case with the runs that all cases share, in an empty folder."""


class Worker:
    """A process that judges one case after another, in a folder of its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._pool = self._open()

    def _open(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, commands.PROCESSES, initializer=commands.prepare_process)

    def judge(self, judge: Judge, case: Any, shared: Any) -> Outcome:
        """The outcome of a case, also where its process dies of it."""
        place = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            return self._pool.submit(_judge, judge, case, shared, place).result(LONGEST)
        except Exception as error:  # of the case, or because its process has died or hangs
            self.close()
            self._pool = self._open()
            return Outcome(str(case), False, "broke", repr(error)[:500])
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def close(self):
        """End the process, whatever it does."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _judge(judge: Judge, case: Any, shared: Any, place: Path) -> Outcome:
    return judge(case, shared, place)


def outcomes(
    judge: Judge, cases: Sequence[Any], shared: Any, folder: Path, jobs: int = 1
) -> Iterator[Outcome]:
    """Judge all cases; the outcomes come in the order of the cases.

    **Arguments:**

    - `judge`: a function of a module, called with a case, `shared` and a folder to work in.
    - `folder`: where the workers work.
    - `jobs`: how many cases are judged at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(folder) for _ in range(jobs)]
    for worker in workers:
        free.put(worker)

    def judged(case: Any) -> Outcome:
        worker = free.get()
        try:
            return worker.judge(judge, case, shared)
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(jobs)
    try:
        yield from threads.map(judged, cases)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()
