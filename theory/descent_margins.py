"""How much breaking the tied energy tolerates where V is independent of W: the margins t* of random
small mixers.

.venv/bin/python theory/descent_margins.py

Prints the table of theory/C10-pseudo-energy.md: 20,000 residual blocks of 3 tokens, 4 channels and
5 hidden units for each mixing, GELU, a joint norm; weights, biases and states are standard normal.
Ten seconds.
"""

import math
from functools import partial

import jax
import jax.random as jr
import numpy as np

from hopmix.claims._small_mixer import (
    Couple,
    Weights,
    draw_weights,
    free,
    map_examples,
    small_mixer,
)
from hopmix.symmetry import descent_margin

SETTINGS = {"none": False, "into token units and visible units": True}
"""Which biases the blocks have, by what the table calls them."""


def margin(example: tuple[Weights, jax.Array], bias: bool, couple: Couple = free) -> jax.Array:
    """The margin of one block at one state."""
    weights, (x,) = example
    return descent_margin(small_mixer(weights, couple, bias=bias, leak=0.0), x)


def measure(key: jax.Array, examples: int, bias: bool) -> np.ndarray:
    """The margins of random blocks, infinite ones included."""
    return np.asarray(
        map_examples(lambda key: draw_weights(key, 1), partial(margin, bias=bias), key, examples)
    )


def standard_error(share: float, examples: int) -> float:
    """That of a share of independent examples."""
    return math.sqrt(share * (1 - share) / examples)


def main(examples: int = 20_000):
    print("| biases | $t^* < 1$ | quartiles of $t^*$ |\n|---|---|---|")
    for name, bias in SETTINGS.items():
        margins = measure(jr.key(0), examples, bias)
        share = float(np.mean(margins < 1))
        low, middle, high = np.quantile(margins, [0.25, 0.5, 0.75], method="inverted_cdf")
        error = 100 * standard_error(share, examples)
        print(
            f"| {name} | {100 * share:.1f} ± {error:.1f} % | {low:.2f}, {middle:.2f}, {high:.2f} |"
        )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
