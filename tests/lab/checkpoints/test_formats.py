"""Files of `hopmix measure`: every format, and files that lie, are damaged, or would do harm."""

import importlib
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import equinox as eqx
import huggingface_hub
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from lab.probing import branch_coupling
from lab.weight_files import bert, make_weights, named, save

from hopmix import Mixer, MixerConfig
from hopmix.lab.checkpoints.formats.equinox import EquinoxArrays
from hopmix.lab.checkpoints.layers import LayerSet
from hopmix.lab.checkpoints.open import open_layers
from hopmix.lab.config import Measure
from hopmix.lab.errors import UsageError
from hopmix.models.files import load_mixer, save_mixer


def opened(path: object, **options) -> LayerSet:
    return open_layers(Measure(str(path), **options))


def refusal(path: object, **options) -> str:
    with pytest.raises(UsageError) as refused:
        opened(path, **options)
    return str(refused.value)


class Bomb:
    """An object whose pickle makes a file as soon as anything unpickles it."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# ---- Safetensors ---------------------------------------------------------------------------------


def test_a_file_and_a_folder_with_one(tmp_path):
    path = save(tmp_path / "model.safetensors", bert())
    for name in (path, tmp_path):
        found = opened(name)
        assert found.source == "a safetensors file"
        assert len(found.layers) == 6


def shards(folder: Path, names: dict[str, str] | None = None) -> Path:
    """Three layers in two files with an index."""
    arrays = bert()
    parts = {"model-1.safetensors": list(arrays)[:5], "model-2.safetensors": list(arrays)[5:]}
    for file, own in parts.items():
        save(folder / file, {name: arrays[name] for name in own})
    known = {name: file for file, own in parts.items() for name in own}
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": known if names is None else known | names})
    )
    return index


def test_several_files_with_an_index(tmp_path):
    """A layer may be spread over two files."""
    shards(tmp_path)
    found = opened(tmp_path)
    assert found.source == "2 safetensors files"
    assert [layer.place[-1] for layer in found.layers if layer.part == "mlp"] == ["0", "1", "2"]
    for layer in found.layers:
        assert layer.load().up.shape == (layer.hidden, layer.visible)


@pytest.mark.parametrize(
    "names, message",
    [
        ({"x": "../../etc/secret.safetensors"}, "it may only name files in its own folder"),
        (
            {"x": "model-3.safetensors"},
            "names model-3.safetensors, which is not in its folder; fetch the whole model",
        ),
        ({"x": "model-2.safetensors"}, "model-2.safetensors has no x, where the index says so"),
    ],
)
def test_an_index_that_lies(tmp_path, names, message):
    shards(tmp_path, names)
    assert message in refusal(tmp_path)


def test_an_index_without_a_map(tmp_path):
    shards(tmp_path).write_text("[]")
    assert "has no weight_map from names to files" in refusal(tmp_path)


@pytest.mark.parametrize("keep", [-5, 60, 4, 0])
def test_a_truncated_file(tmp_path, keep):
    path = save(tmp_path / "model.safetensors", bert())
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors is no whole safetensors file (" in refusal(path)
    assert refusal(path).endswith("; fetch it anew.")


def test_a_file_that_is_damaged_after_it_was_opened(tmp_path):
    path = save(tmp_path / "model.safetensors", bert())
    found = opened(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(
        UsageError, match=r"path: bert\.encoder\.layer\.0.* can't be read from a safetensors file"
    ):
        found.layers[0].load()


def test_a_folder_without_weights(tmp_path):
    assert "has neither a study of hopmix nor safetensors." in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert f"name its file {tmp_path / 'pytorch_model.bin'}." in refusal(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save(tmp_path / name, bert())
    assert refusal(tmp_path).endswith("has a.safetensors, b.safetensors; name one of them.")


def test_a_path_that_there_is_not(tmp_path, monkeypatch):
    save(tmp_path / "model.safetensors", bert())
    assert "model.safetensors?" in refusal(tmp_path / "model.safetensor")
    monkeypatch.chdir(tmp_path)
    assert refusal("google/bert").endswith(
        "there is no google/bert; a model of the Hugging Face Hub is hub:google/bert."
    )


# ---- The Hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the Hub: a folder, of which each download is noted."""
    folder = tmp_path / "0123abc"
    asked = []
    folder.mkdir()

    def download(name: str, file: str, revision: str | None = None) -> str:
        asked.append((name, file, revision))
        if not (folder / file).exists():
            raise EntryNotFoundError(f"no {file}")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return folder, asked


