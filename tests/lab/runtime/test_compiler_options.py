import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab.tiny import tiny_study, train_study

from hopmix.lab.errors import UsageError
from hopmix.lab.runtime import compiler_options
from hopmix.lab.runtime.compiler_options import (
    FORWARD,
    ONCE,
    TRAINING,
    forward_options,
    once_options,
    training_options,
)
from hopmix.lab.runtime.environment import environment

pytestmark = pytest.mark.usefixtures("as_in_a_study")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("HOPMIX_COMPILER_OPTIONS", raising=False)


on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are those of CPUs")


@on_cpu
def test_options_are_on_and_on_record():
    # Else this JAX does not know them any more: look for others.
    assert (training_options(), forward_options(), once_options()) == (TRAINING, FORWARD, ONCE)
    record = environment()
    assert record["compiler_options_training"] == "xla_backend_optimization_level=1"
    assert "ynn_fusion_type" in record["compiler_options_measuring"]
    assert record["compiler_options_once"] == "xla_backend_optimization_level=0"


def test_options_are_switched_off_and_the_record_says_so(monkeypatch):
    monkeypatch.setenv("HOPMIX_COMPILER_OPTIONS", "off")
    assert training_options() == forward_options() == once_options() == {}
    record = environment()
    assert {value for name, value in record.items() if name.startswith("compiler_options")} == {""}


def test_a_switch_that_is_neither_on_nor_off_is_named(monkeypatch):
    monkeypatch.setenv("HOPMIX_COMPILER_OPTIONS", "0")
    with pytest.raises(
        UsageError, match="HOPMIX_COMPILER_OPTIONS: got '0', but it must be on or off"
    ):
        forward_options()


@on_cpu
def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiler_options, "FORWARD", TRAINING | {"xla_cpu_no_such_option": "1"})
    assert forward_options() == TRAINING


def test_a_score_is_the_same_with_and_without_options(monkeypatch):
    scores = []
    for switch in ("on", "off"):
        monkeypatch.setenv("HOPMIX_COMPILER_OPTIONS", switch)
        small = tiny_study(arms=("free",), depth=1)
        (program,) = small.populations
        members = program.initial()
        move = lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)
        members = dataclasses.replace(members, model=jax.tree.map(move, members.model))
        scores.append(
            small.evaluator.score(program, members, small.dataset.validation, small.dataset)["free"]
        )
    np.testing.assert_allclose(scores[0]["loss"], scores[1]["loss"], rtol=1e-5)
    np.testing.assert_array_equal(scores[0]["accuracy"], scores[1]["accuracy"])


def test_training_and_measuring_are_the_same_with_and_without_options(monkeypatch):
    results = []
    for switch in ("on", "off"):
        monkeypatch.setenv("HOPMIX_COMPILER_OPTIONS", switch)
        results.append(train_study(tiny_study(arms=("free",), depth=1, spectra_every=1), 1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results)
