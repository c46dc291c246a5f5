r"""C02: fast hidden layers follow the visible one, up to an error of first order in their time
constant.
"""

from collections.abc import Callable, Iterable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._coupling import Coupling
from hopmix._dynamics import velocity
from hopmix._lagrangian import GELU, LayerNorm, Softmax
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._synapse import Bias, Dense
from hopmix._types import Layer, PRNGKey, Scalar, ScalarLike, State
from hopmix.claims._claim import Claim, Measurement
from hopmix.claims._numbers import in_batches, normals

VISIBLE = 4
FIRST = 3
SECOND = 3
HIDDEN = ("first", "second")
RATIOS = 0.001 / 2.0 ** np.arange(3)
"""How much faster the hidden layers are made than their own time constants say."""


def sped_up(
    memory: AssociativeMemory, hidden: Iterable[str], state: State, ratio: ScalarLike
) -> dict[str, Layer]:
    r"""The velocity of a memory whose hidden time constants are multiplied by a ratio, $\tau_h \to
    \epsilon\tau_h$.

    **Arguments:**

    - `memory`, `state`: the memory with its own time constants, and a state of it.
    - `hidden`: the names of the layers that become faster.
    - `ratio`: $\epsilon > 0$; it may be traced, as the time constants themselves may not.
    """
    fast = set(hidden)
    return {name: x / ratio if name in fast else x for name, x in velocity(memory, state).items()}


def at_rest(block: Block, x: Layer) -> dict[str, Layer]:
    r"""The state of a block's memory with the hidden layers where they follow the visible state
    `x`, $x_h = W g(x)$.

    Only for hidden layers that are not joined with each other.
    """
    memory = block.potential.memory
    visible = block.potential.visible
    outputs = {visible: memory.neurons[visible].output(block.activation(x))}
    return {visible: x} | {h: memory.current(h, outputs) for h in block.potential.hidden}


def follow(
    field: Callable[[Any], Any], start: Any, times: Float[Array, " times"] | None = None, **options
) -> Any:
    """The flow of a field at some times, up to 1 by default; not a number where the solver fails.

    **Arguments:**

    - `field`, `start`: the velocity and the initial state.
    - `times`: when to look.
    - `options`: of `diffrax.diffeqsolve`, in place of an explicit solver, which at the ratios of
        the claim is several times cheaper than a stiff one.
    """
    times = jnp.linspace(0.0, 1.0, 5)[1:] if times is None else times
    options = {"solver": diffrax.Tsit5(), "max_steps": 20_000} | options
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(y)),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-7, atol=1e-9),
        throw=False,
        **options,
    )
    assert solution.ys is not None
    solved = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda y: jnp.where(solved, y, jnp.nan), solution.ys)


def lags(
    block: Block, start: State, ratios: Float[Array, " ratios"], **options
) -> Float[Array, "ratios times ..."]:
    r"""By how much the visible layer of a memory lies beside the flow of the block, at some times.

    **Arguments:**

    - `block`: the memory without its hidden layers, with leak 1.
    - `start`: the initial state of all layers; the block starts from that of the visible one.
    - `ratios`: by which the time constants of the hidden layers are multiplied.
    - `options`: as in `follow`.
    """
    memory = block.potential.memory
    hidden = block.potential.hidden
    visible = block.potential.visible
    moving = jax.vmap(lambda state, ratio: sped_up(memory, hidden, state, ratio))
    copies = {name: jnp.broadcast_to(x, (len(ratios), *x.shape)) for name, x in start.items()}
    # All in one system: the solver is compiled once, and its errors are alike.
    field = lambda both: (moving(both[0], ratios), velocity(block, both[1]))
    states, alone = follow(field, (copies, start[visible]), **options)
    return jnp.moveaxis(states[visible], 0, 1) - alone[None]


def order(ratios: Float[Array, " ratios"], errors: Float[Array, " ratios"]) -> Scalar:
    r"""The exponent $p$ of the least-squares fit of errors to $\epsilon^p$."""
    x = jnp.log(ratios)
    y = jnp.log(errors)
    x = x - jnp.mean(x)
    return jnp.sum(x * y) / jnp.sum(x**2)


