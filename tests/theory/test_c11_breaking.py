"""C11: the laws of symmetry breaking, each as an oracle for what the tracker says about a training
run.
"""

# pyright: reportArgumentType=false, reportOptionalOperand=false, reportOperatorIssue=false

import math
import runpy
from functools import partial
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, make_block, normal

from hopmix import (
    GELU,
    Asymmetry,
    Coupling,
    Quadratic,
    ReLU,
    RePU,
    Softmax,
    couplings,
    measure_asymmetry,
)
from hopmix.claims import c11_breaking as c11
from hopmix.symmetry.breaking import (
    breaking_rate,
    breaking_velocity,
    product_gradient,
    unit_balance,
)

VISIBLE = c11.VISIBLE
HIDDEN = c11.HIDDEN
DATA = c11.DATA


def tied(up) -> Coupling:
    return Coupling.from_weights(up, up.T)


def density(h) -> np.ndarray:
    return np.exp(-0.5 * h**2) / math.sqrt(2 * math.pi)


def worst(array) -> float:
    return float(np.max(np.abs(np.asarray(array))))


def regression_loss(c: Coupling, target, covariance, decay):
    """1/2 tr (VW - T) S (VW - T)^T with decay: an autoencoder for T = 1, white inputs for S = 1."""
    error = c.down @ c.up - target
    return 0.5 * (
        jnp.sum((error @ covariance) * error) + decay * (jnp.sum(c.up**2) + jnp.sum(c.down**2))
    )


def unit_loss(c: Coupling, problem: c11.Problem, kind, decay):
    task = c11.task_loss(c, c11.mixed_units(kind), problem.inputs, problem.targets)
    return task + 0.5 * decay * (jnp.sum(c.up**2) + jnp.sum(c.down**2))


LINEAR, RECTIFIED, GAUSSIAN, _ = jnp.eye(4)


@eqx.filter_jit
def train(loss, coupling: Coupling, args, rate, steps: int):
    """The tracker's numbers, the couplings and the gradients along a run of SGD by Optax, from
    start to end.
    """
    sgd = optax.inject_hyperparams(optax.sgd)(rate)

    def step(carry, _):
        coupling, state = carry
        gradient = jax.grad(loss)(coupling, *args)
        updates, state = sgd.update(gradient, state)
        return (optax.apply_updates(coupling, updates), state), (
            measure_asymmetry(coupling),
            coupling,
            gradient,
        )

    return jax.lax.scan(step, (coupling, sgd.init(coupling)), None, length=steps + 1)[1]


