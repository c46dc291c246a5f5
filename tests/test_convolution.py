"""Convolution and pooling: equal to SciPy's on the grid, and conservative where weights are
tied.
"""

# pyright: reportArgumentType=false

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import COUPLINGS, assert_close, distance, normal

from hopmix import (
    AssociativeMemory,
    Convolution,
    Coupling,
    LayerNorm,
    Neurons,
    Pooling,
    ReLU,
    derive_block,
)

GRID = (5, 4)
CHANNELS = 2
HIDDEN = 3
strides = pytest.mark.parametrize("stride", [1, 2])


def convolution(key, kind: str = "symmetric", window=(3, 3), stride: int = 1) -> Convolution:
    coupling = COUPLINGS[kind](window[0] * window[1] * CHANNELS, HIDDEN, key=key)
    return Convolution(coupling, GRID, window, stride)


def layers(key, stride: int, hidden: int) -> tuple[jax.Array, jax.Array]:
    rows, columns = (-(-side // stride) for side in GRID)
    return normal(key, (GRID[0] * GRID[1], CHANNELS)), normal(key, (rows * columns, hidden))


def patches(v: jax.Array, window: tuple[int, int], stride: int) -> np.ndarray:
    """What each window sees, (tokens, height, width, channels), zeros beyond the border shared out
    to both sides.
    """
    image = np.asarray(v).reshape(*GRID, -1)
    tokens = [-(-side // stride) for side in GRID]
    missing = [max((n - 1) * stride + k - side, 0) for n, k, side in zip(tokens, window, GRID)]
    padded = np.pad(image, [*((m // 2, m - m // 2) for m in missing), (0, 0)])
    starts = itertools.product(*(range(0, n * stride, stride) for n in tokens))
    return np.stack([padded[i : i + window[0], j : j + window[1]] for i, j in starts])


windows = pytest.mark.parametrize("window", [(3, 3), (1, 1), (3, 5), (2, 3)], ids=str)


@windows
@strides
def test_the_current_up_applies_the_kernel_to_each_window(window, stride, getkey):
    synapse = convolution(getkey(), window=window, stride=stride)
    (v, _) = layers(getkey(), stride, HIDDEN)
    kernel = np.asarray(synapse.coupling.up).reshape(HIDDEN, *window, CHANNELS)
    expected = np.einsum("tijc,hijc->th", patches(v, window, stride), kernel)
    assert_close(synapse.current(1, (v, None)), expected)


@pytest.mark.parametrize("window", [(3, 3), (1, 1), (3, 5)], ids=str)
@pytest.mark.quick
def test_the_current_up_is_the_convolution(window, getkey):
    """By SciPy, channel by channel, with zeros beyond the border."""
    synapse = convolution(getkey(), window=window)
    (v, _) = layers(getkey(), 1, HIDDEN)
    kernel = np.asarray(synapse.coupling.up).reshape(HIDDEN, *window, CHANNELS)
    images = np.asarray(v).reshape(*GRID, -1)
    correlate = partial(scipy.ndimage.correlate, mode="constant")
    maps = [sum(correlate(images[..., c], f[..., c]) for c in range(CHANNELS)) for f in kernel]
    expected = np.stack([np.asarray(e).reshape(-1) for e in maps], axis=1)
    assert_close(synapse.current(1, (v, None)), expected)


def matrix(synapse, into: int, shape: tuple[int, int]) -> jax.Array:
    """The linear map of a current, as a matrix."""
    send = lambda a: synapse.current(into, (a, a)).reshape(-1)
    return jax.jacfwd(send)(jnp.zeros(shape)).reshape(-1, shape[0] * shape[1])


@strides
@pytest.mark.parametrize("kind", COUPLINGS)
def test_the_way_back_is_the_transpose_with_the_kernel_of_v(kind, stride, getkey):
    synapse = convolution(getkey(), kind, stride=stride)
    (v, h) = layers(getkey(), stride, HIDDEN)
    up = matrix(synapse, 1, v.shape)
    down = matrix(synapse, 0, h.shape)
    reverse = Convolution(Coupling(synapse.coupling.down.T), GRID, (3, 3), stride)
    assert_close(down, matrix(reverse, 1, v.shape).T)
    assert (distance(down, up.T) < 1e-12) is (kind == "symmetric")
    terms = h * synapse.current(1, (v, None)), v * (down @ h.reshape(-1)).reshape(v.shape)
    size = sum(jnp.sum(jnp.abs(term)) for term in terms)
    assert_close(synapse.energy(v, h), -0.5 * sum(map(jnp.sum, terms)), scale=size)


@pytest.mark.parametrize("window", [(3, 3), (2, 3)], ids=str)
@strides
@pytest.mark.quick
def test_pooling_averages_windows(stride, window, getkey):
    """Zeros beyond the border, and always the size of the window in the denominator: symmetric
    around a centre.
    """
    pooling = Pooling(GRID, window, stride)
    (v, h) = layers(getkey(), stride, CHANNELS)
    expected = patches(v, window, stride).sum(axis=(1, 2)) / (window[0] * window[1])
    assert_close(pooling.current(1, (v, None)), expected)
    up = matrix(pooling, 1, v.shape)
    down = matrix(pooling, 0, h.shape)
    assert_close(down, up.T)
    assert ((stride, window) == (1, (3, 3))) is (
        up.shape[0] == up.shape[1] and distance(up, up.T) < 1e-12
    )
    assert np.linalg.norm(up, 2) <= 1
    size = jnp.abs(h.reshape(-1)) @ up @ jnp.abs(v.reshape(-1))
    assert_close(pooling.energy(v, h), -h.reshape(-1) @ up @ v.reshape(-1), scale=size)


@pytest.mark.quick
def test_what_does_not_fit_the_grid_is_refused(getkey):
    with pytest.raises(ValueError, match=r"a multiple of 9 for the window \(3, 3\), got 10"):
        Convolution(Coupling.symmetric(10, 3, key=getkey()), GRID)
    with pytest.raises(ValueError, match=r"A grid of \(5, 4\) has 20 tokens, got 19"):
        convolution(getkey()).current(1, (jnp.zeros((19, CHANNELS)), None))
    neurons = {"x": Neurons(LayerNorm((-1,)), (19, CHANNELS)), "h": Neurons(ReLU(), (20, HIDDEN))}
    with pytest.raises(
        ValueError,
        match=r"Synapse 's' does not fit layers .* A grid of \(5, 4\) has 20 tokens, got 19",
    ):
        AssociativeMemory(neurons, {"s": convolution(getkey())}, {"s": ("x", "h")})


def test_a_memory_with_pooling_gives_a_block(getkey):
    """Inside compiled programs the transpose is taken of a traced sum."""
    neurons = {
        "x": Neurons(LayerNorm((0, -1)), (20, CHANNELS)),
        "h": Neurons(ReLU(), (20, CHANNELS)),
    }
    memory = AssociativeMemory(neurons, {"s": Pooling(GRID)}, {"s": ("x", "h")})
    block = derive_block(memory, ["h"])
    x = normal(getkey(), (20, CHANNELS))
    pool = matrix(Pooling(GRID), 1, x.shape)
    g = block.activation(x).reshape(-1)
    assert_close(
        jax.jit(lambda x: block(x))(x), x + (pool.T @ jax.nn.relu(pool @ g)).reshape(x.shape)
    )
