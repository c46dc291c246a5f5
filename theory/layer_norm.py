"""Layer normalisation from its Lagrangian, by computer algebra.

.venv/bin/python theory/layer_norm.py

Groups of three and four entries with symbolic states, scale, shift and eps. Prints what it derives;
raises AssertionError where a statement of theory/C01-descent.md, C04-gauge.md or C08-scale.md about
the norm fails. Five seconds.
"""

import sympy as sp

gamma, eps = sp.symbols("gamma epsilon", positive=True)
a = sp.Symbol("a", positive=True)


class Norm:
    """L = gamma N sqrt(var(x) + eps) + delta.x and its parts, for one group of N entries."""

    def __init__(self, size: int):
        self.size = size
        self.x = sp.Matrix(sp.symbols(f"x1:{size + 1}", real=True))
        self.shift = sp.Matrix(sp.symbols(f"delta1:{size + 1}", real=True))
        self.ones = sp.ones(size, 1)
        self.u = self.x - self.ones * sum(self.x) / size
        self.s = sp.sqrt(self.u.dot(self.u) / size + eps)
        self.value = gamma * size * self.s + self.shift.dot(self.x)
        self.projector = sp.eye(size) - self.ones * self.ones.T / size
        self.hessian = gamma / self.s * (self.projector - self.u * self.u.T / (size * self.s**2))

    def gradient(self) -> sp.Matrix:
        return sp.Matrix([sp.diff(self.value, entry) for entry in self.x])

    def activation(self) -> sp.Matrix:
        return gamma * self.u / self.s + self.shift


def zero(expression: sp.Matrix | sp.Expr) -> bool:
    return all(sp.simplify(sp.together(sp.expand(entry))) == 0 for entry in sp.Matrix([expression]))


def check_gradient_and_hessian(norm: Norm):
    """g = gamma (x - mean)/s + delta and H = (gamma/s) [P - u u^T/(N s^2)]."""
    gradient = norm.gradient()
    assert zero(gradient - norm.activation())
    assert zero(gradient.jacobian(norm.x) - norm.hessian)


def check_eigenvectors(norm: Norm):
    """H has the eigenvalue 0 on constants, gamma eps/s^3 on u, and gamma/s on what is orthogonal to
    both (N = 3).
    """
    assert zero(norm.hessian * norm.ones)
    assert zero(norm.hessian * norm.u - gamma * eps / norm.s**3 * norm.u)
    orthogonal = norm.ones.cross(norm.u)
    assert zero(norm.hessian * orthogonal - gamma / norm.s * orthogonal)


def check_energy(norm: Norm):
    """x.g - L = -gamma N eps/s: between -gamma N sqrt(eps) and 0, and zero for eps = 0."""
    assert zero(norm.x.dot(norm.activation()) - norm.value + gamma * norm.size * eps / norm.s)


def check_scaling(norm: Norm):
    """g(a x; eps) = g(x; eps/a^2): the gauge of theory/C04-gauge.md, and scale invariance for eps =
    0.
    """
    scaled = norm.activation().subs({entry: a * entry for entry in norm.x}, simultaneous=True)
    assert zero(scaled - norm.activation().subs(eps, eps / a**2))
    exact = norm.activation().subs(eps, 0)
    assert zero(exact.subs({entry: a * entry for entry in norm.x}, simultaneous=True) - exact)
    # Euler's theorem for L homogeneous of degree one.
    assert zero((norm.x.dot(norm.activation()) - norm.value).subs(eps, 0))


def check_vector_scale(norm: Norm):
    """diag(c) LN has the curl (c_i - c_j) H_ij, with H_ij = -(gamma/(N s)) (1 + u_i u_j/s^2): no
    vector c has an L.
    """
    c = sp.Matrix(sp.symbols(f"c1:{norm.size + 1}", real=True))
    jacobian = (sp.diag(*c) * norm.activation()).jacobian(norm.x)
    for i in range(norm.size):
        for j in range(i):
            entry = -gamma / (norm.size * norm.s) * (1 + norm.u[i] * norm.u[j] / norm.s**2)
            assert zero(jacobian[i, j] - jacobian[j, i] - (c[i] - c[j]) * entry)


def check_one_root_per_group():
    """Two groups under one root: the gradient is not the norm of each group."""
    x = sp.Matrix(sp.symbols("x1:5", real=True))
    halves = [x[:2, 0], x[2:, 0]]
    centred = [half - sp.ones(2, 1) * sum(half) / 2 for half in halves]
    variances = [u.dot(u) / 2 for u in centred]
    one_root = 4 * sp.sqrt(sum(variances) / 2 + eps)
    norm_of_first = centred[0] / sp.sqrt(variances[0] + eps)
    mismatch = sp.Matrix([sp.diff(one_root, entry) for entry in x[:2, 0]]) - norm_of_first
    assert mismatch.subs({x[0]: 2, x[1]: 0, x[2]: 6, x[3]: 0, eps: 0}) != sp.zeros(2, 1)


def main():
    for size in (3, 4):
        norm = Norm(size)
        check_gradient_and_hessian(norm)
        check_energy(norm)
    check_scaling(Norm(3))
    check_eigenvectors(Norm(3))
    check_vector_scale(Norm(3))
    check_one_root_per_group()
    print(
        "L = gamma N s + delta.x, s = sqrt(var + eps):  g = gamma u/s + delta,  H = (gamma/s) [P "
        "- u u^T/(N s^2)]"
    )
    print("eigenvalues of H: 0 (constants), gamma eps/s^3 (along u), gamma/s (orthogonal to both)")
    print("layer energy x.g - L = -gamma N eps/s;  g(a x; eps) = g(x; eps/a^2)")
    print("a vector of scales has the curl (c_i - c_j) H_ij and no Lagrangian")


if __name__ == "__main__":
    main()
