"""Pseudo-energies: closed forms, automatic differentiation, every kind of block, precision, and
what is refused.
"""

# pyright: reportArgumentType=false

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from helpers import (
    TOLERANCE,
    VISIBLE_SHAPE,
    affine_of,
    assert_close,
    cast,
    hidden_affine,
    make_block,
    normal,
)

from hopmix import (
    GELU,
    AbstractLagrangian,
    AssociativeMemory,
    Bias,
    Block,
    Coupling,
    Dense,
    Exponential,
    LayerNorm,
    Mixer,
    MixerConfig,
    Neurons,
    Quadratic,
    ReLU,
    RePU,
    Sigmoid,
    Softmax,
    Tanh,
    couplings,
    derive_block,
    flow,
)
from hopmix._dynamics import velocity
from hopmix._pseudo_energy import (
    descent_margin,
    power,
    radial_energy,
    radial_potential,
    residual_force,
    with_tied_weights,
)
from hopmix.symmetry import energy_budget

ELEMENTWISE = {
    "quadratic": Quadratic(),
    "relu": ReLU(),
    "repu 4": RePU(4),
    "gelu": GELU(),
    "exponential": Exponential(0.3),
    "tanh": Tanh(0.8),
    "sigmoid": Sigmoid(2.0),
}


def dense(
    coupling: Coupling,
    hidden: AbstractLagrangian,
    visible: AbstractLagrangian | None = None,
    bias: jax.Array | None = None,
    leak: float = 0.6,
    tau: float = 1.0,
) -> Block:
    neurons = {
        "v": Neurons(Quadratic() if visible is None else visible, coupling.up.shape[1:], tau),
        "h": Neurons(hidden, coupling.up.shape[:1]),
    }
    synapses = {"s": Dense(coupling)}
    ends = {"s": ("v", "h")}
    if bias is not None:
        synapses["b"] = Bias(bias)
        ends["b"] = ("h",)
    return derive_block(AssociativeMemory(neurons, synapses, ends), ["h"], leak=leak)


def untied(getkey, visible: int = 5, hidden: int = 4) -> Coupling:
    return Coupling(
        normal(getkey(), (hidden, visible)), breaking=normal(getkey(), (visible, hidden)), tie=0.3
    )


# ---- The radial potential against closed forms ---------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.quick
def test_the_closed_form_of_elementwise_units(name, getkey):
    """sum_a (v_a . g) [Phi(h_a) - Phi(0)]/h_a: the form of the theory, which leaves out Phi(0), is
    for Phi(0) = 0.
    """
    coupling = untied(getkey)
    lagrangian = ELEMENTWISE[name]
    g = normal(getkey(), (5,))
    # The closed form divides by the currents: they are moved away from zero, by 1/2 each.
    aside = 0.5 * jnp.sign(coupling.up @ g)[:, None] * g[None] / jnp.sum(g**2)
    coupling = eqx.tree_at(lambda c: c.up, coupling, coupling.up + aside)
    potential = dense(coupling, lagrangian).potential
    phi = lambda h: jax.vmap(lagrangian)(h)

    def closed(g):
        h = coupling.up @ g
        return jnp.sum((coupling.down.T @ g) * (phi(h) - phi(jnp.zeros_like(h))) / h)

    radial = lambda g: radial_potential(potential, g) - potential(jnp.zeros_like(g))
    found, expected = jax.jit(lambda g: [jax.value_and_grad(f)(g) for f in (radial, closed)])(g)
    assert_close(found, expected, 1e-11)


