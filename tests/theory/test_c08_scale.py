"""C08: where the scale of a norm may stand. `theory/C08-scale.md`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, normal

from hopmix import (
    GELU,
    Affine,
    AssociativeMemory,
    Block,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    Quadratic,
    certify,
    derive_block,
    field_asymmetry,
)
from hopmix.claims import c08_scale as claim
from hopmix.claims._mixer import BRANCHES, asymmetry
from hopmix.claims.c08_scale import Example, Variation, in_only, potential_of

EACH_TOKEN = LayerNorm((-1,))


def test_the_claim(getkey):
    found = claim.CLAIM.measure(getkey(), 50)
    assert found.passed, found


@pytest.fixture(scope="module")
def examples() -> Example:
    return claim.draw_examples(jax.random.key(8), 50)


class Placement(NamedTuple):
    """A scale on the way in only: how it varies, behind which norm, in front of which branches."""

    scale: Variation
    norm: LayerNorm | Quadratic = claim.NORM
    branches: tuple[str, ...] = BRANCHES


def of(e: Example, p: Placement):
    """The potential of a placement."""
    return potential_of(e, in_only(e, p.scale), p.norm, p.branches)


NOT_CONSERVATIVE = {
    "elementwise": Placement("entry"),
    "elementwise, exact norm": Placement("entry", LayerNorm((0, -1), eps=0.0)),
    "elementwise, no norm": Placement("entry", Quadratic()),
    "per channel": Placement("channel"),
    "per token": Placement("token"),
    "elementwise, norm of each token": Placement("entry", EACH_TOKEN),
    "per channel, norm of each token": Placement("channel", EACH_TOKEN),
    "per token, norm of each token": Placement("token", EACH_TOKEN),
    "per channel, channels mixed only": Placement("channel", EACH_TOKEN, ("channel",)),
    "per token, tokens mixed only": Placement("token", claim.NORM, ("token",)),
}


@pytest.fixture(scope="module")
def indices(examples) -> dict[str, jax.Array]:
    @jax.jit
    @jax.vmap
    def measure(e):
        unscaled = {"none": potential_of(e, None)}
        scaled = {name: of(e, p) for name, p in NOT_CONSERVATIVE.items()}
        potentials = unscaled | claim.conservative_placements(e) | scaled
        return {name: asymmetry(Block(potential), e.x) for name, potential in potentials.items()}

    return measure(examples)


@pytest.mark.parametrize("placement", NOT_CONSERVATIVE)
def test_a_scale_on_the_way_in_only_is_not_conservative(placement, indices):
    assert jnp.median(indices[placement]) > 0.02
    assert jnp.min(indices[placement]) > 1e-5


def test_the_sizes_are_those_of_the_page(indices):
    """With scales within 50 % of one: 0.09 in the median, 0.2 at most, against rounding."""
    assert 0.07 < jnp.median(indices["elementwise"]) < 0.12
    assert 0.12 < jnp.max(indices["elementwise"]) < 0.3
    assert jnp.max(indices["in and out"]) < 1e-15


def test_each_part_of_the_measure_can_fail(examples):
    """The commutator of another scale, and the gradient of another potential, are far off."""
    other = examples._replace(scale=jnp.flip(examples.scale, 0))

    @jax.jit
    @jax.vmap
    def gaps(e, other):
        g = claim.NORM.activation(e.x)
        expected = jax.grad(lambda g: potential_of(e, None)(e.scale * g + e.shift))(g)
        mixed = potential_of(e, Affine(other.scale, e.shift)).force(g)
        only_in = potential_of(e, Affine(e.scale, e.shift, False)).force(g)
        return [
            jnp.max(jnp.abs(f - expected)) / jnp.max(jnp.abs(expected)) for f in (mixed, only_in)
        ]

    for gap in gaps(examples, other):
        assert jnp.min(gap) > 1e-2


def test_the_measurement_fails_where_a_scale_on_the_way_in_only_does_no_harm(examples):
    """Scales that are constant, so that each of the placements that should fail has an energy."""
    constant = examples._replace(
        scale=jnp.broadcast_to(examples.scale[:, :1, :1], examples.scale.shape)
    )
    worst = jax.jit(jax.vmap(claim.worst_gap))
    assert jnp.max(worst(examples)) < 1e-12
    assert jnp.all(worst(constant) == 1)


# ---- The criterion -------------------------------------------------------------------------------


def test_the_direction_of_the_proof(examples):
    """v'.(HJ - (HJ)^T)w' = v_p w_q A_pq (scale_q - scale_p), H v' = v and H w' = w: v lives in one
    token and w in the other, and p and q are the only entries of theirs that share a channel.
    """
    (tokens, channels) = examples.x.shape[1:]
    (p, q) = (0, examples.x.shape[2])
    v, w = np.zeros((2, tokens, channels))
    v[0, [0, 1]] = [1, -1]
    w[1, [0, 2]] = [1, -1]
    norm = LayerNorm((0, -1), eps=0.1)  # far from singular

    @jax.jit
    @jax.vmap
    def matrices(e):
        broken = potential_of(e, Affine(e.scale, e.shift, False), norm)
        plain = potential_of(e, None, norm)
        square = lambda f, x: jax.jacfwd(f)(x).reshape(x.size, x.size)
        h = square(norm.activation, e.x)
        hj = h @ square(lambda x: broken.force(norm.activation(x)), e.x)
        a = square(plain.force, e.scale * norm.activation(e.x) + e.shift)
        return h, hj - hj.T, a

    for h, curl, a, scale in zip(*map(np.asarray, matrices(examples)), np.asarray(examples.scale)):
        back = np.linalg.pinv(h, rcond=1e-12)
        assert_close(
            h @ back @ np.stack([v.ravel(), w.ravel()], 1),
            np.stack([v.ravel(), w.ravel()], 1),
            1e-11,
        )
        found = (back @ v.ravel()) @ curl @ (back @ w.ravel())
        assert abs(found - a[p, q] * (scale[1, 0] - scale[0, 0])) < 1e-11 * np.abs(a).max()


def dense(up, scale, norm, hidden=None, conservative=False) -> Block:
    """A block of one layer with a scale on the way in, in front of one hidden layer."""
    neurons = {
        "v": Neurons(norm, up.shape[1:], affine=Affine(scale, jnp.zeros_like(scale), conservative)),
        "h": Neurons(GELU() if hidden is None else hidden, up.shape[:1]),
    }
    return derive_block(
        AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("v", "h")}), ["h"], leak=1.0
    )


def index(block: Block, x) -> float:
    return float(
        jax.jit(lambda x: field_asymmetry(block.force, x, block.potential.neurons.lagrangian))(x)
    )


@pytest.mark.parametrize("joined", [False, True])
def test_a_scale_may_differ_between_units_that_are_not_coupled(joined):
    """Hidden units that read disjoint pairs of entries: one scale for each pair; a unit that joins
    them forbids it.
    """
    up = jnp.asarray([[1.0, -0.5, 0.0, 0.0], [0.0, 0.0, 0.7, 1.2], [0.6, 0.0, 0.8 * joined, 0.0]])
    found = index(
        dense(up, jnp.asarray([2.0, 2.0, -0.5, -0.5]), Quadratic()), normal(jax.random.key(0), (4,))
    )
    assert found > 1e-2 if joined else found < 1e-15


def test_a_force_that_the_norm_does_not_see_may_have_any_scale():
    """Units that read the sum of all entries send a constant back: A is constant, and the norm is
    blind to it.
    """
    up = jnp.asarray([[1.0] * 4, [-0.3] * 4])
    scale = jnp.asarray([0.5, 1.3, -0.7, 2.0])
    x = normal(jax.random.key(1), (4,))
    assert index(dense(up, scale, LayerNorm()), x) < 1e-14
    assert index(dense(up, scale, Quadratic()), x) > 1e-2


# ---- What else follows ---------------------------------------------------------------------------


def test_a_constant_scale_on_the_way_in_only_has_another_energy(examples):
    """F = grad U(s) at s = c g + delta is the gradient of U(c g + delta)/c, and a factor c away
    from the exact form.
    """

    @jax.jit
    @jax.vmap
    def both(e):
        first = e.scale[0, 0]
        g = claim.NORM.activation(e.x)
        constant = jnp.full_like(e.scale, first)
        plain = potential_of(e, None)
        expected = jax.grad(lambda g: plain(first * g + e.shift) / first)(g)
        inside = potential_of(e, None, LayerNorm((0, -1), first, e.shift))
        found = [potential_of(e, Affine(constant, e.shift, False)).force(g)]
        found += [potential_of(e, Affine(constant, e.shift)).force(g) / first]
        found += [inside.force(inside.neurons.lagrangian.activation(e.x))]
        return found, [expected] * 3

    found, expected = both(examples)
    assert_close(found, expected, 1e-12)


def test_tokens_alone_may_have_a_scale_for_each_channel(examples):
    """The token mixing of the serial mixer has an energy: the sum over channels of its potential
    over their scale.
    """

    @jax.jit
    @jax.vmap
    def both(e):
        scale = e.scale[:1]
        g = claim.NORM.activation(e.x)
        up = e.w_s
        energy = lambda g: jnp.sum(
            jax.vmap(GELU(), in_axes=1)(up @ (scale * g + e.shift)) / scale[0]
        )
        affine = Affine(jnp.broadcast_to(scale, e.scale.shape), e.shift, False)
        return potential_of(e, affine, branches=("token",)).force(g), jax.grad(energy)(g)

    found, expected = both(examples)
    assert_close(found, expected, 1e-12)


def test_a_scale_on_hidden_units_is_a_gain():
    """Elementwise hidden units: V = W^T diag(scale) is conservative whether the scale stands on one
    side or two.
    """
    e = jax.tree.map(lambda leaf: leaf[0], claim.draw_examples(jax.random.key(3), 1))
    scale = jnp.asarray([0.5, -2.0, 1.0, 0.3, 1.5])
    x = e.x.ravel()[:3]
    for conservative in (True, False):
        neurons = {
            "v": Neurons(LayerNorm(), (3,)),
            "h": Neurons(GELU(), (5,), affine=Affine(scale, jnp.zeros(5), conservative)),
        }
        memory = AssociativeMemory(neurons, {"s": Dense(Coupling(e.w_s))}, {"s": ("v", "h")})
        assert index(derive_block(memory, ["h"], leak=1.0), x) < 1e-14


def test_the_certificate_knows_the_exact_form(examples):
    e = jax.tree.map(lambda leaf: leaf[0], examples)
    verdict = lambda conservative: certify(
        Block(potential_of(e, Affine(e.scale, e.shift, conservative)))
    )
    assert verdict(True).descends_in_flow
    assert not verdict(False).descends_in_flow
