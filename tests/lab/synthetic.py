"""A made-up run directory with the shapes, files and habits of a real one, to test and look at the
report with.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from lab.probing import EXPENSIVE

from hopmix.lab.statistics import paired_test, summarise


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm: its names, and where its relative breaking starts and ends."""

    name: str
    title: str
    kind: str
    strength: float | None
    parameters: int
    accuracy: float
    breaking: tuple[float, float]
    width: int = 1


SERIAL = Arm("serial", "MLP-Mixer", "serial", None, 112_970, 0.971, (1.0, 0.93))
FREE = Arm("free", "ParaMixer", "free", None, 112_714, 0.974, (1.0, 0.88))
SYMMETRIC = Arm("symmetric", "SymMixer", "symmetric", None, 62_026, 0.957, (0.0, 0.0))
WIDE = Arm(
    "symmetric-wide",
    "SymMixer, double hidden width",
    "symmetric-wide",
    None,
    112_714,
    0.963,
    (0.0, 0.0),
    width=2,
)


def broken(strength: float, kind: str = "broken") -> Arm:
    """An arm whose breaking ends the lower the larger the strength of its penalty."""
    pull = 1 / (1 + (strength / 1e-3) ** 0.7)
    start = 0.3 if kind == "broken-xavier" else 0.0
    name = f"{kind} λ={strength:g}"
    title = f"AsymMixer λ={strength:g}"
    return Arm(
        name, title, kind, strength, 112_714, 0.957 + 0.016 * pull, (start, 0.02 + 0.5 * pull)
    )


DEFAULT = (SERIAL, FREE, broken(1e-5), broken(1e-3), broken(1e-1), SYMMETRIC, WIDE)


STEP = 50
NEWER = (
    *("mean_unit_cosine", "low_unit_cosine", "median_unit_cosine", "high_unit_cosine"),
    *("conservative_distance", "directionality", "balance"),
    *EXPENSIVE,
)
"""What the store holds since the symmetry page."""

LOST_MEMBER = (
    "broken λ=1e-05",
    3,
    9,
)  # arm, seed, and the measured step, 9 intervals of 50, at which it fails
SMALL: dict[str, Any] = {"seeds": 2, "steps": 3, "blocks": 2, "shape": (4, 8)}


def write_synthetic_run(
    path: Path,
    arms: tuple[Arm, ...] = DEFAULT,
    *,
    seeds: int = 5,
    steps: int = 25,
    blocks: int = 3,
    diverged: tuple[tuple[str, int, int], ...] = (),
    finished: bool = True,
    shape: tuple[int, int] = (16, 64),
    old: bool = False,
) -> Path:
    """Write a run of `arms`; `diverged` holds (arm, seed, index of the measured step it fails at).

    An `old` run is one of a version that did not measure spectra, fields and all indices of
    weights.
    """
    path.mkdir(parents=True)
    metrics = _metrics(arms, seeds, steps, blocks)
    metrics = _spoil(metrics.drop_vars(NEWER) if old else metrics, diverged)
    study = _study(arms, seeds, metrics.step.values[-1], blocks, finished)
    (path / "study.json").write_text(json.dumps(study, ensure_ascii=False))
    metrics.to_zarr(path / "metrics.zarr", consolidated=False, zarr_format=3)
    if finished:
        (path / "results.json").write_text(json.dumps(_results(arms, metrics), ensure_ascii=False))
        np.savez(path / "weights.npz", **_weights(arms, blocks, shape))
    return path


def small_run(path: Path, *arms: Arm, **changes: Any) -> Path:
    """A run that is written and drawn in a moment."""
    return write_synthetic_run(path / "run", arms or DEFAULT, **SMALL | changes)


