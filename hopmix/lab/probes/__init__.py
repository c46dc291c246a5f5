"""Probes: what is measured of a model in training."""
