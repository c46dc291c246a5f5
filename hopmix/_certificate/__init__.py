"""Certificates: what is proved of a memory or a block, on which assumptions.

To be read in this order: `catalogue` (what a system is made of), `conservative_form` (the tied
weights that free ones may stand for), `concavity` and `softness` (how far a potential is from
convex), `flow` (assumptions of descent along the flow), `small_breaking` and `contraction` (what is
left of them without symmetry), `check` (a trial on numbers), `certificate` (the verdict).
"""
