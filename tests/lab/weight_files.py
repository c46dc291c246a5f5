"""Weights of known symmetry under the names of known networks, and files of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

VISIBLE = 12
HIDDEN = 20

SYMMETRIES = {"tied": 1.0, "antisymmetric": -1.0, "independent": 0.0}
"""Kinds of weights, with the symmetry score of M = VW: exact for the first two."""


class Weights(NamedTuple):
    """W (hidden x visible) and V (visible x hidden); a square M; queries and keys with M = Q^T
    K.
    """

    up: np.ndarray
    down: np.ndarray
    square: np.ndarray
    query: np.ndarray
    key: np.ndarray


def make_weights(symmetry: str, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    up = rng.normal(size=(HIDDEN, VISIBLE))
    down = rng.normal(size=(VISIBLE, HIDDEN))
    key = rng.normal(size=(VISIBLE, VISIBLE))
    square = rng.normal(size=(VISIBLE, VISIBLE))
    if symmetry == "tied":
        return _float32(up, up.T, square + square.T, key, key)
    if symmetry == "independent":
        return _float32(up, down, square, rng.normal(size=key.shape), key)
    skew = square - square.T
    return _float32(up, skew @ np.linalg.pinv(up), skew, (skew @ np.linalg.inv(key)).T, key)


def _float32(*arrays: np.ndarray) -> Weights:
    return Weights(*(np.ascontiguousarray(a, np.float32) for a in arrays))


def fused(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def named(layout: str, w: Weights, place: str) -> dict[str, np.ndarray]:
    """The weights under the names of a layout, with what else stands beside them there."""
    other = make_weights("independent", 7)
    names = {
        "timm's Mixer": {
            "mlp_tokens.fc1.weight": w.up,
            "mlp_tokens.fc2.weight": w.down,
            "norm1.weight": w.up[0],
        },
        "timm's Mixer, channels": {
            "mlp_channels.fc1.weight": w.up,
            "mlp_channels.fc2.weight": w.down,
        },
        "gMLP": {
            "mlp_channels.fc1.weight": fused(w.up, other.up),
            "mlp_channels.fc2.weight": w.down,
        },
        "gMLP's gate": {"mlp_channels.gate.proj.weight": w.square},
        "ResMLP": {"linear_tokens.weight": w.square, "linear_tokens.bias": w.square[0]},
        "timm's ViT": {"mlp.fc1.weight": w.up, "mlp.fc2.weight": w.down},
        "timm's attention": {
            "attn.qkv.weight": fused(w.query, w.key, other.key),
            "attn.proj.weight": other.key,
        },
        "BERT": {"attention.self.query.weight": w.query, "attention.self.key.weight": w.key},
        "BERT's MLP": {
            "intermediate.dense.weight": w.up,
            "output.dense.weight": w.down,
            "attention.output.dense.weight": other.key,
        },
        "ViT of Hugging Face": {
            "attention.attention.query.weight": w.query,
            "attention.attention.key.weight": w.key,
        },
        "ViT of transformers 5": {
            "attention.q_proj.weight": w.query,
            "attention.k_proj.weight": w.key,
        },
        "GPT-2": {
            "attn.c_attn.weight": fused(w.query, w.key, other.key).T,
            "attn.c_proj.weight": other.key,
        },
        "GPT-2's MLP": {"mlp.c_fc.weight": w.up.T, "mlp.c_proj.weight": w.down.T},
        "nanoGPT": {"attn.c_attn.weight": fused(w.query, w.key, other.key)},
        "nanoGPT's MLP": {"mlp.c_fc.weight": w.up, "mlp.c_proj.weight": w.down},
        "nn.TransformerEncoderLayer": {
            "self_attn.in_proj_weight": fused(w.query, w.key, other.key)
        },
        "nn.TransformerEncoderLayer's MLP": {"linear1.weight": w.up, "linear2.weight": w.down},
        "open_clip": {"attn.in_proj_weight": fused(w.query, w.key, other.key)},
        "Llama": {"self_attn.q_proj.weight": w.query, "self_attn.k_proj.weight": w.key},
        "Llama's MLP": {
            "mlp.gate_proj.weight": w.up,
            "mlp.up_proj.weight": other.up,
            "mlp.down_proj.weight": w.down,
        },
    }
    return {f"{place}{name}": np.ascontiguousarray(array) for name, array in names[layout].items()}


PARTS = {
    "timm's Mixer": ["tokens"],
    "timm's Mixer, channels": ["channels"],
    "gMLP": ["channels u", "channels v"],
    "gMLP's gate": ["gate"],
    "ResMLP": ["tokens"],
    "timm's ViT": ["mlp"],
    "timm's attention": ["qk"],
    "BERT": ["qk"],
    "BERT's MLP": ["mlp"],
    "ViT of Hugging Face": ["qk"],
    "ViT of transformers 5": ["qk"],
    "GPT-2": ["qk"],
    "GPT-2's MLP": ["mlp"],
    "nanoGPT": ["qk"],
    "nanoGPT's MLP": ["mlp"],
    "nn.TransformerEncoderLayer": ["qk"],
    "nn.TransformerEncoderLayer's MLP": ["mlp"],
    "open_clip": ["qk"],
    "Llama": ["qk"],
    "Llama's MLP": ["mlp gate", "mlp up"],
}
"""What is found in each layout; the first has the known symmetry."""


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A safetensors file, whose arrays must be contiguous: it holds the memory as it lies."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def bert(layers: int = 3, visible: int = VISIBLE, hidden: int = HIDDEN) -> dict[str, np.ndarray]:
    """An encoder whose first layer is tied and whose others are independent."""
    rng = np.random.default_rng(1)
    arrays = {}
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    for i in range(layers):
        up = draw(hidden, visible)
        query = draw(visible, visible)
        arrays |= {
            f"bert.encoder.layer.{i}.attention.self.query.weight": query,
            f"bert.encoder.layer.{i}.attention.self.key.weight": query
            if i == 0
            else draw(visible, visible),
            f"bert.encoder.layer.{i}.intermediate.dense.weight": up,
            f"bert.encoder.layer.{i}.output.dense.weight": up.T
            if i == 0
            else draw(visible, hidden),
        }
    return arrays
