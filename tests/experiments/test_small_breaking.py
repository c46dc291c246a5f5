"""The study of small breaking in trained mixers, on one small block: its rows obey the theorem."""

import json
import runpy
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import normal

from hopmix import Coupling, Mixer, MixerConfig, Quadratic, Tanh, couplings
from hopmix.claims.c16_small_breaking import break_by, resting_block
from hopmix.symmetry import breaking_bound

SCRIPT = Path(__file__).parents[2] / "experiments" / "small_breaking" / "trained.py"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


def broken_block(size: float):
    """A block of 4 tokens and 3 channels with a random breaking of this size relative to W, and a
    state of it.
    """
    keys = iter(jr.split(jr.key(0), 4))
    config = MixerConfig(
        image=(4, 4, 1), patch=2, dim=3, depth=1, classes=2, coupling="broken", token_hidden=4
    )
    model = Mixer(config, key=next(keys))

    def broken(pair: Coupling) -> Coupling:
        noise = normal(next(keys), pair.up.T.shape)
        return Coupling(
            pair.up, breaking=size * jnp.linalg.norm(pair.up) * noise / jnp.linalg.norm(noise)
        )

    model = eqx.tree_at(couplings, model, [broken(pair) for pair in couplings(model)])
    return model.blocks[0], normal(next(keys), (4, 3))


def test_a_row_obeys_the_theorem(script):
    block, start = broken_block(0.3)
    leaky = script["leaky"](block)
    assert leaky.leak == 1
    row = script["measure"](leaky, start)
    assert row is not None
    assert row.bound > 0
    assert row.times >= row.bound / row.breaking
    assert row.moved <= 1
    assert row.balance == pytest.approx(1, abs=0.02)


def test_the_summary_and_the_arms(script, tmp_path, monkeypatch):
    block, start = broken_block(0.01)
    leaky = script["leaky"](block)
    run = script["run"]
    monkeypatch.setitem(
        run.__globals__, "blocks_of", lambda config: [("broken", leaky, start[None])]
    )
    monkeypatch.setitem(run.__globals__, "measure", lambda block, x: script["Row"](*np.arange(9.0)))
    results = run(script["Config"](out=tmp_path))
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == results
    arm = results["arms"]["broken"]
    assert (arm["tried"], arm["n"]) == (1, 1)
    assert arm["bound"] == {"median": 0.0, "least": 0.0, "largest": 0.0}
    assert arm["farther"]["median"] == 8.0


def test_a_rest_that_is_lost_is_noticed(script):
    """One unit at the fold of the tests of C16: the rest is gone at 1.24 times the bound."""
    x = jnp.asarray([-0.6])
    tied = resting_block(Quadratic(), Tanh(), jnp.asarray([[1.2]]), x, leak=1.0)
    bound = breaking_bound(tied, x).bound
    kept = script["tolerated"](break_by(tied, np.asarray([[-10 * bound]])), np.asarray(x))
    assert 0.1 <= kept < 0.13
    assert script["tolerated"](break_by(tied, np.asarray([[-0.9 * bound]])), np.asarray(x)) == 1
