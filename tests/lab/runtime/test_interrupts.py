"""Ctrl-C and SIGTERM are heard while a compiled program runs, and the second one ends the
process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hopmix.lab.runtime import interrupts
from hopmix.lab.runtime.interrupts import Interrupted, Interrupts, heard

BUSY = """
import os, sys, time
import jax, jax.numpy as jnp
from hopmix.lab.runtime.interrupts import Interrupts

def leave():
    os._exit(7)

endless = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 1, lambda x: x * 0.5, x))
with Interrupts(lambda: print("heard", flush=True), leave):
    print("ready", flush=True)
    endless(jnp.float32(0.0)).block_until_ready()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_compiled_program_that_never_ends_is_no_hindrance(number):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)  # it has been compiled, and runs
    begin = time.monotonic()
    process.send_signal(number)
    assert process.stdout.readline() == "heard\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == 7
    assert time.monotonic() - begin < 2
    process.stdout.close()


def wait_for(heard: list):
    deadline = time.monotonic() + 10
    while not heard and time.monotonic() < deadline:
        time.sleep(0.01)
    return heard


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_a_question_inside_and_as_it_was_outside(number):
    before = signal.getsignal(number)
    wakeup = signal.set_wakeup_fd(-1)
    said = []
    with Interrupts(lambda: said.append("heard"), lambda: said.append("left")) as asked:
        asked.check()
        signal.raise_signal(number)
        with pytest.raises(Interrupted):
            asked.check()
        assert wait_for(said) == ["heard"]
        signal.raise_signal(number)
    assert said == ["heard", "left"]
    assert signal.getsignal(number) is before
    assert signal.set_wakeup_fd(wakeup) == -1


def test_in_another_thread_it_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def work():
        with Interrupts(lambda: None, lambda: None) as asked:
            asked.check()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_a_study_trains_a_signal_is_raised(number):
    before = signal.getsignal(number)
    left = []

    def work():
        os.kill(os.getpid(), number)
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt), heard(lambda: left.append(1)):
        work()
    assert signal.getsignal(number) is before
    time.sleep(2 * interrupts.PATIENCE)
    assert left == []


def test_what_a_library_swallows_ends_the_process_all_the_same(monkeypatch):
    monkeypatch.setattr(interrupts, "PATIENCE", 0.05)
    left = []
    with heard(lambda: left.append(1)):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert wait_for(left) == [1]


def test_the_command_stops_before_its_imports_are_done():
    script = (
        "import signal; from hopmix import __main__; __main__.needs_extra = lambda *_: "
        "signal.raise_signal(2)"
    )
    run = [sys.executable, "-c", f"{script}; __main__.main()"]
    stopped = subprocess.run(run, capture_output=True, text=True, check=False)
    assert stopped.returncode == 1
    assert stopped.stderr == "hopmix: stopped before anything was begun.\n"
