from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from lab.probing import BRANCHES, DIMENSIONS, EXPENSIVE, branch_coupling, of_couplings

from hopmix import Mixer, MixerConfig, couplings, field_asymmetry, measure_asymmetry, trainable
from hopmix.lab.probes.blocks import EnergyDescent, Fields
from hopmix.lab.probes.couplings import LARGEST, OF_SEVERAL_UNITS
from hopmix.lab.train.step import squared_breaking
from hopmix.symmetry import descent_margin, measure_spectrum, power

descent = eqx.filter_jit(lambda model, images: EnergyDescent()(model, images, jr.key(0)))
asymmetry = of_couplings


@eqx.filter_jit
def fields(model, images, key):
    """Of all images: the probe looks at each fourth."""
    return Fields()(model, jnp.repeat(images, 4, axis=0), key)


def spectra(model):
    return of_couplings(model, model)


rates = of_couplings
SMALL = {"image": (8, 8, 1), "patch": 4, "dim": 6, "depth": 2, "classes": 3}


def mixer(key, **options) -> Any:  # what kind of blocks a model has, each test knows
    return Mixer(MixerConfig(**(SMALL | options)), key=key)


@pytest.mark.parametrize(
    "options",
    [{"coupling": "free"}, {"coupling": "broken", "breaking": "xavier"}, {"block": "serial"}],
)
def test_asymmetry_is_that_of_each_coupling(getkey, options):
    model = mixer(getkey(), **options)
    measured = asymmetry(model)
    one_by_one = [
        measure_asymmetry(c) for block in model.blocks for c in _token_then_channel(block)
    ]
    for name, values in measured.items():
        expected = [getattr(a, name) for a in one_by_one]
        np.testing.assert_allclose(
            values.reshape(-1), expected, rtol=1e-12, atol=1e-12
        )  # cosines of unit vectors cancel


@pytest.mark.parametrize("coupling", ["free", "symmetric"])
def test_of_one_visible_unit_what_can_only_be_symmetric_is_nan(getkey, coupling):
    model = mixer(getkey(), patch=8, coupling=coupling)  # one token
    measured = asymmetry(model) | spectra(model)
    token = {name: np.asarray(values)[:, 0] for name, values in measured.items()}
    channel = {name: np.asarray(values)[:, 1] for name, values in measured.items()}
    says_nothing = {name for name in measured if np.isnan(token[name]).all()}
    says_nothing -= {"breaking_rate"}  # of a model that is its own update
    assert says_nothing == set(OF_SEVERAL_UNITS)
    assert all(np.isfinite(channel[name]).all() for name in says_nothing)
    assert all(
        np.isfinite(token[name]).all()
        for name in ("cosine", "relative_breaking", "breaking_ratio", "balance")
    )


def _token_then_channel(block):
    return [branch_coupling(block, branch) for branch in BRANCHES]


def as_complex(measured) -> np.ndarray:
    return np.asarray(measured["eigenvalue_real"]) + 1j * np.asarray(
        measured["eigenvalue_imaginary"]
    )


@pytest.mark.parametrize("options", [{"coupling": "free"}, {"block": "serial"}])
def test_spectra_are_those_of_each_coupling(getkey, options):
    """And the eigenvalues are all of them where there are fewer than are kept, the largest
    first.
    """
    model = mixer(getkey(), **options)
    measured = spectra(model)
    every = [c for block in model.blocks for c in _token_then_channel(block)]
    for name in ("complex_fraction", "largest_imaginary", "departure", "overlap"):
        expected = [getattr(measure_spectrum(c), name) for c in every]
        np.testing.assert_allclose(measured[name].reshape(-1), expected, atol=1e-7)
    for i, coupling in enumerate(every):
        values = as_complex(measured).reshape(4, -1)[i]
        count = min(coupling.up.shape)
        assert np.all(np.isnan(values[count:]))
        assert np.all(np.diff(np.abs(values[:count])) <= 1e-12)
        expected = np.linalg.eigvals(np.asarray(coupling.down @ coupling.up))
        for value in values[:count]:
            assert np.min(np.abs(expected - value)) < 1e-9


def test_of_many_eigenvalues_the_largest_are_kept(getkey):
    model = mixer(getkey(), dim=40, coupling="free")
    measured = spectra(model)
    coupling = branch_coupling(model.blocks[0], "channel")
    kept = np.abs(as_complex(measured)[0, 1])
    every = np.sort(np.abs(np.linalg.eigvals(np.asarray(coupling.down @ coupling.up))))[::-1]
    np.testing.assert_allclose(kept, every[:LARGEST], rtol=1e-8)


