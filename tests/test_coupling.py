"""Coupling: one object for every arm, with symmetry as a dial."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COUPLINGS, MEMORIES, assert_close, normal

from hopmix import Coupling, Dense, couplings, measure_asymmetry, trainable

VISIBLE = 5
HIDDEN = 3
kinds = pytest.mark.parametrize("kind", COUPLINGS)


def make(kind: str, key: jax.Array, visible: int = VISIBLE, hidden: int = HIDDEN) -> Coupling:
    return COUPLINGS[kind](visible, hidden, key=key)


def names_of_true(spec) -> set[str]:
    return {
        jax.tree_util.keystr(path).lstrip(".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(spec)
        if leaf
    }


@pytest.mark.parametrize("tie", [0.0, 0.3, 1.0, -1.0])
@pytest.mark.quick
def test_the_down_weights_follow_the_dial(tie, getkey):
    up = normal(getkey(), (HIDDEN, VISIBLE))
    breaking = normal(getkey(), (VISIBLE, HIDDEN))
    assert_close(Coupling(up, breaking=breaking, tie=tie).down, tie * up.T + breaking)
    assert_close(Coupling(up, tie=tie).down, tie * up.T)


@pytest.mark.quick
def test_what_each_kind_is(getkey):
    key = getkey()
    symmetric = make("symmetric", key)
    broken = make("broken", key)
    free = make("free", key)
    assert jnp.array_equal(symmetric.down, symmetric.up.T)
    assert (symmetric.breaking, symmetric.tie) == (None, 1)
    assert broken.breaking is not None
    assert broken.tie == 1
    assert jnp.array_equal(broken.down, broken.up.T + broken.breaking)
    assert free.tie == 0
    assert free.breaking is not None
    assert jnp.array_equal(free.down, free.breaking)
    assert not jnp.any(free.down == free.up.T)


def test_given_weights_are_those_of_the_coupling(getkey):
    up = normal(getkey(), (HIDDEN, VISIBLE))
    down = normal(getkey(), (VISIBLE, HIDDEN))
    for weights in ((up, down), (np.asarray(up), np.asarray(down))):
        coupling = Coupling.from_weights(*weights)
        assert jnp.array_equal(coupling.up, up)
        assert jnp.array_equal(coupling.down, down)
        assert coupling.tie == 0


def test_a_second_matrix_is_never_taken_for_a_breaking_in_silence(getkey):
    up = normal(getkey(), (HIDDEN, VISIBLE))
    with pytest.raises(TypeError, match="positional"):
        Coupling(up, up.T)  # pyright: ignore[reportCallIssue]


@pytest.mark.quick
def test_a_breaking_starts_at_zero_unless_asked_otherwise(getkey):
    key = getkey()
    broken = Coupling.broken(VISIBLE, HIDDEN, key=key)
    assert jnp.array_equal(broken.down, Coupling.symmetric(VISIBLE, HIDDEN, key=key).down)
    assert broken.breaking is not None
    assert not jnp.any(broken.breaking)
    assert jnp.all(make("broken", key).breaking != 0)


@pytest.mark.parametrize(
    "kind, expected",
    [("symmetric", {"up"}), ("broken", {"up", "breaking"}), ("free", {"up", "breaking"})],
)
@pytest.mark.quick
def test_which_leaves_train_follows_from_the_kind(kind, expected, getkey):
    coupling = make(kind, getkey())
    assert names_of_true(trainable(coupling)) == expected
    shapes = eqx.filter_eval_shape(lambda: coupling)
    assert names_of_true(trainable(shapes)) == expected


def test_trainable_marks_floats_and_nothing_else(getkey):
    tree = {
        "c": make("free", getkey()),
        "w": jnp.ones(2),
        "n": jnp.ones(2, int),
        "f": jax.nn.relu,
        "none": None,
        "x": 1.0,
    }
    assert names_of_true(trainable(tree)) == {"['c'].up", "['c'].breaking", "['w']"}


@kinds
def test_the_tie_has_no_gradient(kind, getkey):
    coupling = make(kind, getkey())
    weights = normal(getkey(), (VISIBLE, HIDDEN))
    gradient = jax.grad(lambda c: jnp.sum(weights * c.down) + c.squared_breaking)(coupling)
    assert gradient.tie == 0
    assert_close(gradient.up, coupling.tie * weights.T)
    if coupling.breaking is not None:
        assert_close(gradient.breaking, weights + 2 * coupling.breaking)


def test_one_key_gives_one_up_matrix_in_every_kind(getkey):
    key = getkey()
    ups = [make(kind, key).up for kind in COUPLINGS] + [
        Coupling.broken(VISIBLE, HIDDEN, key=key).up
    ]
    assert all(jnp.array_equal(up, ups[0]) for up in ups)
    assert not jnp.array_equal(make("free", getkey()).up, ups[0])


@kinds
def test_a_wide_layer_extends_a_narrow_one_of_the_same_key(kind, getkey):
    key = getkey()
    narrow = make(kind, key)
    wide = make(kind, key, hidden=2 * HIDDEN)
    ratio = math.sqrt((VISIBLE + 2 * HIDDEN) / (VISIBLE + HIDDEN))  # of the bounds of the two draws
    assert_close(ratio * wide.up[:HIDDEN], narrow.up)


@pytest.mark.parametrize("visible, hidden", [(64, 96), (96, 64)])
def test_xavier_has_its_bound_and_its_variance(visible, hidden, getkey):
    coupling = make("free", getkey(), visible, hidden)
    bound = math.sqrt(6 / (visible + hidden))
    for matrix in (coupling.up, coupling.down):
        assert 0.99 * bound < jnp.max(jnp.abs(matrix)) <= bound
        np.testing.assert_allclose(
            jnp.var(matrix), bound**2 / 3, rtol=0.08
        )  # seven standard errors
        assert abs(jnp.mean(matrix)) < 7 * bound / math.sqrt(3 * matrix.size)


def test_the_reference_start_of_a_broken_coupling_is_at_45_degrees(getkey):
    key = getkey()
    large = {kind: make(kind, key, 96, 128) for kind in COUPLINGS}
    bound = 7 / math.sqrt(96 * 128)  # seven standard errors
    np.testing.assert_allclose(
        measure_asymmetry(large["broken"]).cosine, math.sqrt(0.5), atol=bound
    )
    np.testing.assert_allclose(measure_asymmetry(large["free"]).cosine, 0, atol=bound)
    np.testing.assert_allclose(measure_asymmetry(large["symmetric"]).cosine, 1, atol=1e-12)


def test_the_squared_breaking_is_the_squared_norm_of_the_breaking(getkey):
    coupling = make("broken", getkey())
    assert coupling.breaking is not None
    assert_close(coupling.squared_breaking, np.linalg.norm(coupling.breaking) ** 2)
    assert make("symmetric", getkey()).squared_breaking == 0
    assert Coupling.broken(VISIBLE, HIDDEN, key=getkey()).squared_breaking == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_coupling_has_one_dtype(dtype, getkey):
    up = normal(getkey(), (3, 5), dtype)
    breaking = normal(getkey(), (5, 3), dtype)
    for coupling in (
        Coupling(up),
        Coupling(up, breaking=breaking),
        Coupling.from_weights(up, breaking),
    ):
        assert coupling.tie.dtype == coupling.down.dtype == coupling.squared_breaking.dtype == dtype


def test_a_breaking_of_another_shape_is_named(getkey):
    # Square apart from one: jaxtyping alone would catch it only in tests.
    up = normal(getkey(), (HIDDEN, VISIBLE))
    message = r"`breaking` must have the transposed shape of `up`, \(5, 3\), got \(3, 5\)"
    with pytest.raises(ValueError, match=message):
        Coupling.__check_init__(
            eqx.tree_at(lambda c: c.breaking, Coupling(up), up, is_leaf=lambda leaf: leaf is None)
        )


@pytest.mark.quick
def test_couplings_are_found_in_the_order_of_fields(getkey):
    first = make("free", getkey())
    second = make("symmetric", getkey())
    tree = (Dense(first), {"a": 1.0, "b": [Dense(second)]}, jnp.ones(3))
    assert [
        found is made for found, made in zip(couplings(tree), (first, second), strict=True)
    ] == [True, True]
    assert couplings(jnp.ones(3)) == []
    assert len(couplings(MEMORIES["three layers"](getkey()))) == 2


@kinds
def test_kinds_that_differ_in_numbers_share_a_structure(kind, getkey):
    """Broken and free are one pytree structure, so that arms of both train in one vmapped
    population.
    """
    structure = jax.tree.structure(make(kind, getkey()))
    assert (structure == jax.tree.structure(make("free", getkey()))) is (kind != "symmetric")
