"""What a run came to: counts, rates, latencies, and quality where the truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from refocusd.cli.console import plain
from refocusd.datasets.run_folder import LEDGER_COPY
from refocusd.frame import Pixels
from refocusd.imaging.quality import compare, focus_score
from refocusd.ledger import Attempt, Ledger
from refocusd.transport.messages import Counts

__all__ = [
    "Comparison",
    "RunFigures",
    "by_level",
    "compare_frames",
    "quality_table",
    "read_attempts",
    "run_figures",
]


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
        p50, p95, p99 of the live frames: from the hook to the disk; the same
        less the time in the engine.
    engine_ms : float
        Median time in the engine.
    """

    counts: Counts
    caught_up: int
    frames_per_s: float
    latency_ms: tuple[float, float, float]
    overhead_ms: tuple[float, float, float]
    engine_ms: float

    def as_json(self) -> dict[str, Any]:
        """The figures with their units in the keys."""
        counts = {f"frames_{name}": getattr(self.counts, name) for name in _STATES}
        timings = {
            f"{what}_ms_p{p}": round(value, 3)
            for what, values in (("latency", self.latency_ms), ("overhead", self.overhead_ms))
            for p, value in zip((50, 95, 99), values, strict=True)
        }
        return {
            **counts,
            "frames_caught_up": self.caught_up,
            "frames_per_s": round(self.frames_per_s, 2),
            **timings,
            "engine_ms_p50": round(self.engine_ms, 3),
        }

    def table(self, title: str) -> Table:
        """The figures as a table."""
        table = Table(title=plain(title), show_header=False, title_justify="left", box=box.SIMPLE)
        for name in _STATES:
            table.add_row(f"frames {name.replace('_', ' ')}", str(getattr(self.counts, name)))
        if self.caught_up:
            table.add_row("  of these caught up from raw", str(self.caught_up))
        table.add_row("frames per second", f"{self.frames_per_s:.1f}")
        for what, values in (
            ("latency, hook to disk", self.latency_ms),
            ("  of it outside the engine", self.overhead_ms),
        ):
            table.add_row(f"{what} p50/p95/p99", " / ".join(f"{v:.1f}" for v in values) + " ms")
        table.add_row("engine, median", f"{self.engine_ms:.1f} ms")
        return table


_STATES = ("acquired", "refocused", "passed_through", "skipped", "failed", "pending")


def read_attempts(datasets: Iterable[Path]) -> list[Attempt]:
    """The latest attempt at each frame, from the ledgers beside refocused datasets."""
    attempts: list[Attempt] = []
    for dataset in datasets:
        with Ledger(dataset / LEDGER_COPY, read_only=True) as ledger:
            for acquisition in ledger.acquisitions():
                attempts += ledger.attempts(acquisition)
    return attempts


def run_figures(counts: Sequence[Counts], attempts: Sequence[Attempt]) -> RunFigures:
    """Figures of acquisitions that ran one after the other."""
    live = [a for a in attempts if a.live and a.latency_ms is not None and a.engine_ms is not None]
    latency = np.array([a.latency_ms for a in live] or [np.nan])
    engine = np.array([a.engine_ms for a in live] or [np.nan])
    seconds = 0.0
    for key in {a.acquisition for a in attempts}:
        own = [a for a in attempts if a.acquisition == key]
        seconds += max(a.at for a in own) - min(a.at - (a.latency_ms or 0.0) / 1e3 for a in own)
    total = Counts(**{name: sum(getattr(c, name) for c in counts) for name in _STATES})
    return RunFigures(
        counts=total,
        caught_up=sum(not a.live for a in attempts),
        frames_per_s=len(attempts) / seconds if seconds > 0 else 0.0,
        latency_ms=_percentiles(latency),
        overhead_ms=_percentiles(latency - engine),
        engine_ms=float(np.median(engine)),
    )


def _percentiles(values: Any) -> tuple[float, float, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return float(p50), float(p95), float(p99)


#: What is compared with the in-focus plane: heading of the table, key in JSON, digits in both.
_QUALITIES = (
    ("PSNR dB", "psnr_db", ".1f", ".3f"),
    ("affine dB", "psnr_affine_db", ".1f", ".3f"),
    ("SSIM", "ssim", ".2f", ".4f"),
    ("Pearson", "pearson", ".2f", ".4f"),
    ("focus score", "focus_score", ".2g", ".4g"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Raw and refocused frames against the known in-focus plane: one frame, or the mean of a level.

    Parameters
    ----------
    level : float
        Distance from focus.
    before, after : ndarray of float64, shape (5,)
        Of the raw and of the refocused frame, in the order of the table: PSNR and affine PSNR (dB),
        SSIM, Pearson correlation, focus score.
    frames : int
    """

    level: float
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    frames: int = 1

    def as_json(self, unit: str) -> dict[str, Any]:
        """The figures with their units in the keys."""
        figures: dict[str, Any] = {f"defocus_{unit}": self.level, "frames": self.frames}
        for index, (_, key, _, digits) in enumerate(_QUALITIES):
            for when, values in (("before", self.before), ("after", self.after)):
                figures[f"{key}_{when}"] = float(format(values[index], digits))
        return figures


def by_level(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Means for each level, in order of the level."""
    levels = []
    for level in sorted({c.level for c in comparisons}):
        own = [c for c in comparisons if c.level == level]
        before, after = _mean([c.before for c in own]), _mean([c.after for c in own])
        levels.append(Comparison(level, before, after, len(own)))
    return levels


def compare_frames(
    level: float, raw: Pixels, refocused: Pixels, truth: NDArray[Any], *, register: bool
) -> Comparison:
    """Compare one frame before and after with the in-focus plane.

    Parameters
    ----------
    level : float
        Its distance from the in-focus plane.
    raw, refocused : ndarray of uint8 or uint16
    truth : ndarray
        The in-focus plane, same shape.
    register : bool
        Shift both onto the truth first: a real stage drifts between planes.
    """

    def figures(pixels: Pixels) -> NDArray[np.float64]:
        q = compare(pixels, truth, register=register)
        return np.array([q.psnr_db, q.psnr_affine_db, q.ssim, q.pearson, focus_score(pixels)])

    return Comparison(level, figures(raw), figures(refocused))


def quality_table(levels: Sequence[Comparison], unit: str, title: str) -> Table:
    """Before → after, a row a level."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    # Fits a terminal of 80 columns.
    for heading in (unit, "n", *(quality[0] for quality in _QUALITIES)):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in levels:
        cells = [
            f"{before:{digits}}→{after:{digits}}"
            for (_, _, digits, _), before, after in zip(
                _QUALITIES, level.before, level.after, strict=True
            )
        ]
        table.add_row(f"{level.level:g}", str(level.frames), *cells)
    return table


def _mean(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Column means.

    A frame equal to the truth has an infinite PSNR, which would hide the others.
    """
    values = np.array(rows)
    finite = np.isfinite(values)
    means: NDArray[np.float64] = values.mean(0, where=finite | ~finite.any(0))
    return means
