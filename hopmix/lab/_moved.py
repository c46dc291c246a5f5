"""Modules of version 0.1.0 that have another place now: they are found under their old names too,
with a notice.

To be taken away with the next version.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from hopmix._moved import moved, tell

MOVED = {
    "arms": "hopmix.lab.study.arms",
    "augment": "hopmix.lab.data.augment",
    "dry_run": "hopmix.lab.study.dry_run",
    "evaluation": "hopmix.lab.study.evaluation",
    "figures": "hopmix.plot.training",
    "measure": "hopmix.lab.checkpoints.measure",
    "metrics": "hopmix.lab.probes",
    "observer": "hopmix.lab.study.evaluator",
    "overview": "hopmix.lab.data.overview",
    "partition": "hopmix.lab.data.partition",
    "randaugment": "hopmix.lab.data.randaugment",
    "symmetry_figures": "hopmix.plot.symmetry",
}
"""Old names, in `hopmix.lab`, and new ones."""


class Moved(MetaPathFinder, Loader):
    """Finds a module under its old name, and loads the one that took its place."""

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of an old name, or `None` where no module has left that place."""
        package, _, module = name.rpartition(".")
        if package == "hopmix.lab" and module in MOVED:
            return ModuleSpec(name, self)
        return None

    def exec_module(self, module: ModuleType):
        """Put the moved module in the place of the empty one that was made for its old name."""
        old = module.__name__
        new = MOVED[old.rpartition(".")[2]]
        tell(old, new)
        sys.modules[old] = importlib.import_module(new)


def moved_names(package: str, module: str, *names: str) -> Callable[[str], object]:
    """The `__getattr__` of a package that was a module: what it held is found in one of its
    modules, with a notice.
    """
    return moved(package, {name: f"{package}.{module}.{name}" for name in names})
