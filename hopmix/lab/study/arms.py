"""The arms of a study: the family that it names, on its images, at its strengths."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hopmix._types import PRNGKey
from hopmix.lab.config import StudyConfig
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.families.mixers import BY_NAME, Kind
from hopmix.lab.families.own import own_entries
from hopmix.models.mixer import Mixer, MixerConfig

MOST_TOKENS = 64
"""What the default patch leaves."""

FEW_TOKENS = 4
"""With fewer, token mixing mixes next to nothing, which the user is told."""


def default_patch(height: int, width: int) -> int:
    """The smallest patch of at least 2 pixels that divides the image and leaves at most 64 tokens.

    Raises `UsageError` where there is none that leaves two tokens or more.
    """
    for patch in range(2, min(height, width) + 1):
        tokens = (height // patch) * (width // patch)
        if height % patch == 0 and width % patch == 0 and 1 < tokens <= MOST_TOKENS:
            return patch
    raise UsageError(
        f"patch: no square patch of at least 2 pixels cuts {height} x {width} images into 2 to "
        f"{MOST_TOKENS} tokens; "
        f"give one with --patch{_example(height, width)}, or bring images to another size with "
        f"--resize."
    )


def _example(height: int, width: int) -> str:
    """The most nearly square patch that leaves 2 to 64 tokens, as a part of a sentence; nothing
    where there is none.
    """
    sizes = [(down, across) for down in _divisors(height) for across in _divisors(width)]
    possible = [
        size for size in sizes if 1 < (height // size[0]) * (width // size[1]) <= MOST_TOKENS
    ]
    if not possible:
        return ""
    down, across = min(possible, key=lambda size: (abs(math.log(size[0] / size[1])), size))
    sides = f"{down}" if down == across else f"{down} {across}"
    return f", such as --patch {sides}"


def _divisors(length: int) -> list[int]:
    return [divisor for divisor in range(1, length + 1) if length % divisor == 0]


def few_tokens(config: StudyConfig, image: tuple[int, int, int], classes: int) -> list[str]:
    """What the user should know where the images are cut into few tokens."""
    kinds = [BY_NAME[name] for name in config.arms if name in BY_NAME]
    if not kinds:
        return []
    model = mixer_of(config, kinds[0], image, classes)
    if model.tokens >= FEW_TOKENS:
        return []
    height, width = model.patch_size
    size = f"{image[0]} x {image[1]}"
    if model.tokens == 1:
        return [
            f"patches of {height} x {width} make one token of {size} images: there is nothing to "
            f"mix between tokens, "
            "and indices of symmetry of token couplings are left out"
        ]
    return [
        f"patches of {height} x {width} make only {model.tokens} tokens of {size} images: token "
        f"couplings are small, "
        "and their indices of symmetry near those of chance; --patch cuts finer"
    ]


def make_arms(
    config: StudyConfig,
    image: tuple[int, int, int],
    classes: int,
    own: Mapping[str, Sequence[Arm]] | None = None,
) -> list[Arm]:
    """The arms of a study on images of a shape, in the order asked for; penalised kinds once per
    strength.

    **Arguments:**

    - `own`: the arms of the user's own, by the entry that names them; nothing is imported here.

    **Raises:** `UsageError` where the patch does not divide the image, and where it is all of it
    unless it was asked for; where two arms have one name; and for entries that are not given.
    """
    given = dict(own or {})
    missing = [entry for entry in own_entries(config.arms) if entry not in given]
    if missing:
        raise UsageError(
            f"arms: the models of {missing[0]} are your own, and no file is imported here; what "
            f"was measured of them is in metrics.zarr."
        )
    models = {
        name: mixer_of(config, BY_NAME[name], image, classes)
        for name in config.arms
        if name in BY_NAME
    }
    first = next(iter(models.values()), None)
    if first is not None and first.tokens == 1 and config.patch is None:
        raise UsageError(
            f"patch: size {config.size} makes one token of {image[0]} x {image[1]} images; give "
            f"another "
            f"with --patch{_example(*image[:2])}, or larger images with --resize."
        )
    arms: list[Arm] = []
    for name in config.arms:
        if name in models:
            arms += _of_kind(BY_NAME[name], models[name], config)
        else:
            arms += given[name]
    _need_names(arms)
    return arms


def _need_names(arms: list[Arm]):
    names = [arm.name for arm in arms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"arms: two are named {twice[0]!r}; give each a name of its own.")


def _of_kind(kind: Kind, model: MixerConfig, config: StudyConfig) -> list[Arm]:
    make = partial(_mixer, model)
    strengths = config.grid if kind.penalised else (None,)
    return [
        Arm(
            name=_name(kind.name, strength),
            kind=kind.name,
            title=_name(kind.title, strength),
            about=kind.about,
            make=make,
            strength=strength,
            activations=model.depth * model.tokens * model.dim,
        )
        for strength in strengths
    ]


def _mixer(config: MixerConfig, key: PRNGKey) -> Mixer:
    return Mixer(config, key=key)


def _name(name: str, strength: float | None) -> str:
    if strength is None:
        return name
    # Never fewer digits than tell two strengths apart.
    if float(f"{strength:g}") == strength:
        return f"{name} λ={strength:g}"
    return f"{name} λ={strength!r}"


def mixer_of(
    config: StudyConfig, kind: Kind, image: tuple[int, int, int], classes: int
) -> MixerConfig:
    """The mixer of a kind in a study on images of a shape; raises `UsageError` where there is
    none.
    """
    options: dict[str, Any] = {
        "image": image,
        "classes": classes,
        "norm_scale": config.norm_scale,
        "norm": config.norm,
        "n_iter": config.n_iter,
        "drop_path": config.drop_path,
    }
    options |= {
        name: value
        for name in ("dim", "depth", "patch")
        if (value := getattr(config, name)) is not None
    }
    if config.size is None:
        options = {"dim": 32, "depth": 3} | options
        options.setdefault("patch", config.patch or default_patch(*image[:2]))
    options |= kind.options
    try:
        if config.size is None:
            return MixerConfig(**options)
        return MixerConfig.named(config.size, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
