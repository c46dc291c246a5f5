import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from lab.probing import DIMENSIONS, EXPENSIVE, of_couplings
from lab.tiny import tiny_study, train_study

from hopmix import Coupling, Mixer, MixerConfig, couplings, map_couplings
from hopmix.lab.probes.blocks import EnergyDescent, Fields
from hopmix.lab.probes.couplings import LARGEST
from hopmix.lab.study.interval import advance, compile_all
from hopmix.lab.tasks import classification
from hopmix.lab.train.cached_jit import CachedJit

pytestmark = pytest.mark.usefixtures("as_in_a_study")


@pytest.fixture(scope="module")
def trained(as_in_a_study):
    small = tiny_study()
    return small, *train_study(small)


def arrays_of(model: Mixer) -> Mixer:
    return eqx.filter(model, eqx.is_array)


# ---- Explicit down-weights -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"coupling": "symmetric"},
        {"coupling": "broken", "breaking": "xavier"},
        {"coupling": "free", "norm": "token"},
        {"coupling": "symmetric", "block": "serial", "bias": True},
        {"coupling": "symmetric", "hidden_ratio": 2, "n_iter": 2},
    ],
    ids=str,
)
def test_a_mixer_with_explicit_down_weights_is_the_same_mixer(getkey, options):
    config = MixerConfig((8, 8, 1), 4, dim=8, depth=2, classes=3, **options)
    model = Mixer(config, key=getkey())
    model = eqx.tree_at(
        lambda m: m.head.weight, model, jr.normal(getkey(), model.head.weight.shape)
    )
    same = map_couplings(Coupling.explicit, model)
    images = jr.normal(getkey(), (4, 8, 8, 1))
    for ours, theirs in zip(couplings(same), couplings(model), strict=True):
        np.testing.assert_array_equal(ours.down, theirs.down)
        assert ours.breaking is not None
    np.testing.assert_allclose(same.batch(images), model.batch(images), rtol=1e-4, atol=1e-5)
    for probe in (EnergyDescent(), Fields()):
        measure = eqx.filter_jit(lambda model, probe=probe: probe(model, images, jr.key(0)))
        found = measure(same)
        expected = measure(model)
        for name in expected:
            scale = np.nanmax(np.abs(expected[name]), initial=1.0)
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-3, atol=2e-5 * scale, err_msg=name
            )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        of_couplings(same),
        of_couplings(model),
    )


def test_mixers_of_one_shape_have_one_form_and_others_their_own(getkey):
    """Free, broken and symmetric ones; not those of another width, norm or order of mixings."""
    form = lambda **options: jax.tree.structure(
        map_couplings(
            Coupling.explicit, Mixer(MixerConfig((8, 8, 1), 4, 8, 2, 3, **options), key=getkey())
        )
    )
    assert (
        form(coupling="free")
        == form(coupling="symmetric")
        == form(coupling="broken", breaking="xavier")
    )
    assert len({form(), form(hidden_ratio=2), form(norm="token"), form(block="serial")}) == 4


# ---- What is compiled ----------------------------------------------------------------------------


def test_arms_share_what_measures_them():
    """Three structures train, one of them in two arms; blocks have two forms, and all couplings the
    same shapes.
    """
    small = tiny_study(arms=("serial", "free", "broken", "symmetric"), depth=1)
    states = [program.initial() for program in small.populations]
    compile_all(small, states, small.dataset)
    count = lambda: (
        [len(p.compiled.programs) for p in small.populations],
        len(small.evaluator.programs),
    )
    assert (counted := count()) == ([1, 1, 1], 2 + 2 + 1 + 1)
    for step in (-1, 0):
        advance(small, states, step)
    assert count() == counted  # nothing is compiled once a study runs


def test_a_study_without_spectra_and_fields_does_not_compile_them():
    small = tiny_study(arms=("symmetric",), depth=1, spectra_every=0)
    states = [program.initial() for program in small.populations]
    compile_all(small, states, small.dataset)
    advance(small, states, -1)
    assert len(small.compiled()) == 3


def test_a_function_is_compiled_once_for_each_form_of_its_arguments():
    traced = []

    def double(tree):
        traced.append(None)
        return jax.tree.map(lambda leaf: 2 * leaf, tree)

    ahead = CachedJit(double)
    with ThreadPoolExecutor(1) as compiler:
        for _ in range(2):
            ahead.prepare(compiler, {"a": jax.ShapeDtypeStruct((3,), jnp.float32)})
    np.testing.assert_array_equal(ahead({"a": jnp.arange(3.0)})["a"], [0, 2, 4])
    assert len(traced) == len(ahead.programs) == 1
    np.testing.assert_array_equal(
        ahead({"b": jnp.arange(3)})["b"], [0, 2, 4]
    )  # not prepared, and another form
    assert len(traced) == len(ahead.programs) == 2


def test_what_fails_to_compile_says_so_where_it_is_waited_for():
    ahead = CachedJit(lambda x: x, compiler_options={"xla_no_such_option": 1})
    with ThreadPoolExecutor(1) as compiler:
        ahead.prepare(compiler, jnp.ones(()))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        assert ahead.programs


def test_what_was_cancelled_is_compiled_when_it_is_asked_for_again():
    """As after Ctrl-C in a notebook, where the study stays."""
    ahead = CachedJit(lambda x: x + 1)
    busy = threading.Event()
    with ThreadPoolExecutor(1) as compiler:
        compiler.submit(busy.wait)
        ahead.prepare(compiler, jnp.ones(()))
        compiler.shutdown(wait=False, cancel_futures=True)
        busy.set()
    assert ahead(jnp.ones(())) == 2


# ---- What is measured ----------------------------------------------------------------------------