def test_a_model_of_the_hub_in_one_file(hub):
    folder, asked = hub
    save(folder / "model.safetensors", bert())
    found = opened("hub:google/bert")
    assert (found.source, len(found.layers)) == ("hub:google/bert", 6)
    assert {name for name, *_ in asked} == {"google/bert"}


def test_a_model_of_the_hub_in_several_files(hub):
    folder, asked = hub
    shards(folder)
    assert len(opened("hub:google/bert").layers) == 6
    # All of one commit, which is what the Hub's cache names its folders after.
    assert asked[1:] == [("google/bert", f"model-{i}.safetensors", "0123abc") for i in (1, 2)]


def test_a_model_of_the_hub_without_safetensors(hub):
    (hub[0] / "pytorch_model.bin").touch()
    assert "has neither model.safetensors nor model.safetensors.index.json" in refusal(
        "hub:google/bert"
    )


@pytest.mark.parametrize(
    "error, message",
    [
        (
            LocalEntryNotFoundError("offline"),
            "isn't in the local cache and the Hub can't be reached; go online.",
        ),
        (ConnectionError("no route"), "can't be fetched (no route); check name and network."),
    ],
)
def test_without_a_network(monkeypatch, error, message):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert message in refusal("hub:google/bert")


@pytest.mark.parametrize("name", ["bert", "a/b/c", "/b", "a/"])
def test_a_name_that_is_none_of_the_hub(name):
    assert f"got hub:{name}, but a model of the Hub is hub:OWNER/NAME" in refusal(f"hub:{name}")


# ---- Equinox -------------------------------------------------------------------------------------


def test_a_mixer_in_a_file(tmp_path):
    """Of hopmix's own file everything is known: the layers have names, and tied weights are
    tied.
    """
    config = MixerConfig(image=(8, 8, 1), patch=4, dim=6, depth=2, classes=3, coupling="symmetric")
    model = Mixer(config, key=jr.key(0))
    save_mixer(tmp_path / "mixer.eqx", model)
    found = opened(tmp_path / "mixer.eqx")
    assert found.source == "a mixer of hopmix"
    assert [(layer.place, layer.part) for layer in found.layers] == [
        (f"block {i}", branch) for i in range(2) for branch in ("token", "channel")
    ]
    own = [
        branch_coupling(block, branch) for block in model.blocks for branch in ("token", "channel")
    ]
    for layer, coupling in zip(found.layers, own):
        np.testing.assert_allclose(layer.load().up, coupling.up, rtol=1e-6)
        np.testing.assert_allclose(layer.load().down, coupling.up.T, rtol=1e-6)
    assert "is hopmix's own and needs none of them" in refusal(
        tmp_path / "mixer.eqx", pairs=("0:1",)
    )


@pytest.mark.parametrize("line", ["", '{"width": 20, "depth": 1}\n'])
def test_arrays_without_names(tmp_path, line):
    """Without the skeleton only arrays are known; they are named by their place, and can be paired
    by it.
    """
    w = make_weights("tied")
    tree = {
        "a": jnp.asarray(w.up),
        "b": jnp.zeros(3),
        "c": jnp.asarray(w.down, jnp.bfloat16),
        "d": 0.5,
    }
    path = tmp_path / "model.eqx"
    with path.open("wb") as file:
        file.write(line.encode())
        eqx.tree_serialise_leaves(file, tree)
    assert "It has 2 matrices: 0 (20 x 12), 2 (12 x 20)." in refusal(path)
    assert EquinoxArrays(path).tensors["2"].dtype == "bfloat16"
    (layer,) = opened(path, pairs=("0:2",)).layers
    np.testing.assert_array_equal(layer.load().up, w.up)
    np.testing.assert_array_equal(
        layer.load().down, np.asarray(jnp.asarray(w.down, jnp.bfloat16), np.float32)
    )


def test_an_array_stored_column_by_column(tmp_path):
    w = make_weights("independent")
    with (tmp_path / "model.eqx").open("wb") as file:
        np.save(file, np.asfortranarray(w.up))
        np.save(file, w.down)
    (layer,) = opened(tmp_path / "model.eqx", pairs=("0:1",)).layers
    np.testing.assert_array_equal(layer.load().up, w.up)


