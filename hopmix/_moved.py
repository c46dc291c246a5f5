"""Names of version 0.1.0 that have another place now: they are found under their old names too, for
one version, with a notice.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType

ROOMS = ("lab", "models", "plot", "retrieval", "symmetry", "testing")
"""The public packages in hopmix, of which some are loaded by name only."""

GOES = "the old name goes with the next version."

OF_RETRIEVAL = (
    *("bit_error", "capacity", "flip_costs", "pattern_separation", "recall", "retrieval_bound"),
    *("retrieval_failure", "retrieve", "update_all"),
)
OF_SYMMETRY = (
    *("BreakingBound", "Estimate", "Loop", "Significance", "Spectrum", "Split"),
    *("breaking_bound", "breaking_rate", "breaking_size", "breaking_velocity", "descent_margin"),
    *("eigenvalues", "energy_budget", "estimate_field_asymmetry", "helmholtz_split"),
    *("loop_integral", "measure_spectrum", "nearest_conservative", "null_departure", "power"),
    *("product_gradient", "radial_energy", "radial_potential", "residual_force"),
    *("symmetry_score", "unit_balance", "unit_cosines", "with_tied_weights", "work_along"),
)
PLACES = {
    **{name: f"hopmix.retrieval.{name}" for name in OF_RETRIEVAL},
    **{name: f"hopmix.symmetry.{name}" for name in OF_SYMMETRY},
    "Power": "hopmix.symmetry.EnergyBalance",
    "Recall": "hopmix.retrieval.Recalled",
    "significance": "hopmix.symmetry.measure_significance",
}
"""Names that were in `hopmix` itself, and where they are now."""


def tell(old: str, new: str):
    """Give notice of an old name, in the line that uses it."""
    warnings.warn(f"{old} is now {new}; {GOES}", FutureWarning, stacklevel=3)


def moved(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package that some names have left: they are found in their new places,
    with a notice.

    **Arguments:**

    - `package`: its name.
    - `places`: from old names to the new ones, which start with the name of a package.
    """

    def attribute(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package} has no attribute {name}")
        tell(f"{package}.{name}", places[name])
        module, _, new = places[name].rpartition(".")
        return getattr(importlib.import_module(module), new)

    return attribute


old_name = moved("hopmix", PLACES)


def public_names() -> list[str]:
    """What `dir(hopmix)` tells: what is meant to be used and there, and none of the old names."""
    found = vars(sys.modules["hopmix"])
    names = {name for name, value in found.items() if not isinstance(value, ModuleType)}
    rooms = {room for room in ROOMS if room in found}
    return sorted({name for name in names if name[0] != "_"} | rooms | {"__version__"})
