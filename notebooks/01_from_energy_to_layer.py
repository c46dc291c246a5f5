# %% [markdown]
# # From an energy to a layer
#
# A layer of hopmix is a step of the dynamics of an energy. Write down groups of neurons (their Lagrangians) and the
# synapses between them, eliminate the hidden groups, and take an explicit step: that is the layer. Four known
# architectures follow, each in a few lines; all of them keep their energy, and the certificate says what is proved.

# %%
import jax
import jax.random as jr
import matplotlib.pyplot as plt

import hopmix as hm

jax.config.update("jax_enable_x64", True)

k1, k2, k3, k4 = jr.split(jr.key(0), 4)
TOKENS, CHANNELS, HIDDEN = 16, 24, 32  # a grid of 4 x 4 tokens
visible = hm.Neurons(hm.LayerNorm(axes=(-1,)), (TOKENS, CHANNELS))
memory_of_channels = {"memory": hm.ChannelMixing(hm.Coupling.symmetric(CHANNELS, HIDDEN, key=k1))}
hidden = {"memory": hm.Neurons(hm.ReLU(), (TOKENS, HIDDEN))}

# %% [markdown]
# ## Energy Transformer
#
# Attention joins the visible layer with itself; a Hopfield network of each token is a hidden layer. Nothing else is
# needed (Hoover et al. 2023, arXiv 2302.07253).

# %%
synapses = {
    "attention": hm.Attention.random(CHANNELS, heads=2, dim=8, key=k2),
    **memory_of_channels,
}
ends = {"attention": ("x",), "memory": ("x", "memory")}
memory = hm.AssociativeMemory({"x": visible, **hidden}, synapses, ends)
transformer = hm.derive_block(memory, ["memory"], step=0.05)

# %% [markdown]
# ## Symmetric ResMLP
#
# ResMLP mixes tokens by a linear map. A hidden layer of linear units does it, with a matrix $W^\top W$ (Touvron et al.
# 2021, arXiv 2105.03404, here with tied weights and both mixings side by side).

# %%
token = hm.TokenMixing(hm.Coupling.symmetric(TOKENS, TOKENS, key=k3))
layers = {"x": visible, "token": hm.Neurons(hm.Quadratic(), (TOKENS, CHANNELS)), **hidden}
synapses = {"token": token, **memory_of_channels}
memory = hm.AssociativeMemory(layers, synapses, {name: ("x", name) for name in synapses})
resmlp = hm.derive_block(memory, ["token", "memory"])

# %% [markdown]
# ## Symmetric pooling former
#
# The token mixer of PoolFormer without parameters: average pooling there and back (Yu et al. 2022, arXiv 2111.11418).

# %%
layers = {"x": visible, "token": hm.Neurons(hm.Quadratic(), (TOKENS, CHANNELS)), **hidden}
synapses = {"token": hm.Pooling(grid=(4, 4)), **memory_of_channels}
memory = hm.AssociativeMemory(layers, synapses, {name: ("x", name) for name in synapses})
pooling = hm.derive_block(memory, ["token", "memory"])

# %% [markdown]
# ## Symmetric convolutional mixer
#
# A convolution up and its transpose down.

# %%
convolution = hm.Convolution(hm.Coupling.symmetric(9 * CHANNELS, HIDDEN, key=k4), grid=(4, 4))
layers = {"x": visible, "token": hm.Neurons(hm.ReLU(), (TOKENS, HIDDEN)), **hidden}
synapses = {"token": convolution, **memory_of_channels}
memory = hm.AssociativeMemory(layers, synapses, {name: ("x", name) for name in synapses})
convolutional = hm.derive_block(memory, ["token", "memory"])

# %% [markdown]
# ## What is proved, and what numbers say
#
# The potentials of the last three are convex: every step descends, of any size (C05). Attention is not, so of the
# transformer the flow is proved (C13); its small steps are tried.

# %%
blocks = {
    "transformer": transformer,
    "resmlp": resmlp,
    "pooling": pooling,
    "convolutional": convolutional,
}
certificates = {name: hm.certify(block) for name, block in blocks.items()}
checks = {name: c.check(jr.key(1), examples=8, steps=8) for name, c in certificates.items()}
for name, certificate in certificates.items():
    print(f"{name}: {certificate.claim}, {checks[name]}")

assert {name: c.claim for name, c in certificates.items()} == {
    "transformer": "C13",
    "resmlp": "C05",
    "pooling": "C05",
    "convolutional": "C05",
}
assert all(check.passed for check in checks.values())

# %% [markdown]
# The layer is what one would have written by hand.

# %%
x = jr.normal(jr.key(2), (TOKENS, CHANNELS))
g = resmlp.activation(x)
w, v = token.coupling.up, memory_of_channels["memory"].coupling.up
by_hand = x + w.T @ (w @ g) + jax.nn.relu(g @ v.T) @ v
assert jax.numpy.allclose(resmlp(x), by_hand, rtol=1e-12)

# %% [markdown]
# ## The energy along ten layers

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 2.4), layout="constrained")
for axis, (name, block) in zip(axes, blocks.items(), strict=True):
    descent = hm.descend(block, x, 10)
    assert bool(descent.descends)
    axis.plot(descent.energies, marker="o", markersize=3)
    axis.set(title=name, xlabel="layer")
axes[0].set_ylabel("energy")
plt.show()
