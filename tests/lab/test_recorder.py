"""The recorder: what it writes is what a study would, of anybody's loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from lab.command import give
from lab.own_models import Coupled, Plain

from hopmix import Coupling, measure_asymmetry
from hopmix.lab import Recorder, UsageError, open_run, write_report

pytestmark = pytest.mark.usefixtures("as_in_a_study")


def train(model, steps: int):
    """Yield a model before each step of somebody's loop, with its loss."""
    optimiser = optax.adam(1e-2)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    images = jr.normal(jr.key(1), (16, 8), jnp.float32)
    labels = jnp.arange(16) % 3

    @eqx.filter_jit
    def step(model, state):
        def loss(model):
            logits = jax.vmap(model)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    for i in range(steps):
        following, state, value = step(model, state)
        yield i, model, float(value)
        model = following


def test_a_loop_of_ones_own_is_recorded_and_reported_on(tmp_path):
    recorder = Recorder(tmp_path / "run", "mine", seed=3)
    seen = []
    for step, model, loss in train(Coupled(8, 3, Coupling.broken, key=jr.key(0)), 3):
        recorder(step, model, train_loss=loss)
        seen.append((model, loss))
    run = open_run(tmp_path / "run")
    assert run.arms == ["mine"]
    assert list(run.metrics.step.values) == [0, 1, 2]
    for i, (model, loss) in enumerate(seen):
        row = run.metrics.sel(arm="mine", seed=3, branch="layers").isel(step=i)
        np.testing.assert_allclose(row.train_loss, loss, rtol=1e-6)
        for block, coupling in enumerate(model.layers):
            expected = measure_asymmetry(coupling)
            for name in ("cosine", "relative_breaking", "balance"):
                found = row[name].sel(block=block)
                np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-3, atol=1e-6)
    page = write_report(run.path).read_text("utf-8")
    assert "mine" in page


def test_layers_that_know_no_coupling_are_recorded_by_their_paths(tmp_path):
    model = Plain(8, 3, key=jr.key(0))
    recorder = Recorder(tmp_path, pairs=["up.weight:down.weight"])
    recorder(0, model)
    expected = measure_asymmetry(model.up.weight, model.down.weight)
    found = open_run(tmp_path).metrics.symmetry_score.item()
    np.testing.assert_allclose(found, expected.symmetry_score, rtol=1e-3)


def test_named_arrays_of_any_library_are_recorded(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    up = torch.nn.Parameter(torch.eye(3, 5))
    down = torch.nn.Parameter(torch.ones(5, 3))
    Recorder(tmp_path).record(0, {"layers.0.mlp": (up, down)})
    expected = measure_asymmetry(jnp.eye(3, 5), jnp.ones((5, 3)))
    np.testing.assert_allclose(open_run(tmp_path).metrics.cosine.item(), expected.cosine)


EYES = {"a": (np.eye(3, 4), np.eye(4, 3))}


def test_scores_of_ones_own_are_kept(tmp_path):
    recorder = Recorder(tmp_path)
    for step in (0, 10):
        recorder.record(step, EYES, perplexity=2.0 + step)
    assert list(open_run(tmp_path).metrics.perplexity.values.ravel()) == [2.0, 12.0]


@pytest.mark.parametrize(
    "record, told",
    [
        (lambda r: r.record(0, EYES, loss=1.0), "step: got 0, but it must be larger"),
        (lambda r: r.record(1, {"b": EYES["a"]}, loss=1.0), "weights: got b, but the first"),
        (lambda r: r.record(1, {}), "weights: got none"),
        (lambda r: r.record(2**31, EYES, loss=1.0), "step: got 2147483648"),
        (lambda r: r.record(1, {"a": (np.eye(5, 2), np.eye(2, 5))}, loss=1.0), "other shapes"),
        (lambda r: r.record(1, EYES, loss=1.0, cosine=1.0), "'cosine' is a name of hopmix's own"),
        (lambda r: r.record(1, EYES), "scores: got none, but the first record has loss"),
        (lambda r: r.record(1, {"a": (np.eye(3), np.eye(4))}, loss=1.0), "weights: a: "),
        (lambda r: r(1, eqx.nn.Linear(2, 2, key=jr.key(0)), loss=1.0), "it has no Coupling"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, record, told):
    recorder = Recorder(tmp_path)
    recorder.record(0, EYES, loss=0.0)
    with pytest.raises(UsageError) as error:
        record(recorder)
    assert told in str(error.value)
    assert open_run(tmp_path).last_step == 0


def test_a_folder_in_use_and_a_bad_name_are_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="holds something already"):
        Recorder(tmp_path)
    with pytest.raises(UsageError, match="give each arm one"):
        Recorder(tmp_path / "new", "")


@pytest.mark.parametrize("command", ["measure", "verify", "resume"])
def test_commands_that_need_checkpoints_say_that_there_are_none(tmp_path, capsys, command):
    Recorder(tmp_path / "run").record(0, EYES)
    code, _, told = give(capsys, command, str(tmp_path / "run"))
    assert code == 2
    assert "a Recorder wrote it" in told
