"""The sign of the pseudo-energy's correction, its residual force, and the radial potential, by
computer algebra.

.venv/bin/python theory/pseudo_energy.py

Two visible and two hidden units, g and h = W g, with V = W^T + B. Prints what it derives; raises
AssertionError where a statement of theory/C10-pseudo-energy.md fails. Five seconds.
"""

import sympy as sp

g = sp.Matrix(sp.symbols("g1 g2", real=True))
W = sp.Matrix(2, 2, sp.symbols("w11 w12 w21 w22", real=True))
B = sp.Matrix(2, 2, sp.symbols("b11 b12 b21 b22", real=True))
V, h = W.T + B, W * g


def gradient(scalar: sp.Expr) -> sp.Matrix:
    return sp.Matrix([sp.diff(scalar, entry) for entry in g])


def equal(a: sp.Matrix, b: sp.Matrix) -> bool:
    return all(sp.simplify(sp.expand(entry)) == 0 for entry in a - b)


def sign_of_the_correction() -> sp.Expr:
    """The number s for which -|h|^2/2 + s g.B h has minus the symmetric part of V W g as its
    gradient: linear units.
    """
    s, m = sp.Symbol("s"), V * W
    mismatch = -gradient(-h.dot(h) / 2 + s * g.dot(B * h)) - (m + m.T) / 2 * g
    coefficients = [c for entry in mismatch for c in sp.Poly(entry, *g, *W, *B).coeffs()]
    (solution,) = sp.solve(coefficients, s, dict=True)
    return solution[s]


def energy_after_elimination(value, slope) -> sp.Expr:
    """Hidden layer and symmetrised interaction at the place h = W g where the hidden force
    vanishes.
    """
    phi = h.applyfunc(slope)
    interaction = -(phi.dot(W * g) + g.dot(V * phi)) / 2
    return h.dot(phi) - sum(value(entry) for entry in h) + interaction


def check_the_elimination():
    """It leaves -sum Phi(h) - g.B phi(h)/2, and the residual (B phi - W^T diag(phi') B^T g)/2, for
    any Phi.
    """
    value = sp.Function("Phi")
    slope, curvature = (lambda z: sp.diff(value(z), z)), (lambda z: sp.diff(value(z), z, 2))
    z = sp.Symbol("z")
    at = lambda f: h.applyfunc(lambda entry: f(z).subs(z, entry).doit())
    phi = at(slope)
    potential = sum(at(value)) + g.dot(B * phi) / 2
    left = energy_after_elimination(value, lambda entry: slope(z).subs(z, entry).doit())
    assert sp.simplify(sp.expand(left + potential)) == 0
    residual = (B * phi - W.T * sp.diag(*at(curvature)) * B.T * g) / 2
    assert equal(V * phi - gradient(potential).doit(), residual)


def check_the_radial_potential(degree: int):
    """For Phi = z^n/n: int_0^1 g.F(t g) dt = sum Phi(h) + g.B [Phi(h)/h], whose residual is
    orthogonal to g.
    """
    t = sp.Symbol("t", positive=True)
    force = V * h.applyfunc(lambda z: z ** (degree - 1))
    along = sp.expand(g.dot(force.subs({entry: t * entry for entry in g}, simultaneous=True)))
    radial = sp.integrate(along, (t, 0, 1))
    closed = sum(z**degree for z in h) / degree + g.dot(
        B * h.applyfunc(lambda z: z ** (degree - 1) / degree)
    )
    assert sp.expand(radial - closed) == 0
    assert sp.expand(g.dot(force - gradient(radial))) == 0


def check_conservative_weights(degree: int):
    """For V = W^T D the radial potential gives the whole force, and the symmetrised one only for D
    = 1 or degree 2.
    """
    gains = sp.diag(*sp.symbols("d1 d2", real=True))
    phi = h.applyfunc(lambda z: z ** (degree - 1))
    force, breaking = W.T * gains * phi, W.T * (gains - sp.eye(2))
    total = sum(z**degree for z in h) / degree
    assert equal(force, gradient(total + g.dot(breaking * phi) / degree))
    assert equal(force, gradient(total + g.dot(breaking * phi) / 2)) == (degree == 2)


def main():
    sign = sign_of_the_correction()
    assert sign == -sp.Rational(1, 2)
    check_the_elimination()
    for degree in (2, 3, 4):
        check_the_radial_potential(degree)
        check_conservative_weights(degree)
    print(
        f"E = -sum Phi(h) + s g.B phi(h) has the symmetric part of V W as its force for s = {sign}"
    )
    print(
        "the residual of that energy is (B phi(h) - W^T diag(phi'(h)) B^T g)/2; it is "
        "antisymmetric for linear units"
    )
    print("the radial potential is sum Phi(h) + g.B [Phi(h)/h]; its residual is orthogonal to g")


if __name__ == "__main__":
    main()
