r"""Small breaking: up to which $|V - W^\top|$ a rest of a block with tied weights persists and
stays stable.

The flow $\tau\dot x = f_s(x) + r(x)$ has a tied part $f_s$ and what the breaking $B$ adds, $r =
\gamma \odot B\phi(h)$. Let $|v|_P^2 = v \cdot Pv$ with any positive $P$, and let $x^*$ be a state
with a small force, $|f_s(x^*)|_P = \rho$. On the ball $|x - x^*|_P \le R$ let the symmetric part of
the Jacobian of $f_s$ be at most $-(m - kR)$, and let $|B|\,b_1$ bound the Jacobian of $r$,
$|B|\,b_0$ its size at $x^*$. Then the ball is invariant and the flow contracts in it, for each

$$|B| < c = \min\left\{\frac{m - kR}{b_1},\ \frac{R\,(m - kR/2) - \rho}{b_0 + R\,b_1}\right\}:$$

it holds exactly one rest, which attracts all of it. All constants follow from the weights and the
state.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hopmix._assumptions import is_known
from hopmix._block import Block
from hopmix._lagrangian import AbstractLagrangian
from hopmix._numerics.dtypes import need_floats
from hopmix._numerics.norms import matrix_norm
from hopmix._numerics.tolerances import rounding_of
from hopmix._pseudo_energy import with_tied_weights
from hopmix._synapse import is_known_constant
from hopmix._system import AbstractSystem
from hopmix._types import Layer

ENTRIES = 2**26
"""The largest Jacobian that is formed, in entries."""

SOFTNESS = 10.0 ** np.arange(-3, 2)
r"""The $\delta$ of the norms that are tried, $P \propto H/|H| + \delta$."""

SHARES = np.geomspace(1e-4, 1, 200)
"""The radii that are tried, in units of the one at which nothing is left of the margin."""


class BreakingBound(NamedTuple):
    r"""How much breaking a rest tolerates; made by `breaking_bound`. NaN where nothing is proved.

    - `bound`: $c$. For all down-weights with $|V - W^\top| < c$ one stable rest lies near the
      state.
    - `radius`: from all states that are closer than this, the flow with such weights ends there.
    - `breaking`: $|V - W^\top|$ of the block as it is, see `breaking_size`.
    - `times`: how many times its own breaking the rest tolerates, at least `bound / breaking`.
    - `distance`: how far, at most, the rest of the block as it is lies from the state; NaN unless
        `times` is above 1.
    - `reason`: one sentence.
    """

    bound: float
    radius: float
    breaking: float
    times: float
    distance: float
    reason: str

    @property
    def persists(self) -> bool:
        """Whether the rest is proved to persist, and to be stable, with the weights as they are."""
        return self.times > 1


def breaking_bound(block: AbstractSystem, x: Any) -> BreakingBound:
    r"""The breaking up to which the rest near a state is proved to persist and to stay stable,

    $$c = \max_{P, R}\,\min\left\{\frac{m - kR}{b_1},\ \frac{R\,(m - kR/2) - \rho}{b_0 + R\,b_1}\right\}.$$

    It holds for all breakings of a size at once, as far as the rounding of Jacobians goes. It takes
    time with the third power of the number of visible units, whose eigenvalues are computed.

    **Arguments:**

    - `block`: a `Block` with leak > 0 and any weights. Hidden layers are each joined with the
        visible one by a `Dense`, `TokenMixing` or `ChannelMixing`, and are `Quadratic`, `GELU`,
        `Tanh`, `Sigmoid`, `Softmax` or `GhostMax`. The visible layer is one of these that is
        convex, a `LayerNorm` or a `SphericalNorm`. Nothing is proved of others.
    - `x`: one example, a state at which the block with tied weights rests or nearly does, such as
        `settle(with_tied_weights(block), start).state`.

    **Returns:** a `BreakingBound`; where nothing is proved, NaN and a sentence why.

    **Raises:** `ValueError` if `x` is not one example, and for integers.

    **Source:** hopmix; `theory/C16-small-breaking.md`.
    """  # noqa: E501
    if not isinstance(block, Block):
        return _nothing(f"{type(block).__name__} is not covered; take a Block")
    need_floats("The state", x)
    why = _not_covered(block)
    if why:
        return _nothing(why)
    shape = block.potential.neurons.shape
    if x.shape != shape:
        raise ValueError(
            f"A bound on the breaking takes one example, of shape {shape}, got {x.shape}; loop "
            f"over a batch."
        )
    eps = rounding_of(x.dtype)
    here = jax.tree.map(lambda a: np.asarray(a, float), _jacobians(block, x))
    if not all(np.all(np.isfinite(part)) for part in jax.tree.leaves(here)):
        return _nothing("the state, the weights, or a derivative at the state is not finite")
    bend = partial(block.potential.neurons.lagrangian.third_derivative_near, np.asarray(x, float))
    size = breaking_size(block)
    return _best([_tolerance(_constants(block, here, s, eps), bend, size) for s in SOFTNESS], size)


def breaking_size(block: Block) -> float:
    r"""The size of the breaking of all couplings,

    $$|V - W^\top| = \Big(\sum_h |V_h - W_h^\top|_2^2\Big)^{1/2},$$

    in spectral norms; the Frobenius norm, the root of what the regulariser charges for, is not
    smaller.

    **Arguments:**

    - `block`: any block; only `Dense`, `TokenMixing` and `ChannelMixing` count.

    **Source:** hopmix; `theory/C16-small-breaking.md`.
    """
    synapses: Any = block.potential.memory.synapses.values()
    pairs = [synapse.coupling for synapse in synapses if synapse.is_matrix]
    gaps = [np.asarray(pair.down, float) - np.asarray(pair.up, float).T for pair in pairs]
    return math.hypot(*(float(np.linalg.norm(gap, 2)) for gap in gaps))


# ---- What is covered -----------------------------------------------------------------------------


def _not_covered(block: Block) -> str:
    """Why nothing is known of a block; empty where something is."""
    if type(block) is not Block:
        return f"{type(block).__name__} may override any method of a Block"
    if block.leak == 0:
        return "without a leak there is no rest; behind a norm, take the block with leak 1 (C04)"
    return _foreign_synapse(block) or _foreign_hidden(block) or _foreign_visible(block)


def _foreign_synapse(block: Block) -> str:
    potential = block.potential
    joined = []
    for name, ends in potential.memory.connections:
        synapse = potential.memory.synapses[name]
        if is_known_constant(synapse):
            continue
        if not (is_known(synapse) and synapse.is_matrix) or ends[0] != potential.visible:
            return (
                f"synapse {name!r}, a {type(synapse).__name__} from layer {ends[0]!r}, is not "
                f"covered"
            )
        joined.append(ends[1])
    if sorted(joined) != sorted(potential.hidden):
        return "each hidden layer must be joined with the visible one by one coupling"
    return ""


def _foreign_hidden(block: Block) -> str:
    potential = block.potential
    for name in potential.hidden:
        neurons = potential.memory.neurons[name]
        if not _is_smooth(neurons.lagrangian):
            kind = type(neurons.lagrangian).__name__
            return f"no third derivative is known of hidden layer {name!r}, a {kind}"
        if neurons.affine is not None:
            return f"hidden layer {name!r} has a scale, which is not covered"
        entries = math.prod(neurons.shape) * math.prod(potential.neurons.shape)
        if entries > ENTRIES:
            return f"the Jacobian of hidden layer {name!r} has {entries} entries, too many to form"
    return ""


def _foreign_visible(block: Block) -> str:
    neurons = block.potential.neurons
    lagrangian = neurons.lagrangian
    smooth = _is_smooth(lagrangian) or (is_known(lagrangian) and lagrangian.is_norm)
    if not smooth or not lagrangian.is_convex:
        return f"{type(lagrangian).__name__} as a visible layer is not covered"
    if neurons.clamped is not None:
        return "visible entries are clamped"
    if neurons.affine is not None and not neurons.affine.conservative:
        return "the scale of the visible layer stands on the way in only (C08)"
    return ""


def _is_smooth(lagrangian: AbstractLagrangian) -> bool:
    """Whether a bound on the third derivative is known."""
    return is_known(lagrangian) and not math.isinf(lagrangian.third_derivative)


def _nothing(why: str, size: float = math.nan) -> BreakingBound:
    unknown = math.nan
    return BreakingBound(unknown, unknown, size, unknown, unknown, f"Nothing is proved: {why}.")


# ---- The constants -------------------------------------------------------------------------------


class _Jacobians(NamedTuple):
    """At a state: its length, the force of the tied flow (with its leak) and what the breaking
    adds, the derivatives of both interactions by g, the Hessian of L, and outputs, slopes and
    currents of the hidden layers, the latter two as derivatives by g."""

    length: Any
    force: Any
    interaction: Any
    broken: Any
    broken_interaction: Any
    hessian: Any
    scale: Any
    outputs: Any
    slopes: Any
    currents: Any


class _Branch(NamedTuple):
    """A hidden layer: how fast its slopes turn with g, and three norms of its up-weights."""

    bend: float
    up: float
    up_root: float
    up_lifted: float


class _Constants(NamedTuple):
    """The constants of the theorem in one norm, as far as they do not depend on the radius."""

    margin: float
    residual: float
    lowest: float
    lift: float
    pull: float
    answer: float
    outputs: float
    slopes: float
    slopes_lifted: float
    broken: float
    broken_slope: float
    branches: list[_Branch]


@eqx.filter_jit
def _jacobians(block: Block, x: Layer) -> _Jacobians:
    tied = with_tied_weights(block).potential
    neurons = tied.neurons
    g = block.activation(x)

    def current(name: str, g: Layer) -> Layer:
        arriving = tied.memory.current(name, {tied.visible: neurons.output(g)})
        return jnp.broadcast_to(arriving, tied.memory.neurons[name].shape)

    def output(name: str, g: Layer) -> Layer:
        return tied.memory.neurons[name].lagrangian.activation(current(name, g))

    def broken(g: Layer) -> Layer:
        return block.potential.force(g) - tied.force(g)

    if neurons.affine is None:
        scale = jnp.ones((), x.dtype)
    else:
        scale = neurons.affine.scale
    return _Jacobians(
        length=jnp.sqrt(jnp.sum(x**2)),
        force=tied.force(g) - block.leak * x,
        interaction=_jacobian(tied.force, g),
        broken=broken(g),
        broken_interaction=_jacobian(broken, g),
        hessian=_jacobian(block.activation, x),
        scale=jnp.broadcast_to(scale, x.shape),
        outputs=[output(name, g) for name in tied.hidden],
        slopes=[_jacobian(partial(output, name), g) for name in tied.hidden],
        currents=[_jacobian(partial(current, name), g) for name in tied.hidden],
    )


def _jacobian(function: Callable[[Layer], Layer], x: Layer) -> Array:
    flat = lambda y: function(y.reshape(x.shape)).reshape(-1)
    return jax.jacfwd(flat)(x.reshape(-1))


def _constants(block: Block, here: _Jacobians, softness: float, eps: float) -> _Constants:
    root, inverse, lowest = _metric(here.hessian, softness)
    lifted = here.hessian @ inverse
    drift = root @ here.interaction @ lifted
    slopes = np.concatenate(here.slopes)
    rounding = len(root) * eps * (matrix_norm(drift) + block.leak)
    neurons = block.potential.memory.neurons
    layers = [neurons[name].lagrangian for name in block.potential.hidden]
    branches = zip(layers, here.currents, strict=True)
    return _Constants(
        margin=block.leak - _top(drift) - rounding,
        residual=float(np.linalg.norm(root @ here.force.ravel()) + eps * block.leak * here.length),
        lowest=lowest,
        lift=matrix_norm(lifted),
        pull=matrix_norm(root @ here.interaction),
        answer=matrix_norm(root * here.scale.ravel()),
        outputs=math.hypot(*(float(np.linalg.norm(output)) for output in here.outputs)),
        slopes=matrix_norm(slopes),
        slopes_lifted=matrix_norm(slopes @ lifted),
        broken=float(np.linalg.norm(root @ here.broken.ravel())),
        broken_slope=max(_top(root @ here.broken_interaction @ lifted), 0.0),
        branches=[_branch(layer, up, root, lifted) for layer, up in branches],
    )


def _branch(
    layer: AbstractLagrangian, up: np.ndarray, root: np.ndarray, lifted: np.ndarray
) -> _Branch:
    size = matrix_norm(up)
    longest = float(np.max(np.linalg.norm(up, axis=1)))
    reach = longest if layer.is_elementwise else size  # of one unit by itself, or of the group
    return _Branch(
        layer.third_derivative * reach, size, matrix_norm(up @ root), matrix_norm(up @ lifted)
    )


def _metric(hessian: np.ndarray, softness: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The root of P and its inverse, and the lowest eigenvalue of P; the highest is 1."""
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    highest = values[-1] if values[-1] > 0 else 1.0
    values = (np.maximum(values, 0) / highest + softness) / (1 + softness)
    roots = np.sqrt(values)
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T, float(values[0])


