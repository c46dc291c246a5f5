"""The command `hopmix`, and `python -m hopmix`: the lab's command line, or which extra it needs."""

import os
import signal
import sys
from types import FrameType

import hopmix
from hopmix._extras import MissingExtra, needs_extra


def _stop(number: int, frame: FrameType | None):
    # Until a command begins there is nothing to lose, and libraries that are being imported may
    # swallow what is raised.
    print("hopmix: stopped before anything was begun.", file=sys.stderr, flush=True)
    os._exit(1)


def main():
    """Run the command line and exit: 0 done, 2 bad input or a missing extra, 1 anything else."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if sys.argv[1:] == ["--version"]:
        print(f"hopmix {hopmix.__version__}")
        return
    try:
        with needs_extra("The command line", "lab"):
            from hopmix.lab import cli

            cli.main()
    except MissingExtra as error:
        print(f"hopmix: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
