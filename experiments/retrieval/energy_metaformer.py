"""An Energy MetaFormer that removes noise from images by ten steps down its energy.

    .venv/bin/python experiments/retrieval/energy_metaformer.py --seeds 0 1 2

The demonstration of arXiv 2406.12220, section 4.2: one memory of three groups of neurons, visible
pixels (LayerNorm) between two hidden groups (ReLU), joined by two dense synapses of one matrix
each. Images of unit norm get Gaussian noise of 0.3 in each pixel, nine times their own contrast.
All three groups take ten explicit steps of 0.1, the hidden ones from zero, and the matrices learn
to bring the visible activation near the clean image.

Writes `results.json`, `reconstructions.png`, `receptive_fields.png` and `energy.png` to `--out`.
The images come from the parquet files in `--data`, or are scikit-learn's digits (8 x 8) where that
folder does not exist. README.md in this folder has the results and the time it takes.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Key
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hopmix import AssociativeMemory, Coupling, Dense, LayerNorm, Neurons, ReLU, flow, trainable

HERE = Path(__file__).resolve().parent
NORM = LayerNorm()
HIDDEN = ("left", "right")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run. The defaults take about six minutes a seed on two idle cores."""

    data: Path = HERE.parents[2] / "shared" / "data" / "mnist"
    """folder with train.parquet and test.parquet (columns image, label)"""
    out: Path = HERE / "energy_metaformer"
    """folder for results and figures"""
    seeds: tuple[int, ...] = (0,)
    """of initial weights, batches and noise; the figures show the first"""
    epochs: int = 2
    batch: int = 128
    rate: float = 2e-3
    """of Adam, falling to zero along a cosine"""
    spread: float = 0.08
    """standard deviation of the first weights; the reference's 0.02 takes much longer to leave the
    mean image
    """
    hidden: int = 900
    """neurons in each of the two hidden groups"""
    noise: float = 0.3
    """standard deviation in each pixel; the images have norm 1"""
    steps: int = 10
    step: float = 0.1
    """in units of the time constant, which is 1 for all groups"""
    held_out: int = 5000
    """training images kept for validation"""


class Images(NamedTuple):
    """Images of unit norm, one per row."""

    name: str
    side: int
    train: Float[Array, "n pixels"]
    validation: Float[Array, "m pixels"]
    test: Float[Array, "k pixels"]
    test_labels: np.ndarray


