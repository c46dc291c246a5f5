"""Both scripts of experiments/retrieval, small: they run, and their results say what the README
says.
"""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from helpers import assert_close, normal

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "retrieval"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metaformer() -> ModuleType:
    return load("energy_metaformer")


@pytest.fixture(scope="module")
def denoised(metaformer, tmp_path_factory) -> dict:
    """One seed on the embedded digits."""
    out = tmp_path_factory.mktemp("metaformer")
    options = "--data nowhere --epochs 6 --hidden 24 --batch 64 --rate 5e-3 --out"
    settings = tyro.cli(metaformer.Settings, args=[*options.split(), str(out)])
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
    ):  # as on the command line; Optax promotes
        results = metaformer.main(settings)
    assert json.loads((out / "results.json").read_text()) == results
    pictures = {path.name: path.stat().st_size for path in out.glob("*.png")}
    assert set(pictures) == {"reconstructions.png", "receptive_fields.png", "energy.png"}
    assert max(pictures.values()) < 150_000
    return results


def test_learning_removes_noise(denoised):
    errors = denoised["test error"]
    assert denoised["settings"]["data"] == "digits"
    for seed, scores in enumerate(denoised["validation error"]):
        assert scores[-1] < 0.5 * scores[0]
        assert (
            errors["energy metaformer"][seed]
            < errors["mean training image"][seed]
            < errors["noisy image"][seed]
        )
        assert errors["linear (Wiener)"][seed] < errors["mean training image"][seed]


def test_the_energy_falls_along_steps_and_flow(denoised):
    assert denoised["largest rise of the energy"] == {"images": 0.0, "steps": 0.0, "flow": 0.0}
    first, last = denoised["first and last energy, steps"]
    assert last < first


def test_a_rise_would_be_seen(metaformer):
    curves = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    assert metaformer.largest_rise(curves[:1]) == 0
    assert metaformer.largest_rise(curves) == 0.5


def test_the_error_is_twice_one_minus_the_correlation(metaformer, getkey):
    clean = np.asarray(normal(getkey(), (3, 50)))
    found = np.asarray(normal(getkey(), (3, 50)))
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(clean, found)]
    expected = jnp.asarray(2 * (1 - np.mean(correlations)))
    assert_close(
        metaformer.error(jnp.asarray(found), jnp.asarray(clean)), expected, 1e-5
    )  # LayerNorm's eps


def test_an_offset_of_all_weights_changes_nothing(metaformer, getkey):
    settings = metaformer.Settings(hidden=5)
    image = normal(getkey(), (9,))
    plain = metaformer.make_memory(9, settings, getkey())
    shift = lambda w, by: w.astype(float) + by * (w.ndim == 2) if eqx.is_array(w) else w
    plain, shifted = (jax.tree.map(lambda w, by=by: shift(w, by), plain) for by in (0.0, 0.2))
    assert_close(
        metaformer.denoise(shifted, image, settings), metaformer.denoise(plain, image, settings)
    )


@pytest.fixture(scope="module")
def capacities(tmp_path_factory) -> dict:
    module = load("capacity")
    out = tmp_path_factory.mktemp("capacity")
    sizes = (
        "--units 24 --loads 0.3 4 --seeds 3 --samples 20 --exponential-units 16 "
        "--exponential-patterns 20"
    )
    options = [*sizes.split(), "--real-patterns", "20", "--real-units", "16", "--out", str(out)]
    results = module.main(tyro.cli(module.Settings, args=options))
    assert {path.name for path in out.iterdir()} == {"results.json", "stable.png", "one_update.png"}
    assert max(path.stat().st_size for path in out.glob("*.png")) < 150_000
    return results


def test_bits_are_stable_below_the_capacity_and_fail_above_it_as_predicted(capacities):
    rows = capacities["polynomial"]
    assert len(rows) == 6
    for row in rows:
        unstable = np.array(row["unstable bits"])
        if row["load"] < 0.5:
            assert np.all(unstable == 0)
            assert np.min(row["retrieved"]) > 0.8
        else:
            assert (
                abs(unstable.mean() - row["expected unstable bits"]) < 0.04
            )  # 0.1, from 60 patterns of 24 bits
            assert np.max(row["stable patterns"]) < 0.5


def test_the_rectifier_doubles_the_capacity(capacities):
    ratio = capacities["capacity"]["max(z, 0)^3"] / capacities["capacity"]["z^3"]
    assert ratio == pytest.approx(2, rel=0.05)


def test_one_update_keeps_its_bounds(capacities):
    for row in capacities["exponential"]:
        trials = row["samples"] * len(row["failed"])
        spread = math.sqrt(max(row["bound"] * (1 - row["bound"]), 0) / trials)
        assert np.mean(row["failed"]) <= row["bound"] + 4 * spread + 2 / trials
    assert max(row["largest error / bound"] for row in capacities["real"]) < 1
    near = [row for row in capacities["real"] if row["noise"] == 0]
    assert all(row["log-sum-relu exact"] > 0.5 for row in near)
