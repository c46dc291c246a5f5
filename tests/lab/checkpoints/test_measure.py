"""`hopmix measure`: the numbers of each layer, what is left out of large ones, the command, its
JSON and its page.
"""

import json
import math
import re
import shutil
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from lab.command import flat, give
from lab.tiny import make_run, tiny_data
from lab.weight_files import HIDDEN, VISIBLE, bert, make_weights, save

import hopmix as hm
from hopmix.lab import store
from hopmix.lab.checkpoints import measure, picture, tables
from hopmix.lab.checkpoints.layers import Kind, Layer, LayerSet
from hopmix.lab.checkpoints.open import open_layers
from hopmix.lab.config import Measure
from hopmix.lab.data import study_data
from hopmix.lab.errors import UsageError

pytestmark = pytest.mark.usefixtures("as_in_a_study")


def hopmix(capsys, *arguments: object) -> tuple[int, str, str]:
    code, out, err = give(capsys, *arguments)
    return code, out, flat(err)


def found(*couplings: hm.Coupling, kind: Kind = "pair") -> LayerSet:
    layers = []
    for i, own in enumerate(couplings):
        hidden, visible = own.up.shape
        names = (f"up.{i}", f"down.{i}")
        layers.append(Layer(f"layer.{i}", "mlp", kind, visible, hidden, names, lambda own=own: own))
    return LayerSet("the memory", layers, [])


def coupling(symmetry: str, seed: int = 0) -> hm.Coupling:
    w = make_weights(symmetry, seed)
    return hm.Coupling.from_weights(jnp.asarray(w.up), jnp.asarray(w.down))


def measured(*couplings: hm.Coupling, pairings: int = 99, **options) -> list[measure.Measured]:
    return measure.measure_found(found(*couplings), pairings=pairings, **options).measured


# ---- Numbers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> list[measure.Measured]:
    return measured(*map(coupling, ("tied", "antisymmetric", "independent")))


def test_values_are_those_of_the_public_functions(three):
    own = coupling("independent")
    expected = hm.measure_asymmetry(own)._asdict()
    assert {name: index.value for name, index in three[2].indices.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()},
        rel=1e-5,
        abs=1e-6,  # float32, compiled apart
    )
    spectrum = hm.symmetry.measure_spectrum(own)._asdict()
    assert three[2].spectrum == pytest.approx(
        {name: float(value) for name, value in spectrum.items()}, abs=2e-3
    )


def test_known_symmetries(three):
    tied, antisymmetric, independent = (one.indices for one in three)
    assert tied["cosine"].value == pytest.approx(1, abs=1e-6)
    assert tied["symmetry_score"].value == pytest.approx(1, abs=1e-6)
    assert antisymmetric["symmetry_score"].value == pytest.approx(-1, abs=1e-5)
    for name in (*measure.UNITS, "symmetry_score"):
        assert tied[name].p == pytest.approx(1 / 100)
        assert abs(tied[name].z) > 4
        assert abs(independent[name].z) < 3.5
    assert antisymmetric["symmetry_score"].z < -3
    assert antisymmetric["symmetry_score"].p == pytest.approx(1 / 100)


def test_the_null_is_that_of_the_theory():
    """Of independent weights the cosine has mean 0 and standard deviation 1/sqrt(nh), the score
    mean 1/n.
    """
    rng = np.random.default_rng(3)
    up = jnp.asarray(rng.normal(size=((300, 40))), jnp.float32)
    down = jnp.asarray(rng.normal(size=((40, 300))), jnp.float32)
    wide = hm.Coupling.from_weights(up, down)
    (one,) = measured(wide, pairings=199)
    assert one.indices["cosine"].std == pytest.approx(1 / math.sqrt(300 * 40), rel=0.3)
    assert abs(one.indices["cosine"].mean) < 4 / math.sqrt(300 * 40 * 199)
    assert one.indices["symmetry_score"].mean == pytest.approx(1 / 40, abs=0.01)


