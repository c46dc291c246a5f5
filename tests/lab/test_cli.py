import re
import subprocess
import sys
import time

import pytest
from lab.tiny import tiny_config, tiny_data

from hopmix.lab import cli, store, study
from hopmix.lab import data as lab_data

TINY = "--arms free --seeds 1 --dim 8 --depth 1 --epochs 2 --measurements 2 --batch 256".split()  # noqa: SIM905


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


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
        (["--validation", "0.9"], "validation = 0.9 is outside"),
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
    assert re.sub(r"\s+", " ", err).endswith("no study here (study.json is missing); name the folder given to --out. ")


def test_out_that_holds_another_study(capsys, tmp_path):
    store.write_json(tmp_path / "study.json", {"config": tiny_config().to_json()})
    code, _, err = run(capsys, "ablate", "--out", str(tmp_path))
    assert code == 2
    assert "holds a study with other" in err


def test_a_full_disk_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "run", full)
    monkeypatch.setattr(lab_data, "load", tiny_data)
    code, _, err = run(capsys, "ablate", "--out", str(tmp_path / "run"), *TINY[:-2], "--batch", "16")
    assert code == 1
    assert "the disk is full" in err


def test_unexpected_errors_are_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr(lab_data, "load", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["ablate", "--out", str(tmp_path / "run")])


def hopmix(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hopmix.lab.cli", *arguments]


def test_killed_at_any_moment_it_resumes_to_the_same_end(tmp_path):
    """Kill the process without warning in mid-training; what is on disk is whole, and the end is the same."""
    out, whole = tmp_path / "killed", tmp_path / "whole"
    options = [*TINY, "--measurements", "30", "--epochs", "30", "--deep", "0"]
    process = subprocess.Popen(hopmix("ablate", "--out", str(out), *options), stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/[1-9]*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert store.read_metrics(out).sizes["step"] >= 1
    assert not (out / "results.json").exists(), "it was killed too late to test anything"
    resumed = subprocess.run(hopmix("resume", str(out)), capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "Report:" in resumed.stdout
    assert "\x1b" not in resumed.stdout  # quiet and plain when not on a terminal
    subprocess.run(hopmix("ablate", "--out", str(whole), *options), capture_output=True, check=True)
    assert store.read_metrics(out).identical(store.read_metrics(whole))
    assert store.read_json(out / "results.json")["arms"] == store.read_json(whole / "results.json")["arms"]
