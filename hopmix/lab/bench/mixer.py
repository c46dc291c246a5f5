"""Training step and inference of mixers, in turn with a peer, beside the operations that they
need.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from hopmix._numerics.dtypes import cast
from hopmix._tree import trainable
from hopmix.lab.bench.peer import Peer
from hopmix.lab.bench.race import Contender, Row, Work, in_turn, timed
from hopmix.lab.data.augment import Augment
from hopmix.lab.families.mixers import BY_NAME
from hopmix.lab.runtime.compiler_options import forward_options, training_options
from hopmix.lab.tasks.classification import Batch, Classification
from hopmix.lab.train.step import objective
from hopmix.models.mixer import Mixer, MixerConfig

CLASSES = 10
COLOURS = 3
LONG = 6e11
MOST = 20
"""Operations and steps that are timed at once, at most."""


class Size(NamedTuple):
    """A mixer and its batch: pixels per side of image and patch, channels, blocks, images per
    step.
    """

    name: str
    image: int
    patch: int
    dim: int
    depth: int
    batch: int

    def quick(self) -> "Size":
        """The same with one block and few images, to see that everything runs."""
        return self._replace(depth=1, batch=max(1, self.batch // 32))

    @property
    def shape(self) -> dict[str, int]:
        """The options of the peer."""
        return {k: getattr(self, k) for k in ("image", "patch", "dim", "depth", "batch")}


SIZES = (
    Size("small", 32, 4, 64, 4, 128),
    Size("medium", 32, 4, 128, 4, 128),
    Size("large", 32, 4, 256, 8, 64),
    Size("s16", 224, 16, 512, 8, 16),
    Size("b16", 224, 16, 768, 12, 16),
)


def configure(size: Size, kind: str) -> MixerConfig:
    """The mixer whose mathematics is that of the peer: joint norm with an elementwise scale, no
    biases.
    """
    block, coupling = ("serial", "free") if kind == "serial" else ("parallel", kind)
    image = (size.image, size.image, COLOURS)
    return MixerConfig(
        image,
        size.patch,
        size.dim,
        size.depth,
        CLASSES,
        block,  # pyright: ignore[reportArgumentType]
        coupling,  # pyright: ignore[reportArgumentType]
        norm_scale="elementwise",
    )


def count_work(config: MixerConfig, batch: int, training: bool, precision: str = "float32") -> Work:
    """Operations 2mnk of all matrix products (m, n, k), and the bytes of their three matrices, each
    touched once.

    Training takes two more for each, one for each gradient; the first has none of its images.
    """
    tokens = config.tokens
    (token, channel) = config.hidden
    pixels = config.patch_size[0] * config.patch_size[1] * config.image[2]
    stem = (batch * tokens, config.dim, pixels)
    head = (batch, config.classes, config.dim)
    mixings = [(token, batch * config.dim, tokens), (batch * tokens, channel, config.dim)]
    others = [head, *2 * config.depth * mixings]  # up, and as much down
    products = 2 * [stem] + 3 * others if training else [stem, *others]
    flops = sum(2 * m * n * k for m, n, k in products)
    return Work(
        flops, sum(m * n + n * k + k * m for m, n, k in products) * jnp.dtype(precision).itemsize
    )


def steps_at_once(work: Work) -> int:
    """How many steps are timed together: enough to tell, few where each is long."""
    if jax.default_backend() == "gpu":
        return MOST
    return int(min(MOST, max(2, LONG // work.flops)))


class Interval:
    """A compiled scan of training steps: a contender that goes on from where it stopped.

    **Arguments:**

    - `size`, `kind`: of the mixer.
    - `steps`: in the scan.
    - `precision`: of activations and products.
    - `members`: trained side by side.
    """

    def __init__(
        self, size: Size, kind: str, steps: int, precision: str = "float32", members: int = 1
    ):
        self.steps = steps
        config = configure(size, kind)
        make = lambda key: cast(Mixer(config, key=key), "float32")
        models = eqx.filter_vmap(make)(jr.split(jr.key(0), members))
        arrays, static = eqx.partition(models, eqx.is_array)
        parameters, frozen = eqx.partition(arrays, trainable(arrays))
        start, train = make_training(static, steps, precision)
        self._carry = parameters, jax.vmap(start)(parameters)
        self._data = frozen, make_batch(config, size.batch)
        self.losses: Any = None
        if members > 1:
            each = jax.vmap(train, in_axes=(0, 0, 0, None))
        else:
            each = _alone(train)
        run = jax.jit(
            lambda carry, data: each(*carry, *data),
            donate_argnums=0,
            compiler_options=training_options(),
        )
        self.compiled = run.lower(self._carry, self._data).compile()
        self()  # the first run allocates

    def __call__(self) -> float:
        """Milliseconds per step of one run of the scan."""
        begin = time.perf_counter()
        self._carry, self.losses = jax.block_until_ready(self.compiled(self._carry, self._data))
        return 1e3 * (time.perf_counter() - begin) / self.steps


def _alone(train: Callable) -> Callable:
    """A single member, without the axis of members: what is fast for one is not always what is fast
    for many.
    """

    def run(*arguments):
        *member, batch = arguments
        trained = train(*jax.tree.map(lambda leaf: leaf[0], member), batch)
        return jax.tree.map(lambda leaf: leaf[None], trained)

    return run


def make_training(static: Any, steps: int, precision: str) -> tuple[Callable, Callable]:
    """The optimiser's start, and the training of one member for so many steps on one batch."""
    optimiser = optax.adamw(1e-3, weight_decay=0.05)
    loss_of = make_loss(precision)

    def train(parameters, state, frozen, batch):
        def loss(parameters):
            return loss_of(eqx.combine(parameters, frozen, static), batch)

        def step(carry, _):
            parameters, state = carry
            value, gradients = jax.value_and_grad(loss)(parameters)
            updates, state = optimiser.update(gradients, state, parameters)
            return (optax.apply_updates(parameters, updates), state), value

        return jax.lax.scan(step, (parameters, state), None, length=steps)

    return optimiser.init, train


