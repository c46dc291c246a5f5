"""timm's MLP-Mixer as a `Mixer` and back, against the published equations written in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import perturb
from safetensors.numpy import load_file, save_file
from scipy.special import erf

from hopmix import Mixer, MixerConfig, couplings
from hopmix.models.timm import from_timm, to_timm

DIM = 12
DEPTH = 3
CLASSES = 5
COLOURS = 3
PATCH = (4, 4)
SIDE = 4


def draw(
    rng: np.random.Generator,
    side: tuple[int, int] = (SIDE, SIDE),
    token: int = 6,
    channel: int = 48,
) -> dict:
    """A state dict with timm's names and shapes, as `MlpMixer` of timm 1.0 has them."""
    tokens = side[0] * side[1]
    shapes = {}
    shapes["stem.proj"] = (DIM, COLOURS, *PATCH)
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.norm1": (DIM,),
            f"blocks.{i}.mlp_tokens.fc1": (token, tokens),
            f"blocks.{i}.mlp_tokens.fc2": (tokens, token),
            f"blocks.{i}.norm2": (DIM,),
            f"blocks.{i}.mlp_channels.fc1": (channel, DIM),
            f"blocks.{i}.mlp_channels.fc2": (DIM, channel),
        }
    shapes |= {"norm": (DIM,), "head": (CLASSES, DIM)}
    weights = {}
    for name, shape in shapes.items():
        is_norm = len(shape) == 1
        scale = 0.3 if is_norm else 1 / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}.weight"] = (is_norm + scale * rng.normal(size=shape)).astype(np.float32)
        weights[f"{name}.bias"] = (0.2 * rng.normal(size=shape[0])).astype(np.float32)
    return weights


