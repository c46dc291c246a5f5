"""`hopmix verify`: the claims measured again, and the blocks of a trained run against their
certificates.
"""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from lab.command import flat, give
from lab.tiny import make_run, tiny_data

import hopmix as hm
from hopmix._assumptions import Assumption
from hopmix._certificate import certificate as _certificate
from hopmix._tree import trainable
from hopmix.claims import catalogue, table
from hopmix.claims._claim import Claim, Measurement
from hopmix.lab import store
from hopmix.lab.data import study_data
from hopmix.lab.errors import UsageError
from hopmix.lab.verify import checks


@pytest.fixture(scope="module", autouse=True)
def tiny_images(as_in_a_study):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_data, "load", tiny_data)
        yield


def hopmix(capsys, *arguments: object) -> tuple[int, str, str]:
    code, out, err = give(capsys, *arguments)
    return code, " ".join(out.split()), flat(err)


# ---- Claims --------------------------------------------------------------------------------------


def claim(number: int, error: float, calls: list | None = None) -> Claim:
    """A claim with a given error, or a worse one if it is not measured in float64."""

    def measure(key, examples: int) -> Measurement:
        if calls is not None:
            calls.append((jr.key_data(key).tolist(), examples))
        wide = jnp.ones(()).dtype == jnp.float64
        return Measurement(error if wide else 1.0, 1e-10, examples)

    return Claim(
        f"C{number:02d}",
        f"number {number} [of x]",
        "a | b",
        "proved",
        "p.md",
        "t.py",
        "gap",
        measure,
    )


@pytest.fixture
def three(monkeypatch):
    calls: list = []
    monkeypatch.setattr(catalogue, "CLAIMS", tuple(claim(i, 3.4e-16, calls) for i in (1, 2, 3)))
    return calls


def test_all_claims_hold(capsys, three):
    code, out, _ = hopmix(capsys, "verify")
    assert code == 0
    assert "All 3 claims hold" in out
    assert out.count("holds") == 3
    assert "3e-16" in out
    assert "number 1 [of x]" in out  # and not taken for a colour
    assert "\x1b" not in out
    assert [examples for _, examples in three] == [100, 100, 100]
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def test_named_claims_with_other_examples(capsys, three, tmp_path):
    numbers = tmp_path / "numbers.json"
    code, out, _ = hopmix(
        capsys,
        "verify",
        "--claim",
        "c03",
        "--claim",
        "C01",
        "--examples",
        7,
        "--seed",
        5,
        "--json",
        numbers,
    )
    assert code == 0
    assert "All 2 claims hold" in out
    record = json.loads(numbers.read_text("utf-8"))
    assert [(row["id"], row["examples"], row["passed"]) for row in record["claims"]] == [
        ("C01", 7, True),
        ("C03", 7, True),
    ]
    assert (record["seed"], record["precision"], record["passed"]) == (5, "float64", True)
    again = list(three)
    three.clear()
    hopmix(capsys, "verify", "--claim", "C03", "--examples", 7, "--seed", 5)
    assert three[0] in again  # the examples of a claim are its own
    hopmix(capsys, "verify", "--claim", "C03", "--examples", 7, "--seed", 6)
    assert three[1][0] != three[0][0]


@pytest.mark.parametrize(
    "error, shown", [(0.03, "0.03"), (float("nan"), "nan"), (float("inf"), "inf"), (2e-10, "2e-10")]
)
def test_a_broken_claim_is_told_everywhere(capsys, monkeypatch, tmp_path, error, shown):
    monkeypatch.setattr(catalogue, "CLAIMS", (claim(1, 1e-16), claim(2, error)))
    page = tmp_path / "page.md"
    numbers = tmp_path / "numbers.json"
    page.write_text(f"before\n{table.BEGIN}\n{table.END}\nafter\n")
    code, out, _ = hopmix(capsys, "verify", "--write", page, "--json", numbers)
    assert code == 1
    assert "1 of 2 claims failed: C02" in out
    assert out.count("fails") == 1
    assert f"**{shown}: fails**" in page.read_text()
    record = json.loads(numbers.read_text(), parse_constant=pytest.fail)
    assert [row["passed"] for row in record["claims"]] == [True, False]
    assert record["passed"] is False