def _metrics(arms: tuple[Arm, ...], seeds: int, steps: int, blocks: int) -> xr.Dataset:
    made = [
        _arm_metrics(arm, seeds, steps, blocks, np.random.default_rng(index))
        for index, arm in enumerate(arms)
    ]
    variables = {
        name: (made[0][name][0], np.stack([one[name][1] for one in made])) for name in made[0]
    }
    return xr.Dataset(
        {name: (("arm", *dims), values) for name, (dims, values) in variables.items()},
        coords={
            "arm": _text([arm.name for arm in arms]),
            "seed": np.arange(seeds),
            "step": STEP * np.arange(steps),
            "block": np.arange(blocks),
            "branch": _text(["token", "channel"]),
            "title": ("arm", _text([arm.title for arm in arms])),
            "kind": ("arm", _text([arm.kind for arm in arms])),
            "strength": ("arm", [np.nan if arm.strength is None else arm.strength for arm in arms]),
            "parameters": ("arm", [arm.parameters for arm in arms]),
        },
    )


def _text(values: list[str]) -> np.ndarray:
    return np.array(
        values, dtype=object
    )  # zarr stores these as variable-length UTF-8; fixed width is not yet specified


def _arm_metrics(arm: Arm, seeds: int, steps: int, blocks: int, rng: np.random.Generator) -> dict:
    progress = np.arange(steps) / max(24, steps - 1)
    learned = 1 - np.exp(-6 * progress)
    noise = rng.normal(size=(seeds, steps))
    accuracy = np.clip(0.1 + (arm.accuracy - 0.1) * learned + 0.006 * noise, 0, 1)
    loss = 2.3 * np.exp(-5 * progress) + 1.6 * (1 - arm.accuracy) + 0.01 * np.abs(noise)
    per_step = {
        "train_loss": _blank_start(0.8 * loss),
        "train_accuracy": _blank_start(np.minimum(1.0, accuracy + 0.015)),
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "penalty": np.broadcast_to((arm.strength or 0.0) * 40 * learned, noise.shape).copy(),
        "gradient_norm": _blank_start(1.5 * np.exp(-2 * progress) + 0.05 * np.abs(noise)),
        "parameter_norm": np.broadcast_to(30 + 12 * learned, noise.shape) + 0.1 * noise,
    }
    made = {name: (("seed", "step"), values) for name, values in per_step.items()}
    made |= _energies(arm, seeds, steps, blocks, learned, rng)
    made |= _asymmetries(arm, seeds, steps, blocks, learned, rng)
    return made | {"diverged_step": (("seed",), np.full(seeds, -1))}


def deep_steps(steps: int) -> list[int]:
    """At which measured steps spectra and fields are measured too: every fourth, and the last."""
    return [index for index in range(steps) if index % 4 == 0 or index == steps - 1]


def _blank_start(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, 0] = np.nan
    return values


def _energies(
    arm: Arm, seeds: int, steps: int, blocks: int, learned: np.ndarray, rng: np.random.Generator
) -> dict:
    dims = ("seed", "step", "block")
    shape = (seeds, steps, blocks)
    if arm.kind == "serial":
        return {
            name: (dims, np.full(shape, np.nan))
            for name in ("energy_change", "energy_rise_fraction")
        }
    depth = 1 + np.arange(blocks) / blocks
    asymmetry = arm.breaking[1]
    change = (-6 - 30 * learned[None, :, None] * (1 - 0.9 * asymmetry)) * depth[None, None]
    rise = 0.4 * asymmetry**2 * learned[None, :, None] / depth[None, None]
    noise = rng.normal(size=shape)
    rise = np.clip(rise * (1 + 0.2 * noise), 0, 1)
    return {"energy_change": (dims, change + noise), "energy_rise_fraction": (dims, rise)}