def test_indices_of_units_are_those_of_any_coupling():
    rng = np.random.default_rng(4)
    w = rng.normal(size=(9, 5))
    v = rng.normal(size=(9, 5))
    w[2], v[4] = 0, 0  # units that do nothing
    overlaps = jnp.asarray(np.sum(w * v, 1))
    sizes = [jnp.asarray(np.linalg.norm(a, axis=1)) for a in (w, v)]
    expected = hm.measure_asymmetry(
        hm.Coupling.from_weights(jnp.asarray(w), jnp.asarray(v.T))
    )._asdict()
    for name, value in measure.of_units(overlaps, *sizes).items():
        assert float(value) == pytest.approx(float(expected[name]), abs=1e-6), name


def test_significance_is_that_of_the_public_function():
    """Up to chance: the same null from other pairings."""
    own = coupling("independent")
    (one,) = measured(own, pairings=999)
    public = hm.symmetry.measure_significance(own, key=jr.key(5), pairings=999)
    for name in (*measure.UNITS, *measure.PRODUCT):
        index = one.indices[name]
        std = float(getattr(public.std, name))
        assert index.std == pytest.approx(std, rel=0.15), name
        assert index.mean == pytest.approx(
            float(getattr(public.mean, name)), abs=6 * std / math.sqrt(999)
        ), name


def test_the_same_weights_give_the_same_numbers(three):
    assert measured(coupling("independent")) != []
    (again,) = measured(coupling("independent"))
    assert again.indices == three[2].indices


def test_a_gauge_keeps_value_z_and_p_of_pairs():
    """w -> c w, v -> v / c with c of either sign, in float32; the cosine, which a gauge changes,
    gets another z.
    """
    rng = np.random.default_rng(5)
    own = coupling("independent")
    gauge = (np.exp(2 * rng.normal(size=HIDDEN)) * rng.choice([-1, 1], HIDDEN)).astype(np.float32)
    other = hm.Coupling.from_weights(own.up * gauge[:, None], own.down / gauge[None])
    one, same = (m.indices for m in measured(own, other))
    for name in ("unit_cosine", "mean_unit_cosine", *measure.PRODUCT):
        assert same[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), name
        assert same[name].p == pytest.approx(one[name].p, abs=1e-6), name
    assert abs(same["cosine"].z - one["cosine"].z) > 1e-2


def test_a_basis_keeps_value_z_and_p_of_queries_and_keys():
    """W_Q -> A W_Q, W_K -> A^-T W_K."""
    rng = np.random.default_rng(6)
    queries, keys = rng.normal(size=(2, 4, VISIBLE))
    change = np.eye(4) + 0.3 * rng.normal(size=(4, 4))
    both = [(queries, keys), (change @ queries, np.linalg.solve(change.T, keys))]
    heads = [
        hm.Coupling.from_weights(jnp.asarray(k, jnp.float32), jnp.asarray(q.T, jnp.float32))
        for q, k in both
    ]
    one, same = measure.measure_found(found(*heads, kind="query-key"), pairings=99).measured
    for name in measure.PRODUCT:
        assert same.indices[name] == pytest.approx(one.indices[name], rel=1e-3, abs=1e-3), name
        assert same.indices[name].p == pytest.approx(one.indices[name].p, abs=1e-6), name


def test_rows_of_a_square_matrix_are_put_in_order_at_random():
    """One draw of nineteen for each order: z and p are in the range of so many numbers."""
    own = hm.Coupling.from_weights(
        jnp.asarray(np.random.default_rng(7).normal(size=(9, 9)), jnp.float32), jnp.eye(9)
    )
    (one,) = measure.measure_found(found(own, kind="square"), pairings=19).measured
    assert abs(one.indices["symmetry_score"].z) <= 19 / math.sqrt(20)
    assert one.indices["symmetry_score"].p >= 1 / 20


def test_opposite_weights_are_told_to_be_as_symmetric():
    w = make_weights("tied")
    own = hm.Coupling.from_weights(jnp.asarray(w.up), -jnp.asarray(w.up.T))
    (one,) = measured(own)
    assert one.indices["unit_cosine"].value == pytest.approx(-1, abs=1e-6)
    assert one.indices["symmetry_score"].value == pytest.approx(1, abs=1e-6)
    assert one.indices["unit_cosine"].p == pytest.approx(1 / 100)
    told = " ".join(tables.legend(measure.Report("a file", [one], []), 99))
    assert "-1 is as symmetric as 1" in told
    assert "|z| is at most 9.9" in told


