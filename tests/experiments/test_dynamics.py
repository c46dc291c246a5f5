"""The dynamics demonstration, run small: it writes what it says, and shows what it claims."""

import json
import runpy
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hopmix import flow

SCRIPT = Path(__file__).parents[2] / "experiments" / "dynamics" / "demonstration.py"
FIGURES = ("energies.png", "landscape.png", "upward.png")


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dynamics")


@pytest.fixture(scope="module")
def results(script, out) -> dict:
    return script["run"](script["Config"](out, networks=3, states=3))


def test_it_writes_small_figures_and_its_results(results, out):
    for name in FIGURES:
        assert 5_000 < (out / name).stat().st_size < 150_000, name
    stored = json.loads((out / "results.json").read_text("utf-8"))
    assert stored == results
    assert stored["config"] == {"networks": 3, "states": 3, "seed": 0}


def test_energies_of_tied_weights_never_rise(results):
    for case in ("small tied", "large tied"):
        for name in ("none", "plus", "minus", "radial"):
            assert results["largest_rise"][case][name] < 1e-9, (case, name)
    assert results["landscape"]["tied weights"]["minus"] < 1e-9


def test_with_the_lagrangian_of_the_notebook_they_do(results):
    assert results["largest_rise"]["large tied"]["notebook"] > 0.1


def test_broken_weights_raise_every_pseudo_energy(results):
    for name in ("none", "plus", "minus", "radial"):
        assert results["upward"]["3.0"][name]["mean"] > 1e-4, name
        assert results["landscape"]["broken: a limit cycle"][name] > 0.1, name


def test_one_dimension_has_an_exact_energy_even_when_broken(results):
    """Behind the norm of two units there is one direction to move in: the radial energy falls, the
    others may not.
    """
    assert results["largest_rise"]["small broken"]["radial"] < 1e-9
    assert results["largest_rise"]["small broken"]["plus"] > 0.1


def test_broken_weights_settle_or_cycle(results):
    landscape = results["landscape"]
    assert landscape["broken: two attractors"]["last_movement"] < 0.01
    assert landscape["broken: a limit cycle"]["last_movement"] > 0.5


def test_the_order_of_the_corrections(results):
    """More breaking raises more; +1/2 rises most, then none, then -1/2 and radial; with gains the
    radial not at all.
    """
    for kind in ("1.0", "3.0"):
        row = {name: value["mean"] for name, value in results["upward"][kind].items()}
        assert row["plus"] > row["none"] > max(row["minus"], row["radial"]), kind
    assert results["upward"]["3.0"]["minus"]["mean"] > results["upward"]["0.5"]["minus"]["mean"]
    gains = results["upward"]["$W^\\top D$"]
    assert gains["radial"]["max"] < 1e-9
    assert gains["plus"]["mean"] > 0.01


def test_the_integration_is_accurate_enough_to_tell(script, results):
    """A hundred times tighter tolerances change energies by less than any rise that is drawn as
    one.
    """
    size = script["SMALL"]
    random = np.random.default_rng(3)
    block = script["mixer"](size, random, (1.5, 4.0))
    saveat = diffrax.SaveAt(ts=script["times"]())
    states = script["initial_states"](size, random, 3)
    rough = script["follow"](block, states)[1]["minus"][:, 0]
    path = flow(block, states[0], script["DURATION"], saveat=saveat, rtol=1e-11, atol=1e-13).ys
    fine = jax.jit(jax.vmap(block.energy))(path)
    assert jnp.max(jnp.abs(rough - fine)) < 1e-7 * jnp.ptp(fine)


def test_measures_of_rising(script):
    down = jnp.asarray([[3.0], [2.0], [0.0]])
    up = jnp.asarray([[0.0], [2.0], [1.0], [3.0]])
    assert script["upward"](down) == 0
    assert script["upward"](up) == pytest.approx(4 / 5)
    assert script["largest_rise"](down) == 0
    assert script["largest_rise"](up) == 1
    assert script["largest_rise"](jnp.asarray([[2.0], [0.0], [1.0]])) == 0.5
