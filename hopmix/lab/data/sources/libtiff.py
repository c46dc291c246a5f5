"""Lines that libtiff writes to standard error of its own accord, kept from what is told in one line
anyway.
"""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ITS_OWN = re.compile(rb"(tempfile\.tif|_?TIFF\w*|\w*(Decode|Setup|Lib)\w*): [^\n]*\n")
"""A line of libtiff begins with the file, which Pillow calls so, or one of its functions or codecs.
"""

_ONE = threading.Lock()
"""The descriptor is the whole program's."""


@contextmanager
def libtiff_silent() -> Iterator[None]:
    """A block without libtiff's lines; what others write to standard error meanwhile comes right
    after it.
    """
    with _ONE, tempfile.TemporaryFile() as held:
        try:
            before = os.dup(2)
        except OSError:  # closed: nothing would be seen
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            _write(ITS_OWN.sub(b"", held.read()))


def _write(content: bytes):
    while content:
        content = content[os.write(2, content) :]
