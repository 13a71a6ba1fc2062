"""The newest refocused frame, reduced, for those who watch.

The writer takes it, the broker sends it.  Nobody watching costs one small copy
a second; a view that waits for the next frame costs at most 30.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import FinalState, Pixels
from refocusd.transport.messages import FrameFacts, Open, Shown, Submit

__all__ = ["Preview"]

#: Previews a second at most, while somebody watches and while nobody does.
WATCHED_S = 1 / 30
UNWATCHED_S = 1.0


class Preview:
    """One frame, the latest; safe to use from the writer's and the broker's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken_at = 0.0
        self._wanted = False
        self._max_side = 1024
        self._serial = 0
        self._shown: Shown | None = None
        self._pixels: NDArray[np.generic] | None = None

    @property
    def serial(self) -> int:
        """Of the newest frame."""
        return self._serial

    def ask(self, max_side: int) -> None:
        """Somebody waits for the next frame, at that size."""
        with self._lock:
            self._wanted = True
            self._max_side = max_side

    def due(self) -> bool:
        """Whether the next frame shall be taken."""
        interval_s = WATCHED_S if self._wanted else UNWATCHED_S
        return time.monotonic() - self._taken_at >= interval_s

    def take(
        self,
        raw: Pixels,
        refocused: Pixels,
        open_: Open,
        submit: Submit,
        state: FinalState,
        facts: FrameFacts,
        latency_ms: float,
    ) -> None:
        """Keep a reduced copy of a frame, raw above refocused."""
        step = max(1, -(-max(raw.shape) // self._max_side))
        pixels = np.stack([raw[::step, ::step], refocused[::step, ::step]])
        with self._lock:
            self._taken_at = time.monotonic()
            self._wanted = False
            self._serial += 1
            self._pixels = pixels
            self._shown = Shown(
                serial=self._serial,
                acquisition=open_.acquisition,
                name=open_.name,
                axes=submit.axes,
                state=state,
                height=open_.height,
                width=open_.width,
                dtype=open_.dtype,
                step=step,
                metadata=submit.metadata,
                facts=facts,
                latency_ms=latency_ms,
                live=submit.live,
            )

    def newest(self, after: int) -> tuple[Shown, NDArray[np.generic]] | None:
        """The newest frame, if it is later than serial `after`."""
        with self._lock:
            if self._shown is None or self._pixels is None or self._serial <= after:
                return None
            return self._shown, self._pixels
