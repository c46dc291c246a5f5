"""What a public docstring says of parameters: each of them is named in it."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_public_api import CONTRACT, EVERY

import hopmix
from hopmix.lab import StudyConfig, UsageError

PLACES = ("hopmix", "hopmix.symmetry", "hopmix.retrieval", "hopmix.testing._strategies")


def named(doc: str) -> set[str]:
    """The names in the first sentence, in the section of arguments and in lists of fields, and
    those of what the docstring refers to.
    """
    first, _, rest = doc.partition("\n\n")
    arguments = re.search(r"\*\*Arguments[^*]*\*\*(.*?)(\n\n\*\*|\Z)", rest, re.DOTALL)
    fields = re.findall(r"^- .*", rest, re.MULTILINE)
    said = "\n".join([first, arguments[1] if arguments else "", *fields])
    referred = re.findall(r"as in ((?:`\w+`(?:, | and )?)+)", said)
    others = [name for names in referred for name in re.findall(r"`(\w+)`", names)]
    found = set(re.findall(r"`(\w+)`", said))
    return found.union(*(named(inspect.getdoc(thing_called(other)) or "") for other in others))


def thing_called(name: str) -> Any:
    """A public thing, or a method of a mixer's configuration."""
    holders = [*(importlib.import_module(place) for place in PLACES), hopmix.MixerConfig]
    return next(getattr(holder, name) for holder in holders if name in vars(holder))


def parameters(thing: Any) -> set[str]:
    if hasattr(thing, "_fields"):
        return set(thing._fields)
    names = inspect.signature(inspect.unwrap(thing)).parameters
    return set(names) - {"self", "cls", "args", "kwargs"}


def unnamed(thing: Any) -> list[str]:
    doc = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):  # a table may stand for a list of fields
        return sorted(parameters(thing) - named(doc) - set(re.findall(r"`(\w+)`", doc)))
    return sorted(parameters(thing) - named(doc))


SELF_EXPLAINING = (StudyConfig, UsageError)
"""Each field of the first is an option whose help stands beside it; the second takes a sentence."""


def public_calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions and classes, their other constructors, and the methods of the contract."""
    for place, name in EVERY:
        thing = getattr(importlib.import_module(place), name)
        if thing in SELF_EXPLAINING:
            continue
        yield f"{place}.{name}", thing
        made = [n for n, member in vars(thing).items() if isinstance(member, classmethod)]
        for method in made if inspect.isclass(thing) else ():
            if method[0] != "_":
                yield f"{place}.{name}.{method}", getattr(thing, method)
    for name, members in CONTRACT.items():
        for method in members.split():
            member = getattr(getattr(hopmix, name), method, None)
            if inspect.isfunction(member):
                yield f"hopmix.{name}.{method}", member


CALLS = dict(public_calls())


@pytest.mark.parametrize("call", sorted(CALLS))
def test_each_parameter_is_named(call):
    assert unnamed(CALLS[call]) == []


def test_a_parameter_that_nobody_names_is_missed():
    def half(state, scale, dtype):
        """Half of `state`.

        It speaks of `dtype` only in passing.

        **Raises:** `ValueError` where `scale` is 0.
        """

    def refers(state, extra):
        """**Arguments:** as in `settle`, and more."""

    assert unnamed(half) == ["dtype", "scale"]
    assert unnamed(refers) == ["extra"]
