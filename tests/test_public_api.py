"""The public surface: exactly these names, each with a docstring, and the contract of
`design.md`.
"""

import ast
import importlib
import importlib.metadata
import importlib.resources
import inspect
import re
from pathlib import Path

import pytest

import hopmix

LAGRANGIANS = {
    *("Quadratic", "ReLU", "RePU", "GELU", "Exponential"),
    *("Tanh", "Sigmoid", "Softmax", "LayerNorm", "SphericalNorm"),
    *("Entmax", "GhostMax", "LogSumReLU", "Scaled", "Sum"),
}
OF_HOPMIX = LAGRANGIANS | {
    *("AbstractLagrangian", "Affine", "AssociativeMemory", "Neurons"),
    *("AbstractSynapse", "Bias", "ChannelMixing", "Dense", "HyperSynapse", "TokenMixing"),
    *("Attention", "Convolution", "HopfieldMemory", "Pooling"),
    *("Coupling", "Frozen", "couplings", "map_couplings", "named_couplings", "trainable"),
    *("Block", "derive_block", "eliminate", "gradient_force", "Potential", "SerialBlock"),
    *("descend", "Descent", "flow", "settle", "Settled", "Status", "velocity"),
    *("Assumption", "Certificate", "certify", "Check", "concavity_bound", "contraction_rate"),
    *("Asymmetry", "measure_asymmetry", "field_asymmetry"),
    *("Mixer", "MixerConfig"),
}
OF_SYMMETRY = {
    *("Asymmetry", "measure_asymmetry", "nearest_conservative", "symmetry_score", "unit_cosines"),
    *("eigenvalues", "measure_spectrum", "null_departure", "Spectrum"),
    *("measure_significance", "Significance"),
    *("Estimate", "estimate_field_asymmetry", "field_asymmetry", "helmholtz_split", "Split"),
    *("Loop", "loop_integral", "work_along"),
    *("breaking_rate", "breaking_velocity", "product_gradient", "unit_balance"),
    *("descent_margin", "energy_budget", "EnergyBalance", "power", "residual_force"),
    *("radial_energy", "radial_potential", "with_tied_weights"),
    *("breaking_bound", "BreakingBound", "breaking_size"),
    *("Quantity", "Sizes"),
}
OF_RETRIEVAL = {
    *("flip_costs", "recall", "Recalled", "update_all"),
    *("bit_error", "capacity", "retrieval_failure"),
    *("pattern_separation", "retrieval_bound", "retrieve"),
}
OF_TESTING = {
    *("assert_conservative", "assert_energy_descends", "assert_lagrangian"),
    *("couplings", "lagrangians", "memories", "states"),
}
OF_LAB = {
    *(
        "Arm",
        "Look",
        "open_run",
        "Progress",
        "Recorder",
        "Run",
        "run_study",
        "Section",
        "StudyConfig",
    ),
    *("UsageError", "write_report"),
}
NAMES = {
    "hopmix.lab": OF_LAB,
    "hopmix.lab.probes": {"AbstractCouplingProbe", "AbstractModelProbe", "AbstractProbe"},
    "hopmix": OF_HOPMIX,
    "hopmix.symmetry": OF_SYMMETRY,
    "hopmix.retrieval": OF_RETRIEVAL,
    "hopmix.testing": OF_TESTING,
    "hopmix.models.files": {"load_mixer", "save_mixer"},
    "hopmix.models.timm": {"from_timm", "to_timm"},
}
EVERY = sorted((place, name) for place, names in NAMES.items() for name in names)
BY_NAME = {"lab", "plot", "testing"}
"""Rooms that are there once somebody has imported them."""

CONTRACT = {
    "Coupling": "symmetric broken free from_weights up down tie breaking",
    "Neurons": "lagrangian shape tau energy",
    "AssociativeMemory": "energy energy_terms force drive clamp",
    "Block": "__call__ energy force",
    "Certificate": "check",
    "Mixer": "__call__ batch",
    **dict.fromkeys(
        LAGRANGIANS, "__call__ activation is_convex curvature conjugate hessian_vector_product"
    ),
}


def public_names(place: str) -> set[str]:
    module = importlib.import_module(place)
    found = vars(module).items()
    return {name for name, value in found if name[0] != "_" and not inspect.ismodule(value)}


@pytest.mark.parametrize("place", ["hopmix", "hopmix.symmetry", "hopmix.retrieval"])
@pytest.mark.quick
def test_the_public_names_are_these(place):
    assert public_names(place) == NAMES[place]


