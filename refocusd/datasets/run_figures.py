"""Figures of a run: counts, rate and latencies, from the ledgers beside refocused datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.datasets.judged import attempts_of
from refocusd.ledger import VERDICTS, Attempt
from refocusd.transport.messages import Counts

STATES = ("acquired", "refocused", "passed_through", "skipped", "failed", "pending")


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Counts, rate and latency of one or several acquisitions.

    Parameters
    ----------
    counts : Counts
    caught_up : int
        Frames that were refocused from raw after they had been missed live.
    frames_per_s : float
        Frames with a final state, over the time from the first frame at the
        hook to the last one on disk.
    latency_ms, overhead_ms : tuple of float
        p50, p95, p99 of the live frames: from the hook to the disk, and the same
        without the time in the engine.
    newest_ms : tuple of float
        p50, p95, p99 from the hook to the disk, of the frames of the live image: those that were
        written before any newer one.  Where the engine is slower than the camera, the others wait.
    engine_ms : float
        Median time in the engine.
    verdicts : mapping of str to int
        Frames by verdict, of those that were judged.
    """

    counts: Counts
    caught_up: int
    frames_per_s: float
    latency_ms: tuple[float, float, float]
    overhead_ms: tuple[float, float, float]
    newest_ms: tuple[float, float, float]
    engine_ms: float
    verdicts: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The figures with their units in the keys."""
        counts = {f"frames_{name}": getattr(self.counts, name) for name in STATES}
        timings = {
            f"{what}_ms_p{p}": round(value, 3)
            for what, values in (
                ("latency", self.latency_ms),
                ("overhead", self.overhead_ms),
                ("newest", self.newest_ms),
            )
            for p, value in zip((50, 95, 99), values, strict=True)
        }
        return {
            **counts,
            "frames_caught_up": self.caught_up,
            "frames_per_s": round(self.frames_per_s, 2),
            **timings,
            "engine_ms_p50": round(self.engine_ms, 3),
            **{
                f"frames_{name}": count
                for name, count in self.verdicts.items()
                if name not in STATES
            },
        }


def read_attempts(datasets: Iterable[Path]) -> list[Attempt]:
    """The latest attempt at each frame, from the ledgers beside refocused datasets."""
    return [attempt for dataset in datasets for attempt in attempts_of(dataset)]


def count_verdicts(attempts: Iterable[Attempt]) -> dict[str, int]:
    """Frames by verdict, in the order of `VERDICTS`; those without one are not counted."""
    counted = Counter(str((attempt.facts or {}).get("verdict", "")) for attempt in attempts)
    return {name: counted[name] for name in VERDICTS if counted[name]}


def run_figures(counts: Sequence[Counts], attempts: Sequence[Attempt]) -> RunFigures:
    """Figures of acquisitions that ran one after the other."""
    live = [a for a in attempts if a.live and a.latency_ms is not None and a.engine_ms is not None]
    latency = np.array([a.latency_ms for a in live] or [np.nan])
    engine = np.array([a.engine_ms for a in live] or [np.nan])
    seconds = 0.0
    for key in {a.acquisition for a in attempts}:
        own = [a for a in attempts if a.acquisition == key]
        seconds += max(a.at for a in own) - min(a.at - (a.latency_ms or 0.0) / 1e3 for a in own)
    total = Counts(**{name: sum(getattr(c, name) for c in counts) for name in STATES})
    return RunFigures(
        counts=total,
        caught_up=sum(not a.live for a in attempts),
        frames_per_s=len(attempts) / seconds if seconds > 0 else 0.0,
        latency_ms=_percentiles(latency),
        overhead_ms=_percentiles(latency - engine),
        newest_ms=_percentiles(_newest_ms(live)),
        engine_ms=float(np.median(engine)),
        verdicts=count_verdicts(attempts),
    )


def _newest_ms(live: Sequence[Attempt]) -> NDArray[np.float64]:
    """Latency of the live frames that were written before any newer one of their acquisition."""
    newest: dict[str, float] = {}
    found = []
    for attempt in sorted(live, key=lambda attempt: attempt.at):
        taken_at = attempt.at - (attempt.latency_ms or 0.0) / 1e3
        if taken_at > newest.get(attempt.acquisition, 0.0):
            newest[attempt.acquisition] = taken_at
            found.append(attempt.latency_ms)
    return np.array(found or [np.nan])


def _percentiles(values: Any) -> tuple[float, float, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return float(p50), float(p95), float(p99)
