"""What a path of `hopmix measure` is, told from its content and not from its name alone, and the
layers in it.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hopmix._tree import named_couplings
from hopmix.lab.checkpoints.formats.equinox import EquinoxArrays, open_mixer
from hopmix.lab.checkpoints.formats.safetensors import open_file, open_folder, open_hub
from hopmix.lab.checkpoints.formats.torch import TorchWeights
from hopmix.lab.checkpoints.formats.weights import AbstractWeights, nearest
from hopmix.lab.checkpoints.layers import LayerSet
from hopmix.lab.checkpoints.layouts import ReadOptions, find_layers
from hopmix.lab.checkpoints.pairs import check_patterns, named_layers
from hopmix.lab.checkpoints.run import is_run, layers_of, run_layers
from hopmix.lab.config import Measure
from hopmix.lab.errors import UsageError

Format = Literal["safetensors", "PyTorch", "Equinox"]

SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".bin": "PyTorch",
    ".ckpt": "PyTorch",
    ".eqx": "Equinox",
}


def open_layers(options: Measure) -> LayerSet:
    """The layers of what a path names, none of them read yet.

    **Raises:** `UsageError` where there is nothing to measure, and for options that don't fit what
    is there.
    """
    check_patterns(options.pairs)
    path = Path(options.path).expanduser()
    ours = not options.path.startswith("hub:") and _ours(path, options.arms)
    if ours:
        if options.pairs or options.breaking or options.heads:
            raise UsageError(
                f"pairs, breaking, heads: {path} is hopmix's own and needs none of them; leave "
                f"them out."
            )
        return ours
    weights = _open(options.path)
    if options.pairs:
        return named_layers(weights, options.pairs, breaking=options.breaking)
    return find_layers(weights, ReadOptions(options.breaking, options.heads))


def _ours(path: Path, arms: Sequence[str]) -> LayerSet | None:
    """The layers of a run or of a saved mixer of hopmix, whose weights need no names."""
    if is_run(path):
        return run_layers(path, arms)
    if path.is_file() and _format(path) == "Equinox":
        mixer = open_mixer(path)
    else:
        mixer = None
    if mixer is None:
        return None
    return LayerSet("a mixer of hopmix", list(layers_of(named_couplings(mixer))), [])


def _open(name: str) -> AbstractWeights:
    if name.startswith("hub:"):
        return open_hub(name.removeprefix("hub:"))
    path = Path(name).expanduser()
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise UsageError(f"path: there is no {name}{_suggestion(path)}.")
    match _format(path):
        case "safetensors":
            return open_file(path)
        case "PyTorch":
            return TorchWeights(path)
        case "Equinox":
            return EquinoxArrays(path)


def _suggestion(path: Path) -> str:
    if path.parent.is_dir():
        siblings = [other.name for other in path.parent.iterdir()]
    else:
        siblings = []
    if not siblings and len(path.parts) == 2:
        return f"; a model of the Hugging Face Hub is hub:{path}"
    close = nearest(path.name, siblings)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return ""


def _format(path: Path) -> Format:
    """What a file is: by its content, which must agree with its name if that says anything."""
    said = SUFFIXES.get(path.suffix.lower())
    is_ = _content(path)
    if said and is_ and said != is_:
        raise UsageError(
            f"path: {path} is named as a file of {said} but is one of {is_}; rename it if you "
            f"trust it."
        )
    if not (is_ or said):
        raise UsageError(
            f"path: {path} is neither safetensors nor a PyTorch state dict nor a file of "
            f"Equinox; convert it to "
            "safetensors."
        )
    return is_ or said  # pyright: ignore[reportReturnType]


def _content(path: Path) -> Format | None:
    with path.open("rb") as file:
        head = file.read(9)
    header = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and header <= path.stat().st_size - 8:
        return "safetensors"
    if head.startswith((b"\x93NUMPY", b"{")):
        return "Equinox"
    if head.startswith(b"PK"):
        if _is_archive_of_torch(path):
            return "PyTorch"
        return None
    return "PyTorch" if head.startswith(b"\x80") else None  # a pickle


def _is_archive_of_torch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:  # truncated: torch will say so
        return True