def test_fields_are_those_of_each_block(fixedkey):
    """The estimate against the exact index, and the two parts of the rate of the energy, at the
    states in between.
    """
    model = mixer(fixedkey(), coupling="free")
    model = jax.tree.map(lambda leaf: 3 * leaf if eqx.is_inexact_array(leaf) else leaf, model)
    images = jr.normal(fixedkey(), (6, 8, 8, 1))
    measured = fields(model, images, fixedkey())
    states = jax.vmap(model.embed)(images)
    for i, block in enumerate(model.blocks):
        norm = block.potential.neurons.lagrangian
        exact = jax.jit(jax.vmap(lambda x, b=block, n=norm: field_asymmetry(b.force, x, n)))(states)
        gap = abs(measured["field_asymmetry"][i] - jnp.mean(exact))
        assert gap < 5 * measured["field_asymmetry_stderr"][i] + 0.03 * jnp.mean(exact)
        spent = jax.vmap(lambda x, b=block: power(b, x))(states)
        np.testing.assert_allclose(
            measured["dissipation"][i], jnp.mean(spent.dissipation), rtol=1e-9
        )
        np.testing.assert_allclose(measured["work"][i], jnp.mean(spent.work), rtol=1e-9)
        margins = jax.vmap(lambda x, b=block: descent_margin(b, x))(states)
        np.testing.assert_allclose(measured["margin_used"][i], jnp.mean(1 / margins), rtol=1e-9)
        states = jax.vmap(block)(states)


def test_fields_of_tied_and_of_serial_blocks(fixedkey):
    images = jr.normal(fixedkey(), (3, 8, 8, 1))
    tied = fields(mixer(fixedkey(), coupling="symmetric"), images, fixedkey())
    assert np.all(tied["field_asymmetry"] < 1e-12)
    assert np.all(np.abs(tied["work"]) < 1e-10 * tied["dissipation"])
    assert np.all(tied["margin_used"] == 0)
    serial = fields(mixer(fixedkey(), block="serial", coupling="symmetric"), images, fixedkey())
    assert np.all(serial["field_asymmetry"] > 1e-4)
    assert np.all(
        np.abs(serial["work"]) < 1e-10 * serial["dissipation"]
    )  # each mixing by itself is tied
    assert np.all(np.isnan(serial["margin_used"]))


def breaking_pace(model: Any, updates: Any) -> np.ndarray:
    """How fast the breaking and W move, in units of W: the size of the terms of the rate."""
    paces = []
    norm = lambda matrix: float(np.linalg.norm(matrix))
    for at, along in zip(model.blocks, updates.blocks):
        for c, u in zip(_token_then_channel(at), _token_then_channel(along)):
            paces.append(
                (norm(u.breaking) + norm(c.breaking) * norm(u.up) / norm(c.up)) / norm(c.up)
            )
    return np.reshape(paces, (len(model.blocks), -1))


def test_breaking_rates_are_the_derivative_of_the_ratio_along_an_update(getkey):
    model = mixer(getkey(), coupling="broken", breaking="xavier")
    small = 1e-6
    parameters, rest = eqx.partition(model, trainable(model))
    updates = jax.tree.map(lambda leaf: jr.normal(getkey(), leaf.shape), parameters)
    moved = eqx.combine(jax.tree.map(lambda p, u: p + small * u, parameters, updates), rest)
    growth = (asymmetry(moved)["breaking_ratio"] - asymmetry(model)["breaking_ratio"]) / small
    along = eqx.combine(updates, rest)
    gaps = np.abs(rates(model, along)["breaking_rate"] - growth)
    assert np.all(gaps <= 1e-4 * breaking_pace(model, along))


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


def test_energy_falls_in_symmetric_blocks_and_rises_against_the_gradient(fixedkey):
    images = jr.normal(fixedkey(), (32, 8, 8, 1))
    tied = descent(mixer(fixedkey(), coupling="symmetric"), images)
    assert jnp.all(tied["energy_change"] < 0)
    assert jnp.all(tied["energy_rise_fraction"] == 0)
    # A scale of -1 on the way in only turns the force round: small steps then climb, for every
    # image.
    model = mixer(fixedkey(), coupling="symmetric", norm_scale="elementwise")
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


def test_squared_breaking_is_the_squared_norm_of_all_breakings(getkey):
    model = mixer(getkey(), coupling="broken", breaking="xavier")
    expected = sum(float(np.sum(np.asarray(c.breaking) ** 2)) for c in couplings(model))
    np.testing.assert_allclose(squared_breaking(model), expected, rtol=1e-12)
    assert squared_breaking(mixer(getkey(), coupling="symmetric")) == 0


def test_the_table_of_dimensions_covers_all_that_is_measured(getkey):
    model = mixer(getkey())
    inputs = jnp.zeros((2, 8, 8, 1))
    measured = of_couplings(model) | descent(model, inputs)
    expensive = of_couplings(model, model) | fields(model, inputs, jr.key(0))
    for table, found in ((DIMENSIONS, measured), (EXPENSIVE, expensive)):
        for name, values in found.items():
            assert values.ndim == len(table[name])
    assert set(expensive) == set(EXPENSIVE)
