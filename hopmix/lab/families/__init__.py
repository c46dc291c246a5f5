"""Families: the arms that a study compares."""
