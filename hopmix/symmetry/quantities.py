"""What each measured quantity is: one record, which probes, store, pages and documentation read.

Adding an index of the weights is one row of `ASYMMETRY` (cheap, measured each time) or `SPECTRUM`
(expensive, measured at some steps), with the function that computes it as `measure`.
"""

import dataclasses
import html
import re
from collections.abc import Callable

from hopmix._coupling import Coupling
from hopmix._types import Scalar
from hopmix.symmetry import null
from hopmix.symmetry.null import Moments
from hopmix.symmetry.spectrum import measure_spectrum
from hopmix.symmetry.weights import measure_asymmetry

BLOCK = ("block",)
COUPLING = ("block", "branch")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One quantity that a study measures; `formula` and `reading` are HTML.

    - `name`: in the store and in code; `label`: on pages.
    - `range`: of its values, as pages write it.
    - `dims`: beside arm, seed and step: none, `BLOCK`, or `COUPLING` for (block, branch).
    - `expensive`: measured at some steps only, NaN at the others.
    - `of_several_units`: it has one value, that of symmetry, for all weights of a single visible
      unit, and is NaN there.
    - `logarithmic`: a logarithmic axis can help; `signed`: 0 is the middle of its colour scale;
      `share`: a fraction that is shown in per cent.
    - `unit`: "1" for pure numbers.
    - `null`: its mean and standard deviation for one coupling of independent weights, if known.
    - `measure`: computes it from a coupling; `None` for what `measure_asymmetry`,
      `measure_spectrum` and the other probes compute together.
    """

    name: str
    label: str
    formula: str
    range: str
    reading: str
    dims: tuple[str, ...] = ()
    expensive: bool = False
    of_several_units: bool = False
    logarithmic: bool = False
    signed: bool = False
    share: bool = False
    unit: str = "1"
    null: Moments | None = None
    measure: Callable[[Coupling], Scalar] | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The same as plain text, under the names of the CF conventions where they have one."""
        described = {"long_name": self.label, "units": self.unit, "formula": self.formula}
        described |= {"range": self.range, "comment": self.reading}
        return {name: plain(text) for name, text in described.items() if text}


def plain(markup: str) -> str:
    """HTML as text: an index follows its letter behind an underscore."""
    return html.unescape(re.sub("<[^>]+>", "", markup.replace("<sub>", "_")))


