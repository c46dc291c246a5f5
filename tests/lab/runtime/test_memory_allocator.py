import platform
import subprocess
import sys

import pytest

from hopmix.lab.runtime.memory_allocator import VARIABLES, keep_memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)

PAGES = """
import resource, sys
import numpy as np
from hopmix.lab.runtime.memory_allocator import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)  # 128 MiB, at once freed
before = faults()
for _ in range(5):
    np.ones(2**24)
print(faults() - before)
"""


def count_faults(word: str) -> int:
    command = [sys.executable, "-c", PAGES, word]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_that_is_kept_is_not_cleared_again(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert count_faults("keep") < 0.1 * count_faults("give back")


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_up_stays(monkeypatch, name):
    monkeypatch.setenv(name, "0")
    assert not keep_memory()


RELEASED = """
from hopmix.lab.runtime.memory_allocator import keep_memory, release_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
assert keep_memory()
blocks = [bytearray(b"1") * 2**17 for _ in range(1000)]
full = resident()
del blocks
kept = resident()
release_memory()
print(full - kept, full - resident())
"""


def test_memory_that_is_kept_can_be_given_back(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", RELEASED]
    kept, released = map(
        int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert released > 20_000  # of the 32,000 pages
    assert kept < 0.1 * released
