"""Checkpoints: layers found in files of weights, of this house or of anybody, and measured."""
