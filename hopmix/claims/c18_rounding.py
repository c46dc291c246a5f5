r"""C18: how much a computed energy may rise in a step that descends exactly.

$$\hat E(\hat x') - \hat E(x) \le [E(x') - E(x)] + \left(8\,\epsilon + 24\,\epsilon_{32}\right)[M(x) + M(x')]$$

with the magnitude $M$ of `energy_magnitude` and what `hopmix._numerics.rounding` says of $\epsilon$. The
form is proved, the constant is measured.
"""  # noqa: E501

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from hopmix._block import Block, derive_block
from hopmix._coupling import Coupling
from hopmix._lagrangian import Quadratic, ReLU
from hopmix._memory import AssociativeMemory
from hopmix._neurons import Neurons
from hopmix._numerics.rounding import allowed_rise, rounding_unit, step_magnitudes
from hopmix._synapse import Dense
from hopmix._types import Layer, PRNGKey, Scalar
from hopmix.claims._claim import Claim, Measurement, share
from hopmix.claims._draws import draw_systems
from hopmix.claims.c05_steps import STEPS, STRUCTURES

SCALES = (1e-4, 1e-2, 1.0, 1e2, 1e4)
"""Of the random states; where an energy is a small part of what it is made of, and where not."""


class ComputedStep(NamedTuple):
    """One step in single precision and, of the same numbers, in double.

    - `computed`, `exact`: the change of the energy.
    - `allowed`: the rise that rounding explains.
    """

    computed: Float[Array, "..."]
    exact: Float[Array, "..."]
    allowed: Float[Array, "..."]


def computed_step(block: Block, x: Layer) -> ComputedStep:
    """A step of a block as float32 takes it; what it starts from is rounded to float32 first."""
    narrow, start = _cast((block, x), jnp.float32)
    wide, exactly = _cast((narrow, start), jnp.float64)
    end = narrow(start)
    return ComputedStep(
        computed=(narrow.energy(end) - narrow.energy(start)).astype(jnp.float64),
        exact=wide.energy(wide(exactly)) - wide.energy(exactly),
        allowed=allowed_rise(*step_magnitudes(narrow, start, end), jnp.float32).astype(jnp.float64),
    )


def _cast(tree, dtype):
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def used(step: ComputedStep) -> Float[Array, "..."]:
    """Which share of the allowance separates the computed from the exact change."""
    return jnp.abs(step.computed - step.exact) / step.allowed


def overshooting(excess: float, units: int = 5) -> Block:
    r"""A block that truly rises: decay alone, $x \to -(1 + \text{excess})\,x$, with the energy
    $\tfrac12 |x|^2$.
    """
    neurons = {"v": Neurons(Quadratic(), (units,)), "h": Neurons(ReLU(), (1,))}
    synapses = {"s": Dense(Coupling(jnp.zeros((1, units))))}
    memory = AssociativeMemory(neurons, synapses, {"s": ("v", "h")})
    return derive_block(memory, ["h"], leak=1.0, step=2 + excess)


def hidden_rise(key: PRNGKey) -> Scalar:
    """0 where a rise of three times what rounding explains is above the allowance, at every scale;
    else 2.
    """
    block = overshooting(12 * rounding_unit(jnp.float32))
    steps = _at_all_scales(block, 1 + jr.uniform(key, (5,)))
    return jnp.where(jnp.all(steps.computed > steps.allowed), 0.0, 2.0)


@eqx.filter_jit
def _at_all_scales(block: Block, x: Layer) -> ComputedStep:
    return jax.vmap(lambda scale: computed_step(block, scale * x))(jnp.asarray(SCALES))


@eqx.filter_jit
def shares_of(
    memories: AssociativeMemory,
    states: Layer,
    hidden: tuple[str, ...],
    setting: tuple[float, float],
) -> Float[Array, "examples scales"]:
    """The share that is used by each of a stack of memories, from states of all scales."""
    leak, step = setting

    def of_one(memory, x):
        return used(_at_all_scales(derive_block(memory, hidden, leak=leak, step=step), x))

    return eqx.filter_vmap(of_one)(memories, states)


def measure(key: PRNGKey, examples: int) -> Measurement:
    """The largest share of the allowance that random convex memories use, and whether a true rise
    is above it.
    """
    number = share(examples, len(STRUCTURES))
    found = [hidden_rise(key)]
    for i, (structure, visible, hidden) in enumerate(STRUCTURES):
        memories, states = draw_systems(structure, jr.fold_in(key, i), number)
        found.append(jnp.max(shares_of(memories, states[visible], hidden, STEPS[i % len(STEPS)])))
    return Measurement(float(jnp.max(jnp.stack(found))), 1.0, number * len(STRUCTURES))


CLAIM = Claim(
    id="C18",
    statement="in floating point a step that descends exactly raises the computed energy by at "
    "most c times the "
    "magnitudes of both energies, down to single products: c = 3 gamma_(q + d) is proved, 32 eps "
    "is measured",
    source="standard error analysis (Higham 2002; Higham & Mary 2019); the magnitude of an "
    "energy: hopmix",
    status="proved",
    page="C18-rounding.md",
    test="test_c18_rounding.py",
    what="largest share of the allowance that separates float32 from float64; 2 if a true rise "
    "stays within it",
    measure=measure,
)
