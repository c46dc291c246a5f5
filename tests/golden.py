"""How the reference's tensors map to ours: names of its parameters, layout of its images."""

from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from helpers import affine_of, coupling_of

from hopmix import Block, Mixer, MixerConfig

KINDS = {
    "vanilla": {"block": "serial"},
    "para": {},
    "sym": {"coupling": "symmetric"},
    "asym": {"coupling": "broken"},
}
"""The reference's names of the models; its norms are joint and elementwise, without biases."""

Tensor = Callable[[str], jax.Array]


def configure(kind: str, **changes) -> MixerConfig:
    """16 tokens, 24 channels, hidden widths 12 and 96."""
    common = {
        "image": (16, 16, 3),
        "patch": 4,
        "dim": 24,
        "classes": 10,
        "norm_scale": "elementwise",
    }
    return MixerConfig(**(common | KINDS[kind] | changes))


def parts(kind: str, block) -> Iterator[tuple[str, Block, list[tuple[str, str]]]]:
    """The norms of a block by name, each with the part that it is of and the mixings behind it,
    theirs and ours.
    """
    mixings = [("mlp_tokens", "token"), ("mlp_channels", "channel")]
    if kind == "vanilla":
        yield from zip(("norm1", "norm2"), block.parts, [[m] for m in mixings])
    else:
        yield "norm", block, mixings


def leaves(kind: str, block) -> list[tuple[str, jax.Array]]:
    """Every parameter of a block under the reference's name: also of a gradient."""
    found = []
    for norm, part, mixings in parts(kind, block):
        affine = affine_of(part.potential.neurons)
        memory = part.potential.memory
        found += [(f"{norm}.weight", affine.scale), (f"{norm}.bias", affine.shift)]
        for theirs, ours in mixings:
            coupling = coupling_of(memory, ours)
            if kind == "sym":  # its only matrix, used both ways
                found.append((f"{theirs}.fc2.weight", coupling.up))
            else:
                found += [
                    (f"{theirs}.fc1.weight", coupling.up),
                    (f"{theirs}.fc2.weight", coupling.breaking),
                ]
    return found


def load_block(kind: str, block, tensor: Tensor):
    """The block with the reference's parameters."""
    names = [name for name, _ in leaves(kind, block)]
    values = [tensor(name) for name in names]
    for (name, mine), value in zip(leaves(kind, block), values, strict=True):
        assert mine.shape == value.shape, f"{name}: {mine.shape} here, {value.shape} there"
    return eqx.tree_at(lambda b: [leaf for _, leaf in leaves(kind, b)], block, values)


def load_model(kind: str, model: Mixer, tensor: Tensor) -> Mixer:
    """The model with the reference's parameters; its stem is a convolution over (colours, height,
    width).
    """
    blocks = [
        load_block(kind, b, lambda n, i=i: tensor(f"blocks.{i}.{n}"))
        for i, b in enumerate(model.blocks)
    ]
    stem = tensor("stem.weight").transpose(0, 2, 3, 1).reshape(model.stem.weight.shape)
    return eqx.tree_at(
        lambda m: (
            m.stem.weight,
            m.stem.bias,
            m.affine.scale,
            m.affine.shift,
            m.head.weight,
            m.head.bias,
            m.blocks,
        ),
        model,
        (
            stem,
            tensor("stem.bias"),
            tensor("norm.weight")[None],
            tensor("norm.bias")[None],
            tensor("head.weight"),
            tensor("head.bias"),
            tuple(blocks),
        ),
    )


def images(x: jax.Array) -> jax.Array:
    """(batch, colours, height, width) as (batch, height, width, colours)."""
    return jnp.transpose(x, (0, 2, 3, 1))
