"""All claims of the theory, and how each is measured again."""

import jax.random as jr

from hopmix.claims import (
    c01_descent,
    c02_adiabatic,
    c03_mixer,
    c04_gauge,
    c05_steps,
    c06_gelu,
    c07_conservative,
    c08_scale,
    c09_serial,
    c10_pseudo_energy,
    c11_breaking,
    c12_retrieval,
    c13_transformer,
    c14_imixer,
    c15_convergence,
    c16_small_breaking,
    c17_contraction,
    c18_rounding,
)
from hopmix.claims._claim import Claim, Measurement

CLAIMS: tuple[Claim, ...] = (
    c01_descent.CLAIM,
    c02_adiabatic.CLAIM,
    c03_mixer.CLAIM,
    c04_gauge.CLAIM,
    c05_steps.CLAIM,
    c06_gelu.CLAIM,
    c07_conservative.CLAIM,
    c08_scale.CLAIM,
    c09_serial.CLAIM,
    c10_pseudo_energy.CLAIM,
    c11_breaking.CLAIM,
    c12_retrieval.CLAIM,
    c13_transformer.CLAIM,
    c14_imixer.CLAIM,
    c15_convergence.CLAIM,
    c16_small_breaking.CLAIM,
    c17_contraction.CLAIM,
    c18_rounding.CLAIM,
)
"""In the order of their ids."""

EXAMPLES = 100
SEED = 0
"""What the table in `theory/README.md` is measured with."""


def remeasure(claim: Claim, *, examples: int = EXAMPLES, seed: int = SEED) -> Measurement:
    """Measure a claim on random examples of its own: the same whichever claims are measured beside
    it.

    In double precision only: the bounds are those of its rounding.
    """
    return claim.measure(jr.fold_in(jr.key(seed), int(claim.id[1:])), examples)
