r"""Assumptions of theorems, and the rule of trust by which they are judged.

Types say themselves what is known of them. They are believed only where the type is exactly one of
the core of hopmix, whose mathematics is proved and tested: a subclass may override anything, and
counts as a type of its own. A verdict is `holds` only where it follows from what is believed; what
can only be tried on numbers is `fails` when the trial fails and `unknown` when it does not.
"""

import sys
from typing import Any, Literal, NamedTuple

Verdict = Literal["holds", "fails", "unknown"]


class Assumption(NamedTuple):
    """One assumption of a claim: what it says, whether it `holds`, `fails` or is `unknown`, and
    why.

    - `statement`: what is assumed.
    - `verdict`: `holds`, `fails` or `unknown`.
    - `reason`: why.
    """

    statement: str
    verdict: Verdict
    reason: str


def is_known(part: Any) -> bool:
    """Whether a Lagrangian or a synapse, and all that it is made of, are of the core of hopmix: it
    is believed.
    """
    return is_of_core(part) and all(map(is_known, part.made_of))


def is_of_core(thing: Any) -> bool:
    """Whether the type of a thing is exactly one that stands in a module of the core."""
    kind = type(thing)
    module = sys.modules.get(kind.__module__)
    return kind.__module__.startswith("hopmix._") and getattr(module, kind.__name__, None) is kind


def foreign_type(part: Any) -> str:
    """The first type that is not of the core in a Lagrangian or a synapse, which is not known."""
    if not is_of_core(part):
        return type(part).__name__
    return next(foreign_type(inner) for inner in part.made_of if not is_known(inner))
