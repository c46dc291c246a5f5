"""A recorder for anybody's training loop: what is measured of couplings goes into a run folder."""

import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from hopmix._coupling import Coupling
from hopmix.lab import store
from hopmix.lab.errors import UsageError, need
from hopmix.lab.families.arm import Arm
from hopmix.lab.probes.couplings import Weights
from hopmix.lab.probes.layout import Layout
from hopmix.lab.runtime.environment import environment, now
from hopmix.lab.store.described import COORDINATES
from hopmix.lab.store.history import History
from hopmix.lab.study.evaluator import measure_couplings, order_of
from hopmix.symmetry.quantities import DIVERGED, MEASURED, Quantity, quantity

PROBES = (Weights(),)
TAKEN = {one.name for one in (*MEASURED, DIVERGED) if one.dims} | {DIVERGED.name, *COORDINATES}
"""Names that no score can have."""


class Recorder:
    """Measures the couplings of one network while it trains, in a loop that hopmix knows nothing
    of, and writes them as a study would: `hopmix report` and `open_run` read the folder.

    `recorder(step, model)` takes an Equinox model; `recorder.record(step, weights)` takes named
    arrays, of any library. Each record writes the whole folder anew: some hundred are meant.

    **Arguments:**

    - `out`: the folder; it must be new or empty.
    - `name`: what pages call the network.
    - `seed`: the number that tells it from others of its name.
    - `pairs`: matrices of the model that are measured as couplings though it has none there, as in
      `Arm`.

    **Raises:** `UsageError` for a folder that holds something, and a name that no arm can have.
    """

    def __init__(
        self,
        out: Path | str,
        name: str = "network",
        *,
        seed: int = 0,
        pairs: Sequence[str] = (),
    ):
        self.out = Path(out)
        self._arm = Arm(name, make=lambda key: None, pairs=pairs)
        self._seed = seed
        self._history: History | None = None
        self._identity: str | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        need(_is_count(seed), "seed", seed, "a whole number of 0 or more, of 32 bits")
        store.require_folder("out", self.out)
        _need_empty(self.out)

    def __call__(self, step: int, model: Any, **scores: float):
        """Record the couplings of a model after so many steps.

        **Arguments:**

        - `step`: larger than the last one.
        - `model`: with `Coupling`s, or with the matrices that `pairs` name.
        - `scores`: numbers to go with it, such as `train_loss` and `validation_accuracy`.

        **Raises:** `UsageError` for a model without couplings, and as `record` does.
        """
        couplings = self._arm.couplings(model)
        if any(one.up.ndim != 2 for one in couplings.values()):
            raise UsageError("model: a coupling is no matrix, as where layers are stacked.")
        if not couplings:
            raise UsageError(
                "model: it has no Coupling; name its matrices with pairs="
                "['layers.*.up.weight:layers.*.down.weight']."
            )
        self._write(step, {name: one.explicit() for name, one in couplings.items()}, scores)

    def record(self, step: int, weights: Mapping[str, tuple[Any, Any]], **scores: float):
        """Record named weights after so many steps.

        **Arguments:**

        - `step`: larger than the last one.
        - `weights`: W, of shape (hidden, visible), and V, of shape (visible, hidden), by name, such
          as `layers.0.mlp`: arrays of NumPy or JAX, or tensors of PyTorch.
        - `scores`: numbers to go with them, such as `train_loss` and `validation_accuracy`.

        **Raises:** `UsageError` for names or scores that are not those of the first record, a step
        that is not larger than the last one, and arrays that do not pair.
        """
        if not isinstance(weights, Mapping) or not weights:
            raise UsageError("weights: got none; give {'layers.0.mlp': (W, V), ...}.")
        self._write(step, {name: _coupling(name, two) for name, two in weights.items()}, scores)

    def _write(self, step: int, couplings: dict[str, Coupling], scores: Mapping[str, float]):
        need(_is_count(step), "step", step, "a whole number of 0 or more, of 32 bits")
        _need_scores(scores)
        row: dict[str, np.ndarray] = {
            name: np.full((1, 1), value, np.float32) for name, value in scores.items()
        }
        if self._history is None:
            _need_empty(self.out)
            self._history = self._begin(couplings, scores)
        self._check(step, couplings, scores, self._history)
        layout = self._history.layout
        names = order_of(couplings)
        for name, values in _measured(couplings).items():
            row[name] = layout.arranged(names, np.asarray(values)[None])[None]
        row["diverged_step"] = np.full((1, 1), -1, np.int32)
        self._history.append(step, row)
        store.write_metrics(self.out, self._history, self._identity)

    def _begin(self, couplings: Mapping[str, Coupling], scores: Mapping[str, float]) -> History:
        layout = Layout.of(couplings)
        self._shapes = {name: one.up.shape for name, one in couplings.items()}
        quantities = [_score(name) for name in scores]
        for probe in PROBES:
            quantities += probe.quantities
        record = store.write_record(self.out, self._description(couplings))
        self._identity = record.identity
        return History([self._arm], [self._seed], layout, quantities)

    def _description(self, couplings: Mapping[str, Coupling]) -> dict[str, Any]:
        sizes = {name: list(one.up.shape[::-1]) for name, one in couplings.items()}
        arm = {"name": self._arm.name, "kind": self._arm.name, "title": self._arm.name}
        return {
            "format": store.FORMAT,
            "config": {},
            "recorder": True,
            "arms": [arm | {"about": "", "strength": None, "parameters": 0, "couplings": sizes}],
            "environment": environment(),
            "command": "hopmix.lab.Recorder",
            "data": {"name": "other people's data"},
            "steps_total": 0,
            "created": now(),
        }

    def _check(
        self,
        step: int,
        couplings: Mapping[str, Coupling],
        scores: Mapping[str, float],
        history: History,
    ):
        shapes = {name: one.up.shape for name, one in couplings.items()}
        last = history.steps[-1] if history.steps else -1
        need(step > last, "step", step, f"larger than the last one, {last}")
        for field, found, known in (
            ("weights", couplings, history.layout.places),
            ("scores", scores, [one.name for one in history.quantities if not one.dims]),
        ):
            if set(found) != set(known):
                raise UsageError(
                    f"{field}: got {', '.join(sorted(found)) or 'none'}, but the first record has "
                    f"{', '.join(sorted(known)) or 'none'}; record the same ones each time."
                )
        if shapes != self._shapes:
            raise UsageError("weights: other shapes than in the first record; keep them.")


