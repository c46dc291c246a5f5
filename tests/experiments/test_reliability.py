"""The drills, a few cases of each; and that each of them notices when something is wrong."""

import json
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import zarr

from experiments.reliability import (
    commands,
    copies,
    damage,
    drill,
    hostile,
    kills,
    small_study,
    workers,
    writers,
)
from experiments.reliability.commands import Answer
from experiments.reliability.workers import Outcome


@pytest.mark.parametrize("name", ["kills", "damage", "copies", "hostile"])
def test_a_few_cases_of_a_drill(runs, tmp_path, name):
    cases = drill.DRILLS[name].cases(drill.DRILLS[name].quick, 0, runs)
    shared = drill.truth_of(runs, tmp_path) if name == "damage" else runs
    found = list(workers.outcomes(drill.DRILLS[name].judge, cases, shared, tmp_path / "work"))
    assert len(found) == drill.DRILLS[name].quick
    assert [outcome for outcome in found if not outcome.passed] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> small_study.Runs:
    return small_study.make_runs(tmp_path_factory.mktemp("runs"))


# ---- What they compare ---------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path) -> Path:
    """A folder with the files of a run and a few numbers in them."""
    run = tmp_path / "fake" / "run"
    for folder in ("figures", "checkpoints/14/state", ".metrics/1.zarr"):
        (run / folder).mkdir(parents=True)
    described = {"config": {"seeds": 1}, "created": "today"}
    (run / "study.json").write_text(json.dumps(described))
    (run / "results.json").write_text(json.dumps({"arms": [{"n": 1}], "timing": {"total_s": 3.0}}))
    np.savez(run / "weights.npz", up=np.arange(3.0))
    group = zarr.open_group(run / ".metrics" / "1.zarr", mode="w", zarr_format=2)
    group.create_array("loss", data=np.arange(4.0))
    (run / "metrics.zarr").symlink_to(".metrics/1.zarr")
    (run / "figures" / "loss.svg").write_text("<svg/>")
    return run


def rewrite(run: Path, name: str, **changes):
    values = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(values | changes))


def test_two_runs_of_one_study_may_differ_in_time_and_place_alone(fake, tmp_path):
    other = small_study.copy_run(fake, tmp_path / "copy")
    rewrite(other, "study.json", created="tomorrow", environment={"device": "another"})
    rewrite(other, "results.json", timing={"total_s": 4.0})
    assert small_study.differences(fake, other) == []


def test_every_number_that_differs_is_found(fake, tmp_path):
    other = small_study.copy_run(fake, tmp_path / "copy")
    rewrite(other, "study.json", config={"seeds": 2})
    rewrite(other, "results.json", arms=[{"n": 2}])
    np.savez(other / "weights.npz", up=np.arange(3.0, dtype=np.float32))
    zarr.open_array(other / "metrics.zarr" / "loss", mode="r+")[0] = 7.0
    (other / "figures" / "loss.svg").write_text("<svg>")
    different = [
        "figures/loss.svg",
        "metrics.zarr/loss",
        "results.json",
        "study.json",
        "weights.npz/up",
    ]
    assert small_study.differences(fake, other) == different


@pytest.mark.parametrize(
    ("answer", "told", "done"),
    [
        (Answer(2, "", "hopmix: out: no.\n"), True, False),
        (Answer(1, "", "hopmix: stopped.\n"), True, False),
        (Answer(0, "Report: x\n", ""), False, True),
        (Answer(0, "Report: x\n", "a warning\n"), False, False),
        (Answer(0, "\x1b[32mReport: x\n", ""), False, False),
        (Answer(2, "", "a warning\nhopmix: out: no.\n"), False, False),
        (Answer(2, "", ""), False, False),
        (Answer(None, "", "ValueError: x\n"), False, False),
    ],
)
def test_what_counts_as_told_and_done(answer, told, done):
    assert (answer.told, answer.done) == (told, done)


# ---- Damage --------------------------------------------------------------------------------------


def test_each_file_is_damaged_in_each_way(fake, tmp_path):
    stopped = small_study.copy_run(fake, tmp_path / "stopped")
    runs = small_study.Runs(fake, stopped, fake, 1.0)
    files = [path for path in fake.rglob("*") if path.is_file()]
    chosen = damage.cases(len(files) * len(damage.WAYS) * damage.STOPPED, 0, runs)
    assert len({(case.file, case.way) for case in chosen if not case.stopped}) == len(files) * len(
        damage.WAYS
    )
    assert len(chosen) == sum(case.stopped for case in chosen) * damage.STOPPED
    assert any(case.resumed for case in chosen if case.stopped)
    assert any(case.resumed for case in chosen if not case.stopped)


@pytest.mark.parametrize("way", damage.WAYS)
def test_damage_changes_a_file(fake, tmp_path, way):
    foreign = small_study.copy_run(fake, tmp_path / "foreign")
    rewrite(foreign, "results.json", arms=[{"n": 9}])
    before = (fake / "results.json").read_bytes()
    damage.do_damage(damage.Damage(0, "results.json", way, False, False), fake, foreign)
    after = (fake / "results.json").read_bytes() if (fake / "results.json").exists() else None
    assert after != before
    if way == "swap":
        assert (fake / "study.json").read_bytes() == before
    if way == "foreign":
        assert after == (foreign / "results.json").read_bytes()