def test_small_and_vanishing_currents_are_no_singularity(getkey):
    """Where the closed form divides by h = 0, the quadrature and its gradient are plain numbers."""
    coupling = untied(getkey)
    coupling = eqx.tree_at(
        lambda c: c.up, coupling, coupling.up.at[0].set(0.0).at[1].multiply(1e-9)
    )
    block = dense(coupling, Tanh())
    g = normal(getkey(), (5,))
    h = np.asarray(coupling.up[1:] @ g)
    # The mean of tanh(t h) over [0, 1]; log cosh h is no number of use where h is 1e-9.
    mean = np.where(np.abs(h) < 1e-6, h / 2, np.log(np.cosh(h)) / h)
    value, gradient = jax.value_and_grad(lambda g: radial_potential(block.potential, g))(g)
    expected = np.asarray(coupling.down.T @ g)[1:] * mean
    assert_close(value, np.sum(expected), 1e-9, np.sum(np.abs(expected)))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "name, size, error",
    [
        ("gelu", 10, 1e-14),
        ("gelu", 30, 1e-12),
        ("gelu", 100, 3e-8),
        ("tanh", 30, 1e-9),
        ("tanh", 100, 1e-6),
    ],
)
def test_the_stated_errors_of_the_quadrature(name, size, error):
    """Single units with all currents up to a size: relative to the largest."""
    lagrangian = {"gelu": GELU(), "tanh": Tanh()}[name]
    potential = dense(
        Coupling.from_weights(jnp.ones((1, 1)), jnp.ones((1, 1))), lagrangian
    ).potential
    h = jnp.linspace(-size, size, 201)
    found = jax.vmap(lambda h: radial_potential(potential, h[None]))(h)
    if name == "gelu":
        gauss = h * jnp.exp(-(h**2) / 2) * np.sqrt(2 / np.pi)
        expected = (
            h**2 * scipy.special.erfc(-h / np.sqrt(2)) - scipy.special.erf(h / np.sqrt(2)) + gauss
        ) / 4
    else:
        expected = np.logaddexp(h, -h) - np.log(2)
    assert_close(found, expected, error)


def test_a_kink_on_the_way_costs_accuracy_and_more_nodes_bring_it_back():
    potential = lambda b: (
        dense(
            Coupling.from_weights(jnp.ones((1, 1)), jnp.ones((1, 1))), ReLU(), bias=jnp.asarray([b])
        ).potential
    )
    g = jnp.linspace(-20, 20, 41)

    def error(nodes):
        found = jax.vmap(lambda g: radial_potential(potential(-3.3), g[None], nodes=nodes))(g)
        return jnp.max(
            jnp.abs(found - 0.5 * jnp.maximum(g - 3.3, 0) ** 2) / jnp.maximum(jnp.abs(g), 1)
        )

    # In units of h, times the v.g = g it is multiplied with.
    assert error(32) < 2e-4 * 20
    assert error(512) < error(32) / 30


# ---- Against automatic differentiation, for every kind of block ----------------------------------

KINDS = [
    ("symmetric", "joint", "conservative"),
    ("free", "joint", "conservative"),
    ("symmetric", "token", "scalar"),
    ("symmetric", "joint", "elementwise"),
]


@pytest.mark.parametrize("kind, norm, scale", KINDS)
def test_every_mixer(kind, norm, scale, getkey):
    """The rates are those of automatic differentiation, and tied weights leave no difference
    between the energies.
    """
    block = make_block(getkey(), kind, norm=norm, scale=scale, options={"leak": 0.7})
    x = normal(getkey(), VISIBLE_SHAPE)
    conservative = kind == "symmetric" and scale != "elementwise"

    @eqx.filter_jit
    def measure(block, x):
        moving = velocity(block, x)
        radial = partial(radial_potential, block.potential)
        pairs = [(block.energy, None), (lambda x: radial_energy(block, x), radial)]
        rates = [(power(block, x, u), jax.jvp(energy, (x,), (moving,))[1]) for energy, u in pairs]
        return rates, residual_force(block, x, radial), radial_energy(block, x), block.energy(x)

    rates, residual, radial, own = measure(block, x)
    for found, expected in rates:
        size = found.dissipation + abs(found.work)
        assert_close(found.rate, expected, 1e-10, size)
        assert_close(found.work - found.dissipation, expected, 1e-10, size)
    assert found.dissipation > 0
    size = np.sum(np.abs(x * block.activation(x)))  # of the terms of the energy
    assert (abs(radial - own) < 1e-10 * size) == conservative
    assert (np.max(np.abs(residual)) < 1e-10 * np.max(np.abs(block.force(x)))) == conservative
    # The residual of the radial potential is orthogonal to the activation.
    assert_close(np.sum(residual * block.activation(x)), 0.0, 1e-10, size)


