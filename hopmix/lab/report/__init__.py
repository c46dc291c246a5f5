"""Report: pages and figures of a run."""

from hopmix.lab._moved import moved_names

__getattr__ = moved_names(__name__, "page", "write_report")
