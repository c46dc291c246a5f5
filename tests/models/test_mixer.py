"""Mixers: published sizes, the paired design of the ablation, images of any shape."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import COUPLINGS, assert_close, cast, distance, normal, perturb

from hopmix import Block, Mixer, MixerConfig, certify, couplings, trainable

SMALL = MixerConfig(image=(8, 12, 2), patch=(2, 4), dim=6, depth=2, classes=3)
ARMS = {
    "serial": {"block": "serial"},
    "free": {},
    "broken": {"coupling": "broken"},
    "broken-xavier": {"coupling": "broken", "breaking": "xavier"},
    "symmetric": {"coupling": "symmetric"},
}
arms = pytest.mark.parametrize("arm", ARMS)


def config(**changes) -> MixerConfig:
    return dataclasses.replace(SMALL, **changes)


def make(key, **changes) -> Mixer:
    """A small mixer with noise on all parameters: the initial head is zero, and so would be all
    logits.
    """
    return perturb(Mixer(config(**changes), key=key), jr.fold_in(key, 1))


def images(key, batch: int = 3, dtype=jnp.float64) -> jax.Array:
    return normal(key, (batch, *SMALL.image), dtype)


def count(of: MixerConfig) -> int:
    """The trainable parameters, from shapes alone."""
    shapes = eqx.filter_eval_shape(Mixer, of, key=jr.key(0))
    leaves = jax.tree.map(
        lambda leaf, train: math.prod(leaf.shape) if train else 0, shapes, trainable(shapes)
    )
    return sum(leaf for leaf in jax.tree.leaves(leaves) if isinstance(leaf, int))


# ---- Sizes ---------------------------------------------------------------------------------------

# Tolstikhin et al. 2021, table 1, counted out: without head, with 1000 and with 10 classes
PUBLISHED = {
    "S/32": (18_591_624, 19_104_624, 18_596_754),
    "S/16": (18_015_264, 18_528_264, 18_020_394),
    "B/32": (59_524_428, 60_293_428, 59_532_118),
    "B/16": (59_111_472, 59_880_472, 59_119_162),
    "L/32": (205_914_264, 206_939_264, 205_924_514),
    "L/16": (207_171_168, 208_196_168, 207_181_418),
}


@pytest.mark.parametrize("size", PUBLISHED)
@pytest.mark.quick
def test_published_sizes_have_their_parameter_counts(size):
    without_head, thousand, ten = PUBLISHED[size]
    published = MixerConfig.vanilla(size, classes=1000)
    found = count(published)
    head = published.dim * 1000 + 1000
    assert (found - head, found) == (without_head, thousand)
    assert count(MixerConfig.vanilla(size, classes=10)) == ten


@pytest.mark.parametrize(
    "changes, millions",
    [
        ({"block": "serial"}, 21.19),
        ({}, 19.59),
        ({"coupling": "broken"}, 19.59),
        ({"coupling": "symmetric"}, 10.80),
    ],
)
def test_the_sizes_of_arxiv_2406_12220(changes, millions):
    """S/16 with 10 classes, joint norms with elementwise parameters, no biases."""
    assert (
        round(
            count(MixerConfig.named("S/16", classes=10, norm_scale="elementwise", **changes)) / 1e6,
            2,
        )
        == millions
    )


@pytest.mark.parametrize(
    "size, depth, dim, patch", [("S/8", 8, 512, 8), ("B/4", 12, 768, 4), ("L/32", 24, 1024, 32)]
)
def test_a_name_is_a_letter_and_a_patch(size, depth, dim, patch):
    named = MixerConfig.named(size, image=(32, 32, 3), coupling="symmetric")
    assert (named.depth, named.dim, named.patch, named.image, named.coupling) == (
        depth,
        dim,
        patch,
        (32, 32, 3),
        "symmetric",
    )


def test_widening_the_symmetric_mixer_gives_it_the_parameters_of_the_free_one():
    free = config()
    wide = config(coupling="symmetric", hidden_ratio=2)
    assert count(free) == count(wide) > count(config(coupling="symmetric"))
    with_bias = [count(dataclasses.replace(c, bias=True)) for c in (free, wide)]
    hidden = sum(free.hidden)
    assert with_bias[1] - with_bias[0] == SMALL.depth * hidden


def test_hidden_widths_follow_the_width_unless_given():
    assert config().hidden == (3, 24)
    assert config(hidden_ratio=2).hidden == (6, 48)
    given = config(token_hidden=5, channel_hidden=7, hidden_ratio=3)
    assert given.hidden == (15, 21)
    ups = [c.up.shape for c in couplings(Mixer(given, key=jr.key(0)).blocks[0])]
    assert set(ups) == {(15, 12), (21, 6)}


# ---- The paired design ---------------------------------------------------------------------------


def test_one_key_gives_one_stem_head_and_up_weights_in_every_arm(getkey):
    key = getkey()
    models = [Mixer(config(**changes), key=key) for changes in ARMS.values()]
    for model in models[1:]:
        assert eqx.tree_equal(
            (model.stem, model.head, model.affine),
            (models[0].stem, models[0].head, models[0].affine),
        )
        for mine, theirs in zip(model.blocks, models[0].blocks, strict=True):
            assert {c.up.tobytes() for c in couplings(mine)} == {
                c.up.tobytes() for c in couplings(theirs)
            }
    other = Mixer(config(), key=getkey())
    assert not eqx.tree_equal(other.stem, models[0].stem)


def test_broken_starts_as_symmetric(getkey):
    key = getkey()
    x = normal(getkey(), (12, 6))
    symmetric = Mixer(config(coupling="symmetric"), key=key)
    broken = Mixer(config(coupling="broken"), key=key)
    assert jnp.array_equal(symmetric.apply_blocks(x), broken.apply_blocks(x))


def test_initial_weights(getkey):
    model = Mixer(config(dim=48, patch=4), key=getkey())
    assert not jnp.any(model.head.weight)
    assert model.head.bias is not None
    assert model.stem.bias is not None
    assert not jnp.any(model.head.bias)
    assert not jnp.any(model.stem.bias)
    pixels = 4 * 4 * 2
    assert model.stem.weight.shape == (48, pixels)
    np.testing.assert_allclose(
        jnp.std(model.stem.weight), 1 / math.sqrt(pixels), rtol=0.13
    )  # of 1536 numbers: seven sigma
    for coupling in couplings(model):
        hidden, visible = coupling.up.shape
        assert jnp.max(jnp.abs(coupling.up)) <= math.sqrt(6 / (hidden + visible))
    ups = [c.up.tobytes() for c in couplings(model)]
    assert len(set(ups)) == len(ups)


# ---- What it computes ----------------------------------------------------------------------------


def test_the_stem_is_a_convolution_in_row_major_order(getkey):
    model = make(getkey())
    image = images(getkey())[0]
    kernel = model.stem.weight.reshape(6, 2, 4, 2)
    dimensions = ("NHWC", "OHWI", "NHWC")
    convolved = jax.lax.conv_general_dilated(
        image[None], kernel, (2, 4), "VALID", dimension_numbers=dimensions
    )
    assert convolved.shape == (1, 4, 3, 6)
    assert model.stem.bias is not None
    assert_close(model.embed(image), convolved.reshape(12, 6) + model.stem.bias[None])


def test_classifying_norms_then_pools_then_maps(getkey):
    model = make(getkey())
    x = np.asarray(normal(getkey(), (12, 6)))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    pooled = (np.asarray(model.affine.scale) * normed + np.asarray(model.affine.shift)).mean(axis=0)
    assert_close(
        model.classify(jnp.asarray(x)),
        np.asarray(model.head.weight) @ pooled + np.asarray(model.head.bias),
    )


@pytest.mark.quick
def test_a_serial_block_is_its_mixings_in_turn(getkey):
    model = make(getkey(), block="serial", n_iter=2, bias=True)
    x = normal(getkey(), (12, 6))
    block = model.blocks[0]
    assert not isinstance(block, Block)
    assert [part.potential.hidden for part in block.parts] == [("token",), ("channel",)]
    assert_close(block(x), block.channel(block.token(block.channel(block.token(x)))))


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "serial", "norm": "token", "norm_scale": "elementwise", "bias": True},
        {"norm_scale": "conservative", "bias": True, "n_iter": 2},
        {"coupling": "symmetric", "norm_scale": "scalar", "leak": 0.1, "step": 0.5},
        {"coupling": "broken", "norm": "token", "norm_scale": "conservative"},
        {"norm": "token", "norm_scale": "scalar", "bias": True},
        {"norm_scale": "none"},
    ],
    ids=str,
)
@pytest.mark.quick
def test_the_fast_batch_equals_vmap(changes, getkey):
    model = make(getkey(), **changes)
    x = images(getkey())
    fast, mapped = eqx.filter_jit(lambda model, x: (model.batch(x), jax.vmap(model)(x)))(model, x)
    assert fast.shape == (3, 3)
    assert not jnp.array_equal(fast[0], fast[1])
    assert_close(fast, mapped)


def published(model: Any, images: jax.Array) -> jax.Array:
    """The logits by the equations, one image at a time, with nothing that hopmix does for speed."""

    def norm(x, axes):
        return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-6)

    def mixed(block: Any, x):
        neurons = block.potential.neurons
        synapses = block.potential.memory.synapses
        g = neurons.affine.scale * norm(x, (0, 1)) + neurons.affine.shift
        for name, (up, down) in {
            "token": ("hi,iI->hI", "ih,hI->iI"),
            "channel": ("hI,iI->ih", "Ih,ih->iI"),
        }.items():
            if name in block.potential.hidden:
                weights = synapses[name].coupling
                back = weights.tie * weights.up.T + (
                    0 if weights.breaking is None else weights.breaking
                )
                x = x + jnp.einsum(
                    down, back, jax.nn.gelu(jnp.einsum(up, weights.up, g), approximate=False)
                )
        return x

    def logits(image):
        x = jnp.einsum("op,tp->to", model.stem.weight, model.patches(image)) + model.stem.bias[None]
        for block in model.blocks:
            for part in (block,) if isinstance(block, Block) else block.parts:
                x = mixed(part, x)
        pooled = (model.affine.scale * norm(x, (1,)) + model.affine.shift).mean(0)
        return model.head.weight @ pooled + model.head.bias

    return jnp.stack([logits(image) for image in images])


@arms
def test_the_fast_path_and_its_gradient_are_those_of_the_equations(arm, getkey):
    """In float64 to rounding; in float32 within 2e-5 of float64, for logits, and 1e-4, for
    gradients.
    """
    model = make(getkey(), norm_scale="elementwise", **ARMS[arm])
    x = images(getkey())

    def run(model, x, forward):
        parameters, rest = eqx.partition(model, trainable(model))
        loss = lambda parameters: jnp.sum(jnp.sin(forward(eqx.combine(parameters, rest), x)))
        return forward(model, x), jax.grad(loss)(parameters)

    expected = eqx.filter_jit(run)(model, x, published)
    found = eqx.filter_jit(run)(model, x, Mixer.batch)
    assert_close(found, expected)
    rough = eqx.filter_jit(run)(cast(model, jnp.float32), x.astype(jnp.float32), Mixer.batch)
    assert_close(rough[0], expected[0], 2e-5)
    assert_close(rough[1], expected[1], 1e-4)


@pytest.mark.parametrize("vanilla", [False, True])
def test_the_order_of_patches_is_a_convention(vanilla, getkey):
    """Permuted tokens with the token weights, norms and biases permuted alike: permuted tokens, the
    same logits.
    """
    changes = {"block": "serial", "norm": "token", "norm_scale": "elementwise"} if vanilla else {}
    model = make(getkey(), bias=True, **changes)
    x = normal(getkey(), (12, 6))
    order = np.random.default_rng(0).permutation(12)
    permuted = eqx.tree_at(
        lambda m: m.blocks,
        model,
        jax.tree.map(lambda b: reorder(b, order), model.blocks, is_leaf=is_block),
    )
    after = permuted.apply_blocks(x[order])
    expected = model.apply_blocks(x)[order]
    assert_close(after, expected)
    assert_close(permuted.classify(after), model.classify(expected))
    assert distance(model.apply_blocks(x[order]), expected) > 0.01


def is_block(node) -> bool:
    return isinstance(node, Block)


def reorder(block: Block, order: np.ndarray) -> Block:
    """The block whose tokens are those of `block` in another order."""
    affine = block.potential.neurons.affine
    assert affine is not None
    if affine.scale.shape[0] > 1:
        rows = lambda b: (b.potential.neurons.affine.scale, b.potential.neurons.affine.shift)
        block = eqx.tree_at(rows, block, tuple(leaf[order] for leaf in rows(block)))
    if "token" not in block.potential.hidden:
        return block
    token = lambda b: b.potential.memory.synapses["token"].coupling
    bias = lambda b: b.potential.memory.synapses["token_down"].bias
    block = eqx.tree_at(lambda b: token(b).up, block, token(block).up[:, order])
    block = eqx.tree_at(lambda b: token(b).breaking, block, token(block).breaking[order])
    return eqx.tree_at(bias, block, bias(block)[order])


@arms
@pytest.mark.quick
def test_every_arm_trains_all_that_it_should(arm, getkey):
    model = make(getkey(), bias=True, **ARMS[arm])
    x = images(getkey())

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model):
        return jnp.sum(jnp.sin(model.batch(x)))

    value, gradient = loss(model)
    assert jnp.isfinite(value)
    marks = trainable(model)
    moving = jax.tree.map(
        lambda g, train: bool(jnp.any(g != 0)) if train else True,
        eqx.filter(gradient, marks),
        eqx.filter(marks, marks),
    )
    assert all(jax.tree.leaves(moving))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    assert all(coupling.tie == 0 for coupling in couplings(gradient))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("arm", ["serial", "broken-xavier"])
def test_other_precisions_stay_in_their_dtype(arm, dtype, getkey):
    model = make(getkey(), bias=True, **ARMS[arm])
    x = images(getkey())
    run = eqx.filter_jit(lambda model, x: (model.apply_blocks(model.embed(x[0])), model.batch(x)))
    tokens, logits = run(cast(model, dtype), x.astype(dtype))
    assert (tokens.dtype, logits.dtype) == (dtype, dtype)
    assert_close(logits, run(model, x)[1], 2e-5 if dtype == jnp.float32 else 0.1)


@arms
def test_logits_and_gradients_in_float32_are_those_in_float64(arm, getkey):
    model = make(getkey(), bias=True, **ARMS[arm])
    x = images(getkey())

    @eqx.filter_jit
    def run(model, x):
        loss = lambda model: jnp.mean(
            optax.softmax_cross_entropy(model.batch(x), jnp.eye(3, dtype=x.dtype))
        )
        return model.batch(x), jax.tree.leaves(eqx.filter_grad(loss)(model))

    (logits, gradients) = run(cast(model, jnp.float32), x.astype(jnp.float32))
    (exact, slopes) = run(model, x)
    assert_close(logits, exact, 1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert_close(gradient, slope, 1e-4)


# ---- Stochastic depth ----------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["serial", "free"])
def test_stochastic_depth_needs_a_key_and_treats_images_one_by_one(arm, getkey):
    model = make(getkey(), drop_path=0.5, **ARMS[arm])
    x = jnp.repeat(images(getkey(), 1), 64, axis=0)
    without, dropped = jax.jit(lambda x, key: (model.batch(x), model.batch(x, key)))(x, getkey())
    assert_close(without, jnp.repeat(without[:1], 64, axis=0))
    assert len({row.tobytes() for row in np.asarray(dropped)}) > 4
    assert_close(model(x[0]), without[0])
    assert any(distance(model(x[0], getkey()), without[0]) > 1e-6 for _ in range(6))


@pytest.mark.parametrize("bias", [False, True])
def test_a_dropped_branch_leaves_nothing_behind(bias, getkey):
    """Of the serial mixer each branch is its whole multilayer perceptron, with the bias of its
    second layer.
    """
    model = make(getkey(), block="serial", bias=bias, drop_path=0.5)
    block = model.blocks[0]
    x = normal(getkey(), (12, 6))
    assert not isinstance(block, Block)
    part = block.token
    batch = jnp.repeat(x[:, None], 32, axis=1)
    displacement = np.asarray(part(batch, getkey()) - batch).transpose(1, 0, 2)
    options = np.stack([np.zeros((12, 6)), 2 * np.asarray(part(x) - x)])
    distances = np.max(np.abs(displacement[:, None] - options), axis=(2, 3))
    assert np.max(np.min(distances, axis=1)) < 1e-12
    assert set(np.argmin(distances, axis=1)) == {0, 1}  # all alike: once in 2 * 10^9 times


# ---- Images and errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, patch, tokens",
    [
        ((8, 8, 1), 4, 4),
        ((6, 10, 5), 2, 15),
        ((6, 10, 3), (3, 5), 4),
        ((5, 7, 1), (5, 1), 7),
        ((4, 4, 2), 4, 1),
    ],
)
def test_images_of_any_shape(image, patch, tokens, getkey):
    shape = MixerConfig(image=image, patch=patch, dim=4, depth=1, classes=2)
    assert shape.tokens == tokens

    def run(key, x):
        model = Mixer(shape, key=key)
        return model.embed(x), model(x), model.batch(x[None])

    shapes = jax.eval_shape(run, getkey(), normal(getkey(), image))
    assert [a.shape for a in shapes] == [(tokens, 4), (2,), (1, 2)]


def test_patches_run_row_by_row(getkey):
    model = Mixer(config(dim=16), key=getkey())
    model = eqx.tree_at(lambda m: m.stem.weight, model, jnp.eye(16))  # a token is its patch
    image = jnp.arange(8 * 12 * 2, dtype=jnp.float64).reshape(SMALL.image)
    tokens = model.embed(image).reshape(4, 3, 2, 4, 2)
    assert jnp.array_equal(tokens[1, 2], image[2:4, 8:12])
    assert jnp.array_equal(tokens[3, 0], image[6:8, 0:4])


@arms
@pytest.mark.quick
def test_blocks_of_an_arm_are_certified_as_they_should(arm, getkey):
    block = Mixer(config(**ARMS[arm]), key=getkey()).blocks[0]
    expected = {"free": False, "broken": True, "broken-xavier": False, "symmetric": True}
    if arm == "serial":
        assert not isinstance(block, Block)
    else:
        assert isinstance(block, Block)
        assert certify(block).descends_in_flow is expected[arm]
    assert set(ARMS) == {"serial", *expected}
    assert {changes.get("coupling", "free") for changes in ARMS.values()} == set(COUPLINGS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dim": 0}, r"dim must be at least 1, got 0"),
        ({"depth": -1}, r"depth must be at least 1, got -1"),
        ({"classes": 0}, r"classes must be at least 1, got 0"),
        ({"hidden_ratio": 0}, r"hidden_ratio must be at least 1, got 0"),
        ({"token_hidden": 0}, r"hidden widths must be at least 1, got 0"),
        ({"dim": 1}, r"hidden widths must be at least 1, got 0"),
        ({"image": (8, 0, 3)}, r"image must be at least 1, got 0"),
        ({"patch": 0}, r"patch must be at least 1, got 0"),
        (
            {"patch": 3},
            r"patch 3 does not divide the image height of 8 pixels; use one of \[1, 2, 4, 8\]",
        ),
        (
            {"patch": (2, 5)},
            r"patch 5 does not divide the image width of 12 pixels; use one of \[1, 2, 3, 4, 6, "
            r"12\]",
        ),
    ],
    ids=str,
)
@pytest.mark.quick
def test_bad_configurations_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"block": "series"}, r"block must be one of 'parallel', 'serial', got 'series'"),
        (
            {"coupling": "tied"},
            r"coupling must be one of 'free', 'broken', 'symmetric', got 'tied'",
        ),
        ({"breaking": "ones"}, r"breaking must be one of 'zeros', 'xavier', got 'ones'"),
        ({"norm": "layer"}, r"norm must be one of 'joint', 'token', got 'layer'"),
        (
            {"norm_scale": "vector"},
            r"norm_scale must be one of 'none', .* 'elementwise', got 'vector'",
        ),
    ],
    ids=str,
)
def test_unknown_choices_are_named(changes, message):
    """Below the type checks of the tests, which would come first; a user has none, and "serail"
    must not pass.
    """
    changed = config()
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    with pytest.raises(ValueError, match=message):
        changed.__post_init__()


@pytest.mark.parametrize("size", ["M/16", "S", "S16", "S/", "S/x", "", "S/16/2"])
def test_unknown_sizes_are_named(size):
    with pytest.raises(
        ValueError,
        match=r"Unknown size .*: use S, B or L, a slash and the patch size, as in 'S/16'",
    ):
        MixerConfig.named(size)


@pytest.mark.parametrize(
    "options", [{"n_iter": 0}, {"step": 0.0}, {"leak": -1.0}, {"drop_path": 1.0}]
)
def test_options_of_the_block_are_checked_at_once(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        config(**options)


def test_an_image_of_another_shape_is_named(getkey):
    model = Mixer(config(), key=getkey())
    with pytest.raises(
        ValueError, match=r"The model takes images of shape \(8, 12, 2\), got \(12, 8, 2\)"
    ):
        model(jnp.zeros((12, 8, 2)))
    with pytest.raises(
        ValueError, match=r"The model takes images of shape \(8, 12, 2\), got \(8, 12, 3\)"
    ):
        model.batch(jnp.zeros((4, 8, 12, 3)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "block": "serial",
            "norm": "token",
            "norm_scale": "elementwise",
            "bias": True,
            "n_iter": 2,
        },
        {"coupling": "broken", "norm_scale": "scalar", "step": 0.5, "leak": 1.0},
        {"coupling": "symmetric", "hidden_ratio": 2, "drop_path": 0.1},
        {"norm_scale": "none", "token_hidden": 5, "channel_hidden": 7, "patch": (4, 4)},
        {"dim": 1, "token_hidden": 3},
    ],
    ids=str,
)
def test_a_mixer_tells_its_configuration(getkey, changes):
    expected = config(**changes)
    found = Mixer(expected, key=getkey()).config
    assert found.patch_size == expected.patch_size
    assert dataclasses.replace(found, patch=expected.patch) == expected


def test_free_and_broken_mixers_are_trees_of_one_form(getkey):
    """So they train in one program; the tree holds no configuration that tells them apart."""
    free = Mixer(config(coupling="free"), key=getkey())
    broken = Mixer(config(coupling="broken"), key=getkey())
    assert jax.tree.structure(free) == jax.tree.structure(broken)
    assert jax.tree.structure(free) != jax.tree.structure(
        Mixer(config(coupling="symmetric"), key=getkey())
    )
