"""The shape of the house: imports go one way, libraries stay where they belong, the public surface
is only names.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hopmix"

# Each room may import from those above it. "hopmix" is the public surface, hopmix/__init__.py;
# "lab" is the lab's.
ORDER = (
    "_extras",
    "_moved",
    "_types",
    "_numerics",
    "_numerics.dtypes",
    "_numerics.tolerances",
    "_numerics.norms",
    "_numerics.smooth",
    "_numerics.special",
    "_numerics.rounding",
    "_numerics.implicit",
    "_numerics.magnitude",
    "_assumptions",
    "_lagrangian.base",
    "_lagrangian.elementwise",
    "_lagrangian.groups",
    "_lagrangian.competition",
    "_lagrangian.norms",
    "_lagrangian.gained",
    "_lagrangian",
    "_coupling",
    "_tree",
    "_synapse.base",
    "_synapse.mixing",
    "_synapse.grid",
    "_synapse.attention",
    "_synapse.patterns",
    "_synapse",
    "_neurons",
    "_system",
    "_memory",
    "_potential",
    "_block",
    "_dynamics",
    "_pseudo_energy",
    "_certificate",
    "_certificate.catalogue",
    "_certificate.conservative_form",
    "_certificate.concavity",
    "_certificate.softness",
    "_certificate.small_breaking",
    "_certificate.flow",
    "_certificate.contraction",
    "_certificate.check",
    "_certificate.certificate",
    "symmetry.weights",
    "symmetry.spectrum",
    "symmetry.significance",
    "symmetry.fields",
    "symmetry.breaking",
    "symmetry.null",
    "symmetry.quantities",
    "symmetry",
    "retrieval.binary",
    "retrieval.bounds",
    "retrieval",
    "testing",
    "models",
    "claims",
    "hopmix",
    "lab._moved",
    "lab.errors",
    "lab.fields",
    "lab.families",
    "lab.config",
    "lab.statistics",
    "lab.runtime",
    "lab.probes",
    "lab.data",
    "lab.tasks",
    "lab.store",
    "plot",
    "lab.train",
    "lab.study",
    "lab.recorder",
    "lab.report",
    "lab",
    "lab.checkpoints",
    "lab.verify",
    "lab.bench",
    "lab.cli",
    "__main__",
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMPORT_NAMES = {"orbax-checkpoint": "orbax", "pillow": "PIL", "scikit-learn": "sklearn"}


def libraries(requirements: list[str]) -> set[str]:
    names = [Requirement(requirement).name for requirement in requirements]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


RUNTIME = libraries(PROJECT["dependencies"])
LAB = libraries(PROJECT["optional-dependencies"]["lab"])
ALLOWED_LIBRARIES = {
    "lab": RUNTIME | LAB,
    "plot": RUNTIME | {"matplotlib", "PIL", "xarray"},
    "testing": RUNTIME | {"hypothesis", "pytest"},
}


FLOORS = {room.partition(".")[0] for room in ORDER if "." in room}
"""Packages whose modules are rooms of their own, as those of hopmix itself are."""


def room_of(module: str) -> str:
    parts = module.split(".")
    depth = 3 if parts[1:2] and parts[1] in FLOORS else 2
    return ".".join(parts[1:depth]) or parts[0]


def is_room(package: str, name: str) -> bool:
    floor = package.partition(".")[2]
    return f"{floor}.{name}".removeprefix(".") in ORDER and (not floor or floor in FLOORS)


def imported_modules(tree: ast.Module, package: str) -> Iterator[str]:
    """Absolute names of all modules that are imported, also those inside functions and `if
    TYPE_CHECKING`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            origin = ".".join([*parents, *filter(None, [node.module])])
            # `from hopmix import models` is a module, `from hopmix import Mixer` the surface.
            yield from (
                f"{origin}.{alias.name}" if is_room(origin, alias.name) else origin
                for alias in node.names
            )


def problem(importer: str, imported: str) -> str | None:
    room = room_of(importer)
    top = imported.split(".")[0]
    if top in sys.stdlib_module_names:
        return None
    if top != "hopmix":
        allowed = top in ALLOWED_LIBRARIES.get(room.partition(".")[0], RUNTIME)
        return (
            None if allowed else f"{importer} imports {top}: not a dependency that {room} may use"
        )
    target = room_of(imported)
    if target not in ORDER:
        return f"{importer} imports {imported}, which has no place in ORDER"
    if target == room or ORDER.index(target) < ORDER.index(room):
        return None
    return f"{importer} imports {imported}: {target} comes after {room}"


def problems(module: str, source: str | bytes, is_package: bool = False) -> list[str]:
    if room_of(module) not in ORDER:
        return [f"{module} has no place in ORDER: give it one"]
    package = module if is_package else module.rpartition(".")[0]
    found = (problem(module, imported) for imported in imported_modules(ast.parse(source), package))
    return sorted({line for line in found if line is not None})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.quick
