"""By depth: static maps of the leading indices, block against training step."""

from functools import partial

from hopmix.lab.report.section import NamedFigures, Section, StaticFigures
from hopmix.lab.report.sections.choices import choice, known, measured
from hopmix.lab.store.run import Run
from hopmix.plot.training import asymmetry_map

# Every index can be chosen in the charts of the report; drawing each would take longer than a
# study.
MAPS = (
    "relative_breaking",
    "symmetry_score",
    "breaking_ratio",
    "complex_fraction",
    "field_asymmetry",
)

_WORDS = (
    "<p>Each row of a map is a block, each column a measurement, the colour the mean over "
    "seeds; all arms share one scale. Grey is what has diverged. All indices can be chosen in "
    'the <a href="report.html#map">interactive maps of the report</a>.</p>'
)


def figures(run: Run) -> NamedFigures:
    """A map per index."""
    for name in measured(run, MAPS):
        log = known(name).logarithmic
        drawn = partial(asymmetry_map, run.metrics[name], logarithmic=log)
        yield f"asymmetry_map_{name}", drawn


def body(run: Run, static_figures: StaticFigures) -> str:
    """The chosen map."""
    words = "block against training step, per arm"
    return _WORDS + choice("map", "asymmetry_map", measured(run, MAPS), static_figures, words)


SECTION = Section("by-depth", "By depth", body, figures)
