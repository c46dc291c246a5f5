"""Models, arms, probes and sections of somebody who knows Equinox: a file that a study is told to
run.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from hopmix import Coupling
from hopmix.lab import Arm, Look, Section
from hopmix.lab.probes import AbstractCouplingProbe, AbstractModelProbe
from hopmix.symmetry.quantities import Quantity


class Plain(eqx.Module):
    """Knows nothing of hopmix: layers of Equinox alone."""

    stem: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, inputs, classes, *, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Linear(inputs, 6, key=keys[0])
        self.up = eqx.nn.Linear(6, 10, key=keys[1])
        self.down = eqx.nn.Linear(10, 6, key=keys[2])
        self.drop = eqx.nn.Dropout(0.2)
        self.head = eqx.nn.Linear(6, classes, key=keys[3])

    def __call__(self, image, key=None):
        x = self.stem(image.reshape(-1))
        x = x + self.down(self.drop(jax.nn.relu(self.up(x)), key=key))
        return self.head(x)


class Coupled(eqx.Module):
    """Has couplings of its own shape and at its own places."""

    stem: eqx.nn.Linear
    layers: list[Coupling]
    head: eqx.nn.Linear

    def __init__(self, inputs, classes, make, *, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Linear(inputs, 5, key=keys[0])
        self.layers = [make(5, 7, key=k) for k in keys[1:3]]
        self.head = eqx.nn.Linear(5, classes, key=keys[3])

    def __call__(self, image):
        x = self.stem(image.reshape(-1))
        for layer in self.layers:
            x = x + layer.down @ jax.nn.relu(layer.up @ x)
        return self.head(x)


def family(image, classes):
    """A family of three strengths and one of free weights."""
    inputs = image[0] * image[1] * image[2]
    broken = lambda key: Coupled(inputs, classes, Coupling.broken, key=key)
    free = lambda key: Coupled(inputs, classes, Coupling.free, key=key)
    arms = [
        Arm(f"held at {strength:g}", kind="held", make=broken, strength=strength)
        for strength in (0.0, 0.1)
    ]
    look = Look(("#123456",), "dot", "square")
    return [*arms, Arm("loose", make=free, look=look)]


def without_couplings(image, classes):
    """One arm of layers that hopmix does not know."""
    return [Arm("plain", make=lambda key: Plain(image[0] * image[1] * image[2], classes, key=key))]


def paired(image, classes):
    """The same, with two layers paired by name."""
    (arm,) = without_couplings(image, classes)
    return [Arm("paired", make=arm.make, strength=0.01, pairs=["up.weight:down.weight"])]


class WeightSize(AbstractModelProbe):
    """The largest parameter of a model."""

    quantities: ClassVar = (Quantity("largest", "largest parameter", "max |θ|", "0 and up", ""),)

    def __call__(self, model, inputs, key):
        leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
        return {"largest": jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))}


class Trace(AbstractCouplingProbe):
    """The trace of VW."""

    quantities: ClassVar = (
        Quantity("trace", "trace of VW", "tr VW", "any number", "", ("block", "branch")),
    )

    def __call__(self, coupling, update):
        return {"trace": jnp.trace(coupling.down @ coupling.up)}


probes = [WeightSize(), Trace()]


def _largest(run, stills):
    last = run.metrics.largest.isel(step=-1)
    return f"<p>The largest parameter of all is {float(last.max()):.3g}.</p>"


sections = [Section("largest", "The largest parameters", _largest)]
