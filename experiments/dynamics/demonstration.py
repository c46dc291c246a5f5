"""Energies along the flow of tied and broken mixers: arXiv 2406.12220, section 6.

.venv/bin/python experiments/dynamics/demonstration.py [--out FOLDER] [--networks 30] [--states 10]

Follows random networks with the weight radii and initial states of the authors' notebook, and
writes `energies.png`, `upward.png`, `landscape.png` and `results.json`. It shows that the energy of
tied weights never rises once the visible Lagrangian fits the norm, that broken weights raise every
pseudo-energy, and by how much for each of them: without correction, with +1/2 as in the notebook,
with -1/2, and radial. Float64; see README.md for the time it takes.
"""

import dataclasses
import importlib.metadata
import json
import math
import time
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from PIL import Image

import hopmix

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

NAMES = {
    "none": "no correction",
    "plus": r"$+\frac{1}{2}$ (notebook)",
    "minus": r"$-\frac{1}{2}$",
    "radial": "radial",
}
COLOURS = {"none": "#777777", "plus": "#D55E00", "minus": "#0072B2", "radial": "#009E73"}
FALLING, RISING = "#0072B2", "#D55E00"


@dataclasses.dataclass(frozen=True)
class Config:
    """Energies along the flow of mixers with tied and with broken weights."""

    out: Path = Path(__file__).parent
    """Where figures and results go."""
    networks: int = 30
    """Random networks for each kind of breaking."""
    states: int = 10
    """Initial states of each network."""
    seed: int = 0
    """Of all random numbers."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A mixer: tokens, channels, the two hidden widths, the epsilon of its norm, and the Frobenius
    norms of W.
    """

    tokens: int
    channels: int
    hidden: tuple[int, int]
    eps: float
    radii: tuple[float, float]


# The notebook's sizes. With the exact norm two entries have only the activations (1, -1) and (-1,
# 1), so that all movement of the small case happens between them: a soft norm shows it.
FAINT = Size(2, 1, (3, 2), 0.1, (0.2, 0.5))
SMALL = Size(2, 1, (3, 2), 0.1, (1.0, 2.5))
LARGE = Size(4, 8, (20, 160), 1e-5, (1.0, 2.5))
DISC = Size(3, 1, (6, 4), 0.3, (3.0, 1.0))
DURATION = 10.0

# Seed of the network and size of the breaking in units of W, picked out of sixty for what they
# show.
LANDSCAPES = {
    "tied weights": (35, 0.0),
    "broken: two attractors": (35, 2.0),
    "broken: a limit cycle": (57, 2.0),
}
PLANE = np.linalg.svd(np.ones((1, 3)))[2][1:]


# ---- Networks and their trajectories -------------------------------------------------------------


def sphere(random: np.random.Generator, shape: tuple[int, int], radius: float) -> jax.Array:
    """A random matrix of given Frobenius norm."""
    matrix = random.normal(size=shape)
    return jnp.asarray(radius * matrix / np.linalg.norm(matrix))


def mixer(
    size: Size,
    random: np.random.Generator,
    radii: tuple[float, float] = (0.0, 0.0),
    gains: float = 0.0,
) -> hopmix.Block:
    """A leaky mixer with W of the size's radii and the breaking V - W^T random of other radii, or
    W^T D of `gains`.
    """
    couplings = []
    for visible, hidden, radius, breaking in zip(
        (size.tokens, size.channels), size.hidden, size.radii, radii
    ):
        up = sphere(random, (hidden, visible), radius)
        noise = sphere(random, (visible, hidden), breaking)
        couplings.append(
            hopmix.Coupling(up, breaking=noise + gains * up.T * random.normal(size=(1, hidden)))
        )
    neurons = {
        "visible": hopmix.Neurons(hopmix.LayerNorm(eps=size.eps), (size.tokens, size.channels)),
        "token": hopmix.Neurons(hopmix.GELU(), (size.hidden[0], size.channels)),
        "channel": hopmix.Neurons(hopmix.GELU(), (size.tokens, size.hidden[1])),
    }
    synapses = {
        "token": hopmix.TokenMixing(couplings[0]),
        "channel": hopmix.ChannelMixing(couplings[1]),
    }
    memory = hopmix.AssociativeMemory(
        neurons, synapses, {name: ("visible", name) for name in synapses}
    )
    return hopmix.derive_block(memory, ["token", "channel"], leak=1.0)