def load(data: Path, held_out: int) -> Images:
    """The parquet files of a folder, or scikit-learn's digits without one; the last training images
    are held out.
    """
    if (data / "train.parquet").is_file():
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()
        parts = {part: str(data / f"{part}.parquet") for part in ("train", "test")}
        table = load_dataset("parquet", data_files=parts).with_format("numpy")
        (train, _), (test, labels) = (
            (table[p]["image"][:], table[p]["label"][:]) for p in ("train", "test")
        )
        name = data.name
    else:
        from sklearn.datasets import load_digits

        name = "digits"
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.images))
        cut = len(order) * 4 // 5
        train = digits.images[order[:cut]]
        test = digits.images[order[cut:]]
        labels = digits.target[order[cut:]]
    train = unit_norm(np.asarray(train))
    test = unit_norm(np.asarray(test))
    keep = len(train) - min(held_out, len(train) // 5)
    side = round(train.shape[1] ** 0.5)
    return Images(name, side, train[:keep], train[keep:], test, np.asarray(labels))


def unit_norm(images: np.ndarray) -> Float[Array, "n pixels"]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    return jnp.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def make_memory(pixels: int, settings: Settings, key: Key[Array, ""]) -> AssociativeMemory:
    """Three groups and two synapses.

    The reference draws weights as 0.02 N(0, 1) + 0.2. A common offset changes nothing here:
    LayerNorm activations sum to zero, so that no hidden neuron feels it, and LayerNorm drops what
    it adds to all pixels. It is left out.
    """
    neurons = {"visible": Neurons(NORM, (pixels,))}
    neurons |= {name: Neurons(ReLU(), (settings.hidden,)) for name in HIDDEN}
    weights = settings.spread * jr.normal(key, (2, settings.hidden, pixels), jnp.float32)
    synapses = {name: Dense(Coupling(w)) for name, w in zip(HIDDEN, weights)}
    return AssociativeMemory(neurons, synapses, {name: ("visible", name) for name in HIDDEN})


def start(memory: AssociativeMemory, image: Float[Array, " pixels"]) -> dict[str, Array]:
    """An image on the visible neurons, hidden ones at rest."""
    rest = {name: jnp.zeros(layer.shape, image.dtype) for name, layer in memory.neurons.items()}
    return rest | {"visible": image}


def take_step(memory: AssociativeMemory, state: dict[str, Array], step: float) -> dict[str, Array]:
    """An explicit step of all groups, x <- x + step / tau * force."""
    return {
        name: state[name] + step / memory.neurons[name].tau * f
        for name, f in memory.force(state).items()
    }


def denoise(
    memory: AssociativeMemory, image: Float[Array, " pixels"], settings: Settings
) -> Float[Array, " pixels"]:
    """The visible activation after the steps."""
    body = lambda state, _: (take_step(memory, state, settings.step), None)
    state, _ = jax.lax.scan(body, start(memory, image), None, length=settings.steps)
    return NORM.activation(state["visible"])


def error(found: Float[Array, "n pixels"], clean: Float[Array, "n pixels"]) -> Float[Array, ""]:
    """The mean squared error per pixel between *normalised* images, which is 2 (1 - correlation).

    A LayerNorm activation has unit variance whatever the image, so that comparing it with an image
    of norm 1 (as the reference does) measures their scales: all that training can change in that
    loss is the correlation.
    """
    normalise = jax.vmap(NORM.activation)
    return jnp.mean((normalise(found) - normalise(clean)) ** 2)


def loss(
    memory: AssociativeMemory,
    clean: Float[Array, "n pixels"],
    key: Key[Array, ""],
    settings: Settings,
):
    noisy = clean + settings.noise * jr.normal(key, clean.shape, clean.dtype)
    return error(jax.vmap(lambda image: denoise(memory, image, settings))(noisy), clean)


def train(
    images: Images, settings: Settings, seed: int
) -> tuple[AssociativeMemory, list[float], list[float]]:
    """The trained memory, the loss of each step, and the validation error after each epoch (first:
    before training).
    """
    keys = jr.split(jr.key(seed), 3)
    memory = make_memory(images.side**2, settings, keys[0])
    parameters, rest = eqx.partition(memory, trainable(memory))
    count = len(images.train) // settings.batch
    optimiser = optax.adam(optax.cosine_decay_schedule(settings.rate, count * settings.epochs))

    def objective(parameters, clean, key):
        return loss(eqx.combine(parameters, rest), clean, key, settings)

    def update(carry, batch):
        (parameters, state) = carry
        (rows, key) = batch
        value, gradient = jax.value_and_grad(objective)(parameters, images.train[rows], key)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), value

    @jax.jit
    def run_epoch(carry, key):
        order, noise = jr.split(key)
        rows = jr.permutation(order, len(images.train))[: count * settings.batch].reshape(
            count, settings.batch
        )
        return jax.lax.scan(update, carry, (rows, jr.split(noise, count)))

    carry = (parameters, optimiser.init(parameters))
    losses = []
    score = jax.jit(objective)
    scores = [float(score(parameters, images.validation, keys[2]))]
    for key in jr.split(keys[1], settings.epochs):
        carry, values = run_epoch(carry, key)
        losses += values.tolist()
        scores.append(float(score(carry[0], images.validation, keys[2])))
        print(
            f"seed {seed}, epoch {len(scores) - 1}: validation error {scores[-1]:.4f}", flush=True
        )
    return eqx.combine(carry[0], rest), losses, scores


# ---- what came out -------------------------------------------------------------------------------


def add_noise(
    images: Float[Array, "n pixels"], settings: Settings, seed: int
) -> Float[Array, "n pixels"]:
    return images + settings.noise * jr.normal(jr.key(1000 + seed), images.shape, images.dtype)


def wiener(
    images: Images, noisy: Float[Array, "n pixels"], noise: float
) -> Float[Array, "n pixels"]:
    """The best linear estimate for the mean and covariance of the training images."""
    train = np.asarray(images.train, np.float64)
    mean = train.mean(0)
    covariance = np.cov(train.T, bias=True)
    gain = np.linalg.solve(covariance + noise**2 * np.eye(len(mean)), covariance)
    return jnp.asarray(mean + (np.asarray(noisy, np.float64) - mean) @ gain, jnp.float32)


def denoise_all(memory: AssociativeMemory, noisy: Float[Array, "n pixels"], settings: Settings):
    return jax.jit(
        lambda images: jax.lax.map(lambda x: denoise(memory, x, settings), images, batch_size=250)
    )(noisy)


def test_errors(
    memory: AssociativeMemory, images: Images, settings: Settings, seed: int
) -> dict[str, float]:
    """Errors on the test images, which nothing before this has seen."""
    noisy = add_noise(images.test, settings, seed)
    mean = jnp.broadcast_to(images.train.mean(0), noisy.shape)
    found = {
        "noisy image": noisy,
        "mean training image": mean,
        "linear (Wiener)": wiener(images, noisy, settings.noise),
    }
    found["energy metaformer"] = denoise_all(memory, noisy, settings)
    return {name: float(error(result, images.test)) for name, result in found.items()}


