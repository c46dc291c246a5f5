# %% [markdown]
# # Breaking symmetry
#
# A coupling has up-weights $W$ and down-weights $V = \text{tie}\cdot W^\top + \text{breaking}$. Tied, the layer is the
# gradient of an energy; free, of nothing. What happens in between, when training may choose? A small mixer learns
# handwritten digits; the rate at which it leaves symmetry is predicted before it does.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import hopmix as hm

digits = load_digits()
images = jnp.asarray(
    digits.images[:1024, :, :, None] / 8 - 1, jnp.float32
)  # pixels of 0 to 16, to -1 to 1
labels = jnp.asarray(digits.target[:1024])
config = hm.MixerConfig(image=(8, 8, 1), patch=2, dim=16, depth=2, classes=10, coupling="broken")
model = hm.Mixer(config, key=jr.key(0))


def loss(model, rows):
    logits = model.batch(images[rows])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()


def asymmetry(model):
    """The breaking ratio |V - W^T| / |W| and the cosine of V and W^T, of each coupling."""
    measured = [hm.measure_asymmetry(coupling) for coupling in hm.couplings(model)]
    return jnp.stack([m.breaking_ratio for m in measured]), jnp.stack([m.cosine for m in measured])


# %% [markdown]
# ## Training on a leash, then without
#
# `train` follows AdamW on all that trains, plus a penalty $\lambda|\text{breaking}|^2$. With `tied` the breaking stays
# zero: it is left out of what trains.


# %%
def without_breaking(model):
    """What trains when the symmetry is held: everything but the breaking of the couplings."""
    spec = hm.trainable(model)
    return eqx.tree_at(
        lambda m: [c.breaking for c in hm.couplings(m)], spec, [False] * len(hm.couplings(model))
    )


@eqx.filter_jit
def train(model, key, steps, strength, tied=False):
    parameters, rest = eqx.partition(
        model, without_breaking(model) if tied else hm.trainable(model)
    )
    optimiser = optax.adamw(4e-3, weight_decay=0.0)

    def objective(parameters, rows):
        model = eqx.combine(parameters, rest)
        return loss(model, rows) + strength * sum(
            coupling.squared_breaking for coupling in hm.couplings(model)
        )

    def step(carry, key):
        parameters, state = carry
        gradient = jax.grad(objective)(parameters, jr.randint(key, (64,), 0, len(labels)))
        updates, state = optimiser.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), asymmetry(
            eqx.combine(parameters, rest)
        )

    start = parameters, optimiser.init(parameters)
    (parameters, _), tracked = jax.lax.scan(step, start, jr.split(key, steps))
    return eqx.combine(parameters, rest), tracked


tied, (ratios, _) = train(model, jr.key(1), 150, 0.0, tied=True)
assert jnp.all(ratios == 0)
print(f"tied for 150 steps: loss {loss(tied, jnp.arange(1024)):.3f}, still exactly symmetric")

# %% [markdown]
# ## How fast would it break?
#
# At a tied point $V - W^\top$ moves by minus the gradient with respect to the breaking, and the ratio
# $|V - W^\top|/|W|$ grows at the rate that `breaking_rate` reads off the gradient (claim C11). One small step of plain
# gradient descent confirms it.

# %%
everything = jnp.arange(1024)
gradient = eqx.filter_grad(loss)(tied, everything)
predicted = jnp.stack(
    [hm.symmetry.breaking_rate(*pair) for pair in zip(hm.couplings(tied), hm.couplings(gradient))]
)
rate = 1e-3
moved = jax.tree.map(
    lambda p, g: p if g is None else p - rate * g, tied, gradient, is_leaf=lambda leaf: leaf is None
)
measured = asymmetry(moved)[0] / rate
names = [f"block {b}, {branch}" for b in range(2) for branch in ("token", "channel")]
for name, expected, found in zip(names, predicted, measured):
    print(f"{name}: predicted {expected:.4f}, measured {found:.4f} per unit of time")
assert jnp.allclose(predicted, measured, rtol=0.02)

# %% [markdown]
# ## Letting go
#
# The same model, from the same tied point, under three penalties.

# %%
# An array, so that one compiled program serves all three.
runs = {
    strength: train(tied, jr.key(2), 300, jnp.asarray(strength)) for strength in (0.0, 1e-2, 1.0)
}
figure, axes = plt.subplots(1, len(names), figsize=(11, 2.6), sharey=True, layout="constrained")
for axis, name, i in zip(axes, names, range(len(names)), strict=True):
    for strength, (_, (_, cosines)) in runs.items():
        axis.plot(cosines[:, i], label=f"λ = {strength:g}")
    axis.set(title=name, xlabel="step")
axes[0].set_ylabel(r"cosine of $V$ and $W^\top$")
axes[-1].legend(frameon=False)
plt.show()

ends = {strength: jnp.mean(cosines[-1]) for strength, (_, (_, cosines)) in runs.items()}
print({strength: f"{end:.3f}" for strength, end in ends.items()})
assert ends[0.0] < ends[1e-2] < ends[1.0] <= 1

# %% [markdown]
# ## What is lost with the symmetry
#
# Of the tied model every block has an energy. Of the others none has; of each state `descent_margin` says how many
# times the present breaking it tolerates before the energy of the tied block rises (claim C10); below 1 it rises. After
# this short training it falls everywhere: descent is lost as a theorem long before it is lost in numbers.


# %%
def margins(model):
    """The descent margins of the first block, at the states that 64 images bring to it."""
    states = jax.vmap(model.embed)(images[:64])
    return jax.vmap(lambda x: hm.symmetry.descent_margin(model.blocks[0], x))(states)


for strength, (trained, _) in runs.items():
    block, margin = trained.blocks[0], margins(trained)
    field = hm.field_asymmetry(
        block.force, trained.embed(images[0]), block.potential.neurons.lagrangian
    )
    print(
        f"λ = {strength:g}: asymmetry of the field {field:.2g}, lowest margin {jnp.min(margin):.3g}, "
        f"rises at {jnp.mean(margin < 1):.0%} of the states"
    )
print(hm.certify(runs[0.0][0].blocks[0]))
assert jnp.all(jnp.isinf(margins(tied)))
assert hm.certify(tied.blocks[0]).descends_in_flow
assert not hm.certify(runs[0.0][0].blocks[0]).descends_in_flow

# %% [markdown]
# `hopmix ablate` does this for many seeds and arms at once, with validation and test splits, and writes a report.