def test_a_damaged_file_of_equinox(tmp_path):
    path = tmp_path / "model.eqx"
    eqx.tree_serialise_leaves(path, [jnp.ones((3, 4)), jnp.ones((4, 3))])
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    assert "truncated: an array of shape (4, 3) should end at byte" in refusal(path)
    path.write_bytes(whole + b"rest")
    assert "is no series of arrays as equinox.tree_serialise_leaves writes it" in refusal(path)
    config = MixerConfig(image=(8, 8, 1), patch=4, dim=6, depth=1, classes=3)
    save_mixer(path, Mixer(config, key=jr.key(0)))
    path.write_bytes(path.read_bytes().replace(b'"depth": 1', b'"depth": 2'))
    assert "is no whole mixer of hopmix" in refusal(path)


def test_mixers_of_the_first_format_are_read_and_later_ones_refused(tmp_path):
    path = tmp_path / "model.eqx"
    model = Mixer(MixerConfig(image=(8, 8, 1), patch=4, dim=6, depth=1, classes=3), key=jr.key(0))
    save_mixer(path, model)
    written = path.read_bytes()
    assert eqx.tree_equal(load_mixer(path), model)
    path.write_bytes(written.replace(b'"format": 2, ', b""))
    assert eqx.tree_equal(load_mixer(path), model)
    path.write_bytes(written.replace(b'"format": 2', b'"format": 3'))
    with pytest.raises(ValueError, match="format 3 is not known, only 1 to 2"):
        load_mixer(path)
    assert "format 3 is not known" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (-32,)}".ljust(117)
        + b"\n",
        b"\x93NUMPY\x01\x00\x36\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (".ljust(53)
        + b"\n",
        b'{"image": [8, 8, 1], "patch": 4, "dim": 6, "depth": 300000000, "classes": 3}\n',
        b'{"a": ' + b"[" * 100_000 + b"\n",
    ],
)
def test_a_file_of_equinox_that_never_ends(tmp_path, content):
    (tmp_path / "a.eqx").write_bytes(content)
    assert refusal(tmp_path / "a.eqx").startswith("path: ")


# ---- Files that would do harm, and files that lie ------------------------------------------------


def pickled(marker: Path) -> bytes:
    return pickle.dumps({"mlp.fc1.weight": Bomb(marker)})


