r"""C09: token mixing and then channel mixing, each tied, is no gradient step; both at once is.

With $A_t = \nabla^2 U_t$ at the state before, $A_c = \nabla^2 U_c$ at the state between, their
metrics $H$ and $H_1$, and $J$ the Jacobian of the displacement of a residual serial block with the
step $\eta$,

$$HJ - (HJ)^\top = \eta\,(H A_c H_1 - H_1 A_c H) + \eta^2\,H\,(A_c H_1 A_t - A_t H_1 A_c)\,H.$$
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._block import Block, SerialBlock, derive_block
from hopmix._lagrangian import GELU, LayerNorm
from hopmix._memory import AssociativeMemory
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, share, where_it_fails
from hopmix.claims._draws import draw_systems, mixer
from hopmix.claims._mixer import BRANCHES, CLEAR, asymmetry
from hopmix.symmetry.fields import field_asymmetry

Matrix = Float[Array, "units units"]


def serial_block(memory: AssociativeMemory, *, leak: float = 0.0, step: float = 1.0) -> SerialBlock:
    """Token and then channel mixing of the memory of a parallel mixer, with the same weights."""
    token = _branch(memory, "token", leak, step)
    channel = _branch(memory, "channel", leak, step)
    return SerialBlock(token, channel)


def _branch(memory: AssociativeMemory, name: str, leak: float, step: float) -> Block:
    neurons = {layer: memory.neurons[layer] for layer in ("x", name)}
    part = AssociativeMemory(neurons, {name: memory.synapses[name]}, {name: ("x", name)})
    return derive_block(part, [name], leak=leak, step=step)


def serial_curl(block: SerialBlock, x: Layer) -> Matrix:
    r"""$HJ - (HJ)^\top$ of the displacement of one round of a tied serial block, from Hessians
    alone.

    With a leak the first term of the formula has the factor $1 - \text{leak}\,\eta_t$ of the token
    mixing.
    """
    token, channel = block.parts
    between = token(x)
    h = _metric(token, x)
    h_between = _metric(channel, between)
    a_token = _curvature(token, x)
    a_channel = _curvature(channel, between)
    half = (1 - token.leak * token.step) * channel.step * h @ a_channel @ h_between
    half = half + token.step * channel.step * h @ a_channel @ h_between @ a_token @ h
    return half - half.T


def _metric(block: Block, x: Layer) -> Matrix:
    return jax.jacfwd(block.activation)(x).reshape(x.size, x.size)


def _curvature(block: Block, x: Layer) -> Matrix:
    return jax.hessian(block.potential)(block.activation(x)).reshape(x.size, x.size)


def displacement_form(block: SerialBlock, x: Layer) -> Matrix:
    r"""$HJ$ of $x' - x$ by automatic differentiation, with the metric of the visible layer."""
    return _metric(block.token, x) @ jax.jacfwd(lambda x: block(x) - x)(x).reshape(x.size, x.size)


def serial_asymmetry(block: SerialBlock, x: Layer) -> Scalar:
    """The index of the displacement of one round."""
    return field_asymmetry(lambda x: block(x) - x, x, block.token.potential.neurons.lagrangian)


def alternating_energy(block: SerialBlock, between: Layer, x: Layer) -> Scalar:
    r"""$V(x) = \psi_c^*(x) - \psi_t(x)$ at the state $x = \nabla\psi_c(\text{between})$ that a
    serial block arrives at,

    $$\psi(x) = \tfrac12 (1 - \text{leak}\,\eta)\,|x|^2 + \eta\,U(x).$$

    For linear visible units it falls with every round of the block, if both $\psi$ are convex.
    """
    token, channel = block.parts
    return jnp.sum(x * between) - _step_potential(channel, between) - _step_potential(token, x)


def _step_potential(block: Block, x: Layer) -> Scalar:
    return 0.5 * (1 - block.leak * block.step) * jnp.sum(x**2) + block.step * block.potential(x)


class Gaps(NamedTuple):
    r"""What is measured on one memory and state.

    - `curl`: how far $HJ - (HJ)^\top$ by automatic differentiation is from the formula, relative to
      $HJ$.
    - `parallel`, `serial`: the asymmetries of the two blocks.
    """

    curl: Scalar
    parallel: Scalar
    serial: Scalar


def gaps_of(memory: AssociativeMemory, x: Layer, leak: float, step: float) -> Gaps:
    """The gap of the formula, and the asymmetries of the parallel and of the serial block with the
    same weights.
    """
    serial = serial_block(memory, leak=leak, step=step)
    form = displacement_form(serial, x)
    curl = serial_curl(serial, x)
    gap = jnp.linalg.norm(form - form.T - curl) / jnp.linalg.norm(form)
    parallel = derive_block(memory, BRANCHES, leak=leak, step=step)
    return Gaps(gap, asymmetry(parallel, x), serial_asymmetry(serial, x))


@eqx.filter_jit
def all_gaps(memories: AssociativeMemory, states: Layer, leak: float, step: float) -> Gaps:
    """The gaps of each of a stack of memories, in bounded memory."""
    arrays, rest = eqx.partition(memories, eqx.is_array)
    one = lambda pair: gaps_of(eqx.combine(pair[0], rest), pair[1], leak, step)
    return jax.lax.map(one, (arrays, states), batch_size=min(len(states), 50))


KINDS = ((LayerNorm(), 0.0, 1.0), (LayerNorm((-1,)), 0.5, 0.8))
"""Visible Lagrangian, leak and step."""


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random tied mixers; a serial block without asymmetry counts as an error of
    1.
    """
    number = share(examples, len(KINDS))
    worst = []
    for i, (visible, leak, step) in enumerate(KINDS):
        structure = partial(mixer, hidden=GELU(), visible=visible)
        memories, states = draw_systems(structure, jr.fold_in(key, i), number)
        gaps = all_gaps(memories, states["x"], leak, step)
        worst.append(where_it_fails(gaps.serial > CLEAR, jnp.maximum(gaps.curl, gaps.parallel)))
    return Measurement(float(jnp.max(jnp.concatenate(worst))), 1e-11, number * len(KINDS))


CLAIM = Claim(
    id="C09",
    statement="a tied serial block is no gradient step: HJ - (HJ)^T of its displacement is a "
    "commutator of the two "
    "mixings, of second order in the step, in general not 0; that of the parallel block with the "
    "same weights is 0",
    source="hopmix",
    status="proved",
    page="C09-serial.md",
    test="test_c09_serial.py",
    what="gap of the commutator formula, asymmetry of the parallel block; 1 if a serial block "
    "has no asymmetry",
    measure=measure,
)