def _asymmetries(
    arm: Arm, seeds: int, steps: int, blocks: int, learned: np.ndarray, rng: np.random.Generator
) -> dict:
    dims = ("seed", "step", "block", "branch")
    shape = (seeds, steps, blocks, 2)
    start, end = arm.breaking
    depth = 1 - 0.3 * np.arange(blocks)[None, None, :, None] / blocks
    branch = np.array([1.0, 0.75])[None, None, None]
    course = start + (end - start) * learned[None, :, None, None] * depth * branch
    tied = arm.kind.startswith("symmetric")
    relative = np.clip(course * (1 + 0.04 * rng.normal(size=shape)), 0, 2) * (not tied)
    score = np.ones(shape) if tied else np.clip(1 - 1.4 * relative, -1, 1)
    ratio = np.sqrt(2 * relative) if arm.kind.startswith("broken") else np.full(shape, np.nan)
    values = {
        "cosine": 1 - relative,
        "relative_breaking": relative,
        "unit_cosine": 1 - 0.9 * relative,
        "symmetry_score": score,
        "breaking_ratio": ratio,
        "mean_unit_cosine": 1 - 0.9 * relative,
        "low_unit_cosine": 1 - 1.2 * relative,
        "median_unit_cosine": 1 - 0.85 * relative,
        "high_unit_cosine": 1 - 0.6 * relative,
        "conservative_distance": np.sqrt(1 - (1 - relative) ** 2),
        "directionality": 0.4 * relative * np.sin(np.arange(blocks) + 1.0)[None, None, :, None],
        "balance": -0.2 * relative,
    }
    spectra = {
        "complex_fraction": 0.8 * relative,
        "largest_imaginary": np.minimum(1.0, relative),
        "departure": 0.8 * np.sqrt(relative),
        "overlap": 1 - 0.6 * relative,
        "breaking_rate": _growth(ratio),
    }
    made = {name: (dims, value) for name, value in values.items()}
    made |= {name: (dims, _at_deep_steps(value)) for name, value in spectra.items()}
    return made | _eigenvalues(relative, rng) | _fields(relative.mean(axis=-1), arm)


def _growth(ratio: np.ndarray) -> np.ndarray:
    """What an exact prediction would be, and zero where the learning rate is zero: at the last
    step.
    """
    growth = np.diff(ratio, axis=1) / STEP
    return np.concatenate([growth, np.zeros_like(ratio[:, :1])], axis=1)


def _at_deep_steps(values: np.ndarray) -> np.ndarray:
    """Axis 1 is the step."""
    kept = np.full_like(values, np.nan)
    kept[:, deep_steps(values.shape[1])] = values[:, deep_steps(values.shape[1])]
    return kept


def _eigenvalues(relative: np.ndarray, rng: np.random.Generator) -> dict:
    """Conjugate pairs that leave the right half of the real axis as the asymmetry grows; some
    places stay empty.
    """
    sizes = np.sort(rng.uniform(0.1, 2.0, (*relative.shape, 8)))[..., ::-1]
    angles = np.pi * relative[..., None] * rng.uniform(0, 1, sizes.shape)
    pairs = np.repeat(sizes, 2, axis=-1) * np.exp(
        1j * np.stack([angles, -angles], axis=-1).reshape(*relative.shape, 16)
    )
    padded = np.concatenate([pairs, np.full((*relative.shape, 4), np.nan)], axis=-1)
    dims = ("seed", "step", "block", "branch", "eigenvalue")
    parts = {"eigenvalue_real": np.real(padded), "eigenvalue_imaginary": np.imag(padded)}
    return {name: (dims, _at_deep_steps(values)) for name, values in parts.items()}


def _fields(relative: np.ndarray, arm: Arm) -> dict:
    values = {
        "field_asymmetry": 0.7 * np.sqrt(relative),
        "field_asymmetry_stderr": 0.01 + 0 * relative,
        "dissipation": 400 * (1 + relative),
        "work": 150 * relative,
        "margin_used": np.full_like(relative, np.nan) if arm.kind == "serial" else 1.1 * relative,
    }
    return {
        name: (("seed", "step", "block"), _at_deep_steps(value)) for name, value in values.items()
    }


def _spoil(metrics: xr.Dataset, diverged: tuple[tuple[str, int, int], ...]) -> xr.Dataset:
    for arm, seed, index in diverged:
        step = int(metrics.step[index])
        lost = (metrics.arm == arm) & (metrics.seed == seed) & (metrics.step >= step)
        diverged_step = metrics.diverged_step.where(~lost.any("step"), step)
        metrics = (
            metrics.drop_vars("diverged_step")
            .where(~lost)
            .assign(diverged_step=diverged_step.astype(int))
        )
    return metrics


