"""From a memory to a layer: the block that runs is the block that the energy gives."""

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    CHANNELS,
    HIDDEN,
    NORM_AXES,
    NORM_SCALES,
    TOKENS,
    VISIBLE_SHAPE,
    affine_of,
    assert_close,
    bias_of,
    cast,
    coupling_of,
    dense_pair,
    differences,
    distance,
    hopfield,
    make_block,
    make_synapse,
    mixing,
    normal,
    random_state,
)

from hopmix import (
    GELU,
    AbstractLagrangian,
    AssociativeMemory,
    Bias,
    Block,
    ChannelMixing,
    Coupling,
    Dense,
    LayerNorm,
    Neurons,
    Quadratic,
    ReLU,
    Softmax,
    Tanh,
    TokenMixing,
    derive_block,
    eliminate,
    field_asymmetry,
    gradient_force,
    settle,
    trainable,
)

CONSERVATIVE = [scale for scale in NORM_SCALES if scale != "elementwise"]
norms = pytest.mark.parametrize("norm", NORM_AXES)


def automatic(block: Block, x):
    """The block by the gradient of its energy alone."""
    for _ in range(block.n_iter):
        x = x + block.step * gradient_force(block, x)
    return x


@eqx.filter_jit
def outputs_and_gradients(path, block: Block, x, weights):
    """What a path makes of a state, and how that depends on the state and on every parameter."""
    parameters, rest = eqx.partition(block, trainable(block))

    def loss(parameters, x):
        y = path(eqx.combine(parameters, rest), x)
        return jnp.sum(weights * y), y

    (_, y), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(parameters, x)
    return y, gradients


def fast(block: Block, x):
    return block(x)


@pytest.mark.parametrize(
    "norm, scale, bias, options",
    [
        ("joint", "conservative", True, {}),
        ("joint", "none", False, {"n_iter": 3}),
        ("joint", "scalar", True, {"leak": 1.0, "step": 0.3}),
        ("token", "conservative", False, {"leak": 0.5, "step": 0.7, "n_iter": 3}),
        ("token", "scalar", False, {}),
    ],
)
@pytest.mark.quick
def test_the_fast_path_is_the_gradient_of_the_potential(norm, scale, bias, options, getkey):
    block = make_block(getkey(), norm=norm, scale=scale, bias=bias, options=options)
    x = normal(getkey(), VISIBLE_SHAPE)
    weights = normal(getkey(), VISIBLE_SHAPE)
    found = outputs_and_gradients(fast, block, x, weights)
    expected = outputs_and_gradients(automatic, block, x, weights)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert_close(a, e, 1e-10)


@pytest.mark.parametrize("kind", ["broken", "free"])
def test_the_fast_path_of_untied_weights_is_no_gradient(kind, fixedkey):
    block = make_block(fixedkey(), kind)
    x = normal(fixedkey(), VISIBLE_SHAPE)
    assert (
        distance(
            jax.jit(lambda x: block.force(x))(x), jax.jit(lambda x: gradient_force(block, x))(x)
        )
        > 0.01
    )


@pytest.mark.parametrize("kind", ["symmetric", "broken", "free"])
@pytest.mark.parametrize("conservative", [True, False])
@pytest.mark.quick
def test_the_layer_written_out(kind, conservative, getkey):
    """x + gamma * [V_s gelu(W_s s) + gelu(s W_c^T) V_c^T], s = gamma * LN(x) + delta; gamma outside
    if conservative.
    """
    block = make_block(
        getkey(), kind, scale="conservative" if conservative else "elementwise", bias=False
    )
    x = np.asarray(normal(getkey(), VISIBLE_SHAPE))
    affine = affine_of(block.potential.neurons)
    couplings = {name: coupling_of(block.potential.memory, name) for name in ("token", "channel")}
    (up, down), (up_c, down_c) = ((c.up, c.down) for c in couplings.values())
    s = affine.scale * (x - x.mean()) / np.sqrt(x.var() + 1e-6) + affine.shift
    gelu = lambda h: np.asarray(jax.nn.gelu(jnp.asarray(h), approximate=False))
    branches = down @ gelu(up @ s) + gelu(s @ up_c.T) @ down_c.T
    assert_close(block(jnp.asarray(x)), x + (affine.scale if conservative else 1) * branches)


# ---- The potential -------------------------------------------------------------------------------


def test_the_potential_is_the_sum_of_the_hidden_lagrangians(getkey):
    """U(g) = sum of Phi(W g), with biases sum of Phi(W g + b) + c.g; no convexity of Phi is
    needed.
    """
    potential = make_block(getkey(), scale="none", bias=False).potential
    g = normal(getkey(), VISIBLE_SHAPE)
    phi = GELU()
    up = {name: coupling_of(potential.memory, name).up for name in potential.hidden}
    assert_close(potential(g), phi(up["token"] @ g) + phi(g @ up["channel"].T))
    potential = make_block(getkey(), scale="none", branches=["token"]).potential
    hidden = coupling_of(potential.memory, "token").up @ g + bias_of(potential.memory, "token_up")
    linear = bias_of(potential.memory, "token_down") * g
    assert_close(potential(g), phi(hidden) + jnp.sum(linear), scale=jnp.sum(jnp.abs(linear)))


