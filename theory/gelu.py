r"""Symbolic facts about GELU that the claims use: its Lagrangian, and the extremes and the zero of
its slope.

Run `python theory/gelu.py`; a fact that fails raises. The test of C14 runs it.
"""

import sympy as sp

x = sp.symbols("x", real=True)
DENSITY = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
GELU = x * (1 + sp.erf(x / sp.sqrt(2))) / 2
LAGRANGIAN = (
    x**2 + (x**2 - 1) * sp.erf(x / sp.sqrt(2)) + x * sp.sqrt(2 / sp.pi) * sp.exp(-(x**2) / 2)
) / 4
STEEPEST = (1 + sp.erf(1)) / 2 + sp.exp(-1) / sp.sqrt(sp.pi)


def check(name: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(name)


def zero(expression: sp.Expr) -> bool:
    return sp.simplify(sp.expand(expression)) == 0


def main() -> None:
    slope = sp.diff(GELU, x)
    check("GELU is the derivative of its Lagrangian", zero(sp.diff(LAGRANGIAN, x) - GELU))
    check("the Lagrangian vanishes at 0 and tends to 1/4", LAGRANGIAN.subs(x, 0) == 0)
    check("... far left", sp.limit(LAGRANGIAN, x, -sp.oo) == sp.Rational(1, 4))
    check(
        "... and to x^2/2 - 1/4 far right",
        sp.limit(LAGRANGIAN - x**2 / 2, x, sp.oo) == -sp.Rational(1, 4),
    )
    check("the slopes at x and -x add up to 1", zero(slope + slope.subs(x, -x) - 1))
    check("x GELU' - GELU = x^2 p", zero(x * slope - GELU - x**2 * DENSITY))
    check("the slope changes as (2 - x^2) p", zero(sp.diff(slope, x) - (2 - x**2) * DENSITY))
    check("largest slope, at sqrt 2", zero(slope.subs(x, sp.sqrt(2)) - STEEPEST))
    check("lowest slope, at -sqrt 2", zero(slope.subs(x, -sp.sqrt(2)) - (1 - STEEPEST)))
    check(
        "the ends are 0 and 1", sp.limit(slope, x, -sp.oo) == 0 and sp.limit(slope, x, sp.oo) == 1
    )
    # Left of -sqrt 2 the slope falls from 0, then rises to the largest one: it has one zero,
    # between the extremes.
    root = sp.nsolve(slope, x, -0.75)
    check("the zero of the slope", abs(root + 0.751791524693564457) < 1e-15)
    check("the lowest value", abs(GELU.subs(x, root).evalf() + 0.169971207479904) < 1e-14)
    check("the numbers", abs(STEEPEST.evalf() - 1.12890414518515) < 1e-14)
    check("the threshold of C14", abs((1 / STEEPEST).evalf() - 0.885814800366409) < 1e-14)


if __name__ == "__main__":
    main()
