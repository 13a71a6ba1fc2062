"""Limits refocusd's use of the bridge: calls and bytes per second.

The bridge carries about 100 MB/s, and Micro-Manager serves all of its clients from one thread.
The limit keeps the bridge fast for the user's own scripts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Bytes of pixels per second, of about 100 MB/s that the bridge carries.
BYTES_S = 30e6
#: Round trips per second; a frame from memory takes ten or twelve.
CALLS_S = 400.0
#: Round trips that may be made at once after a pause: enough for one frame.
BURST = 25.0
#: Longest single sleep, so that a wait can be seen from outside.
LONGEST_SLEEP_S = 0.25
#: Shortest single sleep: the clock may not advance during a shorter one.
SHORTEST_SLEEP_S = 0.0005


class Pace:
    """Decides when the next call may be made, and the next frame fetched.

    Parameters
    ----------
    calls_s, bytes_s : float
        Round trips and bytes of pixels per second, on average.
    clock, sleep : callable
        As `time.monotonic` and `time.sleep`.
    """

    def __init__(
        self,
        calls_s: float = CALLS_S,
        bytes_s: float = BYTES_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._calls_s = calls_s
        self._bytes_s = bytes_s
        self._clock = clock
        self._sleep = sleep
        self._allowed = BURST
        self._counted_at = clock()
        self._pixels_at = self._counted_at
        #: Round trips so far.
        self.calls = 0

    def call(self, round_trips: int) -> None:
        """Wait until this many round trips may be made, and count them."""
        self.calls += round_trips
        self._refill()
        self._allowed -= round_trips
        while self._allowed < 0:
            wait_s = -self._allowed / self._calls_s
            self._sleep(min(max(wait_s, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))
            self._refill()

    def pixels(self, nbytes: int) -> None:
        """Note pixels that came over the bridge."""
        self._pixels_at = max(self._pixels_at, self._clock()) + nbytes / self._bytes_s

    def until_pixels_s(self) -> float:
        """Seconds until the next frame may be fetched."""
        return max(0.0, self._pixels_at - self._clock())

    def _refill(self) -> None:
        now = self._clock()
        self._allowed = min(BURST, self._allowed + (now - self._counted_at) * self._calls_s)
        self._counted_at = now
