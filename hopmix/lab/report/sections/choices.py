"""Figures of which the reader sees the chosen one, as sections of indices have them."""

from collections.abc import Sequence

from hopmix.lab.report import html
from hopmix.lab.report.data import has_values
from hopmix.lab.report.section import StaticFigures
from hopmix.lab.store.run import Run
from hopmix.symmetry.quantities import Quantity, quantity


def known(name: str) -> Quantity:
    """The record of an index that is surely one."""
    found = quantity(name)
    assert found is not None
    return found


def measured(run: Run, names: Sequence[str]) -> list[str]:
    """Those of the names for which the run has a finite number."""
    return [name for name in names if has_values(run.metrics, name)]


def choice(
    group: str, prefix: str, names: Sequence[str], static_figures: StaticFigures, words: str
) -> str:
    """A figure per index, and a control that chooses one of them."""
    if not names:
        return html.missing("No index of asymmetry has a finite value in this run.")
    shown = [
        html.picture(
            static_figures[f"{prefix}_{name}"],
            f"{known(name).label}: {words}",
            group=group,
            key=name,
        )
        for name in names
    ]
    labels = {name: known(name).label for name in names}
    return html.controls(html.select(group, "Index", labels)) + "".join(shown)
