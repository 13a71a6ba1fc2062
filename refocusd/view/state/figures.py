"""Rates and percentiles of the last seconds, from the difference of two statuses of the daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refocusd.transport.messages import Histogram, Status

#: Latencies are taken over a longer time than rates, because a slow run has few of them.
RATE_WINDOW_S = 3.0
LATENCY_WINDOW_S = 15.0
#: States in which a frame was written.
_WRITTEN = ("refocused", "passed_through")


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Durations of one stage, in milliseconds, over `frames` frames.

    They are of the last seconds (`recent`), or if no frame came, since the daemon's start.
    """

    p50_ms: float
    p95_ms: float
    frames: int
    recent: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened in the last seconds.

    Parameters
    ----------
    fps : float
        Frames written per second, refocused or passed through.
    raw_mb_s : float
        Raw pixels received, MB/s.
    stages : mapping of str to StageFigures
    """

    fps: float
    raw_mb_s: float
    stages: Mapping[str, StageFigures]


class StatusHistory:
    """The last statuses of one daemon from which the figures are taken; bounded in time and number."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, Status]] = deque(maxlen=256)

    def add(self, at: float, status: Status) -> None:
        """Take in a status that came at `at` (monotonic seconds)."""
        if self._entries and self._entries[-1][1].pid != status.pid:
            self._entries.clear()  # another daemon counts from zero
        self._entries.append((at, status))
        while at - self._entries[0][0] > LATENCY_WINDOW_S and len(self._entries) > 2:
            self._entries.popleft()

    def figures(self) -> Figures:
        """The figures up to the newest status."""
        if not self._entries:
            return Figures(0.0, 0.0, {})
        at, status = self._entries[-1]
        begun, before = next(
            (entry for entry in self._entries if at - entry[0] <= RATE_WINDOW_S), self._entries[-1]
        )
        seconds = at - begun
        fps = raw_mb_s = 0.0
        if seconds > 0:
            fps = max(0, written(status.frames) - written(before.frames)) / seconds
            raw_mb_s = max(0, status.raw_nbytes - before.raw_nbytes) / 1e6 / seconds
        oldest = self._entries[0][1]
        stages = {
            name: _stage(histogram, oldest.stages.get(name))
            for name, histogram in status.stages.items()
            if sum(histogram.counts)
        }
        return Figures(fps, raw_mb_s, stages)


def written(frames: Mapping[str, int]) -> int:
    """Number of frames on disk, from a status' counts by ``state`` or ``state: reason``."""
    return sum(n for name, n in frames.items() if name.partition(":")[0] in _WRITTEN)


def _stage(now: Histogram, before: Histogram | None) -> StageFigures:
    counts = recent = np.array(now.counts)
    if before is not None and len(before.counts) == len(now.counts):
        recent = np.maximum(counts - before.counts, 0)
    is_recent = bool(recent.any())
    counts = recent if is_recent else counts
    p50_ms, p95_ms = (percentile_ms(now.bounds_ms, counts, share) for share in (0.50, 0.95))
    return StageFigures(p50_ms, p95_ms, int(counts.sum()), is_recent)


def percentile_ms(bounds_ms: Sequence[float], counts: ArrayLike, share: float) -> float:
    """Percentile of a histogram, interpolated within its bucket as Prometheus does.

    Parameters
    ----------
    bounds_ms : sequence of float
        Upper bounds of the buckets, without the infinite one.
    counts : array_like of int
        Number in each bucket; one more than `bounds_ms`.
    share : float
        The percentile, as a share between 0 and 1.

    Returns
    -------
    float
        In milliseconds; in the last bucket, its lower bound, as it has no upper one.

    Examples
    --------
    >>> percentile_ms([10.0, 20.0], [0, 100, 0], 0.5)
    15.0
    """
    passed = np.cumsum(counts)
    below = [0, *passed[: len(bounds_ms)]]
    return float(np.interp(share * passed[-1], below, [0.0, *bounds_ms]))
