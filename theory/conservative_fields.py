"""Which variants of a mixer's block are conservative: the raw index |J - J^T|/(2|J|) beside that of
H J.

.venv/bin/python theory/conservative_fields.py

Prints the table of theory/C07-conservative.md: medians over 200 random blocks of 3 tokens and 4
channels with GELU units, Gaussian weights and states, float64. Fifteen seconds.
"""

import jax
import jax.numpy as jnp
import jax.random as jr

from hopmix import Affine, Block, Coupling, LayerNorm, Neurons, field_asymmetry
from hopmix.claims._small_mixer import CHANNELS, TOKENS, draw_weights, free, gained, small_mixer
from hopmix.claims.c09_serial import serial_block

SHAPE = (TOKENS, CHANNELS)
JOINT, TOKEN = LayerNorm(), LayerNorm((-1,))
CONSERVATIVE = (
    "tied",
    "V = W^T D, D of either sign",
    "scalar scale and shift in the norm",
    "elementwise scale on the way in and out",
    "norm of each token",
)


def draw(key: jax.Array) -> tuple[dict[str, Block], jax.Array]:
    """Blocks of one set of weights, and a state."""
    weights, (x, noise, shift) = draw_weights(key, 3)
    tied = lambda visible: small_mixer(
        weights, lambda up, noise: Coupling(up), visible=Neurons(*visible)
    )
    scale = 1 + 0.5 * jnp.tanh(noise)
    blocks = {
        "tied": tied((JOINT, SHAPE)),
        "V = W^T D, D of either sign": small_mixer(weights, gained),
        "scalar scale and shift in the norm": tied(
            (LayerNorm(None, jnp.asarray(1.7), shift), SHAPE)
        ),
        "elementwise scale on the way in and out": tied((JOINT, SHAPE, 1.0, Affine(scale, shift))),
        "norm of each token": tied((TOKEN, SHAPE)),
        "free": small_mixer(weights, free),
        "elementwise scale on the way in only": tied(
            (JOINT, SHAPE, 1.0, Affine(scale, shift, False))
        ),
    }
    return blocks, x


def indices(blocks: dict[str, Block], x: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The raw index and that of H J, of each variant."""
    fields = {
        name: (block.force, block.potential.neurons.lagrangian) for name, block in blocks.items()
    }
    serial = serial_block(blocks["tied"].potential.memory)
    fields["tied, token and then channel mixing"] = (lambda x: serial(x) - x), JOINT
    fields["norm of each token, measured with the joint H"] = (
        blocks["norm of each token"].force,
        JOINT,
    )
    return {
        name: (field_asymmetry(f, x), field_asymmetry(f, x, lagrangian))
        for name, (f, lagrangian) in fields.items()
    }


def measure(key: jax.Array, examples: int) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The indices of many examples."""
    return jax.jit(jax.vmap(indices))(*jax.jit(jax.vmap(draw))(jr.split(key, examples)))


def main():
    print("| block | raw J | H J |\n|---|---|---|")
    for name, pair in measure(jr.key(0), 200).items():
        raw, metric = (float(jnp.median(index)) for index in pair)
        print(f"| {name} | {raw:.3f} | {metric:{'.0e' if metric < 1e-3 else '.3f'}} |")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
