"""Files of Equinox: arrays in order and without names, unless the first line says that they are a
mixer of hopmix.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hopmix.lab.checkpoints.formats.weights import AbstractWeights, Tensor, first_line
from hopmix.lab.errors import UsageError
from hopmix.models import files
from hopmix.models.mixer import Mixer


class EquinoxArrays(AbstractWeights):
    """The arrays of a file of `equinox.tree_serialise_leaves`, named by their place in it: "0",
    "1", ...

    **Raises:** `UsageError` for a file that is damaged or holds objects.
    """

    source = "a file of Equinox"

    def __init__(self, path: Path):
        self._path = path
        with path.open("rb") as file:
            files.read_hyperparameters(file)
            try:
                stored = list(files.stored_arrays(file))
            except ValueError as error:
                raise UsageError(
                    f"path: {path} is no series of arrays as equinox.tree_serialise_leaves "
                    f"writes it "
                    f"({first_line(error)})."
                ) from None
        self._stored = {str(index): array for index, array in enumerate(stored)}
        self.tensors = {
            name: Tensor(array.shape, array.dtype.name) for name, array in self._stored.items()
        }

    def cut(self, name: str, part: tuple[slice, slice]) -> Any:
        """The rows and columns of an array, from the file mapped into memory."""
        stored = self._stored[name]
        order = "F" if stored.fortran else "C"
        mapped = np.memmap(self._path, stored.dtype, "r", stored.offset, stored.shape, order)
        return np.array(mapped[part])


def open_mixer(path: Path) -> Mixer | None:
    """The mixer in a file of `hopmix.models.files.save_mixer`, or `None` for another file.

    **Raises:** `UsageError` where the arrays aren't those of the configuration.
    """
    try:
        with path.open("rb") as file:
            if files.mixer_config(files.read_hyperparameters(file)) is None:
                return None
        return files.load_mixer(path)
    except Exception as error:  # Equinox and NumPy raise many kinds
        raise UsageError(
            f"path: {path} is no whole mixer of hopmix ({first_line(error)})."
        ) from None
