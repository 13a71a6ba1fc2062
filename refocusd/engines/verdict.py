"""What is said of a refocused frame: whether it needed refocusing, and its flux."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from refocusd.frame import Pixels

__all__ = ["IN_FOCUS_RATIO", "flux_ratio", "verdict"]

#: A raw frame at least this sharp, relative to what the engine made of it, is
#: in focus already: writing it as it is cannot invent anything.
IN_FOCUS_RATIO = 0.96
#: Samples that decide a ratio of sums to well under a percent.
MAX_SAMPLES = 1 << 18


def verdict(focus_before: float, focus_after: float) -> Literal["refocused", "in focus"]:
    """``in focus`` when the engine found next to nothing to sharpen.

    Parameters
    ----------
    focus_before, focus_after : float
        `refocusd.imaging.quality.focus_score` of the raw and the refocused frame.
    """
    if focus_before > 0 and focus_before >= IN_FOCUS_RATIO * focus_after:
        return "in focus"
    return "refocused"


def flux_ratio(raw: Pixels, refocused: Pixels, offset: float) -> float:
    """Sum over `offset` counts of the refocused frame, over that of the raw one.

    Defocus moves light but neither makes nor destroys it, so a ratio far from
    one says that flux was invented or lost.  1.0 for a frame without signal.
    """
    stride = max(1, math.ceil(math.sqrt(raw.size / MAX_SAMPLES)))
    before = float(np.mean(raw[::stride, ::stride], dtype=np.float64)) - offset
    after = float(np.mean(refocused[::stride, ::stride], dtype=np.float64)) - offset
    return after / before if before > 1e-6 else 1.0
