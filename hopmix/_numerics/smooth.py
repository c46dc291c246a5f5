"""Smooth programs: functions that JAX writes down as smooth operations alone, and differentiates as
what they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from hopmix._numerics.dtypes import cast, solver_dtype

SMOOTH = {
    *("add", "sub", "mul", "neg", "integer_pow", "square", "dot_general", "reduce_sum", "add_any"),
    *("exp", "tanh", "logistic", "sin", "cos", "erf", "erfc"),
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "slice", "concatenate"),
    *("copy", "rev", "pad", "iota", "convert_element_type", "jit", "pjit"),
}
"""Operations of JAX that are smooth everywhere, and differentiated as what they are."""


def is_finite(leaf: Any, dtype: Any) -> bool:
    """Whether all numbers are finite in a precision."""
    # NumPy has no test for the half precisions of ml_dtypes; Python's numbers are what the
    # precision makes of them.
    with np.errstate(over="ignore"):
        numbers = np.asarray(leaf, float).astype(dtype if isinstance(leaf, float) else float)
    return bool(np.all(np.isfinite(numbers)))


def is_smooth(function: Callable, *examples: jax.ShapeDtypeStruct) -> bool:
    """Whether a function is a program of smooth operations alone, so that its derivative is what
    JAX says.
    """
    # Sums of half precision are rounded on their way out; the function that is meant is that of
    # real numbers.
    dtype = solver_dtype(jnp.result_type(*examples))
    wide = [jax.ShapeDtypeStruct(example.shape, dtype) for example in examples]
    try:
        program = jax.make_jaxpr(cast(function, dtype))(*wide)
    except Exception:  # of a user's function anything can be raised
        return False
    if not all(is_finite(const, dtype) for const in program.consts):
        return False
    return all(_is_smooth(equation) for equation in program.jaxpr.eqns)


def _is_smooth(equation: Any) -> bool:
    name = equation.primitive.name
    if name not in SMOOTH:
        return False
    if name == "integer_pow" and equation.params["y"] < 0:
        return False
    if name == "convert_element_type" and _narrows(equation):
        return False
    literals = [var.val for var in equation.invars if isinstance(var, Literal)]
    inner = [p for p in equation.params.values() if isinstance(p, ClosedJaxpr | Jaxpr)]
    constants = [const for p in inner if isinstance(p, ClosedJaxpr) for const in p.consts]
    if not all(
        np.all(np.isfinite(np.asarray(number, float))) for number in (*literals, *constants)
    ):
        return False
    programs = [p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in inner]
    return all(_is_smooth(e) for program in programs for e in program.eqns)


def _narrows(equation: Any) -> bool:
    """Whether a conversion rounds: to what is no float, or to a float of fewer digits."""
    (operand,) = equation.invars
    asked = equation.params["new_dtype"]
    if not jnp.issubdtype(asked, jnp.floating):
        return True
    given = operand.aval.dtype
    return bool(jnp.issubdtype(given, jnp.floating) and jnp.finfo(asked).eps > jnp.finfo(given).eps)
