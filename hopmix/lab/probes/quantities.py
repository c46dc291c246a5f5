"""What each measured quantity is: its label, formula, range, unit and how to read it."""

import dataclasses
import html
import re

import xarray as xr


@dataclasses.dataclass(frozen=True)
class Metric:
    """A quantity of the store; `formula` and `reading` are HTML.

    `unit` is "1" for pure numbers. `logarithmic` says whether a log axis can help, `signed` whether 0 is the middle of
    its colour scale.
    """

    key: str
    label: str
    formula: str
    range: str
    reading: str
    logarithmic: bool = False
    signed: bool = False
    unit: str = "1"

    @property
    def attributes(self) -> dict[str, str]:
        """The same as plain text, under the names of the CF conventions where they have one."""
        described = {"long_name": self.label, "units": self.unit, "formula": self.formula}
        described |= {"range": self.range, "comment": self.reading}
        return {name: _plain(text) for name, text in described.items() if text}


def _plain(markup: str) -> str:
    """HTML as text: an index follows its letter behind an underscore."""
    return html.unescape(re.sub("<[^>]+>", "", markup.replace("<sub>", "_")))


_COSINE = "⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / (‖<i>v</i><sub>α</sub>‖ ‖<i>w</i><sub>α</sub>‖)"

ASYMMETRY = (
    Metric(
        "cosine",
        "cosine of V and Wᵀ",
        "⟨<i>V</i>, <i>W</i>ᵀ⟩ / (‖<i>V</i>‖ ‖<i>W</i>‖)",
        "−1 to 1",
        "1 means that the way down is the way up up to one common factor, −1 that it is its opposite, which is as "
        "symmetric; unrelated weights give about 0.",
    ),
    Metric(
        "relative_breaking",
        "relative breaking (of squares)",
        "‖<i>V</i> − <i>W</i>ᵀ‖² / (‖<i>V</i>‖² + ‖<i>W</i>‖²)",
        "0 to 2",
        "0 means tied, unrelated weights give about 1, opposite ones (as symmetric as tied) 2; it also sees "
        "differences of scale, so it can overstate how far a block is from a gradient step. Not the breaking ratio, "
        "which is relative to <i>W</i> alone and not squared.",
        logarithmic=True,
    ),
    Metric(
        "unit_cosine",
        "unit cosine",
        "Σ<sub>α</sub> ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / "
        "Σ<sub>α</sub> ‖<i>v</i><sub>α</sub>‖ ‖<i>w</i><sub>α</sub>‖",
        "−1 to 1",
        "The cosine of each hidden unit's outgoing and incoming weights, averaged with the product of their norms; "
        "rescaling a unit does not change its cosine. 1 is enough for an energy to exist, and so is −1: <i>V</i> = "
        "−<i>W</i>ᵀ is as symmetric as <i>V</i> = <i>W</i>ᵀ.",
    ),
    Metric(
        "symmetry_score",
        "symmetry score of VW",
        "⟨<i>M</i>, <i>M</i>ᵀ⟩ / ‖<i>M</i>‖²  with  <i>M</i> = <i>VW</i>",
        "−1 to 1",
        "1 for a symmetric product (of <i>V</i> = <i>W</i>ᵀ and of <i>V</i> = −<i>W</i>ᵀ), −1 for an antisymmetric "
        "one, about 0 for unrelated weights.",
    ),
    Metric(
        "breaking_ratio",
        "breaking ratio (of norms)",
        "‖<i>V</i> − <i>W</i>ᵀ‖ / ‖<i>W</i>‖",
        "0 and up",
        "The departure from symmetry in units of the up-weights; in a broken arm <i>V</i> − <i>W</i>ᵀ is the trained "
        "breaking that λ penalises. Not the relative breaking, which is of squares and at most 2.",
        logarithmic=True,
    ),
    Metric(
        "mean_unit_cosine",
        "mean unit cosine",
        f"mean of {_COSINE}",
        "−1 to 1",
        "As the unit cosine, but all hidden units count alike, however large their weights; neither a gauge nor gains "
        "change it.",
    ),
    Metric(
        "low_unit_cosine",
        "unit cosine, 10 %",
        f"10 % quantile of {_COSINE}",
        "−1 to 1",
        "A tenth of the hidden units has a cosine below this; −1 is as symmetric as 1.",
    ),
    Metric(
        "median_unit_cosine",
        "unit cosine, median",
        f"median of {_COSINE}",
        "−1 to 1",
        "The alignment of the typical hidden unit; 1 or −1 in each of them is enough for a block to be conservative.",
    ),
    Metric(
        "high_unit_cosine",
        "unit cosine, 90 %",
        f"90 % quantile of {_COSINE}",
        "−1 to 1",
        "A tenth of the hidden units has a cosine above this.",
    ),
    Metric(
        "conservative_distance",
        "conservative distance",
        "min<sub><i>D</i> diagonal</sub> ‖<i>V</i> − <i>W</i>ᵀ<i>D</i>‖ / ‖<i>V</i>‖",
        "0 to 1",
        "0 where each hidden unit answers along its own weights, with any gain, which is enough for an energy; "
        "unrelated weights are near 1.",
    ),
    Metric(
        "directionality",
        "directionality of VW",
        "(<i>c</i> − <i>r</i>) / (<i>c</i> + <i>r</i>), excess norms of columns and rows of <i>M</i>",
        "−1 to 1",
        "Excess is what norms have above their mean plus two standard deviations. Above 0 a few columns of <i>VW</i> "
        "stand out (inputs that reach everywhere), below 0 a few rows; 0 if tied. Unrelated weights scatter widely "
        "around 0.",
        signed=True,
    ),
    Metric(
        "balance",
        "balance of W and V",
        "(‖<i>W</i>‖² − ‖<i>V</i>‖²) / (‖<i>W</i>‖² + ‖<i>V</i>‖²)",
        "−1 to 1",
        "Above 0 the way up is the larger one, below 0 the way down. It says nothing about direction.",
        signed=True,
    ),
)

