from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from hopmix import Mixer, MixerConfig, couplings, measure_asymmetry
from hopmix.lab import metrics

descent, asymmetry = eqx.filter_jit(metrics.energy_descent), eqx.filter_jit(metrics.asymmetry)
SMALL = {"image": (8, 8, 1), "patch": 4, "dim": 6, "depth": 2, "classes": 3}


def mixer(key, **options) -> Any:  # what kind of blocks a model has, each test knows
    return Mixer(MixerConfig(**(SMALL | options)), key=key)


@pytest.mark.parametrize(
    "options", [{"coupling": "free"}, {"coupling": "broken", "breaking": "xavier"}, {"block": "serial"}]
)
def test_asymmetry_is_that_of_each_coupling(getkey, options):
    model = mixer(getkey(), **options)
    measured = asymmetry(model)
    one_by_one = [measure_asymmetry(c) for block in model.blocks for c in _token_then_channel(block)]
    for name, values in measured.items():
        np.testing.assert_allclose(values.reshape(-1), [getattr(a, name) for a in one_by_one], rtol=1e-12)


def _token_then_channel(block):
    return [metrics.branch_coupling(block, branch) for branch in metrics.BRANCHES]


def test_energy_change_is_that_of_each_image(getkey):
    model = mixer(getkey(), coupling="symmetric")
    images = jr.normal(getkey(), (5, 8, 8, 1))
    measured = descent(model, images)
    states = jax.vmap(model.embed)(images)
    for i, block in enumerate(model.blocks):
        after = jax.vmap(block)(states)
        change = jax.vmap(block.energy)(after) - jax.vmap(block.energy)(states)
        np.testing.assert_allclose(measured["energy_change"][i], jnp.mean(change), rtol=1e-10)
        np.testing.assert_allclose(measured["energy_rise_fraction"][i], jnp.mean(change > 0))
        states = after


def test_energy_falls_in_symmetric_blocks_and_rises_against_the_gradient(getkey):
    images = jr.normal(getkey(), (32, 8, 8, 1))
    tied = descent(mixer(getkey(), coupling="symmetric"), images)
    assert jnp.all(tied["energy_change"] < 0)
    assert jnp.all(tied["energy_rise_fraction"] == 0)
    # A scale of -1 on the way in only turns the force round: small steps then climb, for every image.
    model = mixer(getkey(), coupling="symmetric", norm_scale="elementwise")
    neurons = [block.potential.memory.neurons["visible"] for block in model.blocks]
    climbing = eqx.tree_at(
        lambda m: [block.potential.memory.neurons["visible"].affine.scale for block in m.blocks],
        jax.tree.map(lambda leaf: 0.1 * leaf if eqx.is_inexact_array(leaf) else leaf, model),
        [-n.affine.scale for n in neurons],
    )
    assert jnp.all(descent(climbing, 10 * images)["energy_rise_fraction"] == 1)


def test_serial_blocks_count_both_mixings(getkey):
    model = mixer(getkey(), block="serial", coupling="symmetric")
    images = jr.normal(getkey(), (4, 8, 8, 1))
    measured = descent(model, images)["energy_change"][0]
    x = jax.vmap(model.embed)(images)
    middle = jax.vmap(model.blocks[0].token)(x)
    end = jax.vmap(model.blocks[0].channel)(middle)
    token, channel = (jax.vmap(part.energy) for part in model.blocks[0].parts)
    np.testing.assert_allclose(
        measured, jnp.mean(token(middle) - token(x) + channel(end) - channel(middle)), rtol=1e-10
    )


def test_loss_and_hits():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    losses, hits = metrics.loss_and_hits(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(losses, -np.log([0.5, 0.2]), rtol=1e-12)
    np.testing.assert_allclose(hits, [1.0, 0.0])


def test_penalty_is_the_squared_norm_of_all_breakings(getkey):
    model = mixer(getkey(), coupling="broken", breaking="xavier")
    expected = sum(float(np.sum(np.asarray(c.breaking) ** 2)) for c in couplings(model))
    np.testing.assert_allclose(metrics.penalty(model), expected, rtol=1e-12)
    assert metrics.penalty(mixer(getkey(), coupling="symmetric")) == 0


def test_the_table_of_dimensions_covers_all_that_is_measured(getkey):
    model = mixer(getkey())
    measured = asymmetry(model) | descent(model, jnp.zeros((2, 8, 8, 1)))
    for name, values in measured.items():
        assert values.ndim == len(metrics.DIMENSIONS[name])
