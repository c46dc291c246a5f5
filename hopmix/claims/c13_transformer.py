r"""C13: the Energy Transformer descends with each of its masks, and what its steps may be.

The energy of attention is $-U(g)$ with $U = \tfrac1\beta \sum_{h,C} \log \sum_{B \in \mathcal N(C)}
e^{\beta K_{hB} \cdot Q_{hC}}$. Its force on a token is what the token reads from its neighbours,
plus what those that attend to it send back. $U$ is not convex, but $U + \tfrac K2 |g|^2$ is, with

$$K = c_n \sum_h |W^{K\top}_h W^Q_h|_2, \qquad c_n = 1 + \sqrt n,\ \sqrt{n + 2}\ \text{or}\ \sqrt{n - 1}$$

for $n$ tokens that attend to themselves too, to all others, or to earlier ones only. It does not
depend on $\beta$.
"""  # noqa: E501

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._block import derive_block
from hopmix._memory import AssociativeMemory
from hopmix._potential import Potential
from hopmix._synapse import Attention, ChannelMixing
from hopmix._types import Layer, PRNGKey, Scalar, Tokens
from hopmix.claims._claim import Claim, Measurement, share, where_it_fails
from hopmix.claims._draws import draw_systems, transformer
from hopmix.claims._mixer import CLEAR
from hopmix.claims.c01_descent import block_gap
from hopmix.claims.c06_gelu import explicit_step, safe_step
from hopmix.symmetry.fields import field_asymmetry


class Exchange(NamedTuple):
    """The two parts of the force of attention on each token.

    - `read`: what a token takes from those that it attends to; the usual attention layer, with
      values made of keys.
    - `sent_back`: what those that attend to it send back.
    """

    read: Tokens
    sent_back: Tokens


def exchange(attention: Attention, g: Tokens) -> Exchange:
    r"""The force of attention, written out: with $A_{hCB} = \mathrm{softmax}_B(\beta\,K_{hB} \cdot
    Q_{hC})$ over $\mathcal N(C)$,

    $$\text{read}_C = \sum_h W^{Q\top}_h \sum_B A_{hCB}\,K_{hB}, \qquad
      \text{sent back}_C = \sum_h W^{K\top}_h \sum_B A_{hBC}\,Q_{hB}.$$
    """
    queries = jnp.einsum("hdc,tc->htd", attention.queries, g)
    keys = jnp.einsum("hdc,tc->htd", attention.keys, g)
    mask = attention.neighbours(len(g))[None]
    scores = attention.beta * jnp.einsum("htd,hsd->hts", queries, keys)
    weights = jnp.where(mask, jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    shares = weights / jnp.where(
        total > 0, total, 1.0
    )  # a token that attends to none has no weights at all
    return Exchange(
        read=jnp.einsum("hdc,hts,hsd->tc", attention.queries, shares, keys),
        sent_back=jnp.einsum("hdc,hts,htd->sc", attention.keys, shares, queries),
    )


def attention_of(potential: Potential) -> Attention:
    """The attention of the memory of an Energy Transformer."""
    attention = potential.memory.synapses["attention"]
    assert isinstance(attention, Attention)
    return attention


def force_gap(potential: Potential, g: Tokens) -> Scalar:
    """How far the derivative of the potential, which the force is, is from the force written out,
    relative.
    """
    force = potential.force(g)
    memory = potential.memory.synapses["memory"]
    assert isinstance(memory, ChannelMixing)
    parts = exchange(attention_of(potential), g)
    up = memory.coupling.up
    written = parts.read + parts.sent_back + jax.nn.relu(g @ up.T) @ up
    return jnp.max(jnp.abs(force - written)) / jnp.max(jnp.abs(force))


def reading_asymmetry(potential: Potential, x: Tokens) -> Scalar:
    """The index of the field without what is sent back: what usual attention reads, and the
    Hopfield network.
    """
    attention = attention_of(potential)
    lagrangian = potential.neurons.lagrangian

    def field(x: Tokens) -> Tokens:
        g = lagrangian.activation(x)
        return potential.force(g) - exchange(attention, g).sent_back

    return field_asymmetry(field, x, lagrangian)


def step_rise(potential: Potential, x: Tokens, reach: float = 1.0) -> Scalar:
    """The rise of the energy in a residual step of `reach` times the bound at `x`, relative to the
    energy.
    """
    lagrangian = potential.neurons.lagrangian
    concavity = attention_of(potential).concavity(len(x))
    after = explicit_step(potential, x, 0.0, reach * safe_step(lagrangian, x, concavity))
    here = potential(lagrangian.activation(x))
    there = potential(lagrangian.activation(after))
    return (here - there) / (jnp.abs(here) + jnp.abs(there))


def worst_gap(memory: AssociativeMemory, x: Layer) -> Scalar:
    """The worst of the three: force, rate along a leaky flow, rise of the energy in one step; 1 if
    the field has an energy without what is sent back."""
    block = derive_block(memory, ["memory"], leak=0.7)
    force = force_gap(block.potential, block.activation(x))
    gap = jnp.max(jnp.stack([force, block_gap(block, x), step_rise(block.potential, x)]))
    return where_it_fails(reading_asymmetry(block.potential, x) > CLEAR, gap)


@eqx.filter_jit
def worst_gaps(memories: AssociativeMemory, states: Layer) -> Float[Array, " examples"]:
    """The worst gap of each of a stack of memories."""
    return eqx.filter_vmap(worst_gap)(memories, states)


MASKS = tuple((include_self, causal) for include_self in (False, True) for causal in (False, True))


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The worst gap over random Energy Transformers with each of the four masks."""
    number = share(examples, len(MASKS))
    gaps = []
    for i, (include_self, causal) in enumerate(MASKS):
        structure = lambda key, mask=(include_self, causal): transformer(key, *mask)
        memories, states = draw_systems(structure, jr.fold_in(key, i), number)
        gaps.append(worst_gaps(memories, states["x"]))
    return Measurement(float(jnp.max(jnp.concatenate(gaps))), 1e-10, number * len(MASKS))


CLAIM = Claim(
    id="C13",
    statement="an Energy Transformer with beta > 0 descends along its flow with self, causal or "
    "both masks, and in "
    "residual steps to min s/(scale K), K = (1 + sqrt n) sum |W_K^T W_Q|; without what is sent "
    "back it has no energy",
    source="Hoover et al. 2023 (arXiv 2302.07253); the bound on steps: hopmix",
    status="proved",
    page="C13-transformer.md",
    test="test_c13_transformer.py",
    what="gap of the force and of the rate identity, and rise of the energy in one step, "
    "relative; 1 if there is an "
    "energy without what is sent back",
    measure=measure,
)
