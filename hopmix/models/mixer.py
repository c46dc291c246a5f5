r"""Mixers: the serial MLP-Mixer and the parallel, symmetric and broken mixers of associative
memory.

A parallel block is one step of one memory (tokens - visible - channels). A serial block is two
memories in turn, one for each mixing; even with tied weights their composition has no energy.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._block import Block, SerialBlock, derive_block
from hopmix._coupling import Breaking, Coupling
from hopmix._lagrangian import GELU, LayerNorm
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Affine, Neurons
from hopmix._synapse import AbstractSynapse, Bias, ChannelMixing, TokenMixing, mix_last
from hopmix._tree import couplings
from hopmix._types import Image, Layer, PRNGKey, Tokens
from hopmix.models._interface import AbstractBlockModel

SIZES = {"S": (8, 512), "B": (12, 768), "L": (24, 1024)}
"""Depth and width of the named sizes (Tolstikhin et al. 2021, table 1)."""


VANILLA: dict[str, Any] = {
    "block": "serial",
    "norm": "token",
    "norm_scale": "elementwise",
    "bias": True,
}
"""What makes a mixer the MLP-Mixer of Tolstikhin et al. 2021."""


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    r"""The shape and the symmetry of a mixer.

    **Arguments:**

    - `image`: height, width (pixels) and number of colours.
    - `patch`: height and width of a patch in pixels, or one number for both; it must divide the
      image.
    - `dim`: channels per token, $C$.
    - `depth`: number of blocks.
    - `classes`: number of labels.
    - `block`: `"parallel"` (both mixings read one norm) or `"serial"` (MLP-Mixer).
    - `coupling`: `"free"`, `"broken"` or `"symmetric"`, see `Coupling`.
    - `breaking`: where the breaking of `"broken"` starts, `"zeros"` or `"xavier"`.
    - `token_hidden`, `channel_hidden`: hidden widths $D_S$ and $D_C$; `None` for $C/2$ and $4C$.
    - `hidden_ratio`: factor on both hidden widths.
    - `norm`: `"joint"` over tokens and channels, or `"token"` for each token by itself.
    - `norm_scale`: `"conservative"` (elementwise, on the way in and out: an exact energy),
        `"scalar"`, `"none"`, or `"elementwise"` (on the way in only, as in the reference: no
        energy).
    - `bias`: whether the mixings have biases.
    - `n_iter`, `step`, `leak`, `drop_path`: as in `Block`.

    **Raises:** `ValueError` for an unknown choice, a size below 1, and a patch that does not divide
    the image.

    **Source:** arXiv 2105.01601 (serial), arXiv 2406.12220 (the others).
    """

    image: tuple[int, int, int] = (224, 224, 3)
    patch: int | tuple[int, int] = 16
    dim: int = 512
    depth: int = 8
    classes: int = 1000
    block: Literal["parallel", "serial"] = "parallel"
    coupling: Literal["free", "broken", "symmetric"] = "free"
    breaking: Breaking = "zeros"
    token_hidden: int | None = None
    channel_hidden: int | None = None
    hidden_ratio: int = 1
    norm: Literal["joint", "token"] = "joint"
    norm_scale: Literal["none", "scalar", "conservative", "elementwise"] = "conservative"
    bias: bool = False
    n_iter: int = 1
    step: float = 1.0
    leak: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self):
        for name, hint in get_type_hints(MixerConfig).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                choices = ", ".join(map(repr, get_args(hint)))
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}.")
        sizes = {name: getattr(self, name) for name in ("dim", "depth", "classes", "hidden_ratio")}
        sizes |= {
            "image": min(self.image),
            "patch": min(self.patch_size),
            "hidden widths": min(self.hidden),
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.n_iter < 1:
            raise ValueError(f"n_iter must be at least 1, got {self.n_iter}.")
        if not (self.step > 0 and self.leak >= 0 and 0 <= self.drop_path < 1):
            raise ValueError(
                "MixerConfig needs step > 0, leak >= 0 and 0 <= drop_path < 1, "
                f"got step {self.step}, leak {self.leak}, drop_path {self.drop_path}."
            )
        for side, pixels, patch in zip(
            ("height", "width"), self.image[:2], self.patch_size, strict=True
        ):
            if pixels % patch:
                raise ValueError(
                    f"patch {patch} does not divide the image {side} of {pixels} pixels; "
                    f"use one of {[p for p in range(1, pixels + 1) if pixels % p == 0]}."
                )

    @classmethod
    def named(cls, size: str, **changes) -> "MixerConfig":
        """A published size, `"S/32"`, `"S/16"`, `"B/32"`, `"B/16"`, `"L/32"` or `"L/16"`, with
        changes.

        **Arguments:**

        - `size`: a letter for the width and a number for the patch.
        - `changes`: of the arguments of `MixerConfig`.

        **Raises:** `ValueError` for a name that is not of this form.
        """
        letter, _, patch = size.partition("/")
        if letter not in SIZES or not (patch.isascii() and patch.isdigit()):
            raise ValueError(
                f"Unknown size {size!r}: use S, B or L, a slash and the patch size, as in 'S/16'."
            )
        depth, dim = SIZES[letter]
        return cls(**(dict[str, Any](depth=depth, dim=dim, patch=int(patch)) | changes))

    @classmethod
    def vanilla(cls, size: str = "S/16", **changes) -> "MixerConfig":
        """The MLP-Mixer of Tolstikhin et al. 2021: serial, norm of each token, biases. GELU is
        exact here.

        **Arguments:**

        - `size`, `changes`: as in `named`.
        """
        return cls.named(size, **(VANILLA | changes))

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        if isinstance(self.patch, int):
            return (self.patch, self.patch)
        return self.patch

    @property
    def tokens(self) -> int:
        """The number of tokens $S$."""
        (height, width) = self.image[:2]
        (down, across) = self.patch_size
        return (height // down) * (width // across)

    @property
    def hidden(self) -> tuple[int, int]:
        """The hidden widths of the token and of the channel mixing."""
        if self.token_hidden is None:
            token = self.dim // 2
        else:
            token = self.token_hidden
        if self.channel_hidden is None:
            channel = 4 * self.dim
        else:
            channel = self.channel_hidden
        return self.hidden_ratio * token, self.hidden_ratio * channel


class Mixer(AbstractBlockModel):
    """Patch embedding, blocks, final norm, mean over tokens, linear head.

    **Arguments:**

    - `config`: the `MixerConfig`.
    - `key`: the key of the initial weights. Couplings are Xavier uniform, the stem LeCun normal,
        the head zero; the same key gives the same stem, head and up-weights for every kind of
        coupling and of block.

    **Source:** arXiv 2105.01601, arXiv 2406.12220.
    """

    image: tuple[int, int, int] = eqx.field(static=True)
    patch: tuple[int, int] = eqx.field(static=True)
    stem: eqx.nn.Linear
    blocks: tuple[Block | SerialBlock, ...]
    norm: LayerNorm = eqx.field(static=True)
    affine: Affine
    head: eqx.nn.Linear

    def __init__(self, config: MixerConfig, *, key: PRNGKey):
        stem_key, *block_keys = jr.split(key, config.depth + 1)
        self.image = config.image
        self.patch = config.patch_size
        pixels = config.patch_size[0] * config.patch_size[1] * config.image[2]
        self.stem = _linear(
            jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0), pixels, config.dim, stem_key
        )
        self.blocks = tuple(_block(config, block_key) for block_key in block_keys)
        self.norm = LayerNorm(axes=(-1,))
        self.affine = _affine((1, config.dim), conservative=False)
        self.head = _linear(jax.nn.initializers.zeros, config.dim, config.classes, stem_key)

    def __call__(self, image: Image, key: PRNGKey | None = None) -> Float[Array, " classes"]:
        """The logits of one image; with a key, with stochastic depth.

        **Arguments:**

        - `image`: of shape (height, width, colours).
        - `key`: of the branches that are dropped; without one none is.
        """
        return self.classify(self.apply_blocks(self.embed(image), key))

    def batch(
        self, images: Float[Array, "batch height width colours"], key: PRNGKey | None = None
    ) -> Float[Array, "batch classes"]:
        """The logits of a batch of images: `jax.vmap(model)(images)`, but fast.

        Between stem and head the layout is token-major, (tokens, batch, channels), so that both
        mixings and their weight gradients are plain matrix products. With a key each image drops
        branches of its own.

        **Arguments:**

        - `images`: of shape (batch, height, width, colours).
        - `key`: of the branches that are dropped; without one none is.
        """
        patches = jax.vmap(self.patches, out_axes=1)(images)
        return self.classify(self.apply_blocks(_apply(self.stem, patches), key))

    def apply_blocks(
        self, x: Float[Array, "tokens *batch channels"], key: PRNGKey | None = None
    ) -> Layer:
        """The tokens after all blocks, of one example or of a token-major batch."""
        for i, block in enumerate(self.blocks):
            x = block(x, None if key is None else jr.fold_in(key, i))
        return x

    def embed(self, image: Image) -> Tokens:
        """The tokens of one image: its patches, linearly embedded."""
        return _apply(self.stem, self.patches(image))

    def patches(self, image: Image) -> Float[Array, "tokens pixels"]:
        """The patches of one image in row-major order, each as a vector."""
        if image.shape != self.image:
            raise ValueError(f"The model takes images of shape {self.image}, got {image.shape}.")
        down, across = self.patch
        height, width, colours = image.shape
        grid = image.reshape(height // down, down, width // across, across, colours)
        return grid.transpose(0, 2, 1, 3, 4).reshape(-1, down * across * colours)

    def classify(self, x: Float[Array, "tokens *batch channels"]) -> Float[Array, "*batch classes"]:
        """The logits from the last tokens of one example or of a token-major batch."""
        return _apply(self.head, jnp.mean(self.affine(self.norm.activation(x)), axis=0))

    @property
    def config(self) -> MixerConfig:
        """The configuration of a mixer with these parts, as they are now; where a breaking began is
        not in it.

        Hidden widths are the default ones times a `hidden_ratio` where they can be.
        """
        whole = self.blocks[0]
        token, channel = whole.parts if isinstance(whole, SerialBlock) else (whole, whole)
        down, across = self.patch
        return MixerConfig(
            image=self.image,
            patch=down if down == across else self.patch,
            dim=self.affine.scale.shape[-1],
            depth=len(self.blocks),
            classes=self.head.weight.shape[0],
            block="serial" if isinstance(whole, SerialBlock) else "parallel",
            coupling=_kind(couplings(whole)[0]),
            norm="joint" if _norm(token).axes == (0, -1) else "token",
            norm_scale=_norm_scale(token),
            bias="token_up" in token.potential.memory.synapses,
            n_iter=whole.n_iter,
            step=token.step,
            leak=token.leak,
            drop_path=token.drop_path,
            **_hidden_widths(token, channel),
        )


def _linear(initializer, inputs: int, outputs: int, key: PRNGKey) -> eqx.nn.Linear:
    linear = eqx.nn.Linear(inputs, outputs, key=key)
    values = initializer(key, (outputs, inputs)), jnp.zeros(outputs)
    return eqx.tree_at(lambda m: (m.weight, m.bias), linear, values)


def _apply(linear: eqx.nn.Linear, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
    # Not `jax.vmap(linear)`: that would compute the transpose and turn it round.
    assert linear.bias is not None
    return mix_last(linear.weight, x) + jnp.expand_dims(linear.bias, range(x.ndim - 1))


def _affine(shape: tuple[int, ...], conservative: bool) -> Affine:
    return Affine(jnp.ones(shape), jnp.zeros(shape), conservative)


def _block(config: MixerConfig, key: PRNGKey) -> Block | SerialBlock:
    token = TokenMixing(_coupling(config, config.tokens, config.hidden[0], jr.fold_in(key, 0)))
    channel = ChannelMixing(_coupling(config, config.dim, config.hidden[1], jr.fold_in(key, 1)))
    if config.block == "parallel":
        return _derive(config, {"token": token, "channel": channel}, config.n_iter)
    return SerialBlock(
        _derive(config, {"token": token}), _derive(config, {"channel": channel}), config.n_iter
    )


def _coupling(config: MixerConfig, visible: int, hidden: int, key: PRNGKey) -> Coupling:
    match config.coupling:
        case "symmetric":
            return Coupling.symmetric(visible, hidden, key=key)
        case "broken":
            return Coupling.broken(visible, hidden, key=key, breaking=config.breaking)
        case "free":
            return Coupling.free(visible, hidden, key=key)


def _derive(
    config: MixerConfig, mixings: Mapping[str, TokenMixing | ChannelMixing], n_iter: int = 1
) -> Block:
    """The block whose hidden layers are those of the given mixings, by the name of the layer."""
    neurons = {"visible": _visible(config)}
    synapses: dict[str, AbstractSynapse] = {}
    connections: dict[str, tuple[str, ...]] = {}
    for name, mixing in mixings.items():
        shape, bias, back = _hidden_shapes(config, name)
        neurons[name] = Neurons(GELU(), shape)
        synapses[name] = mixing
        connections[name] = ("visible", name)
        if config.bias:
            synapses |= {f"{name}_up": Bias(jnp.zeros(bias)), f"{name}_down": Bias(jnp.zeros(back))}
            connections |= {f"{name}_up": (name,), f"{name}_down": ("visible", name)}
    memory = AssociativeMemory(neurons, synapses, connections)
    return derive_block(
        memory,
        mixings,
        leak=config.leak,
        step=config.step,
        n_iter=n_iter,
        drop_path=config.drop_path,
    )


def _hidden_shapes(
    config: MixerConfig, name: str
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The shapes of a hidden layer, of its bias, and of the bias that it sends back to the visible
    layer.
    """
    token, channel = config.hidden
    if name == "token":
        return (token, config.dim), (token, 1), (config.tokens, 1)
    return (config.tokens, channel), (1, channel), (1, config.dim)


