"""For users' own tests: Hypothesis strategies, and assertions that show the offending example.

The assertions take plain callables, of any JAX model. The strategies draw small Lagrangians, couplings, memories and
states of hopmix. Needs the extra `hopmix[testing]`; `import hopmix` does not load it. An example to copy is in
`docs/verify-your-own-model.md`.
"""

from hopmix.testing._conservative import assert_conservative as assert_conservative
from hopmix.testing._descends import assert_energy_descends as assert_energy_descends
from hopmix.testing._lagrangian import assert_lagrangian as assert_lagrangian
from hopmix.testing._strategies import couplings as couplings
from hopmix.testing._strategies import lagrangians as lagrangians
from hopmix.testing._strategies import memories as memories
from hopmix.testing._strategies import states as states
