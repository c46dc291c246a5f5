"""What is there already of a study that goes on, checked before any long work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hopmix.lab.errors import UsageError
from hopmix.lab.store.checkpoints import steps_in
from hopmix.lab.store.history import FIRST, VERSIONS, recover_metrics
from hopmix.lab.store.history import NAME as METRICS
from hopmix.lab.store.record import Record
from hopmix.lab.store.results import Damaged, read_results


def finished_results(
    out: Path, record: Record, log: Callable[[str], None]
) -> dict[str, Any] | None:
    """The results of a study that has ended and is whole, or `None` for one that has to go on.

    `log` is called with a sentence for what is damaged and will be made again.

    **Raises:** `UsageError` where something is missing without which it can't go on, or is of
    another study.
    """
    if not is_measured(out):
        if steps_in(out):
            raise UsageError(
                f"{out / METRICS}: missing, though there are checkpoints; restore it (and "
                f"{VERSIONS})."
            )
        return None
    dataset, told = recover_metrics(out, record)
    for sentence in told:
        log(sentence)
    try:
        results = read_results(out, record)
    except Damaged as error:
        log(str(error).split(";")[0] + "; it is made again.")
        results = None
    last = int(dataset.step.values[-1])
    if results is not None and last == record.steps_total:
        if last not in steps_in(out):
            log(
                f"the checkpoint of step {last:,}, the last, is missing: `hopmix measure` reads "
                f"an earlier one."
            )
        return results
    if last > 0 and not steps_in(out):
        raise UsageError(
            f"{out / 'checkpoints'}: missing or empty, though {last} steps were measured; "
            f"restore the folder, or start "
            "anew under another name."
        )
    return None


def is_measured(out: Path) -> bool:
    """Whether anything was ever measured in a folder, be it damaged.

    A first version alone, which `metrics.zarr` does not stand for, is that of a study killed while
    it was written.
    """
    if (out / METRICS).exists() or (out / METRICS).is_symlink():
        return True
    return any(not path.name.startswith(FIRST) for path in (out / VERSIONS).glob("*.zarr"))
