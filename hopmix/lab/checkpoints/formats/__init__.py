"""Formats: the files that weights are read from."""
