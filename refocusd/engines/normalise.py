"""Offset and scale of a whole frame: what an engine sees is (counts - offset) / scale.

Computed once per whole frame in float32, before any tiling and before any half
precision (65535 is infinite in fp16), and undone on the engine's output, so
that a refocused frame keeps the raw frame's counts scale and background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

__all__ = ["CountsRange", "counts_range"]

#: Above this many pixels a regular grid of them is used: 1/512 of the range is
#: all that percentiles of a quarter million samples can be off by.
MAX_SAMPLES = 1 << 18
#: A frame flatter than this (in counts) is not stretched to full range: it
#: would be noise, and the engine would be asked to invent structure in it.
MIN_SCALE = 16.0


@dataclass(frozen=True, slots=True)
class CountsRange:
    """Affine map between camera counts and what an engine sees.

    Parameters
    ----------
    offset, scale : float
        In counts; ``normalised = (counts - offset) / scale``.
    """

    offset: float
    scale: float

    def normalise(self, pixels: Pixels) -> NDArray[np.float32]:
        """(counts - offset) / scale as float32, same shape."""
        out = pixels.astype(np.float32)
        out -= np.float32(self.offset)
        out *= np.float32(1.0 / self.scale)
        return out


def counts_range(pixels: Pixels, low: float = 1.0, high: float = 99.9) -> CountsRange:
    """Offset and scale of one frame from two percentiles of its histogram.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (height, width)
    low, high : float
        Percentiles (0-100): offset = P(low), scale = P(high) - P(low), at
        least 16 counts.

    Returns
    -------
    CountsRange
    """
    stride = max(1, math.ceil(math.sqrt(pixels.size / MAX_SAMPLES)))
    sample = pixels[::stride, ::stride]
    # A histogram is exact for integer counts and five times faster than a sort.
    cumulative = np.cumsum(np.bincount(sample.ravel()))
    total = int(cumulative[-1])
    offset = int(np.searchsorted(cumulative, low / 100 * total))
    top = int(np.searchsorted(cumulative, high / 100 * total))
    return CountsRange(offset=float(offset), scale=max(float(top - offset), MIN_SCALE))
