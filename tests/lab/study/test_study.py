"""A whole study: the same numbers whether it runs through, is stopped and resumed, or is killed and
resumed.
"""

import dataclasses
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from lab.tiny import tiny_config, tiny_data

from hopmix.lab import store
from hopmix.lab.data import study_data
from hopmix.lab.errors import UsageError
from hopmix.lab.probes.couplings import LARGEST
from hopmix.lab.report.page import write_report
from hopmix.lab.runtime.environment import environment
from hopmix.lab.study import continued, study
from hopmix.lab.study.dry_run import estimate
from hopmix.lab.train.population import _Pace


@pytest.fixture(scope="module", autouse=True)
def tiny_images(as_in_a_study):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_data, "load", tiny_data)
        yield


CONFIG = tiny_config(arms=("free", "broken", "symmetric"), depth=1)


@pytest.fixture(scope="module")
def prepared(tiny_images):
    return study.prepare(CONFIG)


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    seen = []
    results = study.run(
        prepared, out, resume=False, command="hopmix ablate", on_progress=seen.append
    )
    return out, results, seen


def stop_after(intervals: int):
    """A watcher that presses Ctrl-C."""

    def watch(progress: study.Progress):
        if progress.step == intervals * 6:
            signal.raise_signal(signal.SIGINT)

    return watch


def assert_same_study(left, right):
    for path in (left, right):
        assert (path / "study.json").exists()
    xr.testing.assert_identical(store.read_metrics(left), store.read_metrics(right))
    ours = json.loads((left / "results.json").read_text())["arms"]
    theirs = json.loads((right / "results.json").read_text())["arms"]
    assert ours == theirs
    weights = [np.load(path / "weights.npz") for path in (left, right)]
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


def test_a_finished_study_holds_all_it_promises(finished, prepared):
    out, results, seen = finished
    described = store.read_json(out / "study.json")
    assert described["config"] == CONFIG.to_json()
    assert {"hopmix", "jax", "python", "device", "commit"} <= set(described["environment"])
    metrics = store.read_metrics(out)
    sizes = {"arm": 3, "seed": 2, "step": 5, "block": 1, "branch": 2, "eigenvalue": LARGEST}
    assert dict(metrics.sizes) == sizes
    assert list(metrics.step.values) == [0, 6, 12, 18, 24]
    assert [arm["name"] for arm in results["arms"]] == ["free", "broken λ=0.01", "symmetric"]
    assert results["arms"][0]["paired"] is None
    assert results["arms"][1]["paired"]["against"] == "free"
    assert [progress.step for progress in seen] == [0, 6, 12, 18, 24]
    assert set(results["timing"]) == {"prepare_s", "compile_s", "train_s", "total_s"}
    assert (out / "checkpoints" / "24").exists()


def test_accuracy_in_the_results_is_that_of_the_saved_members_on_the_test_split(finished, prepared):
    out, results, _ = finished
    like = [program.shapes() for program in prepared.populations]
    with store.Checkpoints(out) as checkpoints:
        (step, states, _), _ = checkpoints.restore(like)
    assert step == 24
    test = tiny_data().test()
    pixels = (test.images / 255 - np.asarray(prepared.data.mean)) / np.asarray(prepared.data.std)
    program = prepared.populations[0]
    state = states[0]
    model = program.model(jax.tree.map(lambda a: jnp.asarray(a[1]), state.model))
    hits = np.argmax(jax.vmap(model)(jnp.asarray(pixels, jnp.float32)), -1) == test.labels
    np.testing.assert_allclose(
        results["arms"][0]["test_accuracy"]["values"][1], hits.mean(), rtol=1e-6
    )


def test_the_test_split_is_not_read_before_the_end(prepared, tmp_path):
    data = dataclasses.replace(
        prepared.data, test=lambda: pytest.fail("the test split was read in training")
    )
    untouched = dataclasses.replace(prepared, data=data)
    with pytest.raises(study.Interrupted):
        study.run(untouched, tmp_path / "run", resume=False, command="", on_progress=stop_after(3))


@pytest.mark.parametrize("intervals", [0, 2])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    finished, prepared, tmp_path, intervals
):
    out = tmp_path / "run[1]"  # Orbax takes brackets for a pattern
    with pytest.raises(study.Interrupted):
        study.run(
            prepared, out, resume=False, command="hopmix ablate", on_progress=stop_after(intervals)
        )
    assert store.read_metrics(out).sizes["step"] == intervals + 1
    study.run(prepared, out, resume=True, command="hopmix ablate --out run")
    assert_same_study(out, finished[0])
    study.run(prepared, out, resume=True, command="again, though it has ended")
    (resumed,) = store.read_json(out / "study.json")["resumed"]
    assert resumed["command"] == "hopmix ablate --out run"
    assert resumed["environment"] == environment()
    write_report(out)
    assert f"Environment when resumed, {resumed['created']}" in (out / "report.html").read_text()


