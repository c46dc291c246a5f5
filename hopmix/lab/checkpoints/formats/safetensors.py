"""Safetensors: one file or several with an index, in a folder or from the Hugging Face Hub.

Files are mapped into memory for each array anew: what has been read does not stay there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from hopmix.lab.checkpoints.formats.weights import AbstractWeights, Tensor, first_line
from hopmix.lab.errors import UsageError
from hopmix.lab.runtime.hub import ANSWERS_IN, asked_once
from hopmix.lab.store import read_json

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""NumPy's names of what safetensors calls them; others are kept as they are."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Safetensors(AbstractWeights):
    """The arrays of one or more safetensors files.

    **Arguments:**

    - `files`: the file of each array by its name.
    - `source`: what to call them.

    **Raises:** `UsageError` for a file that is damaged or lacks an array.
    """

    def __init__(self, files: Mapping[str, Path], source: str):
        self.source = source
        self._files = files
        contents = {path: _contents(path) for path in dict.fromkeys(files.values())}
        for name, path in files.items():
            if name not in contents[path]:
                raise UsageError(
                    f"path: {path} has no {name}, where the index says so; fetch the whole model."
                )
        self.tensors = {name: contents[path][name] for name, path in files.items()}

    def cut(self, name: str, part: tuple[slice, slice]) -> Any:
        """The rows and columns of an array; only these are read."""
        with safe_open(self._files[name], framework="np") as file:
            return file.get_slice(name)[part]


def open_file(path: Path, source: str = "a safetensors file") -> Safetensors:
    """All arrays of one file."""
    return Safetensors(dict.fromkeys(_contents(path), path), source)


def _contents(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            return {name: _tensor(array) for name, array in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"path: {path} is no whole safetensors file ({first_line(error)}); fetch it anew."
        ) from None


def _tensor(array: Any) -> Tensor:
    dtype = str(array.get_dtype())
    return Tensor(tuple(array.get_shape()), DTYPES.get(dtype, dtype))


def open_folder(folder: Path) -> Safetensors:
    """The weights in a folder: those of an index, or of the one safetensors file.

    **Raises:** `UsageError` for a folder that has neither, naming what is there instead.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = sorted(folder.glob("*.safetensors"))
    if len(indices) == 1:
        shards = _shards(indices[0])
        return Safetensors(shards, f"{len(set(shards.values()))} safetensors files")
    if len(files) == 1 and not indices:
        return open_file(files[0])
    several = [path.name for path in (*indices, *files)]
    if several:
        raise UsageError(f"path: {folder} has {', '.join(several[:5])}; name one of them.")
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".bin", ".eqx"))
    hint = f"; name its file {folder / others[0]}" if others else ""
    raise UsageError(f"path: {folder} has neither a study of hopmix nor safetensors{hint}.")


def _shards(index: Path) -> dict[str, Path]:
    """The file of each array."""
    names = _weight_map(index)
    for file in dict.fromkeys(names.values()):
        if not (index.parent / file).is_file():
            raise UsageError(
                f"path: {index} names {file}, which is not in its folder; fetch the whole model."
            )
    return {name: index.parent / file for name, file in names.items()}


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(names, dict)
        or not names
        or not all(isinstance(file, str) for file in names.values())
    ):
        raise UsageError(f"path: {index} has no weight_map from names to files; fetch it anew.")
    for file in names.values():
        if Path(file).name != file:
            raise UsageError(
                f"path: {index} names the file {file!r}; it may only name files in its own folder."
            )
    return names


def open_hub(name: str) -> Safetensors:
    """The weights of a model on the Hugging Face Hub, downloaded unless they are here already;
    safetensors only.

    **Arguments:**

    - `name`: `OWNER/NAME`.

    **Raises:** `UsageError` for a name of another form, a model that isn't there or has no
    safetensors, and without a
        network.
    """
    if name.count("/") != 1 or not all(name.split("/")):
        raise UsageError(f"path: got hub:{name}, but a model of the Hub is hub:OWNER/NAME.")
    ask = lambda: huggingface_hub.HfApi().model_info(name, timeout=ANSWERS_IN)
    try:
        with asked_once(ask):
            return _download(name)
    except UsageError:
        raise
    except LocalEntryNotFoundError:
        raise UsageError(
            f"path: hub:{name} isn't in the local cache and the Hub can't be reached; go online."
        ) from None
    except EntryNotFoundError:
        raise UsageError(
            f"path: hub:{name} has neither {SINGLE} nor {INDEX}; other formats aren't fetched "
            f"from the Hub."
        ) from None
    except Exception as error:  # of the network, the Hub and the disk
        raise UsageError(
            f"path: hub:{name} can't be fetched ({first_line(error)}); check name and network."
        ) from None


def _download(name: str) -> Safetensors:
    try:
        index = Path(huggingface_hub.hf_hub_download(name, INDEX))
    except EntryNotFoundError:  # offline too, where the model may be in the cache as one file
        return open_file(Path(huggingface_hub.hf_hub_download(name, SINGLE)), f"hub:{name}")
    for file in dict.fromkeys(_weight_map(index).values()):
        # The folder of the index is named after the commit: all files must be of the same.
        huggingface_hub.hf_hub_download(name, file, revision=index.parent.name)
    return Safetensors(_shards(index), f"hub:{name}")
