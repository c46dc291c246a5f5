"""hopmix.testing: what it draws is valid, what is right passes, what is wrong fails and is
shown.
"""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import VISIBLE_SHAPE, cast, make_block, mixing, normal
from hypothesis import Phase, find, given, settings
from third_party import EnergyMixer, SerialMixer, trained

import hopmix.testing
from hopmix import (
    GELU,
    AbstractLagrangian,
    Coupling,
    LayerNorm,
    Quadratic,
    ReLU,
    SerialBlock,
    Tanh,
    derive_block,
)
from hopmix import couplings as couplings_in
from hopmix.testing import (
    assert_conservative,
    assert_energy_descends,
    assert_lagrangian,
    couplings,
    lagrangians,
    memories,
    states,
)

# beartype, which checks hopmix in these tests, picks the entries of containers that it looks at by
# `random`.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

PAGE = Path(__file__).parents[1] / "docs" / "verify-your-own-model.md"


# ---- Strategies ----------------------------------------------------------------------------------


@settings(max_examples=8)
@given(lagrangians(), states((2, 3)))
def test_lagrangians_are_valid(lagrangian, x):
    assert_lagrangian(lagrangian, x)


@given(st.data(), st.sampled_from([None, True, False]), st.sampled_from([None, True, False]))
def test_lagrangians_are_of_the_kind_asked_for(data, convex, elementwise):
    lagrangian = data.draw(lagrangians(convex=convex, elementwise=elementwise, dtype=jnp.float32))
    grouped = [hasattr(part, "axes") for part in lagrangian.parts]
    assert convex in (None, lagrangian.is_convex)
    assert elementwise is None or set(grouped) == {not elementwise}
    assert {leaf.dtype for leaf in jax.tree.leaves(lagrangian)} <= {jnp.dtype("float32")}


@given(st.data(), st.sampled_from(["symmetric", "broken", "free", None]))
def test_couplings_are_of_the_kind_asked_for(data, kind):
    coupling = data.draw(couplings(3, 2, kind=kind, dtype=jnp.float32))
    assert coupling.up.shape == (2, 3)
    assert coupling.down.dtype == jnp.float32
    assert kind is None or (kind == "free") == (coupling.tie == 0)
    assert kind is None or (kind == "symmetric") == (coupling.breaking is None)
    if kind == "symmetric":
        np.testing.assert_array_equal(coupling.down, coupling.up.T)


@settings(max_examples=4)
@given(st.data())
def test_memories_are_conservative_by_default(data):
    memory = data.draw(memories())
    state = data.draw(states(memory))
    assert_conservative(memory.force, state, activation=memory.activations)


@settings(max_examples=25)
@given(st.data(), st.sampled_from(["symmetric", "free"]))
def test_memories_are_of_the_kind_asked_for(data, kind):
    memory = data.draw(memories(kind=kind, dtype=jnp.float32))
    assert 2 <= len(memory.neurons) <= 4
    assert isinstance(coupling_in(memory), Coupling)
    assert {float(c.tie) for c in couplings_in(memory)} == {1.0 if kind == "symmetric" else 0.0}
    assert all(layer.lagrangian.is_convex for layer in memory.neurons.values())
    state = data.draw(states(memory, scale=0.5))
    assert {leaf.dtype for leaf in jax.tree.leaves((memory, state))} == {jnp.dtype("float32")}
    assert {name: x.shape for name, x in state.items()} == {
        name: n.shape for name, n in memory.neurons.items()
    }
    assert max(float(jnp.max(jnp.abs(x))) for x in state.values()) <= 0.5


def coupling_in(memory):
    return getattr(memory.synapses["h1"], "coupling", None)


def test_all_synapses_and_structures_are_drawn():
    met = set()

    @settings(max_examples=200, database=None, derandomize=True)
    @given(memories())
    def look(memory):
        met.update(type(synapse).__name__ for synapse in memory.synapses.values())
        met.update("chain" for _, ends in memory.connections if len(ends) == 2 and "x" not in ends)

    look()
    mixings = {"TokenMixing", "ChannelMixing", "Convolution", "Pooling"}
    assert met == mixings | {"Dense", "HopfieldMemory", "Bias", "Attention", "chain"}


