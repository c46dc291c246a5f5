"""Studies of models, arms, probes and data of the user's own, from Python and from the command
line.
"""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from lab import own_models
from lab.command import give
from lab.tiny import tiny_config, tiny_data, tiny_split

from hopmix import Coupling, Frozen, measure_asymmetry
from hopmix.lab import Arm, Look, Section, UsageError, open_run, run_study, store, write_report
from hopmix.lab.data import study_data
from hopmix.lab.probes import AbstractModelProbe
from hopmix.lab.study import study
from hopmix.plot.style import ArmStyle, arm_styles
from hopmix.symmetry.quantities import Quantity

pytestmark = pytest.mark.usefixtures("as_in_a_study")
FILE = Path(own_models.__file__)
SHORT = {"epochs": 2, "measurements": 2, "seeds": 2, "depth": 1}


@pytest.fixture(scope="module")
def family(as_in_a_study, tmp_path_factory):
    """A run of two kinds of models of the user's own, with probes of the user's own."""
    out = tmp_path_factory.mktemp("own") / "run"
    steps = []
    both = lambda image, classes: [
        *own_models.family(image, classes),
        *own_models.paired(image, classes),
    ]
    run = run_study(
        tiny_config(**SHORT),
        out,
        arms=both,
        data=tiny_data(),
        probes=own_models.probes,
        on_progress=lambda progress: steps.append(progress.step),
    )
    return run, steps


def test_a_family_of_ones_own_is_trained_and_measured(family):
    run, steps = family
    assert steps == [0, 6, 12]
    assert run.arms == ["held at 0", "held at 0.1", "loose", "paired"]
    assert run.finished
    metrics = run.metrics
    assert set(metrics.branch.values) == {"layers", "up.weight:down.weight"}
    assert list(metrics.block.values) == [0, 1]
    own = metrics.sel(branch="layers", arm=["held at 0", "held at 0.1", "loose"])
    assert np.isfinite(own.cosine).all()
    assert (own.relative_breaking.sel(arm="held at 0", step=0) == 0).all()
    ends = own.relative_breaking.isel(step=-1).mean(("seed", "block"))
    assert ends.sel(arm="held at 0") > ends.sel(arm="held at 0.1") > 0
    pair = metrics.cosine.sel(arm="paired", branch="up.weight:down.weight")
    assert np.isfinite(pair.sel(block=0)).all()
    assert np.isnan(pair.sel(block=1)).all()
    assert (metrics.penalty.sel(arm="paired").isel(step=-1) > 0).all()
    assert (metrics.penalty.sel(arm="loose").isel(step=-1) == 0).all()
    assert "energy_change" not in metrics


def test_what_is_measured_is_that_of_the_model(family):
    """At step 0, against each index of the model that the arm makes."""
    run, _ = family
    for arm in own_models.family((8, 8, 1), 3):
        model = arm.make(jr.fold_in(jr.key(1), 0))
        for block, coupling in enumerate(model.layers):
            found = run.metrics.sel(arm=arm.name, seed=1, step=0, block=block, branch="layers")
            expected = measure_asymmetry(coupling)._asdict()
            for name in ("cosine", "symmetry_score", "breaking_ratio", "balance"):
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-5)
            trace = np.trace(np.asarray(coupling.down @ coupling.up))
            np.testing.assert_allclose(found.trace, trace, rtol=1e-3, atol=1e-5)
        leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
        largest = run.metrics.largest.sel(arm=arm.name, seed=1, step=0)
        assert float(largest) >= max(float(jnp.abs(leaf).max()) for leaf in leaves) - 1e-6


def test_a_run_is_a_table(family):
    run, _ = family
    table = open_run(run.path).table()
    assert len(table) == 4 * 2
    loose = table[(table.arm == "loose") & (table.seed == 1)]
    cosine = run.metrics.cosine.isel(step=-1).sel(arm="loose", seed=1).mean()
    np.testing.assert_allclose(loose.cosine.item(), float(cosine), rtol=1e-6)
    results = {arm["name"]: arm["test_accuracy"]["values"] for arm in run.results["arms"]}
    assert loose.test_accuracy.item() == results["loose"][1]
    assert run.metrics.trace.attrs["long_name"] == "trace of VW"


