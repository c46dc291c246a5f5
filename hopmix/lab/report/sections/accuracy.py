"""Accuracy: one row per arm, with paired tests against the reference."""

from collections.abc import Sequence
from html import escape

import numpy as np

from hopmix.lab.families.mixers import REFERENCE
from hopmix.lab.report import html, words
from hopmix.lab.report.data import ArmResult, arm_results
from hopmix.lab.report.section import Section, StaticFigures
from hopmix.lab.statistics import Summary
from hopmix.lab.store.run import Run
from hopmix.plot.style import arm_styles


def body(run: Run, static_figures: StaticFigures) -> str:
    """The table and how to read it."""
    return accuracy_table(run, arm_results(run))


def accuracy_table(run: Run, results: Sequence[ArmResult]) -> str:
    """One row per arm: parameters, n, accuracies, paired difference to the reference with its
    p-values.
    """
    adjusted = words.adjusted_p(results)
    styles = arm_styles(run.metrics)
    rows = [_row(arm, adjusted[arm.name], styles[arm.name].colour) for arm in results]
    split = "test" if run.results else "validation"
    names = ("Arm", "In the paper", "λ", "Parameters", "n", "Test accuracy, %")
    names += ("Validation accuracy, %", f"Difference to {REFERENCE}, points", "p", "p, Holm")
    table = html.table("Accuracy of each arm", html.heads(names, words=2), rows)
    return table + _table_note(run, results, split)


def _row(arm: ArmResult, adjusted: float, colour: str) -> str:
    lost = "; ".join(
        f"seed {seed} diverged at step {step:,}" for seed, step in arm.diverged.items()
    )
    name = html.swatch(colour) + escape(arm.name)
    if lost:
        name += f'<span class="sub">{lost}</span>'
    n = (arm.test or arm.validation).n
    numbers = [
        "–" if arm.strength is None else f"{arm.strength:g}",
        f"{arm.parameters:,}",
        str(n),
        _accuracy(arm.test),
        _accuracy(arm.validation),
        *_comparison(arm, adjusted),
    ]
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    head = f'<th scope="row" class="words">{name}</th><td class="words">{escape(arm.title)}</td>'
    return f"<tr>{head}{cells}</tr>"


def _accuracy(score: Summary | None) -> str:
    if score is None or np.isnan(score.mean):
        return "–"
    return _plus_minus(f"{100 * score.mean:.2f}", score.stderr)


def _comparison(arm: ArmResult, adjusted: float) -> tuple[str, str, str]:
    if arm.name == REFERENCE:
        return "reference", "", ""
    if arm.paired is None or np.isnan(arm.paired.difference):
        return "–", "–", "–"
    difference = _plus_minus(words.signed(100 * arm.paired.difference), arm.paired.stderr)
    return difference, escape(words.p_text(arm.paired.p)), escape(words.p_text(adjusted))


def _plus_minus(number: str, stderr: float) -> str:
    if np.isnan(stderr):
        return number
    return f"{number} ± {100 * stderr:.2f}"


def _table_note(run: Run, results: Sequence[ArmResult], split: str) -> str:
    if run.metrics.seed.size > 1:
        errors = "Mean ± standard error over n seeds. "
    else:
        errors = "One seed: no spread and no test. "
    if REFERENCE not in run.arms:
        paired = f"Without a {REFERENCE} arm there is nothing to pair with. "
    elif len(results) > 1 and run.metrics.seed.size > 1:
        paired = (
            f"Difference to {REFERENCE} in {split} accuracy, by the two-sided paired t-test over "
            f"shared seeds; the "
            "last column adjusts p for the number of arms compared (Holm). A pair with a "
            "diverged member is dropped. "
        )
    else:
        paired = ""
    note = f'<p class="note">{errors}{paired}</p>'
    if run.results is None:
        note += html.missing(
            "<code>results.json</code> is not there yet: the test split is read once, when the "
            "run has ended."
        )
    return note


SECTION = Section("accuracy", "Accuracy", body, of_studies=True)
