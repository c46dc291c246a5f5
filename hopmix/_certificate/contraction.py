r"""Contraction: when one explicit step brings any two states closer, and by which factor.

Let $F(g) - F(g') = \bar A\,(g - g')$ with $|\bar A - a| \le \rho$ for a number $a$, and let the
Hessian of the visible Lagrangian lie between $\mu$ and $\ell$. With $m = (\ell + \mu)/2$, $d =
(\ell - \mu)/2$ and $s = \text{leak}\,\eta$ the step $x' = (1 - s)\,x + \eta F(g)$ has the Lipschitz
constant

$$q = |1 - s + \eta a m| + \eta\,(|a|\,d + \rho\,\ell)$$

at most: `theory/C17-contraction.md`. No symmetry is needed; where there is some, $a$ makes use of
it.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from hopmix._assumptions import is_known
from hopmix._block import Block
from hopmix._certificate.catalogue import foreign_parts, not_finite
from hopmix._certificate.concavity import largest_gain
from hopmix._certificate.conservative_form import Joint, joints
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.norms import UNKNOWN, Disc, between, largest_row
from hopmix._potential import Potential
from hopmix._synapse import AbstractSynapse, is_known_constant


def contraction_rate(block: Block) -> float:
    r"""The factor by which one call of a block brings any two states closer, $|T(x) - T(y)| \le
    q\,|x - y|$.

    Where it is below 1, there is one state of rest $x^*$, `settle` reaches it from every state, and
    after a call from $x$ to $x'$

    $$|x' - x^*| \le \frac{q}{1 - q}\,|x' - x| .$$

    Weights may be tied or not. Norms are Euclidean, over all entries of the state; of a block with
    clamped entries the states have these in common. The rate is that of exact arithmetic, and of
    calls without a key.

    **Arguments:**

    - `block`: of concrete weights.

    **Returns:** $q < 1$, or 1.0 where no contraction is proved: without a leak, for weights that
    are too large, behind norms with a small `eps` (they are steep at constant states), with
    attention of tokens that are not bounded, and for parts of which nothing is known.

    **Source:** Banach's theorem; the constants in `theory/C17-contraction.md`.
    """
    constant = step_lipschitz(block)
    if constant < 1:
        return constant**block.n_iter
    return 1.0


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
    middle = 0.5 * (highest + lowest)
    half = 0.5 * (highest - lowest)
    kept = abs(1 - block.leak * block.step + block.step * disc.centre * middle)
    return kept + block.step * (abs(disc.centre) * half + disc.radius * (abs(middle) + half))


# ---- The force by norms alone --------------------------------------------------------------------


def force_lipschitz(potential: Potential) -> float:
    r"""A Lipschitz constant of the force $F(g)$ from norms alone; infinite where none is known.

    Of hidden layers that are joined with the visible one alone it is $\sum_h
    |V_h|_2\,\ell_h\,|W_h|_2$. Of those that are joined with each other, let the nonnegative matrix
    $N$ say how much each moves the others: if its Perron root is below 1, they have one state of
    rest, which moves by $(1 - N)^{-1}$ times what reaches it.
    """
    memory = potential.memory
    visible = potential.visible
    hidden = potential.hidden
    moved = _influence(memory)
    if not np.all(np.isfinite(moved)):
        return math.inf
    place = {name: i for i, name in enumerate(memory.neurons)}
    v = place[visible]
    h = [place[name] for name in hidden]
    slopes = np.asarray([_steepness(memory.neurons[name]) for name in hidden])
    among = slopes[:, None] * moved[np.ix_(h, h)]
    if not np.all(np.isfinite(among)):
        return math.inf
    if h and np.max(np.abs(np.linalg.eigvals(among))) >= 1:
        return math.inf
    answers = np.linalg.solve(np.eye(len(h)) - among, slopes * moved[h, v])
    return float(
        largest_gain(potential.neurons)
        * _way_out(potential.neurons)
        * (moved[v, v] + moved[v, h] @ answers)
    )


def _influence(memory: AssociativeMemory) -> np.ndarray:
    """How much the current into each layer (row) moves with what each layer sends (column), at
    most.
    """
    place = {name: i for i, name in enumerate(memory.neurons)}
    moved = np.zeros((len(place), len(place)))
    for name, ends in memory.connections:
        synapse = memory.synapses[name]
        if is_known_constant(synapse):
            continue
        if len(ends) == 2 and is_known(synapse) and synapse.is_linear:
            first = place[ends[0]]
            second = place[ends[1]]
            moved[second, first] += synapse.spectral_norm
            moved[first, second] += synapse.norm_back
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
    if neurons.affine is not None and neurons.affine.conservative:
        return largest_gain(neurons)
    return 1.0


# ---- The force with what is symmetric in it ------------------------------------------------------


def force_disc(potential: Potential) -> Disc:
    r"""A disc around all mean Jacobians of the force, from the part of each branch that is
    symmetric.

    A branch has the $W$ and the $V$ of all couplings that join its hidden layer with the visible
    one, added up. With $V = cW^\top + B$ it is $c\,W^\top D W + B D W$ with a symmetric $D$ between
    the curvatures of the hidden Lagrangian: an interval on the real line, widened by
    $|B|_2\,\ell_h\,|W|_2$. For tied weights the disc is the interval $[-K, \Lambda]$ of $\nabla^2
    U$.
    """
    visible = potential.neurons
    if not potential.is_explicit or _is_lopsided(visible):
        return UNKNOWN
    memory = potential.memory
    own = [
        memory.synapses[name]
        for name, ends in memory.connections
        if set(ends) == {potential.visible}
    ]
    found = joints(memory)
    discs = [_branch(memory, name, found) for name in potential.hidden]
    discs += [own_disc(synapse, visible) for synapse in own]
    centre = sum((disc.centre for disc in discs), 0.0)
    radius = sum((disc.radius for disc in discs), 0.0)
    return _rescaled(Disc(centre, radius), visible)


def _branch(memory: AssociativeMemory, hidden: str, found: list[Joint]) -> Disc:
    neurons = memory.neurons[hidden]
    joining = [memory.synapses[name] for name, ends in memory.connections if hidden in ends]
    linear = all(is_known(synapse) and synapse.is_linear for synapse in joining)
    if not is_known(neurons.lagrangian) or _is_lopsided(neurons) or not linear:
        return UNKNOWN
    ways = [_seen_from(memory, joint, hidden) for joint in found if hidden in joint.ends]
    ways += [
        Ways(synapse) for synapse in joining if not (synapse.is_coupled or synapse.is_constant)
    ]
    norm = sum(way.norm for way in ways)
    gain = largest_gain(neurons)
    lowest, highest = neurons.lagrangian.curvature
    low = lowest * gain * gain
    high = highest * gain * gain
    if not math.isfinite((high - low) * norm * norm):
        return UNKNOWN
    turn = _turn(ways)
    rest = sum(way.left(turn) for way in ways)
    start, end = sorted((turn * min(low, 0.0) * norm * norm, turn * max(high, 0.0) * norm * norm))
    widened = rest * max(abs(low), abs(high)) * norm
    interval = between(start, end)
    return Disc(interval.centre, interval.radius + widened)


class Ways(NamedTuple):
    r"""One linear map from the visible layer to a hidden one, and the one back.

    - `synapse`: says what the rows of its coupling act on; one without, such as `Pooling`, is tied.
    - `up`, `down`: $W$ and $V^\top$, as the visible layer sees them; of a coupling that is
        connected the other way round both are transposed, which no norm tells.
    """

    synapse: Any
    up: Any = None
    down: Any = None

    @property
    def norm(self) -> float:
        """$|W|_2$, or a bound on it."""
        if self.up is None:
            return self.synapse.spectral_norm
        return self.synapse.norm_of(self.up)

    def left(self, turn: float) -> float:
        r"""$|V - cW^\top|_2$ for a number $c$, or a bound on it."""
        if self.up is None:
            return abs(1 - turn) * self.norm
        return self.synapse.norm_of(self.down - turn * self.up)


def _seen_from(memory: AssociativeMemory, joint: Joint, hidden: str) -> Ways:
    synapse = memory.synapses[joint.names[0]]
    if joint.ends[-1] == hidden:
        return Ways(synapse, joint.up, joint.down)
    return Ways(synapse, joint.down, joint.up)


def _turn(ways: list[Ways]) -> float:
    r"""The number $c$ for which the entries of $V - cW^\top$ are smallest; of pooling, which is
    tied, 1.
    """
    if any(way.up is None for way in ways):
        return 1.0
    square = sum(np.sum(way.up**2) for way in ways)
    if square:
        return float(sum(np.sum(way.down * way.up) for way in ways) / square)
    return 0.0


def own_disc(synapse: AbstractSynapse, visible: Neurons) -> Disc:
    """A disc around the mean Jacobians of the current of a synapse of a layer with itself, in what
    the layer sends.
    """
    if is_known(synapse):
        return synapse.own_disc(visible.shape, token_radius(visible))
    return UNKNOWN


def token_radius(neurons: Neurons) -> float:
    """The largest Euclidean norm of what one token of a layer sends; infinite where no bound is
    known.
    """
    lagrangian = neurons.lagrangian
    if not is_known(lagrangian):
        return math.inf
    radius = largest_gain(neurons) * lagrangian.activation_radius(neurons.shape)
    if neurons.affine is None:
        return radius
    return radius + largest_row(neurons.affine.shift, neurons.shape)


def _rescaled(disc: Disc, neurons: Neurons) -> Disc:
    r"""The disc of $\Gamma A \Gamma$ for a diagonal $\Gamma$."""
    if neurons.affine is None:
        return disc
    scale = np.asarray(neurons.affine.scale, float) ** 2
    middle = 0.5 * float(np.max(scale) + np.min(scale))
    half = 0.5 * float(np.max(scale) - np.min(scale))
    return Disc(middle * disc.centre, half * abs(disc.centre) + float(np.max(scale)) * disc.radius)


def _is_lopsided(neurons: Neurons) -> bool:
    """Whether a scale stands on the way in only, so that what was symmetric no longer is."""
    return neurons.affine is not None and not neurons.affine.conservative
