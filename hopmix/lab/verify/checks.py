"""Verify: claims of the theory measured again, and the blocks of a trained run against their
certificates.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hopmix._block import Block, SerialBlock
from hopmix._certificate.certificate import Certificate, certify
from hopmix._certificate.check import Check
from hopmix._numerics.rounding import is_rounding, rounding_unit
from hopmix._pseudo_energy import power
from hopmix._types import Image, Layer
from hopmix.claims import catalogue, table
from hopmix.claims._claim import Claim, Measurement
from hopmix.lab import store
from hopmix.lab.data.augment import normalise
from hopmix.lab.errors import UsageError
from hopmix.lab.study.continued import (
    located,
    own_of,
    require_same_arms,
    require_same_data,
    require_same_files,
)
from hopmix.lab.study.prepared import Study, prepare
from hopmix.lab.study.trained import locate, members_of, read_checkpoint, require_checkpoint
from hopmix.lab.train.step import TrainState
from hopmix.models._interface import AbstractBlockModel

# ---- The claims ----------------------------------------------------------------------------------


class Measured(NamedTuple):
    """A claim, what came out of measuring it now, and how long that took."""

    claim: Claim
    measurement: Measurement
    seconds: float


def select_claims(ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these ids, all without any; raises `UsageError` for an id that does not
    exist.
    """
    known = {claim.id: claim for claim in catalogue.CLAIMS}
    unknown = [name for name in ids if name.upper() not in known]
    if unknown:
        raise UsageError(
            f"claim: got {', '.join(map(repr, unknown))}; the claims are {', '.join(known)}."
        )
    wanted = {name.upper() for name in ids} or set(known)
    return tuple(claim for name, claim in known.items() if name in wanted)


def measure_claims(
    claims: Sequence[Claim],
    *,
    examples: int,
    seed: int,
    on_progress: Callable[[Claim], None] = lambda claim: None,
) -> list[Measured]:
    """Measure claims in float64, whatever JAX is set to; `on_progress` is called before each, from
    another thread.
    """

    def measured(claim: Claim) -> Measured:
        on_progress(claim)
        begin = time.perf_counter()
        with jax.enable_x64(True):
            measurement = catalogue.remeasure(claim, examples=examples, seed=seed)
        return Measured(claim, measurement, time.perf_counter() - begin)

    # Nearly all of the time is spent tracing and compiling, and compiling runs outside Python's
    # lock.
    pool = ThreadPoolExecutor(2)
    try:
        return list(pool.map(measured, claims))
    finally:
        pool.shutdown(cancel_futures=True)


def claims_record(measured: Sequence[Measured], seed: int) -> dict[str, Any]:
    """The numbers of `hopmix verify` as JSON values."""
    fields = ("id", "statement", "source", "status", "what")
    rows = [
        {name: getattr(m.claim, name) for name in fields}
        | {
            "error": _number(m.measurement.error),
            "bound": m.measurement.bound,
            "examples": m.measurement.examples,
        }
        | {"seconds": m.seconds, "passed": m.measurement.passed}
        for m in measured
    ]
    return {
        "seed": seed,
        "precision": "float64",
        "passed": all(r["passed"] for r in rows),
        "claims": rows,
    }


def require_markers(page: Path):
    """Raise `UsageError` unless the claims can be written into this page."""
    with _page_errors(page):
        table.replaced(page.read_text(encoding="utf-8"), "")


