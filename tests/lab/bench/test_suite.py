import itertools
import json
import math
import sys

import jax
import numpy as np
import pytest
from lab.command import give
from lab.tiny import tiny_data, tiny_study

from hopmix import descend
from hopmix._block import gradient_force
from hopmix.lab.bench import ablation, growth, start, suite, tables
from hopmix.lab.bench.descent import derived, differentiated, make_block, make_loop, make_memory
from hopmix.lab.bench.machine import measure_limits
from hopmix.lab.bench.memory import peak_bytes
from hopmix.lab.bench.mixer import Interval, Size, configure, count_work, make_batch
from hopmix.lab.bench.peer import Peer, find_peers
from hopmix.lab.bench.race import Limits, Row, Work, in_turn
from hopmix.lab.config import Bench
from hopmix.lab.data import study_data
from hopmix.lab.errors import UsageError
from hopmix.lab.study.evaluator import Evaluator
from hopmix.models.mixer import Mixer, MixerConfig

pytestmark = pytest.mark.usefixtures("as_in_a_study")

TINY = Size("tiny", 8, 4, 6, 1, 4)
LIMITS = Limits(1e9, 1e8, 0.1, 0.2)

PEER = """
import json, sys
words = sys.argv[1:]
print("warming up")
median = 2.0 if "--compile" in words else 4.0
print(json.dumps({"median_ms": median, "torch": "9.9", "words": words}))
"""


@pytest.fixture
def peer(tmp_path) -> str:
    """A peer that is as slow as it says."""
    file = tmp_path / "peer.py"
    file.write_text(PEER)
    return f"{sys.executable} {file}"


@pytest.fixture(autouse=True)
def small_things(monkeypatch):
    monkeypatch.setattr(study_data, "load", tiny_data)
    monkeypatch.setattr(suite, "SIZES", (TINY._replace(name="small"),))


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code, out, err = give(capsys, "bench", *arguments)
    return code, out, " ".join(err.split())


# ---- Arithmetic ----------------------------------------------------------------------------------


def test_numbers_of_a_row_on_made_up_times():
    row = Row("step", "r", (10.0, 30.0, 20.0), "peer", (20.0, 20.0, 40.0), work=Work(2e7, 1e6))
    assert (row.median, row.other_median) == (20.0, 20.0)
    assert row.ratios == (0.5, 1.5, 0.5)
    assert row.ratio == 0.5  # the median of the ratios, not the ratio of the medians
    assert not row.loses
    assert row.shares(LIMITS) == (
        1.0,
        0.5,
    )  # 2e7 operations in 20 ms at 1e9 per second; 1e6 bytes at 1e8
    record = json.loads(json.dumps(row.record(LIMITS)))
    assert record["spread"] == [0.5, 1.5]
    assert record["work"] == {"flops": 2e7, "bytes": 1e6}


def test_a_row_alone_has_no_ratio_and_a_cost_does_not_lose():
    alone = Row("step", "alone", (1.0,))
    assert alone.ratio is alone.other_median is alone.record(LIMITS)["spread"] is None
    assert not alone.loses
    assert not Row("data", "cost", (2.0,), "prepared", (1.0,), race=False).loses


def test_contenders_run_in_turn():
    order = []
    clock = itertools.count()
    contender = lambda name: lambda: order.append(name) or float(next(clock))
    assert in_turn([contender("A"), contender("B")], 3) == [(0.0, 2.0, 4.0), (1.0, 3.0, 5.0)]
    assert order == ["A", "B"] * 3


def test_a_race_is_won_where_every_pair_is():
    row = lambda *ratios, race=True: Row(
        "step", "r", ratios, "peer", (1.0,) * len(ratios), race=race
    )
    assert row(0.5, 0.9).wins
    assert not row(0.5, 1.1).wins
    assert not row(0.5, 1.1).loses
    assert not row(0.5, race=False).wins
    assert not Row("step", "alone", (1.0,)).wins


def test_sentences_are_there_where_they_apply():
    machine = {
        "cpu": "C",
        "cores": 2,
        "device": "D",
        "compiler_options_training": "",
        "compiler_options_measuring": "",
    }

    def told(rows: list[Row], limits: Limits | None = LIMITS, **more: str) -> str:
        return " ".join(tables.sentences(suite.Benched(rows, limits, machine | more)))

    memory = Row("memory", "m", (1.0,), "all saved", (2.0,), unit="MiB", race=False)
    step = Row("step", "s", (1.0,), "peer", (2.0,), work=Work(1.0, 1.0))
    assert "1 GFLOP/s, which varied by 10 %, memory 0.1 GB/s, by 20 %" in told([memory])
    assert not any(words in told([memory]) for words in ("peak", "races", "--peer", "HOPMIX"))
    assert all(words in told([step]) for words in ("ratio", "peak", "wins 1 of 1"))
    assert "HOPMIX_COMPILER_OPTIONS=off" in told([step], compiler_options_training="a=1")
    assert not any(words in told([step], None) for words in ("peak", "GFLOP", "wins"))


