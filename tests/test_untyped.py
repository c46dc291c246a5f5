"""Mistakes that shape annotations catch in the tests, as users meet them: without the annotations being checked."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from hopmix import *

pair = AssociativeMemory(
    {"v": Neurons(Tanh(), (5,)), "h": Neurons(ReLU(), (3,))},
    {"s": Dense(Coupling(jnp.ones((3, 5))))},
    {"s": ("v", "h")},
)
block = derive_block(pair, ["h"])
leaky = derive_block(pair, ["h"], leak=1.0, step=0.1)
ints = jnp.ones((2, 2), int)
key = jax.random.key(0)
serial = SerialBlock(block, block)
six = jnp.ones(6)
told = {}
for call in json.loads(sys.argv[1]):
    try:
        told[call] = f"returned {eval(call)!r}"
    except Exception as error:
        told[call] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""

CASES = {
    "LayerNorm((0, -1), scale=six)": "ValueError: The scale of LayerNorm must be one number, got shape (6,)",
    "LayerNorm(scale=jnp.ones(1))": "ValueError: The scale of LayerNorm must be one number, got shape (1,)",
    "six * ReLU()": "ValueError: The factor of a Lagrangian must be one number, got shape (6,)",
    **{
        f"{kind}(beta=six)": f"ValueError: The beta of {kind} must be one number, got shape (6,)"
        for kind in ("Exponential", "Tanh", "Sigmoid", "Softmax", "GhostMax", "Entmax", "LogSumReLU")
    },
    "Neurons(ReLU(), (3,), tau=np.ones(3))": "ValueError: Neurons need a number tau > 0, got [1. 1. 1.]; eliminate",
    'AssociativeMemory({"a": Neurons(ReLU(), (3,))}, {"s": HyperSynapse(lambda g: g**2)}, {"s": ("a",)})': (
        "ValueError: The energy of synapse 's' at layers ('a',) of shapes [(3,)] must be one number, got shape (3,)"
    ),
    "block(jnp.ones(5, int))": "ValueError: The state must hold floating-point numbers, got int32; use x.astype(",
    "block.energy(jnp.ones(4))": "ValueError: The block takes states of shape (5,), or a token-major batch with the",
    **{
        call: "TypeError: Dynamics are those of a Block or an AssociativeMemory, got a SerialBlock; the two `parts`"
        for call in (
            "flow(serial, jnp.ones(5), 1.0)",
            "descend(serial, jnp.ones(5), 3)",
            "settle(serial, jnp.ones(5))",
            "velocity(serial, jnp.ones(5))",
        )
    },
    'pair.energy({"v": jnp.ones(5, int), "h": jnp.ones(3)})': (
        "ValueError: The state of layer 'v' must hold floating-point numbers, got int32; use x.astype(float)."
    ),
    **{
        call: f"ValueError: {what} must hold floating-point numbers, got int32; use x.astype(float)."
        for call, what in {
            "Coupling(ints, tie=0.5)": "`up`",
            "Coupling(jnp.ones((2, 2)), ints)": "`breaking`",
            "Bias(ints)": "`bias`",
            "HopfieldMemory(ints, Quadratic())": "`patterns`",
            "HopfieldMemory(jnp.ones((2, 2)), Quadratic()).energy(ints[0])": "The activation",
            "Attention(ints[None], jnp.ones((1, 2, 2)), 1.0)": "`queries`",
            "Attention(jnp.ones((1, 2, 2)), ints[None], 1.0)": "`keys`",
            "Attention(jnp.ones((1, 2, 2)), jnp.ones((1, 2, 2)), ints[0, 0])": "`beta`",
            "Affine(ints, jnp.ones((2, 2)))": "`scale`",
            "Affine(jnp.ones((2, 2)), ints)": "`shift`",
            "Neurons(ReLU(), (2, 2), input=ints)": "The input",
            "Softmax(ints[0, 0])": "The beta of Softmax",
            "ints[0, 0] * ReLU()": "The factor of a Lagrangian",
            "LayerNorm(shift=ints)": "The shift of LayerNorm",
            "retrieve(HopfieldMemory(jnp.ones((2, 2)), Softmax()), ints[0])": "The activation",
            "pattern_separation(ints)": "The patterns",
            "retrieval_bound(jnp.ones((2, 2)), ints[0], 1.0)": "The state",
            "flip_costs(jnp.sum, ints)": "The spins",
            "update_all(jnp.sum, ints)": "The spins",
            "recall(jnp.sum, ints, sweeps=1, key=key)": "The spins",
            "field_asymmetry(lambda x: x, ints[0])": "The state",
            "estimate_field_asymmetry(lambda x: x, ints[0], key=key)": "The state",
            "flow(block, jnp.ones(5, int), 1.0)": "The state",
            "descend(block, jnp.ones(5, int), 1)": "The state",
            "settle(leaky, jnp.ones(5, int))": "The state",
            "velocity(block, jnp.ones(5, int))": "The state",
            "jax.jit(lambda x: block(x))(jnp.ones(5, int))": "The state",
            "jax.jit(Bias)(ints)": "`bias`",
        }.items()
    },
    "Coupling(np.ones((2, 2), np.uint8))": "ValueError: `up` must hold floating-point numbers, got uint8; use x.ast",
    "Coupling(np.ones((2, 2), bool))": "ValueError: `up` must hold floating-point numbers, got bool; use x.astype(fl",
    "Coupling(jnp.ones((2, 2)), jnp.ones((2, 2), jnp.float16))": (
        "ValueError: `breaking` must have the dtype of `up`, float32, got float16; use breaking.astype(up.dtype)."
    ),
    "Coupling(jnp.ones((2, 2)), np.ones((2, 2))).tie": "returned Array(1., dtype=float32)",
    "Softmax(2).beta": "returned 2",
    "Neurons(ReLU(), (3,), clamped=jnp.ones(3, int))": (
        "ValueError: The mask of clamped entries must hold booleans, got int32; use x.astype(bool)."
    ),
    "jax.tree.map(lambda leaf: None, pair.synapses['s']).coupling.up": "returned None",
    "jax.eval_shape(lambda: Coupling(jnp.ones((3, 5)))).up.shape": "returned (3, 5)",
    "settle(leaky, np.ones(5)).state.dtype": "returned dtype('float32')",
}


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(CASES))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("call", CASES)
def test_the_mistake_is_named(call, told):
    assert told[call].startswith(CASES[call]), told[call]