def test_a_damaged_checkpoint_costs_an_interval_and_no_result(finished, prepared, tmp_path):
    out = tmp_path / "run"
    said = []
    with pytest.raises(study.Interrupted):
        study.run(prepared, out, resume=False, command="hopmix ablate", on_progress=stop_after(2))
    for path in (out / "checkpoints" / "12" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    study.run(prepared, out, resume=True, command="hopmix ablate", log=said.append)
    assert len(said) == 1
    assert "checkpoint of step 12 is damaged" in said[0]
    assert_same_study(out, finished[0])


def stopped(prepared, out, intervals: int = 2):
    """A run that was stopped after so many intervals."""
    with pytest.raises(study.Interrupted):
        study.run(
            prepared, out, resume=False, command="hopmix ablate", on_progress=stop_after(intervals)
        )
    return out


def test_what_could_not_be_saved_is_told_though_the_user_stopped(prepared, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study._Folder, "save", full)
    with pytest.raises(OSError, match="No space left"):
        study.run(
            prepared,
            tmp_path / "run",
            resume=False,
            command="hopmix ablate",
            on_progress=stop_after(0),
        )


def test_stopped_within_an_interval_it_repeats_that(finished, prepared, tmp_path, monkeypatch):
    out = tmp_path / "run"
    calls = []

    def adjust(self, steps: int, seconds: float):
        calls.append(steps)
        if (
            len(calls) == 18
        ):  # of three programs, each of five such calls in an interval of six steps
            signal.raise_signal(signal.SIGINT)

    said = []
    with monkeypatch.context() as patch:
        patch.setattr(_Pace, "adjust", adjust)
        patch.setattr(_Pace, "__init__", lambda self: setattr(self, "steps", 1))
        for program in prepared.populations:
            patch.setattr(program, "_pace", _Pace())
        with pytest.raises(study.Interrupted):
            study.run(prepared, out, resume=False, command="hopmix ablate", log=said.append)
    assert len(calls) == 18
    assert any("Heard" in sentence for sentence in said)
    assert store.read_metrics(out).sizes["step"] == 2
    study.run(prepared, out, resume=True, command="hopmix ablate")
    assert_same_study(out, finished[0])


def test_a_copy_without_links_and_hidden_files_goes_on(finished, prepared, tmp_path):
    run = stopped(prepared, tmp_path / "run")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(".lock", ".metrics", ".report.json"))
    study.run(prepared, copy, resume=True, command="hopmix ablate")
    assert_same_study(copy, finished[0])


def test_damaged_measurements_cost_an_interval_and_no_result(finished, prepared, tmp_path):
    out = stopped(prepared, tmp_path / "run")
    for path in (out / "metrics.zarr").resolve().rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    said = []
    study.run(prepared, out, resume=True, command="hopmix ablate", log=said.append)
    assert any(
        "checkpoint of step 12 is ahead of what was measured" in sentence for sentence in said
    )
    assert_same_study(out, finished[0])


def test_measurements_that_did_not_lead_to_the_checkpoint_are_refused(prepared, tmp_path):
    out = stopped(prepared, tmp_path / "run")
    history = store.History(prepared.arms, prepared.seeds, prepared.layout, prepared.quantities)
    history.load(store.read_metrics(out))
    history.rows[0]["validation_loss"] = history.rows[0]["validation_loss"] + 1
    store.write_metrics(out, history, store.read_record(out).identity)
    with pytest.raises(
        UsageError, match=r"metrics\.zarr: not what was measured before the checkpoint of step 12"
    ):
        study.run(prepared, out, resume=True, command="hopmix ablate")


def test_checkpoints_of_another_study_are_refused(finished, prepared, tmp_path):
    out = stopped(prepared, tmp_path / "run")
    other = dataclasses.replace(prepared, data=dataclasses.replace(prepared.data, digest="1" * 12))
    theirs = stopped(other, tmp_path / "other")
    shutil.rmtree(out / "checkpoints")
    shutil.copytree(theirs / "checkpoints", out / "checkpoints")
    with pytest.raises(UsageError, match="checkpoints/12: of another study or moment"):
        study.run(prepared, out, resume=True, command="hopmix ablate")


