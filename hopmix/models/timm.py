"""The MLP-Mixer of PyTorch Image Models (timm) as a `Mixer` and back: the same numbers under other
names.

timm calls them `stem.proj`, `blocks.N.norm1`, `blocks.N.mlp_tokens.fc1`, `.fc2`, `blocks.N.norm2`,
`blocks.N.mlp_channels.fc1`, `.fc2`, `norm` and `head`, each with `.weight` and `.bias`. There $W$
is `fc1.weight` and $V$ is `fc2.weight`. The stem is a convolution over (colours, height, width) of
a patch, here a matrix on its pixels in the order (height, width, colours).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from hopmix._coupling import Coupling
from hopmix._tree import map_couplings
from hopmix.models.mixer import VANILLA, Mixer, MixerConfig

SHOWN = 5
"""How many names an error lists before it only counts them."""


def from_timm(weights: Mapping[str, Any], image: tuple[int, int] | None = None) -> Mixer:
    """The `Mixer` that computes what timm's `MlpMixer` computes with these weights.

    The configuration follows from the shapes; it equals `MixerConfig.vanilla("B/16")` for
    `mixer_b16_224`. timm takes images as (colours, height, width), hopmix as (height, width,
    colours).

    **Arguments:**

    - `weights`: timm's state dict, arrays by name; `safetensors.numpy.load_file` reads one.
    - `image`: height and width in pixels, where the tokens are no square grid.

    **Raises:** `ValueError` that names the weights that are missing, unknown or of a wrong shape.

    **Source:** Tolstikhin et al. 2021 (arXiv 2105.01601), equation 1; names of timm 1.0,
    `timm.models.mlp_mixer`.
    """
    config = _config(weights, image)
    places = _places(config)
    _check_names(weights, places)
    skeleton = eqx.filter_eval_shape(Mixer, config, key=jr.key(0))
    arrays = [
        _turn_in(name, jnp.asarray(weights[name]), place.where(skeleton))
        for name, place in places.items()
    ]
    filled = eqx.tree_at(lambda m: [place.where(m) for place in places.values()], skeleton, arrays)
    return map_couplings(
        lambda coupling: Coupling.from_weights(coupling.up, coupling.breaking), filled
    )


def to_timm(model: Mixer) -> dict[str, np.ndarray]:
    """The weights of a `Mixer` under timm's names, for `MlpMixer.load_state_dict` or a safetensors
    file.

    **Arguments:**

    - `model`: an MLP-Mixer as `MixerConfig.vanilla` describes it; its couplings may be of any kind,
        and $V$ is written as it is.

    **Raises:** `ValueError` for a model that timm's `MlpMixer` can't compute, naming what is
    different.
    """
    config = model.config
    differs = [name for name, value in (VANILLA | PLAIN).items() if getattr(config, name) != value]
    if differs:
        found = ", ".join(f"{name} = {getattr(config, name)!r}" for name in differs)
        raise ValueError(
            f"timm's MlpMixer can't compute a mixer with {found}; start from MixerConfig.vanilla."
        )
    free = map_couplings(lambda coupling: Coupling.from_weights(coupling.up, coupling.down), model)
    return {
        name: _turn_out(name, place, place.where(free)) for name, place in _places(config).items()
    }


PLAIN: dict[str, Any] = {"n_iter": 1, "step": 1.0, "leak": 0.0}
"""What `VANILLA` leaves at its default and timm does not have."""


class _Place(NamedTuple):
    """The shape of one of timm's weights, and where the same numbers are in a `Mixer`."""

    shape: tuple[int, ...]
    where: Callable[[Mixer], Any]


def _config(weights: Mapping[str, Any], image: tuple[int, int] | None) -> MixerConfig:
    blocks = {int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))}
    dim, colours, *patch = _shape(weights, "stem.proj.weight", 4)
    token, tokens = _shape(weights, "blocks.0.mlp_tokens.fc1.weight", 2)
    channel, _ = _shape(weights, "blocks.0.mlp_channels.fc1.weight", 2)
    classes, _ = _shape(weights, "head.weight", 2)
    height, width = _square(tokens, patch) if image is None else image
    config = MixerConfig(
        image=(height, width, colours),
        patch=patch[0] if patch[0] == patch[1] else (patch[0], patch[1]),
        dim=dim,
        depth=max(blocks) + 1,
        classes=classes,
        token_hidden=None if token == dim // 2 else token,
        channel_hidden=None if channel == 4 * dim else channel,
        **VANILLA,
    )
    if config.tokens != tokens:
        raise ValueError(
            f"image = {(height, width)} has {config.tokens} patches of {patch}, the weights "
            f"{tokens}."
        )
    return config


