"""No path of hopmix unpickles: looked for in the source here, and tried in the tests of each
format.
"""

import ast
from pathlib import Path

import pytest

import hopmix

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
GUARDS = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
OPENERS = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False}


def dangers(source: str) -> list[str]:
    """What in a source unpickles, or might."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.partition(".")[0] in UNPICKLERS]
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLERS
        ):
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += _dangers_of_call(node)
    return found


def _dangers_of_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    option, safe = GUARDS.get(name, ("", None))
    unguarded = [name] if option and given.get(option) != str(safe) else []
    return unguarded + [
        f"{key}={value}" for key, value in OPENERS.items() if given.get(key) == str(value)
    ]


def test_nothing_unpickles():
    files = sorted(Path(hopmix.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    found = {path.name: dangers(path.read_text(encoding="utf-8")) for path in files}
    assert not {name: what for name, what in found.items() if what}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load_dataset(name, trust_remote_code=True)",
    ],
)
def test_what_would_is_found(source):
    assert dangers(source)