def test_imports_go_one_way():
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    found = [
        line
        for path in files
        for line in problems(module_name(path), path.read_bytes(), path.stem == "__init__")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module, source, complaint",
    [
        ("hopmix._types", "from ._memory import Neurons", "_memory comes after _types"),
        ("hopmix._block", "from . import symmetry", "symmetry comes after _block"),
        (
            "hopmix._certificate.check",
            "import hopmix.models.mixer",
            "models comes after _certificate.check",
        ),
        (
            "hopmix._numerics.norms",
            "from . import special",
            "_numerics.special comes after _numerics.norms",
        ),
        ("hopmix._certificate.theorem", "", "has no place in ORDER"),
        (
            "hopmix._lagrangian.base",
            "from hopmix import Coupling",
            "hopmix comes after _lagrangian",
        ),
        (
            "hopmix._lagrangian.base",
            "from . import norms",
            "_lagrangian.norms comes after _lagrangian.base",
        ),
        ("hopmix.testing", "from hopmix.models import Mixer", "models comes after testing"),
        ("hopmix.models.mixer", "from ..lab import train", "lab.train comes after models"),
        (
            "hopmix.models.deep.mixer",
            "from ...lab.train import fit",
            "lab.train comes after models",
        ),
        (
            "hopmix.plot.panels",
            "from hopmix.lab.report.page import write_report",
            "lab.report comes after plot",
        ),
        ("hopmix.plot.panels", "import plotly", "imports plotly"),
        (
            "hopmix._block",
            "def plot():\n    import matplotlib.pyplot as plt",
            "imports matplotlib",
        ),
        ("hopmix.models.mixer", "from PIL import Image", "imports PIL"),
        ("hopmix.models.mixer", "import hypothesis", "imports hypothesis"),
        ("hopmix.lab.train.population", "import torch", "imports torch"),
        (
            "hopmix.lab.train.population",
            "from hopmix.extras import plot",
            "imports hopmix.extras, which has no place",
        ),
        ("hopmix.helpers", "", "has no place in ORDER"),
    ],
)
def test_a_bad_import_is_caught(module: str, source: str, complaint: str):
    assert any(complaint in line for line in problems(module, source))


@pytest.mark.parametrize(
    "module, source",
    [
        (
            "hopmix._memory",
            "import math\n\nimport jax\n\nfrom ._synapse import Dense\nfrom . import _types",
        ),
        ("hopmix.models.mixer", "from .stem import Stem\nfrom hopmix._block import derive_block"),
        (
            "hopmix.lab.report.page",
            "import plotly\nfrom PIL import Image\nfrom hopmix import Mixer\nfrom .store import "
            "load",
        ),
        ("hopmix.testing", "import hypothesis.strategies as st\nfrom ._lagrangian import ReLU"),
    ],
)
def test_a_good_import_passes(module: str, source: str):
    assert problems(module, source) == []


OLD_NAMES = """
if not typing.TYPE_CHECKING:
    from hopmix._moved import old_name as __getattr__
    from hopmix._moved import public_names as __dir__
"""


def surface_problems(source: str | bytes) -> list[str]:
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (
            node.level or str(node.module).startswith("hopmix")
        ):
            found += [
                f"write `{alias.name} as {alias.name}`"
                for alias in node.names
                if alias.asname != alias.name
            ]
        elif not may_stand(node):
            found.append(f"line {node.lineno} is more than a re-export: {ast.unparse(node)[:60]}")
    return found


def may_stand(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom) or is_docstring(node) or is_version(node):
        return True
    return ast.unparse(node) == OLD_NAMES.strip()


def is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_version(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [
        "__version__"
    ]


SURFACES = (".", "_lagrangian", "_synapse", "symmetry", "retrieval")


@pytest.mark.parametrize("folder", SURFACES)
@pytest.mark.quick
def test_a_surface_is_re_exports_and_nothing_else(folder):
    found = surface_problems((PACKAGE / folder / "__init__.py").read_bytes())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("from ._memory import Neurons", "write `Neurons as Neurons`"),
        ("from hopmix._memory import Neurons as Layer", "write `Neurons as Neurons`"),
        ("from ._memory import *", "as *"),
        ("def f(): pass", "line 1 is more than a re-export"),
        ("if not typing.TYPE_CHECKING:\n    from os import path", "line 1 is more than a re-"),
    ],
)
def test_a_bad_surface_is_caught(source: str, complaint: str):
    assert any(complaint in line for line in surface_problems(source))


def test_no_drawer_for_leftovers():
    folders = [PACKAGE, ROOT / "tests", ROOT / "experiments", ROOT / "theory"]
    assert [path for folder in folders for path in folder.rglob("util*.py")] == []


def test_import_loads_no_lab_library():
    script = "import hopmix, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert not set(run.stdout.split()) & (LAB | {"hypothesis", "pytest", "pandas", "pyarrow"})