def _top(matrix: np.ndarray) -> float:
    """The highest eigenvalue of the symmetric part."""
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])


# ---- The theorem ---------------------------------------------------------------------------------

Bend = Callable[[np.ndarray], np.ndarray]
"""The bound on the third derivative of the visible Lagrangian, by distance from the state."""


class _Tolerance(NamedTuple):
    """What follows in one norm, at the best of the radii that are tried."""

    margin: float
    residual: float
    bound: float
    radius: float
    times: float
    distance: float


def _tolerance(c: _Constants, bend: Bend, size: float) -> _Tolerance:
    radius = SHARES * _largest_radius(c, bend)
    loss, growth = _curved(c, bend, radius)
    left = c.margin - loss
    push = radius * (c.margin - loss / 2) - c.residual
    any_slope = c.answer * c.slopes_lifted + growth
    own_slope = c.broken_slope + size * growth
    bounds = _largest(left, any_slope, push, c.answer * c.outputs + radius * any_slope)
    times = _largest(left, own_slope, push, c.broken + radius * own_slope)
    moved = (c.broken + c.residual) / (c.margin - loss / 2 - own_slope) / math.sqrt(c.lowest)
    best = int(np.argmax(bounds))
    return _Tolerance(
        margin=c.margin,
        residual=c.residual,
        bound=float(bounds[best]),
        radius=float(radius[best]),
        times=float(np.max(times)),
        distance=float(np.min(moved, where=times > 1, initial=math.inf)),
    )


