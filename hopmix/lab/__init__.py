"""The lab: studies that train, measure and report; needs the extra `hopmix[lab]`."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from hopmix.lab._moved import Moved

if TYPE_CHECKING:
    from hopmix.lab.config import StudyConfig as StudyConfig
    from hopmix.lab.errors import UsageError as UsageError
    from hopmix.lab.families.arm import Arm as Arm
    from hopmix.lab.families.arm import Look as Look
    from hopmix.lab.recorder import Recorder as Recorder
    from hopmix.lab.report.page import write_report as write_report
    from hopmix.lab.report.section import Section as Section
    from hopmix.lab.store.run import Run as Run
    from hopmix.lab.store.run import open_run as open_run
    from hopmix.lab.study.run_study import run_study as run_study
    from hopmix.lab.study.study import Progress as Progress

_PLACES = {
    "Arm": "families.arm",
    "Look": "families.arm",
    "Progress": "study.study",
    "Recorder": "recorder",
    "Run": "store.run",
    "Section": "report.section",
    "StudyConfig": "config",
    "UsageError": "errors",
    "open_run": "store.run",
    "run_study": "study.run_study",
    "write_report": "report.page",
}
"""Where each name is; what is not asked for is not imported."""

sys.meta_path.append(Moved())


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_PLACES)
