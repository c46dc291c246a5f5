"""Study: arms and seeds trained, measured and written down, and what a study needs and costs."""

from hopmix.lab._moved import moved_names

__getattr__ = moved_names(
    __name__,
    "study",
    "Progress",
    "Study",
    "advance",
    "compile_all",
    "data_path",
    "evaluate",
    "located",
    "prepare",
    "require_same_data",
    "run",
)