@pytest.mark.parametrize("kind", ["symmetric", "broken", "free"])
def test_the_memory_at_settled_hidden_states_has_the_energy_of_the_leaky_block(kind, getkey):
    """Adiabatic elimination: x.g - L - U is the memory's energy where the hidden layers have
    followed.
    """
    memory = mixing(getkey(), kind)
    block = derive_block(memory, ["token", "channel"], leak=1.0)
    x = normal(getkey(), VISIBLE_SHAPE)

    @jax.jit
    def both(x):
        visible = {"visible": memory.neurons["visible"].output(block.activation(x))}
        state = {"visible": x} | {h: memory.current(h, visible) for h in ("token", "channel")}
        return memory.energy(state), block.energy(x), memory.force(state), block.force(x)

    energy, expected, force, block_force = both(x)
    assert_close(energy, expected, 1e-11, jnp.sum(jnp.abs(x * block.activation(x))))
    assert_close(force["visible"], block_force, 1e-11)
    assert_close(
        (force["token"], force["channel"]), (np.zeros((5, CHANNELS)), np.zeros((TOKENS, 8))), 1e-11
    )


def linear_block(key, coupling: str) -> Block:
    neurons = {"v": Neurons(Quadratic(), (6,)), "h": Neurons(Quadratic(), (8,))}
    return derive_block(
        AssociativeMemory(neurons, {"s": make_synapse("dense", coupling, key)}, {"s": ("v", "h")}),
        ["h"],
    )


@pytest.mark.parametrize("kind", ["symmetric", "broken", "free"])
def test_the_correction_of_the_pseudo_energy_has_a_minus_sign(kind, getkey):
    """For linear units E = -g.Mg/2 with the symmetric part of M = VW, that is, -1/2 and not +1/2
    before B.
    """
    block = linear_block(getkey(), kind)
    g = normal(getkey(), (6,))
    coupling = coupling_of(block.potential.memory, "s")
    m = coupling.down @ coupling.up
    breaking = coupling.down - coupling.up.T
    size = jnp.linalg.norm(coupling.down) * jnp.linalg.norm(coupling.up) * jnp.sum(g**2)
    assert_close(block.potential.force(g), m @ g)
    assert_close(block.energy(g), -0.5 * g @ m @ g, scale=size)
    assert_close(jax.grad(block.potential)(g), 0.5 * (m + m.T) @ g)
    tied = 0.5 * jnp.sum((coupling.up @ g) ** 2)
    correction = 0.5 * g @ breaking @ coupling.up @ g
    assert_close(block.energy(g), -tied - correction, scale=size)
    assert (correction != 0) == (kind != "symmetric")  # the other sign is off by twice that


def test_the_force_that_is_left_over_by_the_pseudo_energy(getkey):
    """F - dU/dg = [B phi(h) - W^T (phi'(h) * B^T g)] / 2, the part of the field that does work on
    the energy.
    """
    block = make_block(getkey(), "broken", branches=["token"], scale="none", bias=False)
    g = normal(getkey(), VISIBLE_SHAPE)
    coupling = coupling_of(block.potential.memory, "token")
    h, slopes = jax.vjp(GELU().activation, coupling.up @ g)
    assert coupling.breaking is not None
    rest = 0.5 * (coupling.breaking @ h - coupling.up.T @ slopes(coupling.breaking.T @ g)[0])
    assert_close(block.potential.force(g) - jax.grad(block.potential)(g), rest)


def test_a_dense_memory_with_softmax_is_the_modern_hopfield_update(getkey):
    """Leak 1 and step 1 give xi <- X softmax(beta X^T xi) (Ramsauer et al. 2020)."""
    patterns = normal(getkey(), (8, 6))
    x = normal(getkey(), (6,))
    beta = 1.7
    neurons = {"v": Neurons(Quadratic(), (6,)), "h": Neurons(Softmax(beta), (8,))}
    memory = AssociativeMemory(neurons, {"s": Dense(Coupling(patterns))}, {"s": ("v", "h")})
    block = derive_block(memory, ["h"], leak=1.0)
    assert_close(block(x), patterns.T @ jax.nn.softmax(beta * patterns @ x))
    assert_close(
        block.energy(x), 0.5 * x @ x - jax.nn.logsumexp(beta * patterns @ x) / beta, scale=x @ x
    )


# ---- Conservative or not -------------------------------------------------------------------------


@eqx.filter_jit
def asymmetry(block: Block, x, metric: bool = True):
    lagrangian = block.potential.neurons.lagrangian if metric else None
    return field_asymmetry(lambda x: block(x) - x, x, lagrangian)