@eqx.filter_jit
def _measured(couplings: dict[str, Coupling]) -> dict[str, jax.Array]:
    return measure_couplings(PROBES, couplings)


def _score(name: str) -> Quantity:
    """What a score is: one that studies have, or a number of the user's own."""
    own = Quantity(name, name.replace("_", " "), "", "", "Of the user's own loop.")
    return quantity(name) or own


def _is_count(number: Any) -> bool:
    whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    return whole and 0 <= int(number) < 2**31


def _need_empty(out: Path):
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"out: {out} holds something already; name a new folder.")


def _need_scores(scores: Mapping[str, float]):
    for name, value in scores.items():
        if not name.isidentifier() or name in TAKEN:
            raise UsageError(f"scores: {name!r} is a name of hopmix's own; name it otherwise.")
        if np.ndim(value) or not np.isrealobj(value) or isinstance(value, str | bytes):
            raise UsageError(f"scores: {name} is {value!r:.60}; give one real number.")


def _coupling(name: Any, two: Any) -> Coupling:
    if not isinstance(name, str) or not isinstance(two, Sequence) or len(two) != 2:
        raise UsageError(f"weights: {name!r} must be a name, with a pair (W, V) of two matrices.")
    try:
        up, down = map(_as_array, two)
        need(up.ndim == 2 and up.size > 0, f"weights: {name}", up.shape, "matrices")
        return Coupling.from_weights(up, down)
    except (TypeError, ValueError) as error:
        raise UsageError(f"weights: {name}: {error}") from None


def _as_array(matrix: Any) -> jax.Array:
    if hasattr(matrix, "detach"):  # a tensor of PyTorch that gradients are taken of, or on a GPU
        matrix = matrix.detach().float().cpu().numpy()
    return jnp.asarray(matrix)
