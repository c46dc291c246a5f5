"""How much breaking the rests of trained mixers tolerate, and what the residual says of where they
go instead (C16).

.venv/bin/python experiments/small_breaking/trained.py --run runs/small [--out FOLDER]

Reads the blocks of a run of `hopmix ablate`, gives each a leak of 1 (behind a norm that is a change
of scale, C04), lets it come to rest with tied weights from the states of some images, and writes
`results.json`: the bound on the breaking, the breaking that training has made, how many times its
own breaking each rest is proved and found to tolerate, and the mean squares of forces on the
attractor of the block as it is. Float64.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import hopmix
from hopmix.claims.c10_pseudo_energy import scale_breaking
from hopmix.claims.c16_small_breaking import find_rest, metric_sizes
from hopmix.lab.data.augment import normalise
from hopmix.lab.study.trained import members_of
from hopmix.lab.verify.checks import load_run, states_of

TIMES = np.geomspace(1e-3, 1, 13)
"""The multiples of the breaking at which a rest is looked for."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How much breaking the rests of trained mixers tolerate."""

    run: Path = Path("runs/small")
    """A run of `hopmix ablate`."""
    out: Path = Path(__file__).parent
    """Where the results go."""
    images: int = 1
    """Validation images whose states each block starts from."""


class Row(NamedTuple):
    """One rest of one block.

    - `bound`, `breaking`, `times`: of `hopmix.symmetry.breaking_bound`.
    - `kept`: the last of `TIMES` up to which the rest is found, and stable; 0 where it is not at
      the first.
    - `moved`: how far it moves by 0.99 `times` its breaking, in units of the promised distance.
    - `tied`, `motion`: means of the squares of the tied force and of the force, on the attractor of
        the block as it is, in units of that of the residual.
    - `balance`: their sum, 1 on every attractor.
    - `farther`: the distance of the attractor from the tied rest, in units of the length of the
      tied rest.
    """

    bound: float
    breaking: float
    times: float
    kept: float
    moved: float
    tied: float
    motion: float
    balance: float
    farther: float


def leaky(block: hopmix.Block) -> hopmix.Block:
    """The block in the gauge with a leak of 1, and with short steps."""
    return dataclasses.replace(block, leak=1.0, step=0.1, n_iter=1, drop_path=0.0)


@eqx.filter_jit
def follow(block: hopmix.Block, x: jax.Array, steps: int) -> jax.Array:
    """The state after many steps."""
    return jax.lax.fori_loop(0, steps, lambda _, x: block(x), x)


@eqx.filter_jit
def mean_squares(block: hopmix.Block, x: jax.Array, steps: int) -> jax.Array:
    """Squares of the tied force, the residual and the force in the metric, averaged over steps from
    a state.
    """
    step = lambda x, _: (block(x), jnp.stack(metric_sizes(block, x)))
    return jnp.mean(jax.lax.scan(step, x, None, length=steps)[1], axis=0)


def tolerated(block: hopmix.Block, rest: np.ndarray) -> float:
    """The last of `TIMES` up to which a rest, followed from none of the breaking on, is there and
    stable.
    """
    state = rest
    kept = 0.0
    for t in TIMES:
        found = find_rest(scale_breaking(block, jnp.asarray(t)), jnp.asarray(state), 8)
        near = np.linalg.norm(found.state - state) < 0.2 * np.linalg.norm(rest)
        if not (found.left < 1e-8 and found.growth < 0 and near):
            break
        state = found.state
        kept = float(t)
    return kept


def measure(block: hopmix.Block, start: jax.Array, steps: int = 4000) -> Row | None:
    """One rest of a leaky block, reached from a state; `None` where the tied flow has reached no
    stable rest.
    """
    tied = hopmix.symmetry.with_tied_weights(block)
    rest = jnp.asarray(find_rest(tied, follow(tied, start, steps), 5).state)
    found = hopmix.symmetry.breaking_bound(block, rest)
    if not found.bound > 0:
        return None
    share = min(0.99 * found.times, 1.0)
    scaled = scale_breaking(block, jnp.asarray(share))
    moved = np.linalg.norm(find_rest(scaled, rest, 12).state - np.asarray(rest))
    promised = hopmix.symmetry.breaking_bound(scaled, rest).distance
    end = follow(block, start, steps)
    sizes = mean_squares(block, end, steps)
    shares = np.asarray(sizes) / float(sizes[1])
    return Row(
        bound=found.bound,
        breaking=found.breaking,
        times=found.times,
        kept=tolerated(block, np.asarray(rest)),
        moved=float(moved / promised),
        tied=float(shares[0]),
        motion=float(shares[2]),
        balance=float(shares[0] + shares[2]),
        farther=float(jnp.linalg.norm(end - rest) / jnp.linalg.norm(rest)),
    )


def blocks_of(config: Config) -> Iterator[tuple[str, hopmix.Block, jax.Array]]:
    """The arm, a block, and the states that reach it, of each member of the run."""
    trained = load_run(config.run)
    data = trained.study.data
    rows = np.linspace(0, len(data.validation.images) - 1, config.images).astype(int)
    images = normalise(jnp.asarray(data.validation.images[rows]), data.mean, data.std)
    wide = lambda leaf: jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array_like(leaf) else leaf
    for _, arm, _, model in members_of(trained.study.populations, trained.states):
        model = jax.tree.map(wide, model)
        for block, states in zip(model.blocks, states_of(model, wide(images)), strict=True):
            yield arm.name, leaky(block), states


def summary(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Median, least and largest of each quantity."""
    table = np.asarray(rows)
    measures = {"median": np.median, "least": np.min, "largest": np.max}
    return {
        name: {kind: float(f(column)) for kind, f in measures.items()}
        for name, column in zip(Row._fields, table.T, strict=True)
    }


def run(config: Config) -> dict:
    """Measure and write everything; returns what `results.json` holds."""
    begin = time.process_time()
    rows: dict[str, list[Row]] = {}
    tried: dict[str, int] = {}
    for arm, block, states in blocks_of(config):
        found = [row for row in (measure(block, x) for x in states) if row is not None]
        rows.setdefault(arm, []).extend(found)
        tried[arm] = tried.get(arm, 0) + len(states)
    results = {
        "images": config.images,
        "arms": {
            arm: {"tried": tried[arm], "n": len(r), **(summary(r) if r else {})}
            for arm, r in rows.items()
        },
        "processor_seconds": time.process_time() - begin,
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(run(tyro.cli(Config)), indent=1))