ASYMMETRY = (
    Quantity(
        name="cosine",
        label="cosine of V and Wᵀ",
        formula="⟨<i>V</i>, <i>W</i>ᵀ⟩ / (‖<i>V</i>‖ ‖<i>W</i>‖)",
        range="−1 to 1",
        reading=(
            "1 means that the way down is the way up up to one common factor, −1 that it is its "
            "opposite, which is as symmetric; unrelated weights give about 0."
        ),
        dims=COUPLING,
        null=null.cosine,
    ),
    Quantity(
        name="relative_breaking",
        label="relative breaking (of squares)",
        formula="‖<i>V</i> − <i>W</i>ᵀ‖² / (‖<i>V</i>‖² + ‖<i>W</i>‖²)",
        range="0 to 2",
        reading=(
            "0 means tied, unrelated weights give about 1, opposite ones (as symmetric as tied) 2; "
            "it also sees differences of scale, so it can overstate how far a block is from a "
            "gradient step. Not the breaking ratio, which is relative to <i>W</i> alone and not "
            "squared."
        ),
        dims=COUPLING,
        logarithmic=True,
        null=null.relative_breaking,
    ),
    Quantity(
        name="unit_cosine",
        label="unit cosine",
        formula=(
            "Σ<sub>α</sub> ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / Σ<sub>α</sub> "
            "‖<i>v</i><sub>α</sub>‖ ‖<i>w</i><sub>α</sub>‖"
        ),
        range="−1 to 1",
        reading=(
            "The cosine of each hidden unit's outgoing and incoming weights, averaged with the "
            "product of their norms; rescaling a unit does not change its cosine. 1 is enough for "
            "an energy to exist, and so is −1: <i>V</i> = −<i>W</i>ᵀ is as symmetric as <i>V</i> = "
            "<i>W</i>ᵀ."
        ),
        dims=COUPLING,
        of_several_units=True,
        null=null.cosine,
    ),
    Quantity(
        name="symmetry_score",
        label="symmetry score of VW",
        formula="⟨<i>M</i>, <i>M</i>ᵀ⟩ / ‖<i>M</i>‖²  with  <i>M</i> = <i>VW</i>",
        range="−1 to 1",
        reading=(
            "1 for a symmetric product (of <i>V</i> = <i>W</i>ᵀ and of <i>V</i> = −<i>W</i>ᵀ), −1 "
            "for an antisymmetric one, about 0 for unrelated weights."
        ),
        dims=COUPLING,
        of_several_units=True,
        null=null.symmetry_score,
    ),
    Quantity(
        name="breaking_ratio",
        label="breaking ratio (of norms)",
        formula="‖<i>V</i> − <i>W</i>ᵀ‖ / ‖<i>W</i>‖",
        range="0 and up",
        reading=(
            "The departure from symmetry in units of the up-weights; in a broken arm <i>V</i> − "
            "<i>W</i>ᵀ is the trained breaking that λ penalises. Not the relative breaking, which "
            "is of squares and at most 2."
        ),
        dims=COUPLING,
        logarithmic=True,
        null=null.breaking_ratio,
    ),
    Quantity(
        name="mean_unit_cosine",
        label="mean unit cosine",
        formula=(
            "mean of ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / (‖<i>v</i><sub>α</sub>‖ "
            "‖<i>w</i><sub>α</sub>‖)"
        ),
        range="−1 to 1",
        reading=(
            "As the unit cosine, but all hidden units count alike, however large their weights; "
            "neither a gauge nor gains change it."
        ),
        dims=COUPLING,
        of_several_units=True,
        null=null.cosine,
    ),
    Quantity(
        name="low_unit_cosine",
        label="unit cosine, 10 %",
        formula=(
            "10 % quantile of ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / "
            "(‖<i>v</i><sub>α</sub>‖ ‖<i>w</i><sub>α</sub>‖)"
        ),
        range="−1 to 1",
        reading="A tenth of the hidden units has a cosine below this; −1 is as symmetric as 1.",
        dims=COUPLING,
        of_several_units=True,
        null=null.quantile(0.1, -1.2816),
    ),
    Quantity(
        name="median_unit_cosine",
        label="unit cosine, median",
        formula=(
            "median of ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / (‖<i>v</i><sub>α</sub>‖ "
            "‖<i>w</i><sub>α</sub>‖)"
        ),
        range="−1 to 1",
        reading=(
            "The alignment of the typical hidden unit; 1 or −1 in each of them is enough for a "
            "block to be conservative."
        ),
        dims=COUPLING,
        of_several_units=True,
        null=null.quantile(0.5, 0.0),
    ),
    Quantity(
        name="high_unit_cosine",
        label="unit cosine, 90 %",
        formula=(
            "90 % quantile of ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ / "
            "(‖<i>v</i><sub>α</sub>‖ ‖<i>w</i><sub>α</sub>‖)"
        ),
        range="−1 to 1",
        reading="A tenth of the hidden units has a cosine above this.",
        dims=COUPLING,
        of_several_units=True,
        null=null.quantile(0.9, 1.2816),
    ),
    Quantity(
        name="conservative_distance",
        label="conservative distance",
        formula="min<sub><i>D</i> diagonal</sub> ‖<i>V</i> − <i>W</i>ᵀ<i>D</i>‖ / ‖<i>V</i>‖",
        range="0 to 1",
        reading=(
            "0 where each hidden unit answers along its own weights, with any gain, which is enough"
            " for an energy; unrelated weights are near 1."
        ),
        dims=COUPLING,
        of_several_units=True,
        null=null.conservative_distance,
    ),
    Quantity(
        name="directionality",
        label="directionality of VW",
        formula=(
            "(<i>c</i> − <i>r</i>) / (<i>c</i> + <i>r</i>), excess norms of columns and rows of "
            "<i>M</i>"
        ),
        range="−1 to 1",
        reading=(
            "Excess is what norms have above their mean plus two standard deviations. Above 0 a few"
            " columns of <i>VW</i> stand out (inputs that reach everywhere), below 0 a few rows; 0 "
            "if tied. Unrelated weights scatter widely around 0."
        ),
        dims=COUPLING,
        of_several_units=True,
        signed=True,
        null=null.directionality,
    ),
    Quantity(
        name="balance",
        label="balance of W and V",
        formula="(‖<i>W</i>‖² − ‖<i>V</i>‖²) / (‖<i>W</i>‖² + ‖<i>V</i>‖²)",
        range="−1 to 1",
        reading=(
            "Above 0 the way up is the larger one, below 0 the way down. It says nothing about "
            "direction."
        ),
        dims=COUPLING,
        signed=True,
    ),
)

