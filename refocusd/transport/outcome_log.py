"""The last outcomes, numbered; a slow reader learns how many were dropped meanwhile."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import deque

from refocusd.transport.watching import FrameOutcome, Outcomes

#: At most this many outcomes are kept, of at most this size in all (characters, see `_chars`).
MAX_KEPT, MAX_KEPT_CHARS = 4096, 4 << 20
#: Largest number of outcomes in one answer.
MAX_IN_ANSWER = 256


class OutcomeLog:
    """Outcomes in order, each with a serial from 1; safe in any thread.

    Attributes
    ----------
    id : str
        Names this log.
    serial : int
        Serial of the newest outcome.
    """

    def __init__(self) -> None:
        self.id = secrets.token_hex(4)
        self.serial = 0
        self._kept: deque[FrameOutcome] = deque()
        self._chars = 0
        self._lock = threading.Lock()

    def add(self, outcome: FrameOutcome) -> None:
        """Number an outcome, and drop the oldest beyond the limits."""
        with self._lock:
            self.serial += 1
            self._kept.append(outcome)
            self._chars += _chars(outcome)
            while len(self._kept) > MAX_KEPT or self._chars > MAX_KEPT_CHARS:
                self._chars -= _chars(self._kept.popleft())

    def take_in(self, answer: Outcomes) -> None:
        """Add the answer of another log; outcomes that it has dropped are missing here as well."""
        with self._lock:
            if answer.missed:
                self.serial += answer.missed
                self._kept.clear()
                self._chars = 0
        for outcome in answer.outcomes:
            self.add(outcome)

    def after(self, serial: int) -> Outcomes:
        """The next outcomes after `serial`; a serial that was never assigned counts as the newest."""
        with self._lock:
            serial = min(serial, self.serial)
            first = self.serial - len(self._kept)
            missed = max(0, first - serial)
            start = max(serial, first)
            taken = list(itertools.islice(self._kept, start - first, start - first + MAX_IN_ANSWER))
            return Outcomes(start + len(taken), missed, taken)


def _chars(outcome: FrameOutcome) -> int:
    """Size of an outcome: its characters, and an allowance for the rest of its memory."""
    return 500 + len(outcome.axes) + len(outcome.reason) + sum(map(len, outcome.reasons))