def _curved(c: _Constants, bend: Bend, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of the margin is lost in each ball, and how much steeper a breaking of size 1
    gets.
    """
    turn = bend(radius / math.sqrt(c.lowest)) * radius / c.lowest  # of the Hessian of L
    reach = (c.lift + turn / 2) * radius  # of the activation
    bends = [b.bend * reach * (b.up_lifted + b.up * turn) for b in c.branches]
    loss = c.pull * turn
    for branch, by in zip(c.branches, bends, strict=True):
        loss = loss + branch.up_root * by
    return loss, c.answer * (c.slopes * turn + np.linalg.norm(bends, axis=0))


def _largest_radius(c: _Constants, bend: Bend) -> float:
    """The radius at which the margin is lost; where nothing is curved, one that is as good as
    any.
    """
    tiny = np.asarray([1e-100])
    rate = float((_curved(c, bend, tiny)[0] / tiny)[0])
    if c.margin > 0 and rate > 0:
        return c.margin / rate
    steepness = c.answer * c.slopes_lifted
    return 1e9 * (c.answer * c.outputs / steepness if steepness > 0 else 1.0)


def _largest(
    left: np.ndarray, slope: np.ndarray, push: np.ndarray, force: np.ndarray
) -> np.ndarray:
    """The largest breaking for which the flow contracts in the ball and points into it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.minimum(left / slope, push / force)
    return np.where((left > 0) & (push > 0), found, -math.inf)


def _best(tried: list[_Tolerance], size: float) -> BreakingBound:
    best = max(tried, key=lambda t: t.bound)
    margin = max(t.margin for t in tried)
    if not margin > 0:
        return _nothing(
            f"the tied flow does not contract here, its slowest rate is {margin:.3g}", size
        )
    if not best.bound > 0:
        still = f"the tied flow still moves here, with a force of {best.residual:.3g}"
        return _nothing(f"{still}; settle it first, with `with_tied_weights`", size)
    times = max(t.times for t in tried)
    distance = min(t.distance for t in tried) if times > 1 else math.nan
    proved = f"For each |V - W^T| below {best.bound:.3g} one stable rest lies near this state"
    reason = f"{proved}; this block has {size:.3g}."
    return BreakingBound(best.bound, best.radius, size, times, distance, reason)
