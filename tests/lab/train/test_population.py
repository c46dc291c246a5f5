import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from lab.probing import BRANCHES, DIMENSIONS, branch_coupling
from lab.tiny import tiny_config, tiny_data, tiny_study, train_study

from hopmix import Mixer, MixerConfig, couplings
from hopmix.lab.config import ARMS
from hopmix.lab.data.augment import Augment
from hopmix.lab.runtime.interrupts import Interrupted
from hopmix.lab.study.arms import make_arms
from hopmix.lab.tasks.classification import Classification, Dataset, make_dataset, make_task
from hopmix.lab.train import population as training
from hopmix.lab.train.population import Population, populations_of
from hopmix.lab.train.sampler import Schedule, draw_rows
from hopmix.lab.train.step import objective

pytestmark = pytest.mark.usefixtures("as_in_a_study")


def make_population(**changes) -> tuple[Population, Dataset]:
    config = tiny_config(**changes)
    dataset = make_dataset(tiny_data())
    task = make_task(config, dataset.image)
    return Population(config, task, make_arms(config, (8, 8, 1), 3), dataset), dataset


def ups(model: Mixer) -> list[jax.Array]:
    return [branch_coupling(block, branch).up for block in model.blocks for branch in BRANCHES]


@pytest.fixture(scope="module")
def trained(as_in_a_study):
    small = tiny_study()
    return small, *train_study(small)


@pytest.mark.parametrize(
    "epochs, images, batch, measurements",
    [(4, 96, 16, 4), (3, 100, 16, 5), (1, 7, 7, 30), (7, 50, 9, 3)],
)
def test_schedule_covers_all_epochs_in_whole_intervals(epochs, images, batch, measurements):
    config = tiny_config(epochs=epochs, batch=batch, measurements=measurements)
    schedule = Schedule.of(config, images)
    assert schedule.total % schedule.interval == 0
    assert (
        epochs * (images // batch)
        <= schedule.total
        < epochs * (images // batch) + schedule.interval
    )
    assert schedule.total // schedule.interval <= measurements


def test_same_seed_same_start_in_every_arm():
    """The paired design: stem, head and up-weights of a seed are those of every arm."""
    config = tiny_config(arms=ARMS)
    dataset = make_dataset(tiny_data())
    arms = make_arms(config, (8, 8, 1), 3)
    models = {}
    for group in populations_of(config, make_task(config, (8, 8, 1)), arms, dataset):
        members = group.initial()
        for i, (arm, seed) in enumerate(group.members):
            models[arm.kind, seed] = group.model(jax.tree.map(lambda a, i=i: a[i], members.model))
    reference = models["free", 0]
    for kind in set(ARMS) - {"symmetric-wide"}:
        for ours, theirs in zip(ups(models[kind, 0]), ups(reference), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(models[kind, 0].stem.weight, reference.stem.weight)
        np.testing.assert_array_equal(models[kind, 0].head.weight, reference.head.weight)
    assert not np.array_equal(models["free", 1].stem.weight, reference.stem.weight)
    # The wide arm can't have equal matrices; its first rows are the same draws, up to the narrower
    # bound.
    for wide, theirs in zip(ups(models["symmetric-wide", 0]), ups(reference), strict=True):
        rows = wide[: theirs.shape[0]]
        np.testing.assert_allclose(rows / rows[0, 0], theirs / theirs[0, 0], rtol=1e-5)


def test_batches_are_fresh_permutations_each_epoch_and_depend_on_the_seed_alone():
    group, _ = make_population(epochs=4, measurements=2)
    seeds = jnp.asarray([3, 4], jnp.int32)
    per_interval = [draw_rows(seeds, jnp.int32(step), group.schedule, 16, 96) for step in (0, 12)]
    rows, others = np.concatenate(per_interval, axis=1).reshape(2, 4, 96)
    for epoch in rows:
        assert sorted(epoch) == list(range(96))
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], others[0])
    (alone,) = draw_rows(seeds[1:], jnp.int32(0), group.schedule, 16, 96)
    np.testing.assert_array_equal(np.ravel(alone), np.ravel(others[:2]))


def test_intervals_of_any_length_see_the_same_batches():
    (long, dataset) = make_population(epochs=5, measurements=2)
    (short, _) = make_population(epochs=5, measurements=30)
    assert (long.schedule.interval, short.schedule.interval) == (15, 1)
    one_by_one = np.concatenate([short.rows(step, dataset) for step in range(15)], axis=1)
    np.testing.assert_array_equal(one_by_one, long.rows(0, dataset))


def test_members_of_a_seed_see_the_same_batches():
    group, dataset = make_population()
    rows = np.asarray(group.rows(0, dataset))
    seeds = [seed for _, seed in group.members]
    assert len(rows) == len(seeds) == 4
    for one, other in itertools.combinations(range(4), 2):
        assert np.array_equal(rows[one], rows[other]) == (seeds[one] == seeds[other])


def test_one_program_serves_intervals_of_any_length():
    group, dataset = make_population(arms=("free",), depth=1)
    members = group.initial()
    for steps in (1, 3, group.schedule.interval):
        members, *_ = group.run(members, 0, steps, dataset)
    group.next_updates(members, 0, dataset)
    assert len(group.compiled.programs) == 1


def test_steps_add_up_and_tell_what_the_last_one_added():
    group, dataset = make_population(arms=("free",), depth=1, warmup=0.0)
    first, logs, _ = group.run(group.initial(), 0, 1, dataset)
    both, _, _ = group.run(group.initial(), 0, 2, dataset)
    before = jax.tree.map(np.array, group.parameters_of(first))
    numbers = (jnp.int32(0), jnp.int32(1), jnp.int32(1))
    second, _, updates = group.compiled(
        first, group.no_logs(), *numbers, group.rows(0, dataset), dataset
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), second, both)
    added = jax.tree.map(np.subtract, group.parameters_of(second), before)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), added, updates
    )
    np.testing.assert_allclose(logs[:, 0], np.log(3), rtol=1e-5)  # the head starts at zero


