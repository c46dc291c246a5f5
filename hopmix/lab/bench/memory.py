"""The peak memory of a training step, with and without rematerialisation of its blocks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from hopmix._numerics.dtypes import cast
from hopmix._tree import trainable
from hopmix.lab.bench.mixer import Size, configure, make_batch, make_loss
from hopmix.lab.bench.race import Row
from hopmix.lab.runtime.compiler_options import training_options
from hopmix.models.mixer import Mixer


class Rematerialised(eqx.Module):
    """The blocks of a mixer as one loop, whose inner activations are computed again in the backward
    pass.

    A loop, because XLA finds out on CPUs that unrolled blocks are computed twice, and saves them
    after all.
    """

    blocks: tuple[Callable, ...]

    def __call__(self, x: Any, key: Any = None) -> Any:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.blocks)
        return jax.lax.scan(jax.checkpoint(lambda x, block: (block(x), None)), x, stacked)[0]


def cost_memory(sizes: Sequence[Size], kinds: Sequence[str], precision: str) -> Iterator[Row]:
    """Peak memory of loss and gradient of each size and arm, in MiB, from the compiled program."""
    for size in sizes:
        for kind in kinds:
            plain = peak_bytes(size, kind, precision, False) / 2**20
            again = peak_bytes(size, kind, precision, True) / 2**20
            name = f"{size.name} {kind}: rematerialised"
            yield Row("memory", name, (again,), "all saved", (plain,), unit="MiB", race=False)


def peak_bytes(size: Size, kind: str, precision: str, rematerialise: bool) -> int:
    """Arguments, results and intermediate arrays of the loss and its gradient."""
    config = configure(size, kind)
    model = cast(Mixer(config, key=jr.key(0)), "float32")
    if rematerialise:
        model = eqx.tree_at(lambda m: m.blocks, model, (Rematerialised(model.blocks),))
    parameters, rest = eqx.partition(model, trainable(model))
    images, targets = make_batch(config, size.batch)
    loss_of = make_loss(precision)

    def loss(parameters, images, targets):
        return loss_of(eqx.combine(parameters, rest), (images, targets))

    analysis = (
        jax.jit(jax.value_and_grad(loss), compiler_options=training_options())
        .lower(parameters, images, targets)
        .compile()
        .memory_analysis()
    )
    assert analysis is not None
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
    )
