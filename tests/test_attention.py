"""Attention as an energy, against loops over heads, tokens and neighbours."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MASKS, assert_close, distance, normal

from hopmix import Attention

TOKENS = 5
CHANNELS = 4
HEADS = 2
DIM = 3
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def attends(i: int, j: int, include_self: bool = False, causal: bool = False) -> bool:
    return (include_self or i != j) and (not causal or j <= i)


@masks
@pytest.mark.quick
def test_the_energy_written_out(mask, getkey):
    attention = Attention.random(CHANNELS, HEADS, DIM, key=getkey(), **mask)
    g = np.asarray(normal(getkey(), (TOKENS, CHANNELS)))
    total = 0.0
    for h, i in itertools.product(range(HEADS), range(TOKENS)):
        query = np.asarray(attention.queries)[h] @ g[i]
        scores = [
            query @ np.asarray(attention.keys)[h] @ g[j]
            for j in range(TOKENS)
            if attends(i, j, **mask)
        ]
        if scores:
            total -= math.sqrt(DIM) * math.log(sum(math.exp(s / math.sqrt(DIM)) for s in scores))
    assert_close(attention.energy(jnp.asarray(g)), total)


@masks
@pytest.mark.quick
def test_the_current_is_what_a_token_reads_and_what_its_readers_send_back(mask, getkey):
    """Hoover et al. 2023, equation 7: a token gets the keys it reads through its queries, and the
    other way round.
    """
    attention = Attention.random(CHANNELS, HEADS, DIM, key=getkey(), **mask)
    g = normal(getkey(), (TOKENS, CHANNELS))
    queries = jnp.einsum("hdc,tc->htd", attention.queries, g)
    keys = jnp.einsum("hdc,tc->htd", attention.keys, g)
    allowed = jnp.asarray([[attends(i, j, **mask) for j in range(TOKENS)] for i in range(TOKENS)])
    scores = jnp.where(
        allowed, attention.beta * jnp.einsum("htd,hsd->hts", queries, keys), -jnp.inf
    )
    weights = jnp.nan_to_num(
        jax.nn.softmax(scores, axis=-1)
    )  # a token without neighbours reads nothing
    read = jnp.einsum("hts,hsd,hdc->tc", weights, keys, attention.queries)
    sent_back = jnp.einsum("hts,htd,hdc->sc", weights, queries, attention.keys)
    current = attention.current(0, (g,))
    assert_close(current, read + sent_back)
    assert jnp.any(sent_back)


def test_a_causal_token_does_not_read_the_future(fixedkey):
    """The energy of a prefix does not depend on what follows; what is read later still pulls on
    it.
    """
    attention = Attention.random(CHANNELS, HEADS, DIM, key=fixedkey(), causal=True)
    g = normal(fixedkey(), (TOKENS, CHANNELS))
    prefix = attention.energy(g[:3])
    steps = [attention.energy(g[: n + 1]) for n in range(3, TOKENS)]
    changed = g.at[4].set(normal(fixedkey(), (CHANNELS,)))
    assert_close(attention.energy(changed[:3]), prefix)
    assert_close(attention.energy(changed[:4]), steps[0])
    assert distance(attention.energy(changed), steps[1]) > 1e-3


def test_a_lone_token_attends_to_nothing(getkey):
    attention = Attention.random(CHANNELS, HEADS, DIM, key=getkey())
    g = normal(getkey(), (1, CHANNELS))
    assert attention.energy(g) == 0
    assert not jnp.any(attention.current(0, (g,)))


def test_the_inverse_temperature_learns(getkey):
    attention = Attention.random(CHANNELS, HEADS, DIM, key=getkey())
    g = normal(getkey(), (TOKENS, CHANNELS))
    energy = lambda beta: Attention(attention.queries, attention.keys, beta).energy(g)
    h = 1e-6
    slope = (energy(jnp.asarray(0.5 + h)) - energy(jnp.asarray(0.5 - h))) / (2 * h)
    assert_close(jax.grad(energy)(jnp.asarray(0.5)), slope, 1e-7)


def test_queries_and_keys_of_different_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"one shape, \(heads, dim, channels\), got \(2, 3, 4\) and \(2, 3, 5\)"
    ):
        Attention(jnp.ones((2, 3, 4)), jnp.ones((2, 3, 5)), 1.0)
