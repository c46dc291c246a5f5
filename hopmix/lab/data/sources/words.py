"""Names of the user's files and classes as words of a sentence."""

from collections.abc import Iterable

LONGEST = 40


def list_names(names: Iterable[object], most: int = 12) -> str:
    """The names as one phrase of a message, the first of them where there are many."""
    told = [repr(name) for name in names]
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(told[:most]) + more


def escaped(text: str) -> str:
    """A name as it may stand in a terminal: what would move the cursor or turn the direction is
    written out.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str) -> str:
    """A printable name that leaves room for others."""
    clean = escaped(text)
    if len(clean) <= LONGEST:
        return clean
    return f"{clean[: LONGEST - 1]}…"


def reason(error: BaseException) -> str:
    """What an error says, on one line: the first and the last where it says more, its type where it
    says nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    told = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return "".join(c if c.isprintable() else " " for c in told)
