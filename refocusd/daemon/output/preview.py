"""Keeps the newest refocused frame, reduced, for views.

A writer takes the preview, and the broker sends it.  This costs one small copy per second, and
at most 30 while a view waits for the next frame.
"""

from __future__ import annotations

import math
import threading
import time

import numpy as np
from numpy.typing import NDArray

from refocusd.daemon.events import FramesWritten
from refocusd.daemon.output.jobs import WriteFrame
from refocusd.frame import Pixels
from refocusd.transport.messages import Open, Shown

#: Shortest time between two previews, while a view waits and while none does, s.
WATCHED_S = 1 / 30
UNWATCHED_S = 1.0
#: For this long after a live frame, s, no frame is shown that is late or caught up.
LIVE_S = 1.0


class Preview:
    """The newest frame; safe to use from the writers' and the broker's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken_at = 0.0
        self._live_at = -math.inf
        self._wanted = False
        self._max_side = 1024
        self._serial = 0
        self._newest: tuple[Shown, NDArray[np.generic]] | None = None

    @property
    def serial(self) -> int:
        """Serial of the newest frame."""
        return self._serial

    def ask(self, max_side: int) -> None:
        """Take the next frame sooner, because a view waits for it, with sides of at most `max_side` px."""
        with self._lock:
            self._wanted = True
            self._max_side = max_side

    def due(self, *, live: bool) -> bool:
        """Whether to take the next frame: a live image does not go back to late frames."""
        now = time.monotonic()
        if not live and now - self._live_at < LIVE_S:
            return False
        return now - self._taken_at >= (WATCHED_S if self._wanted else UNWATCHED_S)

    def take(
        self,
        raw: Pixels,
        refocused: Pixels,
        message: Open,
        job: WriteFrame,
        written: FramesWritten,
    ) -> None:
        """Keep a reduced copy of a frame that was written, raw and then refocused."""
        assert written.state is not None
        step = max(1, -(-max(raw.shape) // self._max_side))
        pixels = np.stack([raw[::step, ::step], refocused[::step, ::step]])
        with self._lock:
            self._taken_at = time.monotonic()
            if job.in_live_image:
                self._live_at = self._taken_at
            self._wanted = False
            self._serial += 1
            shown = Shown(
                serial=self._serial,
                acquisition=message.acquisition,
                name=message.name,
                axes=job.submit.axes,
                state=written.state,
                height=message.height,
                width=message.width,
                dtype=message.dtype,
                step=step,
                metadata=job.submit.metadata,
                facts=job.facts,
                latency_ms=written.latency_ms,
                live=job.submit.live,
                trust=job.trust,
            )
            self._newest = shown, pixels

    def newest(self, after: int) -> tuple[Shown, NDArray[np.generic]] | None:
        """The newest frame, if it is later than serial `after`."""
        with self._lock:
            return self._newest if self._serial > after else None
