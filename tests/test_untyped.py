"""Mistakes that shape annotations catch in the tests, as users meet them: without the annotations
being checked.
"""

import json
import re
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from hopmix import *
from hopmix.retrieval import *
from hopmix.symmetry import *

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
few = jnp.asarray([100, 100, -100], jnp.int8)
more = jnp.ones((4, 2), jnp.int8)
class Cubic(AbstractLagrangian):
    curvature = (0.0, float("inf"))
    def __call__(self, x):
        return jnp.sum(jnp.abs(x) ** 3) / 3
    def activation(self, x):
        return x * jnp.abs(x)
dense = Dense(Coupling(jnp.ones((3, 3))))
told = {}
for call in json.loads(sys.argv[1]):
    try:
        told[call] = f"returned {eval(call)!r}"
    except Exception as error:
        told[call] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""

LAGRANGIANS = (
    *(
        "Quadratic()",
        "ReLU()",
        "RePU(3)",
        "GELU()",
        "Exponential(0.01)",
        "Tanh()",
        "Sigmoid()",
        "Softmax()",
    ),
    *("GhostMax()", "Entmax()", "LogSumReLU()", "LayerNorm()", "SphericalNorm()", "Cubic()"),
    *("(2.0 * Tanh())", "(Tanh() + Quadratic())"),
)
METHODS = {
    "__call__": "{}(few)",
    "activation": "{}.activation(few)",
    "energy": "{}.energy(few)",
    "energy_summands": "{}.energy_summands(few)",
    "difference": "{}.difference(few, few)",
    "hessian_vector_product": "{}.hessian_vector_product(few, few)",
    "conjugate": "{}.conjugate(few)",
}
SYNAPSES = {
    "dense": "few, few",
    "TokenMixing(Coupling(jnp.ones((4, 4))))": "more, more",
    "ChannelMixing(Coupling(jnp.ones((2, 2))))": "more, more",
    "Convolution(Coupling(jnp.ones((2, 18))), grid=(2, 2))": "more, more",
    "Pooling((2, 2))": "more, more",
    "Attention(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), 1.0)": "more",
    "HopfieldMemory(jnp.ones((2, 3)), Softmax())": "few",
    "HyperSynapse(lambda g: jnp.sum(g**2))": "few",
}
OF_A_STATE = (
    *(
        "leaky({})",
        "leaky.activation({})",
        "leaky.force({})",
        "leaky.energy({})",
        "leaky.potential({})",
    ),
    *(
        "leaky.potential.force({})",
        "leaky.potential.neurons.energy({})",
        "gradient_force(leaky, {})",
    ),
    *("residual_force(leaky, {})", "power(leaky, {})", "radial_potential(leaky.potential, {})"),
    *(
        "radial_energy(leaky, {})",
        "descent_margin(leaky, {})",
        "breaking_bound(leaky, {})",
        "velocity(leaky, {})",
    ),
    *("flow(leaky, {}, 1.0)", "descend(leaky, {}, 2)", "settle(leaky, {})"),
)
INTEGERS = [
    *[
        call.format(name)
        for name in LAGRANGIANS
        for method, call in METHODS.items()
        if method != "conjugate"
    ],
    *[
        f"{name}.conjugate(few)"
        for name in LAGRANGIANS
        if name in ("Quadratic()", "RePU(3)", "Softmax()", "Tanh()")
    ],
    *[f"{synapse}.energy({given})" for synapse, given in SYNAPSES.items()],
    *[f"{synapse}.current(0, ({given},))" for synapse, given in SYNAPSES.items()],
    *[call.format(x) for call in OF_A_STATE for x in ("jnp.ones(5, int)", "jnp.ones(5, bool)")],
    *(
        "jax.jit(Quadratic())(few)",
        "jax.jit(lambda x: dense.energy(x, x))(few)",
        "Bias(jnp.ones(3)).energy(few)",
    ),
]
LISTS = [call.format(x) for call in OF_A_STATE for x in ("[1.0] * 5", "{'v': 1.0}")]
LISTS += ["Tanh().activation([1.0, 2.0])"]