def test_an_interval_in_many_calls_gives_the_same_bits_as_in_one(monkeypatch):
    group, dataset = make_population(depth=1, drop_path=0.5, augment="light")
    steps = group.schedule.interval
    calls = []
    whole = []
    for seconds in (0.0, 1e9):  # one step a call, and one call in which all that is left is done
        monkeypatch.setattr(training, "CALL_SECONDS", seconds)
        count = len(calls)
        whole.append(group.run(group.initial(), 0, steps, dataset, lambda: calls.append(1)))
        assert len(calls) - count == (steps - 1 if seconds == 0 else 1)
    jax.tree.map(np.testing.assert_array_equal, *whole)
    numbers = (jnp.int32(0), jnp.int32(0), jnp.int32(steps))
    members, logs, updates = group.compiled(
        group.initial(), group.no_logs(), *numbers, group.rows(0, dataset), dataset
    )
    jax.tree.map(np.testing.assert_array_equal, (members, logs / steps, updates), whole[0])


def test_what_is_raised_between_two_calls_ends_the_training(monkeypatch):
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    group, dataset = make_population(arms=("free",), depth=1)

    def stop():
        raise Interrupted

    with pytest.raises(Interrupted):
        group.run(group.initial(), 0, 2, dataset, stop)
    group.run(group.initial(), 0, 1, dataset, stop)


def test_looking_ahead_tells_the_next_updates_and_leaves_the_members_alone():
    group, dataset = make_population(arms=("broken",), depth=1, warmup=0.0)
    members = group.initial()
    before = jax.tree.map(np.array, members)
    ahead = jax.tree.map(np.array, group.next_updates(members, 0, dataset))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, members), before)
    _, _, updates = group.run(members, 0, 1, dataset)
    jax.tree.map(np.testing.assert_array_equal, updates, ahead)


def test_the_part_of_an_arm_is_that_of_its_members():
    group, _ = make_population()
    for arm in group.arms:
        rows = [i for i, (other, _) in enumerate(group.members) if other == arm]
        np.testing.assert_array_equal(
            group.of_arm(jnp.arange(4) ** 2, arm), np.arange(4)[rows] ** 2
        )


def test_training_learns_and_breaks_the_symmetry_of_the_broken_arm(trained):
    _, _, rows = trained
    assert np.all(rows[-1]["validation_loss"] < rows[0]["validation_loss"] - 0.1)
    broken = 1
    np.testing.assert_allclose(rows[0]["cosine"][broken], 1, atol=1e-6)
    assert np.all(rows[-1]["cosine"][broken] < 0.9999)
    np.testing.assert_allclose(rows[0]["breaking_ratio"][broken], 0, atol=1e-6)


def test_tie_never_trains(trained):
    small, (members,), _ = trained
    (group,) = small.populations
    for i, (arm, _) in enumerate(group.members):
        model = group.model(jax.tree.map(lambda a, i=i: a[i], members.model))
        assert {float(c.tie) for c in couplings(model)} == {0.0 if arm.kind == "free" else 1.0}


