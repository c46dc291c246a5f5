"""Layouts: by what names known networks keep the weights of a layer, and how these are to be read.

A layer is found by how its names end; whatever stands before that is its place. So prefixes such as
`module.`, `bert.` and `transformer.` need no rule.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hopmix.lab.checkpoints.formats.weights import (
    FLOATS,
    AbstractWeights,
    fitting,
    listed,
    shape_text,
)
from hopmix.lab.checkpoints.layers import (
    Layer,
    LayerSet,
    Matrix,
    Mismatch,
    Skipped,
    pair,
    query_key,
    square,
    tied,
)
from hopmix.lab.errors import UsageError


class ReadOptions(NamedTuple):
    """What names don't tell.

    - `breaking`: the second weight of a pair is V - W^T, as in the reference implementation's
      AsymMixer.
    - `heads`: take the queries and keys of each of so many heads as layers of their own too.
    """

    breaking: bool = False
    heads: int | None = None


class Layout(NamedTuple):
    """How the names of a part of a layer end, and what is made of its weights; `build` may raise
    `Mismatch`.
    """

    part: str
    names: tuple[str, ...]
    build: Callable[[str, str, list[Matrix], ReadOptions], list[Layer]]


class NotMeasurable(ValueError):
    """Why a weight can't be measured."""


def find_layers(weights: AbstractWeights, reading: ReadOptions) -> LayerSet:
    """All layers of the known layouts in a checkpoint, in the order of their places.

    **Raises:** `UsageError` where there is none, saying what there is instead; for heads that there
    aren't.
    """
    layers = []
    left_out = []
    for name in weights.tensors:
        for layout in LAYOUTS:
            try:
                layers += _found(weights, name, layout, reading)
            except NotMeasurable as unfit:
                left_out.append(Skipped(name, str(unfit)))
    if not layers:
        raise UsageError(_nothing(weights, left_out))
    if reading.heads is not None and not any(layer.kind == "query-key" for layer in layers):
        raise UsageError(
            f"heads: got {reading.heads}, but {weights.source} has no queries and keys; leave it "
            f"out."
        )
    layers = sorted(layers, key=lambda layer: _natural(layer.place))
    known = {name for layer in layers for name in layer.names} | {one.name for one in left_out}
    matrices = [name for name, tensor in weights.tensors.items() if len(tensor.shape) == 2]
    return LayerSet(
        weights.source, layers, left_out, tuple(name for name in matrices if name not in known)
    )


def matrix(weights: AbstractWeights, name: str, *, transposed: bool = False) -> Matrix:
    """A matrix of a checkpoint; raises `NotMeasurable` for anything else."""
    tensor = weights.tensors[name]
    if tensor.dtype not in FLOATS:
        raise NotMeasurable(
            f"{name} is stored as {tensor.dtype}, which is none of {', '.join(FLOATS)}"
        )
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise NotMeasurable(f"{name} is {shape_text(tensor.shape)} and no matrix")
    return Matrix(weights, name, transposed)


def _found(
    weights: AbstractWeights, name: str, layout: Layout, reading: ReadOptions
) -> list[Layer]:
    first = layout.names[0]
    if name != first and not name.endswith(f".{first}"):
        return []
    before = name.removesuffix(first)
    names = [before + own for own in layout.names]
    missing = [other for other in names if other not in weights.tensors]
    if missing:
        raise NotMeasurable(f"there is no {missing[0]} beside it")
    try:
        return layout.build(
            before.removesuffix("."), layout.part, [matrix(weights, n) for n in names], reading
        )
    except Mismatch as mismatch:
        raise NotMeasurable(
            f"{mismatch}; "
            f"{fitting(weights.tensors, mismatch.name, mismatch.wanted, mismatch.first)}"
        ) from None