def published(weights: dict, images: np.ndarray) -> np.ndarray:
    """Tolstikhin et al. 2021, equation 1, in float64: images (batch, colours, height, width) to
    logits.
    """
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    batch, colours, height, width = images.shape
    down, across = w["stem.proj.weight"].shape[2:]
    # A convolution whose stride is its size: one scalar product for each patch.
    grid = images.reshape(batch, colours, height // down, down, width // across, across)
    x = (
        np.einsum("bcidjw,ocdw->bijo", grid, w["stem.proj.weight"]).reshape(batch, -1, DIM)
        + w["stem.proj.bias"]
    )

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    def mlp(x, name):
        hidden = x @ w[f"{name}.fc1.weight"].T + w[f"{name}.fc1.bias"]
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        return hidden @ w[f"{name}.fc2.weight"].T + w[f"{name}.fc2.bias"]

    for i in range(DEPTH):
        x = x + mlp(norm(x, f"blocks.{i}.norm1").swapaxes(1, 2), f"blocks.{i}.mlp_tokens").swapaxes(
            1, 2
        )
        x = x + mlp(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp_channels")
    return norm(x, "norm").mean(1) @ w["head.weight"].T + w["head.bias"]


def logits(model: Mixer, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vmap(model)(jnp.asarray(images.transpose(0, 2, 3, 1))))


@pytest.mark.parametrize(
    "side, token, channel", [((4, 4), 6, 48), ((4, 4), 9, 20), ((2, 5), 6, 48)]
)
@pytest.mark.quick
def test_logits_are_those_of_the_published_equations(side, token, channel):
    rng = np.random.default_rng(0)
    weights = draw(rng, side, token, channel)
    height = side[0] * PATCH[0]
    width = side[1] * PATCH[1]
    images = rng.normal(size=(4, COLOURS, height, width)).astype(np.float32)
    model = from_timm(weights, image=(height, width))
    assert model.config.hidden == (token, channel)
    expected = published(weights, images.astype(np.float64))
    np.testing.assert_allclose(
        logits(model, images), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )
    turned = images.transpose(0, 1, 3, 2) if height == width else images[..., ::-1]
    assert np.abs(logits(model, turned) - expected).max() > 0.01  # another image has other logits


@pytest.mark.quick
def test_there_and_back_is_exact(tmp_path):
    weights = draw(np.random.default_rng(1))
    back = to_timm(from_timm(weights))
    assert list(back) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    save_file(back, tmp_path / "mixer.safetensors")
    for name, array in load_file(tmp_path / "mixer.safetensors").items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


@pytest.mark.parametrize("coupling", ["free", "broken", "symmetric"])
def test_back_and_there_keeps_the_function_whatever_the_coupling(coupling):
    config = MixerConfig.vanilla(
        "S/32", image=(8, 8, 3), patch=4, dim=DIM, depth=2, classes=CLASSES
    )
    model = Mixer(dataclasses.replace(config, coupling=coupling), key=jr.key(0))
    model = perturb(model, jr.key(1))
    images = np.random.default_rng(2).normal(size=(2, 3, 8, 8))
    again = from_timm(to_timm(model))
    np.testing.assert_allclose(logits(again, images), logits(model, images), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(couplings(model), couplings(again)):
        np.testing.assert_array_equal(theirs.down, ours.down)
        assert float(theirs.tie) == 0


def test_a_published_size_has_its_configuration():
    def zeros(*shape):
        return np.broadcast_to(np.float32(0), shape)  # the shapes are all that matters

    weights = {"stem.proj.weight": zeros(768, 3, 16, 16), "stem.proj.bias": zeros(768)}
    for i in range(12):
        for name, (out, into) in {
            "mlp_tokens.fc1": (384, 196),
            "mlp_tokens.fc2": (196, 384),
            "mlp_channels.fc1": (3072, 768),
            "mlp_channels.fc2": (768, 3072),
        }.items():
            weights |= {
                f"blocks.{i}.{name}.weight": zeros(out, into),
                f"blocks.{i}.{name}.bias": zeros(out),
            }
        for norm in ("norm1", "norm2"):
            weights |= {
                f"blocks.{i}.{norm}.weight": zeros(768),
                f"blocks.{i}.{norm}.bias": zeros(768),
            }
    weights |= {"norm.weight": zeros(768), "norm.bias": zeros(768)}
    weights |= {"head.weight": zeros(1000, 768), "head.bias": zeros(1000)}
    assert from_timm(weights).config == MixerConfig.vanilla("B/16", classes=1000)


def without(weights: dict, name: str) -> dict:
    return {other: array for other, array in weights.items() if other != name}


REFUSED = {
    "no Mixer": (lambda w: {"mlp.fc1.weight": w["head.weight"]}, "stem.proj.weight is missing"),
    "no head": (
        lambda w: without(without(w, "head.weight"), "head.bias"),
        "with a head: head.weight is missing",
    ),
    "one lost": (lambda w: without(w, "blocks.1.norm2.bias"), "missing: blocks.1.norm2.bias"),
    "one too many": (lambda w: w | {"blocks.0.gate": w["norm.bias"]}, "unknown: blocks.0.gate"),
    "another shape": (
        lambda w: w | {"blocks.2.mlp_tokens.fc2.weight": w["blocks.2.mlp_tokens.fc1.weight"]},
        r"of a wrong shape: blocks.2.mlp_tokens.fc2.weight \(6, 16\) instead of \(16, 6\)",
    ),
    "another rank": (lambda w: w | {"head.weight": w["head.bias"]}, "head.weight must have 2 axes"),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.quick
def test_other_weights_are_refused_by_name(why):
    change, message = REFUSED[why]
    with pytest.raises(ValueError, match=message):
        from_timm(change(draw(np.random.default_rng(3))))


def test_the_size_of_images_that_are_no_square():
    weights = draw(np.random.default_rng(4), side=(2, 5))
    with pytest.raises(
        ValueError, match=r"10 tokens are no square grid .* give image=\(height, width\)"
    ):
        from_timm(weights)
    with pytest.raises(ValueError, match=r"has 16 patches .* the weights 10"):
        from_timm(weights, image=(16, 16))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"block": "parallel"}, "block = 'parallel'"),
        ({"norm_scale": "conservative"}, "norm_scale"),
        ({"bias": False}, "bias = False"),
        ({"n_iter": 2}, "n_iter = 2"),
    ],
)
def test_a_model_that_timm_cannot_compute_is_refused(changes, told):
    config = MixerConfig.vanilla(
        "S/32", **{"image": (8, 8, 3), "patch": 4, "dim": 8, "depth": 1, "classes": 2} | changes
    )
    with pytest.raises(ValueError, match=told):
        to_timm(Mixer(config, key=jr.key(0)))
