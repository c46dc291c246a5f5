"""Vector fields: the index with and without Jacobians, the local split, work along trajectories and
around loops.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import LAGRANGIANS, VISIBLE_SHAPE, assert_close, make_block, normal

from hopmix import (
    GELU,
    Block,
    Coupling,
    LayerNorm,
    Mixer,
    MixerConfig,
    Quadratic,
    field_asymmetry,
    measure_asymmetry,
)
from hopmix.claims._small_mixer import draw_weights, free, small_mixer
from hopmix.symmetry import estimate_field_asymmetry, helmholtz_split, loop_integral, work_along

# ---- The exact index -----------------------------------------------------------------------------


def with_and_without_the_metric(name: str, keys) -> tuple[jax.Array, jax.Array]:
    """The index of a gradient in the activations of this Lagrangian."""
    shape = (2, 3)
    lagrangian = LAGRANGIANS[name](shape, jnp.float64)
    matrix = normal(keys(), (6, 6))
    potential = lambda g: GELU()(matrix @ g.reshape(6))
    field = lambda x: jax.grad(potential)(lagrangian.activation(x)) - 0.5 * x
    run = jax.jit(lambda x: (field_asymmetry(field, x, lagrangian), field_asymmetry(field, x)))
    return run(normal(keys(), shape))


@pytest.mark.parametrize("name", ["quadratic", "tanh", "softmax", "layer norm", "spherical norm"])
@pytest.mark.quick
def test_a_gradient_in_the_activations_is_symmetric_in_the_metric(name, getkey):
    assert with_and_without_the_metric(name, getkey)[0] <= 1e-12


@pytest.mark.parametrize("name", ["quadratic", "tanh", "softmax", "layer norm", "spherical norm"])
def test_without_the_metric_it_is_symmetric_for_linear_units_alone(name, fixedkey):
    _, without = with_and_without_the_metric(name, fixedkey)
    assert without <= 1e-12 if name == "quadratic" else without > 1e-3


@pytest.mark.quick
def test_the_asymmetry_of_linear_fields_is_known(getkey):
    a = normal(getkey(), (4, 4))
    x = normal(getkey(), (4,))
    norm = np.linalg.norm
    for matrix in (a, a + a.T, a - a.T, a + 3 * a.T):
        expected = norm(matrix - matrix.T) / (2 * norm(matrix))
        np.testing.assert_allclose(
            field_asymmetry(lambda x, m=matrix: m @ x, x), expected, atol=1e-12
        )
        np.testing.assert_allclose(
            field_asymmetry(lambda x, m=matrix: m @ x, x, Quadratic()), expected, atol=1e-12
        )
    assert_close(field_asymmetry(lambda x: (a - a.T) @ x, x), 1.0)


def test_a_field_that_changes_the_shape_is_named(getkey):
    with pytest.raises(
        ValueError, match=r"A vector field keeps the shape of its state: got \(3,\) from \(4,\)"
    ):
        field_asymmetry(lambda x: x[:3], normal(jr.key(0), (4,)))


def test_the_index_is_the_symmetry_score_of_the_linearisation(getkey):
    """a^2 = (1 - s)/2, for the field of a coupling of linear units."""
    coupling = Coupling.from_weights(normal(getkey(), (4, 6)), normal(getkey(), (6, 4)))
    found = field_asymmetry(lambda x: coupling.down @ (coupling.up @ x), normal(getkey(), (6,)))
    assert_close(2 * found**2, 1 - measure_asymmetry(coupling).symmetry_score)


def test_unrelated_entries_give_the_root_of_one_half(getkey):
    """Within seven standard errors, of 1/(2n) each."""
    m = normal(getkey(), (120, 120))
    np.testing.assert_allclose(
        field_asymmetry(lambda x: m @ x, jnp.zeros(120)), math.sqrt(0.5), atol=0.03
    )


def test_large_states_are_referred_to_the_estimate():
    with pytest.raises(
        ValueError, match=r"5,000 entries would have 25,000,000.*estimate_field_asymmetry"
    ):
        field_asymmetry(lambda x: x, jnp.zeros(5000))


# ---- The estimate --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [True, False])
def test_the_estimate_agrees_with_the_exact_index(metric, fixedkey):
    """400 estimates: their mean is the index, their spread the standard error that each states."""
    weights, (x,) = draw_weights(fixedkey(), 1)
    block = small_mixer(weights, free)
    lagrangian = block.potential.neurons.lagrangian if metric else None
    exact = field_asymmetry(block.force, x, lagrangian)
    estimate = lambda key: estimate_field_asymmetry(block.force, x, lagrangian, key=key, probes=40)
    value, stderr = jax.jit(jax.vmap(estimate))(jr.split(fixedkey(), 400))
    assert exact > 0.05
    assert abs(jnp.mean(value) - exact) < 5 * jnp.std(value) / 20 + 0.02 * exact
    assert abs(jnp.mean(stderr) / jnp.std(value) - 1) < 0.25


def test_more_probes_have_smaller_errors(fixedkey):
    m = normal(fixedkey(), (20, 20))
    found = [
        estimate_field_asymmetry(lambda x: m @ x, jnp.zeros(20), key=jr.key(0), probes=n)
        for n in (16, 1024)
    ]
    assert 4 < found[0].stderr / found[1].stderr < 16
    exact = field_asymmetry(lambda x: m @ x, jnp.zeros(20))
    assert abs(found[1].value - exact) < 5 * found[1].stderr + 1e-3


def test_gradients_and_rotations_are_found_exactly_by_any_probes(getkey):
    a = normal(getkey(), (9, 9))
    x = normal(getkey(), (9,))
    for probes in (2, 5):
        gradient = estimate_field_asymmetry(lambda x: (a + a.T) @ x, x, key=getkey(), probes=probes)
        rotation = estimate_field_asymmetry(lambda x: (a - a.T) @ x, x, key=getkey(), probes=probes)
        np.testing.assert_allclose(
            gradient, (0, 0), atol=9 * np.finfo(float).eps
        )  # rounding of sums of nine terms
        np.testing.assert_allclose(rotation, (1, 0), atol=1e-14)
    tied = make_block(getkey())
    lagrangian = tied.potential.neurons.lagrangian
    found = estimate_field_asymmetry(
        tied.force, normal(getkey(), VISIBLE_SHAPE), lagrangian, key=getkey()
    )
    assert found.value < 1e-12


@pytest.mark.parametrize("coupling, below, above", [("symmetric", 1e-5, -1.0), ("free", 0.8, 0.3)])
def test_single_precision_and_states_too_large_for_jacobians(coupling, below, above):
    """The field of a block of 16 tokens and 512 channels at image states, in float32."""
    config = MixerConfig(
        image=(16, 16, 3),
        patch=4,
        dim=512,
        depth=1,
        classes=2,
        coupling=coupling,
        channel_hidden=64,
    )
    model = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf,
        Mixer(config, key=jr.key(0)),
    )
    block = model.blocks[0]
    x = model.embed(jr.normal(jr.key(1), (16, 16, 3), jnp.float32))
    found = estimate_field_asymmetry(
        block.force, x, block.potential.neurons.lagrangian, key=jr.key(2), probes=4
    )
    assert found.value.dtype == jnp.float32
    assert above < found.value < below
    with pytest.raises(ValueError, match="8,192 entries"):
        field_asymmetry(block.force, x)


class Attention(eqx.Module):
    """The usual attention of a model that knows nothing of hopmix."""

    query: jax.Array
    key: jax.Array
    value: jax.Array

    def __call__(self, x):
        scores = (x @ self.query) @ (x @ self.key).T
        return jax.nn.softmax(scores, axis=-1) @ x @ self.value


def test_any_function_that_keeps_the_shape_will_do(fixedkey):
    """Attention, an Equinox MLP, and a whole stack of residual blocks, each exact and estimated."""
    attention = Attention(*(normal(fixedkey(), (6, 6)) for _ in range(3)))
    mlp = eqx.nn.MLP(24, 24, 16, 1, key=jr.key(1))
    blocks = [make_block(fixedkey(), "free") for _ in range(2)]
    fields = (
        attention,
        lambda x: mlp(x.ravel()).reshape(x.shape),
        lambda x: blocks[1](blocks[0](x)) - x,
    )
    x = normal(fixedkey(), VISIBLE_SHAPE)
    for f in fields:
        exact = field_asymmetry(f, x)
        (value, stderr) = estimate_field_asymmetry(f, x, key=jr.key(3), probes=256)
        assert exact > 0.05
        assert abs(value - exact) < 5 * stderr + 0.02 * exact


def test_calibrated_values_of_small_mixers():
    """Where the metric index must vanish it does; where it must not, and for raw Jacobians, values
    like those measured on one small mixer by the notes on the theory (raw, metric): tied (0.131,
    0), free (0.313, 0.287)."""

    def one(key):
        weights, (x,) = draw_weights(key, 1)
        weights = jax.tree.map(lambda w: 0.5 * w, weights)
        blocks = small_mixer(weights, lambda up, noise: Coupling(up)), small_mixer(weights, free)
        norm = blocks[0].potential.neurons.lagrangian
        return [
            jnp.stack([field_asymmetry(b.force, x), field_asymmetry(b.force, x, norm)])
            for b in blocks
        ]

    tied, broken = (np.asarray(found) for found in jax.jit(jax.vmap(one))(jr.split(jr.key(0), 200)))
    assert tied[:, 1].max() < 1e-12
    for values, expected in ((tied[:, 0], 0.131), (broken[:, 0], 0.313), (broken[:, 1], 0.287)):
        assert values.min() < expected < values.max()
    assert broken[:, 1].min() > 0.05


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_fields_of_any_size_in_float32(size, getkey):
    a = normal(getkey(), (6, 6), jnp.float32)
    x = normal(getkey(), (6,), jnp.float32)
    expected = field_asymmetry(lambda x: a @ x, x)
    assert_close(field_asymmetry(lambda x: size * (a @ x), x), expected, 1e-5)
    plain = estimate_field_asymmetry(lambda x: jnp.float32(1) * (a @ x), x, key=jr.key(0))
    scaled = estimate_field_asymmetry(lambda x, s=size: size * (a @ x), x, key=jr.key(0))
    assert_close(scaled.value, plain.value, 1e-5)


SCALES = (1e-30, 1.0, 1e30)


@pytest.mark.parametrize("of_field", SCALES)
@pytest.mark.parametrize("of_metric", SCALES)
def test_indices_of_fields_and_metrics_of_any_size(of_field, of_metric):
    """In float32, where the product of both is out of range: those of NumPy in float64."""
    random = np.random.default_rng(0)
    a = jnp.asarray(random.normal(size=((6, 6))), jnp.float32)
    x = jnp.asarray(random.normal(size=6), jnp.float32)
    first = jnp.asarray(random.normal(size=6), jnp.float32)
    second = jnp.asarray(random.normal(size=6), jnp.float32)
    lagrangian = jnp.float32(of_metric) * Quadratic()
    field = lambda x: jnp.float32(of_field) * (a @ x)
    wide = np.asarray(a, float)
    expected = np.linalg.norm(wide - wide.T) / (2 * np.linalg.norm(wide))
    assert_close(field_asymmetry(field, x, lagrangian), expected, 1e-5)
    signs = np.asarray(
        jax.vmap(lambda key: jr.rademacher(key, (6,), jnp.float32))(jr.split(jr.key(0), 32)), float
    )
    gaps = np.sum((signs @ (wide - wide.T)) ** 2)
    wholes = 0.5 * (np.sum((signs @ wide) ** 2) + np.sum((signs @ wide.T) ** 2))
    found = estimate_field_asymmetry(field, x, lagrangian, key=jr.key(0))
    assert_close(found.value, 0.5 * math.sqrt(gaps / wholes), 1e-5)
    plain = estimate_field_asymmetry(lambda x: a @ x, x, key=jr.key(0))
    assert_close(found.stderr, plain.stderr, 1e-4)
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    path = np.asarray(x)[None] + np.outer(np.cos(angles), first) + np.outer(np.sin(angles), second)
    along = np.outer(-np.sin(angles), first) + np.outer(np.cos(angles), second)
    powers = np.sum((path @ wide.T) * along, axis=1)
    loop = loop_integral(field, x, first, second, lagrangian)
    assert_close(loop.share, np.sum(powers) / np.sum(np.abs(powers)), 1e-4)
    if of_field == of_metric == 1:
        assert_close(loop.work, 2 * np.pi / 64 * np.sum(powers), 1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_one_dtype_in_the_same_out(dtype):
    random = np.random.default_rng(0)
    a = jnp.asarray(random.normal(size=((6, 6))), dtype)
    x = jnp.asarray(random.normal(size=6), dtype)
    first = jnp.asarray(random.normal(size=6), dtype)
    second = jnp.asarray(random.normal(size=6), dtype)
    field = lambda x: a @ x
    estimate = estimate_field_asymmetry(field, x, Quadratic(), key=jr.key(0))
    found = (
        field_asymmetry(field, x, Quadratic()),
        *estimate,
        *loop_integral(field, x, first, second, Quadratic()),
    )
    assert {number.dtype for number in found} == {jnp.dtype(dtype)}
    wide = np.asarray(a, float)
    expected = np.linalg.norm(wide - wide.T) / (2 * np.linalg.norm(wide))
    assert_close(found[0], expected, 2 * float(jnp.finfo(dtype).eps))


def test_the_asymmetry_of_a_gradient_has_the_slope_zero(getkey):
    x = normal(getkey(), (5,))
    asymmetric = lambda a: field_asymmetry(lambda x: a @ x, x)
    np.testing.assert_array_equal(jax.grad(asymmetric)(jnp.eye(5)), jnp.zeros((5, 5)))


@pytest.mark.parametrize("nodes", [0, 2])
def test_a_loop_needs_three_nodes(nodes):
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match="nodes >= 3"):
        loop_integral(lambda x: x, x, x + 1, x, nodes=nodes)


@pytest.mark.parametrize(
    "f", [field_asymmetry, estimate_field_asymmetry, helmholtz_split, loop_integral, work_along]
)
def test_every_tool_names_a_field_that_changes_the_shape(f):
    x = jnp.ones((2, 4))
    rest = {
        "estimate_field_asymmetry": ((x[0],), {"key": jr.key(0)}),
        "helmholtz_split": ((x[0], x[0]), {}),
    }
    rest |= {
        "loop_integral": ((x[0], x[0], x[1]), {}),
        "work_along": ((x,), {}),
        "field_asymmetry": ((x[0],), {}),
    }
    positional, named = rest[f.__name__]
    with pytest.raises(ValueError, match=r"keeps the shape of its state: got \(3,\) from \(4,\)"):
        f(lambda x: x[:3], *positional, **named)


def test_one_probe_has_no_standard_error():
    with pytest.raises(ValueError, match=r"needs probes >= 2, got 1"):
        estimate_field_asymmetry(lambda x: x, jnp.ones(3), key=jr.key(0), probes=1)


# ---- The local split -----------------------------------------------------------------------------


def test_the_split_adds_up_and_turns_at_right_angles(getkey):
    block = make_block(getkey(), "free")
    (x, direction) = normal(getkey(), (2, *VISIBLE_SHAPE))
    norm = block.potential.neurons.lagrangian
    split = helmholtz_split(block.force, x, direction, norm)
    lifted = lambda h: norm.hessian_vector_product(
        x, block.force(x + h * direction) - block.force(x - h * direction)
    )
    assert_close(split.gradient + split.rotation, lifted(1e-5) / 2e-5, 1e-6)
    assert abs(jnp.sum(split.rotation * direction)) < 1e-12 * jnp.linalg.norm(split.rotation)


def test_what_is_a_gradient_has_no_rotation_and_adds_none(getkey):
    tied = make_block(getkey())
    broken = make_block(getkey(), "free")
    x, direction = normal(getkey(), (2, *VISIBLE_SHAPE))
    norm = LayerNorm((0, -1))
    plain = lambda block: lambda x: block.potential.force(norm.activation(x))
    split = helmholtz_split(plain(tied), x, direction, norm)
    assert largest(split.rotation) < 1e-12 * largest(split.gradient)
    both = lambda x: plain(tied)(x) + plain(broken)(x)
    together = helmholtz_split(both, x, direction, norm)
    alone = helmholtz_split(plain(broken), x, direction, norm)
    assert_close(together.rotation, alone.rotation, 1e-11)
    assert largest(together.gradient - alone.gradient) > 1e-3


def test_the_matrices_of_a_linear_field(getkey):
    a = normal(getkey(), (4, 4))
    x = normal(getkey(), (4,))
    split = jax.vmap(lambda e: helmholtz_split(lambda x: a @ x, x, e), out_axes=1)(jnp.eye(4))
    assert_close(split.gradient, (a + a.T) / 2)
    assert_close(split.rotation, (a - a.T) / 2)


def largest(a) -> float:
    return float(jnp.max(jnp.abs(a)))


# ---- Work ----------------------------------------------------------------------------------------


def test_the_work_of_a_gradient_is_what_the_potential_gains_on_any_path(fixedkey):
    """To second order in the distance of states."""
    block = make_block(fixedkey())
    (start, end, aside) = normal(fixedkey(), (3, *VISIBLE_SHAPE))
    norm = block.potential.neurons.lagrangian
    potential = block.potential

    def works(steps: int) -> list[float]:
        t = jnp.linspace(0, 1, steps + 1)[:, None, None]
        straight = (1 - t) * start[None] + t * end[None]
        bent = straight + jnp.sin(jnp.pi * t) * aside[None]
        return [
            float(work_along(lambda x: potential.force(norm.activation(x)), p, norm)[-1])
            for p in (straight, bent)
        ]

    gain = float(potential(norm.activation(end)) - potential(norm.activation(start)))
    errors = [np.abs(np.asarray(works(steps)) - gain).max() for steps in (200, 400)]
    assert errors[1] < 1e-3 * abs(gain)
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_work_starts_at_zero_and_adds_up(getkey):
    m = normal(getkey(), (4, 4))
    states = normal(getkey(), (7, 4))
    work = work_along(lambda x: m @ x, states)
    assert work.shape == (7,)
    assert work[0] == 0
    size = jnp.sum(jnp.abs(jnp.diff(work)))
    assert_close(work[3] + work_along(lambda x: m @ x, states[3:])[-1], work[-1], scale=size)


def test_a_linear_field_does_work_by_its_antisymmetric_part(getkey):
    """Around x + cos a + sin b exactly 2 pi b . (A - A^T)/2 a, whatever the centre."""
    m, x, a, b = normal(getkey(), (4, 4)), *normal(getkey(), (3, 4))
    expected = 2 * math.pi * float(b @ (m - m.T) @ a) / 2
    found = loop_integral(lambda x: m @ x, x, a, b, nodes=16)
    size = jnp.linalg.norm(m) * jnp.linalg.norm(jnp.stack([x, a, b])) ** 2
    assert_close(found.work, expected, scale=size)
    assert_close(loop_integral(lambda x: m @ x, x, b, a, nodes=16).work, -expected, scale=size)
    assert_close(loop_integral(lambda x: m @ x, x, a, b, Quadratic(), nodes=16), found, scale=size)
    assert -1 <= found.share <= 1
    turn = jnp.asarray([[0.0, -1.0], [1.0, 0.0]])
    assert_close(
        tuple(loop_integral(lambda x: turn @ x, jnp.zeros(2), *jnp.eye(2))), (2 * math.pi, 1.0)
    )


def turning(block: Block, x, a) -> jax.Array:
    """The direction, as long as `a`, in which the field turns along `a`: around both, the work does
    not cancel.
    """
    rotation = helmholtz_split(block.force, x, a, block.potential.neurons.lagrangian).rotation
    return rotation * jnp.linalg.norm(a) / jnp.linalg.norm(rotation)


def test_loops_close_for_gradients_and_not_for_others(getkey):
    x, a, b = normal(getkey(), (3, *VISIBLE_SHAPE))
    tied = make_block(getkey())
    broken = make_block(getkey(), "free")
    norm = tied.potential.neurons.lagrangian
    assert abs(loop_integral(tied.force, x, 0.2 * a, 0.2 * b, norm, nodes=128).share) < 1e-12
    # Of the 24 entries of the rotation, all would have to be small at once.
    along = turning(broken, x, a)
    assert loop_integral(broken.force, x, 0.02 * a, 0.02 * along, norm, nodes=128).share > 1e-2


def test_small_loops_measure_the_rotation(getkey):
    block = make_block(getkey(), "free")
    (x, a, b) = normal(getkey(), (3, *VISIBLE_SHAPE))
    norm = block.potential.neurons.lagrangian
    size = 1e-4
    split = helmholtz_split(block.force, x, a, norm)
    found = loop_integral(block.force, x, size * a, size * b, norm).work / size**2
    moved = jnp.linalg.norm(b) * jnp.linalg.norm(split.gradient + split.rotation)
    assert_close(found, 2 * math.pi * jnp.sum(b * split.rotation), 1e-5, moved)