CASES = {
    "Quadratic().conjugate(few.astype(float))": "returned Array(15000., dtype=float32)",
    **{
        call: "ValueError: The state of a memory is one array for each of its layers ['h', 'v'], "
        "by name, got a"
        for call in ("settle(pair, [1.0, 2.0], step=0.1)", "pair.energy(jnp.ones(5))")
    },
    "SphericalNorm().activation(few)": (
        "ValueError: What `SphericalNorm.activation` takes must hold floating-point numbers, got "
        "int8; use x.astype("
    ),
    "jax.vmap(Cubic().activation)(jnp.asarray([-2.0]))": "returned Array([-4.], dtype=float32)",
    **{
        run: "ValueError: The state of layer 'v' must be one array, got a list; use "
        "jnp.asarray(x, float)."
        for run in (
            "settle(pair, {'v': [1.0] * 5, 'h': jnp.ones(3)}, step=0.1)",
            "descend(pair, {'v': [1.0] * 5, 'h': jnp.ones(3)}, 2, step=0.1)",
            "flow(pair, {'v': [1.0] * 5, 'h': jnp.ones(3)}, 1.0)",
        )
    },
    "LayerNorm((0, -1), scale=six)": "ValueError: The scale of LayerNorm must be one number, got "
    "shape (6,)",
    "LayerNorm(scale=jnp.ones(1))": "ValueError: The scale of LayerNorm must be one number, got "
    "shape (1,)",
    "six * ReLU()": "ValueError: The factor of a Lagrangian must be one number, got shape (6,)",
    **{
        f"{kind}(beta=six)": f"ValueError: The beta of {kind} must be one number, got shape (6,)"
        for kind in (
            "Exponential",
            "Tanh",
            "Sigmoid",
            "Softmax",
            "GhostMax",
            "Entmax",
            "LogSumReLU",
        )
    },
    "Neurons(ReLU(), (3,), tau=np.ones(3))": "ValueError: Neurons need a number tau > 0, got [1. "
    "1. 1.]; eliminate",
    'AssociativeMemory({"a": Neurons(ReLU(), (3,))}, '
    '{"s": HyperSynapse(lambda g: g**2)}, {"s": ("a",)})': (
        "ValueError: The energy of synapse 's' at layers ('a',) of shapes [(3,)] must be one "
        "number, got shape (3,)"
    ),
    "block(jnp.ones(5, int))": "ValueError: The state must hold floating-point numbers, got "
    "int32; use x.astype(",
    "block.energy(jnp.ones(4))": "ValueError: The block takes states of shape (5,), or a "
    "token-major batch with the",
    **{
        call: "TypeError: Dynamics are those of a Block or an AssociativeMemory, got a "
        "SerialBlock; the two `parts`"
        for call in (
            "flow(serial, jnp.ones(5), 1.0)",
            "descend(serial, jnp.ones(5), 3)",
            "settle(serial, jnp.ones(5))",
            "velocity(serial, jnp.ones(5))",
        )
    },
    'pair.energy({"v": jnp.ones(5, int), "h": jnp.ones(3)})': (
        "ValueError: The state of layer 'v' must hold floating-point numbers, got int32; use "
        "x.astype(float)."
    ),
    **{
        call: f"ValueError: {what} must hold floating-point numbers, got int32; use "
        f"x.astype(float)."
        for call, what in {
            "Coupling(ints, tie=0.5)": "`up`",
            "Coupling.from_weights(ints, jnp.ones((2, 2)))": "`up`",
            "Coupling.from_weights(jnp.ones((2, 2)), ints)": "`down`",
            "measure_asymmetry(ints, ints)": "`up`",
            "Coupling(jnp.ones((2, 2)), breaking=ints)": "`breaking`",
            "Bias(ints)": "`bias`",
            "HopfieldMemory(ints, Quadratic())": "`patterns`",
            "HopfieldMemory(jnp.ones((2, 2)), Quadratic()).energy(ints[0])": "What "
            "`HopfieldMemory.energy` "
            "takes",
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
    "Coupling(np.ones((2, 2), np.uint8))": "ValueError: `up` must hold floating-point numbers, "
    "got uint8; use x.ast",
    "Coupling(np.ones((2, 2), bool))": "ValueError: `up` must hold floating-point numbers, got "
    "bool; use x.astype(fl",
    "Coupling(jnp.ones((2, 2)), breaking=jnp.ones((2, 2), jnp.float16))": (
        "ValueError: `breaking` must have the dtype of `up`, float32, got float16; use "
        "breaking.astype(up.dtype)."
    ),
    "Coupling(jnp.ones((2, 2)), breaking=np.ones((2, 2))).tie": "returned Array(1., dtype=float32)",
    "Coupling.from_weights(jnp.ones((3, 5)), jnp.ones((3, 5)))": (
        "ValueError: `down` must have the transposed shape of `up`, (5, 3), got (3, 5); give V, "
        "not its transpose."
    ),
    "measure_asymmetry(jnp.ones((3, 5)), jnp.ones((5, 1)))": (
        "ValueError: `down` must have the transposed shape of `up`, (5, 3), got (5, 1)"
    ),
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
    command = [sys.executable, "-c", SCRIPT, json.dumps([*CASES, *INTEGERS, *LISTS])]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("call", CASES)
def test_the_mistake_is_named(call, told):
    assert told[call].startswith(CASES[call]), told[call]


@pytest.mark.parametrize("call", INTEGERS)
def test_integers_are_refused_with_the_cure(call, told):
    rule = (
        r"ValueError: [^;]+ must hold floating-point numbers, got (int|bool)\d*; use "
        r"x.astype\(float\)\."
    )
    assert re.fullmatch(rule, told[call]), told[call]


@pytest.mark.parametrize("call", LISTS)
def test_what_is_no_array_is_refused_with_the_cure(call, told):
    rule = r"ValueError: [^;]+ must be one array, got a (list|dict); use jnp.asarray\(x, float\)\."
    assert re.fullmatch(rule, told[call]), told[call]