def first_correction(block: Block, x: Layer, **options) -> Layer:
    r"""The coefficient $x_1$ of $x_\epsilon = x_0 + \epsilon\,x_1 + O(\epsilon^2)$ at some times of
    a flow from rest.

    With the visible velocity $R(x, x_h)$, that of the block $r(x) = R(x, m(x))$ and the states at
    rest $m(x)$,

    $$\dot x_1 = \frac{\partial r}{\partial x}\,x_1
       - \sum_h \tau_h\,\frac{\partial R}{\partial x_h}\,\frac{\partial m_h}{\partial x}\,r, \qquad
         x_1(0) = 0.$$

    **Arguments:**

    - `block`: with leak 1, its hidden layers not joined with each other.
    - `x`: the initial visible state; hidden layers start at rest.
    - `options`: as in `follow`.
    """
    memory = block.potential.memory
    visible = block.potential.visible

    def field(state: tuple[Layer, Layer]) -> tuple[Layer, Layer]:
        x, correction = state
        rate = velocity(block, x)
        rest, drift = jax.jvp(lambda x: at_rest(block, x), (x,), (rate,))
        behind = {h: -memory.neurons[h].tau * drift[h] for h in block.potential.hidden}
        behind[visible] = jnp.zeros_like(x)
        pull = jax.jvp(lambda state: velocity(memory, state)[visible], (rest,), (behind,))[1]
        return rate, jax.jvp(lambda x: velocity(block, x), (x,), (correction,))[1] + pull

    return follow(field, (x, jnp.zeros_like(x)), **options)[1]


def draw(key: PRNGKey) -> tuple[Block, Layer]:
    """A normalised visible layer and two hidden ones with GELU and softmax units, all weights
    independent; a state.
    """
    shapes = (
        (FIRST, VISIBLE),
        (VISIBLE, FIRST),
        (SECOND, VISIBLE),
        (VISIBLE, SECOND),
        (FIRST,),
        (VISIBLE,),
    )
    w1, v1, w2, v2, bias, x = normals(key, shapes)
    neurons = {
        "visible": Neurons(LayerNorm(eps=0.1), (VISIBLE,), tau=1.0),
        "first": Neurons(GELU(), (FIRST,), tau=1.0),
        "second": Neurons(Softmax(), (SECOND,), tau=2.0),
    }
    synapses = {
        "first": Dense(Coupling.from_weights(w1, v1)),
        "second": Dense(Coupling.from_weights(w2, v2)),
        "bias": Bias(bias),
    }
    connections = {
        "first": ("visible", "first"),
        "second": ("visible", "second"),
        "bias": ("first",),
    }
    return derive_block(AssociativeMemory(neurons, synapses, connections), HIDDEN, leak=1.0), x


def measured_order(block: Block, x: Layer) -> Scalar:
    """The order of convergence of one memory, from rest."""
    ratios = jnp.asarray(RATIOS)
    return order(
        ratios,
        jnp.linalg.norm(lags(block, at_rest(block, x), ratios).reshape(len(ratios), -1), axis=1),
    )


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The measured order of convergence of random memories, beside 1."""
    drawn = jax.jit(jax.vmap(draw))(jr.split(key, examples))
    orders = in_batches(lambda pair: measured_order(*pair), drawn)
    return Measurement(float(jnp.max(jnp.abs(orders - 1))), 0.05, examples)


CLAIM = Claim(
    id="C02",
    statement="with hidden time constants eps tau_h the visible layer follows the flow of the "
    "eliminated potential up "
    "to O(eps) on any finite time, and no better in general: hidden layers not joined with each "
    "other, any weights",
    source="Tikhonov 1952 for the limit; Krotov & Hopfield 2020 (arXiv 2008.06996), Krotov 2021; "
    "the order: hopmix",
    status="proved",
    page="C02-adiabatic.md",
    test="test_c02_adiabatic.py",
    what="largest deviation of the measured order from 1",
    measure=measure,
)
