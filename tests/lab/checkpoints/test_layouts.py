"""Layouts: which weights of known networks belong together, and that they are read the right way
round.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from golden import KINDS
from lab.weight_files import HIDDEN, PARTS, SYMMETRIES, VISIBLE, bert, make_weights, named, save

from hopmix.lab.checkpoints import measure
from hopmix.lab.checkpoints.formats.safetensors import open_file
from hopmix.lab.checkpoints.formats.weights import AbstractWeights, Tensor
from hopmix.lab.checkpoints.layers import LayerSet
from hopmix.lab.checkpoints.layouts import LAYOUTS, ReadOptions, find_layers
from hopmix.lab.checkpoints.pairs import check_patterns, named_layers
from hopmix.lab.errors import UsageError


class InMemory(AbstractWeights):
    """Weights that are no file."""

    source = "the memory"

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.tensors = {name: Tensor(a.shape, a.dtype.name) for name, a in arrays.items()}

    def cut(self, name, part):
        return self.arrays[name][part]


def find(arrays: dict[str, np.ndarray], **reading) -> LayerSet:
    return find_layers(InMemory(arrays), ReadOptions(**reading))


@pytest.fixture(scope="module", autouse=True)
def without_spectra():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "LARGEST_SPECTRUM", 0)
        yield


def values(found: LayerSet) -> list[dict[str, float]]:
    measured = measure.measure_found(found, pairings=0).measured
    return [{name: index.value for name, index in one.indices.items()} for one in measured]


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("layout", PARTS)
def test_a_layout_is_found_and_its_symmetry_is_measured(layout, symmetry):
    found = find(named(layout, make_weights(symmetry), "module.encoder.layer.3."))
    assert [(layer.place, layer.part) for layer in found.layers] == [
        ("module.encoder.layer.3", part) for part in PARTS[layout]
    ]
    assert found.left_out == []
    first = values(found)[0]
    # The null of the score is 1/n with the standard deviation sqrt(2)/n, that of cosines 0 with
    # 1/sqrt(nh).
    exact = symmetry != "independent"
    slack = 1e-5 if exact else (1 + 4 * math.sqrt(2)) / VISIBLE
    assert first["symmetry_score"] == pytest.approx(SYMMETRIES[symmetry], abs=slack)
    if found.layers[0].kind == "pair":
        # Of an antisymmetric M = VW the trace is zero, and with it <V, W^T>.
        expected = 1.0 if symmetry == "tied" else 0.0
        assert first["cosine"] == pytest.approx(
            expected, abs=1e-5 if exact else 4 / math.sqrt(VISIBLE * HIDDEN)
        )
        assert (found.layers[0].visible, found.layers[0].hidden) == (VISIBLE, HIDDEN)
    else:
        assert set(first) == {"symmetry_score", "directionality"}


def test_every_layout_is_tested():
    names = {name for layout in PARTS for name in named(layout, make_weights("tied"), "")}
    untested = [layout.names for layout in LAYOUTS if not set(layout.names) <= names]
    assert untested == []


def test_prefixes_are_ignored_and_places_are_in_the_order_of_their_numbers():
    arrays = {}
    for i in (10, 2, 0):
        arrays |= named("BERT", make_weights("tied"), f"bert.encoder.layer.{i}.")
    assert [layer.place[-2:] for layer in find(arrays).layers] == [".0", ".2", "10"]
    assert [layer.place for layer in find(named("GPT-2", make_weights("tied"), "")).layers] == [""]
    assert (
        find(named("GPT-2", make_weights("tied"), "transformer.h.0.")).layers[0].place
        == "transformer.h.0"
    )


def test_halves_of_a_gated_layer():
    w = make_weights("tied")
    other = make_weights("independent", 7)
    u, v = find(named("gMLP", w, "blocks.0.")).layers
    for layer, up in ((u, w.up), (v, other.up)):
        np.testing.assert_array_equal(layer.load().up, up)
        np.testing.assert_array_equal(layer.load().down, w.down)


@pytest.mark.parametrize("layout", ["timm's attention", "GPT-2", "BERT"])
def test_the_product_of_queries_and_keys(layout):
    w = make_weights("independent")
    (layer,) = find(named(layout, w, "")).layers
    coupling = layer.load()
    np.testing.assert_allclose(
        np.asarray(coupling.down @ coupling.up), w.query.T @ w.key, rtol=1e-5, atol=1e-5
    )


def test_heads_have_their_own_queries_and_keys():
    w = make_weights("independent")
    whole, *heads = find(named("timm's attention", w, ""), heads=4).layers
    assert [layer.part for layer in heads] == ["head 0", "head 1", "head 2", "head 3"]
    product = lambda layer: np.asarray(layer.load().down @ layer.load().up)
    np.testing.assert_allclose(product(heads[1]), w.query[3:6].T @ w.key[3:6], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sum(map(product, heads)), product(whole), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        UsageError, match=r"heads: got 5, which doesn't divide the 12 queries of attn\.qkv\.weight"
    ):
        find(named("timm's attention", w, ""), heads=5)
    with pytest.raises(
        UsageError, match="heads: got 5, but the memory has no queries and keys; leave it out"
    ):
        find(named("ResMLP", w, ""), heads=5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_implementation(shared, kind):
    """Its AsymMixer has the names of its ParaMixer."""
    with np.load(shared / "golden" / "paramixer_blocks.npz") as file:
        prefix = f"{kind}/n1/param/"
        arrays = {
            f"blocks.0.{n.removeprefix(prefix)}": file[n]
            for n in file.files
            if n.startswith(prefix)
        }
    found = find(arrays, breaking=kind == "asym")
    assert [layer.part for layer in found.layers] == ["tokens", "channels"]
    for layer, own in zip(found.layers, values(found)):
        second = arrays[f"blocks.0.mlp_{layer.part}.fc2.weight"]
        up = arrays.get(f"blocks.0.mlp_{layer.part}.fc1.weight", second)
        down = up.T if kind == "sym" else second + (up.T if kind == "asym" else 0)
        np.testing.assert_allclose(layer.load().down, down, atol=1e-6)
        cosine = np.sum(up.T * down) / np.linalg.norm(up) / np.linalg.norm(down)
        assert own["cosine"] == pytest.approx(cosine, abs=1e-5)
        if kind in ("para", "vanilla"):
            assert abs(cosine) < 4 / math.sqrt(layer.visible * layer.hidden)


def test_shapes_that_do_not_pair_are_named_with_the_nearest_that_would():
    w = make_weights("tied")
    arrays = named("timm's ViT", w, "blocks.0.") | named("timm's ViT", w, "blocks.1.")
    arrays["blocks.0.mlp.fc2.weight"] = np.zeros((5, HIDDEN), np.float32)
    found = find(arrays | {"blocks.0.mlp.fc2_old.weight": w.down, "far.away": w.down})
    assert [layer.place for layer in found.layers] == ["blocks.1"]
    (left_out,) = found.left_out
    assert left_out.name == "blocks.0.mlp.fc1.weight"
    assert left_out.why == (
        "no pair: blocks.0.mlp.fc2.weight is 5 x 20, but beside blocks.0.mlp.fc1.weight it must "
        "be 12 x 20; nearest "
        "that fit: blocks.1.mlp.fc2.weight (12 x 20), blocks.0.mlp.fc2_old.weight (12 x 20), "
        "far.away (12 x 20)"
    )


@pytest.mark.parametrize(
    "change, why",
    [
        ({"mlp.fc2.weight": None}, "there is no mlp.fc2.weight beside it"),
        (
            {"mlp.fc1.weight": np.zeros((HIDDEN, VISIBLE), np.int8)},
            "mlp.fc1.weight is stored as int8",
        ),
        (
            {"mlp.fc1.weight": np.zeros((HIDDEN, VISIBLE, 1, 1), np.float32)},
            "is 20 x 12 x 1 x 1 and no matrix",
        ),
        ({"mlp.fc1.weight": np.zeros((0, VISIBLE), np.float32)}, "is 0 x 12 and no matrix"),
        ({"linear_tokens.weight": np.zeros((4, 5), np.float32)}, "no square matrix"),
        ({"attn.qkv.weight": np.zeros((7, 4), np.float32)}, "no queries, keys and values"),
        (
            {
                "attention.self.query.weight": np.zeros((8, 4)),
                "attention.self.key.weight": np.zeros((4, 4)),
            },
            "no product",
        ),
    ],
)
def test_what_only_looks_like_a_layer_is_told(change, why):
    arrays = named("timm's ViT", make_weights("tied"), "") | change
    arrays = {name: a for name, a in arrays.items() if a is not None}
    found = find(arrays | named("BERT", make_weights("tied"), "layer.1."))
    assert why in "; ".join(one.why for one in found.left_out)
    assert "layer.1" in {layer.place for layer in found.layers}


def test_queries_and_keys_of_another_split_are_not_guessed():
    """Fewer keys than queries: a third of the rows is neither."""
    fused = {"h.0.attn.c_attn.weight": np.ones((48 + 2 * 12, 48), np.float32)}
    found = find(fused | named("GPT-2's MLP", make_weights("tied"), "h.0."))
    assert [layer.part for layer in found.layers] == ["mlp"]
    assert "no queries, keys and values" in found.left_out[0].why


@pytest.mark.parametrize("hidden", [VISIBLE - 4, VISIBLE])
@pytest.mark.parametrize("told_by", ["bias", "attention"])
def test_how_an_mlp_of_gpt2_is_stored_is_told_by_what_stands_beside_it(hidden, told_by):
    """Conservative weights, V = W^T D: the other way round they are not."""
    rng = np.random.default_rng(0)
    up = rng.normal(size=(hidden, VISIBLE))
    gains = rng.uniform(0.2, 2, hidden)
    arrays = {"h.0.mlp.c_fc.weight": up.T, "h.0.mlp.c_proj.weight": (up.T * gains).T}
    if told_by == "bias" and hidden < VISIBLE:
        arrays |= {"h.0.mlp.c_fc.bias": np.zeros(hidden)}
    elif hidden == VISIBLE:
        arrays |= {"h.0.attn.c_attn.weight": np.ones((VISIBLE, 3 * VISIBLE))}
    else:
        pytest.skip("a narrow MLP without its bias: the longer side is taken for the hidden one")
    (layer,) = (
        one
        for one in find({n: a.astype(np.float32) for n, a in arrays.items()}).layers
        if one.part == "mlp"
    )
    assert (layer.visible, layer.hidden) == (VISIBLE, hidden)
    np.testing.assert_allclose(layer.load().up, up, rtol=1e-6)


def test_a_key_is_not_offered_as_its_own_query():
    arrays = {
        "q_proj.weight": np.ones((8, 8), np.float32),
        "k_proj.weight": np.ones((4, 8), np.float32),
    }
    arrays = {f"layers.0.self_attn.{name}": array for name, array in arrays.items()}
    found = find(arrays | named("BERT", make_weights("tied"), "layer.1."))
    assert found.left_out[0].why.endswith("no weight is 8 x 8")


def test_matrices_of_no_layer_are_counted():
    arrays = named("Llama", make_weights("tied"), "layers.0.") | {
        "layers.0.fc1.weight": np.ones((3, 4), np.float32)
    }
    assert find(arrays).others == ("layers.0.fc1.weight",)


def test_a_network_of_no_known_layout_is_told_what_it_has():
    arrays = {
        "enc.0.a": np.zeros((4, 3), np.float32),
        "enc.0.b": np.zeros((3, 4), np.float32),
        "scale": np.zeros(3),
    }
    with pytest.raises(
        UsageError, match=r"--pairs 'UP:DOWN'\. It has 2 matrices: enc\.0\.a \(4 x 3\), enc\.0\.b"
    ):
        find(arrays)


# ---- Pairs by name -------------------------------------------------------------------------------


def pairs(arrays: dict[str, np.ndarray], *patterns: str, breaking: bool = False) -> LayerSet:
    check_patterns(patterns)
    return named_layers(InMemory(arrays), patterns, breaking=breaking)


def test_pairs_by_name():
    w = make_weights("tied")
    arrays = {}
    for i in range(2):
        arrays |= {
            f"net.stage.{i}.a.up": w.up,
            f"net.stage.{i}.a.down": w.down,
            f"net.stage.{i}.m": w.square,
        }
    found = pairs(arrays, "stage.*.a.up:stage.*.a.down", "net.*.*.m")
    assert [(layer.place, layer.part) for layer in found.layers] == [
        ("net.stage.0.a", "up"),
        ("net.stage.1.a", "up"),
        ("net.stage.0", "m"),
        ("net.stage.1", "m"),
    ]
    assert [layer.kind for layer in found.layers] == ["pair", "pair", "square", "square"]
    assert [v["symmetry_score"] for v in values(found)] == pytest.approx([1, 1, 1, 1], abs=1e-5)


def test_stored_as_the_transpose():
    w = make_weights("independent")
    (layer,) = pairs(
        {"up.kernel": w.up.T, "down.kernel": w.down.T}, "up.kernel.T:down.kernel.T"
    ).layers
    np.testing.assert_array_equal(layer.load().up, w.up)
    np.testing.assert_array_equal(layer.load().down, w.down)
    (layer,) = pairs({"q": w.query, "k": w.key}, "k:q.T").layers  # queries and keys, M = Q^T K
    np.testing.assert_array_equal(layer.load().down, w.query.T)


def test_a_second_weight_that_is_the_breaking():
    w = make_weights("independent")
    (layer,) = pairs({"up": w.up, "down": w.down}, "up:down", breaking=True).layers
    np.testing.assert_allclose(layer.load().down, w.up.T + w.down, rtol=1e-6)


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("a:b:c", r"pairs: got 'a:b:c', but it must be 'UP:DOWN'"),
        (":b", r"pairs: got ':b', but it must be"),
        ("x.*.up:x.0.down", r"both names must have the same number of stars"),
        ("x.*.top:x.*.down", r"no weight is named 'x\.\*\.top'; nearest: x\.1\.up \(20 x 12\)"),
        ("x.*.up:x.*.gate", r"x\.1\.up has no partner with the same stars; nearest names: "),
        (
            "x.0.up:x.0.short",
            r"no pair: x\.0\.short is 3 x 20, but beside x\.0\.up it must be 12 x 20; nearest "
            r"that fit: x\.0\.gate",
        ),
        (
            "x.0.up",
            "no square matrix: x.0.up is 20 x 12, but beside itself it must be 12 x 12; no "
            "weight is 12 x 12",
        ),
        ("bias", r"pairs: bias is 12 and no matrix"),
    ],
)
def test_pairs_that_are_none(pattern, message):
    w = make_weights("tied")
    arrays = {
        "x.0.up": w.up,
        "x.0.down": w.down,
        "x.1.up": w.up,
        "x.0.short": w.down[:3],
        "x.0.gate": w.down,
        "bias": w.up[0],
    }
    with pytest.raises(UsageError, match=message):
        pairs(arrays, pattern)


# ---- Only a layer at a time ----------------------------------------------------------------------


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch):
    weights = open_file(save(tmp_path / "bert.safetensors", bert()))
    read: list[str] = []
    monkeypatch.setattr(weights, "cut", lambda name, part: read.append(name) or SimpleNamespace())
    found = find_layers(weights, ReadOptions())
    assert len(found.layers) == 6
    assert read == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_precisions(tmp_path: Path, dtype):
    w = make_weights("tied")
    arrays = {n: a.astype(np.dtype(dtype)) for n, a in named("timm's ViT", w, "").items()}
    (own,) = values(find_layers(open_file(save(tmp_path / "a.safetensors", arrays)), ReadOptions()))
    assert own["cosine"] == pytest.approx(1, abs=1e-5)
