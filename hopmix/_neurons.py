"""Neurons: one layer, its Lagrangian and its state, and what stands between it and the synapses."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from hopmix._lagrangian import AbstractLagrangian, broadcast_to_batch
from hopmix._numerics.dtypes import need_floats, need_mask
from hopmix._synapse import inner
from hopmix._types import Energy, Layer, Scalar


class Affine(eqx.Module):
    r"""An elementwise scale and shift between a layer's activation and its synapses: $s = \gamma
    \odot g + \delta$.

    Synapses read $s$. With `conservative`, what they send back is multiplied by $\gamma$ as well,
    as the chain rule asks, and the energy stays exact: $E = x \cdot g - L(x) + E_s(\gamma \odot g +
    \delta)$. Without it (the norm of the reference implementation) a scale that is not constant
    leaves a field that is the gradient of nothing.

    **Arguments:**

    - `scale`, `shift`: $\gamma$ and $\delta$, of the rank of the layer and broadcast against it.
    - `conservative`: whether the scale also stands on the way out.

    **Raises:** `ValueError` for integers.

    **Source:** arXiv 2406.12220, code (`nn.LayerNorm` with elementwise affine); the conservative
    form is ours.
    """

    scale: Layer
    shift: Layer
    conservative: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        need_floats("`scale`", self.scale)
        need_floats("`shift`", self.shift)

    def __call__(self, g: Layer) -> Layer:
        return broadcast_to_batch(self.scale, g.ndim) * g + broadcast_to_batch(self.shift, g.ndim)

    def pull_back(self, current: Layer) -> Layer:
        """What a current into $s$ is as a current into the layer."""
        if self.conservative:
            return broadcast_to_batch(self.scale, current.ndim) * current
        return current


class Neurons(eqx.Module):
    r"""One layer: a Lagrangian, the shape of its state, and its time constant.

    **Arguments:**

    - `lagrangian`: gives the activation $g = L'(x)$ and the layer energy $x \cdot g - L(x)$.
    - `shape`: the shape of the state of one example.
    - `tau`: the time constant $\tau > 0$, in the unit of time of the dynamics.
    - `affine`: scale and shift between the activation and the synapses, or `None`.
    - `input`: an external current $I$ into the layer, of its rank and broadcast against it, or
      `None`.
    - `clamped`: which entries of the state are held fixed, likewise, or `None`.

    **Raises:** `ValueError` for a shape with a size below 1, a time constant that is not positive,
    and for parameters, inputs or masks that have another rank than the layer or are integers.
    """

    lagrangian: AbstractLagrangian
    shape: tuple[int, ...] = eqx.field(static=True)
    tau: float = eqx.field(static=True, default=1.0)
    affine: Affine | None = None
    input: Layer | None = None
    clamped: Bool[Array, "..."] | None = None

    def __check_init__(self):
        if min(self.shape, default=1) < 1:
            raise ValueError(f"Neurons need sizes of at least 1, got shape {self.shape}.")
        if not isinstance(self.tau, int | float) or not self.tau > 0:
            raise ValueError(
                f"Neurons need a number tau > 0, got {self.tau}; eliminate the layer for the "
                f"limit tau -> 0."
            )
        self._check_groups()
        need_floats("The input", self.input)
        need_mask("The mask of clamped entries", self.clamped)
        for name, parameter in self._broadcast_parameters():
            if parameter is not None and not fits(parameter.shape, self.shape):
                raise ValueError(
                    f"The {name} must have the rank of the layer and broadcast to {self.shape}, "
                    f"got shape "
                    f"{parameter.shape}; write (1, channels) for one number per channel."
                )

    def _check_groups(self):
        for part in self.lagrangian.parts:
            axes = getattr(part, "axes", None)
            rank = len(self.shape)
            taken = [axis % rank for axis in axes or () if -rank <= axis < rank]
            if axes is not None and len(set(taken)) < len(axes):
                raise ValueError(
                    f"The axes {axes} of {type(part).__name__} are not {len(axes)} different "
                    f"axes of a layer of shape "
                    f"{self.shape}; write (-1,) for the last axis, None for the whole layer."
                )

    def _broadcast_parameters(self):
        for part in self.lagrangian.parts:
            yield "shift of the Lagrangian", getattr(part, "shift", None)
        if self.affine is not None:
            yield "scale of the affine", self.affine.scale
            yield "shift of the affine", self.affine.shift
        yield "input", self.input
        yield "mask of clamped entries", self.clamped

    def energy(self, x: Layer) -> Energy:
        r"""The layer energy $x \cdot g - L(x)$, without the input; of a token-major batch, that of
        each example.

        **Arguments:**

        - `x`: the state, of the shape of the layer.
        """
        need_floats("The state", x)
        if x.ndim > len(self.shape):
            return jax.vmap(self.energy, in_axes=1)(x)
        return self.lagrangian.energy(x)

    def energy_magnitude(self, x: Layer) -> Energy:
        """The sum of the magnitudes of all that `energy` adds up, of one example."""
        return self.lagrangian.energy_magnitude(x)

    def input_energy(self, g: Layer) -> Energy:
        r"""The energy $-I \cdot g$ of the input; of a token-major batch, that of each example."""
        if self.input is None:
            return jnp.zeros((), g.dtype)
        return -inner(broadcast_to_batch(self.input, g.ndim), g, len(self.shape))

    def input_magnitude(self, g: Layer) -> Scalar:
        r"""The sum of the magnitudes of all that `input_energy` adds up, of one example."""
        if self.input is None:
            return jnp.zeros((), g.dtype)
        return jnp.sum(jnp.abs(self.input * g))

    def zero_clamped(self, force: Layer) -> Layer:
        """A force or a velocity with the clamped entries set to zero."""
        return self.hold(force, jnp.zeros((), force.dtype))

    def hold(self, free: Layer, held: Layer) -> Layer:
        """The first array at free entries, the second one, which is broadcast, at clamped
        entries.
        """
        if self.clamped is None:
            return free
        return jnp.where(broadcast_to_batch(self.clamped, free.ndim), held, free)

    def output(self, g: Layer) -> Layer:
        r"""What synapses read when the activation is `g`."""
        if self.affine is None:
            return g
        return self.affine(g)

    def pull_back(self, current: Layer) -> Layer:
        """What a current from synapses is as a current into this layer."""
        if self.affine is None:
            return current
        return self.affine.pull_back(current)


def fits(parameter: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a parameter has the rank of a layer and broadcasts to it."""
    return len(parameter) == len(shape) and all(
        p in (1, s) for p, s in zip(parameter, shape, strict=True)
    )
