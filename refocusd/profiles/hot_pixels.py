"""Replaces defective pixels in the copy of a frame that an engine sees.

To a network, a hot pixel looks like a point of light, and the network turns it into a
disc or a sharp spot that was not in the specimen. The raw file is never changed, and
neither is a frame that is passed through.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

#: Most pixels of a profile that are replaced: the first ones, which are the hottest.
MAX_HOT_PIXELS = 1 << 16
#: Good neighbours are searched for in squares of these radii, in px, one after the other ...
RADII = (1, 2, 4)
#: ... until this many are found.
ENOUGH = 3


def hot_indices(
    hot: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    frame: tuple[int, int],
    roi: tuple[int, int, int, int] | None,
) -> list[int] | None:
    """Positions of a profile's hot pixels in a frame.

    Parameters
    ----------
    hot : sequence of (y, x)
        In frames of `shape`.
    shape : (height, width)
        Of the frames that the profile was measured on.
    frame : (height, width)
        Of the frames to correct.
    roi : (x, y, width, height) or None
        Region of the chip that the frames show, from their metadata.

    Returns
    -------
    list of int or None
        ``y * width + x`` in the frame, in the order of `hot`; None if the position of the
        frame on the chip is unknown.
    """
    x0 = y0 = 0
    if roi is not None and (roi[3], roi[2]) == frame:
        x0, y0 = roi[0], roi[1]
    elif frame != shape:
        return None
    # The frame has the profile's shape but another origin: the profile shows another region.
    if y0 + frame[0] > shape[0] or x0 + frame[1] > shape[1]:
        return None
    inside = ((y - y0, x - x0) for y, x in hot)
    found = (y * frame[1] + x for y, x in inside if 0 <= y < frame[0] and 0 <= x < frame[1])
    return list(dict.fromkeys(found))[:MAX_HOT_PIXELS]


class HotPixels:
    """The pixels of a frame that are replaced, and the neighbours that replace them.

    Parameters
    ----------
    indices : sequence of int
        ``y * width + x``; those outside the frame are left out.
    shape : (height, width)
    """

    def __init__(self, indices: Sequence[int], shape: tuple[int, int]) -> None:
        self.shape = shape
        height, width = shape
        hot = np.unique(np.asarray(indices, dtype=np.int64).reshape(-1))
        hot = hot[(hot >= 0) & (hot < height * width)]
        bad = np.zeros(height * width, dtype=bool)
        bad[hot] = True
        #: For each radius: pixels, their neighbours (good ones first), how many are good.
        self._groups: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
        left = hot
        for radius in RADII:
            offsets = np.arange(-radius, radius + 1)
            y = (left // width)[:, None, None] + offsets[None, :, None]
            x = (left % width)[:, None, None] + offsets[None, None, :]
            there = ((y >= 0) & (y < height) & (x >= 0) & (x < width)).reshape(
                len(left), offsets.size**2
            )
            at = np.where(there, (y * width + x).reshape(len(left), offsets.size**2), 0)
            good = there & ~bad[at]
            count = good.sum(axis=1)
            done = count >= (ENOUGH if radius < RADII[-1] else 1)
            order = np.argsort(~good[done], axis=1, kind="stable")
            most = int(count[done].max(initial=0))
            nearest = np.take_along_axis(at[done], order, axis=1)[:, :most]
            self._groups.append((left[done], nearest, count[done]))
            left = left[~done]

    def __bool__(self) -> bool:
        return any(len(pixels) for pixels, _, _ in self._groups)

    def repaired(self, raw: Pixels) -> Pixels:
        """A copy with every hot pixel replaced by the median of its good neighbours.

        Parameters
        ----------
        raw : ndarray of uint8 or uint16, shape (height, width)
            Not changed. A pixel without a good neighbour keeps its counts.
        """
        out = raw.copy()
        flat, source = out.reshape(-1), raw.reshape(-1)
        for pixels, neighbours, count in self._groups:
            if not len(pixels):
                continue
            values = source[neighbours].astype(np.int32)
            beyond = np.arange(values.shape[1])[None, :] >= count[:, None]
            values[beyond] = np.iinfo(np.int32).max
            values.sort(axis=1)
            rows = np.arange(len(pixels))
            middle = values[rows, (count - 1) // 2] + values[rows, count // 2]
            flat[pixels] = (middle // 2).astype(raw.dtype)
        return out
