"""Indices of asymmetry: constructed cases with known values, invariances, and the field criterion."""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import LAGRANGIANS, assert_close, normal
from hypothesis import given

from hopmix import GELU, Asymmetry, Coupling, Quadratic, field_asymmetry, measure_asymmetry, symmetry_score

SIZES = ((6, 4), (4, 6), (5, 5))
sizes = pytest.mark.parametrize("visible, hidden", SIZES)


def couple(v, w) -> Coupling:
    """The coupling with given down- and up-weights."""
    return Coupling(jnp.asarray(w), jnp.asarray(v), 0.0)


def direct_score(v, w) -> float:
    m = np.asarray(v) @ np.asarray(w)
    return float(np.sum(m * m.T) / np.sum(m**2))


@sizes
def test_tied_weights(visible, hidden, getkey):
    for coupling in (Coupling.symmetric(visible, hidden, key=getkey()), Coupling.broken(visible, hidden, key=getkey())):
        assert_close(tuple(measure_asymmetry(coupling)), (1.0, 0.0, 1.0, 1.0, 0.0))
        assert measure_asymmetry(coupling).relative_breaking == 0
        assert measure_asymmetry(coupling).breaking_ratio == 0


@sizes
def test_opposite_weights(visible, hidden, getkey):
    w = normal(getkey(), (hidden, visible))
    assert_close(tuple(measure_asymmetry(couple(-w.T, w))), (-1.0, 2.0, -1.0, 1.0, 2.0))


def test_an_antisymmetric_product(getkey):
    """M = VW with M^T = -M: symmetry score -1."""
    w, a = normal(getkey(), (6, 4)), normal(getkey(), (4, 4))
    v = (a - a.T) @ jnp.linalg.pinv(w)
    assert_close(v @ w, a - a.T, 1e-11)
    assert_close(measure_asymmetry(couple(v, w)).symmetry_score, -1.0, 1e-11)