def test_the_last_sentence_names_every_loss_and_no_other():
    won = Row("step", "won", (1.0,), "peer", (2.0,))
    lost = Row("step", "lost", (3.0,), "peer", (2.0,))
    cost = Row("data", "cost", (3.0,), "prepared", (2.0,), race=False)
    close = Row("step", "close", (1.0, 3.0, 1.0), "peer", (2.0, 2.0, 2.0))
    losses = tables.losses
    assert losses([won, cost]) == "hopmix wins 1 of 1 races in every pair, loses none."
    assert losses([won, cost, lost, close]) == (
        "hopmix wins 1 of 3 races in every pair, loses 1: step lost against peer (1.50), is "
        "ahead, but not in every "
        "pair, in 1: step close against peer (0.50)."
    )
    assert "--peer" in tables.losses([cost, Row("step", "alone", (1.0,))])


def test_operations_are_those_of_a_count_by_hand():
    config = MixerConfig(
        (8, 8, 3), 4, dim=6, depth=2, classes=10
    )  # 4 tokens of 48 numbers; hidden 3 and 24
    stem = 4 * 48 * 6
    head = 6 * 10
    block = 2 * (3 * 4 * 6) + 2 * (4 * 6 * 24)
    assert count_work(config, 5, training=False).flops == 2 * 5 * (stem + 2 * block + head)
    # Two gradients for each product, but none of the images.
    assert count_work(config, 5, training=True).flops == 2 * 5 * (2 * stem + 3 * (2 * block + head))
    assert count_work(config, 5, True, "bfloat16").bytes == count_work(config, 5, True).bytes / 2


@pytest.mark.parametrize("kind", ["serial", "free", "broken", "symmetric"])
def test_operations_are_about_those_that_xla_counts(kind, getkey):
    config = configure(Size("", 32, 4, 64, 2, 16), kind)
    model = Mixer(config, key=getkey())
    images = make_batch(config, 16)[0]
    counted = jax.jit(lambda images: model.batch(images)).lower(images).cost_analysis()
    assert counted is not None
    assert (
        1 <= counted["flops"] / count_work(config, 16, training=False).flops < 1.3
    )  # norms and activations too


# ---- Both sides of a race do the same ------------------------------------------------------------


def test_one_by_one_trains_to_the_losses_of_the_population():
    small = tiny_study(depth=1)
    population = [np.asarray(logs) for _, logs, _ in ablation.together(small)()]
    alone = [np.asarray(logs) for _, logs, _ in ablation.one_by_one(small)()]
    assert len(alone) == len(small.arms) * small.config.seeds
    np.testing.assert_allclose(np.concatenate(population), np.stack(alone), rtol=1e-4)


def test_prepared_batches_train_to_the_same_losses():
    small = tiny_study(arms=("free",), depth=1, augment="light")
    (real,), (ready,) = (make(small)() for make in (ablation.together, ablation.on_prepared))
    np.testing.assert_allclose(real[1], ready[1], rtol=1e-4)


