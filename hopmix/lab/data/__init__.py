"""Data: images and classes from anywhere, split so that no image is in two splits."""

from hopmix.lab._moved import moved_names

__getattr__ = moved_names(__name__, "study_data", "Data", "Split", "load", "load_for")
