"""Ctrl-C and SIGTERM: heard at once even while a compiled program runs, and asked for where work
can stop.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


PATIENCE = 1.5
"""Seconds in which a `KeyboardInterrupt` must have ended what runs."""


@contextlib.contextmanager
def heard(leave: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise `KeyboardInterrupt`, or else end the process.

    Python forgets what is raised in a callback of a library, such as JAX's of the garbage
    collector: what runs would go on as if nothing had been said.

    **Arguments:**

    - `leave`: called, from another thread, where what was raised has not ended this context in
      time; it is to end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[threading.Timer] = []

    def stop(number: int, frame: FrameType | None):
        waiting.append(threading.Timer(PATIENCE, leave))
        waiting[-1].daemon = True
        waiting[-1].start()
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for timer in waiting:
            timer.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


class Interrupted(Exception):
    """The user asked to stop; everything is saved."""


class Interrupts:
    """Turns signals into a question; a context.

    Python runs handlers between its own steps only, and a compiled program may take minutes: the
    first signal is answered by a thread of its own, and so is the second, which ends the process.

    **Arguments:**

    - `say`: called once, from another thread, when the first signal comes.
    - `leave`: called, from another thread, when the second one comes; it is to end the process.
    """

    def __init__(self, say: Callable[[], None], leave: Callable[[], None]):
        self._say = say
        self._leave = leave
        self._heard = threading.Event()
        self._exits = contextlib.ExitStack()

    def check(self):
        """Raise `Interrupted` if a signal has come."""
        if self._heard.is_set():
            raise Interrupted

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self  # whoever runs us there handles signals
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        listener.start()
        self._exits.callback(listener.join)
        self._exits.callback(os.close, writer)
        for number in SIGNALS:
            previous = signal.signal(number, self._mark)
            self._exits.callback(signal.signal, number, previous or signal.SIG_DFL)
        self._exits.callback(
            signal.set_wakeup_fd, signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        )
        return self

    def __exit__(self, *exception):
        self._exits.close()

    def _mark(self, number: int, frame: FrameType | None):
        self._heard.set()

    def _listen(self, reader: int):
        """Answer the signals whose numbers Python writes into the pipe, until its other end is
        closed.
        """
        with open(reader, "rb", buffering=0) as pipe:
            heard = 0
            while number := pipe.read(1):
                if number[0] not in SIGNALS:
                    continue
                heard += 1
                self._heard.set()
                answer = self._say if heard == 1 else self._leave
                answer()
