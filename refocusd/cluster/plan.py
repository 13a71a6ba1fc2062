"""Predicts time and memory of a screen on a cluster, from frames measured on this computer."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from refocusd.cluster.job import engines_of
from refocusd.config import Settings
from refocusd.formats.dataset import Dataset
from refocusd.worker.refocus import refocus_frame

#: Side of the part of a slide that a dry run measures, px.
SLIDE_PART_PX = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """Predicted time and memory of a screen, from frames measured on this computer.

    Parameters
    ----------
    jobs, frames : int
        Number of positions with frames to refocus, and of these frames.
    frame_ms : float
        Time for one frame in one worker: the slower of the two measured frames.
    nbytes : int
        Size of all raw pixels, uncompressed; the output has as many, and its pyramid.
    worker_nbytes : int
        Memory that a worker needs.
    """

    jobs: int
    frames: int
    frame_ms: float
    nbytes: int
    worker_nbytes: int

    def hours(self, workers: int) -> float:
        """Predicted time with this number of workers, in hours; one worker refocuses one position."""
        busy = min(workers, self.jobs) or 1
        return self.frames * self.frame_ms / busy / 3.6e6

    def as_json(self, workers: int) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "jobs": self.jobs,
            "frames": self.frames,
            "frame_ms": round(self.frame_ms, 3),
            "raw_gb": round(self.nbytes / 1e9, 3),
            "worker_gb": round(self.worker_nbytes / 1e9, 3),
            "workers": workers,
            "hours": round(self.hours(workers), 4),
        }


def plan_of(frames: Dataset, keys: Sequence[str], settings: Settings) -> Plan:
    """Measure two frames on this computer, and predict the time and memory for all of them.

    Raises
    ------
    InputError
        If a frame cannot be read.
    """
    engines = engines_of(settings)
    keys = [key for key in keys if not frames.unfit(key)]
    times = []
    form = frames.first_format()
    # For a slide, a part of it is measured.
    most = SLIDE_PART_PX if has_slides(frames) else max(form.height, form.width)
    height, width = min(most, form.height), min(most, form.width)
    for key in [*keys[:1], *keys[-1:]]:
        begun = time.perf_counter()
        pixels = frames.read_part(key, slice(0, height), slice(0, width))
        refocus_frame(
            engines.engines[""], pixels, np.empty_like(pixels), pass_in_focus=settings.pass_in_focus
        )
        parts = form.height * form.width / (height * width)
        times.append((time.perf_counter() - begun) * 1e3 * parts)
    return Plan(
        jobs=len(by_position(keys)),
        frames=len(keys),
        frame_ms=max(times, default=0.0),
        nbytes=len(keys) * form.nbytes,
        worker_nbytes=psutil.Process().memory_info().rss + 4 * height * width * form.dtype.itemsize,
    )


def has_slides(frames: Dataset) -> bool:
    """Whether frames are too large for a daemon's ring, so that a job refocuses them in tiles."""
    first = next((key for key in frames.axes_keys() if not frames.unfit(key)), "")
    return bool(first) and frames.is_slide(first)


def by_position(keys: Sequence[str]) -> dict[str, list[str]]:
    """Keys by their position, "" for frames without one."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(str(json.loads(key).get("position", "")), []).append(key)
    return found
