"""Models as trees: couplings by their paths, maps over them, and what trains."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from hopmix import (
    Block,
    Coupling,
    Frozen,
    Mixer,
    MixerConfig,
    couplings,
    map_couplings,
    named_couplings,
    trainable,
)


class Own(eqx.Module):
    """A model that is not ours: couplings in a list, in a dictionary, and by themselves."""

    layers: list[dict[str, Coupling]]
    memory: Coupling
    mixing: Frozen
    scale: jax.Array
    activation: object

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.layers = [{"mlp": Coupling.free(3, 4, key=keys[i])} for i in range(2)]
        self.memory = Coupling.symmetric(3, 5, key=keys[2])
        self.mixing = Frozen(jr.normal(keys[3], (3, 3)))
        self.scale = jnp.ones(3)
        self.activation = jax.nn.relu


def test_couplings_of_a_mixer_by_name(getkey):
    model = Mixer(MixerConfig((8, 8, 1), 4, 8, 2, 3), key=getkey())
    named = named_couplings(model)
    assert set(named) == {
        f"blocks.{i}.{branch}" for i in range(2) for branch in ("token", "channel")
    }
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for branch in ("token", "channel"):
            assert named[f"blocks.{i}.{branch}"] is block.potential.memory.synapses[branch].coupling  # pyright: ignore


def test_serial_and_parallel_mixers_name_their_couplings_alike(getkey):
    serial = MixerConfig((8, 8, 1), 4, 8, 2, 3, block="serial")
    parallel = MixerConfig((8, 8, 1), 4, 8, 2, 3, block="parallel")
    assert set(named_couplings(Mixer(serial, key=getkey()))) == set(
        named_couplings(Mixer(parallel, key=getkey()))
    )


def test_couplings_of_another_model_by_name(getkey):
    assert list(named_couplings(Own(getkey()))) == ["layers.0.mlp", "layers.1.mlp", "memory"]


def test_names_that_would_be_shared_are_whole(getkey):
    tree = {"a": {"memory": 0}, "b": Twice(getkey())}
    assert set(named_couplings(tree)) == {"b.memory.mlp", "b.potential.mlp"}


class Twice(eqx.Module):
    memory: dict[str, Coupling]
    potential: dict[str, Coupling]

    def __init__(self, key):
        self.memory = {"mlp": Coupling.symmetric(2, 3, key=key)}
        self.potential = {"mlp": Coupling.symmetric(2, 3, key=key)}


def test_one_coupling_alone_has_a_name(getkey):
    assert list(named_couplings(Coupling.free(2, 3, key=getkey()))) == ["coupling"]


def test_a_model_without_couplings_names_none(getkey):
    assert named_couplings(eqx.nn.MLP(2, 2, 3, 1, key=getkey())) == {}


def test_a_map_changes_couplings_and_nothing_else(getkey):
    model = Own(getkey())
    doubled = map_couplings(
        lambda c, d: Coupling(c.up + d.up, breaking=c.breaking, tie=c.tie), model, model
    )
    for before, after in zip(couplings(model), couplings(doubled), strict=True):
        assert jnp.array_equal(after.up, 2 * before.up)
    assert doubled.mixing.array is model.mixing.array
    assert doubled.scale is model.scale


@pytest.mark.parametrize("kind", ["free", "broken", "symmetric"])
def test_an_explicit_coupling_is_the_same_coupling(getkey, kind):
    coupling = getattr(Coupling, kind)(3, 4, key=getkey())
    explicit = coupling.explicit()
    assert explicit.breaking is not None
    assert jnp.array_equal(explicit.down, coupling.down)
    assert jax.tree.structure(explicit) == jax.tree.structure(Coupling.free(3, 4, key=getkey()))


def test_couplings_side_by_side_are_explicit_too(getkey):
    stacked = eqx.filter_vmap(lambda key: Coupling.symmetric(3, 4, key=key))(jr.split(getkey(), 2))
    assert stacked.explicit().breaking.shape == (2, 3, 4)


def test_frozen_arrays_and_ties_do_not_train(getkey):
    model = Own(getkey())
    spec = trainable(model)
    assert spec.mixing.array is False
    assert spec.scale is True
    assert spec.memory.tie is False
    assert spec.memory.up is True
    assert spec.activation is False
    parameters, rest = eqx.partition(model, spec)
    assert parameters.mixing.array is None
    assert jnp.array_equal(rest.mixing.array, model.mixing.array)
