"""Catalogue: the exact types whose mathematics is proved, and what a system has beside them.

A subclass may override anything, so that it counts as a type of its own: nothing is known of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from hopmix._convolution import Convolution
from hopmix._coupling import Coupling
from hopmix._derive import Block, Potential
from hopmix._dtypes import cast, precision_of, solver_dtype
from hopmix._gained import Gained
from hopmix._lagrangian import (
    GELU,
    AbstractLagrangian,
    Exponential,
    Quadratic,
    ReLU,
    RePU,
    Scaled,
    Sigmoid,
    Sum,
    Tanh,
)
from hopmix._lagrangian_groups import (
    Entmax,
    GhostMax,
    LayerNorm,
    LogSumReLU,
    Softmax,
    SphericalNorm,
)
from hopmix._memory import Affine, AssociativeMemory, Neurons
from hopmix._synapse import (
    AbstractSynapse,
    ChannelMixing,
    Dense,
    TokenMixing,
)

ELEMENTWISE = {Quadratic, ReLU, RePU, GELU, Exponential, Tanh, Sigmoid}
GROUPS = {Softmax, GhostMax, Entmax, LogSumReLU, LayerNorm, SphericalNorm}
COUPLED = (Dense, TokenMixing, ChannelMixing, Convolution)
PARTS = {Coupling, Affine, Neurons, Potential, AssociativeMemory, Block}

SMOOTH = {
    *("add", "sub", "mul", "neg", "integer_pow", "square", "dot_general", "reduce_sum", "add_any"),
    *("exp", "tanh", "logistic", "sin", "cos", "erf", "erfc"),
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "slice", "concatenate"),
    *("copy", "rev", "pad", "iota", "convert_element_type", "jit", "pjit"),
}
"""Operations of JAX that are smooth everywhere, and differentiated as what they are."""


def is_known(lagrangian: AbstractLagrangian) -> bool:
    """Whether a Lagrangian is one of hopmix, or a sum of multiples of such."""
    if type(lagrangian) is Sum:
        return all(is_known(term) for term in lagrangian.terms)
    if type(lagrangian) is Scaled:
        return is_known(lagrangian.lagrangian)
    if type(lagrangian) is Gained:
        return is_elementwise(lagrangian.lagrangian)
    return type(lagrangian) in ELEMENTWISE | GROUPS


def is_elementwise(lagrangian: AbstractLagrangian) -> bool:
    """Whether a Lagrangian of hopmix is a sum over single units."""
    return is_known(lagrangian) and all(part.is_elementwise for part in lagrangian.parts)


def foreign_parts(system: Any) -> list[str]:
    """The types in a system, beside Lagrangians and synapses, that are not those of hopmix."""
    modules = [m for m in _modules(system) if not isinstance(m, AbstractLagrangian | AbstractSynapse)]
    return sorted({type(module).__name__ for module in modules if type(module) not in PARTS})


def _modules(tree: Any) -> Iterator[eqx.Module]:
    """The modules of a tree, outermost first; of Lagrangians and most synapses not what is inside."""
    for node in jax.tree.leaves(tree, is_leaf=_is_module):
        if not _is_module(node):
            continue
        yield node
        is_closed = isinstance(node, AbstractLagrangian | AbstractSynapse) and type(node) not in COUPLED
        if not is_closed:
            yield from _modules(list(vars(node).values()))


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)


def not_finite(system: Any) -> list[str]:
    """The places of the parameters of a system that are not finite numbers in its precision."""
    dtype = solver_dtype(precision_of(system))
    leaves = jax.tree_util.tree_leaves_with_path(system)
    return [
        jax.tree_util.keystr(path).removeprefix(".")
        for path, leaf in leaves
        if eqx.is_inexact_array_like(leaf) and not _is_finite(leaf, dtype)
    ]


def _is_finite(leaf: Any, dtype: Any) -> bool:
    # NumPy has no test for the half precisions of ml_dtypes; Python's numbers are what the precision makes of them.
    with np.errstate(over="ignore"):
        numbers = np.asarray(leaf, float).astype(dtype if isinstance(leaf, float) else float)
    return bool(np.all(np.isfinite(numbers)))


def is_smooth(function: Callable, *examples: jax.ShapeDtypeStruct) -> bool:
    """Whether a function is a program of smooth operations alone, so that its derivative is what JAX says."""
    # Sums of half precision are rounded on their way out; the function that is meant is that of real numbers.
    dtype = solver_dtype(jnp.result_type(*examples))
    wide = [jax.ShapeDtypeStruct(example.shape, dtype) for example in examples]
    try:
        program = jax.make_jaxpr(cast(function, dtype))(*wide)
    except Exception:  # of a user's function anything can be raised
        return False
    if not all(_is_finite(const, dtype) for const in program.consts):
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
    if not all(np.all(np.isfinite(np.asarray(number, float))) for number in (*literals, *constants)):
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
