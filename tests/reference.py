"""Plain NumPy in float64, written from the formulas alone: Lagrangians, synapses, forces, energies.

States are stacked on a first axis, layers are flat: (examples, units). Nothing here calls hopmix;
parameters are read from its objects.
"""

import dataclasses
import itertools
import math
from typing import Any, TypeAlias

import numpy as np
import scipy.special as sp

Array: TypeAlias = Any  # of NumPy, whose types say too much


# ---- Lagrangians: the value (examples,) and the activation, of states (examples, *shape) ---------


def lagrangian(which: Any, x: Array) -> tuple[Array, Array]:
    """The value and the activation of one of hopmix's Lagrangians, by the name of its type."""
    layer = tuple(range(1, x.ndim))
    kind = type(which).__name__
    if kind == "Sum":
        values, activations = zip(*(lagrangian(term, x) for term in which.terms))
        return np.sum(values, 0), np.sum(activations, 0)
    if kind == "Scaled":
        value, g = lagrangian(which.lagrangian, x)
        return float(which.factor) * value, float(which.factor) * g
    if kind in UNITS:
        value, g = UNITS[kind](which, x)
        return value.sum(layer), g
    axes = layer if which.axes is None else tuple(1 + axis % (x.ndim - 1) for axis in which.axes)
    if not axes:  # each unit is a group of its own
        value, g = GROUPS[kind](which, x[..., None], (x.ndim,))
        return np.reshape(value, (len(x), -1)).sum(1), g[..., 0]
    value, g = GROUPS[kind](which, x, axes)
    return np.reshape(value, (len(x), -1)).sum(1), g


def _gelu(_, x):
    erf = sp.erf(x / np.sqrt(2))
    gauss = x * np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)
    far = 0.25 * (x**2 + (x**2 - 1) * erf + gauss)
    return np.where(np.abs(x) < 0.5, _gelu_near(np.clip(x, -0.5, 0.5)), far), 0.5 * x * (1 + erf)


def _gelu_near(x):
    """The power series at 0, where the closed form is a small difference of large numbers."""
    odd = [
        (-1) ** k * x ** (2 * k + 3) / (math.factorial(k) * 2**k * (2 * k + 1) * (2 * k + 3))
        for k in range(10)
    ]
    return x**2 / 4 + sum(odd) / math.sqrt(2 * math.pi)


def _tanh(which, x):
    z = np.abs(float(which.beta) * x)
    log_cosh = np.where(
        z < 1,
        np.log1p(2 * np.sinh(np.minimum(z, 1) / 2) ** 2),
        z + np.log1p(np.exp(-2 * z)) - np.log(2),
    )
    return log_cosh / float(which.beta), np.tanh(float(which.beta) * x)


def _exponential(which, x):
    g = np.exp(float(which.beta) * x)
    return g / float(which.beta), g


def _sigmoid(which, x):
    z = float(which.beta) * x
    return np.logaddexp(0, z) / float(which.beta), sp.expit(z)


UNITS = {
    "Quadratic": lambda _, x: (x**2 / 2, x),
    "ReLU": lambda _, x: (np.maximum(x, 0) ** 2 / 2, np.maximum(x, 0)),
    "RePU": lambda w, x: (np.maximum(x, 0) ** w.power / w.power, np.maximum(x, 0) ** (w.power - 1)),
    "GELU": _gelu,
    "Tanh": _tanh,
    "Sigmoid": _sigmoid,
    "Exponential": _exponential,
}


def _log_sum_exp(z: Array, axes: tuple[int, ...]) -> Array:
    return sp.logsumexp(z, axes, keepdims=True)


def _softmax(which, x, axes):
    z = float(which.beta) * x
    return _log_sum_exp(z, axes) / float(which.beta), sp.softmax(z, axes)


def _ghostmax(which, x, axes):
    total = np.logaddexp(0, _log_sum_exp(float(which.beta) * x, axes))
    return total / float(which.beta), np.exp(float(which.beta) * x - total)


def _entmax(which, x, axes):
    """By bisection of the threshold to the last digit."""
    rate = which.alpha - 1
    z = rate * float(which.beta) * x
    high = z.max(axes, keepdims=True)
    low = high - 1
    for _ in range(80):
        middle = (low + high) / 2
        mass = np.sum(np.maximum(z - middle, 0) ** (1 / rate), axes, keepdims=True)
        low = np.where(mass > 1, middle, low)
        high = np.where(mass > 1, high, middle)
    g = np.maximum(z - (low + high) / 2, 0) ** (1 / rate)
    g = g / g.sum(axes, keepdims=True)
    entropy = (g**which.alpha - g) / (which.alpha * rate)
    return np.sum(g * x - entropy / float(which.beta), axes, keepdims=True), g