@pytest.mark.parametrize("name", ["results.json", "weights.npz"])
def test_results_that_are_lost_or_damaged_are_made_again(finished, prepared, tmp_path, name):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out, symlinks=True)
    content = (out / name).read_bytes()
    for damaged in (None, content[: len(content) // 2]):
        (out / name).unlink()
        if damaged is not None:
            (out / name).write_bytes(damaged)
        study.run(prepared, out, resume=True, command="hopmix ablate")
        assert_same_study(out, finished[0])


def test_data_are_found_from_any_folder_and_where_they_were_moved_to(
    prepared, tmp_path, monkeypatch
):
    place = tmp_path / "pictures"
    place.mkdir()
    monkeypatch.chdir(tmp_path)
    typed = dataclasses.replace(prepared, config=dataclasses.replace(CONFIG, data="pictures"))
    out = tmp_path / "run"
    record = store.write_record(out, study._description(typed, "hopmix ablate"))
    monkeypatch.chdir("/")
    assert record.config.data == "pictures"
    assert continued.located(record).data == str(place)
    place.rename(tmp_path / "moved")
    with pytest.raises(
        UsageError,
        match=r"data: .*pictures is not there any more; .* name its new place with --data",
    ):
        continued.located(record)
    moved = dataclasses.replace(typed, config=continued.located(record, str(tmp_path / "moved")))
    assert moved.config == dataclasses.replace(typed.config, data=str(tmp_path / "moved"))
    assert study._resumed(moved, out, record, "hopmix resume run --data moved").data_path == str(
        tmp_path / "moved"
    )
    assert store.read_config(out) == typed.config
    earlier = store.Record({"config": typed.config.to_json()}, None)
    monkeypatch.chdir(tmp_path)
    place.mkdir()
    assert continued.located(earlier).data == "pictures"


def test_killed_before_the_first_checkpoint_it_starts_again(
    finished, prepared, tmp_path, monkeypatch
):
    out = tmp_path / "run"

    def killed(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(store.Checkpoints, "save", killed)
        with pytest.raises(RuntimeError, match="killed"):
            study.run(prepared, out, resume=False, command="hopmix ablate")
    assert store.read_metrics(out).sizes["step"] == 1
    study.run(prepared, out, resume=True, command="hopmix ablate")
    assert_same_study(out, finished[0])


def test_checkpoints_without_their_measurements_are_refused(prepared, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(study.Interrupted):
        study.run(prepared, out, resume=False, command="", on_progress=stop_after(1))
    (out / "metrics.zarr").unlink()
    shutil.rmtree(out / ".metrics")
    with pytest.raises(UsageError, match=r"metrics\.zarr: missing, though there are checkpoints"):
        study.run(prepared, out, resume=True, command="")


def test_changed_data_are_refused(finished, prepared):
    other = dataclasses.replace(prepared, data=dataclasses.replace(prepared.data, digest="f" * 12))
    with pytest.raises(UsageError, match="has changed since"):
        study.run(other, finished[0], resume=True, command="")


def test_resuming_a_finished_study_changes_nothing(finished, prepared):
    out, results, _ = finished
    contents = lambda: {
        path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"
    }
    before = contents()
    assert study.run(prepared, out, resume=True, command="")["arms"] == results["arms"]
    assert contents() == before


def test_a_report_can_be_made_at_every_stage(finished, prepared, tmp_path):
    assert write_report(finished[0]).stat().st_size > 10_000
    with pytest.raises(study.Interrupted):
        study.run(prepared, tmp_path / "run", resume=False, command="", on_progress=stop_after(1))
    assert write_report(tmp_path / "run").exists()


def test_diverged_members_are_named_and_left_out_of_the_mean(tmp_path):
    config = tiny_config(
        arms=("free", "broken"), lambdas=(3e38,), learning_rate=1e-2, warmup=0.0, depth=1
    )
    results = study.run(study.prepare(config), tmp_path / "run", resume=False, command="")
    free, broken = results["arms"]
    assert (free["n"], free["diverged"], broken["n"], broken["diverged"]) == (2, 0, 0, 2)
    assert broken["test_accuracy"] == {"values": [None, None], "mean": None, "stderr": None}
    metrics = store.read_metrics(tmp_path / "run")
    assert np.all(metrics.diverged_step.sel(arm="broken λ=3e+38") >= 0)
    assert np.all(np.isfinite(metrics.validation_loss.sel(arm="free")))
    assert np.all(np.isnan(metrics.validation_loss.sel(arm="broken λ=3e+38", step=24)))
    assert write_report(tmp_path / "run").exists()


def test_dry_run_estimates(prepared):
    cost = estimate(prepared)
    assert cost.compile_s > 0
    assert cost.train_s > 0
    assert cost.memory > prepared.state_bytes()


def test_a_batch_larger_than_the_data(prepared):
    with pytest.raises(UsageError, match="batch: got 1000, but there are only 96 training images"):
        study.prepare(tiny_config(batch=1000))