@norms
@pytest.mark.parametrize("scale", CONSERVATIVE)
@pytest.mark.quick
def test_tied_blocks_are_conservative(norm, scale, getkey):
    """With noise on all scales and shifts."""
    block = make_block(getkey(), norm=norm, scale=scale)
    x = normal(getkey(), VISIBLE_SHAPE)
    assert asymmetry(block, x) <= 1e-10


@norms
@pytest.mark.parametrize("scale", CONSERVATIVE)
def test_the_jacobian_itself_is_not_symmetric(norm, scale, fixedkey):
    """Only in the metric of the norm."""
    block = make_block(fixedkey(), norm=norm, scale=scale)
    x = normal(fixedkey(), VISIBLE_SHAPE)
    assert asymmetry(block, x, metric=False) > 0.01


@norms
def test_an_elementwise_scale_on_the_way_in_only_is_not_conservative(norm, fixedkey):
    block = make_block(fixedkey(), norm=norm, scale="elementwise")
    x = normal(fixedkey(), VISIBLE_SHAPE)
    assert asymmetry(block, x) > 0.01


@pytest.mark.parametrize("kind", ["broken", "free"])
@pytest.mark.quick
def test_untied_blocks_are_not_conservative(kind, fixedkey):
    assert asymmetry(make_block(fixedkey(), kind), normal(fixedkey(), VISIBLE_SHAPE)) > 0.01


def test_parallel_columns_are_conservative_too(getkey):
    """V = W^T D has the energy - sum of D Phi(W g): the distance of V and W^T overstates the
    breaking.
    """
    up = normal(getkey(), (5, TOKENS))
    gains = normal(getkey(), (5,))
    coupling = Coupling.from_weights(up, up.T * gains[None])
    block = make_block(getkey(), branches=["token"], scale="none")
    block = eqx.tree_at(
        lambda b: b.potential.memory.synapses["token"], block, TokenMixing(coupling)
    )
    assert asymmetry(block, normal(getkey(), VISIBLE_SHAPE)) <= 1e-10


def test_a_tied_serial_block_is_not_conservative(fixedkey):
    """Each mixing is a gradient step; one after the other is not."""
    token = make_block(fixedkey(), scale="none", branches=["token"])
    channel = make_block(fixedkey(), scale="none", branches=["channel"])
    x = normal(fixedkey(), VISIBLE_SHAPE)
    norm = token.potential.neurons.lagrangian
    for block in (token, channel):
        assert asymmetry(block, x) <= 1e-10
    assert jax.jit(lambda x: field_asymmetry(lambda x: channel(token(x)) - x, x, norm))(x) > 0.01


# ---- Discretisation ------------------------------------------------------------------------------


def test_iterations_are_repeated_steps(getkey):
    memory = mixing(getkey(), "free")
    x = normal(getkey(), VISIBLE_SHAPE)
    once = derive_block(memory, ["token", "channel"], leak=0.5, step=0.2, n_iter=1)
    thrice = derive_block(memory, ["token", "channel"], leak=0.5, step=0.2, n_iter=3)
    assert_close(thrice(x), once(once(once(x))))


@pytest.mark.quick
def test_a_step_is_an_euler_step_of_the_force(getkey):
    block = make_block(getkey(), "free", options={"leak": 0.5, "step": 0.2})
    x = normal(getkey(), VISIBLE_SHAPE)
    assert_close(block(x), x + 0.2 * block.force(x))


def test_the_leak_is_a_gauge_of_the_skip_connection(getkey):
    """With an exact norm, x' = (1-s) x + s F is y' = y + s (1-s)^-(t+1) F up to the scale (1-s)^t
    of the state.
    """
    potential = make_block(getkey(), "free", eps=0.0).potential
    step = 0.3
    start = normal(getkey(), VISIBLE_SHAPE)

    @jax.jit
    def follow(x):
        y = x
        pairs = []
        for t in range(6):
            x = Block(potential, 1.0, step)(x)
            y = Block(potential, 0.0, step * (1 - step) ** -(t + 1))(y)
            pairs.append((x, (1 - step) ** (t + 1) * y))
        return pairs

    for x, scaled in follow(start):
        assert_close(x, scaled)


@norms
@pytest.mark.parametrize("scale", NORM_SCALES)
@pytest.mark.quick
def test_a_token_major_batch_equals_vmap(norm, scale, getkey):
    block = make_block(getkey(), "free", norm=norm, scale=scale, options={"n_iter": 2, "leak": 0.1})
    batch = normal(getkey(), (TOKENS, 3, CHANNELS))
    batched, mapped = jax.jit(lambda x: (block(x), jax.vmap(block, in_axes=1, out_axes=1)(x)))(
        batch
    )
    assert_close(batched, mapped)


