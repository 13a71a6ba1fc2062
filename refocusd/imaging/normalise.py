"""Offset and scale of a whole frame: an engine sees (counts - offset) / scale.

The counts are normalised in float32, before any conversion to half precision (65535 is infinite in
fp16), with one offset and scale for all tiles of a frame. The map is undone on the engine's output, so
that a refocused frame keeps the raw frame's counts scale and background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import EngineError
from refocusd.frame import Pixels

#: Of larger frames, only a regular grid of this many pixels is used: percentiles of a quarter of a
#: million samples are off by at most 1/512 of the range.
MAX_SAMPLES = 1 << 18
#: A frame with a smaller range than this (in counts) is not stretched to full range:
#: it holds only noise, in which the engine would have to invent structure.
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

    def normalise(
        self, pixels: Pixels, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return (counts - offset) / scale as float32, same shape; in `out` if it is given."""
        out = np.subtract(pixels, np.float32(self.offset), out=out, dtype=np.float32)
        out *= np.float32(1.0 / self.scale)
        return out

    def restore(self, values: NDArray[np.float32], out: Pixels) -> int:
        """Undo `normalise`: round to counts, and clip to the range of the type.

        Parameters
        ----------
        values : ndarray of float32, shape (height, width)
            Output of an engine, in normalised units. Overwritten.
        out : ndarray of uint8 or uint16, same shape
            Filled with counts.

        Returns
        -------
        int
            Number of clipped pixels.

        Raises
        ------
        EngineError
            If a value is not finite; the contents of `out` are then undefined.
        """
        values *= np.float32(self.scale)
        values += np.float32(self.offset)
        np.rint(values, out=values)
        # The extremes reveal NaN and infinity, too, and usually that nothing has to be clipped.
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise EngineError(
                "the network returned pixels that are not finite; set precision to f32, or use "
                "another model"
            )
        top = np.iinfo(out.dtype).max
        clipped = 0
        if low < 0 or high > top:
            clipped = int(np.count_nonzero((values < 0) | (values > top)))
            np.clip(values, 0, top, out=values)
        np.copyto(out, values, casting="unsafe")
        return clipped


def check_frame(raw: Pixels, out: Pixels) -> None:
    """Refuse frames that an engine cannot process, before anything is computed.

    Parameters
    ----------
    raw, out : ndarray
        Arguments of `Engine.refocus`.

    Raises
    ------
    EngineError
        If `raw` is not a 2-D frame of uint8 or uint16 with pixels in it, or `out` is of
        another shape or type.
    """
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16) or raw.size == 0:
        raise EngineError(
            f"an engine takes 2-D frames of uint8 or uint16, not {raw.dtype} of shape {raw.shape}; "
            "give it the camera's counts, one channel a frame"
        )
    if out.shape != raw.shape or out.dtype != raw.dtype:
        raise EngineError(
            f"a frame of {raw.dtype} {raw.shape} cannot be refocused into {out.dtype} {out.shape}; "
            "give an output of the same shape and type"
        )


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