def test_the_table_of_a_page_is_renewed_and_nothing_else(capsys, three, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert hopmix(capsys, "verify", "--write", page)[0] == 0
    first = page.read_text()
    assert first.startswith(f"before\n{table.BEGIN}\n| claim |")
    assert first.endswith(f"|\n{table.END}\nafter\n")
    assert "old" not in first
    assert hopmix(capsys, "verify", "--write", page)[0] == 0
    assert page.read_text() == first


@pytest.mark.parametrize(
    "options, told",
    [
        (["--claim", "C99"], "claim: got 'C99'; the claims are C01, C02, C03."),
        (["--claim", "C01", "--claim", "descent"], "got 'descent'"),
        (["--examples", "0"], "examples: got 0, but it must be at least 1"),
        (["--examples", "many"], "many"),
        (["--seed", "-1"], "seed: got -1"),
        (["--claim", "C01", "C02"], "run: got C02, which goes with neither claim nor write"),
        (["--claim", "C01", "--write", "README.md"], "write: the table is of all claims"),
        (["--write", "no/page.md"], "write: no/page.md"),
        (["--write", __file__], "<!-- claims:begin -->"),
        (["--json", "."], "json: . is a folder, not a file"),
        (["no/such/run"], "no/such/run: no study here"),
    ],
)
def test_bad_input_is_told_before_any_measurement(capsys, three, options, told):
    code, _, err = hopmix(capsys, "verify", *options)
    assert code == 2
    assert told in err
    assert three == []


def test_a_real_claim(capsys):
    code, out, _ = hopmix(capsys, "verify", "--claim", "C12", "--examples", "9")
    assert code == 0
    assert "C12 holds (" in out


def test_help_and_an_interrupt(capsys, monkeypatch):
    assert hopmix(capsys, "verify", "--help")[0] == 0

    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "measure_claims", pressed)
    code, _, err = hopmix(capsys, "verify")
    assert code == 1
    assert "resume" not in err


# ---- Runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a_run(tiny_images, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", arms=("broken", "symmetric"), seeds=2)


@pytest.fixture(scope="module")
def checked(a_run):
    return checks.check_run(checks.load_run(a_run), examples=100)


def by_arm(checked, arm: str) -> list[checks.BlockCheck]:
    return [block for block in checked.blocks if block.arm.startswith(arm)]


def test_every_block_of_every_member_is_checked(checked):
    assert (checked.step, checked.images, checked.diverged) == (6, 36, ())  # there are no more
    assert [(b.arm, b.seed, b.block) for b in checked.blocks] == [
        (arm, seed, 0) for arm in ("broken λ=0.01", "symmetric") for seed in (0, 1)
    ]
    assert checked.passed


def test_symmetric_blocks_hold(checked):
    for block in by_arm(checked, "symmetric"):
        assert (block.verdict, block.claim, block.reason) == ("holds", "C01", "")
        assert block.asymmetry < 1e-13
        assert block.flow_rises == 0
        assert 0 < block.step_bound < np.inf


def test_broken_blocks_are_not_conservative_and_told_why(checked, a_run):
    model, images = first_model(a_run, program=0)
    states = checks.states_of(model, images)[0]
    for block in by_arm(checked, "broken"):
        assert (block.verdict, block.claim) == ("not conservative", None)
        stated = (
            r"\[fails\] synapse '\w+' is symmetric, V = W\^T: entries differ by [\d.]+ at most$"
        )
        assert re.match(stated, block.reason)
        assert np.isnan(block.step_bound)
    np.testing.assert_allclose(
        by_arm(checked, "broken")[0].asymmetry, dense_asymmetry(model.blocks[0], states), rtol=0.3
    )


def first_model(run: Path, program: int):
    trained = checks.load_run(run)
    made = trained.study.populations[program]
    model = made.model(jax.tree.map(lambda a: jnp.asarray(a[0]), trained.states[program].model))
    return model, jnp.asarray(checks._validation_images(trained.study, 36))