SPECTRUM = (
    Metric(
        "complex_fraction",
        "share of complex eigenvalues",
        "share of the eigenvalues of <i>VW</i> that are not real",
        "0 to 1",
        "0 for a symmetric product; a complex pair is a rotation.",
    ),
    Metric(
        "largest_imaginary",
        "largest imaginary part",
        "max |Im λ<sub>k</sub>| / max |λ<sub>k</sub>|",
        "0 to 1",
        "How strong the fastest rotation is beside the largest eigenvalue.",
    ),
    Metric(
        "departure",
        "departure from normality",
        "√(1 − Σ<sub>k</sub> |λ<sub>k</sub>|² / ‖<i>M</i>‖²)",
        "0 to 1",
        "0 for a normal product, symmetric and antisymmetric ones among them; above it, transients can grow that the "
        "eigenvalues do not show.",
    ),
    Metric(
        "overlap",
        "overlap of singular vectors",
        "share of 8 right singular vectors of <i>VW</i> in the span of the left",
        "0 to 1",
        "1 where the leading directions that a coupling reads are those that it writes.",
    ),
)

ONSET = Metric(
    "breaking_rate",
    "predicted rate of breaking",
    "growth of ‖<i>V</i> − <i>W</i>ᵀ‖ / ‖<i>W</i>‖ by the next update",
    "any number",
    "What the optimiser's next update adds to the breaking ratio, from the update alone (claim C11).",
    signed=True,
)

COUPLINGS = (*ASYMMETRY, *SPECTRUM, ONSET)
"""All that is measured of each block and branch."""

FIELDS = (
    Metric(
        "field_asymmetry",
        "field asymmetry",
        "‖<i>HJ</i> − (<i>HJ</i>)ᵀ‖ / 2‖<i>HJ</i>‖",
        "0 to 1",
        "With the Jacobian <i>J</i> of a block's force at the states it meets and the Hessian <i>H</i> of its norm: 0 "
        "for the gradient of an energy, 1 for a pure rotation, 0.71 for independent entries.",
    ),
    Metric(
        "dissipation",
        "dissipation",
        "<i>ẋ</i>ᵀ<i>Hẋ</i>",
        "0 and up",
        "The rate at which motion spends the (pseudo-)energy of a block.",
    ),
    Metric(
        "work",
        "work",
        "<i>ẋ</i>ᵀ<i>H</i>(<i>F</i> − ∇<i>U</i>)",
        "any number",
        "The rate at which the part of the force that has no potential puts energy in; 0 if tied, and above the "
        "dissipation the energy rises.",
    ),
    Metric(
        "margin_used",
        "descent margin used",
        "1 / <i>t</i>*",
        "0 and up",
        "How much of the breaking that the energy of the tied block tolerates is there; above 1 that energy rises.",
    ),
)
"""What is measured of each block as a vector field, at the states that reach it."""

