"""Two runs side by side: by the names of arms, with spreads, differences, and one line for bad
input.
"""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from lab.synthetic import FREE, SERIAL, SYMMETRIC, Arm, broken, small_run

from hopmix.lab.cli import BAD_INPUT, DONE
from hopmix.lab.cli import run as hopmix
from hopmix.lab.errors import UsageError
from hopmix.lab.report import compare
from hopmix.lab.report.data import accuracy_by_seed, read_run


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    first = small_run(tmp_path / "first", FREE, broken(1e-3), SERIAL).rename(tmp_path / "a")
    second = small_run(tmp_path / "second", broken(1e-3), FREE, SYMMETRIC, seeds=3)
    return first, second.rename(tmp_path / "b")


def change_of(run: Path, strength: float):
    """The same run with another setting."""
    study = json.loads((run / "study.json").read_text())
    study["config"]["training"]["rate"] = strength
    (run / "study.json").write_text(json.dumps(study))


def test_arms_are_compared_by_name_with_their_spread(runs):
    compared = compare.compare_runs(*runs)
    assert list(dict.fromkeys(one.arm for one in compared.differences)) == [
        "free",
        "broken λ=0.001",
    ]
    one = compared.differences[0]
    values = [100 * accuracy_by_seed(read_run(run)).sel(arm="free").values for run in runs]
    assert (one.first.n, one.second.n) == (2, 3)
    assert one.change == pytest.approx(values[1].mean() - values[0].mean())
    squares = sum(side.var(ddof=1) / side.size for side in values)
    assert one.error == pytest.approx(np.sqrt(squares))
    assert compared.alone == (["serial"], ["symmetric"])


def test_final_indices_are_those_of_the_last_step(runs):
    compared = compare.compare_runs(*runs)
    (one,) = [d for d in compared.differences if d.arm == "free" and d.what.startswith("relative")]
    final = read_run(runs[0]).metrics.relative_breaking.sel(arm="free").isel(step=-1)
    assert one.first.mean == pytest.approx(float(final.mean()))


def test_a_run_differs_from_its_copy_by_nothing(runs):
    first, _ = runs
    copy = small_run(first.parent / "copy", FREE, broken(1e-3), SERIAL)
    compared = compare.compare_runs(first, copy)
    assert {one.change for one in compared.differences} == {0}
    assert compare.sentences(compared) == ["Set alike."]


def test_what_was_set_differently_is_named(runs):
    change_of(runs[1], 0.5)
    compared = compare.compare_runs(*runs)
    assert compared.settings["training.rate"] == (1e-3, 0.5)
    assert compared.settings["seeds"] == (2, 3)
    assert "model.dim" not in compared.settings


def test_one_seed_has_no_error(tmp_path):
    first = small_run(tmp_path / "first", FREE, seeds=1)
    second = small_run(tmp_path / "second", FREE, seeds=1)
    for one in compare.compare_runs(first, second).differences:
        assert np.isnan(one.error)
        assert not any("±" in cell for cell in one.cells)


def test_the_command_prints_a_table_and_writes_a_page(runs, tmp_path, capsys):
    out = tmp_path / "page"
    assert hopmix(["compare", *map(str, runs), "--out", str(out)]) == DONE
    told = capsys.readouterr().out
    assert "broken" in told
    assert "Only in a: serial." in told
    text = (out / "compare.html").read_text(encoding="utf-8")
    assert "Set differently" not in text
    assert "<td>" in text
    assert not [
        a for a in re.findall(r'(?:src|href)="([^"]*)"', text) if a[:5] != "data:" and a[0] != "#"
    ]


def test_names_are_text_on_the_page(tmp_path):
    hostile = "<b onclick=x>&amp;\"'</b>"
    arm = Arm(hostile, "ParaMixer", "free", None, 10, 0.9, (1.0, 1.0))
    first = small_run(tmp_path / "first", arm)
    second = small_run(tmp_path / "second", arm)
    compared = compare.compare_runs(first, second)
    text = compare.write_comparison(compared, tmp_path).read_text(encoding="utf-8")
    assert hostile not in text
    assert html.escape(hostile) in text


def refusal(*arguments: str, capsys) -> str:
    assert hopmix(["compare", *arguments]) == BAD_INPUT
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    return told


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    first = str(runs[0])
    told = refusal(first, str(tmp_path / "nowhere"), capsys=capsys)
    assert "nowhere" in told
    assert "study.json" in told
    assert "another study" in refusal(first, first, capsys=capsys)
    (tmp_path / "empty").mkdir()
    assert "study.json" in refusal(str(tmp_path / "empty"), first, capsys=capsys)
    begun = small_run(tmp_path / "begun", FREE, finished=False)
    assert "not finished, step 100 of 250" in refusal(first, str(begun), capsys=capsys)
    other = small_run(tmp_path / "other", SYMMETRIC)
    told = refusal(first, str(other), capsys=capsys)
    assert "no common arm" in told
    assert "symmetric" in told


def test_no_common_arm_names_both(runs, tmp_path):
    other = small_run(tmp_path / "other", SYMMETRIC)
    with pytest.raises(UsageError, match=r"no common arm: .*serial.*symmetric"):
        compare.compare_runs(runs[0], other)