def _results(arms: tuple[Arm, ...], metrics: xr.Dataset) -> dict:
    rng = np.random.default_rng(7)
    luck = 0.004 * rng.normal(size=metrics.seed.size)
    values = {arm.name: arm.accuracy + luck + 0.002 * rng.normal(size=luck.size) for arm in arms}
    for arm in arms:
        values[arm.name][metrics.diverged_step.sel(arm=arm.name).values >= 0] = np.nan
    timing = {
        "total_s": 151.2,
        "compile_s": 38.0,
        "train_s": 101.5,
        "measure_s": 2.4,
        "report_s": 6.1,
    }
    return {"arms": [_result(arm, values, metrics) for arm in arms], "timing": timing}


def _result(arm: Arm, values: dict, metrics: xr.Dataset) -> dict:
    validation = metrics.validation_accuracy.sel(arm=arm.name).isel(step=-1).values
    test = summarise(values[arm.name])
    paired = None
    if arm.name != "free" and "free" in values:
        paired = {"against": "free", **_plain(paired_test(values[arm.name], values["free"]))}
    return {
        **{
            field: getattr(arm, field)
            for field in ("name", "title", "kind", "strength", "parameters")
        },
        "n": test.n,
        "diverged": int(np.isnan(values[arm.name]).sum()),
        "test_accuracy": {"values": [_null(value) for value in values[arm.name]], **_plain(test)},
        "validation_accuracy": {
            "values": [_null(value) for value in validation],
            **_plain(summarise(validation)),
        },
        "paired": paired,
    }


def _plain(record: object) -> dict:
    return {name: _null(value) for name, value in vars(record).items()}


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _weights(arms: tuple[Arm, ...], blocks: int, shape: tuple[int, int]) -> dict:
    rng = np.random.default_rng(11)
    tokens, channels = shape
    made = {}
    for arm in arms:
        for block in sorted({0, blocks - 1}):
            for branch, hidden, visible in (
                ("token", channels // 2, tokens),
                ("channel", 4 * channels, channels),
            ):
                size = (arm.width * hidden, visible)
                up = 0.12 * rng.normal(size=size)
                other = 0.12 * rng.normal(size=size)
                made[f"{arm.name}|{block}|{branch}|up"] = up
                made[f"{arm.name}|{block}|{branch}|down"] = _down(arm, up, other)
    return {name: value.astype(np.float32) for name, value in made.items()}


def _down(arm: Arm, up: np.ndarray, other: np.ndarray) -> np.ndarray:
    end = arm.breaking[1]
    return ((1 - end) * up + np.sqrt(end * (2 - end)) * other).T


def _study(arms: tuple[Arm, ...], seeds: int, last: int, blocks: int, finished: bool) -> dict:
    fields = ("name", "title", "kind", "strength", "parameters")
    return {
        "config": {
            "arms": [arm.kind for arm in arms],
            "seeds": seeds,
            "model": {
                "dim": 64,
                "depth": blocks,
                "patch": [2, 2],
                "n_iter": 1,
                "norm_scale": "conservative",
            },
            "training": {
                "epochs": 60,
                "batch": 64,
                "rate": 1e-3,
                "weight_decay": 0.05,
                "label_smoothing": 0.1,
            },
        },
        "arms": [{field: getattr(arm, field) for field in fields} for arm in arms],
        "environment": {
            "hopmix": "0.1.0",
            "jax": "0.10.2",
            "python": "3.11.9",
            "device": "cpu",
            "commit": "0f3c1d2",
            "platform": "Linux-x86_64",
        },
        "command": "hopmix ablate --data digits --seeds 5 --out runs/digits",
        "data": {
            "name": "digits",
            "provenance": "scikit-learn load_digits (UCI optical recognition of handwritten "
            "digits, test part)",
            "image": [8, 8, 1],
            "classes": 10,
            "train": 1257,
            "validation": 180,
            "test": 360,
            "digest": "sha256:8c1f6e0a9b27",
        },
        "steps_total": int(last if finished else 2 * last + 50),
        "created": "2026-05-04T09:30:00+00:00",
    }