def test_both_energies_and_forces_are_the_same(getkey):
    memory = make_memory(4, 6)
    block = make_block(4, 6)
    state = {
        name: jax.random.normal(getkey(), layer.shape, np.float32)
        for name, layer in memory.neurons.items()
    }
    ours = derived(memory)(state)
    plain = differentiated(memory)(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, plain)
    np.testing.assert_allclose(
        block.force(state["x"]), gradient_force(block, state["x"]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("arguments", [False, True])
def test_the_loop_takes_the_steps_of_descend(getkey, arguments):
    block = make_block(4, 6)
    x = jax.random.normal(getkey(), (4, 6), np.float32)
    states, energies = make_loop(block, 5, arguments)(x)
    descent = descend(block, x, 5)
    np.testing.assert_allclose(np.stack(states), descent.states, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.stack(energies), descent.energies, rtol=1e-4, atol=1e-5)
    assert descent.descends


def test_members_in_another_precision_train_alike():
    one = Interval(TINY, "broken", 3)
    rough = Interval(TINY, "broken", 3, "bfloat16", members=2)
    assert (one.losses.shape, rough.losses.shape) == ((1, 3), (2, 3))
    np.testing.assert_allclose(
        rough.losses[0], one.losses[0], rtol=0.2
    )  # the head starts at zero: all start at ln 10
    assert rough.losses[0, -1] != one.losses[0, -1]


# ---- Each benchmark ------------------------------------------------------------------------------


def require_numbers(rows: list[Row]):
    assert rows
    numbers = [value for row in rows for value in (*row.hopmix, *row.other, *row.ratios)]
    assert all(math.isfinite(value) and value > 0 for value in numbers), rows


@pytest.mark.parametrize("name", ["step", "inference", "descent", "memory"])
def test_rows_of(name):
    options = Bench(only=(name,), sizes=("small",), arms=("free",), repetitions=2, quick=True)
    rows = list(suite.benchmark(name, options))
    require_numbers(rows)
    assert {row.benchmark for row in rows} == {name}
    assert all(len(row.hopmix) == (1 if name == "memory" else 2) for row in rows)


def test_rows_of_an_ablation():
    small = tiny_study(arms=("symmetric",), depth=1, seeds=1)
    peers = [Peer((sys.executable, "-c", PEER))]
    rows = list(ablation.race_ablation(small, peers, 2))
    require_numbers(rows)
    steps = small.schedule.interval
    assert rows[1].other == (4.0 * steps,) * 2  # one member, 4 ms a step


def without_fields(monkeypatch):
    """Compiling them takes long, and they are tested with metrics."""
    monkeypatch.setattr(Evaluator, "expensive_models", lambda *_, **__: {"nothing": np.zeros(1)})


def test_what_measuring_and_data_take_of_a_study(monkeypatch):
    without_fields(monkeypatch)
    small = tiny_study(arms=("symmetric",), depth=1, seeds=1)
    assert min(part() for part in ablation._parts(small)) > 0
    for name in ("together", "on_prepared"):
        monkeypatch.setattr(ablation, name, lambda study: lambda: np.ones(1))
    require_numbers(list(ablation.cost_data(small, 1)))


def test_measuring_is_set_against_training_alone(monkeypatch):
    """Seven times for six intervals, at 0, 1, ..., 6, and deeply at 0, 4 and 6."""
    monkeypatch.setattr(ablation, "_parts", lambda study: [lambda: 40.0, lambda: 2.0, lambda: 8.0])
    small = tiny_study(arms=("free",), depth=1, measurements=6, spectra_every=4)
    assert small.count_measurements() == (6, 7, 3)
    shallow, deep = ablation.cost_measuring(small, 1)
    assert (shallow.ratio, deep.ratio) == (7 * 2 / (6 * 40), (7 * 2 + 3 * 8) / (6 * 40))


def test_growth_is_set_against_operations(monkeypatch):
    monkeypatch.setattr(growth, "_larger", lambda base, quick: [("members 2", base, 2)])
    monkeypatch.setattr(growth, "BASE", TINY)
    (row,) = growth.grow(True, "float32", 1)
    require_numbers([row])
    assert row.against == "2 x base"


def test_devices_share_the_members_and_agree(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    one, two = growth.spread_over_devices(True, 1, (1, 2))
    require_numbers([one, two])
    assert "losses equal" in two.note


def test_a_start_is_timed(monkeypatch):
    times = start.start_study(
        {"arms": ("free",), "seeds": 1, "dim": 8, "depth": 1, "spectra_every": 0, "batch": 16}
    )
    assert all(value > 0 for value in times.values())
    monkeypatch.setattr(start, "_start_twice", lambda config: [{"wall": 4.0, "compile": 2.0}] * 2)
    rows = list(start.cost_starting(True, 1))
    require_numbers(rows)
    assert [row.ratio for row in rows[:4]] == [None, 1.0, None, 1.0]


def test_rematerialised_blocks_take_less_memory():
    deep = Size("", 32, 4, 8, 4, 8)
    assert (
        0 < peak_bytes(deep, "free", "float32", True) < peak_bytes(deep, "free", "float32", False)
    )


def test_the_limits_are_positive():
    limits = measure_limits("float32", repetitions=2, side=64, length=2**12)
    assert limits.flops > 0
    assert limits.bandwidth > 0
    assert min(limits.noise, limits.bandwidth_noise) >= 0


# ---- The peer ------------------------------------------------------------------------------------


def test_the_peer_is_told_the_shape(peer):
    eager, compiled = find_peers(peer, True, "bfloat16")
    assert (eager.name, compiled.name, eager.torch) == ("peer eager", "peer compiled", "9.9")
    assert (eager.milliseconds(dim=8), compiled.milliseconds(dim=8)) == (4.0, 2.0)
    words = eager.run(dim=8, forward=True, kind="sym")["words"]
    assert words == ["--dim", "8", "--forward", "--kind", "sym", "--bf16"]
    assert "--forward" not in eager.run(forward=False)["words"]


@pytest.mark.parametrize(
    "program, told",
    [
        (
            "import sys; sys.exit('no torch here')",
            "it said: no torch here; run that line by itself",
        ),
        ("print('hello')", "did not print a line of JSON"),
        ("print('{\"ms\": 1}')", "did not print a line of JSON"),
        ("", "did not print a line of JSON"),
    ],
)
def test_a_peer_that_does_not_work_is_told(tmp_path, program, told):
    (tmp_path / "peer.py").write_text(program)
    with pytest.raises(UsageError, match="peer: ") as error:
        find_peers(f"{sys.executable} {tmp_path / 'peer.py'}", False, "float32")
    assert told in str(error.value)


def test_a_peer_that_does_not_compile_is_told_before_any_work(tmp_path):
    (tmp_path / "peer.py").write_text(
        "import sys\nif '--compile' in sys.argv: sys.exit('no compiler')\n" + PEER
    )
    with pytest.raises(UsageError, match="--compile failed, it said: no compiler"):
        find_peers(f"{sys.executable} {tmp_path / 'peer.py'}", True, "float32")


# ---- The command ---------------------------------------------------------------------------------


def test_the_command_prints_tables_and_writes_json(capsys, tmp_path, peer):
    file = tmp_path / "folder" / "bench.json"
    options = (
        "--only step descent --sizes small --arms serial --repetitions 2 --quick "
        "--peer-compile --json"
    )
    code, out, err = run(capsys, *options.split(), str(file), "--peer", peer)
    assert code == 0, err
    assert "Training step" in out
    assert "peer compiled" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    record = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert {
        "cpu",
        "cores",
        "device",
        "python",
        "jax",
        "jaxlib",
        "hopmix",
        "torch",
        "commit",
    } <= set(record["machine"])
    assert record["machine"]["torch"] == "9.9"
    assert [row["other_median"] for row in record["rows"][:2]] == [4.0, 2.0]
    assert record["limits"] is None
    assert record["complete"] is True
    assert "the numbers mean nothing" in out
    assert "hopmix loses" not in out
    assert all(len(row["hopmix"]) == 2 for row in record["rows"])


def test_rows_are_kept_one_by_one(monkeypatch, capsys, tmp_path):
    def fail_late(*_):
        yield Row("start", "one", (1.0,), race=False)
        raise UsageError("peer: it died.")

    monkeypatch.setattr(suite, "benchmark", fail_late)
    code, out, err = run(
        capsys, "--only", "start", "--quick", "--json", str(tmp_path / "bench.json")
    )
    assert code == 2
    assert "it died" in err
    record = json.loads((tmp_path / "bench.json").read_text())
    assert ([row["name"] for row in record["rows"]], record["complete"]) == (["one"], False)
    assert "one" in out


def test_another_batch_is_in_the_name_of_a_row():
    (size,) = suite.sizes_of(Bench(only=("step",), sizes=("small",), batch=64))
    assert (size.name, size.batch) == ("small x 64", 64)


@pytest.mark.parametrize(
    "options, told",
    [
        (["--only", "stepp"], "only: got stepp, but it must be one or more of step, inference"),
        (["--only", "step", "step"], "only: got step step"),
        (["--sizes", "huge"], "sizes: got huge, but it must be one or more of small"),
        (["--arms", "broken-xavier"], "arms: got broken-xavier"),
        (["--repetitions", "0"], "repetitions: got 0"),
        (["--batch", "0"], "batch: got 0"),
        (["--precision", "float16"], "float16"),
        (["--peer-compile"], "name its command with --peer"),
        (["--peer", ""], "peer: got ''"),
        (["--peer", "no-such-program"], "peer: got 'no-such-program'"),
        (["--peer", f"{sys.executable} nowhere/peer.py"], "peer: got nowhere/peer.py"),
        (["--peer", "python 'peer"], "mend its quotes"),
        (["--json", "."], "json: . is a folder, not a file"),
        (["--json", "/proc/nowhere/file.json"], "name another folder"),
        (["--json", f"{__file__}/file.json"], "is no usable path (Not a directory)"),
    ],
)
def test_bad_input_is_told_with_exit_code_2_before_any_work(capsys, monkeypatch, options, told):
    monkeypatch.setattr(suite, "run_bench", lambda *_, **__: pytest.fail("work"))
    code, _, err = run(capsys, *options)
    assert code == 2
    assert told in err
