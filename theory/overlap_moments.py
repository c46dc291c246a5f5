r"""How noisy the other patterns are at one bit of a stored pattern: exact moments, and the double
factorial in them.

With $m$ a sum of $D$ fair signs and $c = F(m + 1) - F(m - 1)$, $F(z) = z^n$, the mean square is a
polynomial in $D$ with the leading term $4 n^2 (2n - 3)!!\, D^{n-1}$. Its ratio to the squared
signal $S = F(D + 1) - F(D - 1)$ is what the capacities of `theory/C12-retrieval.md` rest on. Run it
to see them; it fails if one is wrong.
"""

import sympy as sp

D, t, m = sp.symbols("D t m", positive=True)


def moment(order: int) -> sp.Expr:
    r"""$\langle m^{k} \rangle$ of a sum of $D$ fair signs, from its generating function $(\cosh
    t)^D$.
    """
    return sp.expand(sp.diff(sp.cosh(t) ** D, t, order).subs(t, 0))


def mean_square(power: int) -> sp.Expr:
    r"""$\langle c^2 \rangle$ for $F(z) = z^n$."""
    noise = sp.Poly(sp.expand(((m + 1) ** power - (m - 1) ** power) ** 2), m)
    return sp.expand(sum(coefficient * moment(k) for (k,), coefficient in noise.terms()))


def signal(power: int) -> sp.Expr:
    """$S$ for $F(z) = z^n$."""
    return sp.expand((D + 1) ** power - (D - 1) ** power)


def main() -> None:
    for power in range(2, 6):
        exact = mean_square(power)
        leading = 4 * power**2 * sp.factorial2(2 * power - 3) * D ** (power - 1)
        assert sp.limit(exact / leading, D, sp.oo) == 1, power
        ratio = sp.limit(signal(power) ** 2 / exact / D ** (power - 1), D, sp.oo)
        assert ratio == sp.Rational(1, sp.factorial2(2 * power - 3)), power
        print(f"n = {power}: <c^2> = {sp.factor(exact)},  S^2/<c^2> -> D^{power - 1} * {ratio}")
    assert (
        mean_square(2) == 16 * D
    )  # a sum of 4 D signs times 4: the noise of the classical memory is binomial


if __name__ == "__main__":
    main()
