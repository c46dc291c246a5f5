"""Files that would run code if hopmix unpickled them or ran scripts: none does, and each is told or
read as data.

What they would do is harmless: make an empty folder, whose absence shows that nothing was run.
"""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.reliability.commands import ask
from experiments.reliability.small_study import OPTIONS, Runs, copy_run
from experiments.reliability.workers import Outcome

MARK = "executed"
"""The folder that a payload makes."""


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Hostile(NamedTuple):
    """A kind of file, and the commands that read it."""

    kind: str


def cases(count: int, seed: int) -> list[Hostile]:
    """Every kind once."""
    return [Hostile(kind) for kind in KINDS][:count]


def judge(hostile: Hostile, runs: Runs, place: Path) -> Outcome:
    """Write the file, give the commands that read it, and see what they did."""
    mark = place / MARK
    answers = []
    for words in KINDS[hostile.kind](place, mark, runs):
        answers.append(ask(*words))
        if mark.exists():
            return Outcome(hostile.kind, False, "executed", " ".join(map(str, words)))
    wrong = [str(answer) for answer in answers if not (answer.told or answer.done)]
    how = "told" if any(answer.told for answer in answers) else "read as data"
    return Outcome(
        hostile.kind, not wrong, "neither told nor done" if wrong else how, "; ".join(wrong)[:500]
    )


Words = tuple[object, ...]


def payload(mark: Path) -> bytes:
    """A pickle that makes a folder."""
    return pickle.dumps(Payload(mark), protocol=2)


def script(mark: Path) -> str:
    """A script that makes a folder."""
    return f"import os\n\nos.mkdir({str(mark)!r})\n"


# ---- Weights of other people ---------------------------------------------------------------------


