# %% [markdown]
# # Verifying your own model
#
# A layer that is derived from an energy lowers it. Is a layer that you wrote, or trained, one of these? Three questions
# that need nothing but functions: is the norm the gradient of a scalar, is the update the gradient of *some* energy,
# and does *your* energy fall? The model below is plain Equinox and knows nothing of hopmix.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax

import hopmix as hm
from hopmix.testing import assert_conservative, assert_energy_descends, assert_lagrangian

jax.config.update("jax_enable_x64", True)

TOKENS, CHANNELS, HIDDEN = 6, 8, 12


class EnergyMixer(eqx.Module):
    """Tokens and channels mixed side by side behind one norm; each matrix is used twice, up and transposed down."""

    norm: eqx.nn.LayerNorm
    token: jax.Array
    channel: jax.Array

    def __init__(self, key, learn_scale=True):
        token, channel = jr.split(key)
        self.norm = eqx.nn.LayerNorm(CHANNELS, use_weight=learn_scale, use_bias=False)
        self.token = jr.normal(token, (HIDDEN, TOKENS)) / TOKENS**0.5
        self.channel = jr.normal(channel, (CHANNELS, HIDDEN)) / CHANNELS**0.5

    def normalise(self, x):
        return jax.vmap(self.norm)(x)

    def energy(self, x):
        g = self.normalise(x)
        return -0.5 * (
            jnp.sum(jax.nn.relu(self.token @ g) ** 2) + jnp.sum(jax.nn.relu(g @ self.channel) ** 2)
        )

    def update(self, x):
        g = self.normalise(x)
        return (
            self.token.T @ jax.nn.relu(self.token @ g)
            + jax.nn.relu(g @ self.channel) @ self.channel.T
        )

    def __call__(self, x):
        return x + self.update(x)


# %% [markdown]
# ## At initialisation all is well
#
# The norm of each token is the gradient of the Lagrangian $\sum_i C\sqrt{\mathrm{var}_i + \epsilon}$, which is convex;
# the update is a gradient with respect to the normalised tokens; and no step raises the energy (claim C05).

# %%
model = EnergyMixer(jr.key(0))
states = 3 * jr.normal(jr.key(1), (64, TOKENS, CHANNELS))
norm_value = lambda x: x.shape[-1] * jnp.sum(jnp.sqrt(jnp.var(x, axis=-1) + model.norm.eps))

assert_lagrangian((norm_value, model.normalise), states[0], convex=True)
assert_conservative(model.update, states[0], activation=model.normalise)
assert_energy_descends(model, model.energy, states, steps=10)

# %% [markdown]
# ## Training breaks it, although the matrices stay tied
#
# `eqx.nn.LayerNorm` has a scale for each channel, 1 at first. Train the layer to denoise, and look at two fields on the
# way: the norm by itself, and the update in the metric of a norm without a scale.

# %%
targets = jnp.sign(jr.normal(jr.key(2), (256, TOKENS, CHANNELS)))
noisy = targets + 0.8 * jr.normal(jr.key(3), targets.shape)
optimiser = optax.adam(1e-2)
plain = hm.LayerNorm(axes=(-1,), eps=1e-5)


def loss(model):
    return jnp.mean((jax.vmap(lambda x: plain.activation(model(x)))(noisy) - targets) ** 2)


def asymmetries(model):
    norm = jax.vmap(lambda x: hm.field_asymmetry(model.normalise, x))(states[:8])
    update = jax.vmap(lambda x: hm.field_asymmetry(model.update, x, plain))(states[:8])
    return jnp.mean(norm), jnp.mean(update)


@eqx.filter_jit
def train(model, steps):
    parameters, rest = eqx.partition(model, eqx.is_array)

    def step(carry, _):
        parameters, optimiser_state = carry
        model = eqx.combine(parameters, rest)
        updates, optimiser_state = optimiser.update(eqx.filter_grad(loss)(model), optimiser_state)
        return (optax.apply_updates(parameters, updates), optimiser_state), asymmetries(model)

    start = parameters, optimiser.init(parameters)
    (parameters, _), tracked = jax.lax.scan(step, start, None, length=steps)
    return eqx.combine(parameters, rest), tracked


trained, (norm_asymmetry, update_asymmetry) = train(model, 120)
print(
    f"scale of the norm: {jnp.min(trained.norm.weight):.2f} to {jnp.max(trained.norm.weight):.2f}"
)
print(
    f"asymmetry of the update: {update_asymmetry[0]:.1e} before, {update_asymmetry[-1]:.2f} after"
)
assert update_asymmetry[0] < 1e-12
assert update_asymmetry[-1] > 0.01

figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
axis.plot(norm_asymmetry, label="norm alone")
axis.plot(update_asymmetry, label="update")
axis.set(xlabel="training step", ylabel=r"$|HJ - (HJ)^\top|\,/\,2|HJ|$")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The assertion says where
#
# It shows the state, how large the asymmetry is, and the pair of entries that differ most.

# %%
try:
    assert_conservative(trained.update, states[0], activation=trained.normalise)
except AssertionError as error:
    print(error)
else:
    raise RuntimeError("the trained update was expected to be no gradient")

# %% [markdown]
# ## The cure
#
# A scale that stands on the way in *and* on the way out is exact: with $s = \gamma \odot g$ the energy is $-U(s)$, and
# its gradient with respect to $g$ carries $\gamma$ once more (claim C08). Three lines change.


# %%
class MendedMixer(EnergyMixer):
    """The scale belongs to what the matrices read, and to what they send back."""

    def scaled(self, x):
        return self.norm.weight * plain.activation(x)

    def energy(self, x):
        s = self.scaled(x)
        return -0.5 * (
            jnp.sum(jax.nn.relu(self.token @ s) ** 2) + jnp.sum(jax.nn.relu(s @ self.channel) ** 2)
        )

    def update(self, x):
        s = self.scaled(x)
        back = (
            self.token.T @ jax.nn.relu(self.token @ s)
            + jax.nn.relu(s @ self.channel) @ self.channel.T
        )
        return self.norm.weight * back


mended, (_, mended_asymmetry) = train(MendedMixer(jr.key(0)), 120)
spread = jnp.max(mended.norm.weight) - jnp.min(mended.norm.weight)
print(f"scale spread {spread:.2f}, asymmetry after training: {mended_asymmetry[-1]:.1e}")
assert spread > 0.02
assert_conservative(mended.update, states[0], lagrangian=plain)
assert_energy_descends(mended, mended.energy, states, steps=10)

# %% [markdown]
# ## What numbers cannot say
#
# Assertions try states. What holds from *every* state is a theorem with assumptions, and `certify` goes through them
# for a block that is built from a memory. Here is the same trained layer, written as one.

# %%
affine = hm.Affine(mended.norm.weight[None], jnp.zeros((1, CHANNELS)))
layers = {
    "x": hm.Neurons(plain, (TOKENS, CHANNELS), affine=affine),
    "token": hm.Neurons(hm.ReLU(), (HIDDEN, CHANNELS)),
    "channel": hm.Neurons(hm.ReLU(), (TOKENS, HIDDEN)),
}
synapses = {
    "token": hm.TokenMixing(hm.Coupling(mended.token)),
    "channel": hm.ChannelMixing(hm.Coupling(mended.channel.T)),
}
memory = hm.AssociativeMemory(layers, synapses, {name: ("x", name) for name in synapses})
block = hm.derive_block(memory, ["token", "channel"])
assert jnp.allclose(block(states[0]), mended(states[0]), rtol=1e-10)

certificate = hm.certify(block)
print(certificate)
assert certificate.claim == "C05"