@pytest.mark.parametrize("axes", [None, (0, 1), (-2, -1)])
def test_a_token_major_batch_never_mixes_examples(axes, getkey):
    """Axes of a group that would reach into the batch: the same numbers as one by one, or a clear
    refusal.
    """
    block = make_block(getkey(), scale="none", bias=False)
    block = eqx.tree_at(
        lambda b: b.potential.memory.neurons["visible"].lagrangian, block, LayerNorm(axes)
    )
    batch = normal(getkey(), (TOKENS, 3, CHANNELS))
    expected = jnp.stack([block(batch[:, i]) for i in range(3)], axis=1)
    try:
        found = block(batch)
    except ValueError as error:
        assert "axes" in str(error)  # noqa: PT017
    else:
        assert_close(found, expected)


# ---- Stochastic depth ----------------------------------------------------------------------------


def dropped(block: Block, x, key, examples: int):
    """The displacement of many copies of one state in a token-major batch."""
    batch = jnp.repeat(x[:, None], examples, axis=1)
    return np.asarray(block(batch, key) - batch).transpose(1, 0, 2)


def test_stochastic_depth_drops_whole_branches_of_single_examples(getkey):
    drop = 0.3
    examples = 2000
    block = make_block(getkey(), "free", bias=False, options={"drop_path": drop})
    x = normal(getkey(), VISIBLE_SHAPE)
    gates = {"token": jnp.ones((1, 1)), "channel": jnp.ones((1, 1))}
    parts = [
        block.potential.force(block.activation(x), gates | {off: jnp.zeros((1, 1))})
        for off in gates
    ]
    assert_close(sum(parts), block(x) - x)
    displacement = dropped(block, x, getkey(), examples)
    options = np.stack([np.zeros(VISIBLE_SHAPE), *parts, sum(parts)]) / (1 - drop)
    distances = np.max(np.abs(displacement[:, None] - options), axis=(2, 3))
    assert np.max(np.min(distances, axis=1)) < 1e-12
    counts = np.bincount(np.argmin(distances, axis=1), minlength=4) / examples
    expected = np.asarray([drop**2, drop * (1 - drop), drop * (1 - drop), (1 - drop) ** 2])
    assert np.all(np.abs(counts - expected) < 8 * np.sqrt(expected * (1 - expected) / examples))
    # ... and so the mean is the block without dropping.
    spread = 8 * np.std(displacement, axis=0) / np.sqrt(examples)
    assert np.all(np.abs(displacement.mean(axis=0) - (block(x) - x)) <= spread)


def test_each_iteration_drops_its_own_branches(getkey):
    block = make_block(
        getkey(), "free", branches=["token"], bias=False, options={"drop_path": 0.5, "n_iter": 2}
    )
    x = normal(getkey(), VISIBLE_SHAPE)
    kept = 2.0
    step = lambda x: x + kept * block.potential.force(block.activation(x))
    results = dropped(block, x, getkey(), 128)
    options = np.stack([np.zeros(VISIBLE_SHAPE), step(x) - x, step(step(x)) - x])
    distances = np.max(np.abs(results[:, None] - options), axis=(2, 3))
    assert np.max(np.min(distances, axis=1)) < 1e-12
    assert set(np.argmin(distances, axis=1)) == {0, 1, 2}


def test_without_a_key_nothing_is_dropped(getkey):
    memory = mixing(getkey(), "free")
    x = normal(getkey(), VISIBLE_SHAPE)
    plain = derive_block(memory, ["token", "channel"], drop_path=0.0)
    dropping = derive_block(memory, ["token", "channel"], drop_path=0.9)
    assert jnp.array_equal(dropping(x), plain(x))
    assert jnp.array_equal(plain(x, getkey()), plain(x))
    assert any(not jnp.array_equal(dropping(x, getkey()), plain(x)) for _ in range(3))


# ---- Hidden layers that are joined, and layers joined with themselves ----------------------------


def hidden_chain(key, middle, last, scale: float = 0.15) -> AssociativeMemory:
    """Visible - middle - last: the last hidden layer hears of the visible one through the middle
    alone.
    """
    neurons = {"v": Neurons(Tanh(), (4,)), "m": Neurons(middle, (5,)), "l": Neurons(last, (3,))}
    up = [scale * normal(jr.fold_in(key, i), shape) for i, shape in enumerate([(5, 4), (3, 5)])]
    synapses = {
        "vm": Dense(Coupling(up[0])),
        "ml": Dense(Coupling(up[1])),
        "b": Bias(normal(jr.fold_in(key, 2), (3,))),
    }
    return AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l"), "b": ("l",)})


