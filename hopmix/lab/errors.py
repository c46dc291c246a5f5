"""Mistakes of the user, told in one line that names the field, the value and the cure."""


class UsageError(ValueError):
    """A mistake of the user, told in one line."""


def need(ok: bool, field: str, value: object, wanted: str):
    """Raise `UsageError` with a field, its value and what it must be, unless it is."""
    if not ok:
        raise UsageError(f"{field}: got {value}, but it must be {wanted}.")
