"""Options that no study can have: each must end in one line with its field, its value and the cure,
before any work.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

BEYOND_INT32 = 2**31
BEYOND_FLOAT32 = 1e39

COUNTS = ("seeds", "epochs", "batch", "measurements", "n-iter", "dim", "depth", "members-at-once")
"""Options of `hopmix ablate` that count something, and start at 1."""

NUMBERS = ("learning-rate", "clip", "weight-decay", "warmup", "drop-path", "validation")

Case = tuple[str, list[str]]
"""What is wrong, and the arguments of `hopmix`."""


def cases(folder: Path) -> Iterator[Case]:
    """All bad options, with what they need on disk in `folder`."""
    yield from _numbers()
    yield from _choices()
    yield from _targets(folder)
    yield from _commands(folder)
    yield from _records(folder)


def _ablate(*options: object) -> list[str]:
    return ["ablate", "--dry-run", *map(str, options)]


def _numbers() -> Iterator[Case]:
    for name in COUNTS:
        for value in (0, -1, BEYOND_INT32, 10**30, "1.5", "nan", "many", ""):
            yield f"{name} {value}", _ablate(f"--{name}", value)
    for name in ("first-seed", "spectra-every"):
        for value in (-1, BEYOND_INT32, "0.5", "x"):
            yield f"{name} {value}", _ablate(f"--{name}", value)
    yield "seeds beyond int32", _ablate("--first-seed", BEYOND_INT32 - 1, "--seeds", 2)
    for name in NUMBERS:
        for value in (-1, "nan", "inf", BEYOND_FLOAT32, "x", ""):
            yield f"{name} {value}", _ablate(f"--{name}", value)
    for name in ("learning-rate", "clip", "validation"):
        yield f"{name} 0", _ablate(f"--{name}", 0)
    for name in ("learning-rate", "clip"):
        yield f"{name} below float32", _ablate(f"--{name}", 1e-60)
    for name in ("warmup", "drop-path", "validation"):
        yield f"{name} 1", _ablate(f"--{name}", 1)
    for value in (-1, "nan", "inf", BEYOND_FLOAT32, 1e-60, "x", ""):
        yield f"lambdas {value}", _ablate("--lambdas", value)
    for size in (
        ("--dim", 10**6),
        ("--depth", 10**6),
        ("--seeds", 10**8),
        ("--dim", 10**5, "--depth", 500),
    ):
        yield f"more than memory: {size}", _ablate(*size)
    yield "steps beyond int32", _ablate("--epochs", BEYOND_INT32 - 1)


def _choices() -> Iterator[Case]:
    for name, value in {
        "arms": "sideways",
        "size": "XL/16",
        "norm": "batch",
        "norm-scale": "vector",
        "augment": "heavy",
        "precision": "float16",
        "no-such-option": "1",
        "patch": "3",
        "data": "no/such/folder",
        "label-column": "kind",
    }.items():
        yield f"{name} {value}", _ablate(f"--{name}", value)
    yield "arms nothing", _ablate("--arms")
    yield "arms twice", _ablate("--arms", "free", "free")
    yield "arms empty", _ablate("--arms", "")
    yield "lambdas nothing", _ablate("--lambdas")
    yield "lambdas twice", _ablate("--lambdas", 0.1, 0.1)
    yield "data empty", _ablate("--data", "")
    yield "data of a null byte", _ablate("--data", "a\0b")
    yield "data too long", _ablate("--data", "x" * 5000)
    yield "patch larger than an image", _ablate("--patch", 64)
    yield "batch larger than the data", _ablate("--batch", 100_000)
    yield "no command", []
    yield "no such command", ["train"]


def _targets(folder: Path) -> Iterator[Case]:
    file = folder / "file"
    file.write_text("a file")
    dangling = folder / "dangling"
    dangling.symlink_to(folder / "nowhere" / "else")
    loop = folder / "loop"
    loop.symlink_to(loop)
    full = folder / "full"
    full.mkdir()
    (full / "notes.txt").write_text("notes")
    closed = Path("/proc")
    bad = {
        "a file": file,
        "below a file": file / "run",
        "a dangling link": dangling,
        "a link to itself": loop,
        "a folder with other files": full,
        "a name that is too long": folder / ("x" * 300),
        "a path that is too long": folder / "/".join(["x" * 200] * 30),
        "where nobody can write": closed / "run",
        "a null byte": f"{folder}/a\0b",
        "nothing": "",
        "a device": "/dev/null",
    }
    for name, path in bad.items():
        yield f"ablate --out {name}", ["ablate", "--out", str(path)]
        if name != "a folder with other files":
            yield (
                f"measure --out {name}",
                ["measure", str(folder / "none.safetensors"), "--out", str(path)],
            )
        for command in ("resume", "report", "measure", "verify"):
            yield f"{command} {name}", [command, str(path)]
    for name in (
        "below a file",
        "a name that is too long",
        "where nobody can write",
        "a null byte",
        "a link to itself",
    ):
        yield f"verify --json {name}", ["verify", "--claim", "C05", "--json", str(bad[name])]
        yield f"verify --write {name}", ["verify", "--write", str(bad[name])]
        yield (
            f"bench --json {name}",
            ["bench", "--quick", "--only", "data", "--json", str(bad[name])],
        )
        yield (
            f"measure --json {name}",
            ["measure", str(folder / "none.safetensors"), "--json", str(bad[name])],
        )


def _commands(folder: Path) -> Iterator[Case]:
    nothing = str(folder / "nothing")
    for command in ("resume", "report", "measure", "verify"):
        yield f"{command} of nothing", [command, nothing]
        yield (
            f"{command} of no argument" if command != "verify" else "verify --claim",
            ([command] if command != "verify" else ["verify", "--claim"]),
        )
    for value in ("C99", "", "c"):
        yield f"verify --claim {value}", ["verify", "--claim", value]
    for name in ("examples", "seed"):
        for value in (-1, BEYOND_INT32, "x", "1.5"):
            yield f"verify --{name} {value}", ["verify", "--claim", "C05", f"--{name}", str(value)]
    yield "verify --examples 0", ["verify", "--claim", "C05", "--examples", "0"]
    yield "verify a run and a claim", ["verify", nothing, "--claim", "C05"]
    yield (
        "verify a claim and a page",
        ["verify", "--claim", "C05", "--write", str(folder / "page.md")],
    )
    yield "verify --write a page that is not there", ["verify", "--write", str(folder / "page.md")]
    for name in ("heads", "pairings"):
        for value in (-1, BEYOND_INT32, "x"):
            yield f"measure --{name} {value}", ["measure", nothing, f"--{name}", str(value)]
    yield "measure --pairings 1", ["measure", nothing, "--pairings", "1"]
    yield "measure --heads 0", ["measure", nothing, "--heads", "0"]
    for pair in ("", ":", "a:", ":b", "a:b:c", "*:*:*"):
        yield f"measure --pairs {pair!r}", ["measure", nothing, "--pairs", pair]
    yield "measure of a hub without a name", ["measure", "hub:"]
    yield "measure of a hub's odd name", ["measure", "hub:a/b/c/d"]
    for name in ("batch", "repetitions"):
        for value in (0, -1, BEYOND_INT32, "x"):
            yield f"bench --{name} {value}", ["bench", "--quick", f"--{name}", str(value)]
    for name in ("only", "sizes", "arms"):
        yield f"bench --{name} nothing", ["bench", f"--{name}"]
        yield f"bench --{name} unknown", ["bench", f"--{name}", "unknown"]
    yield "bench --peer nothing", ["bench", "--peer", ""]
    yield "bench --peer unknown", ["bench", "--peer", "no-such-program --fast"]
    yield "bench --peer open quotes", ["bench", "--peer", "python 'x"]
    yield "bench --peer-compile alone", ["bench", "--peer-compile"]


def _records(folder: Path) -> Iterator[Case]:
    """Records of a study that somebody has edited: each field in each type that it cannot have."""
    whole = json.loads(json.dumps(_record()))
    for field, value in whole["config"].items():
        for wrong in (None, "x", -1, 1.5, True, [], ["x"], [1], {}, {"a": 1}, float("nan"), 10**20):
            if _fits(value, wrong, field):
                continue
            record = whole | {"config": whole["config"] | {field: wrong}}
            yield f"study.json with {field} = {wrong!r}", ["resume", str(_run(folder, record))]
    for wrong in (None, "x", 1, [], {}):
        yield (
            f"study.json with config {wrong!r}",
            ["resume", str(_run(folder, whole | {"config": wrong}))],
        )
        yield f"study.json that is {wrong!r}", ["resume", str(_run(folder, wrong))]
    yield (
        "study.json with a field of the future",
        [
            "resume",
            str(_run(folder, whole | {"config": whole["config"] | {"momentum": 1}})),
        ],
    )


def _record() -> dict:
    from hopmix.lab.config import StudyConfig

    return {"config": StudyConfig().to_json()}


def _fits(right: object, wrong: object, field: str) -> bool:
    """Whether a value is one that the field can have after all."""
    if wrong is None:
        return right is None
    if field in ("label_column", "image_column", "data") and isinstance(wrong, str):
        return True
    if isinstance(right, bool) or isinstance(wrong, bool):
        return isinstance(right, bool) and isinstance(wrong, bool)
    if field in ("clip", "weight_decay", "learning_rate") and wrong in (1.5, 10**20):
        return True
    return field == "lambdas" and wrong in ([], [1])


def _run(folder: Path, record: object) -> Path:
    run = folder / f"run-{len(os.listdir(folder))}"
    run.mkdir()
    (run / "study.json").write_text(json.dumps(record))
    return run
