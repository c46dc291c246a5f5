"""The rule of trust, and types of users: one class each, with nothing told to hopmix, goes through
all of it.
"""

import ast
import inspect
import math
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LAGRANGIANS, SYNAPSES, assert_close, normal, random_state

import hopmix
from hopmix import (
    AbstractLagrangian,
    AbstractSynapse,
    AssociativeMemory,
    Bias,
    Block,
    Certificate,
    Coupling,
    Dense,
    HopfieldMemory,
    Neurons,
    Quadratic,
    Softmax,
    Status,
    Sum,
    Tanh,
    certify,
    concavity_bound,
    contraction_rate,
    derive_block,
    descend,
    eliminate,
    gradient_force,
)
from hopmix._assumptions import foreign_type, is_known
from hopmix.symmetry import breaking_bound

SIZE = 5


# ---- A synapse and a Lagrangian of a user --------------------------------------------------------


class Ring(AbstractSynapse):
    r"""Each hidden unit reads the next visible one: $E(v, h) = -w \sum_i h_i v_{i+1}$."""

    strength: jax.Array
    is_explicit: ClassVar[bool] = True

    def energy(self, *activations):
        v, h = activations
        return -self.strength * jnp.sum(h * jnp.roll(v, -1))

    def current(self, into, activations):
        v, h = activations
        return self.strength * (jnp.roll(v, -1) if into else jnp.roll(h, 1))


class Root(AbstractLagrangian):
    r"""Saturating units: $L(x) = \sum_i \sqrt{1 + x_i^2}$, so $g = x/\sqrt{1 + x^2}$."""

    is_elementwise: ClassVar[bool] = True

    def __call__(self, x):
        return jnp.sum(jnp.sqrt(1 + x**2))

    def activation(self, x):
        return x / jnp.sqrt(1 + x**2)

    @property
    def curvature(self):
        return 0.0, 1.0


def own_memory(
    strength: float = 0.4, synapse: type[Ring] = Ring, lagrangian: type[Root] = Root
) -> AssociativeMemory:
    neurons = {"v": Neurons(Quadratic(), (SIZE,)), "h": Neurons(lagrangian(), (SIZE,), tau=0.5)}
    return AssociativeMemory(
        neurons, {"ring": synapse(jnp.asarray(strength))}, {"ring": ("v", "h")}
    )


def own_block(**options) -> Block:
    return derive_block(own_memory(), ["h"], leak=1.0, step=0.3, **options)


def verdicts(certificate: Certificate) -> dict[str, str]:
    return {a.statement: a.verdict for a in certificate.flow}


def test_the_force_of_a_memory_of_own_types_is_minus_the_gradient_of_its_energy(getkey):
    memory = own_memory()
    state = random_state(memory, getkey())
    slopes = jax.grad(memory.energy)(state)
    pushed = memory.metric(state, memory.force(state))
    assert_close(pushed, jax.tree.map(jnp.negative, slopes))


def test_own_types_are_eliminated_in_closed_form(getkey):
    g = normal(getkey(), (SIZE,))
    potential = eliminate(own_memory(0.4), ["h"])
    assert potential.is_explicit
    assert_close(potential(g), Root()(0.4 * jnp.roll(g, -1)))
    assert_close(potential.force(g), jax.grad(potential)(g))


def test_a_block_of_own_types_steps_along_minus_the_gradient_of_its_energy(getkey):
    block = own_block()
    x = normal(getkey(), (SIZE,))
    assert_close(block.force(x), gradient_force(block, x))
    assert_close(block(x), x + block.step * block.force(x))


def test_systems_of_own_types_descend(getkey):
    x = normal(getkey(), (SIZE,))
    of_block = descend(own_block(), x, 20)
    of_memory = descend(own_memory(), random_state(own_memory(), getkey()), 20, step=0.05)
    assert of_block.status == Status.descended
    assert of_memory.status == Status.descended


def test_own_types_are_unknown_where_trials_find_nothing_against_them():
    certificate = certify(own_memory())
    assert verdicts(certificate) == {
        "synapse 'ring' is conservative": "unknown",
        "the activation of layer 'h' is the gradient of its Lagrangian": "unknown",
        "the Lagrangian of layer 'v' is convex": "holds",
        "the Lagrangian of layer 'h' is convex": "unknown",
    }
    assert certificate.claim is None
    assert "nothing is known here about the energy of a Ring" in str(certificate)
    assert "Root is not of hopmix; at four states it is" in str(certificate)


def test_of_a_block_of_own_types_no_bound_is_known(getkey):
    block = own_block()
    certificate = certify(block)
    assert certificate.claim is None
    assert math.isnan(certificate.step_bound_at(normal(getkey(), (SIZE,))))
    assert concavity_bound(block.potential) == math.inf
    assert contraction_rate(block) == 1.0
    assert "a Ring from layer 'v', is not covered" in breaking_bound(block, jnp.zeros(SIZE)).reason


class WrongWay(Ring):
    def current(self, into, activations):
        return (1 - 2 * into) * super().current(into, activations)


class Louder(Root):
    def activation(self, x):
        return 2 * super().activation(x)


class Concave(Root):
    def __call__(self, x):
        return -super().__call__(x)

    def activation(self, x):
        return -super().activation(x)


@pytest.mark.parametrize(
    "types, statement",
    [
        ({"synapse": WrongWay}, "synapse 'ring' is conservative"),
        ({"lagrangian": Louder}, "the activation of layer 'h' is the gradient of its Lagrangian"),
        ({"lagrangian": Concave}, "the Lagrangian of layer 'h' is convex"),
    ],
)
def test_own_types_fail_where_a_trial_does(types, statement):
    assert verdicts(certify(own_memory(**types)))[statement] == "fails"