_LOSS = "mean of −log of the softmax of the logits at the label"
_HITS = "share of images whose largest logit is at the label"

CURVES = (
    Metric("validation_accuracy", "validation accuracy", _HITS, "0 to 1", "Of all validation images."),
    Metric(
        "validation_loss",
        "validation loss",
        _LOSS,
        "0 and up",
        "Of all validation images; the logarithm of the number of classes for a guess.",
        logarithmic=True,
        unit="nat",
    ),
    Metric(
        "train_loss",
        "training loss",
        "mean cross-entropy with the smoothed, mixed targets, plus the penalty",
        "0 and up",
        "Of augmented batches, averaged over the steps since the last measurement; NaN before the first step.",
        logarithmic=True,
        unit="nat",
    ),
    Metric(
        "train_accuracy",
        "training accuracy",
        "share of images whose largest logit is at the largest target",
        "0 to 1",
        "Of augmented batches, averaged over the steps since the last measurement.",
    ),
    Metric(
        "penalty",
        "penalty λ‖breaking‖²",
        "λ Σ ‖<i>V</i> − <i>W</i>ᵀ‖² over couplings",
        "0 and up",
        "What symmetry breaking adds to the loss that is trained.",
        logarithmic=True,
        unit="nat",
    ),
    Metric(
        "gradient_norm",
        "gradient norm",
        "‖∇ loss‖, the penalty included, before clipping",
        "0 and up",
        "Averaged over the steps since the last measurement.",
        logarithmic=True,
    ),
    Metric("parameter_norm", "parameter norm", "‖θ‖", "0 and up", "Of all that trains."),
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

STORED = (
    Metric(
        "field_asymmetry_stderr",
        "standard error of the field asymmetry",
        "standard deviation of the mean over probes and images",
        "0 and up",
        "For the images that were measured.",
    ),
    Metric(
        "eigenvalue_real",
        "real parts of eigenvalues",
        "Re λ<sub>k</sub> of <i>VW</i>",
        "any number",
        "The largest by absolute value, in falling order; NaN where there are fewer.",
    ),
    Metric(
        "eigenvalue_imaginary",
        "imaginary parts of eigenvalues",
        "Im λ<sub>k</sub> of <i>VW</i>",
        "any number",
        "In the order of the real parts.",
    ),
    Metric(
        "diverged_step",
        "step of divergence",
        "first step whose loss or gradient is not finite",
        "−1, or 0 and up",
        "−1 for members that are alive; what is measured of others is NaN.",
        unit="step",
    ),
)
"""What the store holds beside what pages show."""

COORDINATES = {
    "arm": {"long_name": "arm", "comment": "what is compared: a model and the strength of its penalty"},
    "kind": {"long_name": "arm without its strength"},
    "title": {"long_name": "name of the arm in the literature"},
    "strength": {
        "long_name": "strength λ of the penalty λ‖breaking‖²",
        "range": "0 and up, NaN where there is no penalty",
        "units": "1",
    },
    "seed": {"long_name": "seed of a member", "comment": "the same seed gives every arm the same W and batches"},
    "step": {"long_name": "training steps done", "range": "0 and up", "units": "step"},
    "block": {"long_name": "block, from the stem on"},
    "branch": {"long_name": "branch of a block: mixing of tokens or of channels"},
}
"""What the coordinates of the store are."""


def describe(metrics: xr.Dataset) -> xr.Dataset:
    """The metrics of a study with what each of them is as attributes: long name, formula, range, unit and reading."""
    described = {metric.key: metric.attributes for metric in (*CURVES, *COUPLINGS, *FIELDS, *ENERGY, *STORED)}
    described |= COORDINATES
    for name, attributes in described.items():
        if name in metrics.variables:
            metrics[name].attrs |= attributes
    return metrics
