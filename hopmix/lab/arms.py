"""Arms: the mixers that a symmetry ablation compares."""

import dataclasses
from typing import Any

from hopmix.lab.config import StudyConfig, UsageError
from hopmix.models.mixer import VANILLA, MixerConfig

PAPER_NAMES = {
    "serial": "vanilla MLP-Mixer",
    "free": "ParaMixer",
    "broken": "AsymMixer",
    "broken-xavier": "AsymMixer, reference initialisation",
    "symmetric": "SymMixer",
    "symmetric-wide": "SymMixer, hidden width x 2",
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm: a model and the strength of its penalty.

    - `name`, `paper_name`: what reports call it, in our words and in those of arXiv 2406.12220.
    - `kind`: the name without the strength.
    - `penalty`: lambda.
    - `model`: the configuration of its members.
    """

    name: str
    paper_name: str
    kind: str
    penalty: float
    model: MixerConfig

    @property
    def structure(self) -> MixerConfig:
        """The configuration of the program that trains this arm; arms with equal ones differ only in numbers."""
        if self.model.coupling == "symmetric":
            return self.model
        return dataclasses.replace(self.model, coupling="free", breaking="zeros")


def default_patch(height: int, width: int) -> int:
    """The smallest patch of at least 2 pixels that divides the image and leaves at most 64 tokens."""
    for patch in range(2, min(height, width) + 1):
        if height % patch == 0 and width % patch == 0 and height * width <= 64 * patch**2:
            return patch
    raise UsageError(f"patch: no square patch cuts {height} x {width} images into at most 64 tokens; give one.")


def make_arms(config: StudyConfig, image: tuple[int, int, int], classes: int) -> list[Arm]:
    """The arms of a study on images of a shape, in the order asked for; "broken" kinds once per lambda.

    Raises `UsageError` where the patch does not divide the image.
    """
    return [
        Arm(_name(kind, strength), _name(PAPER_NAMES[kind], strength), kind, strength or 0.0, model)
        for kind, model in ((kind, _model(config, kind, image, classes)) for kind in config.arms)
        for strength in (config.grid if kind.startswith("broken") else (None,))
    ]


def _name(kind: str, penalty: float | None) -> str:
    if penalty is None:
        return kind
    # Never fewer digits than tell two strengths apart.
    return f"{kind} λ={penalty:g}" if float(f"{penalty:g}") == penalty else f"{kind} λ={penalty!r}"


def _model(config: StudyConfig, kind: str, image: tuple[int, int, int], classes: int) -> MixerConfig:
    options: dict[str, Any] = {
        "image": image,
        "classes": classes,
        "norm_scale": config.norm_scale,
        "norm": config.norm,
        "n_iter": config.n_iter,
        "drop_path": config.drop_path,
    }
    options |= {name: value for name in ("dim", "depth", "patch") if (value := getattr(config, name)) is not None}
    if config.size is None:
        options = {"dim": 32, "depth": 3} | options
        options.setdefault("patch", config.patch or default_patch(*image[:2]))
    own = {
        "serial": VANILLA,
        "free": {"coupling": "free"},
        "broken": {"coupling": "broken"},
        "broken-xavier": {"coupling": "broken", "breaking": "xavier"},
        "symmetric": {"coupling": "symmetric"},
        "symmetric-wide": {"coupling": "symmetric", "hidden_ratio": 2},
    }
    options |= own[kind]
    try:
        return MixerConfig(**options) if config.size is None else MixerConfig.named(config.size, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