class Boaster(Ring):
    """Says of itself all that makes a synapse of hopmix certain."""

    is_linear: ClassVar[bool] = True
    spectral_norm: ClassVar[float] = 0.0  # pyright: ignore[reportAssignmentType]

    def conservative(self, name, layers):
        return []

    def own_concavity(self, shape):
        return 0.0


class FlatRoot(Root):
    """Says of itself all that makes a Lagrangian of hopmix certain."""

    third_derivative: ClassVar[float] = 0.0  # pyright: ignore[reportAssignmentType]
    pushes_outward: ClassVar[bool] = True  # pyright: ignore[reportAssignmentType]

    def softness(self, x):
        return math.inf

    def activation_radius(self, shape):
        return 0.0


def test_what_own_types_say_of_themselves_is_not_believed():
    plain = certify(own_memory())
    boasting = certify(own_memory(synapse=Boaster, lagrangian=FlatRoot))
    assert verdicts(boasting) == verdicts(plain)
    block = derive_block(
        own_memory(synapse=Boaster, lagrangian=FlatRoot), ["h"], leak=1.0, step=0.3
    )
    assert certify(block).claim is None
    assert concavity_bound(block.potential) == math.inf
    assert contraction_rate(block) == 1.0
    assert math.isnan(breaking_bound(block, jnp.zeros(SIZE)).bound)


# ---- The rule ------------------------------------------------------------------------------------


def core_types(base: type) -> list[type]:
    """The final classes of the core that derive from an abstract one."""
    found = [kind for kind in base.__subclasses__() if kind.__module__.startswith("hopmix._")]
    deeper = [inner for kind in found for inner in core_types(kind)]
    return [*(kind for kind in found if not inspect.isabstract(kind)), *deeper]


TYPES = [*core_types(AbstractLagrangian), *core_types(AbstractSynapse)]


def rows() -> list[AbstractLagrangian | AbstractSynapse]:
    lagrangians = [make((4, 3), jnp.float64) for make in LAGRANGIANS.values()]
    return [
        *lagrangians,
        *(row.make(jax.random.key(0), *row.layers[-1]) for row in SYNAPSES.values()),
    ]


def test_the_types_of_the_core_are_known_and_have_a_row_on_which_all_invariants_run():
    kinds = {type(row) for row in rows()}
    assert all(is_known(row) for row in rows())
    assert {kind.__name__ for kind in TYPES} - {kind.__name__ for kind in kinds} == {"Gained"}


@pytest.mark.parametrize("module", ["users", "the same"])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_no_subclass_inherits_trust(kind, module):
    """Not even one that changes nothing, and says that it stands where the original does."""
    place = kind.__module__ if module == "the same" else module
    derived = type(kind.__name__, (kind,), {"__module__": place})
    assert not is_known(object.__new__(derived))


def test_what_is_made_of_a_foreign_part_is_not_known(getkey):
    patterns = normal(getkey(), (3, SIZE))
    assert is_known(HopfieldMemory(patterns, Softmax()))
    assert not is_known(HopfieldMemory(patterns, Root()))
    assert not is_known(2.0 * (Quadratic() + Root()))
    assert foreign_type(2.0 * (Quadratic() + 3.0 * Root())) == "Root"
    assert foreign_type(HopfieldMemory(patterns, Root())) == "Root"
    assert is_known(2.0 * (Quadratic() + Tanh()))


# ---- Places to edit ------------------------------------------------------------------------------

CORE = Path(inspect.getfile(hopmix)).parent


ROOMS = ("_*.py", "_*/*.py", "symmetry/*.py", "retrieval/*.py")


def places(name: str) -> set[str]:
    """The modules of the core, beside lists of names, whose code speaks of a class."""
    found = set()
    for path in (path for pattern in ROOMS for path in CORE.glob(pattern)):
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.name for node in nodes if isinstance(node, ast.ClassDef)}
        if path.stem != "__init__" and name in names:
            found.add(".".join(path.relative_to(CORE).with_suffix("").parts))
    return found


ABOUT_ONE_TYPE = {
    "HopfieldMemory": {"retrieval.binary", "retrieval.bounds"},
    "Gained": {"_certificate.conservative_form"},
}
"""Functions that are about one type, and make or take it."""


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_there_is_one_place_to_edit_for_a_type(kind):
    own = kind.__module__.removeprefix("hopmix.")
    assert places(kind.__name__) - ABOUT_ONE_TYPE.get(kind.__name__, set()) == {own}


def test_the_places_of_a_class_that_several_modules_know_are_found():
    assert {"_coupling", "_synapse.base", "symmetry.weights"} <= places("Coupling")


def test_sums_dense_couplings_and_biases_of_hopmix_are_believed_in_the_same_memory(getkey):
    """One foreign part takes nothing from the others."""
    neurons = {"v": Neurons(Sum((Quadratic(), Tanh())), (SIZE,)), "h": Neurons(Root(), (SIZE,))}
    synapses = {"s": Dense(Coupling(normal(getkey(), (SIZE, SIZE)))), "b": Bias(jnp.ones(SIZE))}
    certificate = certify(AssociativeMemory(neurons, synapses, {"s": ("v", "h"), "b": ("h",)}))
    found = verdicts(certificate)
    assert found["synapse 's' is symmetric, V = W^T"] == "holds"
    assert found["the Lagrangian of layer 'v' is convex"] == "holds"
    assert found["the Lagrangian of layer 'h' is convex"] == "unknown"
    assert np.sum([verdict == "unknown" for verdict in found.values()]) == 2