def test_units_that_compete_and_affine_hidden_layers(getkey):
    """Nothing is assumed about the hidden units: softmax, and a scale and shift behind them."""
    x = normal(getkey(), (5,))
    tied = Coupling(normal(getkey(), (4, 5)))
    for block in (dense(tied, Softmax(2.0)), derive_block(hidden_affine(getkey()), ["h"])):
        assert_close(radial_energy(block, x), block.energy(x), scale=jnp.sum(x**2))
        assert_close(
            residual_force(block, x, partial(radial_potential, block.potential)) / 10,
            jnp.zeros_like(x),
            1e-12,
        )


@pytest.mark.parametrize("leak", [0.0, 0.6])
def test_time_constants_and_leak(leak, getkey):
    block = dense(untied(getkey), GELU(), LayerNorm(), leak=leak, tau=2.5)
    x = normal(getkey(), (5,))
    found = power(block, x)
    moving = velocity(block, x)
    h = jax.jacfwd(block.activation)(x)
    assert_close(found.dissipation, 2.5 * moving @ h @ moving)
    size = found.dissipation + jnp.linalg.norm(h @ moving) * jnp.linalg.norm(
        residual_force(block, x)
    )
    assert_close(found.rate, jax.jvp(block.energy, (x,), (moving,))[1], scale=size)
    assert_close(found.work, moving @ h @ residual_force(block, x), scale=size)
    slow = dense(couplings(block)[0], GELU(), LayerNorm(), leak=leak, tau=7.0)
    assert_close(1 / descent_margin(slow, x), 1 / descent_margin(block, x), scale=1.0)


def test_clamped_entries_take_no_part(getkey):
    """The rate stays that of the energy along the true velocity; what holds the entries counts as
    residual.
    """
    coupling = untied(getkey)
    mask = jnp.asarray([True, False, False, False, False])
    block = dense(coupling, GELU(), Tanh())
    memory = block.potential.memory.clamp({"v": mask})
    block = derive_block(memory, ["h"], leak=0.6)
    x = normal(getkey(), (5,))
    found = power(block, x)
    moving = velocity(block, x)
    assert moving[0] == 0
    size = found.dissipation + abs(found.work)
    assert_close(found.rate, jax.jvp(block.energy, (x,), (moving,))[1], scale=size)
    assert_close(found.rate, found.work - found.dissipation, scale=size)
    rate = jax.jvp(with_tied_weights(block).energy, (x,), (moving,))[1]
    assert (rate <= 0) == (descent_margin(block, x) >= 1)


# ---- Tied weights --------------------------------------------------------------------------------


@pytest.mark.quick
def test_with_tied_weights_changes_couplings_and_scales_only(getkey):
    block = make_block(getkey(), "free", scale="elementwise")
    tied = with_tied_weights(block)
    for before, after in zip(couplings(block), couplings(tied)):
        np.testing.assert_array_equal(after.up, before.up)
        np.testing.assert_array_equal(after.down, before.up.T)
    before = affine_of(block.potential.neurons)
    after = affine_of(tied.potential.neurons)
    assert after.conservative
    assert not before.conservative
    np.testing.assert_array_equal(after.scale, before.scale)
    for name, synapse in block.potential.memory.synapses.items():
        if isinstance(synapse, Bias):
            kept = tied.potential.memory.synapses[name]
            assert isinstance(kept, Bias)
            np.testing.assert_array_equal(kept.bias, synapse.bias)