TRUE = {"measured": {14: {"cosine": 1.0}}, "verified": {14: {"step": 14}}}
LIES = {
    "measure: wrong numbers": {"measure": {"source": "the run x after 14 steps", "cosine": 0.5}},
    "verify: neither told nor done": {"verify": None},
    "report: wrong pages": {"report": "another page"},
    "resume: differs": {"resume": "another result"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_command_that_lies_is_caught(fake, tmp_path, monkeypatch, lie):
    """Commands that give the true answers, but one of them."""
    runs = small_study.Runs(fake, fake, fake, 1.0)
    answers = {
        "measure": {"source": "the run x after 14 steps", "cosine": 1.0},
        "verify": {"step": 14},
        "report": "the page",
        "resume": "",
    }
    page = {
        "report.html": small_study.digest(b"the page"),
        "figures/loss.svg": small_study.digest(b"<svg/>"),
    }
    truth = damage.Truth(runs, TRUE["measured"], TRUE["verified"], {False: page, True: page})
    case = damage.Damage(0, "figures/loss.svg", "flip", False, True)
    monkeypatch.setattr(damage, "do_damage", lambda *_: ())

    def give(answers: dict):
        monkeypatch.setattr(damage, "ask", lambda *words: _answer(answers, *words))
        return damage.judge(case, truth, tmp_path / "place")

    assert give(answers).passed
    outcome = give(answers | LIES[lie])
    assert not outcome.passed
    assert outcome.how == lie


def _answer(answers: dict, command: str, run: Path, *options) -> Answer:
    value = answers[command]
    if value is None:
        return Answer(None, "", "Traceback (most recent call last):\nKeyError\n")
    if command in ("measure", "verify"):
        Path(options[-1]).write_text(json.dumps(value))
    elif command == "report":
        (run / "report.html").write_text(value)
    elif value:
        rewrite(run, "results.json", arms=value)
    return Answer(0, "", "")


# ---- Kills, writers, copies, hostile files -------------------------------------------------------


def test_kills_are_at_all_moments():
    chosen = kills.cases(60, 0)
    shares = sorted(case.share for case in chosen)
    assert shares[0] < 0.1
    assert shares[-1] > 0.9
    assert sum(case.from_start for case in chosen) == 10
    assert sum(case.again is not None for case in chosen) == 15


def test_a_killed_command_is_seen_to_be_killed(tmp_path):
    command = commands.Command(tmp_path, "ablate", "--out", tmp_path / "run")
    assert command.kill()
    assert not command.runs
    assert command.wait().code is None


def test_a_command_may_be_held_and_let_go(tmp_path):
    command = commands.Command(tmp_path, "report", tmp_path)
    command.signal(signal.SIGSTOP)
    command.signal(signal.SIGCONT)
    answer = command.wait()
    assert answer.told
    assert "no study here" in answer.err


def test_writers_and_copies_are_of_every_kind():
    assert {case.kind for case in writers.cases(20, 0)} == {"late", "together", "reports"}
    assert {case.command for case in writers.cases(20, 0) if case.kind == "late"} == set(
        writers.LATE
    )
    assert len(copies.cases(20, 0)) == 2 * len(copies.WAYS) == 20


@pytest.mark.parametrize("way", copies.WAYS)
def test_a_copy_has_what_counts_or_lacks_what_its_name_says(fake, tmp_path, way):
    (tmp_path / "place").mkdir()
    run = copies.WAYS[way](fake, tmp_path / "place")
    assert (run / "study.json").read_bytes() == (fake / "study.json").read_bytes()
    lost = {"dot files lost", "zipped without links", "links as text"}
    assert (run / "metrics.zarr" / "loss").exists() == (way not in lost)


def test_a_payload_would_be_seen_if_it_were_run(tmp_path):
    """Otherwise the drill would count nothing whatever hopmix did."""
    pickle.loads(hostile.payload(tmp_path / "unpickled"))
    exec(hostile.script(tmp_path / "executed"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["executed", "unpickled"]


def test_what_runs_a_payload_is_counted(tmp_path, monkeypatch):
    def obey(place: Path, mark: Path, runs: object):
        yield ("measure", mark)

    monkeypatch.setitem(hostile.KINDS, "obeyed", obey)
    monkeypatch.setattr(hostile, "ask", lambda command, mark: os.mkdir(mark) or Answer(0, "", ""))
    outcome = hostile.judge(
        hostile.Hostile("obeyed"), small_study.Runs(tmp_path, tmp_path, tmp_path, 1.0), tmp_path
    )
    assert (outcome.passed, outcome.how) == (False, "executed")


# ---- Workers and figures -------------------------------------------------------------------------


def die_at_two(case: int, shared: object, place: Path) -> Outcome:
    if case == 2:
        os._exit(1)
    return Outcome(str(case), place.is_dir(), "well")


def test_a_case_that_kills_its_worker_costs_itself_alone(tmp_path):
    found = list(workers.outcomes(die_at_two, range(5), None, tmp_path))
    assert [outcome.how for outcome in found] == ["well", "well", "broke", "well", "well"]
    assert [outcome.passed for outcome in found] == [True, True, False, True, True]


def test_the_record_of_a_drill_counts_and_names_failures():
    found = [
        Outcome("a", True, "told"),
        Outcome("b", False, "differs", "step"),
        Outcome("c", True, "told"),
    ]
    record = drill.record(found, 5, 2.4)
    assert (record["passed"], record["of"], record["planned"]) == (2, 3, 5)
    assert record["how"] == {"told": 2, "differs": 1}
    assert record["failures"] == [{"name": "b", "passed": False, "how": "differs", "seen": "step"}]
