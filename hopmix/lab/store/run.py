"""A run: the folder of a study, finished or not, as Python reads it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from hopmix.lab.store.history import read_metrics
from hopmix.lab.store.record import read_record
from hopmix.lab.store.results import read_results, read_weights

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a study, or a `Recorder`, wrote.

    - `path`: its folder.
    - `study`: the contents of `study.json`.
    - `metrics`: all measurements as labelled arrays (arm, seed, step, ...).
    - `results`, `weights`: of `results.json` and `weights.npz`; absent until the run has ended.
    """

    path: Path
    study: dict[str, Any]
    metrics: xr.Dataset
    results: dict[str, Any] | None
    weights: Mapping[str, np.ndarray] | None

    @property
    def finished(self) -> bool:
        """Whether the last planned step has been measured and the test split read."""
        return self.results is not None and self.last_step >= int(self.study.get("steps_total", 0))

    @property
    def recorded(self) -> bool:
        """Whether a `Recorder` wrote it, in a loop that hopmix knows nothing of."""
        return bool(self.study.get("recorder"))

    @property
    def last_step(self) -> int:
        """Training steps done when the last measurement was made."""
        return int(self.metrics.step.values[-1])

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the study."""
        return [str(name) for name in self.metrics.arm.values]

    def table(self) -> "pd.DataFrame":
        """One row for each arm and seed: kind, strength, test accuracy where the run has ended, and
        what was measured last, as means over blocks and branches.
        """
        last = self.metrics.isel(step=-1).drop_vars("step")
        last = last[[name for name in last.data_vars if "eigenvalue" not in last[name].dims]]
        table = last.mean([dim for dim in last.dims if dim not in ("arm", "seed")])
        accuracy = self.test_accuracy()
        if accuracy is not None:
            table["test_accuracy"] = (("arm", "seed"), accuracy)
        return table.to_dataframe().reset_index()

    def test_accuracy(self) -> Float[np.ndarray, "arms seeds"] | None:
        """The accuracy of each member on the test split, NaN where none is recorded; `None` while
        there are no results.
        """
        if self.results is None:
            return None
        recorded = {arm["name"]: arm["test_accuracy"]["values"] for arm in self.results["arms"]}
        values = np.full((self.metrics.arm.size, self.metrics.seed.size), np.nan)
        for row, name in enumerate(self.arms):
            known = np.array(recorded.get(name, []), dtype=float)[: values.shape[1]]
            values[row, : known.size] = known
        return values


def open_run(path: Path | str) -> Run:
    """The run in a folder; nothing that it names is imported.

    **Arguments:**

    - `path`: the folder of a study, finished or in progress, or of a `Recorder`.

    **Raises:** `UsageError` if the folder is no run, nothing has been measured in it yet, or
    something in it is damaged or of another run.
    """
    path = Path(path)
    record = read_record(path)
    metrics = read_metrics(path, record)
    results = read_results(path, record)
    weights = None if results is None else read_weights(path)
    return Run(path, record.values, metrics, results, weights)
