"""Arms: what a study compares."""

import dataclasses

from hopmix.models.mixer import MixerConfig


@dataclasses.dataclass(frozen=True)
class Look:
    """How an arm is drawn, the same in every chart, table and picture.

    - `colours`: one of them as `#rrggbb`, or a ramp from light to dark along which arms of one kind are graded by
      their strength.
    - `dash`: solid, dash, dot or dashdot; `marker`: circle, square, diamond, triangle-up or triangle-down. They tell
      arms apart where colour cannot.
    """

    colours: tuple[str, ...]
    dash: str
    marker: str


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm of a study.

    - `name`: what reports call it; no two arms of a study share it.
    - `kind`: the name without the strength.
    - `title`: the name in the literature.
    - `about`: what it is, in a sentence of HTML.
    - `strength`: lambda, by which the squared breaking counts in the loss; `None` where there is no such penalty.
    - `model`: the configuration of its members.
    """

    name: str
    kind: str
    title: str
    about: str
    strength: float | None
    model: MixerConfig

    @property
    def structure(self) -> MixerConfig:
        """The configuration of the program that trains this arm; arms with equal ones differ only in numbers."""
        if self.model.coupling == "symmetric":
            return self.model
        return dataclasses.replace(self.model, coupling="free", breaking="zeros")
