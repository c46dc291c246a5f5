"""Draws theory/figures/breaking.svg: gradient descent as the tracker sees it, on the exactly
solvable problem of C11.

Command: `python theory/draw_breaking.py` (needs `hopmix[lab]`); a few seconds on two CPU cores.
Result: the points lie on the lines; with a target of phase 39, 114 and -69 degrees the cosine ends
at 0.78, -0.41 and 0.35.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from hopmix import Coupling, measure_asymmetry
from hopmix.claims.c11_breaking import solvable_product, solvable_time

STEP, STEPS, START = 0.005, 500, 0.3
TARGETS = {
    "#0072b2": 1.5 + 1.2j,
    "#d55e00": -0.4 + 0.9j,
    "#009e73": 0.3 - 0.8j,
}  # colours of Okabe and Ito


def descend(target: complex):
    """The tracker along gradient descent from a tied point."""
    matrix = jnp.asarray([[target.real, -target.imag], [target.imag, target.real]])
    loss = lambda c: 0.5 * jnp.sum((c.down @ c.up - matrix) ** 2)

    def step(coupling, _):
        moved = jax.tree.map(lambda p, g: p - STEP * g, coupling, jax.grad(loss)(coupling))
        return moved, measure_asymmetry(coupling)

    root = np.sqrt(START) * jnp.eye(2)
    return jax.lax.scan(step, Coupling.from_weights(root, root), None, length=STEPS)[1]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    plt.rcParams["svg.hashsalt"] = "hopmix"
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharex=True, layout="constrained")
    share = np.geomspace(1, 1e-4, 200)
    for colour, target in TARGETS.items():
        found, phase = descend(target), np.angle(solvable_product(START, target, share))
        times, seen = solvable_time(START, target, share), slice(None, None, 25)
        for axis, exact, tracked in (
            (axes[0], np.cos(phase), found.cosine),
            (axes[1], np.abs(2 * np.sin(phase / 2)), found.breaking_ratio),
        ):
            axis.plot(
                times,
                exact,
                color=colour,
                linewidth=1.2,
                label=f"$T = {target.real:g} {target.imag:+g}\\,i$",
            )
            axis.plot(STEP * np.arange(STEPS)[seen], tracked[seen], "o", color=colour, markersize=3)
    axes[0].set(xlabel="time of the flow", ylabel=r"cosine of $V$ and $W^\top$", xlim=(-0.05, 2.5))
    axes[1].set(xlabel="time of the flow", ylabel=r"$|V - W^\top|/|W|$")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(Path(__file__).parent / "figures" / "breaking.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