def _layer_norm(which, x, axes):
    centred = x - x.mean(axes, keepdims=True)
    root = np.sqrt(np.mean(centred**2, axes, keepdims=True) + which.eps)
    shift = 0.0 if which.shift is None else np.asarray(which.shift, float)
    count = np.prod([x.shape[axis] for axis in axes])
    value = float(which.scale) * count * root + np.sum(shift * x, axes, keepdims=True)
    return value, float(which.scale) * centred / root + shift


def _log_sum_relu(which, x, axes):
    raised = 1 + float(which.beta) * x
    mass = which.eps + np.sum(np.maximum(raised, 0), axes, keepdims=True)
    return np.log(mass) / float(which.beta), np.where(raised > 0, 1 / mass, 0)


def _spherical(which, x, axes):
    root = np.sqrt(np.sum(x**2, axes, keepdims=True) + which.eps)
    return root, x / root


GROUPS = {
    "Softmax": _softmax,
    "GhostMax": _ghostmax,
    "Entmax": _entmax,
    "LayerNorm": _layer_norm,
    "LogSumReLU": _log_sum_relu,
    "SphericalNorm": _spherical,
}


# ---- Linear maps of synapses, as matrices between flat layers ------------------------------------


def matrices(synapse: Any, up: Array, down: Array, visible: tuple[int, ...]) -> tuple[Array, Array]:
    """The matrices up (hidden, visible) and down (visible, hidden) of a bilinear synapse with these
    weights.
    """
    kind = type(synapse).__name__
    if kind == "Dense":
        return up, down
    if kind == "TokenMixing":
        return np.kron(up, np.eye(visible[1])), np.kron(down, np.eye(visible[1]))
    if kind == "ChannelMixing":
        return np.kron(np.eye(visible[0]), up), np.kron(np.eye(visible[0]), down)
    if kind == "Convolution":
        return _windows(synapse, up, visible[1]), _windows(synapse, down.T, visible[1]).T
    raise KeyError(kind)


def pooling(synapse: Any, channels: int) -> Array:
    """The matrix of an average pooling."""
    size = synapse.window[0] * synapse.window[1]
    kernel = np.tile(np.eye(channels) / size, (1, size))
    return _windows(synapse, kernel, channels)


def _windows(synapse: Any, kernel: Array, channels: int) -> Array:
    """A kernel (features, height * width * channels) at every place of the grid, stride 1, zeros
    beyond the border.
    """
    rows, columns = synapse.grid
    height, width = synapse.window
    features = len(kernel)
    taps = kernel.reshape(features, height, width, channels)
    matrix = np.zeros((rows * columns, features, rows * columns, channels))
    for i, j, a, b in itertools.product(range(rows), range(columns), range(height), range(width)):
        y = i + a - (height - 1) // 2
        x = j + b - (width - 1) // 2
        if 0 <= y < rows and 0 <= x < columns:
            matrix[i * columns + j, :, y * columns + x] += taps[:, a, b]
    return matrix.reshape(rows * columns * features, -1)


# ---- A block -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Branch:
    """A hidden layer: its units, the maps to and from it, currents into it, and gains on what it
    sends back.

    Its state is scale (W s + bias) + input, what it sends is scale phi + shift. `down` is that of
    the block as it is; the energy is that of tied maps and gained units, sum D Phi.
    """

    units: Any
    shape: tuple[int, ...]
    up: Array
    down: Array
    gains: Array
    bias: Array
    input: Array
    scale: Array
    shift: Array

    def potential(self, s: Array) -> tuple[Array, Array]:
        """The values of sum D Phi(h) + shift (W s + bias), and the sizes of what was added up."""
        reached = s @ self.up.T + self.bias
        h = self.scale * reached + self.input
        value, g = lagrangian(self.units, h.reshape(-1, *self.shape))
        if np.all(self.gains == self.gains[0]):
            value = self.gains[0] * value
        else:
            single = [lagrangian(self.units, h[:, [i]])[0] for i in range(h.shape[1])]
            value = np.stack(single, 1) @ self.gains
        sent = np.abs(self.gains * self.scale * g.reshape(h.shape)) + np.abs(self.shift)
        size = (
            np.sum(sent @ np.abs(self.up) * np.abs(s), 1) + sent @ np.abs(self.bias) + np.abs(value)
        )
        return value + reached @ self.shift, size

    def send_back(self, s: Array) -> Array:
        h = self.scale * (s @ self.up.T + self.bias) + self.input
        g = lagrangian(self.units, h.reshape(-1, *self.shape))[1]
        return (self.scale * g.reshape(h.shape) + self.shift) @ self.down.T


