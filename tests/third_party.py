"""Models as somebody else would write them: Equinox modules that know nothing of hopmix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr


class EnergyMixer(eqx.Module):
    """Mixes tokens and channels side by side, with one norm and each matrix used twice: up, and
    transposed down.
    """

    norm: eqx.nn.LayerNorm
    token: jax.Array
    channel: jax.Array

    def __init__(
        self, tokens: int, channels: int, hidden: int, *, learn_scale: bool = False, key: jax.Array
    ):
        token_key, channel_key = jr.split(key)
        self.norm = eqx.nn.LayerNorm(channels, use_weight=learn_scale, use_bias=False)
        self.token = jr.normal(token_key, (hidden, tokens)) / tokens**0.5
        self.channel = jr.normal(channel_key, (channels, hidden)) / channels**0.5

    def normalise(self, x):
        return jax.vmap(self.norm)(x)

    def energy(self, x):
        g = self.normalise(x)
        return -0.5 * (
            jnp.sum(jax.nn.relu(self.token @ g) ** 2) + jnp.sum(jax.nn.relu(g @ self.channel) ** 2)
        )

    def __call__(self, x):
        g = self.normalise(x)
        return (
            x
            + self.token.T @ jax.nn.relu(self.token @ g)
            + jax.nn.relu(g @ self.channel) @ self.channel.T
        )


class SerialMixer(eqx.Module):
    """The same two mixings, but one after the other, each with a norm in front: it has no
    energy.
    """

    mixer: EnergyMixer

    def normalise(self, x):
        return self.mixer.normalise(x)

    def __call__(self, x):
        token = self.mixer.token
        channel = self.mixer.channel
        x = x + token.T @ jax.nn.relu(token @ self.normalise(x))
        return x + jax.nn.relu(self.normalise(x) @ channel) @ channel.T


def trained(mixer: EnergyMixer, key: jax.Array) -> EnergyMixer:
    """With the scale of the norm, if it has one, where training may leave it: no longer 1
    everywhere.
    """
    weight = mixer.norm.weight
    if weight is None:
        return mixer
    return eqx.tree_at(lambda m: m.norm.weight, mixer, jnp.exp(0.3 * jr.normal(key, weight.shape)))