def test_what_fails_shrinks_to_something_simple():
    def smallest(strategy, fails):
        # Without the phase that explains a failure, which takes ten times as long as shrinking it.
        options = settings(
            database=None, derandomize=True, max_examples=300, phases=(Phase.generate, Phase.shrink)
        )
        return find(strategy, fails, settings=options)

    assert isinstance(smallest(lagrangians(), lambda _: True), Quadratic)
    np.testing.assert_array_equal(smallest(states((2, 2)), lambda _: True), jnp.zeros((2, 2)))
    simple = smallest(memories(), lambda _: True)
    assert {name: (n.shape, type(n.lagrangian), n.tau) for name, n in simple.neurons.items()} == {
        name: ((1,), Quadratic, 1.0) for name in ("x", "h1")
    }
    longer = smallest(memories(), lambda memory: len(memory.neurons) > 2)
    assert {n.shape for n in longer.neurons.values()} == {(1,)}
    assert len(longer.neurons) == 3


# ---- assert_lagrangian ---------------------------------------------------------------------------


class Claiming(AbstractLagrangian):
    """The quadratic Lagrangian with claims about itself that can be wrong."""

    claimed: tuple[float, float] = (1.0, 1.0)
    factor: float = 1.0
    product: float = 1.0
    dual: float = 1.0

    @property
    def curvature(self):
        return self.claimed

    def __call__(self, x):
        return 0.5 * jnp.sum(x**2)

    def activation(self, x):
        return self.factor * x

    def hessian_vector_product(self, x, v):
        return self.product * v

    def conjugate(self, g):
        return self.dual * 0.5 * jnp.sum(g**2)


def scaled_norm(x):
    return jnp.linspace(0.5, 2, 6)[None] * LayerNorm((-1,)).activation(x)


@jax.custom_jvp
def wrong_slope(x):
    return jnp.tanh(x)


wrong_slope.defjvp(lambda x, v: (jnp.tanh(x[0]), v[0]))

BELOW = -jnp.linspace(0.5, 3, 24).reshape(4, 6)
APPROXIMATE = partial(jax.nn.gelu, approximate=True)

WRONG_LAGRANGIANS = {
    "tanh-GELU": (
        (GELU(), APPROXIMATE),
        {},
        r"The activation is not the gradient of the value: entry \[\d, \d\] is",
    ),
    "claimed convex": (
        GELU(),
        {"convex": True},
        r"Claimed convex, but the Hessian has the eigenvalue -0\.12\d+",
    ),
    "vector scale": ((LayerNorm((-1,)), scaled_norm), {}, "The activation is not the gradient"),
    "factor": (Claiming(factor=1 + 1e-9), {}, "The activation is not the gradient"),
    "slope": (
        (Tanh(), wrong_slope),
        {},
        "The Jacobian of the activation is not the Hessian of the value",
    ),
    "curvature too low": (
        Claiming(claimed=(0.0, 0.9)),
        {},
        r"from 1 to 1 leave the claimed curvature \(0, 0.9\)",
    ),
    "curvature too high": (Claiming(claimed=(1.1, 2.0)), {}, "leave the claimed curvature"),
    "product": (Claiming(product=-1.0), {}, "The Hessian-vector product is not H v"),
    "conjugate": (
        Claiming(dual=1.01),
        {},
        r"The conjugate at g is [\d.]+, but x.g - L\(x\) is [\d.]+",
    ),
    "value of a vector": (
        (lambda x: x**2, lambda x: 2 * x),
        {},
        r"The value must be one number .* got float64\(4, 6\)",
    ),
    "activation of a group": (
        (Quadratic(), jnp.sum),
        {},
        r"The activation must be of float64\(4, 6\) as the state",
    ),
    "not a number": (
        (lambda x: jnp.sum(jnp.sqrt(x)), lambda x: 0.5 / jnp.sqrt(x)),
        {},
        "expected nan",
    ),
}


@pytest.mark.parametrize("name", WRONG_LAGRANGIANS)
@pytest.mark.quick
def test_a_wrong_lagrangian_is_caught(name):
    lagrangian, options, message = WRONG_LAGRANGIANS[name]
    with pytest.raises(AssertionError, match=message) as caught:
        assert_lagrangian(lagrangian, BELOW, **options)
    if "must be" not in message:
        assert "State:\nfloat64(4, 6)\n[[-0.5" in str(caught.value)


