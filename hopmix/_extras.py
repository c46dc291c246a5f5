"""Which extra to install where a library that it brings is missing."""

import contextlib
from collections.abc import Iterator


class MissingExtra(ModuleNotFoundError):
    """A library is missing, and an extra of hopmix brings it."""


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Say of a library that is missing in this block which extra brings it.

    **Raises:** `MissingExtra`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "hopmix").split(".")[0]
        if library == "hopmix":
            raise
        told = (
            f"{what} needs the extra {extra!r}, for {library} is missing: pip install "
            f"'hopmix[{extra}]'"
        )
        raise MissingExtra(told, name=library) from None
