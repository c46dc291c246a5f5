"""A study from Python: trained in a folder, as `hopmix ablate` trains it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hopmix.lab import store
from hopmix.lab.config import GIVEN, StudyConfig
from hopmix.lab.data import study_data
from hopmix.lab.errors import need
from hopmix.lab.families.own import IN_PYTHON, Arms, Own, load_own
from hopmix.lab.probes.probe import AbstractProbe
from hopmix.lab.runtime.interrupts import Interrupted
from hopmix.lab.store.run import Run, open_run
from hopmix.lab.study import study as lab_study
from hopmix.lab.study.study import Progress

LOGGER = logging.getLogger("hopmix")


def _unheard(progress: Progress):
    pass


def run_study(
    config: StudyConfig,
    out: Path | str,
    *,
    arms: Arms | None = None,
    data: study_data.Data | Mapping[str, Any] | Path | str | None = None,
    probes: Sequence[AbstractProbe] = (),
    resume: bool = False,
    on_progress: Callable[[Progress], None] = _unheard,
    log: Callable[[str], None] = LOGGER.info,
) -> Run:
    """Train a study in a folder and evaluate it; what is measured is saved after each interval.

    Nothing of the process is changed: no compilation cache is set up, and no signal is kept.

    **Arguments:**

    - `config`: which arms, on which data, trained how.
    - `out`: the folder; a study in it is never overwritten.
    - `arms`: arms of your own in place of those of `config`, or a function from the shape of an
      image (height, width, colours) and the number of classes to them.
    - `data`: in place of those that `config` names: a `Data`, or arrays by name as in an .npz file
      (`x_train`, `y_train`, `x_test`, `y_test`, or `images` and `labels`), or where they are now.
    - `probes`: what is measured beside what every study measures.
    - `resume`: go on with the study in `out` where there is one; it ends as without a break.
    - `on_progress`: called after each interval with steps and mean validation losses by arm.
    - `log`: called with a sentence where something unusual happens.

    **Returns:** the run, as `open_run` reads it.

    **Raises:** `UsageError` for what does not fit together, before any training;
    `KeyboardInterrupt` after Ctrl-C, once all finished intervals are saved.
    """
    need(callable(on_progress), "on_progress", on_progress, "a function of a Progress")
    out = Path(out)
    config, own = _own(config, {"arms": arms, "probes": probes or None})
    config, loaded = _data_for(config, data)
    store.require_folder("out", out)
    with store.only_writer(out):
        begun = store.open_study(out, config, resume=resume)
        study = lab_study.prepare(config, own, loaded)
        _train(study, out, begun, on_progress, log)
    return open_run(out)


def _own(config: StudyConfig, given: Mapping[str, Any]) -> tuple[StudyConfig, dict[str, Own]]:
    """What is the user's own: as it is given, or from the files that the configuration names."""
    own = {}
    for field, value in given.items():
        if value is None:
            own |= load_own(field, getattr(config, field))
        else:
            entry = IN_PYTHON[field]
            config = dataclasses.replace(config, **{field: (entry,)})
            own[entry] = Own(entry, value)
    return config, own


def _data_for(
    config: StudyConfig, data: study_data.Data | Mapping[str, Any] | Path | str | None
) -> tuple[StudyConfig, study_data.Data | None]:
    if data is None:
        return config, None
    if isinstance(data, str | Path):
        return dataclasses.replace(config, data=str(data)), None
    need(
        isinstance(data, study_data.Data | Mapping),
        "data",
        type(data).__name__,
        "arrays by name, a Data, or the name of a file or folder",
    )
    config = dataclasses.replace(config, data=GIVEN)
    if isinstance(data, study_data.Data):
        return config, data
    return config, study_data.load_for(config, data)


def _train(
    study: lab_study.Study,
    out: Path,
    resume: bool,
    on_progress: Callable[[Progress], None],
    log: Callable[[str], None],
):
    try:
        lab_study.run(
            study,
            out,
            resume=resume,
            command="hopmix.lab.run_study",
            on_progress=on_progress,
            log=log,
        )
    except Interrupted:
        raise KeyboardInterrupt(
            f"stopped; what was finished is saved: run_study(..., {str(out)!r}, resume=True) goes "
            f"on"
        ) from None
