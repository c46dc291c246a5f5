"""The peer: a program of its own that trains the same mixer, is called once for each number, and
prints JSON.
"""

import json
import shlex
import subprocess
from typing import Any, NamedTuple

import jax

from hopmix.lab.errors import UsageError


class Peer(NamedTuple):
    """The command of a peer, and the options that each of its runs is given."""

    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    torch: str | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        if "--compile" in self.options:
            return "peer compiled"
        return "peer eager"

    def milliseconds(self, **shape: Any) -> float:
        """The median time of a step; a shape of `True` is a flag."""
        return self.run(**shape)["median_ms"]

    def run(self, **shape: Any) -> dict[str, Any]:
        """What the peer prints for a shape.

        Raises `UsageError` where it fails or prints something else.
        """
        words = [
            w
            for k, v in shape.items()
            if v is not False
            for w in (f"--{k}", *([] if v is True else [str(v)]))
        ]
        command = [*self.command, *words, *self.options]
        try:
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            answer = json.loads(printed.strip().splitlines()[-1])
            return answer | {"median_ms": float(answer["median_ms"])}
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip().splitlines() or ["nothing"])[-1]
            raise UsageError(
                f"peer: {shlex.join(command)} failed, it said: {said}; run that line by itself."
            ) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"peer: {shlex.join(command)} did not print a line of JSON with median_ms "
                f"({error}); give the command "
                "of torch_peer.py."
            ) from None


def find_peers(command: str | None, compiled: bool, precision: str) -> list[Peer]:
    """The peers that a command names, eager and where wanted compiled, after a small run to see
    that it works.
    """
    if command is None:
        return []
    options = ("--device", "cuda") if jax.default_backend() == "gpu" else ()
    options += ("--bf16",) if precision == "bfloat16" else ()
    peers = [Peer(tuple(shlex.split(command)), options)]
    peers += [peers[0]._replace(options=(*options, "--compile"))] if compiled else []
    return [
        peer._replace(torch=peer.run(image=8, dim=8, depth=1, batch=1, steps=1).get("torch"))
        for peer in peers
    ]
