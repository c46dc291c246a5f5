r"""Contraction: when one explicit step brings any two states closer, and by which factor.

Let $F(g) - F(g') = \bar A\,(g - g')$ with $|\bar A - a| \le \rho$ for a number $a$, and let the Hessian of the visible
Lagrangian lie between $\mu$ and $\ell$. With $m = (\ell + \mu)/2$, $d = (\ell - \mu)/2$ and $s = \text{leak}\,\eta$ the
step $x' = (1 - s)\,x + \eta F(g)$ has the Lipschitz constant

$$q = |1 - s + \eta a m| + \eta\,(|a|\,d + \rho\,\ell)$$

at most: `theory/C17-contraction.md`. No symmetry is needed; where there is some, $a$ makes use of it.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from hopmix._attention import Attention
from hopmix._catalogue import COUPLED, foreign_parts, is_known, not_finite
from hopmix._concavity import largest_gain, spectral_norm
from hopmix._conservative_form import Joint, joints
from hopmix._convolution import Pooling
from hopmix._derive import Block, Potential
from hopmix._hopfield import HopfieldMemory
from hopmix._lagrangian import AbstractLagrangian, Sigmoid, Tanh
from hopmix._lagrangian_groups import Entmax, GhostMax, LayerNorm, Softmax, SphericalNorm
from hopmix._memory import AssociativeMemory, Neurons
from hopmix._synapse import AbstractSynapse, Bias

UNIT_ENTRIES = (Tanh, Sigmoid)
"""Lagrangians whose activations have entries of size one at most."""

UNIT_GROUPS = (Softmax, GhostMax, Entmax, SphericalNorm)
"""Lagrangians whose activations have groups of Euclidean norm one at most."""


class Disc(NamedTuple):
    r"""The matrices within a distance of a multiple of the identity, $|A - a|_2 \le \rho$.

    - `centre`: $a$.
    - `radius`: $\rho$; infinite where nothing is known.
    """

    centre: float
    radius: float

    @property
    def size(self) -> float:
        """The largest norm in the disc."""
        return abs(self.centre) + self.radius


NOTHING, UNKNOWN = Disc(0.0, 0.0), Disc(0.0, math.inf)


def contraction_rate(block: Block) -> float:
    r"""The factor by which one call of a block brings any two states closer, $|T(x) - T(y)| \le q\,|x - y|$.

    Where it is below 1, there is one state of rest $x^*$, `settle` reaches it from every state, and after a call from
    $x$ to $x'$

    $$|x' - x^*| \le \frac{q}{1 - q}\,|x' - x| .$$

    Weights may be tied or not. Norms are Euclidean, over all entries of the state; of a block with clamped entries the
    states have these in common. The rate is that of exact arithmetic, and of calls without a key.

    **Arguments:**

    - `block`: of concrete weights.

    **Returns:** $q < 1$, or 1.0 where no contraction is proved: without a leak, for weights that are too large,
    behind norms with a small `eps` (they are steep at constant states), with attention of tokens that are not bounded,
    and for parts of which nothing is known.

    **Source:** Banach's theorem; the constants in `theory/C17-contraction.md`.
    """
    constant = step_lipschitz(block)
    return constant**block.n_iter if constant < 1 else 1.0


def step_lipschitz(block: Block) -> float:
    """A Lipschitz constant of one explicit step; infinite where none is known."""
    if foreign_parts(block) or not_finite(block):
        return math.inf
    lagrangian = block.potential.neurons.lagrangian
    lowest, highest = lagrangian.curvature
    if not is_known(lagrangian) or math.isinf(highest - lowest):
        return math.inf
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no bound
        discs = [Disc(0.0, force_lipschitz(block.potential)), force_disc(block.potential)]
        return min(_lipschitz(block, disc, lowest, highest) for disc in discs)


def _lipschitz(block: Block, disc: Disc, lowest: float, highest: float) -> float:
    if not math.isfinite(disc.size):
        return math.inf
    middle, half = 0.5 * (highest + lowest), 0.5 * (highest - lowest)
    kept = abs(1 - block.leak * block.step + block.step * disc.centre * middle)
    return kept + block.step * (abs(disc.centre) * half + disc.radius * (abs(middle) + half))


# ---- The force by norms alone -----------------------------------------------------------------------------------


def force_lipschitz(potential: Potential) -> float:
    r"""A Lipschitz constant of the force $F(g)$ from norms alone; infinite where none is known.

    Of hidden layers that are joined with the visible one alone it is $\sum_h |V_h|_2\,\ell_h\,|W_h|_2$. Of those
    that are joined with each other, let the nonnegative matrix $N$ say how much each moves the others: if its Perron
    root is below 1, they have one state of rest, which moves by $(1 - N)^{-1}$ times what reaches it.
    """
    memory, visible, hidden = potential.memory, potential.visible, potential.hidden
    moved = _influence(memory)
    if not np.all(np.isfinite(moved)):
        return math.inf
    place = {name: i for i, name in enumerate(memory.neurons)}
    v, h = place[visible], [place[name] for name in hidden]
    slopes = np.asarray([_steepness(memory.neurons[name]) for name in hidden])
    among = slopes[:, None] * moved[np.ix_(h, h)]
    if not np.all(np.isfinite(among)):
        return math.inf
    if h and np.max(np.abs(np.linalg.eigvals(among))) >= 1:
        return math.inf
    answers = np.linalg.solve(np.eye(len(h)) - among, slopes * moved[h, v])
    return float(largest_gain(potential.neurons) * _way_out(potential.neurons) * (moved[v, v] + moved[v, h] @ answers))


def _influence(memory: AssociativeMemory) -> np.ndarray:
    """How much the current into each layer (row) moves with what each layer sends (column), at most."""
    place = {name: i for i, name in enumerate(memory.neurons)}
    moved = np.zeros((len(place), len(place)))
    for name, ends in memory.connections:
        synapse = memory.synapses[name]
        if type(synapse) is Bias:
            continue
        if len(ends) == 2 and type(synapse) in (*COUPLED, Pooling):
            first, second = (place[end] for end in ends)
            moved[second, first] += spectral_norm(synapse)
            moved[first, second] += _norm_back(synapse)
        else:
            rows = [place[end] for end in ends]
            moved[np.ix_(rows, rows)] += own_disc(synapse, memory.neurons[ends[0]]).size
    return moved


def _steepness(neurons: Neurons) -> float:
    """How much what a hidden layer sends moves with the current into it, at most."""
    if not is_known(neurons.lagrangian):
        return math.inf
    return max(map(abs, neurons.lagrangian.curvature)) * largest_gain(neurons) * _way_out(neurons)


def _way_out(neurons: Neurons) -> float:
    """The largest factor on currents into a layer."""
    return largest_gain(neurons) if neurons.affine is not None and neurons.affine.conservative else 1.0


def _norm_back(synapse: AbstractSynapse) -> float:
    if type(synapse) is Pooling:
        return spectral_norm(synapse)
    coupling = synapse.coupling  # pyright: ignore[reportAttributeAccessIssue]
    if coupling.breaking is None:
        return abs(float(coupling.tie)) * spectral_norm(synapse)
    return spectral_norm(_with_up(synapse, np.asarray(coupling.down).T))


def _with_up(synapse: AbstractSynapse, up: np.ndarray) -> AbstractSynapse:
    return eqx.tree_at(lambda s: s.coupling.up, synapse, up)


# ---- The force with what is symmetric in it ---------------------------------------------------------------------


def force_disc(potential: Potential) -> Disc:
    r"""A disc around all mean Jacobians of the force, from the part of each branch that is symmetric.

    A branch has the $W$ and the $V$ of all couplings that join its hidden layer with the visible one, added up. With
    $V = cW^\top + B$ it is $c\,W^\top D W + B D W$ with a symmetric $D$ between the curvatures of the hidden
    Lagrangian: an interval on the real line, widened by $|B|_2\,\ell_h\,|W|_2$. For tied weights the disc is the
    interval $[-K, \Lambda]$ of $\nabla^2 U$.
    """
    visible = potential.neurons
    if not potential.is_explicit or _is_lopsided(visible):
        return UNKNOWN
    memory = potential.memory
    own = [memory.synapses[name] for name, ends in memory.connections if set(ends) == {potential.visible}]
    found = joints(memory)
    discs = [_branch(memory, name, found) for name in potential.hidden]
    discs += [own_disc(synapse, visible) for synapse in own]
    centre, radius = (sum(parts) for parts in zip(NOTHING, *discs))
    return _rescaled(Disc(centre, radius), visible)


def _branch(memory: AssociativeMemory, hidden: str, found: list[Joint]) -> Disc:
    neurons = memory.neurons[hidden]
    joining = [memory.synapses[name] for name, ends in memory.connections if hidden in ends]
    kinds = {type(synapse) for synapse in joining} - {Bias}
    if not is_known(neurons.lagrangian) or _is_lopsided(neurons) or not kinds <= {*COUPLED, Pooling}:
        return UNKNOWN
    ways = [_seen_from(memory, joint, hidden) for joint in found if hidden in joint.ends]
    ways += [Ways(synapse) for synapse in joining if type(synapse) is Pooling]
    norm = sum(way.norm for way in ways)
    gain = largest_gain(neurons)
    low, high = (end * gain * gain for end in neurons.lagrangian.curvature)
    if not math.isfinite((high - low) * norm * norm):
        return UNKNOWN
    turn = _turn(ways)
    rest = sum(way.left(turn) for way in ways)
    start, end = sorted((turn * min(low, 0.0) * norm * norm, turn * max(high, 0.0) * norm * norm))
    widened = rest * max(abs(low), abs(high)) * norm
    interval = _between(start, end)
    return Disc(interval.centre, interval.radius + widened)


class Ways(NamedTuple):
    r"""One linear map from the visible layer to a hidden one, and the one back.

    - `synapse`: says what the rows of a coupling act on; a `Pooling`, which is tied, has none.
    - `up`, `down`: $W$ and $V^\top$, as the visible layer sees them; of a coupling that is connected the other way
        round both are transposed, which no norm tells.
    """

    synapse: AbstractSynapse
    up: Any = None
    down: Any = None

    @property
    def norm(self) -> float:
        """$|W|_2$, or a bound on it."""
        return spectral_norm(self.synapse) if self.up is None else spectral_norm(_with_up(self.synapse, self.up))

    def left(self, turn: float) -> float:
        r"""$|V - cW^\top|_2$ for a number $c$, or a bound on it."""
        if self.up is None:
            return abs(1 - turn) * self.norm
        return spectral_norm(_with_up(self.synapse, self.down - turn * self.up))


def _seen_from(memory: AssociativeMemory, joint: Joint, hidden: str) -> Ways:
    synapse = memory.synapses[joint.names[0]]
    if joint.ends[-1] == hidden:
        return Ways(synapse, joint.up, joint.down)
    return Ways(synapse, joint.down, joint.up)


def _turn(ways: list[Ways]) -> float:
    r"""The number $c$ for which the entries of $V - cW^\top$ are smallest; of pooling, which is tied, 1."""
    if any(way.up is None for way in ways):
        return 1.0
    square = sum(np.sum(way.up**2) for way in ways)
    return float(sum(np.sum(way.down * way.up) for way in ways) / square) if square else 0.0


def own_disc(synapse: AbstractSynapse, visible: Neurons) -> Disc:
    """A disc around the mean Jacobians of the current of a synapse of a layer with itself, in what the layer sends."""
    if type(synapse) is Bias:
        return NOTHING
    if type(synapse) is Attention:
        return attention_disc(synapse, visible.shape[0], token_radius(visible))
    if type(synapse) is HopfieldMemory and is_known(synapse.separation):
        return _memory_disc(synapse)
    return UNKNOWN


def attention_disc(attention: Attention, tokens: int, radius: float) -> Disc:
    r"""The interval of the Hessian of attention as an energy, for tokens of size $R$ at most:

    $$-K \le \nabla^2 U \le K + \beta R^2 \left(1 + \sqrt{n/2}\right)^2 \sum_h |W^{K\top}_h W^Q_h|_2^2$$

    with the $K$ of `Attention.concavity` and the number $n$ of tokens that attend to one token, at most.
    """
    keys, queries = np.asarray(attention.keys, float), np.asarray(attention.queries, float)
    products = np.einsum("hdc,hde->hce", keys, queries)
    if not np.all(np.isfinite(products)):
        return UNKNOWN
    norms = np.linalg.norm(products, 2, axis=(1, 2))
    concavity = attention.mask_factor(tokens) * float(np.sum(norms))
    listeners = tokens if attention.include_self else tokens - 1
    reach = radius * (1 + math.sqrt(listeners / 2))
    spread = float(attention.beta) * reach * reach * float(np.sum(norms**2))
    return _between(-concavity + min(spread, 0.0), concavity + max(spread, 0.0)) if listeners else NOTHING


def _memory_disc(memory: HopfieldMemory) -> Disc:
    patterns = np.asarray(memory.patterns, float).reshape(len(memory.patterns), -1)
    low, high = memory.separation.curvature
    if memory.similarity == "dot":
        square = float(np.linalg.norm(patterns, 2) ** 2)
        return _between(min(low, 0.0) * square, max(high, 0.0) * square)
    if type(memory.separation) is not Softmax:
        return UNKNOWN
    # Of each group of patterns, beta times their covariance, minus the identity. The similarities have one axis: all
    # patterns are one group, or without axes each is its own. A variance is a quarter of a squared range, at most.
    if memory.separation.axes == ():
        return Disc(-float(len(patterns)), 0.0)
    gaps = patterns[:, None] - patterns[None]
    spread = 0.25 * float(memory.separation.beta) * float(np.max(np.sum(gaps**2, axis=-1)))
    return _between(min(spread, 0.0) - 1, max(spread, 0.0) - 1)


def token_radius(neurons: Neurons) -> float:
    """The largest Euclidean norm of what one token of a layer sends; infinite where it is not bounded."""
    lagrangian, affine = neurons.lagrangian, neurons.affine
    radius = largest_gain(neurons) * _activation_radius(lagrangian, neurons.shape)
    return radius if affine is None else radius + _largest_row(affine.shift, neurons.shape)


def _activation_radius(lagrangian: AbstractLagrangian, shape: tuple[int, ...]) -> float:
    channels = math.prod(shape[1:])
    if type(lagrangian) is LayerNorm:
        group = channels if lagrangian.axes == (-1,) and len(shape) == 2 else math.prod(shape)
        shift = 0.0 if lagrangian.shift is None else _largest_row(lagrangian.shift, shape)
        return abs(float(lagrangian.scale)) * math.sqrt(group) + shift
    if type(lagrangian) in UNIT_GROUPS:
        axes = lagrangian.axes  # pyright: ignore[reportAttributeAccessIssue]
        return 1.0 if len(shape) == 2 and (axes is None or -1 in axes) else math.sqrt(channels)
    return math.sqrt(channels) if type(lagrangian) in UNIT_ENTRIES else math.inf


def _largest_row(parameter, shape: tuple[int, ...]) -> float:
    rows = np.broadcast_to(np.asarray(parameter, float), shape).reshape(shape[0], -1)
    return float(np.max(np.linalg.norm(rows, axis=1)))


def _between(low: float, high: float) -> Disc:
    return Disc(0.5 * (low + high), 0.5 * (high - low))


def _rescaled(disc: Disc, neurons: Neurons) -> Disc:
    r"""The disc of $\Gamma A \Gamma$ for a diagonal $\Gamma$."""
    if neurons.affine is None:
        return disc
    scale = np.asarray(neurons.affine.scale, float) ** 2
    middle, half = 0.5 * float(np.max(scale) + np.min(scale)), 0.5 * float(np.max(scale) - np.min(scale))
    return Disc(middle * disc.centre, half * abs(disc.centre) + float(np.max(scale)) * disc.radius)


def _is_lopsided(neurons: Neurons) -> bool:
    """Whether a scale stands on the way in only, so that what was symmetric no longer is."""
    return neurons.affine is not None and not neurons.affine.conservative
