"""Summary: one paragraph in plain words, written from the numbers of the run."""

from collections.abc import Sequence
from html import escape

import numpy as np

from hopmix.lab.families.mixers import REFERENCE
from hopmix.lab.report import words
from hopmix.lab.report.data import ArmResult, arm_results
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.statistics import Summary
from hopmix.lab.store.run import Run

LEVEL = 0.05
_SOME = 0.0005  # a share that the summary still writes as a number


def body(run: Run, static_figures: StaticFigures) -> str:
    """The paragraph."""
    return f'<p class="lead">{summary(run, arm_results(run))}</p>'


def summary(run: Run, results: Sequence[ArmResult]) -> str:
    """One paragraph of HTML in plain words, every statement taken from the numbers of the run."""
    if run.recorded:
        return _recorded(run)
    sentences = [
        _setting(run),
        _progress(run),
        _extremes(results),
        _differences(results),
        _departure(run, results),
        _descent(run),
        _losses(results),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _recorded(run: Run) -> str:
    breaking = run.metrics.relative_breaking.mean(("arm", "seed", "block", "branch"))
    begun = f"{float(breaking.isel(step=0)):.2g}"
    ended = f"{float(breaking.isel(step=-1)):.2g}"
    return (
        f"{escape(run.arms[0])} was recorded {run.metrics.step.size} times, from step "
        f"{int(run.metrics.step.values[0]):,} to step {run.last_step:,}: the relative breaking (0 "
        f"when tied, about 1 for unrelated weights) went from {begun} to {ended}, the mean over "
        f"its couplings."
    )


def _setting(run: Run) -> str:
    data = run.study.get("data", {})
    arms = len(run.arms)
    seeds = run.metrics.seed.size
    size = " × ".join(str(length) for length in data.get("image", [])[:2])
    counts = f"{int(data.get('classes', 0))} classes, {int(data.get('train', 0)):,} training images"
    images = f" ({size} pixels, {counts})" if size else ""
    trained = f"{arms} arm{'s' * (arms > 1)}, {_seeds(seeds)}{' each' * (arms > 1)}"
    return (
        f"On {escape(words.data_name(run))}{images} this study trained {trained}, for "
        f"{run.last_step:,} steps."
    )


def _progress(run: Run) -> str:
    if run.finished:
        return ""
    planned = int(run.study.get("steps_total", 0))
    if run.last_step < planned:
        return (
            f"The run is in progress, {run.last_step:,} of {planned:,} steps: all accuracies "
            f"here are on validation."
        )
    return "The test split has not been read yet: all accuracies here are on validation."


def _extremes(results: Sequence[ArmResult]) -> str:
    split, scored = _scored(results)
    if not scored:
        return f"No arm has a finite {split} accuracy."
    best = max(scored, key=lambda arm: _score(arm).mean)
    worst = min(scored, key=lambda arm: _score(arm).mean)
    if best is worst:
        return (
            f"{escape(best.name)} reached a mean {split} accuracy of {_with_error(_score(best))}."
        )
    if _score(best).mean == _score(worst).mean:
        return f"All arms have the same mean {split} accuracy, {_with_error(_score(best))}."
    return (
        f"The highest mean {split} accuracy is that of {escape(best.name)}, "
        f"{_with_error(_score(best))}; "
        f"the lowest that of {escape(worst.name)}, {_with_error(_score(worst))}."
    )


def _differences(results: Sequence[ArmResult]) -> str:
    if REFERENCE not in [arm.name for arm in results]:
        return f"There is no {REFERENCE} arm, so no paired test was made."
    if len(results) == 1:
        return ""
    adjusted = words.adjusted_p(results)
    tested = [arm for arm in results if np.isfinite(adjusted[arm.name])]
    if not tested:
        return "The seeds are too few, or too alike, for a test of the differences."
    clear = [_with_difference(arm) for arm in tested if adjusted[arm.name] < LEVEL]
    rest = [_with_difference(arm) for arm in tested if adjusted[arm.name] >= LEVEL]
    parts = [f"the difference is significant for {words.enumerate_words(clear)}"] * bool(clear)
    parts += [f"no significant difference was found for {words.enumerate_words(rest)}"] * bool(rest)
    caution = " Not finding a difference does not show that there is none." * bool(rest)
    return (
        f"Paired by seed with {REFERENCE}, {', and '.join(parts)} "
        f"(t-test, Holm-adjusted p&nbsp;&lt;&nbsp;{LEVEL}).{caution}"
    )


def _with_difference(arm: ArmResult) -> str:
    assert arm.paired is not None
    return f"{escape(arm.name)} ({words.signed(100 * arm.paired.difference)} points)"


def _departure(run: Run, results: Sequence[ArmResult]) -> str:
    breaking = run.metrics.relative_breaking.mean(("seed", "block", "branch"))
    final = breaking.isel(step=-1)
    begun = breaking.isel(step=0)
    tied = [
        arm.name
        for arm in results
        if arm.strength is not None and float(begun.sel(arm=arm.name)) == 0
    ]
    ends = {arm.name: float(final.sel(arm=arm.name)) for arm in results}
    broken = sorted(
        (arm for arm in results if arm.name in tied), key=lambda arm: arm.strength or 0.0
    )
    broken = [arm for arm in broken if np.isfinite(ends[arm.name])]
    if not broken:
        return ""
    parts = [f"{ends[arm.name]:.2g} at λ&nbsp;=&nbsp;{arm.strength:g}" for arm in broken]
    if np.isfinite(ends.get(REFERENCE, np.nan)):
        free = f", against {ends[REFERENCE]:.2g} in {REFERENCE}"
    else:
        free = ""
    verb = "ended" if run.finished else "stands"
    return (
        "In the broken arms, which start tied, <i>V</i> moved away from <i>W</i>ᵀ: the relative "
        "breaking (0 when tied, "
        f"about 1 for unrelated weights) {verb} at {words.enumerate_words(parts)}{free}; "
        "these are averages over blocks, branches and seeds."
    )


def _descent(run: Run) -> str:
    rises = run.metrics.energy_rise_fraction.isel(step=-1).mean(("seed", "block"))
    measured = [(float(rises.sel(arm=name)), name) for name in run.arms]
    measured = [(value, name) for value, name in measured if np.isfinite(value)]
    if not measured:
        return ""
    parts = [
        f"{100 * value:.1f}&nbsp;% in {escape(name)}" for value, name in measured if value >= _SOME
    ]
    none = [escape(name) for value, name in measured if value < _SOME]
    parts += [
        f"fewer than {100 * _SOME:g}&nbsp;% in "
        f"{words.enumerate_words(none) if parts else 'every arm'}"
    ] * bool(none)
    shares = "; ".join(parts)
    return (
        f"Of a fixed batch of validation examples, a block raised the energy of {shares} "
        f"(last step, block mean)."
    )


def _losses(results: Sequence[ArmResult]) -> str:
    lost = [
        f"{escape(arm.name)}, seed {seed}, step {step:,}"
        for arm in results
        for seed, step in arm.diverged.items()
    ]
    if not lost:
        return ""
    return (
        f"{len(lost)} member{'s' * (len(lost) > 1)} diverged and left the averages from there "
        f"on: {'; '.join(lost)}."
    )


def _scored(results: Sequence[ArmResult]) -> tuple[str, list[ArmResult]]:
    split = "test" if any(arm.test for arm in results) else "validation"
    return split, [arm for arm in results if np.isfinite(_score(arm).mean)]


def _score(arm: ArmResult) -> Summary:
    return arm.test or arm.validation


def _with_error(score: Summary) -> str:
    if np.isfinite(score.stderr):
        error = f" (standard error {100 * score.stderr:.2f})"
    else:
        error = ""
    return words.percent(score.mean) + error


def _seeds(count: int) -> str:
    if count == 1:
        return "one seed"
    return f"{count} seeds"


SECTION = Section("summary", "Summary", body)