@eqx.filter_jit
def follow(velocity, start, args, times):
    """The flow along a velocity by Diffrax, saved at these times."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: velocity(y, *args)),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        args=args,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-13),
    )
    assert solution.ys is not None
    return solution.ys


def downhill(loss):
    return lambda c, *args: jax.tree.map(jnp.negative, jax.grad(loss)(c, *args))


TRACK = jax.jit(jax.vmap(measure_asymmetry))
VELOCITY = eqx.filter_jit(c11.tied_velocity)


# ---- The claim as a whole ------------------------------------------------------------------------


def test_the_claim(getkey):
    found = c11.CLAIM.measure(getkey(), 50)
    assert found.passed, found
    assert found.examples == 50


class WrongSlope(ReLU):
    """Rectified units whose second derivative is a tenth too large."""

    def hessian_vector_product(self, x, v):
        return 1.1 * super().hessian_vector_product(x, v)


def test_the_measurement_can_fail(fixedkey):
    problem = c11.draw(fixedkey())
    velocity, rate = eqx.filter_jit(c11.tied_gaps)(problem, WrongSlope())
    assert velocity > 1e-3
    assert rate < 1e-12
    assert eqx.filter_jit(c11.balance_gap)(problem, GELU()) > 1e-4


def test_symbolic_checks():
    runpy.run_path(str(Path(__file__).parents[2] / "theory" / "breaking.py"), run_name="__main__")


# ---- Velocity at a tied point --------------------------------------------------------------------


def moments(getkey, parallel: bool = False):
    """W, inputs g_n and errors delta_n; if parallel, delta_n = s_n g_n."""
    problem = c11.draw(getkey())
    factors = normal(getkey(), (DATA, 1))
    return problem.up, problem.inputs, problem.inputs * factors if parallel else problem.targets


def test_linear_units_break_by_the_antisymmetric_part_of_the_gradient(getkey):
    up, inputs, errors = moments(getkey)
    g = errors.T @ inputs
    velocity = VELOCITY(up, Quadratic(), inputs, errors)
    assert_close(velocity, -(g - g.T) @ up.T)
    assert_close(velocity, breaking_velocity(tied(up), product_gradient(tied(up), g)))


def test_each_rectified_unit_sees_the_antisymmetric_part_of_its_own_gated_moment(getkey):
    up, inputs, errors = map(np.asarray, moments(getkey))
    gates = inputs @ up.T > 0
    velocity = VELOCITY(up, ReLU(), inputs, errors)
    for a in range(HIDDEN):
        gated = (errors * gates[:, [a]]).T @ inputs
        np.testing.assert_allclose(velocity[:, a], -(gated - gated.T) @ up[a], atol=1e-12)


def test_where_errors_are_parallel_to_inputs_only_units_of_degree_one_stay_tied(getkey):
    """With delta = s g the velocity is -sum_n s [phi(h) - h phi'(h)] g.

    It vanishes for linear and rectified units; phi of degree p leaves (1 - p) phi(h), and GELU -h^2
    p(h) with p the normal density.
    """
    up, inputs, errors = map(np.asarray, moments(getkey, parallel=True))
    s = errors[:, :1] / inputs[:, :1]
    h = inputs @ up.T
    for units in (Quadratic(), ReLU()):
        assert worst(VELOCITY(up, units, inputs, errors)) < 1e-12
    cubed = np.maximum(h, 0) ** 3
    assert_close(VELOCITY(up, RePU(4), inputs, errors), 2 * inputs.T @ (s * cubed), 1e-11)
    expected = inputs.T @ (s * h**2 * density(h))
    assert worst(expected) > 1e-2
    assert_close(VELOCITY(up, GELU(), inputs, errors), expected, 1e-11)


def test_one_datum_moves_every_unit_that_is_not_silent_unless_its_error_is_parallel(getkey):
    up, inputs, errors = moments(getkey)
    for units in (Quadratic(), ReLU(), GELU()):
        lengths = np.linalg.norm(VELOCITY(up, units, inputs[:1], errors[:1]), axis=0)
        silent = np.asarray((up @ inputs[0] < 0) & isinstance(units, ReLU))
        np.testing.assert_array_equal(lengths == 0, silent)


def test_units_that_compete_have_a_hessian_not_a_slope(getkey):
    """Softmax units, against automatic differentiation of a loss with these errors."""
    up, inputs, errors = moments(getkey)
    loss = lambda c: jnp.sum(
        errors * jax.vmap(lambda g: c.down @ Softmax().activation(c.up @ g))(inputs)
    )
    expected = breaking_velocity(tied(up), jax.jit(jax.grad(loss))(tied(up)))
    assert_close(VELOCITY(up, Softmax(), inputs, errors), expected)


def test_an_autoencoder_breaks_by_the_commutator_of_its_map_and_the_covariance(getkey):
    up, inputs, _ = moments(getkey)
    covariance = inputs.T @ inputs
    m = up.T @ up
    gradient = jax.jit(jax.grad(regression_loss))(
        tied(up), jnp.eye(VISIBLE), covariance, jnp.asarray(0.3)
    )
    assert_close(
        breaking_velocity(tied(up), gradient), -(m @ covariance - covariance @ m) @ up.T, 1e-11
    )


def test_the_rate_predicts_the_onset_in_a_mixer_block(getkey):
    """Both branches of a block with GELU, biases and a norm: a small step of SGD gains rate times
    step size.
    """
    block = make_block(getkey(), "free")
    starts = [jnp.array(c.up.T) for c in couplings(block)]
    block = eqx.tree_at(lambda b: [c.breaking for c in couplings(b)], block, starts)
    x = normal(getkey(), (4, 6))
    y = normal(getkey(), (4, 6))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda b: jnp.sum((b(x) - y) ** 2)))(block)
    assert len(couplings(block)) == 2
    for coupling, slope in zip(couplings(block), couplings(gradient), strict=True):
        later = Coupling.from_weights(
            coupling.up - 1e-6 * slope.up, coupling.breaking - 1e-6 * slope.breaking
        )
        measured = measure_asymmetry(later).breaking_ratio / 1e-6
        np.testing.assert_allclose(measured, breaking_rate(coupling, slope), rtol=1e-3)


# ---- An exactly solvable problem -----------------------------------------------------------------

SOLVABLE = [(0.3, 1.5 + 1.2j), (1.0, -0.4 + 0.9j), (2.0, 0.5 - 0.1j)]


def rotation(z: complex) -> jax.Array:
    return jnp.asarray([[z.real, -z.imag], [z.imag, z.real]])


def indices(found: Asymmetry) -> tuple:
    """The indices of the tracker that measure the distance from V = W^T."""
    return (
        found.cosine,
        found.relative_breaking,
        found.unit_cosine,
        found.symmetry_score,
        found.breaking_ratio,
    )


def check_phase(found: Asymmetry, products, tolerance: float):
    """The tracker in terms of the phase of M: cosines cos(phase), score cos(2 phase), ratio 2
    |sin(phase/2)|.
    """
    phase = np.angle(products)
    expected = (
        np.cos(phase),
        1 - np.cos(phase),
        np.cos(phase),
        np.cos(2 * phase),
        np.abs(2 * np.sin(0.5 * phase)),
    )
    np.testing.assert_allclose(np.stack(indices(found)), np.stack(expected), atol=tolerance)
    np.testing.assert_allclose(found.balance, 0, atol=tolerance)


def test_the_exactly_solvable_flow():
    """The whole course of breaking against its closed form: M goes straight to T, at known
    times.
    """
    shares = np.asarray([0.9, 0.5, 0.1, 1e-2, 1e-4])
    for start, target in SOLVABLE:
        # The phase of a tied W is free: V = W^T carries the opposite one.
        weights = tied(rotation(math.sqrt(start) * complex(math.cos(0.7), math.sin(0.7))))
        times = jnp.asarray(c11.solvable_time(start, target, shares))
        args = (rotation(target), jnp.eye(2), jnp.asarray(0.0))
        path = follow(FLOW_OF_REGRESSION, weights, args, times)
        products = c11.solvable_product(start, target, shares)
        m = np.asarray(path.breaking) @ np.asarray(path.up)
        np.testing.assert_allclose(m[:, 0, 0] + 1j * m[:, 1, 0], products, atol=1e-8)
        check_phase(TRACK(path), products, 1e-8)


FLOW_OF_REGRESSION = downhill(regression_loss)


def test_gradient_descent_approaches_the_solvable_flow():
    """With step sizes that halve, its distance from the closed form halves; at the end it has
    none.
    """
    start, target = SOLVABLE[0]
    args = (rotation(target), jnp.eye(2), jnp.asarray(0.0))
    weights = tied(math.sqrt(start) * jnp.eye(2))
    time = float(c11.solvable_time(start, target, np.asarray([0.2]))[0])
    expected = float(np.cos(np.angle(c11.solvable_product(start, target, np.asarray([0.2]))[0])))
    found, *_ = train(regression_loss, weights, args, jnp.asarray(time / 400), 1600)
    finer, *_ = train(regression_loss, weights, args, jnp.asarray(time / 800), 1600)
    errors = abs(found.cosine[400] - expected), abs(finer.cosine[800] - expected)
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.05)
    end, *_ = train(regression_loss, weights, args, jnp.asarray(0.05), 1600)
    check_phase(jax.tree.map(lambda index: index[-1], end), np.asarray(target), 1e-10)


def test_a_symmetric_task_leaves_independent_weights_tied_but_not_a_breaking(fixedkey):
    """Linear units, white inputs, symmetric target: G is symmetric at every tied point, so free
    weights stay tied.

    W with a breaking on top of W^T is another descent on the same loss, and breaks: its velocity is
    -G W^T.
    """
    root = normal(fixedkey(), (VISIBLE, VISIBLE))
    up = 0.3 * normal(fixedkey(), (HIDDEN, VISIBLE))
    args = (0.5 * (root + root.T), jnp.eye(VISIBLE), jnp.asarray(0.0))
    run = partial(train, regression_loss, args=args, rate=jnp.asarray(1e-3), steps=1000)
    free, *_ = run(tied(up))
    assert worst(free.breaking_ratio) < 1e-12
    broken, path, gradients = run(Coupling(up, breaking=jnp.zeros((VISIBLE, HIDDEN)), tie=1.0))
    start = jax.tree.map(lambda leaf: leaf[0], path)
    slope = jax.tree.map(lambda leaf: leaf[0], gradients)
    assert broken.breaking_ratio[0] == 0
    np.testing.assert_allclose(
        broken.breaking_ratio[1] / 1e-3, breaking_rate(start, slope), rtol=0.05
    )
    assert worst(broken.breaking_ratio) > 1e-2
    assert worst(1 - broken.symmetry_score) > 1e-5  # M itself does not stay symmetric


# ---- Balance -------------------------------------------------------------------------------------

FLOW_OF_UNITS = downhill(unit_loss)
TIMES = jnp.asarray([0.3, 1.0, 3.0])


def flow_of_units(problem: c11.Problem, start: Coupling, kind, decay: float):
    path = follow(FLOW_OF_UNITS, start, (problem, kind, jnp.asarray(decay)), TIMES)
    return np.asarray(jax.vmap(unit_balance)(path)), TRACK(path)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_along_the_flow_balance_is_conserved_or_decays(decay, fixedkey):
    """Linear units keep their balance; GELU units have no such law."""
    problem = c11.draw(fixedkey())
    start = Coupling.from_weights(problem.up, 0.5 * problem.down)
    expected = np.exp(-2 * decay * np.asarray(TIMES))[:, None] * np.asarray(unit_balance(start))
    balance, _ = flow_of_units(problem, start, LINEAR, decay)
    np.testing.assert_allclose(balance, expected, atol=1e-8)
    balance, _ = flow_of_units(problem, start, GAUSSIAN, decay)
    assert worst(balance - expected) > 1e-3


def test_from_a_tied_start_the_indices_of_the_tracker_are_one_number(fixedkey):
    """Balance 0 means |v_a| = |w_a| for ever: unit cosine = cosine = 1 - relative breaking = 1 -
    ratio^2/2.
    """
    problem = c11.draw(fixedkey())
    for kind, conserves in ((LINEAR, True), (GAUSSIAN, False)):
        _, found = flow_of_units(problem, tied(problem.up), kind, 0.1)
        assert worst(1 - found.cosine) > 1e-3
        same = np.stack(
            [found.unit_cosine, 1 - found.relative_breaking, 1 - 0.5 * found.breaking_ratio**2]
        )
        gap = worst(same - np.asarray(found.cosine))
        assert gap < 1e-8 if conserves else gap > 1e-5


def test_gradient_descent_drifts_from_balance_by_a_known_amount(getkey):
    """Each step of SGD adds rate^2 (|dW_a|^2 - |dV_a|^2) and nothing else, at the kinks of
    rectified units too.
    """
    problem = c11.draw(getkey())
    rate = 0.01
    for kind, exact in ((RECTIFIED, True), (GAUSSIAN, False)):
        args = (problem, kind, jnp.asarray(0.0))
        start = Coupling.from_weights(problem.up, problem.down)
        _, path, gradients = train(unit_loss, start, args, jnp.asarray(rate), 200)
        balance = np.asarray(jax.vmap(unit_balance)(path))
        added = np.asarray(jax.vmap(unit_balance)(gradients))
        gap = worst(np.diff(balance, axis=0) - rate**2 * added[:-1])
        assert gap < 1e-13 if exact else gap > 1e-5


def test_how_fast_gelu_units_lose_their_balance(getkey):
    """d(|w|^2 - |v|^2)/dt = -2 sum_n (v.delta) [h phi'(h) - phi(h)] = -2 sum_n (v.delta) h^2
    p(h).
    """
    problem = c11.draw(getkey())
    w = np.asarray(problem.up)
    v = np.asarray(problem.down)
    slope = jax.jit(jax.grad(unit_loss))(
        Coupling.from_weights(problem.up, problem.down), problem, GAUSSIAN, jnp.asarray(0.0)
    )
    change = -2 * (np.sum(w * slope.up, axis=1) - np.sum(v * slope.breaking, axis=0))
    h = problem.inputs @ w.T
    errors = np.tanh(GELU().activation(h) @ v.T - problem.targets)
    np.testing.assert_allclose(
        change, -2 * np.sum((errors @ v) * h**2 * density(h), axis=0), atol=1e-11
    )


def test_a_bias_adds_its_square_to_the_balance(fixedkey):
    problem = c11.draw(fixedkey())
    bias = normal(fixedkey(), (HIDDEN,))

    def loss(w, v, b):
        answer = lambda g: v @ jax.nn.relu(w @ g + b)
        return jnp.sum((jax.vmap(answer)(problem.inputs) - problem.targets) ** 2)

    dw, dv, db = jax.jit(jax.grad(loss, (0, 1, 2)))(problem.up, problem.down, bias)
    without = np.sum(problem.up * dw, axis=1) - np.sum(problem.down * dv, axis=0)
    np.testing.assert_allclose(without + bias * db, 0, atol=1e-11)
    assert worst(without) > 1e-3


@pytest.mark.parametrize(
    "hidden, conserves", [(ReLU(), True), (GELU(), False)], ids=["relu", "gelu"]
)
def test_balance_in_a_mixer_block(hidden, conserves, getkey):
    """The law needs no more than the hidden units: shared weights, norms and repeated steps around
    them do no harm.
    """
    block = make_block(getkey(), "free", hidden=hidden, bias=False, options={"n_iter": 2})
    x = normal(getkey(), (4, 6))
    y = normal(getkey(), (4, 6))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda b: jnp.sum((b(x) - y) ** 2)))(block)
    for coupling, slope in zip(couplings(block), couplings(gradient), strict=True):
        change = worst(
            np.sum(coupling.up * slope.up, axis=1) - np.sum(coupling.down * slope.breaking, axis=0)
        )
        scale = np.linalg.norm(coupling.up) * np.linalg.norm(slope.up)
        assert change < 1e-12 * scale if conserves else change > 1e-5 * scale


# ---- Autoencoders --------------------------------------------------------------------------------


def test_a_regularised_autoencoder_ends_tied_and_what_it_takes(fixedkey):
    """From independent weights, by plain SGD, the tracker ends at (1, 0, 1, 1, 0).

    Without decay, or with a target map other than the identity, it does not.
    """
    problem = c11.draw(fixedkey())
    root = np.linalg.qr(np.asarray(problem.inputs.T))[0]
    covariance = jnp.asarray(root * np.linspace(0.5, 1.5, VISIBLE) @ root.T)
    start = Coupling.from_weights(0.5 * problem.up, 0.5 * problem.down)
    run = lambda target, decay: train(
        regression_loss, start, (target, covariance, jnp.asarray(decay)), jnp.asarray(0.2), 3000
    )[0]
    ends = run(jnp.eye(VISIBLE), 0.1)
    assert ends.breaking_ratio[0] > 0.5
    np.testing.assert_allclose([index[-1] for index in indices(ends)], (1, 0, 1, 1, 0), atol=1e-7)
    assert run(jnp.eye(VISIBLE), 0.0).breaking_ratio[-1] > 1e-2
    assert run(problem.targets[:VISIBLE], 0.1).breaking_ratio[-1] > 1e-2


def test_every_critical_point_is_tied_saddles_included(getkey):
    """Least squares on the gradient stops at saddles as well, which are most of the critical
    points.
    """
    saddles = 0
    for _ in range(20):
        problem = c11.draw(getkey())
        found, residual = c11.critical_point(problem, 0.05, 0.05)
        assert residual < 1e-12
        assert measure_asymmetry(found).breaking_ratio < 1e-11
        saddles += int(c11.lowest_curvature(found, problem, 0.05) < -1e-6)
    assert saddles >= 3


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_unequal_decays_end_tied_up_to_a_gain(gain, getkey):
    """V = gain W^T with gain^2 the ratio of the decays: cosines 1, ratio |gain - 1|, and
    conservative.
    """
    found, residual = c11.critical_point(c11.draw(getkey()), 0.05 * gain, 0.05 / gain)
    assert residual < 1e-12
    expected = (1.0, (gain - 1) ** 2 / (1 + gain**2), 1.0, 1.0, abs(gain - 1))
    tracked = measure_asymmetry(found)
    np.testing.assert_allclose(indices(tracked), expected, atol=1e-10)
    np.testing.assert_allclose(tracked.balance, (1 - gain**2) / (1 + gain**2), atol=1e-10)
    np.testing.assert_allclose(tracked.conservative_distance, 0, atol=1e-10)


def test_the_lemma_of_the_proof(getkey):
    """With the ridge decoder V = S W^T (W S W^T + decay)^-1, G = (VW - 1) S is symmetric and never
    positive.
    """
    problem = c11.draw(getkey())
    w = np.asarray(problem.up)
    s = np.asarray(problem.inputs.T @ problem.inputs) / DATA
    v = s @ w.T @ np.linalg.inv(w @ s @ w.T + 0.05 * np.eye(HIDDEN))
    g = (v @ w - np.eye(VISIBLE)) @ s
    np.testing.assert_allclose(g @ w.T, -0.05 * v, atol=1e-12)  # the loss is stationary in V
    np.testing.assert_allclose(g, g.T, atol=1e-12)
    assert np.max(np.linalg.eigvalsh(0.5 * (g + g.T))) < 1e-12


# ---- Backward weights of their own ---------------------------------------------------------------


def signals(first, pair: Coupling, problem: c11.Problem, slope):
    """For y = A phi(U g) with errors sent back by B: the gradient of A, and what stands for that of
    U.

    The pair is A (`up`, outputs x hidden) and B (`down`, hidden x outputs); `slope` between 1
    (linear) and 0 (ReLU) is what negative units keep.
    """
    h = problem.inputs @ first.T
    gate = jnp.where(h > 0, 1.0, slope)
    errors = (h * gate) @ pair.up.T - problem.targets
    return errors.T @ (h * gate), ((errors @ pair.down.T) * gate).T @ problem.inputs


def two_layers(getkey):
    problem = c11.draw(getkey())
    return (
        problem,
        0.3 * normal(getkey(), (HIDDEN, VISIBLE)),
        Coupling.from_weights(0.3 * problem.down, 0.3 * problem.up),
    )


def test_kolen_pollack(fixedkey):
    """A network that sends errors back by weights of their own, with transposed updates and equal
    decay.

    The tracker sees |B - A^T| shrink by (1 - decay) in every step, whatever the data, rate and
    nonlinearity.
    """
    problem, first, pair = two_layers(fixedkey)
    decay = 0.02
    rate = 0.002
    steps = 400

    def step(carry, transposed):
        first, pair = carry
        of_pair, of_first = signals(first, pair, problem, 0.0)
        up = (1 - decay) * pair.up - rate * of_pair
        later = Coupling.from_weights(up, (1 - decay) * pair.down - rate * transposed * of_pair.T)
        gap = measure_asymmetry(pair).breaking_ratio * jnp.linalg.norm(pair.up)
        return (first - rate * of_first, later), (gap, measure_asymmetry(pair).cosine)

    run = jax.jit(
        lambda t: jax.lax.scan(lambda c, _: step(c, t), (first, pair), None, length=steps)[1]
    )
    (gaps, cosines) = run(jnp.asarray(1.0))
    (others, _) = run(jnp.asarray(0.9))
    expected = np.asarray(gaps[0]) * (1 - decay) ** np.arange(steps)
    np.testing.assert_allclose(gaps, expected, rtol=1e-9)
    assert cosines[-1] > 0.99
    assert abs(others[-1] / expected[-1] - 1) > 1  # updates that are no transposes of each other


def test_feedback_alignment(getkey):
    """Fixed backward weights B: the flow conserves U U^T - B A - (B A)^T for linear units, and its
    diagonal for ReLU.

    From U = A = 0 the tracker's cosine of A and B^T is |U|^2 / (2 |A| |B|) at every time: never
    negative.
    """
    problem, first, pair = two_layers(getkey)
    velocity = lambda y, problem, down: tuple(
        -part for part in reversed(signals(y[0], Coupling.from_weights(y[1], down), problem, 1.0))
    )
    start = (jnp.zeros_like(first), jnp.zeros_like(pair.up))
    path = follow(velocity, start, (problem, pair.down), jnp.asarray([0.05, 0.5]))
    b = np.asarray(pair.down)
    for u, a in zip(*map(np.asarray, path)):
        assert worst(u @ u.T) > 1e-3
        np.testing.assert_allclose(u @ u.T, b @ a + (b @ a).T, atol=1e-8)
        cosine = float(measure_asymmetry(Coupling.from_weights(jnp.asarray(a), pair.down)).cosine)
        np.testing.assert_allclose(
            cosine, np.sum(u**2) / (2 * np.linalg.norm(a) * np.linalg.norm(b)), atol=1e-7
        )
        assert cosine > 0
    of_pair, of_first = signals(first, pair, problem, 0.0)
    np.testing.assert_allclose(
        np.sum(first * of_first, axis=1), np.sum(b * of_pair.T, axis=1), atol=1e-11
    )