def _bare_pickle(name: str) -> Callable[[Path, Path, Runs], Iterator[Words]]:
    def write(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
        (place / name).write_bytes(payload(mark))
        yield "measure", place / name, "--pairings", "0"

    return write


def _archive_of_torch(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    with zipfile.ZipFile(place / "model.pt", "w") as file:
        file.writestr("model/data.pkl", payload(mark))
        file.writestr("model/version", "3\n")
    yield "measure", place / "model.pt", "--pairings", "0"


def _old_file_of_torch(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    header = [
        pickle.dumps(part, protocol=2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    ]
    (place / "model.pth").write_bytes(
        b"".join(header) + payload(mark) + pickle.dumps([], protocol=2)
    )
    yield "measure", place / "model.pth", "--pairings", "0"


def _array_of_objects(name: str) -> Callable[[Path, Path, Runs], Iterator[Words]]:
    def write(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
        (place / name).write_bytes(_objects(mark))
        yield "measure", place / name, "--pairings", "0"

    return write


def _objects(mark: Path) -> bytes:
    """An array of objects as NumPy saves it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


# ---- Data ----------------------------------------------------------------------------------------


def _dry_run(path: Path) -> Words:
    return (
        "ablate",
        "--data",
        path,
        "--arms",
        "free",
        "--seeds",
        "1",
        "--dim",
        "8",
        "--depth",
        "1",
        "--batch",
        "2",
        "--dry-run",
    )


def _picture(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _folder_of_images(place: Path) -> Path:
    folder = place / "images"
    for i in range(60):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_picture(i))
    return folder


def _script_of_a_data_set(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    folder = _folder_of_images(place)
    for path in (
        folder / "images.py",
        folder / "a" / "a.py",
        folder / "dataset.py",
        folder / "__init__.py",
    ):
        path.write_text(script(mark))
    yield _dry_run(folder)
    yield _dry_run(folder / "images.py")


def _script_alone(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    folder = place / "images"
    folder.mkdir()
    (folder / "images.py").write_text(script(mark))
    (folder / "dataset_infos.json").write_text("{}")
    yield _dry_run(folder)


def _tags_of_yaml(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    folder = _folder_of_images(place)
    call = f"!!python/object/apply:os.mkdir [{str(mark)!r}]"
    (folder / "README.md").write_text(f"---\ndataset_info: {call}\nconfigs: {call}\n---\n")
    yield _dry_run(folder)


def _arrays_of_objects(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    with zipfile.ZipFile(place / "data.npz", "w") as file:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            file.writestr(f"{name}.npy", _objects(mark))
    yield _dry_run(place / "data.npz")


def _data_in_a_pickle(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    for name in ("data.pkl", "data_batch_1", "data.npy", "data.parquet", "data.csv", "data.arrow"):
        (place / name).write_bytes(payload(mark))
        yield _dry_run(place / name)


def _tar_with_pickles(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    folder = place / "shards"
    folder.mkdir()
    with tarfile.open(folder / "train-000.tar", "w") as archive:
        for i in range(40):
            members = {
                "png": _picture(i),
                "cls": str(i % 2).encode(),
                "pyd": payload(mark),
                "pkl": payload(mark),
            }
            members |= {"pickle": payload(mark), "npy": _objects(mark)}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    yield _dry_run(folder)
    yield _dry_run(folder / "train-000.tar")


def _saved_with_a_pickle(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    folder = place / "saved"
    folder.mkdir()
    call = {
        "_type": "Value",
        "dtype": "string",
        "py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [str(mark)]}],
    }
    state = {
        "_data_files": [{"filename": "data.arrow"}],
        "_fingerprint": "0",
        "_format_type": None,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(
        json.dumps({"features": {"image": call, "label": call}})
    )
    (folder / "data.arrow").write_bytes(payload(mark))
    yield _dry_run(folder)


# ---- Runs ----------------------------------------------------------------------------------------


def _read(run: Path) -> Iterator[Words]:
    yield "report", run
    yield "measure", run, "--pairings", "0"
    yield "verify", run, "--examples", "1"
    yield "resume", run


def _weights_of_a_run(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    run = copy_run(runs.ended, place)
    with zipfile.ZipFile(run / "weights.npz") as file:
        names = file.namelist()
    with zipfile.ZipFile(run / "weights.npz", "w") as file:
        for name in names:
            file.writestr(name, _objects(mark))
    yield from _read(run)


def _results_of_a_run(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    run = copy_run(runs.ended, place)
    for name in ("results.json", "weights.npz"):
        (run / name).write_bytes(payload(mark))
    yield from _read(run)


def _codec(changes: dict[str, object]) -> Callable[[Path, Path, Runs], Iterator[Words]]:
    """Metrics whose first numbers are a pickle, and whose description names the codec that reads
    it.
    """

    def write(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
        run = copy_run(runs.ended, place)
        for name in ("arm", "validation_loss", "cosine"):
            for path in run.glob(f".metrics/*/{name}/.zarray"):
                described = json.loads(path.read_text())
                path.write_text(json.dumps(described | changes))
                for chunk in [chunk for chunk in path.parent.iterdir() if chunk.name[0] != "."]:
                    chunk.write_bytes(payload(mark))
        yield from _read(run)

    return write


def _modules_of_a_checkpoint(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    """The metadata of a checkpoint name the classes that read it: here a module that makes a folder
    when imported.
    """
    run = copy_run(runs.ended, place)
    (run / "evil_handler.py").write_text(script(mark))
    for path in run.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        described = json.loads(path.read_text())
        described["item_handlers"] = dict.fromkeys(
            described["item_handlers"], "evil_handler.Handler"
        )
        path.write_text(json.dumps(described))
    here = Path.cwd()
    os.chdir(run)
    try:
        yield from _read(run)
    finally:
        os.chdir(here)


def _data_of_a_run(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    """The description of a run names a folder with a script as its data."""
    run = copy_run(runs.ended, place)
    folder = place / "images"
    folder.mkdir()
    (folder / "images.py").write_text(script(mark))
    described = json.loads((run / "study.json").read_text("utf-8"))
    described["config"]["data"] = str(folder)
    (run / "study.json").write_text(json.dumps(described))
    yield from _read(run)


def _modules_beside_a_run(place: Path, mark: Path, runs: Runs) -> Iterator[Words]:
    """Modules of common names in the folder that one works in."""
    run = copy_run(runs.ended, place)
    for name in ("sitecustomize.py", "conftest.py", "hopmix.py", "numpy.py", "setup.py"):
        (run / name).write_text(script(mark))
    here = Path.cwd()
    os.chdir(run)
    try:
        yield from _read(run)
        yield "ablate", *OPTIONS, "--dry-run"
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path, Path, Runs], Iterator[Words]]] = {
    **{
        f"a pickle named {name}": _bare_pickle(name)
        for name in ("a.pt", "a.pth", "a.bin", "a.ckpt", "a.eqx")
    },
    **{
        f"a pickle named {name}": _bare_pickle(name) for name in ("a.safetensors", "a.npy", "a.pkl")
    },
    "an archive of PyTorch": _archive_of_torch,
    "an old file of PyTorch": _old_file_of_torch,
    **{
        f"an array of objects named {name}": _array_of_objects(name)
        for name in ("a.eqx", "a.npy", "a.pt")
    },
    "scripts beside images": _script_of_a_data_set,
    "a script as data set": _script_alone,
    "tags in the front matter of a README": _tags_of_yaml,
    "data as arrays of objects": _arrays_of_objects,
    "data in a pickle": _data_in_a_pickle,
    "pickles in a tar of images": _tar_with_pickles,
    "a saved data set of a pickle": _saved_with_a_pickle,
    "weights of a run as arrays of objects": _weights_of_a_run,
    "results of a run as pickles": _results_of_a_run,
    "a pickle as codec of metrics": _codec(
        {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None}
    ),
    "a pickle as compressor of metrics": _codec(
        {"dtype": "|O", "filters": None, "compressor": {"id": "pickle"}}
    ),
    "objects as metrics": _codec({"dtype": "|O", "filters": None, "compressor": None}),
    "an unknown codec of metrics": _codec({"filters": [{"id": "evil_codec"}]}),
    "modules named by a checkpoint": _modules_of_a_checkpoint,
    "a script as data of a run": _data_of_a_run,
    "modules beside a run": _modules_beside_a_run,
}