def dense_asymmetry(block, states) -> float:
    """|HJ - (HJ)^T| / (2|HJ|) with whole matrices, over all states."""

    def matrix(x):
        n = x.size
        jacobian = jax.jacfwd(block.force)(x).reshape(n, n)
        hessian = jax.hessian(block.potential.neurons.lagrangian)(x).reshape(n, n)
        return hessian @ jacobian

    m = np.asarray(jax.lax.map(matrix, states), float)
    return float(np.linalg.norm(m - m.transpose(0, 2, 1)) / (2 * np.linalg.norm(m)))


def test_states_are_those_that_reach_the_block(a_run):
    model, images = first_model(a_run, program=0)
    expected = jnp.stack([model.embed(image) for image in images])
    # Sums of float32 in another order: an entry that cancels is off by the rounding of the largest
    # ones.
    rounding = 16 * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(checks.states_of(model, images)[0], expected, rtol=0, atol=rounding)
    few = checks._validation_images(checks.load_run(a_run).study, 8)
    pixels = (tiny_data().validation.images[[0, 5, 35]] / 255 - tiny_data().mean) / tiny_data().std
    np.testing.assert_allclose(few[[0, 1, 7]], pixels, rtol=1e-4, atol=1e-5)


def test_the_command_prints_the_table_and_writes_the_numbers(capsys, a_run, checked, tmp_path):
    before = contents(a_run)
    code, out, _ = hopmix(capsys, "verify", a_run, "--json", tmp_path / "numbers.json")
    assert code == 0
    assert "1 of 2 blocks are certified, and the numbers agree with every certificate." in out
    assert "broken λ=0.01: not conservative (asymmetry " in out
    record = json.loads((tmp_path / "numbers.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert record == checks.run_record(checked)
    assert contents(a_run) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_before_training_is_tied(a_run):
    start = checks.check_run(checks.load_run(a_run / "checkpoints" / "0"), examples=100)
    assert start.step == 0
    assert {b.verdict for b in by_arm(start, "broken") + by_arm(start, "symmetric")} == {"holds"}


def test_a_certificate_that_numbers_contradict_fails(capsys, monkeypatch, a_run):
    """As if `certify` took untied weights for tied ones."""
    blind = lambda ties: [Assumption("all synapses are symmetric", "holds", "so it is said")]
    monkeypatch.setattr(_certificate, "tied_couplings", blind)
    code, out, _ = hopmix(capsys, "verify", a_run)
    assert code == 1
    assert "The numbers contradict the certificate of broken λ=0.01 block 0." in out


@pytest.mark.parametrize("rise, asymmetry", [(0.0, 1e-3), (0.0, float("nan"))])
def test_a_failed_check_of_a_certified_block_fails(capsys, monkeypatch, a_run, rise, asymmetry):
    failed = lambda self, states, steps: _certificate.Check(False, rise, asymmetry, len(states))
    monkeypatch.setattr(_certificate.Certificate, "check_from", failed)
    code, out, _ = hopmix(capsys, "verify", a_run)
    assert code == 1
    assert "symmetric block 0" in out


@pytest.fixture
def asymmetric_numbers(monkeypatch):
    """Numbers that are given instead of computed, for what does not depend on them."""
    given = lambda self, states, steps: _certificate.Check(False, float("nan"), 0.3, len(states))
    monkeypatch.setattr(_certificate.Certificate, "check_from", given)
    nothing = lambda block, states: checks.FirstStep(
        *(jnp.zeros(len(states), d) for d in (bool, bool, float))
    )
    monkeypatch.setattr(checks, "_first_step", nothing)


@pytest.mark.usefixtures("asymmetric_numbers")
def test_what_no_claim_covers_says_why(capsys, tmp_path):
    arms = ("serial", "symmetric")
    run = make_run(tmp_path / "run", arms=arms, seeds=2, norm_scale="elementwise", diverged=1)
    code, out, _ = hopmix(capsys, "verify", run, "--examples", 4)
    assert code == 0
    assert (
        "serial: not conservative (asymmetry 0.3); [fails] the layer is one step of one potential"
        in out
    )
    assert "(C09)" in out
    assert re.search(
        r"symmetric: not conservative \(asymmetry 0.3\); .* elementwise on the way in only, from "
        r"\S+ to",
        out,
    )
    assert "0 of 2 blocks are certified" in out
    assert "Left out, diverged in training: serial, seed 1." in out


def leaky_block(leak: float) -> hm.Block:
    neurons = {"x": hm.Neurons(hm.LayerNorm(), (3, 4)), "h": hm.Neurons(hm.ReLU(), (3, 5))}
    mixing = hm.ChannelMixing(hm.Coupling(jr.normal(jr.key(0), (5, 4))))
    return hm.derive_block(
        hm.AssociativeMemory(neurons, {"s": mixing}, {"s": ("x", "h")}), ["h"], leak=leak
    )


def test_steps_beyond_the_bound_may_rise_and_steps_within_may_not(monkeypatch):
    with jax.enable_x64(True):
        block = leaky_block(2.5)
        states = jr.normal(jr.key(1), (16, 3, 4))
        for _ in range(8):  # a leak of 2.5 overshoots the state of rest by more and more
            states = jax.vmap(block)(states)
        beyond = checks.check_block(block, states)
        assert (beyond.verdict, beyond.claim, beyond.step_bound) == ("holds", "C01", 0.4)
        assert beyond.step_rises > 0
        assert beyond.worst_rise > 0
        monkeypatch.setattr(_certificate.Certificate, "step_bound_at", lambda self, x: 1.0)
        assert checks.check_block(block, states).verdict == "contradicted"


@pytest.mark.parametrize("still", ["weights of zero", "constant states"])
def test_where_nothing_moves_nothing_is_contradicted(still):
    """Neither work nor dissipation: 0/0 is no violation."""
    with jax.enable_x64(True):
        block = leaky_block(0.0)
        states = jr.normal(jr.key(1), (3, 3, 4))
        if still == "weights of zero":
            block = jax.tree.map(
                lambda leaf, trains: 0 * leaf if trains else leaf, block, trainable(block)
            )
        else:
            states = states.at[1].set(0.7)
        assert checks.check_block(block, states).verdict == "holds"


def test_the_worst_over_the_seeds(checked):
    first, second = by_arm(checked, "symmetric")
    bad = dataclasses.replace(
        second, verdict="contradicted", claim=None, asymmetry=0.1, step_bound=0.01, step_rises=0.5
    )
    (worst,) = checks.over_seeds([first, bad])
    assert (worst.verdict, worst.claim, worst.asymmetry) == ("contradicted", None, 0.1)
    assert (worst.step_bound, worst.step_rises) == (0.01, 0.5)
    assert not checks.RunCheck(6, 8, (), [first, bad]).passed


def test_a_damaged_checkpoint_is_passed_over_and_kept(tmp_path):
    run = make_run(tmp_path / "run", arms=("symmetric",))
    for path in (run / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    before = contents(run)
    assert checks.load_run(run).step == 0
    assert contents(run) == before
    with pytest.raises(UsageError, match="no checkpoint is readable"):
        checks.load_run(run / "checkpoints" / "6")
    with pytest.raises(UsageError, match="no checkpoint of step 7; there are 0, 6"):
        checks.load_run(run / "checkpoints" / "7")


def test_what_is_no_run_is_told_before_any_work(tmp_path, a_run, monkeypatch):
    with pytest.raises(UsageError, match="no study here"):
        checks.load_run(tmp_path)
    store.write_json(tmp_path / "study.json", store.read_json(a_run / "study.json"))
    with monkeypatch.context() as patch:
        patch.setattr(study_data, "load", lambda *_, **__: pytest.fail("the data were loaded"))
        with pytest.raises(
            UsageError, match=r"there is no checkpoint yet; go on with `hopmix resume"
        ):
            checks.load_run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    changed = study_data.Data(**{**vars(tiny_data()), "digest": "f" * 12})
    monkeypatch.setattr(study_data, "load", lambda *_, **__: changed)
    with pytest.raises(UsageError, match="stripes has changed since"):
        checks.load_run(a_run)
