"""Measure: how symmetric the weights of a network are, layer by layer, whoever trained it.

Only one layer is in memory at a time. What would take long for large layers is left out unless it
is asked for, and what is left out is said.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import hopmix
from hopmix._coupling import Coupling
from hopmix._types import PRNGKey, Scalar
from hopmix.lab.checkpoints.layers import Kind, Layer, LayerSet, Skipped
from hopmix.lab.checkpoints.units import UNITS as UNITS
from hopmix.lab.checkpoints.units import of_units as of_units
from hopmix.lab.checkpoints.units import units_against_pairings
from hopmix.lab.runtime.compiler_options import once_options
from hopmix.symmetry.quantities import measure_product, measure_weights
from hopmix.symmetry.significance import (
    Significance,
    compare,
    compare_rotations,
    pair,
    pair_directions,
)
from hopmix.symmetry.weights import measure_asymmetry

PRODUCT = ("symmetry_score", "directionality")
"""The indices that depend on the product M = VW alone."""

LARGEST_SPECTRUM = 1024
"""The size of the smaller side of W up to which eigenvalues are computed: some seconds."""

LARGEST_WORK = 1e12
"""Floating-point operations that may go into the significance of the indices of M of one layer: ten
seconds or so.
"""

LARGEST_SAMPLE = 4096
"""How many hidden units at most the significance of the other indices is computed from: 64 MiB for
their overlaps.
"""

NO_SPECTRUM = f"the spectrum, where both sizes are above {LARGEST_SPECTRUM:,}"
NO_PRODUCT = (
    f"the significance of symmetry score and directionality, where it takes over "
    f"{LARGEST_WORK:.0e} operations"
)
SAMPLED = (
    f"all but {LARGEST_SAMPLE:,} hidden units, drawn at random, from the significance of "
    f"the other indices"
)

SEED = 0
"""Of the pairings: the same file gives the same numbers."""


def _compiled(function: Callable, **options: Any) -> Callable:
    # Which compiler options there are is asked when the first program is needed, not when this file
    # is imported.
    program = functools.cache(lambda: jax.jit(function, compiler_options=once_options(), **options))
    return functools.wraps(function)(lambda *arguments, **named: program()(*arguments, **named))


_compiled_for_pairings = functools.partial(_compiled, static_argnames="pairings")
_units_against_pairings = _compiled_for_pairings(units_against_pairings)


class Index(NamedTuple):
    """An index, and its null distribution as `measure_significance` has it; NaN where that was not
    computed.
    """

    value: float
    mean: float = math.nan
    std: float = math.nan
    z: float = math.nan
    p: float = math.nan


@dataclasses.dataclass(frozen=True)
class Measured:
    """A layer with its indices by name, the indices of its spectrum, and what was left out to save
    time.
    """

    layer: Layer
    indices: dict[str, Index]
    spectrum: dict[str, float]
    left_out: tuple[str, ...]


class Report(NamedTuple):
    """All layers of a network, measured; `others` are its matrices that belong to no layer."""

    source: str
    measured: list[Measured]
    left_out: list[Skipped]
    others: tuple[str, ...] = ()


def measure_found(
    found: LayerSet,
    *,
    pairings: int,
    full: bool = False,
    on_progress: Callable[[int, Layer], None] = lambda done, layer: None,
) -> Report:
    """Measure layers one after another.

    **Arguments:**

    - `pairings`: how many random pairings of hidden units each layer is compared with, 0 for none.
    - `full`: compute also what is left out of large layers.
    - `on_progress`: called before each layer with how many are done.

    **Raises:** `UsageError` where a file turns out to be damaged.
    """
    measured = []
    left_out = list(found.left_out)
    for done, layer in enumerate(found.layers):
        on_progress(done, layer)
        coupling = layer.load()
        if not (fault := _fault(coupling)):
            measured.append(_measure(layer, coupling, pairings, full))
        else:
            left_out.append(Skipped(" ".join((layer.arm, layer.place, layer.part)).strip(), fault))
    return Report(found.source, measured, left_out, found.others)


def _fault(coupling: Coupling) -> str:
    """Why weights can't be measured; empty where they can."""
    sizes = [float(jnp.max(jnp.abs(weights))) for weights in (coupling.up, coupling.down)]
    if not all(map(math.isfinite, sizes)):
        return "it has weights that are not finite"
    if 0 in sizes:
        return "it has a matrix of zeros"
    return ""


def _measure(layer: Layer, coupling: Coupling, pairings: int, full: bool) -> Measured:
    # TF32, which GPUs take for products by default, has three digits.
    with jax.default_matmul_precision("highest"):
        values = _floats(_values(coupling))
        shown = values if layer.kind == "pair" else PRODUCT
        indices = {name: Index(values[name]) for name in shown}
        tested, left_out = _significance(layer, coupling, pairings, full)
        indices |= {name: Index(values[name], *numbers) for name, numbers in tested.items()}
        spectral = full or min(layer.visible, layer.hidden) <= LARGEST_SPECTRUM
        spectrum = _floats(_spectrum(coupling)) if spectral else {}
    return Measured(layer, indices, spectrum, (*left_out, *(() if spectral else (NO_SPECTRUM,))))


@_compiled
def _values(coupling: Coupling) -> dict[str, Scalar]:
    return measure_weights(coupling)


@_compiled
def _spectrum(coupling: Coupling) -> dict[str, Scalar]:
    return measure_product(coupling)


