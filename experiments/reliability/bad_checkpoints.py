"""Checkpoints that are none, and descriptions of studies that were edited: each is told in one
line.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from hopmix.lab.config import StudyConfig

WEIGHTS = {
    "mlp.fc1.weight": np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32),
    "mlp.fc2.weight": np.random.default_rng(1).normal(size=(12, 20)).astype(np.float32),
}
WHOLE = save(WEIGHTS)


def cases(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The name of each case and the arguments of `hopmix`.

    **Arguments:**

    - `folder`: where the files are made, each in a folder of its own.
    """
    made = [*_files(), *_folders(), *_descriptions()]
    for number, (name, make) in enumerate(made):
        place = folder / f"{number:03}"
        place.mkdir(parents=True)
        yield name, [*make(place)]


Maker = Callable[[Path], list[str]]


# ---- Files of weights ----------------------------------------------------------------------------


def _measured(name: str, content: bytes, *options: str) -> Maker:
    """Writes a file, and measures it."""

    def make(place: Path) -> list[str]:
        (place / name).write_bytes(content)
        return ["measure", str(place / name), "--pairings", "0", *options]

    return make


def _files() -> Iterator[tuple[str, Maker]]:
    for size in (0, 1, 7, 8, 9, 40, len(WHOLE) // 2, len(WHOLE) - 1):
        yield f"the first {size} bytes of safetensors", _measured("a.safetensors", WHOLE[:size])
    yield "bytes behind safetensors", _measured("a.safetensors", WHOLE + b"\0" * 16)
    for name, header in _headers():
        yield f"safetensors with {name}", _measured("a.safetensors", _with_header(header))
    for name, tensors in _tensors():
        yield f"safetensors of {name}", _measured("a.safetensors", save(tensors))
    for name, pattern in _patterns():
        yield f"pairs: {name}", _measured("a.safetensors", WHOLE, "--pairs", pattern)
    for ending in ("safetensors", "pt", "pth", "bin", "ckpt", "eqx", "txt", "npz", "npy"):
        yield f"text named .{ending}", _measured(f"a.{ending}", b"These are no weights.\n")
        yield f"nothing named .{ending}", _measured(f"a.{ending}", b"")
    for ending in ("pt", "eqx"):
        yield f"safetensors named .{ending}", _measured(f"a.{ending}", WHOLE)
    yield "the head of a file of Equinox", _measured("a.eqx", b'{"image": [8, 8, 1], "dim": 8}\n')
    yield (
        "a mixer that cannot be",
        _measured("a.eqx", b'{"image": [8, 8, 1], "dim": -8, "depth": "many"}\n'),
    )
    yield "the head of an array", _measured("a.eqx", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4'")
    yield "an array of 2^60 numbers", _measured("a.eqx", _head_of_array("(1152921504606846976,)"))


def _head_of_array(shape: str) -> bytes:
    head = (
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117)
        + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def _headers() -> Iterator[tuple[str, Any]]:
    one = {"dtype": "F32", "shape": [20, 12], "data_offsets": [0, 960]}
    yield "no tensors", {}
    yield "a list as header", [one]
    yield "a number as tensor", {"a": 3}
    for name, value in (
        ("dtype", "F7"),
        ("dtype", 3),
        ("shape", [20, -12]),
        ("shape", [2**40, 2**40]),
        ("shape", "20"),
    ):
        yield f"the {name} {value}", {"a": one | {name: value}}
    for offsets in ([0, 2**60], [960, 0], [-1, 959], [0], "0", [0, 959], [4, 964]):
        yield f"the offsets {offsets}", {"a": one | {"data_offsets": offsets}}
    yield "two tensors at one place", {"a": one, "b": one}
    yield "metadata that are none", {"__metadata__": [1], "a": one}


def _with_header(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 960


def _tensors() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    yield "a bias alone", {"bias": np.zeros(3, np.float32)}
    yield "integers", {name: np.ones(w.shape, np.int64) for name, w in WEIGHTS.items()}
    yield "no numbers", {name: np.zeros((0, 12), np.float32) for name in WEIGHTS}
    yield "a kernel of four axes", {"conv.weight": np.zeros((2, 3, 4, 5), np.float32)}
    yield "names that mean nothing", {f"weight_{i}": w for i, w in enumerate(WEIGHTS.values())}
    yield "one half of a pair", {"mlp.fc1.weight": WEIGHTS["mlp.fc1.weight"]}
    yield "sizes that do not fit", WEIGHTS | {"mlp.fc2.weight": np.zeros((13, 21), np.float32)}


def _patterns() -> Iterator[tuple[str, str]]:
    yield "a name that is not there", "mlp.fc3.weight:mlp.fc2.weight"
    yield "nothing", ""
    yield "a colon", ":"
    yield "three names", "mlp.fc1.weight:mlp.fc2.weight:mlp.fc1.weight"
    yield "two stars", "*.fc*.weight:*.fc*.weight"
    yield "sizes that do not fit", "mlp.fc1.weight:mlp.fc1.weight"
    yield "a bracket", "mlp.[fc1.weight:mlp.fc2.weight"


# ---- Folders and other places --------------------------------------------------------------------


def _folders() -> Iterator[tuple[str, Maker]]:
    for command in ("measure", "verify", "report", "resume"):
        for name, make in _places():
            yield (
                f"{command} {name}",
                lambda place, command=command, make=make: [command, str(make(place))],
            )
    for name, index in (
        ("no JSON", "{"),
        ("no map", '{"weight_map": 3}'),
        ("a list", "[]"),
        ("missing files", None),
    ):
        yield (
            f"an index with {name}",
            _index(index or json.dumps({"weight_map": {"a": "b.safetensors"}})),
        )
    outside = json.dumps({"weight_map": {"a": "../../../../etc/hostname"}})
    yield "an index that leads out of its folder", _index(outside)


def _index(content: str) -> Maker:
    def make(place: Path) -> list[str]:
        (place / "model.safetensors.index.json").write_text(content)
        return ["measure", str(place)]

    return make


def _places() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    yield "what is not there", lambda place: place / "nothing"
    yield "an empty folder", lambda place: place
    yield "a file", lambda place: _written(place / "file", "text")
    yield "a file in a file", lambda place: _written(place / "file", "text") / "run"
    yield "a link that leads nowhere", lambda place: _linked(place / "link", place / "nothing")
    yield "a link to itself", lambda place: _linked(place / "link", place / "link")
    yield "a pipe", lambda place: _pipe(place / "pipe")
    yield "a name of 300 letters", lambda place: place / ("a" * 300)
    yield "a name with a line break", lambda place: place / "a\nb"
    yield (
        "a run without its description",
        lambda place: _written(place / "run" / "results.json", "{}").parent,
    )
    yield (
        "a folder as description",
        lambda place: _written(place / "study.json" / "a", "{}").parents[1],
    )


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


# ---- Descriptions of studies ---------------------------------------------------------------------

VALUES = ("many", -1, None, [], {"a": 1}, 1e999, True, 10**30)
"""What is put in the place of each field; where it is right, what is missing is told: there is no
checkpoint.
"""

DESCRIBED: dict[str, Any] = {
    "config": StudyConfig(arms=("free",), seeds=1, dim=8, depth=1).to_json(),
    "arms": [
        {"name": "free", "title": "ParaMixer", "kind": "free", "strength": None, "parameters": 1042}
    ],
    "data": {
        "name": "digits",
        "image": [8, 8, 1],
        "classes": 10,
        "train": 1293,
        "digest": "0" * 12,
    },
    "steps_total": 42,
}
"""As the first versions of hopmix wrote it, without digests."""


def _descriptions() -> Iterator[tuple[str, Maker]]:
    for number, field in enumerate(dataclasses.fields(StudyConfig)):
        for turn in range(3):
            value = VALUES[(3 * number + turn) % len(VALUES)]
            edited = DESCRIBED | {"config": DESCRIBED["config"] | {field.name: value}}
            yield f"a study whose {field.name} is {value!r:.20}", _study(json.dumps(edited))
    for name in ("config", "arms", "data", "steps_total"):
        for value in VALUES:
            yield (
                f"a study whose {name} is {value!r:.20}",
                _study(json.dumps(DESCRIBED | {name: value})),
            )
    for text in (
        "",
        "{",
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        "NaN",
        "[" * 100_000,
        '{"config": {}, "config": 3}',
    ):
        yield f"a study described by {text[:30]!r}", _study(text)


def _study(described: str) -> Maker:
    def make(place: Path) -> list[str]:
        _written(place / "run" / "study.json", described)
        return ["measure", str(place / "run")]

    return make