def test_products_have_only_what_depends_on_the_product():
    report = measure.measure_found(found(coupling("tied"), kind="query-key"), pairings=9)
    assert set(report.measured[0].indices) == {"symmetry_score", "directionality"}
    assert all(math.isfinite(index.mean) for index in report.measured[0].indices.values())


def test_without_pairings_nothing_is_compared():
    (one,) = measured(coupling("tied"), pairings=0)
    assert all(math.isnan(index.z) for index in one.indices.values())
    assert one.left_out == ()


def test_a_layer_of_one_hidden_unit_has_nothing_to_pair():
    (one,) = measured(hm.Coupling.from_weights(jnp.ones((1, 3)), jnp.ones((3, 1))))
    assert one.indices["cosine"].value == pytest.approx(1)
    assert math.isnan(one.indices["cosine"].z)


def test_weights_that_are_not_finite_are_told(capsys, tmp_path):
    arrays = bert()
    arrays["bert.encoder.layer.1.output.dense.weight"] = np.full(
        (VISIBLE, HIDDEN), np.nan, np.float32
    )
    code, out, _ = hopmix(
        capsys, "measure", save(tmp_path / "a.safetensors", arrays), "--pairings", 0
    )
    assert code == 0
    assert (
        "Not measured: bert.encoder.layer.1 mlp: it has weights that are not finite."
        in " ".join(out.split())
    )
    assert "5 layers of a safetensors file." in out


def test_zeros_and_what_cannot_be_a_score_stay_out_of_the_median(capsys, tmp_path):
    arrays = bert()
    arrays["bert.encoder.layer.1.output.dense.weight"] = np.zeros((VISIBLE, HIDDEN), np.float32)
    code, out, _ = hopmix(
        capsys, "measure", save(tmp_path / "a.safetensors", arrays), "--pairings", 0
    )
    assert code == 0
    assert "Not measured: bert.encoder.layer.1 mlp: it has a matrix of zeros." in " ".join(
        out.split()
    )
    assert "nan" not in out


def test_names_that_look_like_formulas_are_only_names(capsys, tmp_path):
    w = make_weights("tied")
    path = save(
        tmp_path / "a.safetensors",
        {r"b.$\frac$.mlp.fc1.weight": w.up, r"b.$\frac$.mlp.fc2.weight": w.down},
    )
    code, _, err = hopmix(capsys, "measure", path, "--pairings", 0, "--out", tmp_path / "page")
    assert (code, err) == (0, "")


# ---- Large layers --------------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(measure, "LARGEST_SPECTRUM", VISIBLE - 1)
    monkeypatch.setattr(measure, "LARGEST_WORK", 1e3)
    monkeypatch.setattr(measure, "LARGEST_SAMPLE", HIDDEN - 6)


@pytest.mark.usefixtures("small_limits")
def test_what_takes_long_is_left_out_and_told():
    report = measure.measure_found(found(coupling("tied")), pairings=9)
    (one,) = report.measured
    assert one.spectrum == {}
    assert math.isnan(one.indices["symmetry_score"].z)
    assert one.indices["symmetry_score"].value == pytest.approx(1, abs=1e-6)
    assert one.indices["cosine"].value == pytest.approx(1, abs=1e-6)
    assert one.indices["cosine"].p == pytest.approx(0.1)  # from a sample of the units
    assert one.left_out == (measure.SAMPLED, measure.NO_PRODUCT, measure.NO_SPECTRUM)
    told = tables.omissions(report)
    assert told[0].startswith(
        "Left out of 1 of 1 layers: all but 4,096 hidden units, drawn at random, from the"
    )
    assert told[-1] == "--full computes what was left out."


@pytest.mark.usefixtures("small_limits")
def test_it_is_computed_where_it_is_asked_for():
    (one,) = measured(coupling("tied"), pairings=9, full=True)
    assert one.spectrum
    assert one.indices["symmetry_score"].p == pytest.approx(0.1)
    assert one.left_out == (measure.SAMPLED,)