def test_a_whole_model_can_be_tied(getkey):
    config = MixerConfig(image=(8, 8, 1), patch=4, dim=6, depth=2, classes=3)
    tied = with_tied_weights(Mixer(config, key=getkey()))
    assert len(couplings(tied)) == 4
    for coupling in couplings(tied):
        np.testing.assert_array_equal(coupling.down, coupling.up.T)


# ---- Compilation, differentiation, precision -----------------------------------------------------


def test_margins_can_be_mapped_and_differentiated(getkey):
    block = make_block(getkey(), "free")
    states = normal(getkey(), (6, *VISIBLE_SHAPE))
    margins, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda x: descent_margin(block, x))))(
        states
    )
    assert jnp.all(margins > 0)
    assert jnp.all(jnp.isfinite(slopes))
    tied = jax.grad(lambda x: descent_margin(with_tied_weights(block), x))(states[0])
    np.testing.assert_array_equal(tied, 0)


def test_energies_differentiate_with_respect_to_weights(getkey):
    """Down-weights included, which the energy of a tied block does not see."""
    x = normal(getkey(), (5,))
    slope = jax.grad(lambda c: radial_energy(dense(c, GELU()), x))(untied(getkey))
    assert jnp.max(jnp.abs(slope.up)) > 1e-3
    assert jnp.max(jnp.abs(slope.breaking)) > 1e-3


def test_single_precision(getkey):
    """The same numbers to float32's precision, in float32 throughout; and finite at a thousand."""
    block = make_block(getkey(), "free", options={"leak": 0.5})
    x = normal(getkey(), VISIBLE_SHAPE)

    @eqx.filter_jit
    def measure(block, x):
        return (
            radial_energy(block, x),
            power(block, x),
            residual_force(block, x),
            1 / descent_margin(block, x),
        )

    wide = measure(block, x)
    narrow = measure(cast(block, jnp.float32), x.astype(jnp.float32))
    for expected, found in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow)):
        assert found.dtype == jnp.float32
        size = max(
            float(jnp.max(jnp.abs(expected))),
            0.1 * float(wide[1].dissipation) * (expected.ndim == 0),
        )
        assert (
            np.max(np.abs(np.asarray(found, np.float64) - expected))
            < 10 * TOLERANCE["float32"] * size
        )
    assert jnp.all(jnp.isfinite(measure(cast(block, jnp.float32), 1e3 * x.astype(jnp.float32))[0]))


# ---- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f", [power, residual_force, descent_margin, radial_energy], ids=lambda f: f.__name__
)
@pytest.mark.quick
def test_batches_are_refused(f, getkey):
    with pytest.raises(
        ValueError, match=r"one example, of shape \(4, 6\), got \(4, 2, 6\); batch with `jax.vmap`"
    ):
        f(make_block(getkey()), jnp.zeros((4, 2, 6)))


@pytest.mark.parametrize("leak", [0.0, 1.0])
def test_the_budget_adds_up_to_the_change_of_the_energy(leak, fixedkey):
    """Along a flow: what the residual force does less what is dissipated, to second order in the
    distance of times.
    """
    block = make_block(fixedkey(), "free", options={"leak": leak})
    x = normal(fixedkey(), VISIBLE_SHAPE)

    def gap(points: int) -> float:
        times = jnp.linspace(0, 0.5, points)
        states = flow(block, x, 0.5, saveat=diffrax.SaveAt(ts=times), rtol=1e-10, atol=1e-12).ys
        assert states is not None
        spent = energy_budget(block, times, states)
        energies = jax.vmap(block.energy)(states)
        assert spent.rate.shape == (points,)
        assert_close(spent.rate, spent.work - spent.dissipation, 1e-10)
        return float(jnp.max(jnp.abs(spent.rate - (energies - energies[0])))) / float(
            jnp.ptp(energies)
        )

    coarse = gap(101)
    fine = gap(201)
    assert fine < 1e-3
    assert 3 < coarse / fine < 5
