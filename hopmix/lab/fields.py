"""The fields of a command: of their types, and of a size that numbers of 32 bits hold."""

import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import typeguard

from hopmix.lab.errors import UsageError, need

LARGEST = 2**31 - 1
"""Seeds, steps and sizes are numbers of 32 bits on the device."""

SHOWN = 100
"""Characters of a path or a number that a message shows."""

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def need_fields(command: Any):
    """Hold each field of a dataclass against its annotation, and its numbers against 32 bits; a
    path that begins with `~` becomes that of the home.

    **Raises:** `UsageError` for a value of another type, a whole number beyond 32 bits, and a real
    number that is not finite in float32, or zero there and not here; and for a path that no file
    can have.
    """
    hints = get_type_hints(type(command))
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        hint = hints[field.name]
        need(_is_of(value, hint), field.name, repr(value), _words(hint))
        for number in _numbers(value):
            _need_32_bits(field.name, number)
        if isinstance(value, Path):
            need_path(field.name, value)
            # What is written later must be what was looked at here; shells leave the `~` of
            # `--out=~/x` as it is.
            object.__setattr__(command, field.name, value.expanduser())


def is_entry(text: str) -> bool:
    """Whether a text names something of the user's own, as `my_study.py:arms` does."""
    file, colon, name = text.rpartition(":")
    return bool(file and colon) and name.isidentifier()


def need_path(name: str, path: Path):
    """Refuse a path that the system does not take, or a link to nothing; a file need not be there.

    **Raises:** `UsageError`.
    """
    shown = _short(str(path))
    try:
        path = path.expanduser()
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise UsageError(
                f"{name}: {shown} is a link to nothing; mend it, or name another path."
            ) from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{name}: {shown!r} is no usable path ({reason}); name another one."
        ) from None


def _short(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}..."


def _is_of(value: object, hint: Any) -> bool:
    if bool in map(type, _entries(value)) and hint is not bool:  # to Python, true is a whole number
        return False
    try:
        typeguard.check_type(
            value, hint, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS
        )
    except typeguard.TypeCheckError:
        return False
    return True


def _entries(value: object) -> tuple[object, ...]:
    if isinstance(value, tuple):
        return value
    return (value,)


def _numbers(value: object) -> Iterator[int | float]:
    for entry in _entries(value):
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            yield entry


def _need_32_bits(name: str, number: int | float):
    if isinstance(number, int):
        need(abs(number) <= LARGEST, name, _short(str(number)), f"at most {LARGEST:,}")
        return
    with np.errstate(over="ignore"):
        held = np.float32(number)
    need(bool(np.isfinite(held)), name, number, "a number that float32 holds")
    need(
        number == 0 or bool(held != 0),
        name,
        number,
        "zero, or a number that float32 tells from zero",
    )


def _words(hint: Any) -> str:
    """A type as one says it: "a whole number or nothing"."""
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin is tuple:
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        return f"a list of which each entry is {_words(parts[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if hint is type(None):
        return "nothing"
    return WORDS.get(hint, str(hint))
