"""Mistakes of the user, told in one line that names the field, the value and the cure."""


class UsageError(ValueError):
    """A mistake of the user, told in one line."""


def need(ok: bool, field: str, value: object, wanted: str):
    """Raise `UsageError` with a field, its value and what it must be, unless it is."""
    if not ok:
        raise UsageError(f"{field}: got {value}, but it must be {wanted}.")


def one_line(error: BaseException) -> str:
    """The kind of an error, and what it says, on one line that is not too long."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__
