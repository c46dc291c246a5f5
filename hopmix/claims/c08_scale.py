r"""C08: where the scale of a norm may stand: on the way in and out, or in only where it commutes
with $\nabla^2 U$.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hopmix._block import Block
from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm
from hopmix._neurons import Affine, Neurons
from hopmix._potential import Potential, eliminate
from hopmix._types import PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, where_it_fails
from hopmix.claims._mixer import BRANCHES, CLEAR, asymmetry, mixer_memory
from hopmix.claims._numbers import generator, in_batches
from hopmix.claims._small_mixer import CHANNELS, HIDDEN, TOKENS

NORM = LayerNorm((0, -1))


class Example(NamedTuple):
    """Tied weights of both mixings, a scale and a shift for each entry, and a state."""

    w_s: Float[Array, "hidden tokens"]
    w_c: Float[Array, "hidden channels"]
    scale: Float[Array, "tokens channels"]
    shift: Float[Array, "tokens channels"]
    x: Float[Array, "tokens channels"]


def draw_examples(key: PRNGKey, number: int) -> Example:
    """Gaussian weights, shifts and states; scales uniform within 50 % of one."""
    random = generator(key)
    visible = (TOKENS, CHANNELS)
    draw = lambda *shape: random.normal(size=(number, *shape))
    scale = random.uniform(0.5, 1.5, (number, *visible))
    arrays = (draw(HIDDEN, TOKENS), draw(HIDDEN, CHANNELS), scale, draw(*visible), draw(*visible))
    return Example(*map(jnp.asarray, arrays))


def potential_of(
    e: Example,
    affine: Affine | None,
    norm: AbstractLagrangian = NORM,
    branches: tuple[str, ...] = BRANCHES,
    hidden: AbstractLagrangian | None = None,
) -> Potential:
    """What is left of the tied memory of these branches behind this norm, scale and shift; GELU
    units by default.
    """
    visible = Neurons(norm, (TOKENS, CHANNELS), affine=affine)
    ups = {"token": e.w_s, "channel": e.w_c}
    couplings = {name: Coupling(ups[name]) for name in branches}
    return eliminate(
        mixer_memory(visible, GELU() if hidden is None else hidden, couplings), branches
    )


def conservative_placements(e: Example) -> dict[str, Potential]:
    """The places where a scale keeps the field conservative; the shift is everywhere."""
    return {
        "in and out": potential_of(e, Affine(e.scale, e.shift)),
        "one number in the Lagrangian": potential_of(
            e, None, LayerNorm((0, -1), e.scale[0, 0], e.shift)
        ),
        "constant, in only": potential_of(e, in_only(e, "constant")),
        "per channel, in only, tokens mixed only": potential_of(
            e, in_only(e, "channel"), branches=("token",)
        ),
        "per token, in only, channels mixed only": potential_of(
            e, in_only(e, "token"), branches=("channel",)
        ),
    }


Variation = Literal["constant", "entry", "channel", "token"]


def in_only(e: Example, scale: Variation) -> Affine:
    """The scale on the way in only: one number, or one for each entry, channel or token; and the
    shift.
    """
    rows = {
        "constant": e.scale[:1, :1],
        "entry": e.scale,
        "channel": e.scale[:1],
        "token": e.scale[:, :1],
    }[scale]
    return Affine(jnp.broadcast_to(rows, e.scale.shape), e.shift, False)


VARIATIONS: tuple[Variation, ...] = ("entry", "channel", "token")
"""What a scale on the way in only must not do in a parallel mixer."""


def gradient_gap(e: Example) -> Scalar:
    r"""How far the force with the scale in and out is from $\nabla_g\,U(\gamma \odot g + \delta)$,
    relative.
    """
    g = NORM.activation(e.x)
    plain = potential_of(e, None)
    expected = jax.grad(lambda g: plain(e.scale * g + e.shift))(g)
    force = potential_of(e, Affine(e.scale, e.shift)).force(g)
    return jnp.max(jnp.abs(force - expected)) / jnp.max(jnp.abs(expected))


def commutator_gap(e: Example) -> Scalar:
    r"""How far $HJ - (HJ)^\top$ is from $H(A\Gamma - \Gamma A)H$ with the scale on the way in only,
    relative to $HJ$.

    $A = \nabla^2 U$ at $s = \gamma \odot g + \delta$ and $\Gamma = \mathrm{diag}(\gamma)$.
    """
    square = lambda matrix: matrix.reshape(e.x.size, e.x.size)
    plain = potential_of(e, None)
    broken = potential_of(e, in_only(e, "entry"))
    h = square(jax.jacfwd(NORM.activation)(e.x))
    a = square(jax.jacfwd(plain.force)(e.scale * NORM.activation(e.x) + e.shift))
    hj = h @ square(jax.jacfwd(lambda x: broken.force(NORM.activation(x)))(e.x))
    commutator = a * e.scale.reshape(1, -1) - e.scale.reshape(-1, 1) * a
    return jnp.linalg.norm(hj - hj.T - h @ commutator @ h) / jnp.linalg.norm(hj)


def worst_gap(e: Example) -> Scalar:
    """The worst of the indices that should vanish, and of the gaps of gradient and commutator; 1 if
    one that should not vanish does."""
    indices = [
        asymmetry(Block(potential), e.x) for potential in conservative_placements(e).values()
    ]
    broken = [asymmetry(Block(potential_of(e, in_only(e, scale))), e.x) for scale in VARIATIONS]
    gap = jnp.max(jnp.stack([*indices, gradient_gap(e), commutator_gap(e)]))
    return where_it_fails(jnp.min(jnp.stack(broken)) > CLEAR, gap)


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random mixers, scales, shifts and states."""
    gaps = in_batches(worst_gap, draw_examples(key, examples))
    return Measurement(float(jnp.max(gaps)), 1e-12, examples)


CLAIM = Claim(
    id="C08",
    statement="a scale gamma on the way in and out is exact; on the way in only the force is "
    "conservative iff "
    "H (A Gamma - Gamma A) H = 0, A the Hessian of U: in a parallel mixer, generically iff gamma "
    "is constant",
    source="arXiv 2406.12220, code (the elementwise norm); criterion: hopmix",
    status="proved",
    page="C08-scale.md",
    test="test_c08_scale.py",
    what="asymmetry of five placements, gap of the gradient and of the commutator, relative; 1 "
    "if a scale for each "
    "entry, channel or token on the way in only has none",
    measure=measure,
)