def test_the_work_of_a_layer():
    layer = lambda n, h: Layer("", "", "pair", n, h, (), lambda: coupling("tied"))
    assert measure.product_work(layer(768, 3072), 199) == 2 * 199 * 768 * 768 * 3072
    # Queries and keys of BERT-large are compared; W and V of Llama-2-7B are not.
    assert measure.product_work(layer(1024, 1024), 199) < measure.LARGEST_WORK
    assert measure.product_work(layer(4096, 11008), 199) > measure.LARGEST_WORK


def test_only_one_layer_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """A file of 48 MB is measured in the memory of a few of its layers."""
    monkeypatch.setattr(measure, "LARGEST_SPECTRUM", 0)
    path = tmp_path / "large.safetensors"
    layer = 2 * 128 * 1024 * 4
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(48):
        arrays[f"blocks.{i}.mlp.fc1.weight"] = rng.normal(size=(1024, 128)).astype(np.float32)
        arrays[f"blocks.{i}.mlp.fc2.weight"] = rng.normal(size=(128, 1024)).astype(np.float32)
    save(path, arrays)
    del arrays
    assert path.stat().st_size > 45 * layer
    layers = open_layers(Measure(str(path)))
    before = sum(a.nbytes for a in jax.live_arrays())
    held = []
    tracemalloc.start()
    try:
        told = lambda done, layer: held.append(sum(a.nbytes for a in jax.live_arrays()) - before)
        measure.measure_found(layers, pairings=0, on_progress=told)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(held) == 48
    assert max(held) < 3 * layer  # on the device
    assert peak < 8 * layer  # by NumPy


# ---- The command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("weights") / "model.safetensors", bert())


def test_the_command_prints_tables_of_80_columns(capsys, monkeypatch, checkpoint):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = hopmix(capsys, "measure", checkpoint, "--pairings", 19)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    pair = re.search(r"^ 0 mlp +12×20 +1\.000 +1\.000 +\S+ +\S+ 0\.050 +1\.000 ", out, re.M)
    product = re.search(r"^ 0 qk +12×12 +1\.000 +\S+ +\S+ 0\.050 ", out, re.M)
    assert pair, out
    assert product, out
    words = " ".join(out.split())
    assert re.search(
        r"Median symmetry score: \S+ of 3 queries and keys; \S+ of 3 pairs W, V\.", words
    )
    assert (
        "against 19 random pairings of the same hidden units; p is two-sided and at least 0.05."
        in words
    )


