"""PyTorch state dicts, loaded without executing any code in them.

Such a file is a pickle, which can run anything. `torch.load(weights_only=True)` admits nothing but
tensors and plain containers; without torch the file is not read at all.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hopmix.lab.checkpoints.formats.weights import AbstractWeights, Tensor, first_line
from hopmix.lab.errors import UsageError

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "model_ema")
"""Under what names training scripts keep the weights, beside the optimiser and the epoch."""

SAFE = (2, 6)
"""The first version of torch whose `weights_only` is known to admit no code (CVE-2025-32434)."""

CURE = (
    "convert it to safetensors where you trust it: safetensors.torch.save_file(state_dict, "
    "'model.safetensors')"
)


class TorchWeights(AbstractWeights):
    """The tensors of a state dict, which stay in the file until they are read.

    **Raises:** `UsageError` without a safe torch, and for a file that holds anything but weights.
    """

    source = "a PyTorch state dict"

    def __init__(self, path: Path):
        self._arrays = dict(_tensors(_unwrapped(_load(path))))
        if not self._arrays:
            raise UsageError(f"path: {path} holds no tensors by name; save model.state_dict().")
        self.tensors = {
            name: Tensor(tuple(t.shape), str(t.dtype).removeprefix("torch."))
            for name, t in self._arrays.items()
        }

    def cut(self, name: str, part: tuple[slice, slice]) -> Any:
        """The rows and columns of a tensor; NumPy knows no bfloat16 of torch's, so it becomes
        float32.
        """
        return self._arrays[name][part].detach().float().numpy()


def _load(path: Path) -> Any:
    torch = _safe_torch(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # of many kinds: damaged, hostile, or just with objects in it
        raise UsageError(
            f"path: {path} is no state dict of tensors alone ({_reason(error)}); {CURE}."
        ) from None


def _safe_torch(path: Path) -> Any:
    try:
        # By name: torch is no dependency, and nothing here imports it unless there is such a file.
        torch = importlib.import_module("torch")
    except ImportError:
        raise UsageError(
            f"path: {path} is a PyTorch file, which only torch reads safely: pip install torch, "
            f"or {CURE}."
        ) from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < SAFE:
        raise UsageError(
            f"path: torch {torch.__version__} can be made to execute code in {path}; install "
            f"torch 2.6 or newer."
        )
    return torch


def _is_zip(path: Path) -> bool:
    # Files of torch before 1.6 are no archives and can't be mapped.
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _reason(error: Exception) -> str:
    # The first line of torch's text explains how to load the file all the same.
    asked = re.search(r"unsupported global:? (?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
    other = re.search(r"unsupported [^\n]*", str(error), re.IGNORECASE)
    if asked:
        return f"it asks for {asked[1]}"
    if other:
        return other[0]
    return first_line(error)


def _unwrapped(content: Any) -> Any:
    while isinstance(content, Mapping):
        inner = next(
            (content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    return content


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")
        elif hasattr(value, "detach") and hasattr(value, "dtype"):
            yield f"{prefix}{name}", value
