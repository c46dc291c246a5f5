"""The Hugging Face Hub, asked once whether it answers: without a network nothing is tried again and
again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

ANSWERS_IN = 5.0
"""Seconds until the Hub counts as out of reach."""


@contextmanager
def asked_once(ask: Callable[[], object]) -> Iterator[bool]:
    """A block in which nothing is asked of the Hub unless it answers; what is in the cache serves.

    **Arguments:**

    - `ask`: a request, with a time limit of `ANSWERS_IN`.

    **Returns:** whether the Hub answers, be it that it knows no such name.
    """
    before = constants.HF_HUB_OFFLINE
    answers = not before and _answers(ask)
    constants.HF_HUB_OFFLINE = not answers
    try:
        yield answers
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except HfHubHTTPError:
        return True
    except Exception:  # of the network, whose library may change
        return False
    return True
