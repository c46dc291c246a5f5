"""Milliseconds per training step of the parallel symmetric Mixer, in turn with a PyTorch peer.

    .venv/bin/python experiments/benchmarks/training_step.py \
        --peer "/path/to/peer-venv/bin/python ../shared/bench/torch_peer.py" --repetitions 5

The peer is called with `--dim --depth --batch --kind` and prints one JSON line with `median_ms`. Both sides take one
AdamW step on the same shapes: 32 x 32 x 3 images, patch 4 (64 tokens), float32. hopmix runs the steps of an interval
inside one scan, as the lab does; the time is that of the scan divided by its steps.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from hopmix import Mixer, MixerConfig, trainable
from hopmix.lab.train import objective

STEPS = 20
PEER_KINDS = {"symmetric": "sym", "free": "para", "broken": "asym", "serial": "serial"}


def make_interval(kind: str, dim: int, depth: int, batch: int):
    """A compiled scan of training steps, and its initial carry."""
    block = "serial" if kind == "serial" else "parallel"
    coupling = "free" if kind == "serial" else kind
    config = MixerConfig((32, 32, 3), 4, dim, depth, 10, block, coupling, norm_scale="elementwise")
    model = Mixer(config, key=jr.key(0))
    parameters, static = eqx.partition(model, trainable(model))
    optimiser = optax.adamw(1e-3, weight_decay=0.05)
    images = jr.normal(jr.key(1), (batch, 32, 32, 3))
    targets = jax.nn.one_hot(jr.randint(jr.key(2), (batch,), 0, 10), 10)

    def loss(parameters):
        return objective(eqx.combine(parameters, static), images, targets, jnp.zeros(()))[0]

    def step(carry, _):
        parameters, state = carry
        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, state = optimiser.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    interval = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=STEPS), donate_argnums=0)
    return interval, (parameters, optimiser.init(parameters))


def time_ours(interval, carry):
    """Milliseconds per step of one interval."""
    begin = time.perf_counter()
    carry, losses = interval(carry)
    jax.block_until_ready(losses)
    return 1e3 * (time.perf_counter() - begin) / STEPS, carry


def time_peer(peer: str, a: argparse.Namespace) -> float:
    shape = ["--dim", a.dim, "--depth", a.depth, "--batch", a.batch, "--steps", STEPS, "--kind", PEER_KINDS[a.kind]]
    extra = ["--device", "cuda"] if jax.default_backend() == "gpu" else []
    command = [*shlex.split(peer), *map(str, shape), *extra]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])["median_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(PEER_KINDS), default="symmetric")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peer", help="command of the peer; without it only hopmix is timed")
    parser.add_argument("--repetitions", type=int, default=5)
    a = parser.parse_args()
    interval, carry = make_interval(a.kind, a.dim, a.depth, a.batch)
    _, carry = time_ours(interval, carry)  # compiles
    ours, theirs = [], []
    for _ in range(a.repetitions):
        milliseconds, carry = time_ours(interval, carry)
        ours.append(milliseconds)
        if a.peer:
            theirs.append(time_peer(a.peer, a))
    row = {"kind": a.kind, "dim": a.dim, "depth": a.depth, "batch": a.batch, "jax": jax.__version__}
    row |= {"device": jax.devices()[0].device_kind, "hopmix_ms": ours, "hopmix_median_ms": statistics.median(ours)}
    if theirs:
        row |= {"peer_ms": theirs, "peer_median_ms": statistics.median(theirs)}
        row["ratio"] = statistics.median(o / t for o, t in zip(ours, theirs, strict=True))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