def write_table(page: Path, measured: Sequence[Measured]):
    """Put the table of these claims in the place of the one on a page."""
    with _page_errors(page):
        rows = table.markdown((m.claim, m.measurement) for m in measured)
        text = table.replaced(page.read_text(encoding="utf-8"), rows)
    with store.replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _page_errors(page: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(f"write: {page}: {error}") from None


# ---- The blocks of a trained run -----------------------------------------------------------------

Verdict = Literal["holds", "not certified", "not conservative", "contradicted"]
SEVERITY: tuple[Verdict, ...] = ("holds", "not certified", "not conservative", "contradicted")
STEPS = 16
"""How often each block is applied to each state, to see whether its energy ever rises."""

EPS = float(np.finfo(np.float64).eps)
ASYMMETRY = 1e4 * EPS
WORK = 1e-9
"""What rounding grants: the asymmetry of a gradient, work relative to dissipation."""


@dataclasses.dataclass(frozen=True)
class BlockCheck:
    """One block of one member, checked in float64 from the states that reach it.

    - `arm`, `seed`, `block`: whose it is.
    - `claim`: the strongest claim whose assumptions hold, or `None`; `reason` then says which one
      does not.
    - `step`, `step_bound`: the step it takes, and the largest for which descent is proved from all
      of these states.
    - `flow_rises`, `step_rises`: shares of the states from which its energy rises along the flow,
        and in one step; for weights that are not tied that is the energy of the symmetrised
        interaction.
    - `worst_rise`: the largest rise in `STEPS` applications of the block, relative to the largest
      energy.
    - `asymmetry`: the metric-aware asymmetry of the field, 0 for a gradient.
    - `verdict`: whether the certificate and the numbers agree.
    """

    arm: str
    seed: int
    block: int
    claim: str | None
    reason: str
    step: float
    step_bound: float
    flow_rises: float
    step_rises: float
    worst_rise: float
    asymmetry: float
    verdict: Verdict


class FirstStep(NamedTuple):
    """How the energy of each state changes: in one step, and its rate along the flow."""

    rises: Bool[Array, " states"]
    climbs: Bool[Array, " states"]
    work: Float[Array, " states"]


class RunCheck(NamedTuple):
    """All blocks of a run: after how many training steps, on how many images, and which members had
    diverged.
    """

    step: int
    images: int
    diverged: tuple[str, ...]
    blocks: list[BlockCheck]

    @property
    def passed(self) -> bool:
        """Whether no numbers contradict a certificate."""
        return all(block.verdict != "contradicted" for block in self.blocks)


class Trained(NamedTuple):
    """A study with its members as a checkpoint holds them, and a sentence for each checkpoint
    passed over.
    """

    study: Study
    step: int
    states: list[TrainState]
    passed: list[str]


def load_run(path: Path, data: str | None = None, arms: Sequence[str] = ()) -> Trained:
    """The members of a run at its newest readable checkpoint, or at the checkpoint that the path
    names.

    Nothing in the folder is changed.

    **Arguments:**

    - `data`: where its data are now, if not where they were.
    - `arms`: where the user's own arms of it are now; what a run names is never imported.

    **Raises:** `UsageError` where there is no such thing, before any long work.
    """
    out, step = locate(path)
    record = store.read_record(out)
    record.require_study(out)
    require_checkpoint(out, step)
    study = prepare(located(record, data), own_of(record, "arms", arms))
    require_same_data(study, record, out)
    require_same_files(study.own, record, out)
    require_same_arms(study.arms, record, out)
    return Trained(study, *read_checkpoint(study.populations, out, record, step))


def check_run(
    trained: Trained, *, examples: int, on_progress: Callable[[str], None] = lambda member: None
) -> RunCheck:
    """Check each block of each member, from the states of so many validation images; `on_progress`
    is told of each member.
    """
    images = _validation_images(trained.study, examples)
    diverged = []
    blocks = []
    for member, arm, seed, model in members_of(trained.study.populations, trained.states):
        name = f"{arm.name}, seed {seed}"
        on_progress(name)
        if member.diverged >= 0:
            diverged.append(name)
        elif isinstance(model, AbstractBlockModel):
            blocks += _check_model(model, images, arm.name, seed)
    return RunCheck(trained.step, len(images), tuple(diverged), blocks)


def _validation_images(study: Study, examples: int) -> np.ndarray:
    # Evenly spaced: image folders are in the order of their classes.
    pixels = study.data.validation.images
    rows = np.linspace(0, len(pixels) - 1, min(examples, len(pixels))).astype(int)
    return np.asarray(normalise(jnp.asarray(pixels[rows]), study.data.mean, study.data.std))


def _check_model(
    model: AbstractBlockModel, images: np.ndarray, arm: str, seed: int
) -> Iterator[BlockCheck]:
    with jax.enable_x64(True):
        model, pixels = jax.tree.map(_in_float64, (model, images))
        for i, (block, states) in enumerate(
            zip(model.blocks, states_of(model, pixels), strict=True)
        ):
            yield check_block(block, states, arm, seed, i)


def _in_float64(leaf: Any) -> Any:
    if eqx.is_inexact_array_like(leaf):
        return jnp.asarray(leaf, jnp.float64)
    return leaf


@eqx.filter_jit
def states_of(
    model: AbstractBlockModel, images: Float[Array, "n height width colours"]
) -> list[Float[Array, "n ..."]]:
    """The states that reach each block of a model."""

    def of_one(image: Image) -> list[Layer]:
        states = [model.embed(image)]
        for block in model.blocks:
            states.append(block(states[-1]))
        return states[:-1]

    # One at a time: fast enough, and large models need no more memory than that.
    return jax.lax.map(of_one, images)


def check_block(
    block: Block | SerialBlock,
    states: Float[Array, "n ..."],
    arm: str = "",
    seed: int = 0,
    index: int = 0,
) -> BlockCheck:
    """The certificate of a block as it is, against numbers from the states that reach it."""
    certificate = certify(block)
    check = certificate.check_from(states, steps=STEPS)
    form = certificate.form or block
    first = _first_step(form, states) if isinstance(form, Block) else None
    bounds = _step_bounds(certificate, states)
    share = lambda name: math.nan if first is None else float(jnp.mean(getattr(first, name)))
    return BlockCheck(
        arm,
        seed,
        index,
        certificate.claim,
        _reason(certificate),
        block.step if isinstance(block, Block) else math.nan,
        float(np.min(bounds)),
        share("climbs"),
        share("rises"),
        check.worst_rise,
        check.asymmetry,
        _verdict(certificate, check, first, bounds),
    )


@eqx.filter_jit
def _first_step(block: Block, states: Float[Array, "n ..."]) -> FirstStep:
    single = dataclasses.replace(block, n_iter=1)  # the proofs are about one explicit step

    def of_one(x: Layer) -> FirstStep:
        following = single(x)
        before = block.energy(x)
        after = block.energy(following)
        rate = power(block, x)
        # Where nothing moves, as at a constant state, there is neither work nor dissipation.
        still = rate.work == 0
        return FirstStep(
            ~is_rounding(block, after - before, (x, before), (following, after)),
            rate.rate > 0,
            jnp.where(still, 0, jnp.abs(rate.work) / jnp.where(still, 1, rate.dissipation)),
        )

    return jax.lax.map(of_one, states)


def _step_bounds(certificate: Certificate, states: Float[Array, "n ..."]) -> np.ndarray:
    """The largest step for which descent is proved, from each state."""
    if math.isnan(certificate.step_bound):
        return np.full(len(states), math.nan)
    return np.array([certificate.step_bound_at(x) for x in states])


def _reason(certificate: Certificate) -> str:
    """The first assumption of descent along the flow that is not known to hold, as the certificate
    prints it.
    """
    return next(
        (
            f"[{a.verdict}] {a.statement}: {a.reason}"
            for a in certificate.flow
            if a.verdict != "holds"
        ),
        "",
    )


def _verdict(
    certificate: Certificate, check: Check, first: FirstStep | None, bounds: np.ndarray
) -> Verdict:
    conservative = check.asymmetry <= ASYMMETRY
    if certificate.claim is None or first is None:
        if conservative:
            return "not certified"
        return "not conservative"
    step = certificate.system.step  # pyright: ignore[reportAttributeAccessIssue]
    agrees = (
        conservative,
        bool(jnp.all(first.work <= WORK)),
        not np.any(np.asarray(first.rises) & (step <= bounds)),
        check.worst_rise <= rounding_unit(np.float64) or not certificate.descends_in_steps,
    )
    if all(agrees):
        return "holds"
    return "contradicted"


def over_seeds(checks: Sequence[BlockCheck]) -> list[BlockCheck]:
    """The worst over the seeds, for each arm and block, in the order met."""
    groups: dict[tuple[str, int], list[BlockCheck]] = {}
    for check in checks:
        groups.setdefault((check.arm, check.block), []).append(check)
    return [_worst(group) for group in groups.values()]


def _worst(group: Sequence[BlockCheck]) -> BlockCheck:
    worst = max(group, key=lambda check: (SEVERITY.index(check.verdict), check.asymmetry))
    highest = partial(_extreme, group, max)
    return dataclasses.replace(
        worst,
        step_bound=_extreme(group, min, "step_bound"),
        flow_rises=highest("flow_rises"),
        step_rises=highest("step_rises"),
        worst_rise=highest("worst_rise"),
        asymmetry=highest("asymmetry"),
    )


def _extreme(group: Sequence[BlockCheck], choose: Callable, name: str) -> float:
    values = [getattr(check, name) for check in group]
    if any(map(math.isnan, values)):
        return math.nan
    return choose(values)


def run_record(checked: RunCheck) -> dict[str, Any]:
    """The numbers of `hopmix verify RUN` as JSON values; a bound that is infinite or not known is
    null.
    """
    rows = [
        {name: _number(value) for name, value in dataclasses.asdict(block).items()}
        for block in checked.blocks
    ]
    about = {
        "step": checked.step,
        "images": checked.images,
        "precision": "float64",
        "diverged": [*checked.diverged],
    }
    return about | {"passed": checked.passed, "blocks": rows}


def _number(value: Any) -> Any:
    # JSON has neither NaN nor infinity.
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None
