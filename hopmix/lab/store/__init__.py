"""Store: a study's folder, in which every file is always either the old or the new one."""

from typing import TYPE_CHECKING, Any

from hopmix.lab.store.files import is_full_disk as is_full_disk
from hopmix.lab.store.files import is_out_of_memory as is_out_of_memory
from hopmix.lab.store.files import read_json as read_json
from hopmix.lab.store.files import replacing as replacing
from hopmix.lab.store.files import require_folder as require_folder
from hopmix.lab.store.files import require_json_target as require_json_target
from hopmix.lab.store.files import require_space as require_space
from hopmix.lab.store.files import require_target as require_target
from hopmix.lab.store.files import write_json as write_json
from hopmix.lab.store.lock import only_writer as only_writer
from hopmix.lab.store.record import FORMAT as FORMAT
from hopmix.lab.store.record import Owner as Owner
from hopmix.lab.store.record import Record as Record
from hopmix.lab.store.record import open_study as open_study
from hopmix.lab.store.record import read_config as read_config
from hopmix.lab.store.record import read_record as read_record
from hopmix.lab.store.record import write_record as write_record
from hopmix.lab.store.results import read_results as read_results
from hopmix.lab.store.results import read_weights as read_weights
from hopmix.lab.store.results import write_results as write_results

if TYPE_CHECKING:
    from hopmix.lab.store.checkpoints import KEPT_CHECKPOINTS as KEPT_CHECKPOINTS
    from hopmix.lab.store.checkpoints import Checkpoints as Checkpoints
    from hopmix.lab.store.checkpoints import Damaged as Damaged
    from hopmix.lab.store.checkpoints import steps_in as steps_in
    from hopmix.lab.store.finished import finished_results as finished_results
    from hopmix.lab.store.finished import is_measured as is_measured
    from hopmix.lab.store.history import History as History
    from hopmix.lab.store.history import read_metrics as read_metrics
    from hopmix.lab.store.history import recover_metrics as recover_metrics
    from hopmix.lab.store.history import write_metrics as write_metrics

_LATER = {
    "checkpoints": ("KEPT_CHECKPOINTS", "Checkpoints", "Damaged", "steps_in"),
    "finished": ("finished_results", "is_measured"),
    "history": ("History", "read_metrics", "recover_metrics", "write_metrics"),
}
"""What needs Orbax or Xarray, which take half a second each to import."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
