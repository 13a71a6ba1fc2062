"""Hot pixels: bright pixels that stand alone, as light that came through a lens never does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

Floats = NDArray[np.float32]

#: Median absolute value of a normal variable, in standard deviations.
_MEDIAN_ABSOLUTE = 0.6745
#: A hot pixel is brighter than its surroundings by this many times the noise plus one count.
_OVER_NOISE = 8.0
#: Even with a PSF of half a pixel standard deviation, the neighbours of a point of light have 0.13 of its
#: brightness; the neighbours of a hot pixel have nothing of it.
_LIGHTENED = 0.12
#: Bright places are noisier: a hot pixel is also brighter by this many times the range of its eight
#: neighbours, which noise alone exceeds once in 100 000 pixels.
_OVER_NEIGHBOURS = 2.0
#: Smaller frames have no pixel with all these neighbours, px.
_LEAST_SIDE_PX = 5
_AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2))
#: If more than one pixel in this many stands out of its row, they are the specimen, and none is hot.
_LEAST_APART = 100
#: Candidates are searched in bands of this many rows, which fit into the processor's cache.
_ROWS = 32


def pixel_noise(frame: Pixels | Floats) -> float:
    """Standard deviation of a pixel's noise, from diagonal neighbours (Immerkær, 1996), in counts.

    Of larger frames, about half a million pixels are used.

    Parameters
    ----------
    frame : ndarray, shape (height, width)
    """
    step = 4 * max(1, frame.size >> 20)
    low, high = frame[1::step].astype(np.float32), frame[:-1:step].astype(np.float32)
    low -= high[: len(low)]
    return float(np.median(np.abs(low[:, 1:] - low[:, :-1]))) / (2 * _MEDIAN_ABSOLUTE)


def without_hot_pixels(raw: Pixels) -> Floats:
    """Replace the hot pixels of a frame by the mean of their neighbours.

    Hot pixels are sharp: a blurred frame would seem to be in focus, and they would become bright spots.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)
        At least 5 px a side.  Not changed.

    Returns
    -------
    ndarray of float32, same shape
    """
    frame = raw.astype(np.float32)
    y, x, around = _hot_pixels(raw)
    frame[y, x] = around
    return frame


@dataclass(frozen=True, slots=True)
class Mending:
    """The hot pixels of a frame and their replacements, for frames that are processed in parts.

    Parameters
    ----------
    y, x : ndarray of int, shape (count,)
    counts : ndarray of float32, shape (count,)
        The mean of each pixel's neighbours.
    """

    y: NDArray[np.intp]
    x: NDArray[np.intp]
    counts: Floats

    @classmethod
    def of(cls, raw: Pixels) -> Mending:
        """Find the hot pixels of a frame; frames with a side under 5 px have none."""
        if min(raw.shape) < _LEAST_SIDE_PX:
            return cls(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))
        return cls(*_hot_pixels(raw))

    def part(self, raw: Pixels, place: tuple[slice, slice]) -> Pixels:
        """A part of the frame without its hot pixels; `raw` is not changed."""
        part = raw[place]
        (top, bottom), (left, right) = ((one.start, one.stop) for one in place)
        inside = (self.y >= top) & (self.y < bottom) & (self.x >= left) & (self.x < right)
        if inside.any():
            part = part.copy()
            part[self.y[inside] - top, self.x[inside] - left] = np.rint(self.counts[inside])
        return part


def _hot_pixels(raw: Pixels) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Rows and columns of the hot pixels, and the mean of their nearest neighbours."""
    over = _OVER_NOISE * pixel_noise(raw) + 1
    y, x = _candidates(raw, over)
    around = np.stack([raw[y + down, x + right] for down, right in _AROUND]).astype(np.float32)
    near, far = around[:4].mean(axis=0), around[4:].mean(axis=0)
    excess = raw[y, x] - far
    least = np.maximum(over, _OVER_NEIGHBOURS * np.ptp(around, axis=0))
    hot = (excess > least) & (near - far < _LIGHTENED * excess)
    return y[hot], x[hot], near[hot]


def _candidates(raw: Pixels, over: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels brighter than both neighbours in their row by `over` counts; only these few are checked further."""
    most = np.iinfo(raw.dtype).max
    step = min(int(over), int(most))
    limit, added = raw.dtype.type(most - step), raw.dtype.type(step)
    found, left = [], raw.size // _LEAST_APART
    for top in range(2, raw.shape[0] - 2, _ROWS):
        rows = raw[top : min(top + _ROWS, raw.shape[0] - 2)]
        beside = np.maximum(rows[:, 1:-3], rows[:, 3:-1])
        np.minimum(beside, limit, out=beside)
        beside += added
        y, x = np.nonzero(rows[:, 2:-2] > beside)
        if (left := left - y.size) < 0:
            return np.empty(0, np.intp), np.empty(0, np.intp)
        found.append((y + top, x + 2))
    y, x = (np.concatenate(each) for each in zip(*found, strict=True))
    return y, x
