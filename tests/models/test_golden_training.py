"""Five steps of AdamW as the authors' implementation takes them
(`../shared/golden/paramixer_train.npz`).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from golden import configure, images, load_model
from helpers import assert_close

from hopmix import Mixer, couplings, trainable
from hopmix.lab.data.augment import Augment
from hopmix.lab.tasks.classification import Classification
from hopmix.lab.train.step import objective, squared_breaking

ARMS = {
    "vanilla/lambda=0": 0.0,
    "para/lambda=0": 0.0,
    "sym/lambda=0": 0.0,
    "asym/lambda=0": 0.0,
    "asym/lambda=0.01": 0.01,
}
TOLERANCE = 1e-8

# Decay on every parameter, as PyTorch does it; the betas and eps of both libraries are the same.
OPTIMISER = optax.adamw(1e-3, weight_decay=0.05)


@pytest.fixture(scope="module")
def tensors(shared):
    with np.load(shared / "golden" / "paramixer_train.npz") as file:
        return {name: jnp.asarray(file[name]) for name in file.files}


def second_matrices(model: Mixer):
    """What the reference calls its penalty: |fc2|^2, of the symmetric kind its only matrix."""
    found = [c.up if c.breaking is None else c.breaking for c in couplings(model)]
    return sum((jnp.sum(matrix**2) for matrix in found), jnp.zeros(()))


@eqx.filter_jit
def train(model: Mixer, x, labels, strength: jax.Array):
    """The first logits, losses and penalties before each of five steps, and the last logits."""
    parameters, rest = eqx.partition(model, trainable(model))
    targets = jax.nn.one_hot(labels, 10)
    task = Classification(Augment.none())

    def step(carry, _):
        parameters, state = carry
        of = lambda p: objective(task, eqx.combine(p, rest), (x, targets), strength)[0]
        value, gradient = jax.value_and_grad(of)(parameters)
        with jax.numpy_dtype_promotion(
            "standard"
        ):  # Optax takes a float to the power of an integer count
            updates, state = OPTIMISER.update(gradient, state, parameters)
        logged = value, second_matrices(eqx.combine(parameters, rest))
        return (optax.apply_updates(parameters, updates), state), logged

    (parameters, _), logged = jax.lax.scan(
        step, (parameters, OPTIMISER.init(parameters)), None, length=5
    )
    trained = eqx.combine(parameters, rest)
    assert isinstance(trained, Mixer)
    return model.batch(x), logged, trained.batch(x)


@pytest.mark.parametrize("arm", ARMS)
def test_a_training_run_is_the_reference(arm, tensors):
    kind = arm.partition("/")[0]
    tensor = lambda name: tensors[f"{arm}/{name}"]
    model = Mixer(configure(kind, depth=3), key=jr.key(0))
    model = load_model(kind, model, lambda name: tensor(f"init/{name}"))
    x = images(tensor("x"))
    labels = tensor("y")
    first, (losses, penalties), last = train(model, x, labels, jnp.asarray(ARMS[arm]))
    assert_close(first, tensor("logits0"), TOLERANCE)
    assert_close(losses, tensor("loss"), TOLERANCE)
    assert_close(penalties, tensor("penalty"), TOLERANCE)
    assert_close(last, tensor("logits_end"), TOLERANCE)


def test_every_parameter_of_the_reference_is_used(tensors):
    asked = []
    for arm in ARMS:
        kind = arm.partition("/")[0]
        load_model(
            kind,
            Mixer(configure(kind, depth=3), key=jr.key(0)),
            lambda n, a=arm: (asked.append(f"{a}/init/{n}"), tensors[f"{a}/init/{n}"])[1],
        )
    assert sorted(asked) == sorted(name for name in tensors if "/init/" in name)


def test_the_penalty_is_that_of_the_breaking(tensors):
    """Ours and the reference's agree wherever lambda may be positive; a symmetric coupling has
    nothing to pay for.
    """
    for kind, same in (("asym", True), ("para", True), ("vanilla", True), ("sym", False)):
        model = Mixer(configure(kind, depth=3), key=jr.key(0))
        model = load_model(kind, model, lambda name, k=kind: tensors[f"{k}/lambda=0/init/{name}"])
        first = tensors[f"{kind}/lambda=0/penalty"][0]
        assert_close(second_matrices(model), first, TOLERANCE)
        assert bool(jnp.isclose(squared_breaking(model), first)) is same
        assert same or squared_breaking(model) == 0
