"""The Legendre derivative, the rate identity, and what clamping does to it, by computer algebra.

.venv/bin/python theory/rate_identity.py

One layer of two units with any Lagrangian L(x1, x2) and any interaction S(g1, g2) of its
activations; then a second layer of one unit. Prints what it derives; raises AssertionError where a
statement of theory/C01-descent.md fails. Five seconds.
"""

import sympy as sp

x = sp.Matrix(sp.symbols("x1 x2", real=True))
y = sp.Symbol("y", real=True)
tau, tau_y = sp.symbols("tau tau_y", positive=True)
L, S = sp.Function("L"), sp.Function("S")
g = sp.Matrix([sp.diff(L(*x), unit) for unit in x])
H = sp.hessian(L(*x), list(x))


def vanishes(expression: sp.Expr) -> bool:
    return sp.simplify(sp.expand(expression.doit())) == 0


def check_the_legendre_derivative():
    """d(x.g - L) = x.dg: the derivative of the layer energy with respect to g is x, for any L."""
    energy = x.dot(g) - L(*x)
    for unit in x:
        assert vanishes(sp.diff(energy, unit) - x.dot(sp.diff(g, unit)))


def interaction(activations: list[sp.Expr]) -> tuple[sp.Expr, list[sp.Expr]]:
    """S and its partial derivatives at these activations."""
    slots = sp.symbols(f"s1:{len(activations) + 1}")
    there = dict(zip(slots, activations))
    partials = [sp.diff(S(*slots), slot).subs(there, simultaneous=True) for slot in slots]
    return S(*activations), partials


def check_one_layer():
    """E = x.g - L + S(g) and tau x' = -x - dS/dg give dE/dt = -tau x'.H x'."""
    value, partials = interaction(list(g))
    velocity = -(x + sp.Matrix(partials)) / tau
    rate = sp.Matrix([sp.diff(x.dot(g) - L(*x) + value, unit) for unit in x]).dot(velocity)
    assert vanishes(rate + tau * velocity.dot(H * velocity))


def check_two_layers():
    """A second layer with a Lagrangian and a time constant of its own adds its own term, and
    nothing else.
    """
    M = sp.Function("M")
    h, curvature = sp.diff(M(y), y), sp.diff(M(y), y, 2)
    value, partials = interaction([*g, h])
    energy = x.dot(g) - L(*x) + y * h - M(y) + value
    velocity, velocity_y = -(x + sp.Matrix(partials[:2])) / tau, -(y + partials[2]) / tau_y
    rate = (
        sp.Matrix([sp.diff(energy, unit) for unit in x]).dot(velocity)
        + sp.diff(energy, y) * velocity_y
    )
    assert vanishes(rate + tau * velocity.dot(H * velocity) + tau_y * curvature * velocity_y**2)


def check_clamping():
    """Holding x2 adds -f2 H21 x1' to the rate, with f2 the force that is not followed; nothing
    where H is diagonal.
    """
    value, partials = interaction(list(g))
    force = -(x + sp.Matrix(partials))
    velocity = sp.Matrix([force[0] / tau, 0])
    rate = sp.Matrix([sp.diff(x.dot(g) - L(*x) + value, unit) for unit in x]).dot(velocity)
    assert vanishes(rate + tau * velocity.dot(H * velocity) + force[1] * H[1, 0] * velocity[0])


def clamped_rate(lagrangian: sp.Expr, at: dict[sp.Symbol, sp.Expr], current: list[int]) -> sp.Expr:
    """dE/dt of E = (x - I).g - L with tau = 1 where only the first unit moves."""
    units = sorted(at, key=str)
    gradient = sp.Matrix([sp.diff(lagrangian, unit) for unit in units])
    energy = (sp.Matrix(units) - sp.Matrix(current)).dot(gradient) - lagrangian
    return sp.simplify((sp.diff(energy, units[0]) * (current[0] - units[0])).subs(at))


def counter_examples() -> dict[str, sp.Expr]:
    """Rates of energies that rise while a part of one group is held."""
    a, b, c = sp.symbols("a b c", real=True)
    mean = (a + b + c) / 3
    spread = sp.sqrt(sum((unit - mean) ** 2 for unit in (a, b, c)) / 3)
    pair, zero, one = [1, 2], {a: 0, b: 0}, {a: 1, b: 1}
    return {
        "layer norm": clamped_rate(3 * spread, {a: 1, b: 0, c: -1}, [2, 1, -1]),
        "softmax": clamped_rate(sp.log(sp.exp(a) + sp.exp(b)), zero, pair),
        "spherical norm": clamped_rate(sp.sqrt(a**2 + b**2), one, [2, 3]),
    }


def main():
    check_the_legendre_derivative()
    check_one_layer()
    check_two_layers()
    check_clamping()
    rates = counter_examples()
    assert rates == {
        "layer norm": sp.sqrt(6) / 12,
        "softmax": sp.Rational(1, 4),
        "spherical norm": sp.sqrt(2) / 4,
    }
    print(
        "dE/dt = -tau x'.H x' for one layer of any L and any interaction, and one such term for "
        "each further layer"
    )
    print("holding x2 adds -f2 H21 x1': the energy may rise where H is not diagonal")
    for name, rate in rates.items():
        print(f"  {name}: dE/dt = {rate} with one entry free")


if __name__ == "__main__":
    main()
