"""Words that sections share: names, numbers and lists of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hopmix.lab.report.data import ArmResult
from hopmix.lab.statistics import holm
from hopmix.lab.store.run import Run


def title(run: Run) -> str:
    """Name of the study with its data set, or of the network that was recorded."""
    if run.recorded:
        return f"Symmetry of {run.arms[0]}"
    return f"Symmetry ablation on {data_name(run)}"


def data_name(run: Run) -> str:
    """Short name of the data set: the last part of a folder's path, other names as they are."""
    name = str(run.study.get("data", {}).get("name", "unnamed data"))
    if name.startswith(("/", ".", "~")):
        return Path(name).name
    return name


def adjusted_p(results: Sequence[ArmResult]) -> dict[str, float]:
    """Holm-adjusted p per arm, over all the comparisons of this study."""
    values = holm(
        np.array([arm.paired.p if arm.paired else np.nan for arm in results], dtype=float)
    )
    return {arm.name: float(p) for arm, p in zip(results, values)}


def percent(value: float) -> str:
    """A fraction as a percentage with the digits that five seeds can carry."""
    if np.isnan(value):
        return "–"
    return f"{100 * value:.2f} %"


def p_text(p: float) -> str:
    """A p-value to three places, four where it is small; rounding never hides on which side of a
    level it lies.
    """
    if np.isnan(p):
        return "–"
    if p < 1e-4:
        return "< 0.0001"
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.4f}"


def signed(points: float, digits: int = 2) -> str:
    """A number with its sign, a true minus among them."""
    text = f"{points:+.{digits}f}"
    if float(text):
        return text.replace("-", "−")
    return f"±{0:.{digits}f}"


def enumerate_words(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def number(mean: float, error: float) -> str:
    """A mean and its error to the same place."""
    digits = 3
    if abs(mean) >= 10:
        digits = 1 if abs(mean) < 100 else 0
    return with_error(mean, error, digits)


def with_error(mean: float, error: float, digits: int) -> str:
    """A mean and its error, each with so many digits after the point; the mean alone where there is
    no error.
    """
    told = plain(mean, digits)
    if np.isnan(error):
        return told
    return f"{told} ± {plain(error, digits)}"


def plain(value: float, digits: int) -> str:
    """A number with so many digits after the point, and no minus before a zero."""
    if np.isnan(value):
        return "–"
    told = f"{value:,.{digits}f}"
    if float(told.replace(",", "")):
        return told.replace("-", "−")
    return told.lstrip("-")


def z_score(value: float) -> str:
    """A z-score with its sign."""
    return ("+" if value > 0 else "") + plain(value, 1 if abs(value) < 100 else 0)