def test_json_holds_every_number(capsys, checkpoint, tmp_path):
    code, _, _ = hopmix(
        capsys, "measure", checkpoint, "--pairings", 19, "--heads", 2, "--json", tmp_path / "a.json"
    )
    assert code == 0
    record = json.loads((tmp_path / "a.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert (record["path"], record["pairings"], record["hopmix"]) == (
        str(checkpoint),
        19,
        hm.__version__,
    )
    assert [row["part"] for row in record["layers"][:4]] == ["qk", "head 0", "head 1", "mlp"]
    mlp = record["layers"][3]
    place = "bert.encoder.layer.0"
    assert (mlp["place"], mlp["kind"], mlp["visible"], mlp["hidden"]) == (
        place,
        "pair",
        VISIBLE,
        HIDDEN,
    )
    assert mlp["names"] == [f"{place}.intermediate.dense.weight", f"{place}.output.dense.weight"]
    assert set(mlp["indices"]) == set(hm.Asymmetry._fields)
    assert mlp["indices"]["cosine"]["value"] == pytest.approx(1, abs=1e-6)
    assert mlp["indices"]["balance"]["z"] is None  # it does not depend on how units are paired
    assert set(mlp["spectrum"]) == set(hm.symmetry.Spectrum._fields)
    assert record["not_measured"] == []
    assert "over_seeds" not in record


def test_the_page_needs_no_other_file(capsys, tmp_path):
    arrays = {name.replace("bert", "<b>x</b>"): a for name, a in bert().items()}
    arrays |= {
        "<script>.mlp.fc1.weight": arrays["<b>x</b>.encoder.layer.0.intermediate.dense.weight"]
    }
    path = save(tmp_path / "model.safetensors", arrays)
    code, _, _ = hopmix(capsys, "measure", path, "--pairings", 9, "--out", tmp_path / "page")
    assert code == 0
    assert {p.name for p in (tmp_path / "page").iterdir()} == {
        "measure.html",
        "symmetry.png",
        "symmetry.svg",
    }
    assert (tmp_path / "page" / "symmetry.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "page" / "symmetry.svg").read_text("utf-8")
    page = (tmp_path / "page" / "measure.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page
    assert "<b>" not in page
    assert (
        "Not measured: &lt;script&gt;.mlp.fc1.weight: there is no &lt;script&gt;.mlp.fc2.weight "
        "beside it." in page
    )
    for label in ("0 qk", "2 mlp"):
        assert (
            page.count(f'<th scope="row" class="words">{label}</th>') == 2
        )  # in its table and among all numbers
    assert "$" not in re.sub(r'src="data:[^"]*"', "", page)  # every field of the template is filled


def test_a_heat_map_of_parts_by_place(checkpoint):
    report = measure.measure_found(open_layers(Measure(str(checkpoint))), pairings=0)
    values = picture.map_values(report)
    assert values.sizes == {"index": 3, "part": 2, "place": 3}
    assert values.sel(index="symmetry_score", part="mlp").values[0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(values.sel(index="unit_cosine", part="qk").values).all()
    panels = [axes for axes in picture.symmetry_map(values).axes if axes.get_title(loc="left")]
    assert [len(axes.get_yticks()) for axes in panels] == [
        1,
        2,
        2,
    ]  # no row for what an index does not apply to
    assert [label.get_text() for label in panels[-1].get_xticklabels()] == ["0", "1", "2"]
    assert panels[-1].get_xlabel() == "bert.encoder.layer"


@pytest.mark.parametrize(
    "options, message",
    [
        (("--pairings", 1), "pairings: got 1, but it must be 0 or at least 2."),
        (("--heads", 0), "heads: got 0, but it must be at least 1."),
        (
            ("--heads", 5),
            "heads: got 5, which doesn't divide the 12 queries of bert.encoder.layer.0.attention",
        ),
        (("--pairs", "a:b"), "pairs: no weight is named 'a'; nearest: "),
        (("--pairs", "a:b:c"), "pairs: got 'a:b:c', but it must be 'UP:DOWN'"),
        (("--json", "{folder}"), "is a folder, not a file; name a file in it."),
        (("--out", "{file}"), "is a file, not a folder; name another folder."),
        (("--out", "{file}/page"), "is no usable path (Not a directory)"),
    ],
)
def test_mistakes_are_told_before_any_work(
    capsys, monkeypatch, checkpoint, tmp_path, options, message
):
    monkeypatch.setattr(measure, "measure_found", lambda *_, **__: pytest.fail("it was measured"))
    (tmp_path / "file").touch()
    options = [str(o).format(folder=tmp_path, file=tmp_path / "file") for o in options]
    code, _, err = hopmix(capsys, "measure", checkpoint, *options)
    assert code == 2
    assert message in err


def test_names_in_a_file_cannot_style_the_terminal(capsys, tmp_path):
    arrays = {
        f"[red]\x1b[2J.{i}.mlp.{name}.weight": a for i in (0, 1) for name, a in _fc(i).items()
    }
    _, out, _ = hopmix(capsys, "measure", save(tmp_path / "a.safetensors", arrays), "--pairings", 0)
    assert "\x1b" not in out
    assert "2J" in out


def _fc(seed: int) -> dict[str, np.ndarray]:
    w = make_weights("tied", seed)
    return {"fc1": w.up, "fc2": w.down}


# ---- A run of hopmix -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a_run(as_in_a_study, tmp_path_factory) -> Path:
    """Two checkpoints of members that moved at random, as training would move them; one of them
    diverged.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_data, "load", tiny_data)
        out = tmp_path_factory.mktemp("runs") / "run"
        return make_run(out, diverged=1, arms=("free", "broken", "symmetric"), seeds=3)


@pytest.fixture(scope="module")
def of_the_run(a_run) -> measure.Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_data, "load", lambda *_, **__: pytest.fail("the images were loaded"))
        return measure.measure_found(open_layers(Measure(str(a_run))), pairings=9)


def test_every_member_of_a_run_is_measured_without_its_images(of_the_run):
    assert of_the_run.source == "the run run after 6 of 24 steps"
    members = [
        (m.layer.arm, m.layer.seed, m.layer.place, m.layer.part) for m in of_the_run.measured
    ]
    assert members == [
        (arm, seed, "block 0", branch)
        for arm in ("free", "broken λ=0.01", "symmetric")
        for seed in (0, 1, 2)
        for branch in ("token", "channel")
        if (arm, seed) != ("free", 1)
    ]
    assert [tuple(one) for one in of_the_run.left_out] == [("free, seed 1", "diverged at step 3")]
    for one in of_the_run.measured:
        tied = one.indices["cosine"].value == pytest.approx(1, abs=1e-6)
        assert tied == (one.layer.arm == "symmetric")


def test_mean_and_spread_over_the_seeds(of_the_run):
    rows = measure.over_seeds(of_the_run.measured)
    assert [(row.layer.arm, row.layer.part, row.seeds) for row in rows[:3]] == [
        ("free", "token", 2),
        ("free", "channel", 2),
        ("broken λ=0.01", "token", 3),
    ]
    own = [
        m for m in of_the_run.measured if (m.layer.arm, m.layer.part) == ("broken λ=0.01", "token")
    ]
    cosines = [m.indices["cosine"].value for m in own]
    spread = rows[2].indices["cosine"]
    assert (spread.mean, spread.std) == pytest.approx((np.mean(cosines), np.std(cosines, ddof=1)))
    assert spread.p == max(m.indices["cosine"].p for m in own)


def test_a_run_on_the_command_line(capsys, monkeypatch, a_run, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    before = {path: path.read_bytes() for path in a_run.rglob("*") if path.is_file()}
    options = ("--pairings", 9, "--json", tmp_path / "a.json", "--out", tmp_path / "page")
    code, out, _ = hopmix(capsys, "measure", a_run, *options)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"symmetric +0 token +3 +1\.000 ± 0\.000 +1\.000 ± 0\.000", out)
    assert "Not measured: free, seed 1: diverged at step 3." in out
    record = json.loads((tmp_path / "a.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert record["over_seeds"][0]["seeds"] == 2
    assert record["layers"][0]["arm"] == "free"
    assert "broken λ=0.01, seed 2: " in (tmp_path / "page" / "measure.html").read_text("utf-8")
    assert {path: path.read_bytes() for path in a_run.rglob("*") if path.is_file()} == before


def test_a_checkpoint_before_training_is_tied(a_run):
    report = measure.measure_found(
        open_layers(Measure(str(a_run / "checkpoints" / "0"))), pairings=0
    )
    scores = {m.layer.arm: m.indices["cosine"].value for m in report.measured}
    assert scores["broken λ=0.01"] == pytest.approx(1, abs=1e-6)
    assert scores["free"] < 0.9


def test_a_damaged_checkpoint_beside_the_one_that_is_read_makes_no_noise(
    capsys, caplog, a_run, tmp_path
):
    copy = shutil.copytree(a_run, tmp_path / "run", symlinks=True)
    metadata = copy / "checkpoints" / "6" / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text()[:100])
    code, out, err = hopmix(capsys, "measure", copy / "checkpoints" / "0", "--pairings", 0)
    assert (code, err) == (0, "")
    assert re.search(r"after\s+0\s+of\s+24\s+steps", out)
    assert caplog.records == []


def test_what_does_not_go_with_a_run(a_run, tmp_path):
    with pytest.raises(
        UsageError, match=r"pairs, breaking, heads: .* is hopmix's own and needs none of them"
    ):
        open_layers(Measure(str(a_run), heads=2))
    store.write_json(tmp_path / "study.json", store.read_json(a_run / "study.json"))
    with pytest.raises(UsageError, match="there is no checkpoint yet"):
        open_layers(Measure(str(tmp_path)))
    broken = store.read_json(a_run / "study.json")
    del broken["data"]["image"]
    store.write_json(tmp_path / "study.json", broken)
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    with pytest.raises(UsageError, match="edited or damaged: its checksum does not match"):
        open_layers(Measure(str(tmp_path)))
    for digest in ("format", "identity", "checksum"):  # which earlier versions did not write
        del broken[digest]
    store.write_json(tmp_path / "study.json", broken)
    with pytest.raises(UsageError, match="damaged, it does not describe its images"):
        open_layers(Measure(str(tmp_path)))