def archived(marker: Path) -> bytes:
    """As torch writes it: an archive with a pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", pickled(marker))
    return buffer.getvalue()


def in_numpy(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("hostile", [pickled, archived, in_numpy])
@pytest.mark.parametrize(
    "suffix", [".pt", ".pth", ".bin", ".ckpt", ".eqx", ".safetensors", ".pkl", ""]
)
def test_no_code_in_a_file_is_ever_executed(tmp_path, hostile, suffix):
    """With torch installed too: then it is torch that refuses."""
    marker = tmp_path / "executed"
    path = tmp_path / f"model{suffix}"
    path.write_bytes(hostile(marker))
    refusal(path)
    assert not marker.exists()


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickled(tmp_path / "executed"))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.safetensors",
            pickled,
            "is named as a file of safetensors but is one of PyTorch; rename it if you trust it",
        ),
        ("a.eqx", archived, "is named as a file of Equinox but is one of PyTorch"),
        ("a.pt", in_numpy, "is named as a file of PyTorch but is one of Equinox"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content(tmp_path / "executed"))
    assert message in refusal(tmp_path / name)


def test_formats_are_told_from_the_content_where_the_name_says_nothing(tmp_path):
    assert len(opened(save(tmp_path / "weights", bert())).layers) == 6
    (tmp_path / "notes.txt").write_text("weights")
    assert (
        "notes.txt is neither safetensors nor a PyTorch state dict nor a file of Equinox"
        in refusal(tmp_path / "notes.txt")
    )
    np.savez(tmp_path / "weights.npz", a=np.ones(3))
    assert "is neither safetensors nor" in refusal(tmp_path / "weights.npz")


# ---- PyTorch -------------------------------------------------------------------------------------


def test_without_torch_the_cure_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.pt").write_bytes(archived(tmp_path / "executed"))
    assert (
        "which only torch reads safely: pip install torch, or convert it to safetensors"
        in refusal(tmp_path / "model.pt")
    )


def test_a_torch_that_can_be_fooled_is_not_used(tmp_path, monkeypatch):
    def load(*_, **__):
        pytest.fail("it was loaded")

    monkeypatch.setitem(
        sys.modules, "torch", types.SimpleNamespace(__version__="2.5.1+cpu", load=load)
    )
    (tmp_path / "model.pt").write_bytes(archived(tmp_path / "executed"))
    assert "torch 2.5.1+cpu can be made to execute code" in refusal(tmp_path / "model.pt")


@pytest.fixture
def torch():
    # By name: the type checker and the rule of imports know no torch.
    pytest.importorskip("torch", reason="needs PyTorch, which is no dependency: pip install torch")
    return importlib.import_module("torch")


def tensors(torch, arrays: dict[str, np.ndarray]) -> dict:
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}


def test_a_state_dict(torch, tmp_path):
    torch.save(tensors(torch, bert()), tmp_path / "model.pt")
    found = opened(tmp_path / "model.pt")
    assert (found.source, len(found.layers)) == ("a PyTorch state dict", 6)
    w = bert()["bert.encoder.layer.2.intermediate.dense.weight"]
    np.testing.assert_array_equal(found.layers[-1].load().up, w)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module"])
def test_a_state_dict_within_a_checkpoint(torch, tmp_path, wrap):
    content = {
        wrap: tensors(torch, bert()),
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save({"model": content} if wrap == "state_dict" else content, tmp_path / "model.pth")
    assert len(opened(tmp_path / "model.pth").layers) == 6


def test_precisions_of_torch(torch, tmp_path):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        state = {name: t.to(dtype) for name, t in tensors(torch, bert()).items()}
        torch.save(state, tmp_path / "model.bin")
        found = opened(tmp_path / "model.bin")
        expected = state["bert.encoder.layer.0.attention.self.key.weight"].float().numpy()
        np.testing.assert_array_equal(found.layers[0].load().up, expected)


def test_a_file_of_an_old_torch(torch, tmp_path):
    torch.save(tensors(torch, bert()), tmp_path / "model.bin", _use_new_zipfile_serialization=False)
    assert len(opened(tmp_path / "model.bin").layers) == 6


def test_a_module_instead_of_a_state_dict(torch, tmp_path):
    torch.save({"net": torch.nn.Linear(2, 3)}, tmp_path / "model.pt")
    assert (
        "is no state dict of tensors alone (it asks for torch.nn.modules.linear.Linear)"
        in refusal(tmp_path / "model.pt")
    )
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    assert "holds no tensors by name" in refusal(tmp_path / "model.pt")


def test_a_truncated_state_dict(torch, tmp_path):
    torch.save(tensors(torch, bert()), tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-100])
    assert "is no state dict of tensors alone" in refusal(tmp_path / "model.pt")


def test_layers_of_torch(torch, tmp_path):
    """The names of PyTorch's own encoder, and what is read is what it computes with."""
    module = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(12, 3, 20), 2, enable_nested_tensor=False
    )
    torch.save({"state_dict": module.state_dict()}, tmp_path / "model.pt")
    found = opened(tmp_path / "model.pt", heads=3)
    assert [layer.part for layer in found.layers[:5]] == ["qk", "head 0", "head 1", "head 2", "mlp"]
    first = module.layers[0]
    query, key, _ = first.self_attn.in_proj_weight.detach().chunk(3)
    np.testing.assert_array_equal(found.layers[2].load().up, key[4:8].numpy())
    np.testing.assert_array_equal(found.layers[2].load().down, query[4:8].numpy().T)
    np.testing.assert_array_equal(
        found.layers[4].load().down, first.linear2.weight.detach().numpy()
    )


def test_names_of_a_state_dict_stay_as_they_are(torch, tmp_path):
    w = make_weights("tied")
    torch.save(tensors(torch, named("timm's ViT", w, "module.blocks.0.")), tmp_path / "model.pt")
    assert opened(tmp_path / "model.pt").layers[0].names == (
        "module.blocks.0.mlp.fc1.weight",
        "module.blocks.0.mlp.fc2.weight",
    )


def test_the_danger_in_a_file_of_torch_is_named(torch, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": Bomb(tmp_path / "executed")}, path)
    assert "it asks for posix.mkdir" in refusal(path)