def _natural(place: str) -> list[tuple[int, str]]:
    """Numbers in a name are ordered as numbers: layer 2 comes before layer 10."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", place)
    ]


def _nothing(weights: AbstractWeights, left_out: list[Skipped]) -> str:
    matrices = [name for name, tensor in weights.tensors.items() if len(tensor.shape) == 2]
    why = f" ({left_out[0].name}: {left_out[0].why})" if left_out else ""
    return (
        f"path: {weights.source} has no layers of a known layout{why}; name its weights with "
        f"--pairs 'UP:DOWN'. "
        f"It has {len(matrices)} matrices: {listed(weights.tensors, matrices)}."
    )


# ---- What is made of the weights -----------------------------------------------------------------


def _mlp(place: str, part: str, weights: list[Matrix], reading: ReadOptions) -> list[Layer]:
    """Two layers; where the first has twice the rows, it is gated: unit i reads both row i of u and
    row i of v.
    """
    up, down = weights
    if up.shape[0] != 2 * down.shape[1]:
        return [pair(place, part, up, down, breaking=reading.breaking)]
    return [pair(place, f"{part} {half}", up.share(i, 2), down) for i, half in enumerate("uv")]


def _gpt2_mlp(place: str, part: str, weights: list[Matrix], reading: ReadOptions) -> list[Layer]:
    """GPT-2 stores its matrices the other way round, others with its names don't.

    The first bias has the length of the hidden side; without one, the longer side is taken for it.
    """
    rows, columns = weights[0].shape
    bias = weights[0].weights.tensors.get(weights[0].name.removesuffix("weight") + "bias")
    hidden = max(rows, columns) if bias is None else bias.shape[-1]
    transposed = columns == hidden and (rows != columns or _stored_by_columns(weights[0]))
    return _mlp(place, part, [_turned(w, transposed) for w in weights], reading)


def _stored_by_columns(weight: Matrix) -> bool:
    """Whether the attention beside a square weight of an MLP has its queries, keys and values
    beside each other.
    """
    beside = weight.weights.tensors.get(
        weight.name.replace("mlp.c_fc.weight", "attn.c_attn.weight")
    )
    return beside is not None and beside.shape[-1] == 3 * beside.shape[0]


def _fused(place: str, part: str, weights: list[Matrix], reading: ReadOptions) -> list[Layer]:
    """Queries, keys and values below each other; in GPT-2 beside each other."""
    rows, columns = weights[0].shape
    qkv = _turned(weights[0], columns == 3 * rows)
    if (
        qkv.shape[0] != 3 * qkv.shape[1]
    ):  # fewer keys than queries, or heads of another size: where they are is unknown
        raise Mismatch(
            "itself", qkv.name, qkv.shape, (3 * columns, columns), "no queries, keys and values"
        )
    return _attention(place, part, [qkv.share(0, 3), qkv.share(1, 3)], reading)


def _attention(place: str, part: str, weights: list[Matrix], reading: ReadOptions) -> list[Layer]:
    query, key = weights
    return [query_key(place, part, query, key), *_heads(place, query, key, reading.heads or 0)]


def _heads(place: str, query: Matrix, key: Matrix, heads: int) -> Iterator[Layer]:
    if heads and query.shape[0] % heads:
        raise UsageError(
            f"heads: got {heads}, which doesn't divide the {query.shape[0]} queries of "
            f"{query.name}."
        )
    for i in range(heads):
        yield query_key(place, f"head {i}", query.share(i, heads), key.share(i, heads))


def _square(place: str, part: str, weights: list[Matrix], reading: ReadOptions) -> list[Layer]:
    return [square(place, part, weights[0])]


def _alone(place: str, part: str, weights: list[Matrix], reading: ReadOptions) -> list[Layer]:
    """The reference implementation's SymMixer has the second weight alone, (hidden, visible), and
    uses it both ways.
    """
    first = weights[0].name.replace("fc2", "fc1")
    if first in weights[0].weights.tensors:
        return []
    return [tied(place, part, weights[0])]


def _turned(weight: Matrix, transposed: bool) -> Matrix:
    return Matrix(weight.weights, weight.name, transposed)


LAYOUTS = (
    # timm's Mixer and gMLP; the reference implementation of arXiv 2406.12220
    Layout("tokens", ("mlp_tokens.fc1.weight", "mlp_tokens.fc2.weight"), _mlp),
    Layout("tokens", ("mlp_tokens.fc2.weight",), _alone),
    Layout("channels", ("mlp_channels.fc1.weight", "mlp_channels.fc2.weight"), _mlp),
    Layout("channels", ("mlp_channels.fc2.weight",), _alone),
    Layout("gate", ("mlp_channels.gate.proj.weight",), _square),
    # ResMLP
    Layout("tokens", ("linear_tokens.weight",), _square),
    # ViT and DeiT of timm
    Layout("qk", ("attn.qkv.weight",), _fused),
    Layout("mlp", ("mlp.fc1.weight", "mlp.fc2.weight"), _mlp),
    # BERT and ViT of Hugging Face; with the names of transformers 5 where they differ
    Layout("qk", ("attention.self.query.weight", "attention.self.key.weight"), _attention),
    Layout(
        "qk", ("attention.attention.query.weight", "attention.attention.key.weight"), _attention
    ),
    Layout("qk", ("attention.q_proj.weight", "attention.k_proj.weight"), _attention),
    Layout("qk", ("self_attn.q_proj.weight", "self_attn.k_proj.weight"), _attention),
    Layout("mlp", ("intermediate.dense.weight", "output.dense.weight"), _mlp),
    # GPT-2
    Layout("qk", ("attn.c_attn.weight",), _fused),
    Layout("mlp", ("mlp.c_fc.weight", "mlp.c_proj.weight"), _gpt2_mlp),
    # PyTorch's nn.TransformerEncoderLayer
    Layout("qk", ("self_attn.in_proj_weight",), _fused),
    Layout("qk", ("attn.in_proj_weight",), _fused),
    Layout("mlp", ("linear1.weight", "linear2.weight"), _mlp),
    # Llama and its kin
    Layout("mlp gate", ("mlp.gate_proj.weight", "mlp.down_proj.weight"), _mlp),
    Layout("mlp up", ("mlp.up_proj.weight", "mlp.down_proj.weight"), _mlp),
)
"""All layouts; a name belongs to the layer whose other names stand beside it."""
