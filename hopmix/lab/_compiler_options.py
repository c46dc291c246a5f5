"""Options of XLA's compiler that make programs of hopmix faster; `HOPMIX_COMPILER_OPTIONS=off` leaves them out."""

import functools
import os

import jax

from hopmix.lab.config import UsageError

FORWARD = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""For programs without gradients on CPUs: products are fused by themselves, not with sums over them. With the sums, the
last block, the norm and the readout become one slow loop, which takes about as long as all blocks before it."""


@functools.cache
def forward_options() -> dict[str, str]:
    """The options of programs without gradients, for `jax.jit(compiler_options=...)`: none where they do not help.

    Raises `UsageError` where HOPMIX_COMPILER_OPTIONS is neither on nor off.
    """
    switch = os.environ.get("HOPMIX_COMPILER_OPTIONS", "on")
    if switch not in ("on", "off"):
        raise UsageError(f"HOPMIX_COMPILER_OPTIONS: got {switch!r}, but it must be on or off.")
    if switch == "off" or jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=FORWARD).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA, which does not know them
        return {}
    return FORWARD
