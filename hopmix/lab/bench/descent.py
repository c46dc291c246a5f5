"""Energy, force and descent of memories, against automatic differentiation and against a loop in
Python.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from hopmix._block import Block, derive_block, gradient_force
from hopmix._coupling import Coupling
from hopmix._dynamics import descend
from hopmix._lagrangian import GELU, LayerNorm
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.dtypes import cast
from hopmix._synapse import ChannelMixing, TokenMixing
from hopmix._types import Energy, Layer, State
from hopmix.lab.bench.race import Row, in_turn, timed

SHAPES = {"small": (16, 32), "large": (196, 512)}
"""Tokens and channels of the visible layer."""

CALLS = {"small": 200, "large": 10}
"""Calls that are timed at once."""

STEPS = 100


def make_memory(tokens: int, channels: int) -> AssociativeMemory:
    """The memory of a symmetric mixer block."""
    one, other = jr.split(jr.key(0))
    hidden = channels // 2, 4 * channels
    layers = {
        "x": Neurons(LayerNorm(axes=(0, -1)), (tokens, channels)),
        "token": Neurons(GELU(), (hidden[0], channels)),
        "channel": Neurons(GELU(), (tokens, hidden[1])),
    }
    synapses = {
        "token": TokenMixing(Coupling.symmetric(tokens, hidden[0], key=one)),
        "channel": ChannelMixing(Coupling.symmetric(channels, hidden[1], key=other)),
    }
    return cast(
        AssociativeMemory(layers, synapses, {name: ("x", name) for name in synapses}), "float32"
    )


def make_block(tokens: int, channels: int) -> Block:
    """The leaky block of `make_memory`, whose steps are short enough to descend."""
    return derive_block(make_memory(tokens, channels), ["token", "channel"], leak=1.0, step=0.1)


def race_descent(quick: bool, repetitions: int) -> Iterator[Row]:
    """Rows of one memory of each size."""
    for size, (tokens, channels) in ({"tiny": (4, 6)} if quick else SHAPES).items():
        calls = 2 if quick else CALLS[size]
        yield _memory_row(size, make_memory(tokens, channels), calls, repetitions)
        block = make_block(tokens, channels)
        x = jr.normal(jr.key(1), (tokens, channels), jnp.float32)
        yield _force_row(size, block, x, calls, repetitions)
        yield from _descent_rows(size, block, x, calls, repetitions)


def _memory_row(size: str, memory: AssociativeMemory, calls: int, repetitions: int) -> Row:
    state = {
        name: jr.normal(jr.key(2), layer.shape, jnp.float32)
        for name, layer in memory.neurons.items()
    }
    contenders = [
        timed(jax.jit(f), state, times=calls) for f in (derived(memory), differentiated(memory))
    ]
    return Row(
        "descent",
        f"{size} memory: energy and force",
        *_pair(contenders, "jax.grad(energy)", repetitions),
    )


def derived(memory: AssociativeMemory) -> Callable[[State], tuple[Energy, State]]:
    """Energy and force of a memory as hopmix has them."""
    return lambda state: (memory.energy(state), memory.force(state))


def differentiated(memory: AssociativeMemory) -> Callable[[State], tuple[Energy, State]]:
    """The same by differentiating the energy in the activations, at fixed states."""

    def run(state: State) -> tuple[Energy, State]:
        def energy(g: State) -> Energy:
            terms = [
                jnp.sum(x * g[name]) - memory.neurons[name].lagrangian(x)
                for name, x in state.items()
            ]
            terms += [
                memory.synapses[s].energy(*(g[a] for a in names)) for s, names in memory.connections
            ]
            return sum(terms, jnp.zeros((), jnp.float32))

        g = {name: memory.neurons[name].lagrangian.activation(x) for name, x in state.items()}
        value, slope = jax.value_and_grad(energy)(g)
        return value, jax.tree.map(jnp.negative, slope)

    return run


def _force_row(size: str, block: Block, x: Layer, calls: int, repetitions: int) -> Row:
    forces = [jax.jit(lambda x: block.force(x)), jax.jit(lambda x: gradient_force(block, x))]
    contenders = [timed(force, x, times=calls) for force in forces]
    return Row(
        "descent", f"{size} block: force", *_pair(contenders, "jax.grad(potential)", repetitions)
    )


def _descent_rows(size: str, block: Block, x: Layer, calls: int, repetitions: int) -> Iterator[Row]:
    loops = {"loop over filter_jit(step)": True, "loop, weights compiled in": False}
    runs = [
        lambda x: descend(block, x, STEPS)[:2],
        *(make_loop(block, arguments=a) for a in loops.values()),
    ]
    own, *others = in_turn([timed(run, x, times=max(1, calls // 10)) for run in runs], repetitions)
    for against, other in zip(loops, others, strict=True):
        yield Row("descent", f"{size} block: descend, {STEPS} steps", own, against, other)


def make_loop(block: Block, steps: int = STEPS, arguments: bool = False) -> Callable[[Layer], Any]:
    """What `descend` returns, by a loop in Python over a compiled step.

    With `arguments` the step takes the block, as `descend` does; else the weights are constants of
    the program, which must be compiled again for others.
    """
    both = lambda block, x: (block(x), block.energy(x))
    if arguments:
        step = partial(eqx.filter_jit(both), block)
    else:
        step = jax.jit(partial(both, block))

    def loop(x: Layer) -> tuple[list[Layer], list[Any]]:
        states = []
        energies = []
        for _ in range(steps + 1):
            states.append(x)
            x, energy = step(x)
            energies.append(energy)
        return states, energies

    return loop


def _pair(
    contenders: list, against: str, repetitions: int
) -> tuple[tuple[float, ...], str, tuple[float, ...]]:
    own, other = in_turn(contenders, repetitions)
    return own, against, other
