"""Reports to the daemon acquisitions of which no frame could be had, so that none is missed silently."""

from __future__ import annotations

import time

from refocusd import __version__
from refocusd.errors import TransportError
from refocusd.sources.micromanager.frames import id_of
from refocusd.sources.micromanager.viewers import Window
from refocusd.transport.client import Connection
from refocusd.transport.messages import Unseen

#: Time limit for the daemon's answer, and time to the next attempt.
ANSWER_S, RETRY_S = 1.0, 5.0


class UnseenAcquisitions:
    """Keeps unseen acquisitions until they have been reported.

    Parameters
    ----------
    endpoint : str
        Address of the daemon, which logs and counts them.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._waiting: list[Unseen] = []
        self._next_at = 0.0

    def add(self, window: Window, says: str) -> None:
        """Add an acquisition, by the description of its window, and the sentence to report."""
        self._waiting.append(Unseen(id_of(window), says[:4096]))

    def tell(self) -> None:
        """Report them to the daemon, if there are any and it answers."""
        now = time.monotonic()
        if not self._waiting or now < self._next_at:
            return
        self._next_at = now + RETRY_S
        with Connection(self._endpoint, "source", version=__version__, inline=True) as line:
            try:
                line.welcome(ANSWER_S)
            except TransportError:
                return
            for each in self._waiting:
                line.send(each)
            self._waiting.clear()
            self._next_at = now
            line.close(ANSWER_S)