def _floats(values: dict[str, Scalar]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


# ---- Significance --------------------------------------------------------------------------------


def _significance(
    layer: Layer, coupling: Coupling, pairings: int, full: bool
) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """Mean, standard deviation, z and p of indices by name, and what was left out."""
    tested = {}
    left_out = []
    key = jr.key(SEED)
    if not pairings or layer.hidden < 2:
        return tested, left_out
    if layer.kind == "pair":
        if layer.hidden > LARGEST_SAMPLE:
            left_out.append(SAMPLED)
        tested |= _rows(_units_against_pairings(_sample(coupling, key), key, pairings))
    if full or product_work(layer, pairings) <= LARGEST_WORK:
        tested |= _rows(_PRODUCT_NULLS[layer.kind](coupling, key, pairings))
    else:
        left_out.append(NO_PRODUCT)
    return tested, left_out


def product_work(layer: Layer, pairings: int) -> float:
    """Floating-point operations that the products VW of so many pairings take."""
    return 2.0 * pairings * layer.visible * layer.hidden * min(layer.visible, layer.hidden)


def _rows(compared: Significance) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(part[name]) for part in compared[1:]) for name in compared.mean}


def _sample(coupling: Coupling, key: PRNGKey) -> Coupling:
    hidden = coupling.up.shape[0]
    if hidden <= LARGEST_SAMPLE:
        return coupling
    units = jr.choice(key, hidden, (LARGEST_SAMPLE,), replace=False)
    return Coupling.from_weights(coupling.up[units], coupling.down[:, units])


@jax.custom_batching.sequential_vmap
def _of_product(coupling: Coupling) -> dict[str, Scalar]:
    """The indices of `PRODUCT`, one layer after another: each takes the memory of one."""
    values = measure_asymmetry(coupling)._asdict()
    return {name: values[name] for name in PRODUCT}


@_compiled_for_pairings
def _product_against_directions(coupling: Coupling, key: PRNGKey, pairings: int) -> Significance:
    """The indices of `PRODUCT` against pairings of directions: every gauge of hidden units keeps z
    and p.
    """
    draw = lambda key: _of_product(pair_directions(coupling, key))
    return compare(_of_product(coupling), draw, coupling.up.shape, key=key, draws=pairings)


@_compiled_for_pairings
def _product_against_rotations(coupling: Coupling, key: PRNGKey, pairings: int) -> Significance:
    """The same against rotations of the singular basis: every basis of a head keeps z and p."""
    return compare_rotations(coupling, _of_product, key=key, draws=pairings)


@_compiled_for_pairings
def _product_against_orders(coupling: Coupling, key: PRNGKey, pairings: int) -> Significance:
    """The same of a square matrix, against its rows in random order."""
    draw = lambda key: _of_product(pair(coupling, key))
    return compare(_of_product(coupling), draw, coupling.up.shape, key=key, draws=pairings)


_PRODUCT_NULLS: dict[Kind, Callable[[Coupling, PRNGKey, int], Significance]] = {
    "pair": _product_against_directions,
    "query-key": _product_against_rotations,
    "square": _product_against_orders,
}


# ---- Over seeds, and as JSON ---------------------------------------------------------------------


class Spread(NamedTuple):
    """An index of one block and branch over the seeds of an arm.

    - `mean`, `std`: of its values (0 for one seed); `null`: mean of the means of the null
      distributions.
    - `z`: their sum over the root of their number (Stouffer); `p`: the largest.
    """

    mean: float
    std: float
    null: float
    z: float
    p: float


class OverSeeds(NamedTuple):
    """One arm, block and branch: how many seeds, and its indices over them."""

    layer: Layer
    seeds: int
    indices: dict[str, Spread]


def over_seeds(measured: Sequence[Measured]) -> list[OverSeeds]:
    """The members of a run by arm, block and branch, in the order met."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.layer.arm, one.layer.place, one.layer.part), []).append(one)
    return [
        OverSeeds(
            group[0].layer,
            len(group),
            {name: _spread([m.indices[name] for m in group]) for name in group[0].indices},
        )
        for group in groups.values()
    ]


def _spread(indices: list[Index]) -> Spread:
    value, mean, _, z, p = np.array(indices).T
    return Spread(
        *map(
            float,
            (
                value.mean(),
                value.std(ddof=1) if len(value) > 1 else 0,
                mean.mean(),
                z.sum() / math.sqrt(len(z)),
                p.max(),
            ),
        )
    )


def report_record(report: Report, path: str, pairings: int) -> dict[str, Any]:
    """The numbers of `hopmix measure` as JSON values; what was not computed is null."""
    record = {
        "path": path,
        "source": report.source,
        "hopmix": hopmix.__version__,
        "precision": "float32",
        "pairings": pairings,
        "seed": SEED,
        "layers": [_layer_record(one) for one in report.measured],
        "not_measured": [one._asdict() for one in report.left_out],
        "in_no_layer": [*report.others],
    }
    if any(one.layer.arm for one in report.measured):
        record["over_seeds"] = [_spread_record(one) for one in over_seeds(report.measured)]
    return record


def _layer_record(one: Measured) -> dict[str, Any]:
    layer = one.layer
    member = {"arm": layer.arm, "seed": layer.seed} if layer.arm else {}
    about = {name: getattr(layer, name) for name in ("place", "part", "kind", "visible", "hidden")}
    numbers = {name: _numbers(index._asdict()) for name, index in one.indices.items()}
    rest = {"spectrum": _numbers(one.spectrum), "left_out": [*one.left_out]}
    return member | about | {"names": [*layer.names], "indices": numbers} | rest


def _spread_record(one: OverSeeds) -> dict[str, Any]:
    about = {
        "arm": one.layer.arm,
        "place": one.layer.place,
        "part": one.layer.part,
        "seeds": one.seeds,
    }
    return about | {
        "indices": {name: _numbers(spread._asdict()) for name, spread in one.indices.items()}
    }


def _numbers(values: dict[str, float]) -> dict[str, float | None]:
    # JSON has neither NaN nor infinity.
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
