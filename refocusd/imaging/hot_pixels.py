"""Pixels that stand alone: no light that came through a lens does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

Floats = NDArray[np.float32]

#: Median absolute value of a normal variable, in standard deviations.
_MEDIAN_ABSOLUTE = 0.6745
#: Hot pixels are brighter than what is around them by so many times the noise, and one count.
_OVER_NOISE = 8.0
#: Of a point's light its neighbours get 0.13 of its own even where the PSF's standard deviation is
#: half a pixel; those of a hot pixel get nothing.
_LIGHTENED = 0.12
#: Where there is light there is more noise: they are also brighter by so many times what their eight neighbours
#: differ by, which noise alone is once in 100 000 pixels.
_OVER_NEIGHBOURS = 2.0
_AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2))


def pixel_noise(frame: Floats) -> float:
    """Standard deviation of a pixel's noise, by its diagonal neighbours (Immerkaer, 1996)."""
    mixed = frame[1::2, 1:] - frame[1::2, :-1] - frame[:-1:2, 1:] + frame[:-1:2, :-1]
    return float(np.median(np.abs(mixed[::2]))) / (2 * _MEDIAN_ABSOLUTE)


def without_hot_pixels(raw: Pixels) -> Floats:
    """The counts of a frame, those of hot pixels replaced by their neighbours' mean.

    Sharp as they are, they would pass for focus in a blurred frame, and come out as bright spots.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)
        At least 5 px a side.  Not changed.

    Returns
    -------
    ndarray of float32, same shape
    """
    frame = raw.astype(np.float32)
    over = _OVER_NOISE * pixel_noise(frame) + 1
    y, x = _candidates(raw, over)
    around = np.stack([frame[y + down, x + right] for down, right in _AROUND])
    near, far = around[:4].mean(axis=0), around[4:].mean(axis=0)
    excess = frame[y, x] - far
    least = np.maximum(over, _OVER_NEIGHBOURS * np.ptp(around, axis=0))
    hot = (excess > least) & (near - far < _LIGHTENED * excess)
    frame[y[hot], x[hot]] = near[hot]
    return frame


def _candidates(raw: Pixels, over: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels that far over both neighbours in their row: few, so that they alone are looked at closely."""
    most = np.iinfo(raw.dtype).max
    step = min(int(over), int(most))
    beside = np.maximum(raw[2:-2, 1:-3], raw[2:-2, 3:-1])
    limit = np.minimum(beside, raw.dtype.type(most - step)) + raw.dtype.type(step)
    y, x = np.nonzero(raw[2:-2, 2:-2] > limit)
    return y + 2, x + 2