def test_a_product_of_nothing_but_a_rotation():
    """M a rotation by an angle: score cos^2 - sin^2."""
    for angle in (0.0, 0.4, math.pi / 2, 2.0):
        rotation = np.asarray([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        score = measure_asymmetry(couple(rotation, np.eye(2))).symmetry_score
        np.testing.assert_allclose(score, math.cos(2 * angle), atol=1e-12)


def test_independent_weights_are_about_zero(getkey):
    visible, hidden = 64, 96
    found = measure_asymmetry(Coupling.free(visible, hidden, key=getkey()))
    bound = 5 / math.sqrt(visible * hidden)
    assert abs(found.cosine) < bound
    assert abs(found.unit_cosine) < bound
    assert abs(found.relative_breaking - 1) < bound
    assert abs(found.symmetry_score) < 5 / visible
    np.testing.assert_allclose(found.breaking_ratio, math.sqrt(2), rtol=0.1)


def test_gains_of_hidden_units_are_no_asymmetry(getkey):
    """V = W^T D is conservative: each unit's cosine is 1, though the matrices are not parallel."""
    w, gains = normal(getkey(), (4, 6)), jnp.asarray([0.1, 1.0, 3.0, 10.0])
    found = measure_asymmetry(couple(w.T * gains[None], w))
    assert_close(found.unit_cosine, 1.0)
    assert found.cosine < 0.95
    assert found.relative_breaking > 0.1
    signed = measure_asymmetry(couple(w.T * jnp.asarray([1.0, -1.0, 1.0, -1.0])[None], w))
    assert abs(signed.unit_cosine) < 0.95


def test_the_unit_cosine_is_the_weighted_mean_of_the_cosines(getkey):
    v, w = normal(getkey(), (6, 4)), normal(getkey(), (4, 6))
    lengths = [np.linalg.norm(v[:, a]) * np.linalg.norm(w[a]) for a in range(4)]
    cosines = [float(v[:, a] @ w[a]) / lengths[a] for a in range(4)]
    assert_close(measure_asymmetry(couple(v, w)).unit_cosine, np.average(cosines, weights=lengths))


def test_the_definitions(getkey):
    coupling = Coupling(normal(getkey(), (4, 6)), normal(getkey(), (6, 4)), 0.3)
    w, v = np.asarray(coupling.up), np.asarray(coupling.down)
    norm, found = np.linalg.norm, measure_asymmetry(coupling)
    assert_close(found.cosine, np.sum(v * w.T) / (norm(v) * norm(w)))
    assert_close(found.relative_breaking, norm(v - w.T) ** 2 / (norm(v) ** 2 + norm(w) ** 2))
    assert_close(found.breaking_ratio, norm(v - w.T) / norm(w))


@pytest.mark.parametrize("size", [1e-8, 0.3, 2.0])
def test_the_breaking_ratio_is_that_of_the_breaking_where_weights_are_tied(size, getkey):
    """Also for a breaking far below the square root of the rounding."""
    up, breaking = normal(getkey(), (4, 6)), size * normal(getkey(), (6, 4))
    found = measure_asymmetry(Coupling(up, breaking))
    assert_close(found.breaking_ratio, np.linalg.norm(breaking) / np.linalg.norm(up), 1e-7)


@sizes
def test_the_score_by_gram_matrices_is_the_direct_one(visible, hidden, getkey):
    v, w = normal(getkey(), (visible, hidden)), normal(getkey(), (hidden, visible))
    assert_close(symmetry_score(v, w), direct_score(v, w))


def test_the_score_forms_no_large_matrix():
    """With few hidden units no array of visible x visible appears in the program."""
    v, w = jax.ShapeDtypeStruct((300, 7), jnp.float32), jax.ShapeDtypeStruct((7, 300), jnp.float32)
    program = str(jax.make_jaxpr(symmetry_score)(v, w))
    assert "300,300" not in program
    assert "7,7" in program
    assert "300,300" in str(jax.make_jaxpr(lambda v, w: v @ w)(v, w))


# ---- Invariances ------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**31 - 1)
MEASURE = jax.jit(lambda v, w: measure_asymmetry(couple(v, w)))


def draw(seed: int, index: int = 1) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    random, (visible, hidden) = np.random.default_rng(seed), SIZES[index]
    return random, random.normal(size=(visible, hidden)), random.normal(size=(hidden, visible))


@given(seeds)
def test_indices_stay_in_their_ranges(seed):
    _, v, w = draw(seed)
    found = MEASURE(v, w)
    for index in (found.cosine, found.unit_cosine, found.symmetry_score):
        assert -1 <= index <= 1
    assert 0 <= found.relative_breaking <= 2
    assert found.breaking_ratio >= 0


@given(seeds)
def test_gauge_of_single_units(seed):
    """w_a -> c w_a, v_a -> v_a / c keeps M and with it score and unit cosine, but not the distance of V and W^T."""
    random, v, w = draw(seed)
    scale = np.exp(random.normal(size=w.shape[0]))
    before, after = MEASURE(v, w), MEASURE(v / scale[None], w * scale[:, None])
    np.testing.assert_allclose(after.unit_cosine, before.unit_cosine, atol=1e-10)
    np.testing.assert_allclose(after.symmetry_score, before.symmetry_score, atol=1e-10)
    assert abs(after.breaking_ratio - before.breaking_ratio) > 1e-6


@given(seeds)
def test_change_of_the_visible_basis(seed):
    random, v, w = draw(seed)
    basis = np.linalg.qr(random.normal(size=(v.shape[0],) * 2))[0]
    np.testing.assert_allclose(MEASURE(basis.T @ v, w @ basis), MEASURE(v, w), atol=1e-10)


@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
def test_change_of_scale(seed, a, b):
    """Cosines and score forget the sizes of V and W; the relative breaking forgets a common one."""
    _, v, w = draw(seed)
    before, after, common = MEASURE(v, w), MEASURE(a * v, b * w), MEASURE(a * v, a * w)
    for index in ("cosine", "unit_cosine", "symmetry_score"):
        np.testing.assert_allclose(getattr(after, index), getattr(before, index), atol=1e-10)
    np.testing.assert_allclose(common, before, rtol=1e-9, atol=1e-12)


@given(seeds)
def test_order_of_hidden_units(seed):
    random, v, w = draw(seed)
    order = random.permutation(w.shape[0])
    np.testing.assert_allclose(MEASURE(v[:, order], w[order]), MEASURE(v, w), atol=1e-10)


@given(seeds)
def test_a_symmetric_perturbation_of_the_field_leaves_its_antisymmetric_part(seed):
    """With W square and V = M W^-1, adding to M what is symmetric changes only the symmetric share of the score."""
    random, a, w = draw(seed, 2)
    more = random.normal(size=a.shape)
    score = lambda m: float(MEASURE(m @ np.linalg.inv(w), w).symmetry_score)
    antisymmetric = lambda m: 0.5 * (1 - score(m)) * np.sum(m**2)
    np.testing.assert_allclose(antisymmetric(a + more + more.T), antisymmetric(a), rtol=1e-6)


def test_gradients_reach_the_weights(getkey):
    coupling = Coupling(normal(getkey(), (4, 6)), normal(getkey(), (6, 4)))
    for index in Asymmetry._fields:
        gradient = jax.grad(lambda c, index=index: getattr(measure_asymmetry(c), index))(coupling)
        assert jnp.all(jnp.isfinite(gradient.up)), index
        assert jnp.any(gradient.breaking != 0), index


# ---- Fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quadratic", "tanh", "softmax", "layer norm", "spherical norm"])
def test_a_gradient_in_the_activations_is_symmetric_in_the_metric(name, getkey):
    shape = (2, 3)
    lagrangian, matrix = LAGRANGIANS[name](shape, jnp.float64), normal(getkey(), (6, 6))
    potential = lambda g: GELU()(matrix @ g.reshape(6))
    field = lambda x: jax.grad(potential)(lagrangian.activation(x)) - 0.5 * x
    x = normal(getkey(), shape)
    with_metric, without = jax.jit(lambda x: (field_asymmetry(field, x, lagrangian), field_asymmetry(field, x)))(x)
    assert with_metric <= 1e-12
    assert without <= 1e-12 if name == "quadratic" else without > 1e-3


def test_the_asymmetry_of_linear_fields_is_known(getkey):
    a, x = normal(getkey(), (4, 4)), normal(getkey(), (4,))
    norm = np.linalg.norm
    for matrix in (a, a + a.T, a - a.T, a + 3 * a.T):
        expected = norm(matrix - matrix.T) / (2 * norm(matrix))
        np.testing.assert_allclose(field_asymmetry(lambda x, m=matrix: m @ x, x), expected, atol=1e-12)
        np.testing.assert_allclose(field_asymmetry(lambda x, m=matrix: m @ x, x, Quadratic()), expected, atol=1e-12)
    assert_close(field_asymmetry(lambda x: (a - a.T) @ x, x), 1.0)


def test_a_field_that_changes_the_shape_is_named(getkey):
    with pytest.raises(ValueError, match=r"A vector field keeps the shape of its state: got \(3,\) from \(4,\)"):
        field_asymmetry(lambda x: x[:3], normal(jr.key(0), (4,)))