class Curves(NamedTuple):
    """Energies along trajectories: steps from noisy images, and large steps and the flow from
    random states.
    """

    images: np.ndarray
    steps: np.ndarray
    flow: np.ndarray


def energy_curves(
    memory: AssociativeMemory, images: Images, settings: Settings, starts: int = 20
) -> Curves:
    """In float64, so that a rise is no rounding. Steps of 0.5 from 10 N(0, 1), as in the reference,
    and the flow.
    """
    with jax.enable_x64(True):
        memory = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if eqx.is_array(leaf) else leaf, memory
        )
        keys = jr.split(jr.key(0), len(memory.neurons))
        random = {
            n: 10 * jr.normal(k, (starts, *memory.neurons[n].shape))
            for n, k in zip(memory.neurons, keys)
        }
        noisy = jnp.asarray(add_noise(images.test[:starts], settings, 0), jnp.float64)
        resting = jax.vmap(lambda image: start(memory, image))(noisy)
        found = (
            follow(memory, resting, settings.step, settings.steps),
            follow(memory, random, 0.5, 28),
            jax.jit(jax.vmap(lambda state: flow_energies(memory, state)))(random),
        )
        return Curves(*(np.asarray(part) for part in found))


def follow(
    memory: AssociativeMemory, states: dict[str, Array], step: float, steps: int
) -> Float[Array, "n steps"]:
    """The energies along explicit steps from many states."""
    body = lambda state, _: (take_step(memory, state, step), memory.energy(state))
    return jax.jit(jax.vmap(lambda state: jax.lax.scan(body, state, None, length=steps + 1)[1]))(
        states
    )


def flow_energies(memory: AssociativeMemory, state: dict[str, Array]) -> Float[Array, " times"]:
    times = jnp.linspace(0, 14, 57)
    solution = flow(memory, state, 14.0, saveat=diffrax.SaveAt(ts=times), rtol=1e-6, atol=1e-6)
    return jax.vmap(memory.energy)(solution.ys)


def largest_rise(energies: np.ndarray) -> float:
    """The largest rise from one point to the next, in units of the range of its trajectory; 0 where
    all fall.
    """
    rises = np.max(np.diff(energies, axis=1), axis=1) / np.ptp(energies, axis=1)
    return float(max(rises.max(), 0.0))


# ---- figures -------------------------------------------------------------------------------------

# Okabe and Ito's colour-blind-safe hues.
BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"


def save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def show_images(path: Path, rows: dict[str, np.ndarray], side: int) -> None:
    """A row of pictures for each name, each picture from its darkest to its brightest pixel."""
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(7.1, 0.64 * len(rows) + 0.05), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(grid, rows.items()):
        for axes, image in zip(line, images):
            axes.imshow(image.reshape(side, side), cmap="gray")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    save(figure, path)


def reconstructions(
    path: Path, memory: AssociativeMemory, images: Images, settings: Settings
) -> None:
    """The first test image of each digit."""
    first = np.array([np.flatnonzero(images.test_labels == digit)[0] for digit in range(10)])
    noisy = add_noise(images.test, settings, settings.seeds[0])[first]
    rows = {
        "clean": images.test[first],
        f"noise {settings.noise:g}": noisy,
        "linear": wiener(images, noisy, settings.noise),
        "memory": denoise_all(memory, noisy, settings),
    }
    show_images(path, {name: np.asarray(row) for name, row in rows.items()}, images.side)


def receptive_fields(path: Path, memory: AssociativeMemory, side: int) -> None:
    """The weights of the most strongly connected hidden neurons of both groups, less their mean
    over pixels.
    """
    rows = {}
    for name in HIDDEN:
        weights = weights_of(memory, name)
        weights = weights - weights.mean(1, keepdims=True)
        strongest = np.argsort(-np.linalg.norm(weights, axis=1))[:24]
        rows |= {name: weights[strongest[:12]], name + " ": weights[strongest[12:]]}
    figure = Figure(figsize=(7.1, 2.45), layout="constrained")
    for line, (name, fields) in zip(figure.subplots(4, 12), rows.items()):
        for axes, field in zip(line, fields):
            limit = np.abs(field).max()
            axes.imshow(
                field.reshape(side, side), cmap="PuOr", vmin=-limit, vmax=limit
            )  # orange < 0 < purple
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name.strip(), rotation=0, ha="right", va="center", fontsize=8)
    save(figure, path)


