"""The lambda axis of the report: logarithmic, with a place for lambda = 0 left of a break."""

import dataclasses
import math

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class StrengthAxis:
    """Ticks at `log10(lambda)`; `zero` is where lambda = 0 stands, `None` if no arm has it."""

    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    zero: float | None

    def place(self, strength: float) -> float:
        """Position of one lambda on this axis."""
        if strength > 0:
            return math.log10(strength)
        assert self.zero is not None
        return self.zero

    @property
    def span(self) -> tuple[float, float]:
        """Left and right end, with room for the outermost points."""
        if self.ticks:
            return (self.ticks[0] - 0.5, self.ticks[-1] + 0.5)
        return (-0.5, 0.5)


def strength_axis(arms: xr.Dataset | xr.DataArray) -> StrengthAxis:
    """Axis that holds every lambda among the arms that have one."""
    strengths = np.unique(arms.strength.values[is_penalised(arms)].astype(float))
    positive = strengths[strengths > 0]
    zero = _zero_place(positive) if strengths.size > positive.size else None
    ticks = [] if zero is None else [zero]
    ticks += [math.log10(strength) for strength in positive]
    labels = ["0"] * (zero is not None) + [power_of_ten(strength) for strength in positive]
    return StrengthAxis(tuple(ticks), tuple(labels), zero)


def is_penalised(arms: xr.Dataset | xr.DataArray) -> Bool[np.ndarray, " arms"]:
    """Which arms have a lambda."""
    return np.isfinite(arms.strength.values.astype(float))


def power_of_ten(value: float) -> str:
    """`1e-05` as 10⁻⁵, `0.0005` as 5·10⁻⁴, and numbers from 0.01 to 100 as they are."""
    if not 0 < value < 0.01 and value <= 100:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    if float(mantissa) == 1:
        return power
    return f"{float(mantissa):g}·{power}"


def _zero_place(positive: Float[np.ndarray, " n"]) -> float:
    if positive.size:
        return math.log10(positive[0]) - 1.5
    return 0.0