def test_a_run_of_ones_own_models_is_reported_on_without_them(family, tmp_path, monkeypatch):
    run, _ = family
    copy = shutil.copytree(run.path, tmp_path / "copy", symlinks=True)
    monkeypatch.setattr(own_models, "family", lambda *_: pytest.fail("it was run"))
    page = write_report(copy).read_text("utf-8")
    assert "held at 0.1" in page
    assert "No energy has been measured" in page


def test_a_study_of_no_couplings_has_no_indices(tmp_path):
    run = run_study(
        tiny_config(**SHORT), tmp_path, arms=own_models.without_couplings, data=tiny_data()
    )
    assert "cosine" not in run.metrics
    assert "branch" not in run.metrics.dims
    assert np.isfinite(run.metrics.validation_accuracy).all()
    page = write_report(run.path).read_text("utf-8")
    assert "No index of asymmetry" in page


def test_an_arm_is_drawn_as_it_says(family):
    run, _ = family
    styles = arm_styles(run.metrics)
    assert styles["loose"] == ArmStyle("loose", "#123456", "dot", "square")
    assert len({style.colour for style in styles.values()}) == len(styles)
    spoiled = run.metrics.copy()
    spoiled.kind.attrs["looks"] = '{"loose": {"colours": ["red;"], "dash": "dot", "marker": 3}}'
    assert arm_styles(spoiled)["loose"].colour.startswith("#")


@pytest.mark.parametrize(
    "look, told",
    [
        ((("red",), "dot", "square"), "colours such as '#0072b2'"),
        ((("#123456",), "dots", "square"), "one of solid, dash"),
        ((("#123456",), "dot", "star"), "one of circle, square"),
    ],
)
def test_a_look_that_cannot_be_drawn_is_told(look, told):
    with pytest.raises(UsageError, match=told):
        Look(*look)


def test_a_section_of_ones_own_stands_on_the_page(family, tmp_path, capsys):
    run, _ = family
    copy = shutil.copytree(run.path, tmp_path / "copy", symlinks=True)
    page = write_report(copy, own_models.sections).read_text("utf-8")
    assert "The largest parameter of all is" in page
    assert '<a href="#largest">The largest parameters</a>' in page
    assert "largest parameter of all" not in write_report(copy).read_text("utf-8")
    assert give(capsys, "report", str(copy), "--sections", f"{FILE}:sections")[0] == 0
    assert "The largest parameter of all is" in (copy / "report.html").read_text("utf-8")
    bodies: Any = ((lambda run: "", "TypeError"), (lambda run, figures: 3, "gives int"))
    for body, fault in bodies:
        with pytest.raises(UsageError, match=f"sections: mine .*{fault}"):
            write_report(copy, [Section("mine", "Mine", body)])
    with pytest.raises(UsageError, match="two are named 'largest'"):
        write_report(copy, own_models.sections * 2)
    code, _, told = give(capsys, "report", str(copy), "--sections", f"{FILE}:probes")
    assert code == 2
    assert "holds a WeightSize; give one or more hopmix.lab.report.section.Section" in told


# ---- Going on ------------------------------------------------------------------------------------


def stop_at(step: int):
    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return stop


def test_a_study_goes_on_to_the_same_end(tmp_path, family):
    whole, _ = family
    config = tiny_config(**SHORT)
    given = {"arms": own_models.family, "data": tiny_data()}
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run", on_progress=stop_at(6), **given)
    run = run_study(config, tmp_path / "run", resume=True, **given)
    assert run.finished
    for name in ("cosine", "validation_loss", "breaking_ratio"):
        expected = whole.metrics[name].sel(arm=run.arms)
        if "branch" in expected.dims:
            expected = expected.sel(branch=["layers"])
        np.testing.assert_array_equal(run.metrics[name], expected)
    with pytest.raises(UsageError, match="holds this study already"):
        run_study(config, tmp_path / "run", **given)


