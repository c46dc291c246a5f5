import re
from pathlib import Path

import numpy as np
import pytest
from lab.command import give as run
from lab.probing import DIMENSIONS, EXPENSIVE, made_history
from lab.tiny import tiny_config, tiny_data

from hopmix.lab import cli, store
from hopmix.lab.data import study_data
from hopmix.lab.probes.couplings import LARGEST
from hopmix.lab.report import seal
from hopmix.lab.study import study
from hopmix.lab.study.evaluation import end_weights, result_of

SIZES = {"block": 1, "branch": 2, "eigenvalue": LARGEST}
TINY = "--arms free --seeds 1 --dim 8 --depth 1 --epochs 2 --measurements 2 --batch 256".split()  # noqa: SIM905


@pytest.mark.parametrize("command", [[], ["ablate"], ["resume"], ["report"]])
def test_help(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "usage: hopmix" in out


@pytest.mark.parametrize(
    "options, told",
    [
        (["--arms", "free", "sideways"], "arms: got 'sideways'"),
        (["--seeds", "0"], "seeds: got 0"),
        (["--lambdas", "-1"], "lambdas: got -1"),
        (["--patch", "3"], "patch 3 does not divide"),
        (["--dim", "-4"], "dim: got -4"),
        (["--batch", "100000"], "batch: got 100000"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--data", "mnits"], "'mnits'"),
        (["--validation", "0.9"], "validation: got 0.9"),
        (["--label-column", "kind"], "label_column: got 'kind'"),
        (["--learning-rate", "fast"], "fast"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_bad_input_is_told_with_exit_code_2_before_any_work(capsys, tmp_path, options, told):
    code, _, err = run(capsys, "ablate", "--out", str(tmp_path / "run"), *options)
    assert code == 2
    assert told in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_folder_without_a_study(capsys, tmp_path, command):
    code, _, err = run(capsys, command, str(tmp_path))
    assert code == 2
    assert re.sub(r"\s+", " ", err).endswith(
        "no study here (study.json is missing); name the folder given to --out. "
    )


def test_out_that_holds_another_study(capsys, tmp_path):
    store.write_json(tmp_path / "study.json", {"config": tiny_config().to_json()})
    code, _, err = run(capsys, "ablate", "--out", str(tmp_path))
    assert code == 2
    assert "holds a study with other" in err


def test_a_full_disk_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "run", full)
    monkeypatch.setattr(study_data, "load", tiny_data)
    code, _, err = run(
        capsys, "ablate", "--out", str(tmp_path / "run"), *TINY[:-2], "--batch", "16"
    )
    assert code == 1
    assert "the disk is full" in err


def test_what_cannot_be_written_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "run" / "report.html"))

    monkeypatch.setattr(study, "prepare", closed)
    code, _, err = run(capsys, "ablate", "--out", str(tmp_path / "run"), *TINY)
    assert code == 2
    assert err.count("\n") == 1
    assert (
        f"{tmp_path / 'run' / 'report.html'}: can't be read or written (Permission denied)" in err
    )


def test_intervals_are_said_to_be_saved_where_a_study_is(capsys, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "prepare", stopped)
    out = tmp_path / "run"
    code, _, err = run(capsys, "ablate", "--out", str(out), *TINY)
    assert (code, err) == (1, "hopmix: stopped at once.\n")
    out.mkdir()
    store.write_record(out, {"format": store.FORMAT, "config": tiny_config().to_json()})
    code, _, err = run(capsys, "resume", str(out))
    assert code == 1
    assert (
        err == f"hopmix: stopped at once; finished intervals are saved, go on with: hopmix resume "
        f"{out}.\n"
    )


@pytest.mark.parametrize(
    "arguments", [["ablate", "--out", ""], ["resume", ""], ["ablate", "--arms", "free", ""]]
)
def test_an_empty_path_is_not_the_folder_that_one_is_in(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert f"{arguments[-2].lstrip('-')}: got ''" in err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_of_the_parser_names_the_help_of_its_command(capsys):
    code, _, err = run(capsys, "ablate", "--dim", "many")
    assert code == 2
    assert "--dim" in err
    assert "'many'" in err
    assert "see hopmix ablate --help" in err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")]
)
def test_too_little_memory_is_told_in_one_line(capsys, tmp_path, monkeypatch, error):
    def large(*_, **__):
        raise error

    monkeypatch.setattr(study, "prepare", large)
    code, _, err = run(capsys, "ablate", "--out", str(tmp_path / "run"), *TINY)
    assert code == 1
    assert err.count("\n") == 1
    assert "out of memory" in err
    assert "--members-at-once" in err


def test_a_folder_that_another_process_holds_is_left_alone_by_all_that_write(capsys, tmp_path):
    out = tmp_path / "run"
    store.write_json(out / "study.json", {"config": tiny_config().to_json()})
    with store.only_writer(out):
        before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
        for command in (
            ["ablate", "--out"],
            ["ablate", "--resume", "--out"],
            ["resume"],
            ["report"],
        ):
            code, _, err = run(capsys, *command, str(out))
            assert code == 2
            assert "another process is writing" in err
        assert {
            path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()
        } == before


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A run that has ended, and whose data must not be loaded again."""
    monkeypatch.setattr(study_data, "load", tiny_data)
    prepared = study.prepare(tiny_config(arms=("free",), depth=1))
    history = made_history(prepared.arms, prepared.seeds, 1)
    states = [program.initial() for program in prepared.populations]
    out = tmp_path / "run"
    with store.only_writer(out):
        record = store.write_record(out, study._description(prepared, "hopmix ablate"))
    row = {
        name: np.zeros((1, 2, *(SIZES[d] for d in dims)))
        for name, dims in (DIMENSIONS | EXPENSIVE).items()
    }
    history.append(24, row | {"diverged_step": np.full((1, 2), -1, np.int32)})
    store.write_metrics(out, history, record.identity)
    results = [
        study._describe_arm(prepared, arm) | result_of(arm.name, {"free": np.zeros(2)}, np.zeros(2))
        for arm in prepared.arms
    ]
    store.write_results(
        out, record, {"arms": results}, end_weights(prepared.populations, states, prepared.layout)
    )
    (out / "report.html").write_text("a page")
    seal.seal(out, seal.sources(out), ["report.html"])
    monkeypatch.setattr(study_data, "load", lambda *_, **__: pytest.fail("the data were loaded"))
    return out


def test_resuming_what_has_ended_prepares_nothing_and_changes_nothing(capsys, ended):
    contents = lambda: {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in ended.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    before = contents()
    code, out, _ = run(capsys, "resume", str(ended))
    assert code == 0
    assert "test accuracy" in out
    assert f"Report: {ended / 'report.html'}" in out.replace("\n", "")
    assert contents() == before


@pytest.mark.parametrize("damaged", [None, "half a p"])
def test_a_report_lost_or_damaged_is_made_again(capsys, ended, damaged, monkeypatch):
    if damaged is None:
        (ended / "report.html").unlink()
    else:
        (ended / "report.html").write_text(damaged)

    def write_report(out: Path, sections=()) -> Path:
        (out / "report.html").write_text("a new page")
        return out / "report.html"

    monkeypatch.setattr("hopmix.lab.report.page.write_report", write_report)
    assert run(capsys, "resume", str(ended))[0] == 0
    assert (ended / "report.html").read_text() == "a new page"


def test_unexpected_errors_are_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr(study_data, "load", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["ablate", "--out", str(tmp_path / "run")])