def weights_of(memory: AssociativeMemory, name: str) -> np.ndarray:
    synapse = memory.synapses[name]
    assert isinstance(synapse, Dense)
    return np.asarray(synapse.coupling.up, np.float64)


def energy_figure(
    path: Path, curves: Curves, scores: list[list[float]], losses: list[list[float]], base: dict
) -> None:
    figure = Figure(figsize=(7.1, 2.5), layout="constrained")
    learning, denoising, random = figure.subplots(1, 3)
    for values, marks in zip(losses, scores):
        window = max(1, len(values) // 60)
        kept = np.array(values[: len(values) // window * window]).reshape(-1, window).mean(1)
        learning.plot(window * (np.arange(len(kept)) + 0.5), kept, color=BLUE, lw=0.8)
        learning.plot(np.linspace(0, len(values), len(marks))[1:], marks[1:], "o", color=RED, ms=4)
    for name, style in (("mean training image", ":"), ("linear (Wiener)", "--")):
        learning.axhline(base[name], color="#666666", lw=1, ls=style, label=name)
    learning.plot([], [], color=BLUE, label="training")
    learning.plot([], [], "o", color=RED, ms=4, label="validation")
    learning.set_ylim(top=1.25)
    learning.legend(fontsize=6.5, frameon=False)
    learning.set_xlabel("step of Adam")
    learning.set_title("error, 2 (1 - correlation)", loc="left")
    denoising.plot(curves.images.T, color=BLUE, lw=0.7, alpha=0.6)
    denoising.set_xlabel("step of 0.1")
    denoising.set_title("energy from noisy test images", loc="left")
    random.plot(
        0.5 * np.arange(curves.steps.shape[1]), curves.steps.T, color=RED, lw=0.7, alpha=0.6
    )
    random.plot(
        np.linspace(0, 14, curves.flow.shape[1]), curves.flow.T, color=BLUE, lw=0.7, alpha=0.6
    )
    random.plot([], [], color=RED, label="steps of 0.5")
    random.plot([], [], color=BLUE, label="flow")
    random.legend(fontsize=6.5, frameon=False)
    random.set_xlabel("time")
    random.set_title("energy from random states", loc="left")
    for axes in (learning, denoising, random):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=8)
        axes.xaxis.label.set_fontsize(8)
    save(figure, path)


# ---- all of it -----------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A trained memory, the loss of each step, the validation error after each epoch, and the
    seconds it took.
    """

    memory: AssociativeMemory
    losses: list[float]
    scores: list[float]
    seconds: float


def recorded(settings: Settings) -> dict:
    """The settings as JSON values, without the folder, which says nothing about the numbers."""
    values = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return {name: value for name, value in values.items() if name != "out"}


def report(images: Images, runs: list[Trained], settings: Settings) -> dict:
    """Measure the trained memories on the test images and write everything down."""
    settings.out.mkdir(parents=True, exist_ok=True)
    errors = [
        test_errors(run.memory, images, settings, seed) for run, seed in zip(runs, settings.seeds)
    ]
    curves = energy_curves(runs[0].memory, images, settings)
    names = list(errors[0])
    results = {
        "settings": recorded(settings) | {"data": images.name},
        "images": {
            "train": len(images.train),
            "validation": len(images.validation),
            "test": len(images.test),
        },
        "versions": {
            "jax": jax.__version__,
            "optax": optax.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "test error": {name: [each[name] for each in errors] for name in names},
        "validation error": [run.scores for run in runs],
        "seconds of training": [round(run.seconds, 1) for run in runs],
        "largest rise of the energy": {
            name: largest_rise(part) for name, part in curves._asdict().items()
        },
        "first and last energy, steps": [float(np.mean(curves.steps[:, i])) for i in (0, -1)],
    }
    first = runs[0].memory
    reconstructions(settings.out / "reconstructions.png", first, images, settings)
    receptive_fields(settings.out / "receptive_fields.png", first, images.side)
    scores = [run.scores for run in runs]
    losses = [run.losses for run in runs]
    energy_figure(settings.out / "energy.png", curves, scores, losses, errors[0])
    (settings.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(settings: Settings) -> dict:
    images = load(settings.data, settings.held_out)
    runs = []
    for seed in settings.seeds:
        begin = time.perf_counter()
        runs.append(Trained(*train(images, settings, seed), time.perf_counter() - begin))
    results = report(images, runs, settings)
    for name, values in results["test error"].items():
        spread = f" ± {np.std(values, ddof=1):.4f} (n = {len(values)})" if len(values) > 1 else ""
        print(f"test error of the {name}: {np.mean(values):.4f}{spread}")
    return results


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
