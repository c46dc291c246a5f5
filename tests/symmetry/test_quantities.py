"""One record for each index: the table is whole, and a row is the only place of an index."""

import subprocess
import sys
from pathlib import Path

import pytest

import hopmix
from hopmix import Asymmetry
from hopmix.symmetry import Sizes, Spectrum
from hopmix.symmetry.quantities import (
    ASYMMETRY,
    DIVERGED,
    MEASURED,
    SPECTRUM,
    Quantity,
    plain,
    quantity,
)

ROOT = Path(__file__).resolve().parents[2]


def test_names_and_labels_are_unique():
    assert len({one.name for one in (*MEASURED, DIVERGED)}) == len(MEASURED) + 1
    assert len({one.label for one in (*MEASURED, DIVERGED)}) == len(MEASURED) + 1


def test_what_the_core_computes_has_a_row_each():
    assert {one.name for one in ASYMMETRY if one.measure is None} == set(Asymmetry._fields)
    assert {one.name for one in SPECTRUM if one.measure is None} == set(Spectrum._fields)


def test_a_quantity_is_found_by_its_name():
    found = quantity("symmetry_score")
    assert found is not None
    assert found.label == "symmetry score of VW"
    assert quantity("beauty") is None


def test_expensive_ones_are_those_of_spectra_and_fields():
    assert not any(one.expensive for one in ASYMMETRY)
    assert all(one.expensive for one in SPECTRUM)


def test_null_values_are_numbers_for_numbers():
    score = quantity("symmetry_score")
    assert score is not None
    assert score.null is not None
    mean, std = score.null(Sizes(4, 9))
    assert mean == pytest.approx(1 / 4)
    assert std == pytest.approx(2**0.5 / 4)


def test_markup_as_text():
    assert plain("‖<i>w</i><sub>α</sub>‖ &lt; 1") == "‖w_α‖ < 1"


def test_attributes_are_text_without_what_is_empty():
    told = Quantity("speed", "speed", "<i>x</i>", "", "Fast.", unit="m/s").attributes
    assert told == {"long_name": "speed", "units": "m/s", "formula": "x", "comment": "Fast."}


NEW = """
    Quantity(
        name="opposed_share",
        label="share of opposed units",
        formula="share of ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ &lt; 0",
        range="0 to 1",
        reading="0 where tied.",
        dims=COUPLING,
        null=lambda of: (0.5, 0.5 / of.hidden**0.5),
        measure=lambda coupling: (coupling.down.T * coupling.up).sum(axis=1).__lt__(0).mean(),
    ),
"""

CHECKS = """
import sys, tempfile, types
from pathlib import Path

import hopmix.symmetry  # the package stands; its table is the one with the new row
table = types.ModuleType("hopmix.symmetry.quantities")
table.__file__ = hopmix.symmetry.quantities.__file__
sys.modules[table.__name__] = hopmix.symmetry.quantities = table
exec(compile(SOURCE, table.__file__, "exec"), table.__dict__)

import jax.random as jr
import numpy as np
import xarray as xr
from hopmix import Coupling, Mixer, MixerConfig
from hopmix.lab.checkpoints import measure
from lab import probing
from hopmix.lab.probes.couplings import Weights

# the probe measures it
options = {"image": (8, 8, 1), "patch": 4, "dim": 6, "depth": 1, "classes": 3}
model = Mixer(MixerConfig(**options), key=jr.key(0))
found = probing.of_couplings(model)["opposed_share"]
for column, branch in enumerate(probing.BRANCHES):
    coupling = probing.branch_coupling(model.blocks[0], branch)
    overlaps = np.sum(np.asarray(coupling.down).T * np.asarray(coupling.up), axis=1)
    np.testing.assert_allclose(found[0, column], np.mean(overlaps < 0), rtol=1e-6)
assert "opposed_share" in measure._values(coupling)

# the store has a place for it, and says what it is
dims = {one.name: one.dims for one in Weights.quantities}
assert dims["opposed_share"] == ("block", "branch")
from hopmix.lab.store.described import describe
told = describe(xr.Dataset({"opposed_share": 0.0})).opposed_share.attrs
assert told["long_name"] == "share of opposed units"

# figures know its label and its null value
from hopmix import plot
sizes = xr.Dataset({"visible": 4, "hidden": 25})
null = plot.null("opposed_share", sizes)
np.testing.assert_allclose([null["mean"], null["std"]], [0.5, 0.1])

# both pages show it: choices, definitions, and a table with its null value
from lab.synthetic import FREE, small_run
from hopmix.lab.report import page
page.save_figure = lambda figure, folder, name: "data:,"
with tempfile.TemporaryDirectory() as folder:
    run = small_run(Path(folder), FREE)
    stored = xr.open_zarr(run / "metrics.zarr", consolidated=False).load()
    share = (0.25 + 0 * stored.cosine).to_dataset(name="opposed_share")
    share.to_zarr(run / "metrics.zarr", mode="a", consolidated=False)
    report = page.write_report(run).read_text(encoding="utf-8")
    detail = (run / "symmetry.html").read_text(encoding="utf-8")
assert report.count('<option value="opposed_share">share of opposed units</option>') == 2
assert "share of ⟨<i>v</i><sub>α</sub>, <i>w</i><sub>α</sub>⟩ &lt; 0" in report
row = next(line for line in detail.split("<tr>") if ">share of opposed units</th>" in line)
assert ">0.500 ± 0.250</td>" in row  # four hidden units
assert "0.250 ± 0.000" in row
"""


def test_a_row_is_the_only_place_of_an_index():
    """Places to edit for a new index: one. It is measured, stored, drawn and explained from
    there.
    """
    source = (Path(hopmix.__file__).parent / "symmetry" / "quantities.py").read_text("utf-8")
    edited = source.replace("ASYMMETRY = (", f"ASYMMETRY = ({NEW}", 1)
    assert edited.count("opposed_share") == 1
    script = f"SOURCE = {edited!r}\n{CHECKS}"
    path = [str(ROOT), str(ROOT / "tests")]
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{script}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert told.returncode == 0, told.stderr
