"""The energy balance of an explicit step, and the divergence of a norm, by computer algebra.

.venv/bin/python theory/step_balance.py

Two visible units with free values of all functions at two states, then a layer norm of any size.
Prints what it derives; raises AssertionError where a statement of theory/C05-steps.md or
theory/C06-gelu.md fails. Two seconds.
"""

import sympy as sp

eta, leak = sp.symbols("eta lambda", positive=True)
x, y, g, h = (sp.Matrix(sp.symbols(f"{name}1:3", real=True)) for name in "xygh")
L_x, L_y, U_g, U_h = sp.symbols("L_x L_y U_g U_h", real=True)
FORCE = (y - x) / eta + leak * x  # what it must have been to lead from x to y
S = leak * eta


def vanishes(expression: sp.Basic) -> bool:
    return sp.simplify(sp.expand(expression)) == 0


def energy(
    state: sp.Matrix, activation: sp.Matrix, lagrangian: sp.Expr, potential: sp.Expr
) -> sp.Expr:
    return leak * (state.dot(activation) - lagrangian) - potential


ONWARD = L_y - L_x - g.dot(y - x)
BACKWARD = L_x - L_y - h.dot(x - y)
POTENTIAL = U_h - U_g - FORCE.dot(h - g)
CHANGE = energy(y, h, L_y, U_h) - energy(x, g, L_x, U_g)


def check_the_balance():
    """E(y) - E(x) = -[(1 - s) D(x, y) + D(y, x)]/eta - D_U(h, g), whatever the functions are."""
    assert vanishes(CHANGE + ((1 - S) * BACKWARD + ONWARD) / eta + POTENTIAL)
    assert vanishes(ONWARD + BACKWARD - (y - x).dot(h - g))


def check_the_split():
    """The step sets the gradients of the two convex halves of the energy equal: (1/eta) y = F +
    (1/eta - leak) x.
    """
    assert all(vanishes(entry) for entry in y / eta - FORCE - (1 / eta - leak) * x)
    conjugate = lambda state, activation, lagrangian: state.dot(activation) - lagrangian
    dual = conjugate(x, g, L_x) - conjugate(y, h, L_y) - y.dot(g - h)
    assert vanishes(dual - ONWARD)  # D_L*(g, g') = D_L(x', x)


def check_the_norm():
    """D_L(x', x) = s'/(2 gamma) [|g' - g|^2 + gamma^2 N eps (1/s - 1/s')^2], by |g|^2 = gamma^2 N
    (1 - eps/s^2).
    """
    gamma, size, eps, s, t, product = sp.symbols("gamma N epsilon s t p", positive=True)
    square = lambda root: gamma**2 * size * (1 - eps / root**2)
    chord = square(s) + square(t) - 2 * product + gamma**2 * size * eps * (1 / s - 1 / t) ** 2
    inner = (
        t * product - s * square(s)
    ) / gamma  # g.(c' - c) with the centred states c = s g/gamma
    assert vanishes(gamma * size * (t - s) - inner - t * chord / (2 * gamma))
    heights = square(s) + (gamma * sp.sqrt(size * eps) / s) ** 2
    assert vanishes(heights - gamma**2 * size)


def check_the_sphere():
    """The same for L = sqrt(|x|^2 + eps), where g = x/s and |g|^2 = 1 - eps/s^2."""
    eps, s, t, product = sp.symbols("epsilon s t p", positive=True)
    square = lambda root: 1 - eps / root**2
    chord = square(s) + square(t) - 2 * product + eps * (1 / s - 1 / t) ** 2
    assert vanishes(t - s - (t * product - s * square(s)) - t * chord / 2)


def check_the_sharp_pair():
    """Two GELU units with weights +-w and biases -sqrt 2: U' = 0 and U'' = -K at 0."""
    w, z = sp.symbols("w z", real=True)
    slope = sp.diff(gelu(z), z)
    steepest = sp.Rational(1, 2) * sp.erfc(1) - sp.exp(-1) / sp.sqrt(sp.pi)
    force = w * gelu(w * z - sp.sqrt(2)) - w * gelu(-w * z - sp.sqrt(2))
    at_zero = lambda expression: expression.subs(z, 0)
    assert vanishes(at_zero(force))
    assert vanishes((at_zero(sp.diff(force, z)) - 2 * w**2 * steepest).rewrite(sp.erf))
    assert vanishes(sp.diff(slope, z).subs(z, -sp.sqrt(2)))
    assert abs(sp.N(steepest) + 0.1289) < 1e-4


def gelu(a: sp.Expr) -> sp.Expr:
    return a * (1 + sp.erf(a / sp.sqrt(2))) / 2


def main():
    check_the_balance()
    check_the_split()
    check_the_norm()
    check_the_sphere()
    check_the_sharp_pair()
    print("E(x') - E(x) = -[(1 - s) D_L(x, x') + D_L(x', x)]/eta - D_U(g', g) for any L, U and x'")
    print("layer norm: D_L(x', x) = s'/(2 gamma) [|g' - g|^2 + gamma^2 N eps (1/s - 1/s')^2]")
    print("two GELU units with weights +-w and biases -sqrt 2: U''(0) = -0.1289 * 2 w^2 = -K")


if __name__ == "__main__":
    main()