def initial_states(size: Size, random: np.random.Generator, number: int) -> jax.Array:
    return jnp.asarray(random.normal(0.5, 0.5, size=(number, size.tokens, size.channels)))


def energies(block: hopmix.Block, x: jax.Array) -> dict[str, jax.Array]:
    """The four energies of a state, and those of the notebook, whose Lagrangian |x - mean| does not
    fit its norm.
    """
    none = hopmix.symmetry.with_tied_weights(block).energy(x)
    minus = block.energy(x)
    plus = 2 * none - minus
    spread = jnp.sqrt(
        jnp.sum((x - jnp.mean(x)) ** 2) + x.size * block.potential.neurons.lagrangian.eps
    )
    excess = (math.sqrt(x.size) - 1) * spread
    radial = hopmix.symmetry.radial_energy(block, x, nodes=16)
    return {"none": none, "plus": plus, "minus": minus, "radial": radial, "notebook": plus + excess}


@eqx.filter_jit
def follow(block: hopmix.Block, states: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Activations and energies of trajectories, shape (times, states, ...); not finite where the
    integration failed.
    """
    saveat = diffrax.SaveAt(ts=times())
    solve = lambda x: hopmix.flow(block, x, DURATION, saveat=saveat, rtol=1e-9, atol=1e-11).ys
    path = jnp.moveaxis(jax.vmap(solve)(states), 1, 0)
    # One time after the other: the quadrature of all of them at once would take gigabytes.
    return jax.lax.map(jax.vmap(lambda x: (block.activation(x), energies(block, x))), path)


def times() -> jax.Array:
    """Denser at the start, where trajectories are fast; in units of the visible time constant."""
    return DURATION * jnp.linspace(0, 1, 161) ** 2


def upward(energy: jax.Array) -> float:
    """The share of the movement of an energy that is upward, over all trajectories of a network."""
    change = np.diff(np.asarray(energy), axis=0)
    return float(np.sum(np.maximum(change, 0)) / np.sum(np.abs(change)))


def largest_rise(energy: jax.Array) -> float:
    """The largest rise above an earlier value, in units of the range of the energy."""
    energy = np.asarray(energy)
    return float(np.max(energy - np.minimum.accumulate(energy)) / np.ptp(energy))


# ---- What is measured ----------------------------------------------------------------------------


def cases(config: Config) -> dict[str, tuple[jax.Array, dict[str, jax.Array]]]:
    """The notebook's four cases: small and large, tied and broken."""
    sizes = {"small": (FAINT, SMALL), "large": (LARGE, LARGE)}
    found = {}
    for name, (tied, broken) in sizes.items():
        for kind, size, radii in (("tied", tied, (0.0, 0.0)), ("broken", broken, (1.5, 4.0))):
            random = np.random.default_rng([config.seed, len(found)])
            block = mixer(size, random, radii)
            found[f"{name} {kind}"] = follow(block, initial_states(size, random, config.states))
    return found


KINDS: dict[str, dict] = {
    "0.2": {"radii": 0.2},
    "0.5": {"radii": 0.5},
    "1.0": {"radii": 1.0},
    "3.0": {"radii": 3.0},
    "$W^\\top D$": {"gains": 1.0},
}


def statistics(config: Config) -> dict[str, dict[str, list[float]]]:
    """The upward share of each energy in each of many random networks, for each kind of
    breaking.
    """
    shares: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in NAMES} for kind in KINDS
    }
    for i, (kind, breaking) in enumerate(KINDS.items()):
        scale = breaking.get("radii", 0.0)
        for network in range(config.networks):
            random = np.random.default_rng([config.seed, 100 + i, network])
            radii = (scale * LARGE.radii[0], scale * LARGE.radii[1])
            block = mixer(LARGE, random, radii, breaking.get("gains", 0.0))
            _, found = follow(block, initial_states(LARGE, random, config.states))
            for name in NAMES:
                shares[kind][name].append(upward(found[name]))
    return shares