def test_looking_deeper_changes_nothing():
    results = []
    for deep in (0, 1):
        states, rows = train_study(tiny_study(arms=("broken",), depth=1, spectra_every=deep), 2)
        results.append((states, [{name: row[name] for name in DIMENSIONS} for row in rows]))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_everything_is_measured(trained):
    small, _, rows = trained
    sizes = {"block": 2, "branch": 2, "eigenvalue": LARGEST}
    for row in rows:
        assert set(row) == set(DIMENSIONS) | set(EXPENSIVE) | {"diverged_step"}
        for name, dims in (DIMENSIONS | EXPENSIVE).items():
            assert row[name].shape == (
                len(small.arms),
                small.config.seeds,
                *(sizes[dim] for dim in dims),
            )
    assert np.all(np.isnan(rows[0]["train_loss"]))
    for row in rows[1:]:
        assert all(np.all(np.isfinite(row[name])) for name in DIMENSIONS)


def test_each_member_is_measured_as_itself(trained):
    """All that arms and seeds share programs for, against the same measures of one model at a
    time.
    """
    small, (members,), rows = trained
    (program,) = small.populations
    last = rows[-1]
    data = small.dataset
    pixels = (np.asarray(data.validation.pixels) / 255 - np.asarray(data.mean)) / np.asarray(
        data.std
    )
    for i, (arm, seed) in enumerate(program.members):
        model = program.model(jax.tree.map(lambda a, i=i: a[i], members.model))
        place = small.arms.index(arm), small.seeds.index(seed)
        for name, values in of_couplings(model).items():
            np.testing.assert_allclose(
                last[name][place], values, rtol=1e-3, atol=1e-5, err_msg=name
            )
        own = [leaf for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)) if leaf.size > 1]
        norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in own))
        np.testing.assert_allclose(last["parameter_norm"][place], norm, rtol=1e-4)
        logits = eqx.filter_jit(lambda m, x: m.batch(x))(model, jnp.asarray(pixels, jnp.float32))
        loss = optax.softmax_cross_entropy_with_integer_labels(
            logits, small.dataset.validation.labels
        ).mean()
        np.testing.assert_allclose(last["validation_loss"][place], loss, rtol=1e-4)


def test_spectra_and_fields_are_measured_where_they_are_asked_for(trained):
    """At the first and the last measurement; between them there is nothing. Four tokens have four
    eigenvalues.
    """
    _, _, rows = trained
    for row in (rows[0], rows[-1]):
        for name, dims in EXPENSIVE.items():
            kept = row[name][..., :4] if "eigenvalue" in dims else row[name]
            assert np.all(np.isfinite(kept)), name
    assert all(np.all(np.isnan(row[name])) for row in rows[1:-1] for name in EXPENSIVE)


def test_the_next_step_breaks_the_symmetry_as_predicted():
    """The predicted rate of the breaking ratio, from the update alone, against the ratio one step
    later.

    At a tied point the ratio after a step is the prediction; later on it is so to first order in
    the step.
    """
    small = tiny_study(measurements=24, learning_rate=1e-3, warmup=0.0, spectra_every=1)
    assert small.schedule.interval == 1
    _, measured = train_study(small, 20)
    rows = [
        {name: row[name][1] for name in ("breaking_ratio", "breaking_rate")} for row in measured
    ]  # the broken arm
    growth = [
        after["breaking_ratio"] - before["breaking_ratio"]
        for before, after in itertools.pairwise(rows)
    ]
    assert np.all(
        rows[0]["breaking_rate"] == 0
    )  # the head starts at zero: nothing breaks in the first step
    np.testing.assert_allclose(growth[1], rows[1]["breaking_rate"], rtol=0.01)
    assert np.all(growth[1] > 1e-4)
    later = (
        np.mean(growth[10:], axis=0),
        np.mean([row["breaking_rate"] for row in rows[10:-1]], axis=0),
    )
    np.testing.assert_allclose(*later, rtol=0.1)


def test_a_symmetric_arm_stays_symmetric_in_what_is_measured_of_it():
    """Exactly in its weights, though they are measured with explicit down-weights, and to rounding
    in its fields.
    """
    _, rows = train_study(tiny_study(arms=("free", "symmetric"), depth=1))
    free = {name: row[0] for name, row in rows[-1].items()}
    tied = {name: row[1] for name, row in rows[-1].items()}
    for name in ("breaking_ratio", "relative_breaking", "breaking_rate", "complex_fraction"):
        assert np.all(tied[name] == 0), name
    assert all(np.all(free[name] > 0) for name in ("breaking_ratio", "relative_breaking"))
    np.testing.assert_allclose(tied["cosine"], 1, rtol=1e-6)
    assert np.all(tied["field_asymmetry"] < 1e-4 * free["field_asymmetry"])
    assert np.all(np.abs(tied["work"]) < 1e-4 * tied["dissipation"])


def test_evaluation_equals_the_plain_mean(trained, monkeypatch):
    small, (members,), _ = trained
    (program,) = small.populations
    dataset = small.dataset
    monkeypatch.setattr(classification, "EVALUATION_BATCH", 16)
    model = program.model(jax.tree.map(lambda a: a[0], members.model))
    scores = small.task.scores(model, dataset.validation, dataset)
    pixels = (np.asarray(dataset.validation.pixels) / 255 - np.asarray(dataset.mean)) / np.asarray(
        dataset.std
    )
    logits = jax.vmap(model)(jnp.asarray(pixels, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, dataset.validation.labels)
    np.testing.assert_allclose(scores["loss"], jnp.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(
        scores["accuracy"], jnp.mean(logits.argmax(-1) == dataset.validation.labels), rtol=1e-6
    )
