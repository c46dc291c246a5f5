r"""Synapses on a grid of tokens: convolution and average pooling.

The visible layer has shape (tokens, channels) as everywhere, its tokens being the rows of a grid
one after another. Beyond the border of the grid there are zeros.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hopmix._assumptions import Assumption
from hopmix._numerics.norms import matrix_norm
from hopmix._synapse.base import (
    AbstractCoupled,
    AbstractSynapse,
    Activations,
    bilinear_energy,
    bilinear_magnitude,
)
from hopmix._types import Energy, Layer, Scalar

Images: TypeAlias = Float[Array, "_ _ _ _"]
"""Batch, height, width and channels, as convolutions take them."""


class Convolution(AbstractCoupled):
    r"""Local mixing of tokens and channels: the current into the hidden layer is $W * v$, the
    convolution with the kernel $W$, and the current into the visible layer is $V *^\top h$, the
    transposed convolution with the kernel $V$.

    With `stride` 1 the hidden layer has shape (tokens, hidden); else its tokens are those of the
    grid of size ceil(grid / stride).

    **Arguments:**

    - `coupling`: $W$ of shape (hidden, height * width * channels) with height and width those of
      the window.
    - `grid`: rows and columns of tokens of the visible layer.
    - `window`: height and width of the kernel, in tokens.
    - `stride`: the distance of neighbouring windows, in tokens.

    **Raises:** `ValueError` if a window of the coupling does not hold whole tokens.

    **Source:** energies of convolutional memories as in HAMUX 0.1 (Hoover et al. 2022).
    """

    grid: tuple[int, int] = eqx.field(static=True)
    window: tuple[int, int] = eqx.field(static=True, default=(3, 3))
    stride: int = eqx.field(static=True, default=1)
    units_last: ClassVar[bool] = True

    def __check_init__(self):
        visible = self.coupling.up.shape[1]
        size = self.window[0] * self.window[1]
        if visible % size:
            raise ValueError(
                f"The coupling of a convolution reads height * width * channels numbers, here a "
                f"multiple of {size} "
                f"for the window {self.window}, got {visible}."
            )

    def energy(self, *activations: Layer) -> Energy:
        return bilinear_energy(self, *activations)

    def current(self, into: int, activations: Activations) -> Layer:
        v, h = activations
        if into:
            return _on_grid(lambda images: self._convolve(self.coupling.up, images), v, self.grid)
        return _on_grid(self._transpose, h, _coarse(self.grid, self.stride))

    def kind(self, ends: tuple[str, ...]) -> Hashable:
        """Convolutions add up only where they read and feed the same layers in the same way."""
        return type(self), ends, self.grid, self.window, self.stride

    @property
    def is_entrywise(self) -> bool:
        """Whether its windows are single tokens; a larger one would have to be flipped."""
        return self.window == (1, 1)

    def norm_of(self, up: np.ndarray) -> float:
        """The sum of the norms of all taps, a bound on that of the map."""
        taps = up.reshape(up.shape[0], self.window[0] * self.window[1], -1)
        return sum(matrix_norm(taps[:, i]) for i in range(taps.shape[1]))

    def _convolve(self, kernel: Float[Array, "hidden visible"], images: Images) -> Images:
        kernel = kernel.reshape(kernel.shape[0], *self.window, -1)
        strides = (self.stride, self.stride)
        layout = ("NHWC", "OHWI", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, strides, "SAME", dimension_numbers=layout
        )

    def _transpose(self, images: Images) -> Images:
        channels = self.coupling.up.shape[1] // (self.window[0] * self.window[1])
        visible = jax.ShapeDtypeStruct((images.shape[0], *self.grid, channels), images.dtype)
        kernel = self.coupling.down.T
        (back,) = jax.linear_transpose(lambda v: self._convolve(kernel, v), visible)(images)
        return back


class Pooling(AbstractSynapse):
    r"""Average pooling of tokens: $E(v, h) = -h \cdot P v$, with currents $P v$ and $P^\top h$.

    $P$ averages each channel over windows; it has no parameters and divides by the size of the
    window at the border too, which is what keeps it symmetric at stride 1 and odd windows. The
    hidden layer has the channels of the visible one, and the tokens of the grid of size ceil(grid /
    stride).

    **Arguments:** `grid`, `window` and `stride` as in `Convolution`.

    **Source:** the token mixer of PoolFormer (Yu et al. 2022, arXiv 2111.11418), made symmetric.
    """

    grid: tuple[int, int] = eqx.field(static=True)
    window: tuple[int, int] = eqx.field(static=True, default=(3, 3))
    stride: int = eqx.field(static=True, default=1)
    is_explicit: ClassVar[bool] = True
    takes_batch: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True

    def energy(self, *activations: Layer) -> Energy:
        return bilinear_energy(self, *activations)

    def energy_magnitude(self, *activations: Layer) -> Scalar:
        return bilinear_magnitude(self, *activations)

    def conservative(self, name: str, layers: Sequence[jax.ShapeDtypeStruct]) -> list[Assumption]:
        """Nothing: its map is fixed, and goes back by its transpose."""
        del name, layers
        return []

    @property
    def spectral_norm(self) -> float:
        return 1.0  # its rows and its columns add up to at most one

    def current(self, into: int, activations: Activations) -> Layer:
        v, h = activations
        if into:
            return _on_grid(self._average, v, self.grid)
        return _on_grid(self._spread, h, _coarse(self.grid, self.stride))

    def _average(self, images: Images) -> Images:
        window = (1, *self.window, 1)
        strides = (1, self.stride, self.stride, 1)
        # A NumPy zero: with a traced one JAX does not know that this is a sum, and has no transpose
        # of it.
        total = jax.lax.reduce_window(
            images, np.zeros((), images.dtype)[()], jax.lax.add, window, strides, "SAME"
        )
        return total / (self.window[0] * self.window[1])

    def _spread(self, images: Images) -> Images:
        visible = jax.ShapeDtypeStruct(
            (images.shape[0], *self.grid, images.shape[-1]), images.dtype
        )
        (back,) = jax.linear_transpose(self._average, visible)(images)
        return back


def _coarse(grid: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-grid[0] // stride), -(-grid[1] // stride)


def _on_grid(f: Callable[[Images], Images], x: Layer, grid: tuple[int, int]) -> Layer:
    """Apply a map of images to a layer of tokens, or to a token-major batch."""
    tokens, *batch, channels = x.shape
    if tokens != grid[0] * grid[1]:
        raise ValueError(f"A grid of {grid} has {grid[0] * grid[1]} tokens, got {tokens}.")
    images = f(jnp.moveaxis(x.reshape(*grid, -1, channels), 2, 0))
    return jnp.moveaxis(images, 0, 2).reshape(-1, *batch, images.shape[-1])
