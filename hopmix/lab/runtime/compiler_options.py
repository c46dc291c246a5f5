"""Options of XLA's compiler that make programs of hopmix faster; `HOPMIX_COMPILER_OPTIONS=off`
leaves them out.
"""

import functools
import os

import jax

from hopmix.lab.errors import UsageError

Options = dict[str, str | int]

TRAINING: Options = {"xla_backend_optimization_level": 1}
"""For what trains or measures on CPUs: LLVM's higher levels take a fifth more time to compile and
give steps that are no faster, since nearly all of the time goes to matrix products of a library."""

FORWARD: Options = TRAINING | {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""For programs that do not train: products are fused by themselves, not with sums over them. With
the sums, the last block, the norm and the readout become one slow loop, which takes about as long
as all blocks before it."""


ONCE: Options = {"xla_backend_optimization_level": 0}
"""For what runs once or a few times, initial weights and `hopmix measure`: LLVM's optimisations
would cost more than they save, for the weights by a factor of five."""


def training_options() -> Options:
    """The options of programs that train, for `jax.jit(compiler_options=...)`: none where they do
    not help.

    Raises `UsageError` where HOPMIX_COMPILER_OPTIONS is neither on nor off.
    """
    if _wanted():
        return _known(tuple(TRAINING.items()))
    return {}


def forward_options() -> Options:
    """The options of programs that do not train; otherwise as `training_options`."""
    if _wanted():
        return _known(tuple(FORWARD.items()))
    return {}


def once_options() -> Options:
    """The options of programs that run once; otherwise as `training_options`."""
    if _wanted():
        return _known(tuple(ONCE.items()))
    return {}


def _wanted() -> bool:
    switch = os.environ.get("HOPMIX_COMPILER_OPTIONS", "on")
    if switch not in ("on", "off"):
        raise UsageError(f"HOPMIX_COMPILER_OPTIONS: got {switch!r}, but it must be on or off.")
    return switch == "on" and jax.default_backend() == "cpu"


@functools.cache
def _known(options: tuple[tuple[str, str | int], ...]) -> Options:
    """Those of the options that this version of XLA has."""
    return {name: value for name, value in options if _accepts(name, value)}


def _accepts(name: str, value: str | int) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