@pytest.mark.quick
def test_what_is_meant_to_be_used_is_listed():
    found = set(dir(hopmix))
    assert found - BY_NAME == OF_HOPMIX | {"models", "retrieval", "symmetry", "__version__"}
    assert all(hasattr(hopmix, name) for name in found)


def test_no_two_public_names_differ_in_case_only():
    names = set().union(*NAMES.values())
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("place, name", EVERY)
def test_each_public_name_is_documented(place, name):
    thing = getattr(importlib.import_module(place), name)
    doc = inspect.getdoc(thing) or ""
    first = doc.partition("\n\n")[0]
    assert len(first) > 20, f"{name} has no docstring"
    if dataclass_like := inspect.isclass(thing):
        assert not doc.startswith(f"{name}("), f"{name} has only a generated docstring"
    methods = vars(thing).items() if dataclass_like else ()
    public = [
        (n, m)
        for n, m in methods
        if not n.startswith("_") and (inspect.isroutine(m) or isinstance(m, property))
    ]
    inherits = (
        issubclass(thing, hopmix.AbstractLagrangian | hopmix.AbstractSynapse)
        if dataclass_like
        else False
    )
    missing = [n for n, m in public if not (inspect.getdoc(getattr(thing, n)) or inspect.getdoc(m))]
    assert inherits or missing == []


@pytest.mark.parametrize("name", sorted(CONTRACT))
@pytest.mark.quick
def test_the_contract_holds(name):
    cls = getattr(hopmix, name)
    fields = set(getattr(cls, "__dataclass_fields__", ()))
    assert [
        member
        for member in CONTRACT[name].split()
        if not hasattr(cls, member) and member not in fields
    ] == []


@pytest.mark.parametrize(
    "function, parameters",
    [
        ("certify", ["system"]),
        ("measure_asymmetry", ["coupling", "down"]),
        ("field_asymmetry", ["f", "x", "lagrangian"]),
        ("eliminate", ["memory", "hidden"]),
        ("derive_block", ["memory", "hidden", "leak", "step", "n_iter", "drop_path"]),
        ("descend", ["system", "state", "steps", "step", "backtrack", "form"]),
        ("settle", ["system", "state", "step", "rtol", "atol", "max_steps"]),
    ],
)
def test_functions_take_these_arguments(function, parameters):
    assert (
        list(inspect.signature(inspect.unwrap(getattr(hopmix, function))).parameters) == parameters
    )


def test_the_version_is_that_of_the_distribution():
    assert hopmix.__version__ == importlib.metadata.version("hopmix")


def test_types_are_shipped():
    (folder,) = hopmix.__path__
    assert (importlib.resources.files(hopmix) / "py.typed").is_file(), folder


# ---- Examples ------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


def code_of(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))


def examples() -> list[str]:
    """The code that tests run: of the README and the pages, and the notebooks."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    scripts = [path.read_text("utf-8") for path in ROOT.glob("notebooks/*.py")]
    return [*(code_of(page.read_text("utf-8")) for page in pages), *scripts]


def used(code: str) -> set[str]:
    """The names of hopmix in some code, with their places."""
    nodes = list(ast.walk(ast.parse(code)))
    places = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            places |= {alias.asname or alias.name: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            origin = f"{node.module}.{{}}".format
            places |= {alias.asname or alias.name: origin(alias.name) for alias in node.names}
    parts = [ast.unparse(node).partition(".") for node in nodes if isinstance(node, ast.Attribute)]
    return {f"{places.get(head, head)}.{name}" for head, _, name in parts} | set(places.values())


def without_example(names: set[str], codes: list[str]) -> list[str]:
    return sorted(names - set().union(*map(used, codes)))


def test_every_public_name_occurs_in_an_example():
    # What stands in two places needs one example.
    places = {**NAMES, "hopmix.symmetry": OF_SYMMETRY - OF_HOPMIX}
    names = {f"{place}.{name}" for place, names in places.items() for name in names}
    assert without_example(names, examples()) == []


def test_a_name_that_is_only_spoken_of_or_another_is_missed():
    code = "import hopmix as hm\nfrom hopmix.testing import couplings\nhm.settle(b, x)  # hm.flow"
    page = f"`hopmix.descend` and\n```python\n{code}\n```\n"
    names = {"settle", "descend", "flow", "couplings", "testing.couplings"}
    found = without_example({f"hopmix.{name}" for name in names}, [code_of(page)])
    assert found == ["hopmix.couplings", "hopmix.descend", "hopmix.flow"]
