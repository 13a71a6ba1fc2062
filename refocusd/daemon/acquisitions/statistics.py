"""Totals since the daemon started.  Their size does not grow with the number of frames."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque

from refocusd.daemon.events import FramesWritten
from refocusd.transport.messages import DoubtedFrame, Histogram

#: Upper bounds of the latency buckets, ms.
BOUNDS_MS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 6e4]
STAGES = ("queue", "worker", "engine", "total")
#: Largest number of reasons that are counted separately; all later ones are counted together.
MAX_REASONS = 64
#: Largest number of doubtful and untrusted frames that are remembered.
MAX_DOUBTED = 30


class Statistics:
    """Numbers of frames by final state, reason and verdict; durations of live frames by stage."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._frames: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        #: Doubtful and untrusted frames, the newest first.
        self.doubted: deque[DoubtedFrame] = deque(maxlen=MAX_DOUBTED)
        self._counts = {stage: [0] * (len(BOUNDS_MS) + 1) for stage in STAGES}
        self._sums = dict.fromkeys(STAGES, 0.0)
        #: Acquisitions of which no frame could be read: id and description.
        self.unseen: dict[str, str] = {}
        #: Bytes of raw pixels received.
        self.raw_nbytes = 0

    @property
    def uptime_s(self) -> float:
        """Seconds since the daemon started."""
        return time.monotonic() - self._begun

    @property
    def frames(self) -> dict[str, int]:
        """Number of frames by ``state`` or ``state: reason``."""
        return dict(self._frames)

    @property
    def verdicts(self) -> dict[str, int]:
        """Number of frames by verdict."""
        return dict(self._verdicts)

    @property
    def stages(self) -> dict[str, Histogram]:
        """Durations by stage."""
        return {
            stage: Histogram(BOUNDS_MS, list(self._counts[stage]), self._sums[stage])
            for stage in STAGES
        }

    def note(self, event: FramesWritten, waited_ms: float | None) -> None:
        """Count frames that reached a final state; `waited_ms` is None for frames that are not live."""
        if event.state is None:
            return
        # The text after a colon or bracket names a frame or a file.
        reason = event.reason.split(":")[0].split("(")[0].strip()[:60]
        key = f"{event.state}: {reason}" if reason else event.state
        if key not in self._frames and len(self._frames) >= MAX_REASONS:
            key = f"{event.state}: other"
        self._frames[key] += len(event.axes)
        if event.facts is not None:
            verdict = event.facts.verdict
            self._verdicts[verdict] += 1
            if verdict in ("doubtful", "untrusted"):
                frame = (event.acquisition, event.axes[0], verdict, event.facts.reasons[:4])
                self.doubted.appendleft(DoubtedFrame(*frame))
        if waited_ms is None or event.facts is None:
            return
        spent = (waited_ms, event.facts.worker_ms, event.facts.engine_ms, event.latency_ms)
        for stage, value in zip(STAGES, spent, strict=True):
            self._counts[stage][bisect_left(BOUNDS_MS, value)] += 1
            self._sums[stage] += value
