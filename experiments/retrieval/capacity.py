"""How many patterns binary memories store, and how exactly one update returns them, against the
theory of C12.

    .venv/bin/python experiments/retrieval/capacity.py

Four measurements on random patterns, each on several memories (seeds), all compared with
`theory/C12-retrieval.md`:

1. which share of the bits of stored patterns is stable, against the number of patterns, for the
   classical memory and the dense ones with z^3 and the rectified max(z, 0)^3;
2. which share of patterns comes back from a tenth of flipped bits by asynchronous sweeps;
3. how often one synchronous update of the exponential memory leaves an error, against the share of
   flipped bits;
4. how far one update of a modern Hopfield network, and of a log-sum-ReLU memory, ends from a
   pattern, against noise.

Writes `results.json`, `stable.png` and `one_update.png` to `--out`. README.md in this folder has
the results and the time.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hopmix import AbstractLagrangian, HopfieldMemory, LogSumReLU, Quadratic, RePU, Softmax
from hopmix.retrieval import (
    bit_error,
    capacity,
    flip_costs,
    recall,
    retrieval_bound,
    retrieval_failure,
    retrieve,
    update_all,
)

HERE = Path(__file__).resolve().parent


class Cube(AbstractLagrangian):
    r"""The separation $F(z) = z^3/3$ of Krotov and Hopfield without rectification; it is not
    convex.
    """

    curvature = (-math.inf, math.inf)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.sum(x**3) / 3

    def activation(self, x: jax.Array) -> jax.Array:
        return x**2


SEPARATIONS = {"z^2": Quadratic(), "z^3": Cube(), "max(z, 0)^3": RePU(3)}
LOADS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run. The defaults take about two minutes on two cores."""

    out: Path = HERE / "capacity"
    """folder for results and figures"""
    units: int = 100
    """bits of a pattern in measurements 1 and 2"""
    seeds: int = 5
    """independent memories for each point"""
    samples: int = 100
    """patterns looked at in each memory"""
    loads: tuple[float, ...] = LOADS
    """numbers of patterns, in units of the capacity"""
    exponential_units: int = 40
    exponential_patterns: tuple[int, ...] = (20, 400, 8000)
    real_units: int = 64
    real_patterns: int = 200