@pytest.mark.parametrize("at_once", [3, 1])
def test_a_member_is_a_function_of_its_seed_and_arm_alone(trained, at_once):
    """Trained three at a time, with one left over, a member is what it is in the whole population;
    and so it is alone, where the two members of an arm are measured one after another too."""
    _, (members,), rows = trained
    (others,), again = train_study(tiny_study(members_at_once=at_once))
    for name in DIMENSIONS:
        np.testing.assert_allclose(
            again[-1][name], rows[-1][name], rtol=2e-3, atol=2e-4, err_msg=name
        )
    for name in ("breaking_rate", "field_asymmetry", "departure", "dissipation"):
        np.testing.assert_allclose(
            again[-1][name], rows[-1][name], rtol=1e-2, atol=1e-3, err_msg=name
        )
    for a, b in zip(jax.tree.leaves(members.model), jax.tree.leaves(others.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_a_strong_penalty_keeps_the_broken_arm_nearly_symmetric():
    _, rows = train_study(tiny_study(arms=("broken",), lambdas=(0.0, 1.0), depth=1))
    weak, strong = rows[-1]["breaking_ratio"]
    assert np.all(strong.mean((1, 2)) < 0.5 * weak.mean((1, 2)))


def test_a_diverged_member_is_marked_and_the_others_go_on():
    # A penalty beyond float32 makes the loss of one arm infinite as soon as its breaking leaves
    # zero.
    small = tiny_study(
        arms=("free", "broken"), lambdas=(3e38,), learning_rate=1e-2, warmup=0.0, depth=1
    )
    (members,), rows = train_study(small, 2)
    diverged = np.asarray(members.diverged)
    assert np.all(diverged[:2] == -1)
    assert np.all(diverged[2:] >= 0)
    assert np.all(diverged[2:] < small.schedule.interval)
    assert np.all(np.isfinite(rows[-1]["validation_loss"][0]))
    assert np.all(np.isnan(rows[-1]["validation_loss"][1]))


def test_weight_decay_spares_norms_and_biases(getkey):
    model = Mixer(MixerConfig((8, 8, 1), 4, 6, 1, 3, block="serial", bias=True), key=getkey())
    decayed = training.decayed(model)
    coupling = decayed.blocks[0].token.potential.memory.synapses["token"].coupling
    memory = decayed.blocks[0].token.potential.memory
    assert all((coupling.up, coupling.breaking, decayed.stem.weight, decayed.head.weight))
    assert not any(
        (decayed.stem.bias, decayed.head.bias, decayed.affine.scale, decayed.affine.shift)
    )
    assert not any((memory.synapses["token_up"].bias, memory.neurons["visible"].affine.scale))


def test_objective_is_cross_entropy_plus_penalty(getkey):
    model = Mixer(
        MixerConfig((8, 8, 1), 4, 6, 1, 3, coupling="broken", breaking="xavier"), key=getkey()
    )
    images = jr.normal(getkey(), (4, 8, 8, 1))
    targets = jax.nn.one_hot(jnp.arange(4) % 3, 3)
    loss, (_, term) = objective(
        Classification(Augment.none()), model, (images, targets), jnp.asarray(0.3)
    )
    squares = sum(float(jnp.sum(c.breaking**2)) for c in couplings(model) if c.breaking is not None)
    np.testing.assert_allclose(term, 0.3 * squares, rtol=1e-6)
    np.testing.assert_allclose(
        loss, np.log(3) + 0.3 * squares, rtol=1e-6
    )  # the head starts at zero


def test_bfloat16_keeps_float32_weights_and_learns():
    (members,), rows = train_study(
        tiny_study(arms=("free",), precision="bfloat16", depth=1, epochs=8)
    )
    kinds = {
        leaf.dtype
        for leaf in jax.tree.leaves((members.model, members.optimiser))
        if leaf.dtype != jnp.int32
    }
    assert kinds == {jnp.dtype("float32")}
    assert np.all(rows[-1]["validation_loss"] < rows[0]["validation_loss"])


def test_stochastic_depth_and_augmentation_enter_training_only():
    plain = tiny_study(arms=("free",), depth=1)
    noisy = tiny_study(arms=("free",), depth=1, drop_path=0.5, augment="light")
    (_, expected) = train_study(plain, 1)
    (_, rows) = train_study(noisy, 1)
    for name in (
        "validation_loss",
        "energy_change",
    ):  # before training, where only measuring happens
        np.testing.assert_allclose(rows[0][name], expected[0][name], rtol=1e-6)
    assert not np.allclose(rows[1]["train_loss"], expected[1]["train_loss"])