SPECTRUM = (
    Quantity(
        name="complex_fraction",
        label="share of complex eigenvalues",
        formula="share of the eigenvalues of <i>VW</i> that are not real",
        range="0 to 1",
        reading="0 for a symmetric product; a complex pair is a rotation.",
        dims=COUPLING,
        expensive=True,
        of_several_units=True,
        null=null.complex_fraction,
    ),
    Quantity(
        name="largest_imaginary",
        label="largest imaginary part",
        formula="max |Im λ<sub>k</sub>| / max |λ<sub>k</sub>|",
        range="0 to 1",
        reading="How strong the fastest rotation is beside the largest eigenvalue.",
        dims=COUPLING,
        expensive=True,
        of_several_units=True,
        null=null.largest_imaginary,
    ),
    Quantity(
        name="departure",
        label="departure from normality",
        formula="√(1 − Σ<sub>k</sub> |λ<sub>k</sub>|² / ‖<i>M</i>‖²)",
        range="0 to 1",
        reading=(
            "0 for a normal product, symmetric and antisymmetric ones among them; above it, "
            "transients can grow that the eigenvalues do not show."
        ),
        dims=COUPLING,
        expensive=True,
        of_several_units=True,
        null=null.departure,
    ),
    Quantity(
        name="overlap",
        label="overlap of singular vectors",
        formula="share of 8 right singular vectors of <i>VW</i> in the span of the left",
        range="0 to 1",
        reading="1 where the leading directions that a coupling reads are those that it writes.",
        dims=COUPLING,
        expensive=True,
        of_several_units=True,
        null=null.overlap,
    ),
)

ONSET = Quantity(
    name="breaking_rate",
    label="predicted rate of breaking",
    formula="growth of ‖<i>V</i> − <i>W</i>ᵀ‖ / ‖<i>W</i>‖ by the next update",
    range="any number",
    reading=(
        "What the optimiser's next update adds to the breaking ratio, from the update alone "
        "(claim C11)."
    ),
    dims=COUPLING,
    expensive=True,
    signed=True,
)

COUPLINGS = (*ASYMMETRY, *SPECTRUM, ONSET)
"""All that is measured of each block and branch."""

FIELDS = (
    Quantity(
        name="field_asymmetry",
        label="field asymmetry",
        formula="‖<i>HJ</i> − (<i>HJ</i>)ᵀ‖ / 2‖<i>HJ</i>‖",
        range="0 to 1",
        reading=(
            "With the Jacobian <i>J</i> of a block's force at the states it meets and the Hessian "
            "<i>H</i> of its norm: 0 for the gradient of an energy, 1 for a pure rotation, 0.71 for"
            " independent entries."
        ),
        dims=BLOCK,
        expensive=True,
    ),
    Quantity(
        name="dissipation",
        label="dissipation",
        formula="<i>ẋ</i>ᵀ<i>Hẋ</i>",
        range="0 and up",
        reading="The rate at which motion spends the (pseudo-)energy of a block.",
        dims=BLOCK,
        expensive=True,
    ),
    Quantity(
        name="work",
        label="work",
        formula="<i>ẋ</i>ᵀ<i>H</i>(<i>F</i> − ∇<i>U</i>)",
        range="any number",
        reading=(
            "The rate at which the part of the force that has no potential puts energy in; 0 if "
            "tied, and above the dissipation the energy rises."
        ),
        dims=BLOCK,
        expensive=True,
    ),
    Quantity(
        name="margin_used",
        label="descent margin used",
        formula="1 / <i>t</i>*",
        range="0 and up",
        reading=(
            "How much of the breaking that the energy of the tied block tolerates is there; "
            "above 1 that energy rises."
        ),
        dims=BLOCK,
        expensive=True,
    ),
)
"""What is measured of each block as a vector field, at the states that reach it."""

LEARNING = (
    Quantity(
        name="validation_accuracy",
        label="validation accuracy",
        formula="share of images whose largest logit is at the label",
        range="0 to 1",
        reading="Of all validation images.",
        share=True,
    ),
    Quantity(
        name="validation_loss",
        label="validation loss",
        formula="mean of −log of the softmax of the logits at the label",
        range="0 and up",
        reading="Of all validation images; the logarithm of the number of classes for a guess.",
        logarithmic=True,
        unit="nat",
    ),
    Quantity(
        name="train_loss",
        label="training loss",
        formula="mean cross-entropy with the smoothed, mixed targets, plus the penalty",
        range="0 and up",
        reading=(
            "Of augmented batches, averaged over the steps since the last measurement; NaN "
            "before the first step."
        ),
        logarithmic=True,
        unit="nat",
    ),
    Quantity(
        name="train_accuracy",
        label="training accuracy",
        formula="share of images whose largest logit is at the largest target",
        range="0 to 1",
        reading="Of augmented batches, averaged over the steps since the last measurement.",
        share=True,
    ),
    Quantity(
        name="penalty",
        label="penalty λ‖breaking‖²",
        formula="λ Σ ‖<i>V</i> − <i>W</i>ᵀ‖² over couplings",
        range="0 and up",
        reading="What symmetry breaking adds to the loss that is trained.",
        logarithmic=True,
        unit="nat",
    ),
    Quantity(
        name="gradient_norm",
        label="gradient norm",
        formula="‖∇ loss‖, the penalty included, before clipping",
        range="0 and up",
        reading="Averaged over the steps since the last measurement.",
        logarithmic=True,
    ),
)
"""What is recorded of learning to classify: in training, and on the validation images."""

