"""Random compositions of everything: what is certified is true in plain NumPy, and what is true is
certified.

`HOPMIX_FUZZ=5000` tries as many blocks; the suite tries 300.
"""

import dataclasses
import math
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import hopmix as hm

BLOCKS = int(os.environ.get("HOPMIX_FUZZ", "300"))
CHUNKS = 10
EPS = 2.0**-52

GAINS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Powers of two, so that W^T D is exact in every precision."""

TIED = ("tied", "zero breaking", "half", "gained", "turned", "pair")
UNTIED = ("free", "one row", "one column", "breaking")
GRID = (2, 3)


@dataclasses.dataclass
class Case:
    """A block, the same in NumPy, and what is true of it by construction."""

    block: hm.Block
    twin: reference.Block
    conservative: bool
    convex: bool
    whole: bool
    smooth: bool
    dtype: Any

    @property
    def all_layers_descend(self) -> bool:
        """Whether the memory of the block, in which hidden layers take their time, has what C01
        needs.
        """
        branches = [part for part in self.twin.parts if isinstance(part, reference.Branch)]
        hidden = all(type(b.units) is not hm.GELU and np.all(b.gains > 0) for b in branches)
        return self.conservative and self.convex and self.whole and self.smooth and hidden


class Draw:
    """Random choices of one case, all from one seed."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.dtype: Any = self.one(np.float64, np.float64, np.float32, jnp.bfloat16)
        self.size = 10.0 ** self.one(-20, -6, -3, -1, 0, 0, 0, 1, 3, 20)

    def one(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def yes(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def normal(self, *shape: int, size: float = 1.0) -> np.ndarray:
        """Numbers that the precision of the case can hold exactly."""
        return (size * self.rng.standard_normal(shape)).astype(self.dtype).astype(float)

    def array(self, a: Any) -> jax.Array:
        return jnp.asarray(np.asarray(a), self.dtype)

    def beta(self) -> Any:
        beta = self.one(0.25, 1.0, 4.0)
        return self.array(beta) if self.yes() else beta


# ---- Parts ---------------------------------------------------------------------------------------


def simple(d: Draw, rank: int, *, bounded: bool) -> hm.AbstractLagrangian:
    """A convex Lagrangian; a bounded one has activations that grow no faster than their states."""
    axes = d.one(None, (-1,), tuple(range(rank)))
    eps = d.one(1e-6, 1e-2, 1.0)
    rows = [
        lambda: hm.Quadratic(),
        lambda: hm.ReLU(),
        lambda: hm.Tanh(d.beta()),
        lambda: hm.Sigmoid(d.beta()),
        lambda: hm.Softmax(d.beta(), axes),
        lambda: hm.GhostMax(d.beta(), axes),
        lambda: hm.Entmax(d.one(1.5, 2.0), d.beta(), axes),
        lambda: hm.LayerNorm(axes, d.one(1.0, 0.25, d.array(2.0)), None, eps),
        lambda: hm.LayerNorm(axes, 1.0, d.array(d.normal(*(1,) * rank)), eps),
        lambda: hm.SphericalNorm(axes, eps),
        lambda: hm.RePU(3),
        lambda: hm.Exponential(d.one(0.25, 0.5)),
    ]
    return d.one(*(rows[:-2] if bounded else rows))()


def composed(d: Draw, rank: int, *, bounded: bool) -> hm.AbstractLagrangian:
    first = simple(d, rank, bounded=bounded)
    if d.yes(0.7):
        return first
    return d.one(0.5, 2.0) * first + d.one(0.1, 1.0) * simple(d, rank, bounded=bounded)


def visible_units(d: Draw, rank: int) -> tuple[hm.AbstractLagrangian, bool, bool]:
    """A Lagrangian, whether it is convex, and whether it is defined everywhere."""
    if d.yes(0.8):
        return composed(d, rank, bounded=True), True, True
    if d.yes(0.5):
        return d.one(hm.LayerNorm(None, eps=0.0), hm.SphericalNorm(None, eps=1e-320)), True, False
    concave = (
        hm.GELU(),
        -1.0 * hm.Quadratic(),
        hm.Tanh(-1.0),
        hm.LayerNorm(None, -1.0),
        hm.Softmax(-2.0),
    )
    return d.one(*concave), False, True


def hidden_units(d: Draw, rank: int) -> tuple[hm.AbstractLagrangian, bool]:
    """A Lagrangian, and whether its activation is continuous."""
    if d.yes(0.05):
        return hm.LogSumReLU(), False
    return (hm.GELU() if d.yes(0.4) else composed(d, rank, bounded=False)), True


def elementwise(units: hm.AbstractLagrangian) -> bool:
    return all(type(part).__name__ in reference.UNITS for part in units.parts)


def weights(d: Draw, shape: tuple[int, int], kind: str, *, alike: bool):
    """Couplings that act together, the matrices up and down of all of them, and the gains of the
    hidden units.
    """
    hidden, visible = shape
    up = d.normal(hidden, visible, size=d.size / math.sqrt(visible))
    gains = np.ones(hidden)
    if kind == "half":
        return [hm.Coupling(d.array(up), tie=0.5)], up, 0.5 * up.T, 0.5 * gains
    if kind in ("gained", "turned"):
        signs = d.rng.choice([-1.0, 1.0], hidden) if kind == "turned" else 1.0
        gains = signs * d.rng.choice(GAINS, hidden)
        gains = np.full(hidden, abs(gains[0])) if alike else gains
        return (
            [hm.Coupling.from_weights(d.array(up), d.array(up.T * gains))],
            up,
            up.T * gains,
            gains,
        )
    if kind == "pair":
        mask, other = d.rng.random((2, hidden, visible)) < 0.5
        halves = [(up * mask, up.T * other.T), (up * ~mask, up.T * ~other.T)]
        return (
            [hm.Coupling.from_weights(d.array(w), d.array(v)) for w, v in halves],
            up,
            up.T,
            gains,
        )
    if kind == "one row":
        d.rng.shuffle(gains)
        small = d.one(1.0, 1e-3, 1e-9)
        up[0] *= small
        down = up.T.copy()
        down[:, 0] = d.normal(visible, size=small * d.size)
    elif kind == "one column":
        up[:, 0] *= d.one(1e3, 1e9)
        down = d.normal(visible, hidden, size=d.size)
        down[0] = up[:, 0]
    elif kind == "free":
        down = d.normal(visible, hidden, size=d.size)
    elif kind == "breaking":
        down = up.T * (1 + 0.1 * d.normal(visible, hidden))  # which bfloat16 can hold
    else:
        breaking = None if kind == "tied" else jnp.zeros((visible, hidden), d.dtype)
        return [hm.Coupling(d.array(up), breaking=breaking)], up, up.T, gains
    up = np.asarray(d.array(up), float)
    down = np.asarray(d.array(down), float)
    return [hm.Coupling.from_weights(d.array(up), d.array(down))], up, down, gains


def branch(d: Draw, shape: tuple[int, ...], tied: bool):
    """A hidden layer: its neurons, its synapses, the same in NumPy, and whether its activation is
    continuous.
    """
    make, size, hidden_shape, units_last = mixing(d, shape)
    units, smooth = hidden_units(d, len(shape))
    kind = d.one(*TIED) if tied else d.one(*UNTIED)
    couplings, up, down, gains = weights(d, size, kind, alike=not elementwise(units))
    synapses: list[hm.AbstractSynapse] = [make(coupling) for coupling in couplings]
    whole_up, whole_down = reference.matrices(synapses[0], up, down, shape)
    count = math.prod(hidden_shape)
    outer = (1, -1) if units_last else (-1, 1)
    spread_gains = np.broadcast_to(
        gains.reshape(outer) if len(shape) > 1 else gains, hidden_shape
    ).ravel()
    zeros = np.zeros(count)
    extra = {"bias": zeros, "input": zeros, "scale": np.ones(count), "shift": zeros}
    neurons = hm.Neurons(units, hidden_shape, tau=d.one(0.5, 1.0, 3.0))
    if d.yes(0.2):
        extra["input"] = d.normal(count)
        neurons = dataclasses.replace(neurons, input=d.array(extra["input"].reshape(hidden_shape)))
    if d.yes(0.2):
        extra["bias"] = d.normal(count)
        synapses.append(hm.Bias(d.array(extra["bias"].reshape(hidden_shape))))
    if d.yes(0.2) and kind in ("tied", "zero breaking", "pair"):
        extra |= {"scale": d.normal(count), "shift": d.normal(count)}
        scale = d.array(extra["scale"].reshape(hidden_shape))
        shift = d.array(extra["shift"].reshape(hidden_shape))
        neurons = dataclasses.replace(neurons, affine=hm.Affine(scale, shift))
    twin = reference.Branch(units, hidden_shape, whole_up, whole_down, spread_gains, **extra)
    return neurons, synapses, twin, smooth


def mixing(d: Draw, shape: tuple[int, ...]):
    """How to make a bilinear synapse of a visible layer, the shape of its weights, and that of the
    hidden layer.
    """
    hidden = int(d.rng.integers(1, 5))
    if len(shape) == 1:
        return hm.Dense, (hidden, shape[0]), (hidden,), False
    tokens, channels = shape
    kind = d.one("token", "channel", "convolution")
    if kind == "token":
        return hm.TokenMixing, (hidden, tokens), (hidden, channels), False
    if kind == "channel":
        return hm.ChannelMixing, (hidden, channels), (tokens, hidden), True
    window = d.one((3, 3), (1, 3), (2, 2))
    make = lambda coupling: hm.Convolution(coupling, GRID, window)
    return make, (hidden, window[0] * window[1] * channels), (tokens, hidden), True


class Bent(eqx.Module):
    """A smooth interaction of a layer with itself."""

    weights: jax.Array

    def __call__(self, g):
        return -jnp.sum(jnp.tanh(g) * (self.weights @ g))


def loop(d: Draw, shape: tuple[int, ...]) -> hm.AbstractSynapse:
    """A synapse of the visible layer with itself, of tied weights."""
    if len(shape) == 2 and d.yes(0.6):
        queries, keys = (d.array(d.normal(2, 2, shape[1], size=d.size)) for _ in range(2))
        return hm.Attention(queries, keys, d.one(0.5, 2.0), d.yes(), d.yes())
    if len(shape) == 1 and d.yes(0.3):
        half = d.rng.integers(-8, 9, (shape[0], shape[0])) * d.size
        turn = d.one(0, 1) * d.rng.integers(-8, 9, half.shape) * d.size
        # Only the sum of both ways counts: integers times one number, so that the precision holds
        # it.
        up = half + turn - turn.T
        down = half.T - turn + turn.T
        return hm.Dense(hm.Coupling.from_weights(d.array(up / d.size), d.array(down / d.size)))
    if len(shape) == 1 and d.yes(0.2):
        return hm.HyperSynapse(Bent(d.array(d.normal(shape[0], shape[0], size=min(d.size, 10.0)))))
    patterns = d.array(d.normal(int(d.rng.integers(1, 6)), *shape, size=min(d.size, 10.0)))
    if d.yes():
        return hm.HopfieldMemory(patterns, composed(d, 1, bounded=True))
    kinds = (
        hm.Softmax(d.beta(), d.one(None, ())),
        hm.Entmax(1.5, d.beta()),
        hm.GhostMax(1.0),
        hm.Exponential(0.5),
        hm.Sigmoid(),
    )
    return hm.HopfieldMemory(patterns, d.one(*kinds, hm.Tanh(), hm.Quadratic()), "distance")


def draw(seed: int) -> Case:
    d = Draw(seed)
    shape = d.one((3,), (5,), (6, 2), (6, 3))
    units, convex, smooth = visible_units(d, len(shape))
    tied = d.yes(0.8)
    neurons: dict[str, hm.Neurons] = {}
    synapses: dict[str, hm.AbstractSynapse] = {}
    ends: dict[str, tuple[str, ...]] = {}
    parts: list[reference.Branch | reference.Loop] = []
    for i in range(int(d.rng.integers(1, 3))):
        neurons[f"h{i}"], made, twin, continuous = branch(d, shape, tied or i > 0)
        smooth &= continuous
        parts.append(twin)
        for j, synapse in enumerate(made):
            synapses[f"s{i}{j}"] = synapse
            ends[f"s{i}{j}"] = (f"h{i}",) if isinstance(synapse, hm.Bias) else ("x", f"h{i}")
    if d.yes(0.3):
        synapses["loop"] = loop(d, shape)
        ends["loop"] = ("x", "x") if isinstance(synapses["loop"], hm.Dense) else ("x",)
        parts.append(reference.Loop(synapses["loop"], shape))
    if len(shape) == 2 and d.yes(0.2):
        synapses["pool"] = hm.Pooling(GRID)
        units_of_pool, continuous = hidden_units(d, 2)
        smooth &= continuous
        neurons["p"] = hm.Neurons(units_of_pool, shape)
        ends["pool"] = ("x", "p")
        matrix = reference.pooling(synapses["pool"], shape[1])
        ones = np.ones(math.prod(shape))
        plain = {
            "gains": ones,
            "bias": 0 * ones,
            "input": 0 * ones,
            "scale": ones,
            "shift": 0 * ones,
        }
        parts.append(reference.Branch(units_of_pool, shape, matrix, matrix.T, **plain))
    neurons["x"], outer, clean = visible(d, units, shape)
    memory = hm.AssociativeMemory(neurons, synapses, ends)
    leak = d.one(0.0, 0.0, 1.0, float(10 ** d.rng.uniform(-2, 2)))
    block = hm.derive_block(memory, [name for name in neurons if name != "x"], leak=leak, step=1e-9)
    twin = reference.Block(units, shape, parts, leak=leak, step=1e-9, **outer)
    return Case(block, twin, tied and clean["scale"], convex, clean["groups"], smooth, d.dtype)


def visible(d: Draw, units: hm.AbstractLagrangian, shape: tuple[int, ...]):
    """The visible neurons with an affine, an input and clamps or without, and the same flat for
    NumPy.
    """
    count = math.prod(shape)
    neurons = hm.Neurons(units, shape)
    outer: dict[str, Any] = {
        "scale": np.ones(count),
        "shift": np.zeros(count),
        "scale_back": np.ones(count),
    }
    outer |= {"current": np.zeros(count), "free": np.ones(count)}
    clean = {"scale": True, "groups": True}
    if d.yes(0.3):
        conservative = d.yes(0.7)
        outer["scale"] = d.normal(count)
        outer["shift"] = d.normal(count)
        outer["scale_back"] = outer["scale"] if conservative else np.ones(count)
        clean["scale"] = conservative
        scale = d.array(outer["scale"].reshape(shape))
        shift = d.array(outer["shift"].reshape(shape))
        neurons = dataclasses.replace(neurons, affine=hm.Affine(scale, shift, conservative))
    if d.yes(0.3):
        outer["current"] = d.normal(count)
        neurons = dataclasses.replace(neurons, input=d.array(outer["current"].reshape(shape)))
    if d.yes(0.2):
        mask = d.rng.random(shape) < 0.5
        if len(shape) == 2 and d.yes():
            mask = np.broadcast_to(mask[:, :1], shape)
        outer["free"] = 1.0 - mask.ravel()
        clean["groups"] = elementwise(units) or all(_whole(part, mask) for part in units.parts)
        neurons = dataclasses.replace(neurons, clamped=jnp.asarray(mask))
    return neurons, outer, clean


def _whole(part: Any, mask: np.ndarray) -> bool:
    if type(part).__name__ in reference.UNITS:
        return True
    return bool(np.all(mask.any(part.axes) == mask.all(part.axes)))


# ---- What is checked -----------------------------------------------------------------------------


def states(d: Draw, count: int, shape: tuple[int, ...]) -> reference.Array:
    sizes = 10.0 ** d.rng.uniform(-3, 2, (count, 1))
    x = sizes * d.rng.standard_normal((count, math.prod(shape)))
    zero = np.zeros_like(x[:1])
    nearly_constant = 1 + 1e-3 * x[1:2]  # where norms are steepest
    return np.concatenate([zero, nearly_constant, x[2:]])


def nudges(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).choice([-1.0, 1.0], (3, *shape))


def rises(twin: reference.Block, x: np.ndarray, after: np.ndarray) -> np.ndarray:
    """By how much energies rise beyond what rounding explains; 0 where numbers are too large to
    tell.
    """
    old, old_size = twin.energy(x)
    new, new_size = twin.energy(after)
    rounding = (
        8 * EPS * np.maximum(np.abs(x), np.abs(after))
    )  # a step may nearly take back its state
    nudged = [np.abs(twin.energy(after + rounding * sign)[0] - new) for sign in nudges(after.shape)]
    allowed = 64 * EPS * (old_size + new_size) + 4 * np.max(nudged, 0)
    excess = (new - old - allowed) / (old_size + new_size + 1e-300)
    return np.where(np.isfinite(excess) & (new_size < 1e100), excess, 0)


def assert_true(case: Case, d: Draw) -> None:
    of_memory = hm.certify(case.block.potential.memory)
    assert of_memory.descends_in_flow is case.all_layers_descend, f"{case}\n{of_memory}"
    certificate = hm.certify(case.block)
    expected = case.conservative and case.convex and case.whole and case.smooth
    assert certificate.descends_in_flow is expected, f"{case}\n{certificate}"
    if not expected or math.isnan(certificate.step_bound):
        return
    bound = certificate.step_bound
    step = float(10 ** d.rng.uniform(-2, 3)) if math.isinf(bound) else bound
    block = dataclasses.replace(case.block, step=step)
    twin = dataclasses.replace(case.twin, step=step)
    assert hm.certify(block).descends_in_steps
    x = states(d, 16, case.twin.shape)
    for _ in range(6):
        after = twin.advance(x)
        worst = rises(twin, x, after)
        assert np.max(worst) <= 0, f"rises by {np.max(worst):.3g}\n{certificate}"
        x = np.where(np.abs(after) < 1e50, after, 0)
    assert_bounds_at_states(case, certificate, d)


def assert_bounds_at_states(case: Case, certificate: hm.Certificate, d: Draw) -> None:
    """A step as long as the bound at a state descends from there."""
    for x in states(d, 4, case.twin.shape)[1:]:
        bound = certificate.step_bound_at(jnp.asarray(x.reshape(case.twin.shape), d.dtype))
        x = np.asarray(jnp.asarray(x, d.dtype), float)[None]
        twin = dataclasses.replace(case.twin, step=min(bound, 1e3))
        worst = rises(twin, x, twin.advance(x))
        assert np.max(worst) <= 0, (
            f"rises by {np.max(worst):.3g} at its own bound {bound:.3g}\n{certificate}"
        )


@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy tells of overflow, which is told apart here
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_certified_is_true(chunk, getkey):
    first = int(jax.random.randint(getkey(), (), 0, 2**30))
    for i in range(BLOCKS // CHUNKS):
        seed = first + i
        try:
            assert_true(draw(seed), Draw(seed + 2**30))
        except AssertionError as error:
            raise AssertionError(f"block {seed}: {error}") from error


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_blocks_of_numpy_are_those_of_hopmix(getkey):
    """Forces and energies of both, so that what is said of one is said of the other."""
    first = int(jax.random.randint(getkey(), (), 0, 2**30))
    compared = 0
    for seed in range(first, first + 12):
        case = draw(seed)
        x = states(Draw(seed + 2**30), 4, case.twin.shape)[2:]
        x = np.asarray(jnp.asarray(np.clip(x, -4, 4), case.dtype), float)
        precise = {np.float64: 1e-9, np.float32: 1e-3, jnp.bfloat16: 0.2}[case.dtype]
        forces = case.twin.force(x)
        energies, sizes = case.twin.energy(x)
        if not np.all(np.isfinite(forces)) or np.max(sizes) > 1e20:
            continue
        for state, force, energy, size in zip(x, forces, energies, sizes):
            given = jnp.asarray(state.reshape(case.twin.shape), case.dtype)
            np.testing.assert_allclose(
                np.asarray(case.block.force(given), float).ravel(),
                force,
                rtol=0,
                atol=precise * (1 + np.abs(force).max()),
            )
            if case.conservative and case.smooth:
                value = float(hm.certify(case.block).energy(given))
                assert abs(value - energy) <= precise * (1 + size), seed
        compared += 1
    assert compared >= 4
