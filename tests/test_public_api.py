"""The public surface: exactly these names, each with a docstring, and the contract of
`design.md`.
"""

import importlib.metadata
import importlib.resources
import inspect

import pytest

import hopmix

LAGRANGIANS = {
    *("Quadratic", "ReLU", "RePU", "GELU", "Exponential"),
    *("Tanh", "Sigmoid", "Softmax", "LayerNorm", "SphericalNorm"),
    *("Entmax", "GhostMax", "LogSumReLU", "Scaled", "Sum"),
}
NAMES = LAGRANGIANS | {
    *("AbstractLagrangian", "Affine", "AssociativeMemory", "Neurons"),
    *("AbstractSynapse", "Bias", "ChannelMixing", "Dense", "HyperSynapse", "TokenMixing"),
    *("Attention", "Convolution", "HopfieldMemory", "Pooling"),
    *("Coupling", "Frozen", "couplings", "map_couplings", "named_couplings", "trainable"),
    *("Block", "derive_block", "eliminate", "gradient_force", "Potential", "SerialBlock"),
    *("descend", "Descent", "flow", "settle", "Settled", "Status", "velocity"),
    *("flip_costs", "Recall", "recall", "update_all"),
    *(
        "bit_error",
        "capacity",
        "pattern_separation",
        "retrieval_bound",
        "retrieval_failure",
        "retrieve",
    ),
    *(
        "descent_margin",
        "energy_budget",
        "Power",
        "power",
        "radial_energy",
        "radial_potential",
        "residual_force",
    ),
    *("with_tied_weights", "breaking_bound", "BreakingBound", "breaking_size"),
    *("Assumption", "Certificate", "certify", "Check", "concavity_bound", "contraction_rate"),
    *("Asymmetry", "measure_asymmetry", "nearest_conservative", "symmetry_score", "unit_cosines"),
    *(
        "eigenvalues",
        "measure_spectrum",
        "null_departure",
        "Spectrum",
        "Significance",
        "significance",
    ),
    *("Estimate", "estimate_field_asymmetry", "field_asymmetry", "helmholtz_split", "Split"),
    *("Loop", "loop_integral", "work_along"),
    *("breaking_rate", "breaking_velocity", "product_gradient", "unit_balance"),
    *("Mixer", "MixerConfig"),
}

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


def public_names() -> set[str]:
    found = {
        name
        for name, value in vars(hopmix).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    return found - {"annotations"}


@pytest.mark.quick
def test_the_public_names_are_these():
    assert public_names() == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_public_name_is_documented(name):
    thing = getattr(hopmix, name)
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
