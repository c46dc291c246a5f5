"""Training: the steps that all members of one form take in one compiled program."""

from hopmix.lab._moved import moved_names

__getattr__ = moved_names(
    __name__,
    "program",
    "Dataset",
    "Images",
    "Member",
    "Program",
    "Schedule",
    "cast",
    "decayed",
    "draw_rows",
    "logits_in",
    "make_augment",
    "make_dataset",
    "make_optimiser",
    "objective",
    "on_device",
    "take_steps",
)