CHAINS = {
    "relu, tanh": (ReLU(), Tanh()),
    "gelu, softmax": (GELU(), Softmax()),
    "linear": (Quadratic(), Quadratic()),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("order", [("m", "l"), ("l", "m")], ids=str)
def test_a_chain_of_hidden_layers_is_eliminated_at_rest(name, order, getkey):
    """All hidden forces vanish, and the force is the gradient of the potential, differentiated
    through the rest.
    """
    memory = hidden_chain(getkey(), *CHAINS[name])
    g = jnp.tanh(normal(getkey(), (4,)))
    potential = eliminate(memory, order)
    assert not potential.is_explicit

    @jax.jit
    def analyse(g):
        _, states = potential._settle(g)
        at_rest = memory.force({"v": jnp.arctanh(g)} | states)
        return at_rest, potential.force(g), jax.grad(potential)(g), jax.jacrev(potential.force)(g)

    at_rest, force, gradient, jacobian = analyse(g)
    assert_close((at_rest["m"], at_rest["l"]), (jnp.zeros(5), jnp.zeros(3)), 1e-11)
    assert_close(force, gradient, 1e-10)
    assert_close(jacobian, jacobian.T, 1e-9)
    if not isinstance(CHAINS[name][0], ReLU):  # a kink within the step spoils the differences
        assert_close(gradient, differences(potential, g, 1e-4), 1e-7)


def test_a_linear_chain_has_a_closed_form(getkey):
    """m = W g + R^T l, l = R m + b: linear equations."""
    memory = hidden_chain(getkey(), *CHAINS["linear"])
    g = normal(getkey(), (4,))
    w = coupling_of(memory, "vm").up
    r = coupling_of(memory, "ml").up
    b = bias_of(memory, "b")
    middle = jnp.linalg.solve(jnp.eye(5) - r.T @ r, w @ g + r.T @ b)
    assert_close(eliminate(memory, ["m", "l"]).force(g), w.T @ middle, 1e-11)


def test_a_chain_learns_through_its_rest(getkey):
    memory = hidden_chain(getkey(), *CHAINS["gelu, softmax"])
    x = normal(getkey(), (4,))
    up = lambda m: coupling_of(m, "ml").up

    @jax.jit
    def loss(matrix):
        block = derive_block(eqx.tree_at(up, memory, matrix), ["m", "l"], leak=0.5, step=0.5)
        return jnp.sum(jnp.sin(block(x)))

    assert_close(jax.jit(jax.grad(loss))(up(memory)), differences(loss, up(memory)), 1e-6)


def test_a_block_of_a_chain_takes_a_token_major_batch(getkey):
    memory = hidden_chain(getkey(), *CHAINS["relu, tanh"])
    block = derive_block(memory, ["m", "l"])
    batch = normal(getkey(), (4, 3))
    assert_close(block(batch), jnp.stack([block(batch[:, i]) for i in range(3)], axis=1), 1e-11)
    assert_close(
        block.energy(batch), jnp.stack([block.energy(batch[:, i]) for i in range(3)]), 1e-11
    )


def slow_chain(
    key, rho: float, share: float = 1.0
) -> tuple[AssociativeMemory, jax.Array, jax.Array]:
    """Linear layers m = W g + R^T l and l = R m, whose sweeps shrink the error by rho in each:
    |R|^2 = rho.

    Of the drive W g, only a share is along the slowest direction.
    """
    first, second = (
        np.linalg.qr(np.asarray(normal(jr.fold_in(key, i), (5, 5))))[0] for i in range(2)
    )
    sizes = np.sqrt(np.asarray([rho, 0.2 * rho, 0.1 * rho, 0.1 * rho, 0.0]))
    across = jnp.asarray(first * sizes @ second)
    up = np.asarray(normal(jr.fold_in(key, 2), (5, 4)))
    up = jnp.asarray(up - (1 - share) * np.outer(second[0], second[0] @ up))
    neurons = {
        "v": Neurons(Quadratic(), (4,)),
        "m": Neurons(Quadratic(), (5,)),
        "l": Neurons(Quadratic(), (5,)),
    }
    synapses = {"vm": Dense(Coupling(up)), "ml": Dense(Coupling(across))}
    return AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")}), up, across


def force_of_chain(matrices, g) -> np.ndarray:
    """W^T (1 - R^T R)^-1 W g, in float64."""
    w, r, g = (np.asarray(a, np.float64) for a in (*matrices, g))
    return w.T @ np.linalg.solve(np.eye(5) - r.T @ r, w @ g)


@pytest.mark.parametrize("rho", [0.1, 0.9, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_slow_rests_are_as_exact_as_rounding_lets_them_be(rho, dtype, getkey):
    """Up to eps / (1 - rho), which is what a change of the last place of the weights does to the
    rest.
    """
    memory, *matrices = cast(slow_chain(getkey(), rho), dtype)
    g = normal(getkey(), (4,), dtype)
    potential = eliminate(memory, ["m", "l"])
    eps = float(jnp.finfo(dtype).eps)
    both = jax.jit(lambda g: (potential.force(g), jax.jacrev(potential.force)(g)))(g)
    found, by_g = (np.asarray(a, np.float64) for a in both)
    size = (
        np.linalg.norm(np.asarray(matrices[0], np.float64), 2) ** 2 / (1 - rho) * np.linalg.norm(g)
    )
    assert (
        np.linalg.norm(found - force_of_chain(matrices, g)) <= (100 + 30 / (1 - rho)) * eps * size
    )
    exact = np.stack([force_of_chain(matrices, e) for e in np.eye(4)], axis=1)
    assert np.linalg.norm(by_g - exact) <= (100 + 30 / (1 - rho)) * eps * size / np.linalg.norm(g)


@pytest.mark.parametrize("share", [1e-6, 1e-8, 1e-10])
def test_a_slow_error_behind_a_fast_one_is_not_missed(share, getkey):
    """After 16 sweeps the fast errors have gone, and moves have shrunk by far more than they will
    from there on.
    """
    rho = 0.999
    memory, up, across = slow_chain(getkey(), rho, share)
    g = normal(getkey(), (4,))
    potential = eliminate(memory, ["m", "l"])
    middle = np.asarray(jax.jit(lambda g: potential._settle(g)[1]["m"])(g))
    w = np.asarray(up)
    r = np.asarray(across)
    drive = w @ np.asarray(g)
    exact = np.linalg.solve(np.eye(5) - r.T @ r, drive)
    assert np.linalg.norm(middle - exact) <= 100 / (1 - rho) * float(
        jnp.finfo(jnp.float64).eps
    ) * np.linalg.norm(drive)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_joined_hidden_layers_keep_the_dtype(dtype, getkey):
    """Value, energy and gradients by weights; against float64, of the same rounded numbers, as
    those may stand on the other side of a kink than the numbers before rounding.
    """
    memory = hidden_chain(getkey(), *CHAINS["relu, tanh"])
    x = normal(getkey(), (4,))
    block = cast(derive_block(memory, ["m", "l"], leak=1.0, step=0.5), dtype)
    exact = cast(block, jnp.float64)
    rounded = x.astype(dtype).astype(jnp.float64)
    rounding = 16 * float(jnp.finfo(dtype).eps)
    size = exact.energy_magnitude(rounded)
    for use, scale in (
        (lambda b, x: b(x), 0.0),
        (lambda b, x: b.energy(x), size),
        (lambda b, x: jax.grad(lambda x: jnp.sum(b(x)))(x), 0.0),
    ):
        found = use(block, x.astype(dtype))
        assert found.dtype == dtype
        assert_close(found, use(exact, rounded), rounding, scale)
    gradient = eqx.filter_grad(lambda b: jnp.sum(b(x.astype(dtype))))(block)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}


def test_wider_weights_widen_joined_hidden_layers(getkey):
    """As they do the layers that follow from the visible one alone, where dtypes may mix."""
    block = derive_block(hidden_chain(getkey(), *CHAINS["relu, tanh"]), ["m", "l"])
    with jax.numpy_dtype_promotion("standard"):
        assert block(jnp.ones(4, jnp.bfloat16)).dtype == jnp.float64
        assert cast(block, jnp.float32)(jnp.ones(4)).dtype == jnp.float64


def test_a_block_of_joined_hidden_layers_can_be_exported(getkey):
    """No part of it or of its gradient calls back to Python, which `jax.export` refuses."""
    block = derive_block(
        hidden_chain(getkey(), *CHAINS["relu, tanh"]), ["m", "l"], leak=1.0, step=0.5
    )
    form = jax.ShapeDtypeStruct((4,), jnp.float64)
    for use in (
        lambda x: block(x),
        jax.grad(lambda x: jnp.sum(jnp.sin(block(x)))),
        lambda x: settle(block, x).state,
    ):
        exported = jax.export.export(jax.jit(use))(form)
        assert "callback" not in exported.mlir_module()


UNREST = (
    r"The hidden layers \['m', 'l'\], which are joined with each other, did not come to "
    r"rest in 4096 sweeps, and"
)


@pytest.mark.parametrize("rho", [1.0001, 1.01, 9.0])
def test_hidden_layers_without_rest_are_not_a_number(rho, getkey):
    """Linear layers that drive each other harder than they decay run away, though equations have a
    solution.
    """
    memory, *_ = slow_chain(getkey(), rho)
    potential = eliminate(memory, ["m", "l"])
    g = normal(getkey(), (4,))
    with pytest.warns(UserWarning, match=UNREST):
        assert jnp.all(jnp.isnan(potential.force(g)))
    with pytest.warns(UserWarning, match=UNREST):
        potential(jnp.stack([jnp.zeros(4), g], axis=1))
    force, gradient = jax.jit(lambda g: (potential.force(g), jax.jacrev(potential.force)(g)))(g)
    assert jnp.all(jnp.isnan(force))
    assert jnp.all(jnp.isnan(gradient))


def test_one_example_without_rest_leaves_the_others_alone(getkey):
    """Units that are linear up to 0 and rectified: only where the middle is driven upwards do they
    run away.
    """
    neurons = {
        "v": Neurons(Quadratic(), (1,)),
        "m": Neurons(ReLU(), (1,)),
        "l": Neurons(ReLU(), (1,)),
    }
    synapses = {
        "vm": Dense(Coupling(jnp.ones((1, 1)))),
        "ml": Dense(Coupling(jnp.full((1, 1), 2.0))),
    }
    potential = eliminate(
        AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")}), ["m", "l"]
    )
    batch = jnp.asarray([[-1.0, 1.0, -2.0]])
    forces, slopes = jax.jit(
        lambda g: (potential.force(g), jax.grad(lambda g: jnp.sum(potential(g)))(g))
    )(batch)
    assert_close(forces[:, ::2], jnp.zeros((1, 2)))
    assert_close(slopes[:, ::2], jnp.zeros((1, 2)))
    assert jnp.isnan(forces[0, 1])
    assert jnp.isnan(slopes[0, 1])


def test_the_rest_is_the_one_that_sweeps_reach(getkey):
    """m = 3 tanh(3 tanh m) + g has three solutions; from zero sweeps go up for g > 0, not to the
    root near 0.
    """
    neurons = {
        "v": Neurons(Quadratic(), (1,)),
        "m": Neurons(Tanh(), (1,)),
        "l": Neurons(Tanh(), (1,)),
    }
    synapses = {
        "vm": Dense(Coupling(jnp.ones((1, 1)))),
        "ml": Dense(Coupling(jnp.full((1, 1), 3.0))),
    }
    potential = eliminate(
        AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")}), ["m", "l"]
    )
    for g in (1e-9, 0.1):
        m = 5.0
        for _ in range(200):
            m = 3 * np.tanh(3 * np.tanh(m)) + g
        assert_close(potential.force(jnp.full((1,), g)), jnp.full((1,), np.tanh(m)))


def test_hidden_layers_that_circle_are_not_a_number():
    """m = 3 tanh l and l = -3 tanh m turn round and round the rest at zero, which repels sweeps."""
    neurons = {
        "v": Neurons(Quadratic(), (1,)),
        "m": Neurons(Tanh(), (1,)),
        "l": Neurons(Tanh(), (1,)),
    }
    across = Coupling.from_weights(jnp.full((1, 1), -3.0), jnp.full((1, 1), 3.0))
    synapses = {"vm": Dense(Coupling(jnp.ones((1, 1)))), "ml": Dense(across)}
    potential = eliminate(
        AssociativeMemory(neurons, synapses, {"vm": ("v", "m"), "ml": ("m", "l")}), ["m", "l"]
    )
    assert jnp.isnan(jax.jit(lambda g: potential.force(g))(jnp.full((1,), 0.1)))[0]


def test_a_bias_that_only_names_hidden_layers_does_not_join_them(getkey):
    """It acts on the first layer alone: nothing has to be solved, and the block is the same."""
    memory = mixing(getkey(), bias=False)
    bias = {"up": Bias(normal(getkey(), (HIDDEN["token"], 1)))}
    blocks = [
        derive_block(
            AssociativeMemory(
                memory.neurons, memory.synapses | bias, dict(memory.connections) | {"up": ends}
            ),
            ("token", "channel"),
        )
        for ends in (("token",), ("token", "channel"))
    ]
    assert all(block.potential.is_explicit for block in blocks)
    x = normal(getkey(), VISIBLE_SHAPE)
    assert_close(blocks[0](x), blocks[1](x))


@pytest.mark.parametrize(
    "x, message",
    [
        (
            jnp.ones((3, 6)),
            r"takes states of shape \(4, 6\), or a token-major batch .*, got \(3, 6\)",
        ),
        (jnp.ones((4,)), r"takes states of shape \(4, 6\).*, got \(4,\)"),
    ],
)
def test_blocks_name_states_that_do_not_fit(x, message, getkey):
    block = make_block(getkey())
    for use in (block, block.energy, block.force):
        with pytest.raises(ValueError, match=message):
            use(x)


def test_a_visible_layer_may_be_joined_with_itself(getkey):
    """The classical Hopfield network has no hidden layer at all: F = W g + V g."""
    potential = eliminate(hopfield(getkey()), [])
    g = normal(getkey(), (4,))
    up = coupling_of(potential.memory, "s").up
    assert_close(potential.force(g), up @ g + up.T @ g)
    assert_close(potential(g), g @ up @ g, scale=jnp.abs(g) @ jnp.abs(up) @ jnp.abs(g))
    assert_close(jax.grad(potential)(g), potential.force(g))


def test_input_and_clamps_go_into_the_block(getkey):
    memory = dense_pair(getkey())
    x = normal(getkey(), (5,))
    current = normal(getkey(), (5,))
    held = jnp.asarray([True, False, False, True, False])
    plain = derive_block(memory, ["h"], leak=0.5, step=0.3)
    driven = derive_block(
        memory.drive({"v": current, "h": normal(getkey(), (3,))}), ["h"], leak=0.5, step=0.3
    )
    clamped = derive_block(memory.clamp({"v": held}), ["h"], leak=0.5, step=0.3)
    assert_close(driven.force(x), gradient_force(driven, x))
    hidden = memory.drive({"h": driven.potential.memory.neurons["h"].input})
    assert_close(driven.force(x), derive_block(hidden, ["h"], leak=0.5).force(x) + current)
    assert_close(clamped(x), jnp.where(held, x, plain(x)))
    assert_close(clamped.force(x), jnp.where(held, 0, plain.force(x)))
    assert_close(gradient_force(clamped, x), clamped.force(x))


# ---- Errors --------------------------------------------------------------------------------------


def test_eliminating_a_layer_twice_counts_it_once(getkey):
    memory = dense_pair(getkey())
    g = jnp.full((5,), 0.3)
    assert_close(eliminate(memory, ["h", "h"])(g), eliminate(memory, ["h"])(g))


def clamped_hidden(key):
    return dense_pair(key).clamp({"h": jnp.ones((1,), bool)})


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda key: eliminate(dense_pair(key), ["x"]),
            r"Cannot eliminate \['x'\]: the layers are \['h', 'v'\]",
        ),
        (
            lambda key: eliminate(dense_pair(key), []),
            r"Exactly one layer must remain .* \[\] leaves \['v', 'h'\]",
        ),
        (
            lambda key: eliminate(dense_pair(key), ["v", "h"]),
            r"Exactly one layer must remain .* leaves \[\]",
        ),
        (
            lambda key: eliminate(clamped_hidden(key), ["h"]),
            r"A clamped layer follows nothing: free \['h'\]",
        ),
        (
            lambda key: derive_block(dense_pair(key), ["h"], leak=-0.1),
            r"Block needs a finite leak >= 0, got -0.1; 0 is the resid",
        ),
        (
            lambda key: derive_block(dense_pair(key), ["h"], step=0.0),
            r"Block needs a finite step > 0, got 0.0",
        ),
        (
            lambda key: derive_block(dense_pair(key), ["h"], n_iter=0),
            r"Block needs n_iter >= 1, got 0",
        ),
        (
            lambda key: derive_block(dense_pair(key), ["h"], drop_path=1.0),
            r"Block needs 0 <= drop_path < 1, got 1.0",
        ),
        (
            lambda key: derive_block(dense_pair(key), ["h"], drop_path=-0.1),
            r"Block needs 0 <= drop_path < 1, got -0.1",
        ),
    ],
)
@pytest.mark.quick
def test_bad_blocks_are_named(build, message, getkey):
    with pytest.raises(ValueError, match=message):
        build(getkey())