def test_what_was_trained_is_saved_though_the_callback_fails(tmp_path):
    config = tiny_config(**SHORT | {"seeds": 1})
    given = {"arms": own_models.without_couplings, "data": tiny_data()}

    def fail(progress):
        if progress.step == 6:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_study(config, tmp_path / "run", on_progress=fail, **given)
    assert open_run(tmp_path / "run").last_step == 6


def test_arms_are_told_apart_by_more_than_their_places(tmp_path):
    """Members of a checkpoint have places only: arms in another order would change theirs."""
    config = tiny_config(**SHORT | {"seeds": 1})
    arms = own_models.family((8, 8, 1), 3)
    given = {"data": tiny_data(), "resume": True}
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run", arms=arms, on_progress=stop_at(6), **given)
    for others, told in (
        (arms[::-1], "name of 'held at 0' was"),
        (arms[:2], "begun with 3 arms"),
        ([*arms[:2], dataclasses.replace(arms[2], strength=0.5)], "strength of 'loose' was None"),
    ):
        with pytest.raises(UsageError, match=told):
            run_study(config, tmp_path / "run", arms=others, **given)


def test_a_pair_may_be_stored_as_its_transpose(tmp_path):
    """As a whole study: shapes are asked for in many places."""
    (arm,) = own_models.paired((8, 8, 1), 3)
    turned = dataclasses.replace(arm, pairs=["down.weight.T:up.weight.T"])
    config = tiny_config(**SHORT | {"seeds": 1})
    run = run_study(config, tmp_path / "run", arms=[turned], data=tiny_data())
    model = arm.make(jr.fold_in(jr.key(0), 0))
    expected = measure_asymmetry(model.down.weight.T, model.up.weight.T).cosine
    np.testing.assert_allclose(run.metrics.cosine.isel(step=0).item(), expected, rtol=1e-3)


def ablate(monkeypatch, out, *words):
    monkeypatch.setattr(study_data, "load", tiny_data)
    options = ["--seeds", "1", "--epochs", "1", "--measurements", "1", "--batch", "16"]
    return ["ablate", *options, "--dim", "8", "--depth", "1", "--out", str(out), *words]


def test_a_file_of_arms_from_the_command_line(tmp_path, monkeypatch, capsys):
    file = shutil.copy(FILE, tmp_path / "my_study.py")
    entry = f"{file}:family"
    out = tmp_path / "run"
    own = ["--arms", "free", entry, "--probes", f"{file}:probes"]
    code, told, _ = give(capsys, *ablate(monkeypatch, out, *own))
    assert code == 0
    assert "held at 0.1" in told
    record = store.read_record(out).values
    assert list(record["own"]) == [entry, f"{file}:probes"]
    assert np.isfinite(open_run(out).metrics.largest).all()
    code, told, _ = give(capsys, "measure", str(out), "--arms", entry, "--pairings", "0")
    assert (code, "loose" in told) == (0, True)
    Path(file).write_text("raise RuntimeError('it was run')")
    assert give(capsys, "report", str(out))[0] == 0
    for command in ("measure", "verify"):
        code, _, told = give(capsys, command, str(out))
        assert code == 2
        assert f"begun with {entry}; give that again with --arms" in told


