"""Numerics: dtypes, norms, rounding, and formulas that keep their digits."""
