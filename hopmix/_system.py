r"""System: what has a state and moves it, be it a memory, a block or a serial block.

The state of a block is one array, that of a memory maps the names of its layers to arrays. What is
said of single layers is said of a whole state by `map_layers`, so that nobody has to ask which of
both it is.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from hopmix._numerics.dtypes import precision_of
from hopmix._types import PRNGKey, Scalar


class AbstractSystem(eqx.Module):
    r"""What memories, blocks and serial blocks share: a force, a metric, steps and, but for the
    last, an energy.

    Steps are those of Euler, of a length that is given; what has steps of its own overrides the
    methods about them.

    - `has_energy`: whether the force is meant to be $-\partial E/\partial g$ of one energy.
    - `has_own_step`: whether it is a network layer, which says how long its steps are.
    """

    has_energy: ClassVar[bool] = True
    has_own_step: ClassVar[bool] = False

    @abc.abstractmethod
    def map_layers(self, function: Callable[..., Any], *trees: Any) -> Any:
        """A function of each layer whose state moves, and of its parts of some trees of the form of
        a state.
        """

    @abc.abstractmethod
    def map_memory(self, function: Callable[[Any], Any]) -> Any:
        """The same system of another memory, a function of its own one; itself where that changes
        nothing.
        """

    @abc.abstractmethod
    def force(self, state: Any) -> Any:
        r"""The force $f = \tau \dot x$ at a state; of what has no energy, the displacement in one
        call.
        """

    @abc.abstractmethod
    def energy(self, state: Any) -> Any:
        """The energy of a state.

        **Raises:** `TypeError` where there is none.
        """

    @abc.abstractmethod
    def trial_step(self, state: Any) -> Any:
        """The state after the explicit step that checks try: its own, or a short one."""

    def term_magnitude(self, state: Any) -> Scalar:
        """The sum of the magnitudes of all that the energy of one state adds up; no less than that
        of the energy.
        """
        return jnp.abs(self.energy(state))

    def velocity(self, state: Any) -> Any:
        r"""The velocity $\dot x = f(x)/\tau$."""
        return self.map_layers(lambda layer, force: force / layer.tau, self.force(state))

    def metric(self, state: Any, vector: Any) -> Any:
        r"""$H(x)\,v$, layer by layer, with the Hessians of the Lagrangians."""
        return self.map_layers(
            lambda layer, x, v: layer.lagrangian.hessian_vector_product(x, v), state, vector
        )

    def zero_clamped(self, force: Any) -> Any:
        """A force or a velocity with the clamped entries set to zero."""
        return self.map_layers(lambda layer, f: layer.zero_clamped(f), force)

    def hold(self, free: Any, held: Any) -> Any:
        """One tree at the free entries of a state, another at the clamped ones."""
        return self.map_layers(lambda layer, a, b: layer.hold(a, b), free, held)

    def draw(self, key: PRNGKey, scale: float) -> Any:
        """A Gaussian state of this standard deviation, in the precision of the parameters."""
        dtype = precision_of(self)
        return self.map_layers(
            lambda layer, k: scale * jr.normal(k, layer.shape, dtype), self._keys(key)
        )

    def _keys(self, key: PRNGKey) -> Any:
        """A key for each layer."""
        return key

    # ---- Explicit steps --------------------------------------------------------------------------

    @property
    def steps_per_call(self) -> int:
        """How many explicit steps count as one."""
        return 1

    @property
    def decays(self) -> bool:
        """Whether states can come to rest, as far as the form of the system tells."""
        return True

    def step_length(self, step: Any) -> Any:
        """The length of a step that is asked for.

        **Raises:** `ValueError` where there is no such step.
        """
        if step is None:
            raise ValueError(
                "A memory needs `step`, in the unit of its time constants: a tenth of the "
                "smallest is safe."
            )
        return step

    def direction(self, state: Any) -> Any:
        """What one explicit step adds a multiple of, its length."""
        return self.velocity(state)

    def lengths(self, step: Any) -> Any:
        """By what the force is multiplied in one explicit step, in a tree of the form of a
        state.
        """
        return self.map_layers(lambda layer: step / layer.tau)

    def advance(self, state: Any, step: Any) -> Any:
        """The state after one step."""
        return move(state, self.direction(state), step)

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What no theorem covers of its steps and calls."""
        return ()


def move(state: Any, direction: Any, step: Any) -> Any:
    """A state plus a multiple of a direction."""
    return jax.tree.map(lambda a, d: a + jnp.asarray(step, a.dtype) * d, state, direction)
