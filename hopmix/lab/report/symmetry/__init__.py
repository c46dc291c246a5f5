"""The part of a report on symmetry: its figures, tables and page."""
