"""The family of mixers with more or less symmetry, of arXiv 2406.12220: one row for each kind of
arm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hopmix.lab.families.arm import Look
from hopmix.models.mixer import VANILLA

REFERENCE = "free"
"""The arm that the others are tested against, paired by seed."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row of the family.

    - `name`: in our words; `title`: in those of the paper; `about`: a sentence of HTML.
    - `look`: how its arms are drawn.
    - `options`: what makes a `MixerConfig` one of this kind.
    - `penalised`: whether there is one arm for each strength of the penalty.
    - `baseline`: what the PyTorch baseline of `hopmix bench` calls the kind that takes as many
      operations.
    - `by_default`: whether a study has it unless it names its arms.
    """

    name: str
    title: str
    about: str
    look: Look
    options: Mapping[str, Any]
    baseline: str
    penalised: bool = False
    by_default: bool = True


# Okabe and Ito's colour-blind-safe hues; the two graded kinds run light to dark, which every eye
# can order.
KINDS = (
    Kind(
        "serial",
        "vanilla MLP-Mixer",
        "Vanilla MLP-Mixer: token mixing, then channel mixing, each with its own norm and free "
        "weights.",
        Look(("#545454",), "dot", "diamond"),
        VANILLA,
        "serial",
    ),
    Kind(
        "free",
        "ParaMixer",
        "ParaMixer: both mixings side by side on one norm, <i>W</i> and <i>V</i> trained "
        "independently.",
        Look(("#d55e00",), "solid", "square"),
        {"coupling": "free"},
        "para",
    ),
    Kind(
        "broken",
        "AsymMixer",
        "AsymMixer at λ: <i>V</i> = <i>W</i>ᵀ + breaking; the breaking starts at zero, decays "
        "with all other weights "
        "(so λ = 0 is not quite free of a pull towards symmetry), and pays the penalty "
        "λ‖breaking‖² in the loss.",
        Look(("#a6d854", "#1b9e77", "#08402c"), "solid", "triangle-up"),
        {"coupling": "broken"},
        "asym",
        penalised=True,
    ),
    Kind(
        "broken-xavier",
        "AsymMixer, reference initialisation",
        "As broken, but the breaking starts with random (Xavier) values like those of <i>W</i>, "
        "as in the authors' own "
        "code; the block is then not symmetric at step 0.",
        Look(("#e9a6c9", "#b5307f", "#4a0d43"), "dashdot", "triangle-down"),
        {"coupling": "broken", "breaking": "xavier"},
        "asym",
        penalised=True,
        by_default=False,
    ),
    Kind(
        "symmetric",
        "SymMixer",
        "SymMixer: <i>V</i> = <i>W</i>ᵀ throughout. At equal width it has about half the mixing "
        "parameters of the free "
        "arm, so a difference to it mixes symmetry with size.",
        Look(("#0072b2",), "solid", "circle"),
        {"coupling": "symmetric"},
        "sym",
    ),
    Kind(
        "symmetric-wide",
        "SymMixer, hidden width x 2",
        "SymMixer with the hidden width doubled, so that its number of parameters matches the "
        "free arm: the control "
        "for size.",
        Look(("#56b4e9",), "dash", "circle"),
        {"coupling": "symmetric", "hidden_ratio": 2},
        "sym",
    ),
)


BY_NAME = {kind.name: kind for kind in KINDS}
"""The rows by their names."""