def test_a_file_that_has_changed_is_not_gone_on_with(tmp_path, monkeypatch, capsys):
    file = shutil.copy(FILE, tmp_path / "my_study.py")
    entry = f"{file}:family"
    out = tmp_path / "run"
    words = ablate(monkeypatch, out, "--arms", entry)
    monkeypatch.setattr(study, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        give(capsys, *words)
    monkeypatch.undo()
    monkeypatch.setattr(study_data, "load", tiny_data)
    code, _, told = give(capsys, "resume", str(out))
    assert code == 2
    assert "give that again with --arms" in told
    before = Path(file).read_text()
    Path(file).write_text(before + "\n")
    code, _, told = give(capsys, "resume", str(out), "--arms", entry)
    assert code == 2
    assert "its digest differs" in told
    Path(file).write_text(before)
    assert give(capsys, "resume", str(out), "--arms", entry)[0] == 0


# ---- Bad input -----------------------------------------------------------------------------------


def bad_model(outputs=3, value=0.0):
    class Bad(eqx.Module):
        weight: jax.Array

        def __call__(self, image):
            return value + self.weight @ image.reshape(-1)

    return lambda key: Bad(jnp.ones((outputs, 64)))


class Constant(eqx.Module):
    """Logits that no image changes."""

    value: Any
    after: Any = lambda z: z

    def __call__(self, image):
        return self.after(self.value + 0 * jnp.sum(image))


def endless(z):
    return jax.lax.while_loop(lambda z: jnp.sum(z) < 0, lambda z: z + 1, z)


class Stacked(eqx.Module):
    """Layers side by side, as a loop over layers has them."""

    layers: Coupling

    def __init__(self, key):
        self.layers = eqx.filter_vmap(lambda k: Coupling.free(64, 3, key=k))(jr.split(key, 2))

    def __call__(self, image):
        return jnp.sum(self.layers.up @ image.reshape(-1), axis=0)


class Held(eqx.Module):
    """One side of it never trains."""

    up: jax.Array
    down: Frozen

    def __init__(self, key):
        self.up = jnp.ones((3, 64))
        self.down = Frozen(jnp.ones((64, 3)))

    def __call__(self, image):
        return self.up @ image.reshape(-1) + self.down.array.T @ image.reshape(-1)


BAD = {
    "no arms": ([], "holds nothing"),
    "no arm": ([3], "holds a int"),
    "not a list": (lambda image, classes: 3, "is int; it must be a list"),
    "two of a name": ([Arm("a", make=bad_model())] * 2, "two are named 'a'"),
    "wrong shapes": ([Arm("a", make=bad_model(7))], "gives (2, 7) for a batch of 2 images"),
    "NaN": ([Arm("a", make=bad_model(value=jnp.nan))], "logits that are not finite"),
    "cannot take images": (
        [Arm("a", make=lambda key: eqx.nn.Linear(3, 3, key=key))],
        "can't take images of 8 x 8 x 1",
    ),
    "make fails": (
        [Arm("a", make=lambda key: 1 / 0)],
        "make of a, called with a key, fails (ZeroDivisionError",
    ),
    "nothing trains": ([Arm("a", make=lambda key: eqx.nn.Identity())], "nothing trains"),
    "a penalty of nothing": ([Arm("a", make=bad_model(), strength=1.0)], "no coupling and no pair"),
    "no such pair": (
        [Arm("a", make=bad_model(), pairs=["weight:other"])],
        "no matrix 'other'",
    ),
    "no pair of shapes": ([Arm("a", make=bad_model(), pairs=["weight:weight"])], "is 3 x 64 and"),
    "a pair twice": (
        [Arm("a", make=bad_model(64), pairs=["weight:weight.T"] * 2)],
        "are paired twice",
    ),
    "arrays of NumPy": ([Arm("a", make=lambda key: Constant(np.ones(3)))], "arrays of NumPy"),
    "complex arrays": ([Arm("a", make=lambda key: Constant(1j * jnp.ones(3)))], "complex arrays"),
    "whole logits": (
        [Arm("a", make=lambda key: Constant(jnp.ones(3), lambda z: z.astype(int)))],
        "logits are real numbers",
    ),
    "no gradient": (
        [Arm("a", make=lambda key: Constant(jnp.ones(3), endless))],
        "has no gradient or needs a key",
    ),
    "dropout without a key": (
        [Arm("a", make=lambda key: Constant(jnp.ones(3), eqx.nn.Dropout(0.5)))],
        "has no gradient or needs a key",
    ),
    "stacked couplings": (
        [Arm("a", make=lambda key: Stacked(key))],
        "is no matrix, as where layers are stacked",
    ),
    "a pair that is frozen": (
        [Arm("a", make=lambda key: Held(key), pairs=["up:down.array"])],
        "never trains, and has no pair",
    ),
    "half a pair": ([Arm("a", make=bad_model(), pairs=["weight"])], "give 'UP:DOWN'"),
    "a function that fails": (lambda image, classes: 1 / 0, "fails (ZeroDivisionError"),
}


@pytest.mark.parametrize("arms, told", BAD.values(), ids=BAD)
def test_arms_that_cannot_be_trained_are_told_before_training(tmp_path, arms, told):
    # A function, whose result nobody's type checker looks at.
    given: Any = arms if callable(arms) else lambda image, classes: arms
    with pytest.raises(UsageError) as error:
        run_study(tiny_config(**SHORT), tmp_path / "run", arms=given, data=tiny_data())
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "study.json").exists()


