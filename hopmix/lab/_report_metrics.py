"""What each measured quantity is: its label, formula, range and how to read it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """A quantity of the store; `formula` is HTML, `logarithmic` says whether a log axis can help."""

    key: str
    label: str
    formula: str
    range: str
    reading: str
    logarithmic: bool = False


ASYMMETRY = (
    Metric(
        "cosine",
        "cosine of V and Wᵀ",
        "⟨<i>V</i>, <i>W</i>ᵀ⟩ / (‖<i>V</i>‖ ‖<i>W</i>‖)",
        "−1 to 1",
        "1 means that the way down is the way up up to one common factor; unrelated weights give about 0.",
    ),
    Metric(
        "relative_breaking",
        "relative breaking",
        "‖<i>V</i> − <i>W</i>ᵀ‖² / (‖<i>V</i>‖² + ‖<i>W</i>‖²)",
        "0 to 2",
        "0 means tied, unrelated weights give about 1, opposite ones 2; it also sees differences of scale, so it can "
        "overstate how far a block is from a gradient step.",
        logarithmic=True,
    ),
    Metric(
        "unit_cosine",
        "unit cosine",
        "Σ<sub>α</sub> ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / "
        "Σ<sub>α</sub> ‖<i>v</i><sub>α</sub>‖ ‖<i>w</i><sub>α</sub>‖",
        "−1 to 1",
        "The cosine of each hidden unit's outgoing and incoming weights, averaged with the product of their norms; "
        "rescaling a unit does not change its cosine, and 1 is enough for an energy to exist.",
    ),
    Metric(
        "symmetry_score",
        "symmetry score of VW",
        "⟨<i>M</i>, <i>M</i>ᵀ⟩ / ‖<i>M</i>‖²  with  <i>M</i> = <i>VW</i>",
        "−1 to 1",
        "1 for a symmetric product, −1 for an antisymmetric one, about 0 for unrelated weights.",
    ),
    Metric(
        "breaking_ratio",
        "breaking ratio",
        "‖<i>V</i> − <i>W</i>ᵀ‖ / ‖<i>W</i>‖",
        "0 and up",
        "The departure from symmetry in units of the up-weights; in a broken arm <i>V</i> − <i>W</i>ᵀ is the trained "
        "breaking that λ penalises.",
        logarithmic=True,
    ),
)

CURVES = (
    Metric("validation_accuracy", "validation accuracy", "", "", ""),
    Metric("validation_loss", "validation loss", "", "", "", logarithmic=True),
    Metric("train_loss", "training loss", "", "", "", logarithmic=True),
    Metric("train_accuracy", "training accuracy", "", "", ""),
    Metric("penalty_term", "penalty term λ‖breaking‖²", "", "", "", logarithmic=True),
    Metric("gradient_norm", "gradient norm", "", "", "", logarithmic=True),
    Metric("parameter_norm", "parameter norm", "", "", ""),
)

ENERGY = (
    Metric(
        "energy_change",
        "energy change",
        "mean of <i>E</i>(after) − <i>E</i>(before)",
        "any number",
        "What a block does to its own energy <i>E</i> = −<i>U</i>(<i>g</i>), averaged over a fixed validation batch; "
        "below 0 is descent. Only for tied weights is the block a step down the gradient of <i>E</i>; otherwise "
        "<i>E</i> is the pseudo-energy of the symmetrised weights and may rise. A serial block adds its two mixings.",
    ),
    Metric(
        "energy_rise_fraction",
        "share of rising examples",
        "share with <i>E</i>(after) &gt; <i>E</i>(before)",
        "0 to 1",
        "The share of the validation batch whose energy a block raises, by more than rounding; 0 means none.",
    ),
)