def make_task(precision: str) -> Classification:
    """Classification as it comes, computed in a precision."""
    return Classification(Augment.none(), None if precision == "float32" else precision)


def make_loss(precision: str) -> Callable[[Mixer, Batch], Any]:
    """What a step makes small, of a model and a batch, without a penalty."""
    task = make_task(precision)
    return lambda model, batch: objective(task, model, batch, jnp.zeros((), jnp.float32))[0]


def make_batch(config: MixerConfig, batch: int):
    """Images and targets, at random."""
    images = jr.normal(jr.key(1), (batch, *config.image), jnp.float32)
    return images, jax.nn.one_hot(
        jr.randint(jr.key(2), (batch,), 0, config.classes), config.classes, dtype=jnp.float32
    )


def make_inference(
    size: Size, kind: str, calls: int, precision: str = "float32", batches: int = 1
) -> Contender:
    """A contender: the logits of so many batches in a call, as a study evaluates them; milliseconds
    for each.
    """
    config = configure(size, kind)
    task = make_task(precision)
    images = jr.normal(jr.key(1), (batches, size.batch, *config.image), jnp.float32)
    arrays, static = eqx.partition(cast(Mixer(config, key=jr.key(0)), "float32"), eqx.is_array)

    def forward(arrays, images):
        return jax.lax.map(partial(task.logits, eqx.combine(arrays, static)), images)

    run = timed(jax.jit(forward, compiler_options=forward_options()), arrays, images, times=calls)
    return lambda: run() / batches


def _contenders(
    what: str, size: Size, kind: str, steps: int, precision: str
) -> dict[str, Contender]:
    """By what their rows are called beside size and kind."""
    if what == "step":
        return {"": Interval(size, kind, steps, precision)}
    together = make_inference(size, kind, 1, precision, batches=steps)
    return {"": make_inference(size, kind, steps, precision), f", {steps} batches a call": together}


def race_mixers(
    what: str,
    sizes: Sequence[Size],
    kinds: Sequence[str],
    peers: Sequence[Peer],
    repetitions: int,
    precision: str,
) -> Iterator[Row]:
    """The rows of "step" or "inference": each size and arm, against each peer or alone."""
    for size in sizes:
        for kind in kinds:
            work = count_work(configure(size, kind), size.batch, what == "step", precision)
            steps = steps_at_once(work)
            ours = _contenders(what, size, kind, steps, precision)
            shape = size.shape | {
                "kind": BY_NAME[kind].baseline,
                "steps": steps,
                "forward": what == "inference",
            }
            theirs = {peer.name: partial(peer.milliseconds, **shape) for peer in peers}
            times = in_turn([*ours.values(), *theirs.values()], repetitions)
            for label, own in zip(ours, times):
                row = partial(Row, what, f"{size.name} {kind}{label}", own, work=work)
                yield from map(row, theirs, times[len(ours) :]) if theirs else [row()]
