r"""Symbolic checks of claim C11 (theory/C11-breaking.md): the velocity of $V - W^\top$, and the
solvable problem.

Run `python theory/breaking.py`; an identity that fails raises. The test of C11 runs it.
"""

import sympy as sp


def matrix(name: str, rows: int = 2, columns: int = 2) -> sp.Matrix:
    return sp.Matrix(rows, columns, sp.symbols(f"{name}:{rows}:{columns}", real=True))


def gradient(loss: sp.Expr, of: sp.Matrix) -> sp.Matrix:
    return of.applyfunc(lambda entry: sp.diff(loss, entry))


def check(name: str, difference: sp.Expr | sp.Matrix) -> None:
    """Raise unless an expression, or each entry of a matrix, is zero."""
    for entry in sp.Matrix([difference]) if isinstance(difference, sp.Expr) else difference:
        if sp.simplify(sp.expand(entry)) != 0:
            raise AssertionError(f"{name}: {sp.simplify(entry)} is not zero")


def linear_velocity() -> None:
    """d(V - W^T)/dt in terms of G, at any point and at a tied one, for a loss of second degree in M
    = VW.
    """
    v, w, target, metric = matrix("v"), matrix("w"), matrix("t"), matrix("c")
    error = v * w - target
    loss = (error * metric * metric.T * error.T).trace() / 2
    g = error * metric * metric.T
    velocity = -(gradient(loss, v) - gradient(loss, w).T)
    check("gradient flow", velocity + g * w.T - g.T * v)
    half, gap = (v + w.T) / 2, v - w.T
    check("split", velocity + (g - g.T) * half - (g + g.T) * gap / 2)
    at = dict(zip(v, w.T))
    check("tied point", (velocity + (g - g.T) * w.T).subs(at))


def balance() -> None:
    """V^T V - W W^T is conserved by linear units, each |w|^2 - |v|^2 by units of degree one."""
    v, w, g = matrix("v"), matrix("w"), matrix("g")
    dv, dw = -g * w.T, -v.T * g
    check("linear", dv.T * v + v.T * dv - dw * w.T - w * dw.T)


def solvable() -> None:
    """Products of rotations: dM/dt = -2 |M| (M - T), and the time it takes to go a share of the
    way.
    """
    r, theta, x, y = sp.symbols("r theta x y", real=True)
    v, w = (
        r * sp.exp(sp.I * theta),
        r,
    )  # |v| = |w| is conserved; a common phase rotates hidden space
    target, product = x + sp.I * y, v * w
    rate = -(product - target) * sp.conjugate(w) * w - v * sp.conjugate(v) * (product - target)
    check("product", rate + 2 * r**2 * (product - target))
    s, a, b, c = sp.symbols("s a b c", positive=True)
    root = sp.sqrt(a + b * s + c * s**2)
    log = sp.log((2 * a + b * s + 2 * sp.sqrt(a) * root) / s)
    check("time", sp.diff(log, s) * s * root + sp.sqrt(a))


def main() -> None:
    linear_velocity()
    balance()
    solvable()


if __name__ == "__main__":
    main()