@pytest.mark.parametrize(
    "claims", [GELU(), Claiming(), (GELU(), GELU().activation), (Tanh(), jnp.tanh)]
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.quick
def test_a_right_lagrangian_passes(claims, dtype):
    assert_lagrangian(claims, BELOW.astype(dtype))


@pytest.mark.parametrize(
    "x", [jnp.zeros(4), jnp.full(4, 3.3), jnp.asarray([1e3, 1e3, 1e3, 1000.001])]
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_rounding_of_ill_conditioned_states_is_no_error(x, dtype):
    assert_lagrangian(LayerNorm(), x.astype(dtype))
    if dtype == jnp.float64:  # in float32 rounding may explain anything here
        with pytest.raises(AssertionError, match="not the gradient"):
            assert_lagrangian((LayerNorm(), lambda x: LayerNorm().activation(x) + 0.01), x)


# ---- assert_conservative -------------------------------------------------------------------------


def serial_block(key, coupling="symmetric"):
    part = lambda name: derive_block(mixing(key, coupling, branches=[name], hidden=ReLU()), [name])
    return SerialBlock(part("token"), part("channel"))


class Field(eqx.Module):
    """The displacement of a residual layer behind a norm of the whole state."""

    up: jax.Array
    down: jax.Array

    def __call__(self, x):
        return self.down @ jax.nn.relu(self.up @ LayerNorm().activation(x))


def fields(getkey, x: jax.Array, breaking: float, dtype=jnp.float64) -> tuple[Field, Field]:
    """A tied one, and one with a breaking of this relative size. No unit is silent at `x`, which
    would hide it.
    """
    up = normal(getkey(), (x.size, x.size), dtype)
    other = normal(getkey(), (x.size, x.size), dtype)
    up = up * jnp.sign(up @ LayerNorm().activation(x))[:, None]
    other = breaking * jnp.linalg.norm(up) / jnp.linalg.norm(other) * other
    return Field(up, up.T), Field(up, up.T + other)


def test_tied_blocks_and_trees_are_conservative(getkey):
    x = normal(getkey(), VISIBLE_SHAPE)
    block = make_block(getkey(), "symmetric", options={"leak": 0.5})
    assert_conservative(block.force, x, activation=block.activation)
    assert_conservative(block.force, x, lagrangian=block.potential.neurons.lagrangian)
    narrow = cast(block, jnp.float32)
    assert_conservative(narrow.force, x.astype(jnp.float32), activation=narrow.activation)
    assert (
        find(
            states(block), lambda _: True, settings=settings(database=None, derandomize=True)
        ).shape
        == x.shape
    )
    assert_conservative(
        jax.grad(lambda d: jnp.sum(d["a"]) * jnp.sum(d["b"] ** 3)), {"a": x[0], "b": x}
    )


@pytest.mark.parametrize(
    "case, message",
    [
        ("free weights", "The force is not conservative: HJ"),
        ("scale on the way in", "The force is not conservative: HJ"),
        ("serial", "The force is not conservative: HJ"),
        ("no metric", "The force is not conservative: HJ"),
        ("scaled activation", "The activation is the gradient of no Lagrangian: dg/dx"),
    ],
)
@pytest.mark.quick
def test_a_field_that_is_not_conservative_is_caught(case, message, getkey):
    key = getkey()
    x = normal(getkey(), VISIBLE_SHAPE)
    block = make_block(key, "free" if case == "free weights" else "symmetric")
    force = block.force
    activation = block.activation
    if case == "scale on the way in":
        force = make_block(key, scale="elementwise").force
    if case == "serial":
        serial = serial_block(key)
        force = lambda x: serial(x) - x
    metric = {"no metric": None, "scaled activation": scaled_norm}.get(case, activation)
    with pytest.raises(
        AssertionError, match=re.escape(message) + r" is not symmetric\. Its asymmetry is 0\."
    ) as caught:
        assert_conservative(force, x, activation=metric)
    assert "(exact)" in str(caught.value)
    assert "State:\nfloat64(4, 6)" in str(caught.value)


@pytest.mark.parametrize("size, how", [(5, "exact"), (600, "from 16 random vectors")])
def test_the_entries_shown_are_those_of_the_jacobian(size, how, getkey):
    matrix = np.asarray(normal(getkey(), (size, size)))
    with pytest.raises(AssertionError) as caught:
        assert_conservative(lambda x: matrix @ x, normal(getkey(), (size,)))
    (asymmetry,) = re.findall(rf"asymmetry is (\S+) \({how}\)", str(caught.value))
    (i, j, a, b) = re.findall(
        r"entry \(\[(\d+)\], \[(\d+)\]\) is (\S+), entry .* is (\S+)\.", str(caught.value)
    )[0]
    np.testing.assert_allclose(
        [float(a), float(b)], [matrix[int(i), int(j)], matrix[int(j), int(i)]], rtol=1e-5
    )
    gaps = np.abs(matrix - matrix.T)
    assert float(asymmetry) == pytest.approx(
        np.linalg.norm(gaps) / (2 * np.linalg.norm(matrix)), rel=0.1
    )
    assert abs(float(a) - float(b)) >= (0.999 * gaps.max() if how == "exact" else 2 * gaps.mean())


@pytest.mark.parametrize(
    "size, dtype, breaking",
    [(6, jnp.float64, 1e-10), (6, jnp.float32, 1e-2), (600, jnp.float64, 1e-10)],
)
def test_small_breakings_are_seen(size, dtype, breaking, getkey):
    """As the page says: a relative size of 1e-10 in float64, of 1e-2 in float32; also of a state
    that is probed.
    """
    x = normal(getkey(), (size,), dtype)
    tied, broken = fields(getkey, x, breaking, dtype)
    assert_conservative(tied, x, lagrangian=LayerNorm())
    with pytest.raises(AssertionError, match="from 16 random vectors" if size > 512 else "exact"):
        assert_conservative(broken, x, lagrangian=LayerNorm())


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_metric_that_cancels_to_rounding_is_no_error(dtype, getkey):
    """A norm of two channels is nearly constant: of its derivative only rounding is left."""
    norm = LayerNorm((-1,))
    up = normal(getkey(), (5, 2), dtype)
    force = lambda x: jax.nn.relu(norm.activation(x) @ up.T) @ up
    for _ in range(4):
        assert_conservative(force, normal(getkey(), (3, 2), dtype), lagrangian=norm)


def test_misuse_of_assert_conservative_is_refused():
    with pytest.raises(ValueError, match="not both"):
        assert_conservative(lambda x: x, jnp.ones(3), activation=jnp.tanh, lagrangian=Tanh())
    with pytest.raises(ValueError, match=r"form of the state: got shapes \(2,\) from \(3,\)"):
        assert_conservative(lambda x: x[:2], jnp.ones(3))
    with pytest.raises(ValueError, match="form of the state"):
        assert_conservative(lambda x: x, jnp.ones(3), activation=lambda x: x[:2])
    assert_conservative(lambda x: 0 * x + 1, jnp.ones(3))


# ---- assert_energy_descends ----------------------------------------------------------------------


def test_a_tied_block_descends(getkey):
    block = make_block(getkey(), hidden=ReLU())
    starts = 3 * normal(getkey(), (16, *VISIBLE_SHAPE))
    assert_energy_descends(block, block.energy, starts)
    assert_energy_descends(block, block.energy, starts[0], stacked=False)
    narrow = cast(block, jnp.float32)
    assert_energy_descends(narrow, narrow.energy, starts.astype(jnp.float32))


def test_rising_energies_are_caught(fixedkey):
    key = fixedkey()
    starts = 3 * normal(fixedkey(), (16, *VISIBLE_SHAPE))
    block = make_block(key, hidden=ReLU())
    wrong_sign = lambda x: 2 * x - block(x)
    of_another = make_block(fixedkey(), hidden=ReLU())
    for step, energy in [(wrong_sign, block.energy), (block, of_another.energy)]:
        with pytest.raises(
            AssertionError, match=r"The energy rises in step \d+ of state \d+, from -"
        ) as caught:
            assert_energy_descends(step, energy, starts)
        assert "State before this step:\nfloat64(4, 6)" in str(caught.value)
    assert_energy_descends(wrong_sign, block.energy, starts, rtol=2.0)


def planted(k, energies):
    """A state that counts its steps, (which example, how many steps), and an energy that looks them
    up.
    """
    starts = {"n": jnp.arange(float(len(energies))), "k": jnp.full(len(energies), float(k))}
    step = lambda x: {"n": x["n"], "k": x["k"] + 1}
    return step, lambda x: jnp.asarray(energies)[x["n"].astype(int), x["k"].astype(int)], starts


def test_the_worst_rise_is_the_one_shown():
    step, energy, starts = planted(
        0, [[9.0, 8.0, 8.1, 8.0], [1.0, 0.5, 0.25, 0.5], [100.0, 80.0, 70.0, 75.0]]
    )
    with pytest.raises(AssertionError) as caught:
        assert_energy_descends(step, energy, starts, steps=3)
    message = str(caught.value)
    assert (
        "in step 3 of state 1, from 0.25 to 0.5: by 0.33 of the magnitudes of both, where"
        in message
    )
    assert re.search(r"Energies: \[1\. +, 0\.5 +, 0\.25, 0\.5 +\]", message)
    assert message.endswith("State before this step:\n['k'] float64()\n2.\n['n'] float64()\n1.")
    assert_energy_descends(step, energy, starts, steps=1)
    assert_energy_descends(step, energy, starts, steps=3, rtol=0.34)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_an_energy_that_is_not_finite_is_caught(value):
    step, energy, starts = planted(0, [[3.0, 2.0, 1.0], [3.0, 2.0, value]])
    with pytest.raises(
        AssertionError, match="energy of state 1 is not a finite number after 2 steps"
    ):
        assert_energy_descends(step, energy, starts, steps=2)


def test_misuse_of_assert_energy_descends_is_refused():
    x, energy = jnp.ones((4, 3)), lambda x: jnp.sum(x**2)
    with pytest.raises(
        ValueError, match=r"keeps the shape and the dtype of its state: got float64\(2,\) from"
    ):
        assert_energy_descends(lambda x: x[:2], energy, x)
    with pytest.raises(ValueError, match="got float32"):
        assert_energy_descends(lambda x: x.astype(jnp.float32), energy, x)
    with pytest.raises(ValueError, match=r"one number, got shape \(3,\)"):
        assert_energy_descends(lambda x: x, lambda x: x**2, x)


# ---- The page, and a model that knows nothing of hopmix ------------------------------------------


@pytest.fixture(scope="module")
def page() -> list[str]:
    return re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_file_to_copy_passes(page):
    names: dict = {}
    exec(page[0], names)
    run_all(names, 3)


def run_all(names: dict, count: int):
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == count
    for test in tests:
        test()


def test_the_strategies_do_what_the_page_says(page):
    names: dict = {}
    exec(page[3], names)
    run_all(names, 3)


def test_the_failure_looks_as_the_page_says(page):
    names: dict = {}
    exec(page[0], names)
    with pytest.raises(AssertionError) as caught:
        exec(page[1], names)
    # Draws depend on the precision, so numbers and the spaces that align them may differ.
    masked = [
        re.sub(r"\s+", "", re.sub(r"-?\d+(\.\d*)?(e-?\d+)?", "#", text))
        for text in (str(caught.value), page[2])
    ]
    assert masked[0] == masked[1]


def test_a_foreign_model_with_a_wrong_block_is_caught(fixedkey):
    key = fixedkey()
    x = normal(fixedkey(), (4, 6))
    good = EnergyMixer(4, 6, 8, key=key)
    update = lambda model: lambda x: model(x) - x
    assert_conservative(update(good), x, activation=good.normalise)
    serial = SerialMixer(good)
    scaled = EnergyMixer(4, 6, 8, learn_scale=True, key=key)
    assert_conservative(update(scaled), x, activation=good.normalise)
    for wrong in (serial, trained(scaled, fixedkey())):
        with pytest.raises(AssertionError, match="The force is not conservative"):
            assert_conservative(update(wrong), x, activation=good.normalise)
    untied = eqx.tree_at(lambda m: m.token, good, normal(fixedkey(), (8, 4)))
    with pytest.raises(AssertionError, match="The energy rises"):
        assert_energy_descends(good, untied.energy, 3 * normal(fixedkey(), (64, 4, 6)))


def test_assertions_do_without_hypothesis():
    """Where the extra is not installed, only the strategies are missing."""
    script = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import jax.numpy as jnp\n"
        "from hopmix.testing import assert_conservative, assert_energy_descends, "
        "assert_lagrangian\n"
        "assert_conservative(lambda x: -x, jnp.ones(3))\n"
        "try:\n    from hopmix.testing import states\nexcept ImportError as error:\n    "
        "print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-1000:]
    assert "hypothesis" in run.stdout


def test_testing_has_no_other_names():
    with pytest.raises(
        AttributeError, match=r"module 'hopmix\.testing' has no attribute 'couples'"
    ):
        _ = hopmix.testing.couples
    assert {"couplings", "assert_lagrangian"} <= set(dir(hopmix.testing))