def _visible(config: MixerConfig) -> Neurons:
    shape = (config.tokens, config.dim)
    axes = (0, -1) if config.norm == "joint" else (-1,)
    parameters = shape if config.norm == "joint" else (1, config.dim)
    if config.norm_scale == "none":
        return Neurons(LayerNorm(axes), shape)
    if config.norm_scale == "scalar":
        return Neurons(LayerNorm(axes, jnp.ones(()), jnp.zeros(parameters)), shape)
    return Neurons(
        LayerNorm(axes), shape, affine=_affine(parameters, config.norm_scale == "conservative")
    )


def _kind(coupling: Coupling) -> Literal["free", "broken", "symmetric"]:
    if coupling.breaking is None:
        return "symmetric"
    if coupling.tie == 1:
        return "broken"
    return "free"


def _norm(block: Block) -> LayerNorm:
    norm = block.potential.neurons.lagrangian
    assert isinstance(norm, LayerNorm), "a mixer's visible layer has a norm"
    return norm


def _norm_scale(block: Block) -> Literal["none", "scalar", "conservative", "elementwise"]:
    affine = block.potential.neurons.affine
    if affine is not None:
        if affine.conservative:
            return "conservative"
        return "elementwise"
    if _norm(block).shift is None:
        return "none"
    return "scalar"


def _hidden_widths(token: Block, channel: Block) -> dict[str, Any]:
    """The options that give these hidden widths: a ratio to the default ones where they have
    one.
    """
    dim = token.potential.neurons.shape[-1]
    token_hidden = token.potential.memory.neurons["token"].shape[0]
    channel_hidden = channel.potential.memory.neurons["channel"].shape[-1]
    ratio = max(1, channel_hidden // (4 * dim))
    if (token_hidden, channel_hidden) == (ratio * (dim // 2), ratio * 4 * dim):
        return {"hidden_ratio": ratio}
    widths = {"token_hidden": (token_hidden, dim // 2), "channel_hidden": (channel_hidden, 4 * dim)}
    return {name: width for name, (width, default) in widths.items() if width != default}