def fair_bits(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(2.0 * np.random.default_rng(seed).integers(0, 2, shape) - 1)


def flip_some(patterns: jax.Array, flips: int, seed: int) -> jax.Array:
    """Each pattern with so many random bits flipped."""
    ranks = np.random.default_rng(seed).random(patterns.shape).argsort(1).argsort(1)
    return jnp.where(jnp.asarray(ranks < flips), -patterns, patterns)


# ---- 1 and 2: polynomial memories ----------------------------------------------------------------


@jax.jit
def look_at(
    memory: HopfieldMemory, wanted: jax.Array, states: jax.Array, key: jax.Array
) -> tuple[jax.Array, ...]:
    """Of each wanted pattern: how many of its bits want to flip, whether asynchronous sweeps lead
    from its state to it exactly, and whether they came to rest."""

    def one(wanted, state, key):
        found = recall(memory, state, sweeps=12, key=key)
        unstable = jnp.sum(flip_costs(memory, wanted) < 0)
        return unstable, jnp.all(found.states[-1] == wanted), found.converged

    return jax.lax.map(
        lambda each: one(*each), (wanted, states, jr.split(key, len(wanted))), batch_size=16
    )


def polynomial_memories(settings: Settings) -> list[dict]:
    """Measurements 1 and 2: a row for each separation and load."""
    rows = []
    for name, separation in SEPARATIONS.items():
        threshold = capacity(separation, settings.units)
        for load in settings.loads:
            patterns = max(2, round(load * threshold))
            found = np.array(
                [one_memory(separation, patterns, settings, seed) for seed in range(settings.seeds)]
            )
            error = bit_error(separation, settings.units, patterns)
            row = {"separation": name, "patterns": patterns, "load": patterns / threshold}
            row |= {"unstable bits": found[:, 0].tolist(), "expected unstable bits": error}
            row |= {
                "stable patterns": found[:, 1].tolist(),
                "expected": (1 - error) ** settings.units,
            }
            rows.append(row | {"retrieved": found[:, 2].tolist(), "at rest": found[:, 3].tolist()})
    return rows


def one_memory(
    separation: AbstractLagrangian, patterns: int, settings: Settings, seed: int
) -> tuple[float, ...]:
    """Shares of unstable bits, of stable patterns, of retrieved patterns, and of retrievals that
    came to rest.
    """
    stored = fair_bits(seed, patterns, settings.units)
    # Patterns of zeros change no cost. With them, memories of different loads share a compiled
    # program.
    padding = 4 ** max(4, math.ceil(math.log(patterns, 4))) - patterns
    memory = HopfieldMemory(jnp.pad(stored, ((0, padding), (0, 0))), separation)
    wanted = stored[np.arange(settings.samples) % patterns]
    corrupted = flip_some(wanted, settings.units // 10, seed)
    unstable, retrieved, rest = map(np.asarray, look_at(memory, wanted, corrupted, jr.key(seed)))
    return unstable.mean() / settings.units, (unstable == 0).mean(), retrieved.mean(), rest.mean()


# ---- 3: the exponential memory -------------------------------------------------------------------


@jax.jit
def left_wrong(memory: HopfieldMemory, wanted: jax.Array, states: jax.Array) -> jax.Array:
    return jax.lax.map(
        lambda both: jnp.any(update_all(memory, both[1]) != both[0]), (wanted, states), batch_size=4
    )


def exponential_memories(settings: Settings) -> list[dict]:
    """A row for each number of patterns and of flipped bits."""
    units = settings.exponential_units
    rows = []
    for patterns in settings.exponential_patterns:
        memories = [
            HopfieldMemory(fair_bits(s, patterns, units), Softmax(1.0))
            for s in range(settings.seeds)
        ]
        for flips in range(0, int(0.4 * units) + 1, max(1, units // 40)):
            failed = [
                failure_share(memory, flips, settings.samples, seed)
                for seed, memory in enumerate(memories)
            ]
            row = {
                "patterns": patterns,
                "flips": flips,
                "samples": min(settings.samples, patterns),
                "failed": failed,
            }
            rows.append(row | {"bound": retrieval_failure(units, patterns, flips)})
    return rows


def failure_share(memory: HopfieldMemory, flips: int, samples: int, seed: int) -> float:
    wanted = memory.patterns[:samples]
    return float(left_wrong(memory, wanted, flip_some(wanted, flips, seed)).mean())


# ---- 4: real patterns ----------------------------------------------------------------------------


def real_memories(settings: Settings) -> list[dict]:
    """A row for each inverse temperature and noise; patterns and noise are uniform on spheres."""
    rows = []
    for beta in (8.0, 16.0, 32.0):
        for noise in np.linspace(0, 1, 21):
            found = [
                real_memory(beta, float(noise), settings, seed) for seed in range(settings.seeds)
            ]
            errors, bounds, compact = (np.concatenate(part) for part in zip(*found))
            row = {"beta": beta, "noise": float(noise), "median error": float(np.median(errors))}
            row |= {
                "largest error": float(errors.max()),
                "largest error / bound": float((errors / bounds).max()),
            }
            row |= {
                "median bound": float(np.median(bounds)),
                "log-sum-relu median error": float(np.median(compact)),
            }
            rows.append(row | {"log-sum-relu exact": float((compact < 1e-12).mean())})
    return rows


def real_memory(beta: float, noise: float, settings: Settings, seed: int) -> tuple[np.ndarray, ...]:
    """Of one memory: errors of one softmax update, their bounds, and errors of one log-sum-ReLU
    update.
    """
    random = np.random.default_rng(seed)
    patterns, push = (
        on_sphere(random, settings.real_patterns, settings.real_units) for _ in range(2)
    )
    found = one_updates(patterns, patterns + noise * push, jnp.asarray(beta))
    return tuple(np.asarray(part) for part in found)


def on_sphere(random: np.random.Generator, count: int, units: int) -> jax.Array:
    points = random.normal(size=(count, units))
    return jnp.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


@jax.jit
def one_updates(patterns: jax.Array, states: jax.Array, beta: jax.Array):
    soft = HopfieldMemory(patterns, Softmax(beta))
    # Reach 0.6: below half of the distance of most pairs of random patterns, which is near sqrt(2).
    compact = HopfieldMemory(patterns, LogSumReLU(2 / 0.6**2), "distance")

    def one(i, pattern, state):
        miss = lambda memory: jnp.linalg.norm(retrieve(memory, state) - pattern)
        # The bound may be smaller than the rounding of the update.
        return miss(soft), retrieval_bound(patterns, state, beta)[i] + 1e-14, miss(compact)

    return jax.vmap(one)(jnp.arange(len(patterns)), patterns, states)


# ---- figures -------------------------------------------------------------------------------------

# Okabe and Ito's colour-blind-safe hues, and a marker for each.
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"))


def draw(path: Path, panels: tuple[Callable[[Axes], None], ...]) -> None:
    figure = Figure(figsize=(7.1, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels)), panels):
        panel(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(8)
    figure.savefig(path, dpi=160)


def points(
    axes: Axes,
    x: list[float],
    per_seed: list[list[float]],
    style: tuple[str, str],
    label: str | None,
) -> None:
    """Means over memories, with their standard deviation."""
    values = np.array(per_seed)
    spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
    colour, marker = style
    axes.errorbar(
        x,
        values.mean(1),
        spread,
        fmt=marker,
        color=colour,
        ms=3.5,
        elinewidth=1,
        capsize=1.5,
        label=label,
    )


def stable_figure(path: Path, rows: list[dict], units: int) -> None:
    def panel(
        what: str, theory: Callable[[dict], float] | None, title: str
    ) -> Callable[[Axes], None]:
        def fill(axes: Axes) -> None:
            for name, style in zip(SEPARATIONS, STYLES):
                ours = [row for row in rows if row["separation"] == name]
                x = [row["load"] for row in ours]
                points(
                    axes,
                    x,
                    [[to_percent(what, v) for v in row[what]] for row in ours],
                    style,
                    f"$F = {tex(name)}$",
                )
                if theory is not None:
                    axes.plot(x, [theory(row) for row in ours], color=style[0], lw=1)
            axes.set_xscale("log")
            axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
            axes.minorticks_off()
            axes.axvline(1, color="#999999", lw=0.8, ls=":")
            axes.set_xlabel("patterns / capacity")
            axes.set_title(title, loc="left")

        return fill

    flipped = units // 10
    bits = panel(
        "unstable bits", lambda row: 100 * (1 - row["expected unstable bits"]), "stable bits (%)"
    )
    whole = panel(
        "stable patterns", lambda row: 100 * row["expected"], "patterns without an unstable bit (%)"
    )
    back = panel("retrieved", None, f"retrieved from {flipped} wrong bits (%)")

    def with_legend(axes: Axes) -> None:
        bits(axes)
        axes.legend(
            fontsize=7, frameon=False, loc="lower left", title="lines: theory", title_fontsize=7
        )

    draw(path, (with_legend, whole, back))


def to_percent(what: str, share: float) -> float:
    return 100 * (1 - share) if what == "unstable bits" else 100 * share


def tex(name: str) -> str:
    return name.replace("max(z, 0)", r"\max(z,0)")


def one_update_figure(path: Path, exponential: list[dict], real: list[dict], units: int) -> None:
    def failing(axes: Axes) -> None:
        for patterns, style in zip(sorted({row["patterns"] for row in exponential}), STYLES):
            ours = [row for row in exponential if row["patterns"] == patterns]
            x = [100 * row["flips"] / units for row in ours]
            points(
                axes,
                x,
                [[100 * v for v in row["failed"]] for row in ours],
                style,
                f"{patterns:,} patterns",
            )
            below = [
                (100 * row["flips"] / units, 100 * row["bound"]) for row in ours if row["bound"] < 1
            ]
            axes.plot(*zip(*below), color=style[0], lw=1)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        axes.set_ylim(-0.02, 130)
        axes.set_xlabel(f"flipped bits (% of {units})")
        axes.set_title(
            "exponential memory: updates\nthat leave an error (%); lines: bound", loc="left"
        )
        axes.legend(fontsize=7, frameon=False)

    def missing(axes: Axes) -> None:
        for beta, style in zip(sorted({row["beta"] for row in real}), STYLES):
            ours = [row for row in real if row["beta"] == beta]
            x = [row["noise"] for row in ours]
            axes.plot(
                x,
                [max(row["median error"], 1e-16) for row in ours],
                color=style[0],
                marker=style[1],
                ms=3,
                lw=0,
                label=f"softmax, β = {beta:g}",
            )
            axes.plot(x, [row["median bound"] for row in ours], color=style[0], lw=1)
        ours = [row for row in real if row["beta"] == max(r["beta"] for r in real)]
        axes.plot(
            [r["noise"] for r in ours],
            [max(r["log-sum-relu median error"], 1e-16) for r in ours],
            color="#333333",
            marker="x",
            ms=3.5,
            lw=0,
            label="log-sum-ReLU, reach 0.6",
        )
        axes.set_yscale("log")
        axes.set_ylim(3e-17, 30)
        axes.set_xlabel("noise $|x - x_i|$ (patterns have norm 1)")
        axes.set_title(
            "real patterns: median distance from\nthe pattern after one update; lines: bound",
            loc="left",
        )
        axes.legend(fontsize=7, frameon=False, loc="lower right")

    draw(path, (failing, missing))


# ---- all of it -----------------------------------------------------------------------------------


def recorded(settings: Settings) -> dict:
    """The settings as JSON values, without the folder, which says nothing about the numbers."""
    values = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return {name: value for name, value in values.items() if name != "out"}


def main(settings: Settings) -> dict:
    begin = time.perf_counter()
    settings.out.mkdir(parents=True, exist_ok=True)
    results = {
        "settings": recorded(settings),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "capacity": {
            name: capacity(separation, settings.units) for name, separation in SEPARATIONS.items()
        },
        "polynomial": polynomial_memories(settings),
        "exponential": exponential_memories(settings),
        "real": real_memories(settings),
    }
    stable_figure(settings.out / "stable.png", results["polynomial"], settings.units)
    one_update_figure(
        settings.out / "one_update.png",
        results["exponential"],
        results["real"],
        settings.exponential_units,
    )
    results["seconds"] = round(time.perf_counter() - begin, 1)
    (settings.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{settings.out / 'results.json'}: {results['seconds']} s")
    return results


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # bounds go down to rounding
    main(tyro.cli(Settings, description=__doc__))
