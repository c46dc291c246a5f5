"""For users' own tests: assertions that show the offending example, and Hypothesis strategies.

The assertions take plain callables, of any JAX model. The strategies draw small Lagrangians,
couplings, memories and states of hopmix; they need the extra `hopmix[testing]`, the assertions do
not. `import hopmix` loads neither. An example to copy is in `docs/verify-your-own-model.md`.
"""

from typing import TYPE_CHECKING, Any

from hopmix._extras import needs_extra
from hopmix.testing._conservative import assert_conservative as assert_conservative
from hopmix.testing._descends import assert_energy_descends as assert_energy_descends
from hopmix.testing._lagrangian import assert_lagrangian as assert_lagrangian

if TYPE_CHECKING:
    from hopmix.testing._strategies import couplings as couplings
    from hopmix.testing._strategies import lagrangians as lagrangians
    from hopmix.testing._strategies import memories as memories
    from hopmix.testing._strategies import states as states

STRATEGIES = ("couplings", "lagrangians", "memories", "states")


def __getattr__(name: str) -> Any:
    # Strategies when they are asked for, so that assertions do without Hypothesis.
    if name in STRATEGIES:
        with needs_extra(f"hopmix.testing.{name}", "testing"):
            from hopmix.testing import _strategies

        return getattr(_strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *STRATEGIES])
