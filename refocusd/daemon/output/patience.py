"""Calls functions that access disks in a thread, and abandons them after a time limit: disks may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from refocusd.errors import RefocusdError

T = TypeVar("T")

#: Time limit for a disk's answer, s.
ANSWERS_S = 1.0


def answer_of(ask: Callable[[], T], otherwise: T, within_s: float = ANSWERS_S) -> T:
    """The result of a call; `otherwise` if it raises, or does not return in time.

    Parameters
    ----------
    ask : callable
        Called in a thread, which continues after the time limit.
    otherwise : object
    within_s : float
        Time limit, in seconds.
    """
    found: list[T] = []

    def answer() -> None:
        with suppress(OSError, ValueError, RefocusdError):
            found.append(ask())

    asking = threading.Thread(target=answer, name="asks-disk", daemon=True)
    asking.start()
    asking.join(within_s)
    return found[0] if found else otherwise
