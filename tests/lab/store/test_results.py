"""What a study ends with: whole and its own, or told; what is lost or damaged can be made again."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from lab.probing import DIMENSIONS, EXPENSIVE, made_history
from lab.tiny import tiny_config

from hopmix.lab import store
from hopmix.lab.errors import UsageError
from hopmix.lab.probes.couplings import LARGEST
from hopmix.lab.study.arms import make_arms

SIZES = {"block": 2, "branch": 2, "eigenvalue": LARGEST}
RESULTS = {"arms": [{"name": "free", "test_accuracy": {"mean": 0.5}}]}
WEIGHTS = {"free|0|token|up": np.arange(6.0).reshape(2, 3)}
STATES = [{"weights": jnp.zeros((3, 2))}]


@pytest.fixture
def record(tmp_path) -> store.Record:
    arms = [{"name": "free"}, {"name": "broken λ=0.01"}]
    values = {
        "format": store.FORMAT,
        "config": tiny_config().to_json(),
        "arms": arms,
        "data": {},
        "steps_total": 20,
    }
    return store.write_record(tmp_path, values)


@pytest.fixture
def ended(tmp_path, record):
    """The folder of a study that has ended."""
    measure(tmp_path, record, 2)
    measure(tmp_path, record, 3)
    with store.Checkpoints(tmp_path, record.owner) as checkpoints:
        checkpoints.save(20, STATES)
    store.write_results(tmp_path, record, RESULTS, WEIGHTS)
    return tmp_path


def measure(out, record: store.Record, moments: int):
    history = made_history(make_arms(tiny_config(), (8, 8, 1), 3), [0, 1], 2)
    for i in range(moments):
        row = {
            name: np.zeros((2, 2, *(SIZES[d] for d in dims)))
            for name, dims in (DIMENSIONS | EXPENSIVE).items()
        }
        history.append(10 * i, row | {"diverged_step": np.full((2, 2), -1, np.int32)})
    store.write_metrics(out, history, record.identity)


def finished(out, record: store.Record) -> tuple[dict | None, list[str]]:
    told = []
    return store.finished_results(out, record, told.append), told


def test_what_is_written_is_read(ended, record):
    found, told = finished(ended, record)
    assert found is not None
    assert (found["arms"], found["study"], found["step"], told) == (
        RESULTS["arms"],
        record.identity,
        20,
        [],
    )
    weights = store.read_weights(ended)
    assert weights is not None
    np.testing.assert_array_equal(weights["free|0|token|up"], WEIGHTS["free|0|token|up"])


def test_a_study_that_has_not_ended_has_none(tmp_path, record):
    assert finished(tmp_path, record) == (None, [])
    assert store.read_results(tmp_path, record) is None
    assert store.read_weights(tmp_path) is None
    measure(tmp_path, record, 1)
    assert finished(tmp_path, record) == (None, [])


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "results edited": lambda out: edit(out / "results.json", arms=[]),
    "results cut": lambda out: cut(out / "results.json"),
    "results no object": lambda out: (out / "results.json").write_text("[1]"),
    "weights lost": lambda out: (out / "weights.npz").unlink(),
    "weights cut": lambda out: cut(out / "weights.npz"),
    "weights flipped": lambda out: flip(out / "weights.npz"),
    "weights exchanged": lambda out: np.savez(out / "weights.npz", a=np.zeros(3)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_results_are_told_and_made_again_by_resuming(ended, record, damage):
    damage(ended)
    with pytest.raises(
        UsageError, match=r"(results\.json|weights\.npz): .*; `hopmix resume .*` makes it again"
    ):
        store.read_results(ended, record)
    found, (told,) = finished(ended, record)
    assert found is None
    assert "is made again" in told


def test_lost_results_are_made_again(ended, record):
    (ended / "results.json").unlink()
    assert finished(ended, record) == (None, [])


def test_results_of_another_study_are_refused(ended, record, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    values = record.values | {"data": {"digest": "1"}}
    store.write_results(other, store.write_record(other, values), RESULTS, WEIGHTS)
    shutil.copy(other / "results.json", ended)
    for read in (store.read_results, finished):
        with pytest.raises(UsageError, match=r"results\.json: of another study than study\.json"):
            read(ended, record)


def test_results_of_earlier_versions_are_read(tmp_path, record):
    earlier = store.Record({name: record.values[name] for name in ("config", "steps_total")}, None)
    store.write_json(tmp_path / "results.json", RESULTS)
    assert store.read_results(tmp_path, earlier) == RESULTS
    np.savez(tmp_path / "weights.npz", **WEIGHTS)  # pyright: ignore[reportArgumentType]
    assert store.read_results(tmp_path, earlier) == RESULTS
    cut(tmp_path / "weights.npz")
    with pytest.raises(UsageError, match=r"weights\.npz: damaged"):
        store.read_results(tmp_path, earlier)
    with pytest.raises(UsageError, match="checksum does not match"):
        store.read_results(tmp_path, record)


def test_weights_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.array([{"harmless": 1}], dtype=object))
    with pytest.raises(UsageError, match=r"weights\.npz: damaged"):
        store.read_weights(tmp_path)


def test_metrics_that_are_not_the_last_ones_are_made_again(ended, record):
    (place,) = (p for p in (ended / ".metrics").glob("000000020-*"))
    shutil.rmtree(place)
    found, (told,) = finished(ended, record)
    assert found is None
    assert "going on from its version of step 10" in told


def test_what_is_missing_is_named(ended, record):
    shutil.rmtree(ended / "checkpoints")
    assert finished(ended, record)[0] is not None  # it has ended: nothing needs them
    (ended / "results.json").unlink()
    with pytest.raises(
        UsageError, match=r"checkpoints: missing or empty, though 20 steps were measured; restore"
    ):
        finished(ended, record)


def test_checkpoints_without_measurements_are_told(ended, record):
    (ended / "metrics.zarr").unlink()
    shutil.rmtree(ended / ".metrics")
    with pytest.raises(
        UsageError, match=r"metrics\.zarr: missing, though there are checkpoints; restore it"
    ):
        finished(ended, record)


def test_a_study_killed_while_it_first_wrote_measurements_begins_again(tmp_path):
    record = store.write_record(tmp_path, {"config": tiny_config().to_json(), "steps_total": 24})
    half = tmp_path / ".metrics" / "000000000-0123abcd.zarr"
    (half / "cosine").mkdir(parents=True)
    assert not store.is_measured(tmp_path)
    assert store.finished_results(tmp_path, record, pytest.fail) is None
    half.rename(half.with_name("000000014-0123abcd.zarr"))
    assert store.is_measured(tmp_path)
    with pytest.raises(UsageError, match=r"metrics\.zarr"):
        store.finished_results(tmp_path, record, pytest.fail)