def ends(activations: jax.Array) -> dict[str, float]:
    """How many different activations trajectories end at, and how far any of them still moved in
    the last unit.
    """
    lately = np.asarray(activations)[np.asarray(times()) >= DURATION - 1]
    last = lately[-1].reshape(lately.shape[1], -1)
    return {
        "different": len(np.unique(np.round(last, 1) + 0.0, axis=0)),
        "last_movement": float(np.max(np.abs(lately - lately[-1]))),
    }


def summary(values: list[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        "median": float(np.median(values)),
        "max": float(np.max(values)),
    }


# ---- Figures -------------------------------------------------------------------------------------


def draw_path(ax: plt.Axes, x: np.ndarray, y: np.ndarray, energy: np.ndarray, falling: str):
    """A curve, with the parts along which the energy rises in another colour and thicker."""
    ax.plot(x, y, color=falling, lw=0.9)
    rises = np.diff(energy, append=energy[-1]) > 1e-6 * np.ptp(energy)
    shown = rises | np.roll(rises, 1)
    ax.plot(np.where(shown, x, np.nan), np.where(shown, y, np.nan), color=RISING, lw=1.8)


def energy_figure(found: dict, path: Path):
    columns = (
        ("tied", "minus", "tied weights"),
        ("tied", "notebook", "tied, notebook's\nLagrangian"),
        ("broken", "minus", r"broken, $-\frac{1}{2}$"),
        ("broken", "notebook", "broken, notebook's\nLagrangian and $+\\frac{1}{2}$"),
    )
    rows = (("small", "S = 2, C = 1"), ("large", "S = 4, C = 8"))
    fig, axes = plt.subplots(2, 4, figsize=(7.4, 3.9), layout="constrained", sharex=True)
    for (size, label), line in zip(rows, axes):
        for (kind, name, title), ax in zip(columns, line):
            energy = np.asarray(found[f"{size} {kind}"][1][name])
            for one in energy.T:
                draw_path(ax, np.asarray(times()), one, one, FALLING)
            ax.set_xscale("function", functions=(np.sqrt, np.square))
            ax.set_xticks([0, 1, 4, 10])
            if size == "small":
                ax.set_title(title, fontsize=8)
        line[0].set_ylabel(f"energy, {label}")
    fig.supxlabel(r"time ($\tau$)", fontsize=8)
    handles = [plt.Line2D([], [], color=c, lw=w) for c, w in ((FALLING, 0.9), (RISING, 2.0))]
    fig.legend(handles, ["falling", "rising"], loc="outside lower right", ncols=2, frameon=False)
    save(fig, path)


def upward_figure(shares: dict, path: Path):
    floor = 1e-7
    fig, ax = plt.subplots(figsize=(5.8, 3.0), layout="constrained")
    for i, kind in enumerate(shares):
        for j, name in enumerate(NAMES):
            values = np.maximum(shares[kind][name], floor)
            x = i + 0.2 * (j - 1.5)
            ax.plot(
                x + np.linspace(-0.06, 0.06, len(values)),
                values,
                "o",
                ms=2,
                alpha=0.4,
                color=COLOURS[name],
                mew=0,
            )
            ax.plot(
                [x - 0.08, x + 0.08],
                [np.mean(values)] * 2,
                color=COLOURS[name],
                lw=2.5,
                label=NAMES[name],
            )
    ax.set_yscale("log")
    ax.set_ylim(floor / 2, 1.5)
    ax.set_yticks([floor, 1e-6, 1e-4, 1e-2, 1], ["0", "$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "1"])
    ax.set_xticks(range(len(shares)), [k if k[0] == "$" else f"random, {k}" for k in shares])
    ax.set_xlabel(r"breaking: $|V - W^\top| / |W|$ of random matrices, or $V = W^\top(1 + D)$")
    ax.set_ylabel("upward share of movement")
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(
        handles[: len(NAMES)],
        labels[: len(NAMES)],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    save(fig, path)


def landscape_figure(config: Config, path: Path) -> dict[str, dict]:
    """The plane of activations of three units behind a soft norm: nothing is projected away."""
    fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.9), layout="constrained", sharey=True)
    seen = {}
    for ax, (title, (seed, factor)) in zip(axes, LANDSCAPES.items()):
        random = np.random.default_rng([0, seed])
        block = mixer(DISC, random, (factor * DISC.radii[0], factor * DISC.radii[1]))
        activations, found = follow(
            block, 2.4 * (initial_states(DISC, random, config.states) - 0.5)
        )
        field = draw_landscape(ax, block)
        paths = np.asarray(activations)[..., 0] @ PLANE.T
        energy = np.asarray(found["minus"])
        for k in range(config.states):
            draw_path(ax, *paths[:, k].T, energy[:, k], FALLING)
            ax.plot(*paths[0, k], "o", ms=3, mfc="white", mec="black", mew=0.7, zorder=3)
            ax.plot(*paths[-1, k], "s", ms=4, color="black", zorder=3)
        ax.set_title(title, fontsize=8)
        fig.colorbar(
            field, ax=ax, location="bottom", shrink=0.9, label="energy", ticks=MaxNLocator(4)
        )
        seen[title] = {name: largest_rise(found[name]) for name in NAMES} | ends(activations)
    axes[0].set_ylabel("activation, second coordinate")
    axes[1].set_xlabel("activation, first coordinate")
    save(fig, path)
    return seen


def draw_landscape(ax: plt.Axes, block: hopmix.Block):
    """The energy over the open disc of radius sqrt 3 that the activations fill."""
    a, b = np.meshgrid(*[np.linspace(-1.74, 1.74, 161)] * 2)
    share = np.maximum(1 - (a**2 + b**2) / 3, 1e-3)  # eps / (var + eps), which gives the state back
    states = np.stack([a, b], -1) @ PLANE * np.sqrt(DISC.eps / share)[..., None]
    energy = jax.jit(jax.vmap(jax.vmap(block.energy)))(jnp.asarray(states)[..., None])
    energy = np.asarray(energy)
    # Nothing darker than mid grey, so that curves stay legible.
    field = ax.contourf(
        a, b, energy, 16, cmap="Greys_r", vmin=np.min(energy) - 0.6 * np.ptp(energy)
    )
    disc = plt.Circle((0, 0), math.sqrt(3), transform=ax.transData, fill=False, lw=0.8)
    field.set_clip_path(ax.add_patch(disc))
    ax.set(aspect="equal", xlim=(-1.8, 1.8), ylim=(-1.8, 1.8))
    return field


def save(fig: plt.Figure, path: Path):
    fig.savefig(path, dpi=150)
    plt.close(fig)
    with Image.open(path) as image:
        image.quantize(255).save(path, optimize=True)


# ---- All of it -----------------------------------------------------------------------------------


def run(config: Config) -> dict:
    """Measure, draw and write everything; returns what `results.json` holds."""
    begin = time.perf_counter()
    config.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        found = cases(config)
        energy_figure(found, config.out / "energies.png")
        seen = landscape_figure(config, config.out / "landscape.png")
        shares = statistics(config)
        upward_figure(shares, config.out / "upward.png")
    results = {
        "config": {"networks": config.networks, "states": config.states, "seed": config.seed},
        "versions": {
            name: importlib.metadata.version(name) for name in ("hopmix", "jax", "diffrax")
        },
        "largest_rise": {
            case: {name: largest_rise(energy) for name, energy in energies.items()}
            for case, (_, energies) in found.items()
        },
        "ends": {case: ends(activations) for case, (activations, _) in found.items()},
        "landscape": seen,
        "upward": {
            kind: {name: summary(values) for name, values in row.items()}
            for kind, row in shares.items()
        },
        "seconds": time.perf_counter() - begin,
    }
    (config.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(run(tyro.cli(Config)), indent=1))
