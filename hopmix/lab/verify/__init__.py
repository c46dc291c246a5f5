"""Verify: the claims of the theory measured again, and the blocks of trained models checked."""

from hopmix.lab._moved import moved_names

__getattr__ = moved_names(
    __name__,
    "checks",
    "BlockCheck",
    "FirstStep",
    "Measured",
    "RunCheck",
    "Trained",
    "check_block",
    "check_run",
    "claims_record",
    "load_run",
    "measure_claims",
    "over_seeds",
    "require_markers",
    "run_record",
    "select_claims",
    "states_of",
    "write_table",
)