@pytest.mark.parametrize(
    "options, told",
    [
        ({"name": " "}, "give each arm one"),
        ({"name": "a|b"}, r"without '\|'"),
        ({"name": "a"}, "has no make"),
        ({"name": "a", "make": bad_model(), "strength": -1.0}, "has the strength -1.0"),
    ],
)
def test_an_arm_is_checked_when_it_is_made(options, told):
    with pytest.raises(UsageError, match=told):
        Arm(**options)


@pytest.mark.parametrize(
    "content, entry, told",
    [
        (None, "nowhere.py:arms", "can't be read"),
        ("1 +", "bad.py:arms", "can't be imported (SyntaxError"),
        ("import no_such_module", "bad.py:arms", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "bad.py:arms", "SystemExit: 3"),
        ("arms = []", "bad.py:others", "has no 'others'; it has arms"),
    ],
)
def test_a_file_that_fails_is_told_in_one_line(tmp_path, monkeypatch, capsys, content, entry, told):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("bad.py").write_text(content)
    code, _, error = give(capsys, *ablate(monkeypatch, "run", "--arms", entry))
    assert code == 2
    assert told in error
    assert len(error.strip().splitlines()) == 1


def probe_of(name: str, dims=(), found: Any = ...):
    class Probe(AbstractModelProbe):
        quantities: ClassVar = (Quantity(name, name, "", "", "", dims),)

        def __call__(self, model, inputs, key) -> Any:
            return {name: jnp.zeros(())} if found is ... else found

    return Probe()


@pytest.mark.parametrize(
    "probe, told",
    [
        (probe_of("cosine"), "'cosine' is measured already"),
        (probe_of("new", ("token",)), "has the dimensions"),
        (probe_of("seed"), "'seed' is measured already"),
        (probe_of("a/b"), "give one of letters"),
        (probe_of("new", found={}), r"returns \[\] on free; it must be a dictionary of new"),
        (probe_of("new", found={"cosine": jnp.ones(())}), r"returns \['cosine'\]"),
        (probe_of("new", found=None), "returns NoneType"),
        (probe_of("new", found={"new": jnp.ones(3)}), r"float\d+\(3,\) on free"),
        (probe_of("new", found={"new": jnp.ones((), int)}), "is int"),
        (probe_of("new", ("block",), {"new": jnp.ones(7)}), r"float\d+\(7,\) on free"),
        (probe_of("new", ("block", "branch"), {"new": jnp.ones(())}), "a model gives one"),
    ],
)
def test_probes_that_cannot_be_stored_are_told(tmp_path, probe, told):
    with pytest.raises(UsageError, match=told):
        run_study(
            tiny_config(**SHORT | {"arms": ("free",)}),
            tmp_path / "run",
            data=tiny_data(),
            probes=[probe],
        )


# ---- Data ----------------------------------------------------------------------------------------


def test_arrays_are_data(tmp_path):
    train = tiny_split(96, 0)
    test = tiny_split(36, 2)
    arrays = {
        "x_train": train.images,
        "y_train": train.labels,
        "x_test": test.images,
        "y_test": test.labels,
    }
    run = run_study(tiny_config(**SHORT | {"arms": ("free",)}), tmp_path, data=arrays)
    assert run.study["data"]["test"] == 36
    assert run.study["config"]["data"] == "python:data"
    with pytest.raises(UsageError, match="name the arrays x_train"):
        run_study(tiny_config(), tmp_path / "other", data={"x": train.images})


def test_the_page_about_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (FILE.parents[2] / "docs" / "your-own-models.md").read_text("utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "page", "exec"), names)
    written = {path.name for path in tmp_path.glob("runs/*")}
    assert written == {"own", "traced", "recorded", "arrays"}
