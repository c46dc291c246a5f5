r"""C15: where trajectories end, and how fast they get there.

A step within its bound loses at least $a\,|g' - g|^2$ of the energy (C05, C06), and the slope of
the energy in the state is $-H(x' - x)/\eta$: with the inequality of Kurdyka and Lojasiewicz, a
bounded trajectory ends in one rest. At a rest the Jacobian of the step has the eigenvalues of

$$1 - \eta\,(\text{leak} - H^{1/2} A H^{1/2}), \qquad A = \nabla^2 U(g),\ H = \nabla^2 L(x),$$

which are real; the largest one in size is the rate. Behind an exact norm, residual steps grow the
state for ever, and what converges is the activation.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._coupling import Coupling
from hopmix._lagrangian import GELU, AbstractLagrangian, LayerNorm, Quadratic, Softmax, Tanh
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._potential import Potential, eliminate
from hopmix._synapse import Dense
from hopmix._types import Layer, PRNGKey, Scalar, ScalarLike
from hopmix.claims._claim import Claim, Measurement, share, where_it_fails
from hopmix.claims._draws import draw_systems, mixer
from hopmix.claims._mixer import BRANCHES
from hopmix.claims._numbers import generator
from hopmix.claims.c06_gelu import explicit_step, gelu_concavity

STEPS = 6
"""How many steps of a trajectory are looked at."""

# ---- The step at a rest --------------------------------------------------------------------------


class Linearised(NamedTuple):
    r"""A step near a rest.

    - `strengths`: the eigenvalues $\nu$ of $\text{leak} - H^{1/2} A H^{1/2}$, rising; the flow
      decays with $\nu/\tau$.
    - `directions`: those of the state that belong to them, in rows; $AH^{1/2} w$ for the
      eigenvectors $w$.
    """

    strengths: Float[Array, " units"]
    directions: Float[Array, "units units"]


def linearised(potential: Potential, x: Layer, leak: ScalarLike) -> Linearised:
    """The strengths and directions with which a conservative block returns to a rest, or leaves
    it.
    """
    lagrangian = potential.neurons.lagrangian
    size = x.size
    metric = jax.jacfwd(lagrangian.activation)(x).reshape(size, size)
    hessian = jax.jacfwd(potential.force)(lagrangian.activation(x)).reshape(size, size)
    values, vectors = jnp.linalg.eigh(metric)
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T
    pulls, modes = jnp.linalg.eigh(root @ hessian @ root)
    return Linearised(leak - pulls[::-1], (hessian @ root @ modes).T[::-1])


def step_factors(block: Block, x: Layer) -> Float[Array, " units"]:
    r"""The eigenvalues $1 - \eta\nu$ of the Jacobian of one step at a rest, falling; those of the
    kernel of $H$ are $1 - \text{leak}\,\eta$."""
    return 1 - block.step * linearised(block.potential, x, block.leak).strengths


def convergence_rate(block: Block, x: Layer) -> Scalar:
    """The factor by which the distance from a rest shrinks in each step, in the long run and from
    almost everywhere.
    """
    return jnp.max(jnp.abs(step_factors(block, x)))


# ---- Steps within their bound --------------------------------------------------------------------


class Example(NamedTuple):
    """A memory with a visible layer `"x"`, a state that is made a rest by an input, another state,
    a leak, and a step in units of the bound on it."""

    memory: AssociativeMemory
    rest: Layer
    x: Layer
    leak: Scalar
    reach: Scalar


def _two_layers(
    visible: AbstractLagrangian, hidden: AbstractLagrangian, up: Array
) -> AssociativeMemory:
    neurons = {"x": Neurons(visible, up.shape[1:]), "h": Neurons(hidden, up.shape[:1])}
    return AssociativeMemory(neurons, {"s": Dense(Coupling(up))}, {"s": ("x", "h")})


PAIRS: tuple[tuple[AbstractLagrangian, AbstractLagrangian], ...] = (
    (Tanh(0.8), GELU()),
    (LayerNorm(eps=0.3), GELU()),
    (Softmax(1.5), Tanh()),
)
"""Visible and hidden Lagrangians, analytic; of the latter two Hessians have a kernel, which is the
same everywhere.
"""


def with_rest(memory: AssociativeMemory, rest: Layer, leak: ScalarLike) -> Potential:
    """The potential of a memory with the input that makes a state a rest."""
    free = eliminate(memory, ("h",))
    current = leak * rest - free.force(free.neurons.lagrangian.activation(rest))
    layer = Neurons(free.neurons.lagrangian, rest.shape, input=current)
    driven = AssociativeMemory(
        memory.neurons | {"x": layer}, memory.synapses, dict(memory.connections)
    )
    return eliminate(driven, ("h",))


def concavity_of(potential: Potential) -> Scalar:
    """The $K$ of C06 for GELU units, 0 for convex ones."""
    is_gelu = isinstance(potential.memory.neurons["h"].lagrangian, GELU)
    if is_gelu:
        return gelu_concavity(potential)
    return jnp.zeros(())


def energy_of(potential: Potential, x: Layer, leak: ScalarLike) -> Scalar:
    """The energy of a block of this potential and leak."""
    return leak * potential.neurons.energy(x) - potential(
        potential.neurons.lagrangian.activation(x)
    )


def step_of(potential: Potential, leak: ScalarLike, reach: ScalarLike) -> Scalar:
    r"""A part of the bound $\min(2/(K\ell + \text{leak}), 1/\text{leak})$."""
    bound = 2 / (concavity_of(potential) * potential.neurons.lagrangian.curvature[1] + leak)
    return reach * jnp.minimum(bound, 1 / leak)


def step_gaps(potential: Potential, x: Layer, leak: Scalar, step: Scalar) -> Float[Array, " two"]:
    r"""By how much a step loses less than $\tfrac12 [(2 - s)/(\eta\ell) - K]\,|g' - g|^2$, and how
    far the slope of the energy is from $-H (x' - x)/\eta$; relative."""
    lagrangian = potential.neurons.lagrangian
    after = explicit_step(potential, x, leak, step)
    energies = jnp.stack([energy_of(potential, y, leak) for y in (x, after)])
    moved = lagrangian.activation(after) - lagrangian.activation(x)
    share_lost = 0.5 * (
        (2 - leak * step) / (step * lagrangian.curvature[1]) - concavity_of(potential)
    )
    excess = energies[1] - energies[0] + share_lost * jnp.sum(moved**2)
    slope = jax.grad(lambda y: energy_of(potential, y, leak))(x)
    expected = -lagrangian.hessian_vector_product(x, after - x) / step
    terms = jnp.linalg.norm(x) + jnp.linalg.norm(after) / step
    gap = jnp.max(jnp.abs(slope - expected)) / (terms * lagrangian.curvature[1])
    return jnp.stack([excess / (jnp.sum(jnp.abs(energies)) + leak * jnp.sum(x**2)), gap])


SMALL = 1e-6
"""How far from a rest trajectories start that are compared with its factors."""


def rate_gaps(
    potential: Potential, rest: Layer, leak: Scalar, step: Scalar
) -> Float[Array, " two"]:
    r"""How far a rest is from having the factor $1 - \eta\nu$ along the direction of the $\nu$
    farthest from the leak.

    In the Jacobian of one step, and, where this has a norm of 1.5 at most, in two trajectories from
    either side, which part as $(1 - \eta\nu)^k$. The latter in units of a thousand: small
    differences of states are off by that much more.
    """
    advance = lambda x: explicit_step(potential, x, leak, step)
    strengths, directions = linearised(potential, rest, leak)
    strongest = jnp.argmax(
        jnp.abs(leak - strengths)
    )  # where there is no pull, there is no direction that belongs to it
    factor = 1 - step * strengths[strongest]
    along = directions[strongest] / jnp.linalg.norm(directions[strongest])
    jacobian = jax.jacfwd(advance)(rest)
    size = jnp.linalg.norm(jacobian, 2)
    slope = jnp.linalg.norm(jacobian @ along - factor * along) / (1 + size)
    sides = [rest + sign * SMALL * along for sign in (1, -1)]
    ends = [jax.lax.scan(lambda x, _: (advance(x), None), x, None, length=STEPS)[0] for x in sides]
    apart = (ends[0] - ends[1]) / (2 * SMALL) - factor**STEPS * along
    return jnp.stack([slope, jnp.where(size <= 1.5, 1e-3 * jnp.linalg.norm(apart), 0.0)])


def gaps(example: Example) -> Float[Array, " parts"]:
    """All gaps of one example, along a few steps."""
    memory, rest, x, leak, reach = example
    potential = with_rest(memory, rest, leak)
    step = step_of(potential, leak, reach)

    def look(x, _):
        return explicit_step(potential, x, leak, step), step_gaps(potential, x, leak, step)

    along = jax.lax.scan(look, x, None, length=STEPS)[1]
    return jnp.concatenate([jnp.max(along, axis=0), rate_gaps(potential, rest, leak, step)])


@eqx.filter_jit
def gaps_of(examples: Example) -> Float[Array, "examples parts"]:
    """The gaps of each of a stack of examples."""
    return eqx.filter_vmap(gaps)(examples)


def draw_examples(
    key: PRNGKey, number: int, visible: AbstractLagrangian, hidden: AbstractLagrangian
) -> Example:
    """Weights of norms 0.3 to 2, leaks from 0.5 to 3, and steps up to nine tenths of their
    bound.
    """
    random = generator(key)
    normal = lambda *shape: random.normal(size=(number, *shape))
    some = lambda low, high: jnp.asarray(random.uniform(low, high, number))
    up = normal(4, 5)
    up *= (10 ** random.uniform(-0.5, 0.3, number) / np.linalg.norm(up, 2, axis=(1, 2)))[
        :, None, None
    ]
    memories = eqx.filter_vmap(lambda up: _two_layers(visible, hidden, up))(jnp.asarray(up))
    return Example(
        memories, jnp.asarray(normal(5)), jnp.asarray(2 * normal(5)), some(0.5, 3), some(0.05, 0.9)
    )


# ---- Residual steps behind an exact norm ---------------------------------------------------------


def exact_mixer(key: PRNGKey) -> AssociativeMemory:
    """A mixer of ReLU units behind a joint norm without eps."""
    return mixer(key, visible=LayerNorm((0, -1), eps=0.0))


def sideways(g: Layer, force: Layer) -> Layer:
    """The part of a force that is tangent to the sphere of centred activations of the size of
    `g`.
    """
    centred = force - jnp.mean(force)
    return centred - g * jnp.sum(g * centred) / jnp.sum(g**2)


def sphere_gap(block: Block, x: Layer) -> Scalar:
    r"""By how much a step loses less than $\tfrac12 |F_\perp|\,|g' - g|$ of the energy, and $\eta
    |F_\perp|$ exceeds $s'\,|g' - g|$ behind a norm of scale 1; relative."""
    after = block(x)
    g = block.activation(x)
    g_after = block.activation(after)
    turned = jnp.linalg.norm(g_after - g)
    slope = jnp.linalg.norm(sideways(g, block.potential.force(g)))
    risen = block.potential(g_after) - block.potential(g)
    kept = (0.5 * slope * turned - risen) / block.potential(g_after)
    return jnp.maximum(kept, block.step * slope / (jnp.std(after) * turned) - 1)


@eqx.filter_jit
def sphere_gaps(
    memories: AssociativeMemory, states: Layer, step: float
) -> Float[Array, " examples"]:
    """The gap of each of a stack of mixers."""
    return eqx.filter_vmap(lambda m, x: sphere_gap(derive_block(m, BRANCHES, step=step), x))(
        memories, states
    )


# ---- What does not converge, or not so fast ------------------------------------------------------


def flat_block(step: float) -> Block:
    """One linear visible and one tanh unit of weight one: $E = x^2/2 - \\log\\cosh x$ grows like
    $x^4/12$.
    """
    return derive_block(
        _two_layers(Quadratic(), Tanh(), jnp.ones((1, 1))), ["h"], leak=1.0, step=step
    )


def turning_memory(gain: ScalarLike, turn: ScalarLike) -> AssociativeMemory:
    r"""Two linear visible units with $F = V \tanh g$ and $V$ with rows $(a, -b)$ and $(b, a)$: a
    gain and a turn.
    """
    down = jnp.asarray(gain) * jnp.eye(2) + jnp.asarray(turn) * jnp.asarray(
        [[0.0, -1.0], [1.0, 0.0]]
    )
    neurons = {"x": Neurons(Quadratic(), (2,)), "h": Neurons(Tanh(), (2,))}
    return AssociativeMemory(
        neurons, {"s": Dense(Coupling.from_weights(jnp.eye(2), down))}, {"s": ("x", "h")}
    )


LONG = 400


def counter_gap(start: Layer, gain: Scalar) -> Scalar:
    r"""0 where the step of a flat rest shrinks the state by less than $2/k$ after $k$ steps, and
    where antisymmetric weights move the state by more than 1 for ever."""

    def run(block, x):
        move = lambda x, _: (block(x), x)
        return jax.lax.scan(move, x, None, length=LONG)[1][-2:]

    flat = run(flat_block(0.5), jnp.abs(start[:1]))
    turning = run(derive_block(turning_memory(0.0, gain), ["h"], leak=1.0), start)
    slow = flat[1, 0] / flat[0, 0] > 1 - 2 / LONG
    cycles = jnp.linalg.norm(turning[1] - turning[0]) > 1
    return where_it_fails(slow & cycles, jnp.zeros(()))


def draw_counter(key: PRNGKey, number: int) -> tuple[Layer, Float[Array, " _"]]:
    """States between 0.3 and 2 of either sign, and gains between 1.5 and 3."""
    random = generator(key)
    signs = random.choice([-1.0, 1.0], (number, 2))
    starts = signs * random.uniform(0.3, 2, (number, 2))
    return jnp.asarray(starts), jnp.asarray(random.uniform(1.5, 3, number))


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random rests and trajectories, and the counter-examples."""
    number = share(examples, len(PAIRS) + 1)
    keys = jr.split(key, len(PAIRS) + 2)
    found = [gaps_of(draw_examples(k, number, *pair)) for k, pair in zip(keys, PAIRS)]
    memories, states = draw_systems(exact_mixer, keys[-2], number)
    found.append(sphere_gaps(memories, states["x"], 0.3)[:, None])
    found.append(jax.jit(jax.vmap(counter_gap))(*draw_counter(keys[-1], number)))
    worst = float(jnp.max(jnp.concatenate([gap.ravel() for gap in found])))
    return Measurement(max(worst, 0.0), 1e-9, number * (len(PAIRS) + 1))


CLAIM = Claim(
    id="C15",
    statement="bounded trajectories, of the flow or of steps within their bound, tend to rests; "
    "with analytic U and L, "
    "H > 0 off a fixed kernel, to one; there steps have the factors 1 - step nu, nu of leak - "
    "H^1/2 A H^1/2",
    source="LaSalle 1960; Lojasiewicz 1963; Absil, Mahony & Andrews 2005; Attouch, Bolte & "
    "Svaiter 2013; rates: hopmix",
    status="proved",
    page="C15-convergence.md",
    test="test_c15_convergence.py",
    what="energy kept that should be lost, gap of its slope, gap of the rate near rests, "
    "relative; 1 unless flat rests "
    "and broken weights fail",
    measure=measure,
)
