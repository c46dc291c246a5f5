"""Mistakes that shape annotations catch in the tests, as users meet them: without the annotations being checked."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax.numpy as jnp, numpy as np
from hopmix import *

pair = AssociativeMemory(
    {"v": Neurons(Tanh(), (5,)), "h": Neurons(ReLU(), (3,))},
    {"s": Dense(Coupling(jnp.ones((3, 5))))},
    {"s": ("v", "h")},
)
block = derive_block(pair, ["h"])
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
    "block(jnp.ones(5, int))": "ValueError: States are floating-point numbers, got int32; use x.astype(float).",
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
        "ValueError: States are floating-point numbers, got int32 for layer 'v'."
    ),
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