def _shape(weights: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(
            f"These are not the weights of timm's MlpMixer with a head: {name} is missing."
        )
    if np.ndim(weights[name]) != rank:
        raise ValueError(f"{name} must have {rank} axes, got the shape {np.shape(weights[name])}.")
    return np.shape(weights[name])


def _square(tokens: int, patch: list[int]) -> tuple[int, int]:
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise ValueError(
            f"{tokens} tokens are no square grid of patches; give image=(height, width) in pixels."
        )
    return side * patch[0], side * patch[1]


def _check_names(weights: Mapping[str, Any], places: Mapping[str, _Place]):
    shapes = {name: np.shape(array) for name, array in weights.items()}
    wrong = [
        f"{name} {shapes[name]} instead of {p.shape}"
        for name, p in places.items()
        if shapes.get(name, p.shape) != p.shape
    ]
    problems = {
        "missing": [name for name in places if name not in shapes],
        "unknown": [name for name in shapes if name not in places],
        "of a wrong shape": wrong,
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        raise ValueError(f"These are not the weights of timm's MlpMixer. {told}.")


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _places(config: MixerConfig) -> dict[str, _Place]:
    """All of timm's weights, in timm's order."""
    dim = config.dim
    classes = config.classes
    colours = config.image[2]
    places = {
        "stem.proj.weight": _Place((dim, colours, *config.patch_size), lambda m: m.stem.weight),
        "stem.proj.bias": _Place((dim,), lambda m: m.stem.bias),
    }
    sizes = {"token": (config.tokens, config.hidden[0]), "channel": (dim, config.hidden[1])}
    for index in range(config.depth):
        for number, (branch, (visible, hidden)) in enumerate(sizes.items(), 1):
            where = lambda m, i=index, branch=branch: getattr(m.blocks[i], branch).potential.memory
            own = _norm(f"norm{number}", dim, where) | _mlp(branch, visible, hidden, where)
            places |= {f"blocks.{index}.{name}": place for name, place in own.items()}
    return places | {
        "norm.weight": _Place((dim,), lambda m: m.affine.scale),
        "norm.bias": _Place((dim,), lambda m: m.affine.shift),
        "head.weight": _Place((classes, dim), lambda m: m.head.weight),
        "head.bias": _Place((classes,), lambda m: m.head.bias),
    }


def _norm(name: str, dim: int, memory: Callable[[Mixer], Any]) -> dict[str, _Place]:
    return {
        f"{name}.weight": _Place((dim,), lambda m: memory(m).neurons["visible"].affine.scale),
        f"{name}.bias": _Place((dim,), lambda m: memory(m).neurons["visible"].affine.shift),
    }


def _mlp(
    branch: str, visible: int, hidden: int, memory: Callable[[Mixer], Any]
) -> dict[str, _Place]:
    mlp = f"mlp_{branch}s"
    return {
        f"{mlp}.fc1.weight": _Place(
            (hidden, visible), lambda m: memory(m).synapses[branch].coupling.up
        ),
        f"{mlp}.fc1.bias": _Place((hidden,), lambda m: memory(m).synapses[f"{branch}_up"].bias),
        f"{mlp}.fc2.weight": _Place(
            (visible, hidden), lambda m: memory(m).synapses[branch].coupling.breaking
        ),
        f"{mlp}.fc2.bias": _Place((visible,), lambda m: memory(m).synapses[f"{branch}_down"].bias),
    }


def _turn_in(name: str, array: Array, like: jax.ShapeDtypeStruct | Array) -> Array:
    return (array.transpose(0, 2, 3, 1) if name == "stem.proj.weight" else array).reshape(
        like.shape
    )


def _turn_out(name: str, place: _Place, array: Array) -> np.ndarray:
    if name != "stem.proj.weight":
        return np.asarray(array).reshape(place.shape)
    dim, colours, down, across = place.shape
    # Contiguous: safetensors writes the memory as it lies.
    return np.ascontiguousarray(
        np.asarray(array).reshape(dim, down, across, colours).transpose(0, 3, 1, 2)
    )
