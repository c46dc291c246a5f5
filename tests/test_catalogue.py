"""Catalogue: subclasses are types of their own, parameters are numbers, and smooth programs are
told from others.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VISIBLE_SHAPE, cast, make_block, normal

from hopmix import (
    AbstractSynapse,
    Affine,
    AssociativeMemory,
    Attention,
    Block,
    Coupling,
    Dense,
    Exponential,
    HopfieldMemory,
    HyperSynapse,
    LayerNorm,
    Neurons,
    Potential,
    Quadratic,
    ReLU,
    Scaled,
    Softmax,
    SphericalNorm,
    Sum,
    Tanh,
    certify,
    derive_block,
)


def memory_with(key, visible=None, synapse=None, **layer) -> AssociativeMemory:
    neurons = {"v": Neurons(visible or Tanh(), (5,), **layer), "h": Neurons(ReLU(), (3,))}
    synapses = {"s": synapse or Dense(Coupling(normal(key, (3, 5))))}
    return AssociativeMemory(neurons, synapses, {"s": ("v", "h")})


def verdicts(system) -> set[str]:
    return {a.verdict for a in certify(system).flow}


# ---- Subclasses ----------------------------------------------------------------------------------


class LoudSum(Sum):
    def activation(self, x):
        return -super().activation(x)


class LoudScaled(Scaled):
    def activation(self, x):
        return -super().activation(x)


class LoudNeurons(Neurons):
    def pull_back(self, current):
        return -super().pull_back(current)


class LoudAffine(Affine):
    def pull_back(self, current):
        return -super().pull_back(current)


class LoudPotential(Potential):
    def force(self, g, gates=None):
        return -super().force(g, gates)


class LoudCoupling(Coupling):
    @property
    def down(self):
        return -super().down


def loud_systems(key) -> dict[str, AssociativeMemory | Block]:
    up = normal(key, (3, 5))
    plain = memory_with(key)
    neurons = plain.neurons | {"v": LoudNeurons(Tanh(), (5,))}
    return {
        "LoudSum": memory_with(key, LoudSum((Tanh(), Quadratic()))),
        "a LoudSum in a sum": memory_with(key, 2.0 * LoudSum((Tanh(), Quadratic()))),
        "LoudScaled": memory_with(key, LoudScaled(2.0, Quadratic())),
        "LoudNeurons": AssociativeMemory(neurons, plain.synapses, dict(plain.connections)),
        "LoudAffine": memory_with(key, affine=LoudAffine(jnp.ones(5), jnp.zeros(5))),
        "LoudPotential": Block(LoudPotential(plain, "v", ("h",))),
        "LoudCoupling": memory_with(
            key, synapse=Dense(LoudCoupling(up, breaking=None, tie=jnp.ones(())))
        ),
    }


@pytest.mark.parametrize("name", list(loud_systems(jax.random.key(0))))
def test_subclasses_are_not_certified(name, getkey):
    certificate = certify(loud_systems(getkey())[name])
    assert certificate.claim is None
    assert {a.verdict for a in certificate.flow} & {"unknown", "fails"}
    kind = next(word for word in name.split() if word.startswith("Loud"))
    assert "Sum" in kind or "Scaled" in kind or kind in str(certificate)


# ---- Parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["weights", "beta", "scale", "input", "bfloat16"])
def test_what_is_no_number_is_not_certified(value, place, getkey):
    up = normal(getkey(), (3, 5)).at[1, 2].set(value)
    systems = {
        "weights": lambda: memory_with(getkey(), synapse=Dense(Coupling(up))),
        "beta": lambda: memory_with(getkey(), Tanh(value)),
        "scale": lambda: memory_with(getkey(), LayerNorm(scale=jnp.asarray(value))),
        "input": lambda: memory_with(getkey(), input=jnp.full(5, value)),
        "bfloat16": lambda: memory_with(getkey(), synapse=Dense(Coupling(up.astype(jnp.bfloat16)))),
    }
    certificate = certify(systems[place]())
    assert certificate.claim is None
    assert {a.verdict for a in certificate.flow} == {"unknown"}
    assert "all parameters are finite numbers" in str(certificate)
    assert "of 1 in all" in str(certificate)


@pytest.mark.parametrize(
    "leak, step", [(math.nan, 1.0), (0.0, math.nan), (math.inf, 1.0), (0.0, math.inf)]
)
def test_a_block_takes_finite_steps(leak, step, getkey):
    with pytest.raises(ValueError, match=r"Block needs (a finite )?(leak|step)"):
        derive_block(memory_with(getkey()), ["h"], leak=leak, step=step)


@pytest.mark.parametrize(
    "lagrangian, dtype, expected",
    [
        (LayerNorm(eps=0.0), jnp.float64, False),
        (LayerNorm(eps=1e-6), jnp.float64, True),
        (SphericalNorm(eps=0.0), jnp.float64, False),
        (0.5 * LayerNorm(eps=0.0) + Quadratic(), jnp.float64, False),
        (LayerNorm(eps=1e-50), jnp.float64, True),
        (Tanh(0.0), jnp.float64, False),
        (Softmax(jnp.asarray(0.0)), jnp.float64, False),
        (Tanh(1e-50), jnp.float32, False),
        (Softmax(1e-46), jnp.float32, False),
        (Tanh(1e-50), jnp.float64, True),
        (LayerNorm(eps=math.inf), jnp.float64, False),
    ],
)
def test_an_activation_that_is_undefined_somewhere_is_refused(lagrangian, dtype, expected, getkey):
    memory = memory_with(getkey(), lagrangian)
    memory = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, memory)
    block = derive_block(memory, ["h"], leak=1.0)
    assert certify(block).descends_in_flow is expected
    states = (jnp.zeros(5, dtype), jnp.ones(5, dtype))
    numbers = [float(jnp.sum(block.force(x)) + block.energy(x)) for x in states]
    assert bool(np.all(np.isfinite(numbers))) is expected


def test_an_eps_that_is_zero_in_the_precision_is_refused(getkey):
    memory = cast(memory_with(getkey(), LayerNorm(eps=1e-50)), jnp.float32)
    assert not certify(memory).descends_in_flow
    assert "leaves LayerNorm undefined at constant states" in str(certify(memory))


def test_dropped_branches_are_not_covered(getkey):
    block = make_block(getkey(), hidden=ReLU(), options={"step": 0.1})
    assert certify(block).descends_in_steps
    dropping = certify(dataclasses.replace(block, drop_path=0.2))
    assert dropping.descends_in_flow
    assert not dropping.descends_in_steps
    assert "calls with a key, which drop branches (drop_path = 0.2)" in str(dropping)
    assert "each call with a key lowers another energy" in str(dropping)


@pytest.mark.parametrize("beta", [-2.0, 0.0, 1.0])
@pytest.mark.quick
def test_attention_has_a_positive_beta(beta, getkey):
    attention = Attention(
        normal(getkey(), (1, 3, 6)), normal(getkey(), (1, 3, 6)), jnp.asarray(beta)
    )
    memory = AssociativeMemory(
        {"x": Neurons(Quadratic(), VISIBLE_SHAPE)}, {"a": attention}, {"a": ("x",)}
    )
    certificate = certify(derive_block(memory, [], step=1e-3))
    assert certificate.descends_in_flow is (beta > 0)
    assert verdicts(memory) == ({"holds"} if beta > 0 else {"holds", "unknown"})
    if beta <= 0:
        assert math.isnan(certificate.step_bound)


# ---- Functions of users --------------------------------------------------------------------------


@jax.custom_jvp
def liar(g):
    return jnp.sum(g**2)


@liar.defjvp
def _(primals, tangents):
    return liar(primals[0]), -2 * jnp.sum(primals[0] * tangents[0])


class Product(eqx.Module):
    weights: jax.Array

    def __call__(self, a, b):
        return jnp.einsum("i,ij,j->", jnp.tanh(a), self.weights, b**2)


FUNCTIONS = {
    "smooth": (lambda g: jnp.sum(jnp.sin(g) * g) - jnp.sum(g**4), "holds"),
    "jumps": (lambda g: jnp.sum(jnp.floor(g)), "unknown"),
    "kinks": (lambda g: jnp.sum(jnp.abs(g)), "unknown"),
    "lies": (liar, "fails"),
    "hides": (lambda g: jnp.sum(jax.lax.stop_gradient(g) * g), "fails"),
    "rounds": (lambda g: jnp.sum(g.astype(jnp.bfloat16).astype(g.dtype)), "fails"),
    "not a number": (lambda g: jnp.sum(jnp.asarray([math.nan, 1.0, 1.0, 1.0, 1.0]) * g), "fails"),
    "infinite": (lambda g: jnp.sum(g) * math.inf, "fails"),
    "singular": (lambda g: jnp.sum(g**-2), "unknown"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_users_hold_where_they_are_smooth_programs(name, getkey):
    function, verdict = FUNCTIONS[name]
    neurons = {"v": Neurons(Tanh(), (5,))}
    memory = AssociativeMemory(neurons, {"f": HyperSynapse(function)}, {"f": ("v",)})
    (assumption,) = (a for a in certify(memory).flow if "conservative" in a.statement)
    assert assumption.verdict == verdict


def test_a_smooth_interaction_of_two_layers_is_certified(getkey):
    memory = memory_with(getkey())
    synapses: dict[str, AbstractSynapse] = {
        **memory.synapses,
        "p": HyperSynapse(Product(normal(getkey(), (5, 3)))),
    }
    both = AssociativeMemory(memory.neurons, synapses, {"s": ("v", "h"), "p": ("v", "h")})
    assert certify(both).descends_in_flow
    for dtype in (jnp.bfloat16, jnp.float32):
        assert certify(cast(both, dtype)).descends_in_flow


class Lying(Exponential):
    """A separation whose activation is not the derivative of its value."""

    def __call__(self, x):
        return jax.lax.stop_gradient(super().__call__(x))


def test_stored_patterns_are_as_good_as_their_separation(getkey):
    neurons = {"v": Neurons(Tanh(), (5,))}
    for separation, verdict in (
        (Softmax(), "holds"),
        (Lying(), "fails"),
        (2.0 * LoudSum((Tanh(),)), "unknown"),
    ):
        memory = HopfieldMemory(normal(getkey(), (4, 5)), separation)
        certificate = certify(AssociativeMemory(neurons, {"m": memory}, {"m": ("v",)}))
        assert [a.verdict for a in certificate.flow if "conservative" in a.statement] == [verdict]
