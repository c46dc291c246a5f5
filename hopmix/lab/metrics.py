"""What a study measures of a member, as pure functions inside the compiled program."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hopmix._coupling import Coupling, couplings
from hopmix._derive import Block, SerialBlock
from hopmix._symmetry import measure_asymmetry
from hopmix._types import Scalar
from hopmix.models.mixer import Mixer

Metrics = dict[str, Array]

BRANCHES = ("token", "channel")
DIMENSIONS = {
    "train_loss": (),
    "train_accuracy": (),
    "gradient_norm": (),
    "validation_loss": (),
    "validation_accuracy": (),
    "penalty_term": (),
    "parameter_norm": (),
    "energy_change": ("block",),
    "energy_rise_fraction": ("block",),
    "cosine": ("block", "branch"),
    "relative_breaking": ("block", "branch"),
    "unit_cosine": ("block", "branch"),
    "symmetry_score": ("block", "branch"),
    "breaking_ratio": ("block", "branch"),
}
"""Each metric's dimensions beside arm, seed and step."""


def asymmetry(model: Mixer) -> Metrics:
    """The indices of `measure_asymmetry`, each of shape (block, branch)."""
    measured = [[measure_asymmetry(branch_coupling(block, branch)) for branch in BRANCHES] for block in model.blocks]
    rows = [jax.tree.map(lambda *a: jnp.stack(a), *row) for row in measured]
    return jax.tree.map(lambda *a: jnp.stack(a), *rows)._asdict()


def branch_coupling(block: Block | SerialBlock, branch: str) -> Coupling:
    """The coupling of one branch, "token" or "channel", of a block."""
    part = block if isinstance(block, Block) else getattr(block, branch)
    (coupling,) = couplings(part.potential.memory.synapses[branch])
    return coupling


def energy_descent(model: Mixer, images: Float[Array, "batch height width colours"]) -> Metrics:
    r"""How the blocks change the energy of the states that reach them, each of shape (block,).

    - `energy_change`: mean over images of $E(\text{block}(x)) - E(x)$.
    - `energy_rise_fraction`: share of the images whose energy rises by more than rounding.

    The energy is that of `Block.energy`, for untied weights the pseudo-energy of the symmetrised interaction. A
    serial block counts the changes of its two mixings, each in its own energy.
    """
    x = jax.vmap(model.embed, out_axes=1)(images)
    changes, rises = [], []
    for block in model.blocks:
        change, size = jnp.zeros(x.shape[1], x.dtype), jnp.zeros(x.shape[1], x.dtype)
        for part in (block,) if isinstance(block, Block) else block.parts:
            after = part(x)
            energy = part.energy(after)
            change, size, x = change + energy - part.energy(x), size + jnp.abs(energy), after
        changes.append(jnp.mean(change))
        rises.append(jnp.mean(change > 64 * jnp.finfo(x.dtype).eps * size, dtype=x.dtype))
    return {"energy_change": jnp.stack(changes), "energy_rise_fraction": jnp.stack(rises)}


def loss_and_hits(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Cross-entropy and correctness of each example."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)


def penalty(model: Mixer) -> Scalar:
    r"""$\sum |\text{breaking}|_F^2$ over all couplings."""
    return sum((coupling.penalty for coupling in couplings(model)), jnp.zeros((), model.stem.weight.dtype))
