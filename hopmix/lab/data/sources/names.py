"""What the name of a data set may stand for."""

import difflib
from pathlib import Path


def exists(data: str) -> bool:
    """Whether this is the path of something."""
    try:
        Path(data).expanduser().resolve().stat()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # also names too long, with a zero byte, of no user, links in a circle
        return False
    return True


def suggestion(data: str) -> str:
    """The nearest thing that exists, as the end of a message."""
    try:
        parent = Path(data).expanduser().parent
        if parent.is_dir():
            siblings = [str(parent / other.name) for other in parent.iterdir()]
        else:
            siblings = []
    except (OSError, ValueError, RuntimeError):
        siblings = []
    close = difflib.get_close_matches(data, {"digits", *siblings} - {data}, n=1)
    if not close and not siblings and data.count("/") == 1:
        close = [f"hub:{data}"]
    if close:
        return f"; did you mean {close[0]!r}?"
    return ""