def test_a_block_works_on_any_number_of_axes(getkey):
    block = derive_block(dense_pair(getkey()), ["h"], leak=1.0, step=0.5)
    x = random_state(block.potential.memory, getkey())["v"]
    assert_close(block(x), x + 0.5 * gradient_force(block, x))
    batch = normal(getkey(), (5, 3))
    assert_close(block(batch), jnp.stack([block(batch[:, i]) for i in range(3)], axis=1))


class Radial(AbstractLagrangian):
    """A user's Lagrangian that joins all units, and one that does not."""

    curvature = (0.0, 1e3)  # pyright: ignore

    def __call__(self, x):
        return jnp.sqrt(jnp.sum(x**2) + 1e-6)

    def activation(self, x):
        return x / jnp.sqrt(jnp.sum(x**2) + 1e-6)


class Independent(AbstractLagrangian):
    is_elementwise = True
    curvature = (1.0, 1.0)  # pyright: ignore

    def __call__(self, x):
        return 0.5 * jnp.sum(x**2)

    def activation(self, x):
        return x


def test_what_joins_units_in_an_unknown_way_takes_no_batch(getkey):
    """Its units would be joined with those of the other examples."""
    x = normal(getkey(), (3, 7, 4))
    for lagrangian, takes in (
        (Independent(), True),
        (Radial(), False),
        (0.5 * Radial() + Quadratic(), False),
    ):
        neurons = {"x": Neurons(lagrangian, (3, 4)), "h": Neurons(ReLU(), (3, 5))}
        synapses = {"s": ChannelMixing(Coupling(normal(getkey(), (5, 4))))}
        block = derive_block(AssociativeMemory(neurons, synapses, {"s": ("x", "h")}), ["h"])
        if takes:
            assert_close(block(x), jax.vmap(block, 1, 1)(x))
        else:
            with pytest.raises(
                ValueError, match=r"layer 'x' does not allow a token-major batch .*is_elementwise"
            ):
                block(x)