@dataclasses.dataclass
class Loop:
    """An interaction of the visible layer with itself: minus its energy, and its gradient."""

    synapse: Any
    shape: tuple[int, ...]

    def potential(self, s: Array) -> tuple[Array, Array]:
        value = getattr(self, "_" + type(self.synapse).__name__)(s)[0]
        return value, np.abs(value)

    def send_back(self, s: Array) -> Array:
        return getattr(self, "_" + type(self.synapse).__name__)(s)[1]

    def _HopfieldMemory(self, s):
        patterns = np.asarray(self.synapse.patterns, float).reshape(len(self.synapse.patterns), -1)
        if self.synapse.similarity == "dot":
            value, a = lagrangian(self.synapse.separation, s @ patterns.T)
            return value, a @ patterns
        away = patterns[None] - s[:, None]
        value, a = lagrangian(self.synapse.separation, -0.5 * np.sum(away**2, 2))
        return value, np.einsum("nm,nmi->ni", a, away)

    def _Dense(self, s):
        both = np.asarray(self.synapse.coupling.up, float) + np.asarray(
            self.synapse.coupling.down, float
        )
        return 0.5 * np.einsum("ni,ij,nj->n", s, both, s), s @ both.T

    def _HyperSynapse(self, s):
        """The energy minus the sum of tanh(s_i) A_ij s_j."""
        matrix = np.asarray(self.synapse.function.weights, float)
        bent = np.tanh(s)
        reads = s @ matrix.T
        return np.sum(bent * reads, 1), (1 - bent**2) * reads + bent @ matrix

    def _Attention(self, s):
        x = s.reshape(-1, *self.shape)
        beta = float(self.synapse.beta)
        tokens = self.shape[0]
        q = np.einsum("hdc,ntc->nhtd", np.asarray(self.synapse.queries, float), x)
        k = np.einsum("hdc,ntc->nhtd", np.asarray(self.synapse.keys, float), x)
        mask = (
            np.tri(tokens, dtype=bool) if self.synapse.causal else np.ones((tokens, tokens), bool)
        )
        if not self.synapse.include_self:
            mask &= ~np.eye(tokens, dtype=bool)
        heard = mask.any(1)
        scores = np.where(mask, beta * np.einsum("nhtd,nhsd->nhts", q, k), -np.inf)[:, :, heard]
        value = _log_sum_exp(scores, (-1,)).sum((1, 2, 3)) / beta
        weights = sp.softmax(scores, -1)
        reads = np.einsum("nhts,nhsd,hdc->ntc", weights, k, np.asarray(self.synapse.queries, float))
        sent = np.einsum(
            "nhts,nhtd,hdc->nsc", weights, q[:, :, heard], np.asarray(self.synapse.keys, float)
        )
        current = sent
        current[:, heard] += reads
        return value, current.reshape(s.shape)


@dataclasses.dataclass
class Block:
    """A visible layer with branches and loops, and the explicit steps of its flow."""

    units: Any
    shape: tuple[int, ...]
    parts: list[Branch | Loop]
    current: Array
    scale: Array
    shift: Array
    scale_back: Array
    free: Array
    leak: float
    step: float

    def activation(self, x: Array) -> Array:
        return lagrangian(self.units, x.reshape(-1, *self.shape))[1].reshape(x.shape)

    def force(self, x: Array) -> Array:
        s = self.scale * self.activation(x) + self.shift
        total = sum((part.send_back(s) for part in self.parts), np.zeros_like(x))
        return self.free * (self.scale_back * total + self.current - self.leak * x)

    def advance(self, x: Array) -> Array:
        return x + self.step * self.force(x)

    def energy(self, x: Array) -> tuple[Array, Array]:
        """The energies, and the sizes of what was added up for each."""
        value, g = lagrangian(self.units, x.reshape(-1, *self.shape))
        g = g.reshape(x.shape)
        s = self.scale * g + self.shift
        terms = [part.potential(s) for part in self.parts]
        legendre = np.sum(x * g, 1) - value
        energy = self.leak * legendre - sum((v for v, _ in terms), g @ self.current)
        size = self.leak * (np.abs(x * g).sum(1) + np.abs(value)) + np.abs(g) @ np.abs(self.current)
        return energy, sum((m for _, m in terms), size)