PARAMETER_NORM = Quantity(
    name="parameter_norm",
    label="parameter norm",
    formula="‖θ‖",
    range="0 and up",
    reading="Of all that trains.",
)

CURVES = (*LEARNING, PARAMETER_NORM)
"""What is measured of a whole member."""

ENERGY = (
    Quantity(
        name="energy_change",
        label="energy change",
        formula="mean of <i>E</i>(after) − <i>E</i>(before)",
        range="any number",
        reading=(
            "What a block does to its own energy <i>E</i> = −<i>U</i>(<i>g</i>), averaged over a "
            "fixed validation batch; below 0 is descent. Only for tied weights is the block a step "
            "down the gradient of <i>E</i>; otherwise <i>E</i> is the pseudo-energy of the "
            "symmetrised weights and may rise. A serial block adds its two mixings."
        ),
        dims=BLOCK,
    ),
    Quantity(
        name="energy_rise_fraction",
        label="share of rising examples",
        formula="share with <i>E</i>(after) &gt; <i>E</i>(before)",
        range="0 to 1",
        reading=(
            "The share of the validation batch whose energy a block raises, by more than "
            "rounding; 0 means none."
        ),
        dims=BLOCK,
        share=True,
    ),
)
"""What blocks do to their own energies."""

EIGENVALUES = (
    Quantity(
        name="eigenvalue_real",
        label="real parts of eigenvalues",
        formula="Re λ<sub>k</sub> of <i>VW</i>",
        range="any number",
        reading="The largest by absolute value, in falling order; NaN where there are fewer.",
        dims=(*COUPLING, "eigenvalue"),
        expensive=True,
    ),
    Quantity(
        name="eigenvalue_imaginary",
        label="imaginary parts of eigenvalues",
        formula="Im λ<sub>k</sub> of <i>VW</i>",
        range="any number",
        reading="In the order of the real parts.",
        dims=(*COUPLING, "eigenvalue"),
        expensive=True,
    ),
)
"""The spectrum itself, which pages draw."""

FIELD_ERROR = Quantity(
    name="field_asymmetry_stderr",
    label="standard error of the field asymmetry",
    formula="standard deviation of the mean over probes and images",
    range="0 and up",
    reading="For the images that were measured.",
    dims=BLOCK,
    expensive=True,
)

STORED = (FIELD_ERROR, *EIGENVALUES)
"""What the store holds beside what pages show."""

MEASURED = (*CURVES, *ENERGY, *COUPLINGS, *FIELDS, *STORED)
"""All that a study measures of its members, the cheap and the expensive."""

DIVERGED = Quantity(
    name="diverged_step",
    label="step of divergence",
    formula="first step whose loss or gradient is not finite",
    range="−1, or 0 and up",
    reading="−1 for members that are alive; what is measured of others is NaN.",
    unit="step",
)
"""The one quantity of members that has no step."""


def quantity(name: str) -> Quantity | None:
    """The quantity of that name, `None` for one that no study measures."""
    return next((one for one in MEASURED if one.name == name), None)


def measure_weights(coupling: Coupling) -> dict[str, Scalar]:
    """The indices of `ASYMMETRY` of one coupling, by name."""
    return measure_asymmetry(coupling)._asdict() | _measured_alone(ASYMMETRY, coupling)


def measure_product(coupling: Coupling) -> dict[str, Scalar]:
    """The indices of `SPECTRUM` of one coupling, by name."""
    return measure_spectrum(coupling)._asdict() | _measured_alone(SPECTRUM, coupling)


def _measured_alone(described: tuple[Quantity, ...], coupling: Coupling) -> dict[str, Scalar]:
    """Those of the quantities that bring the function that computes them."""
    return {one.name: one.measure(coupling) for one in described if one.measure is not None}
