"""Measures a network's receptive field, which is the halo that tiles need."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels

#: A change of the output that does not matter, in network units.
NEGLIGIBLE = 1e-3
#: Fields are multiples of this, in px.
STEP = 16

_Frame = TypeVar("_Frame", NDArray[np.float32], Pixels)
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def measured_field_px(
    network: Network, frames: Sequence[NDArray[np.float32]], *, multiple: int = 1, size: int = 512
) -> int | None:
    """Radius beyond which pixels do not matter to the output.

    The smallest radius (a multiple of 16 px, in the maximum norm) such that replacing
    every pixel farther away by another frame, or by an empty one, changes the output at the centre by less
    than 1e-3 in network units, on all frames.  What is replaced is the worst that a tile's
    border can do.  Found by bisection: farther pixels are taken to matter less.

    Parameters
    ----------
    network : callable
        (n, 1, height, width) to the same shape, float32, network units.
    frames : sequence of ndarray of float32, shape (height, width)
        At least two, in network units.
    multiple : int
        Height and width that the network takes are multiples of this, in px.
    size : int
        Side of the frames tried, in px; radii reach up to half of it, less 8 px.

    Returns
    -------
    int or None
        None if even the farthest pixels matter.
    """
    size = -(-size // multiple) * multiple
    tried = [middle_square(frame, size) for frame in frames]
    others = [np.ascontiguousarray(frame[::-1, ::-1]) for frame in tried[1:] + tried[:1]]
    # Frames of one specimen have one mean: a network that looks at that shows it on nothing.
    tried.append(tried[0])
    others.append(np.zeros_like(tried[0]))
    middle = size // 2
    # The 16 pixels of the centre lie at several phases of the network's grids.
    centre = (slice(middle - 8, middle + 8),) * 2
    whole = [network(frame[None, None])[0, 0][centre] for frame in tried]

    def matters(radius: int) -> bool:
        inside = (slice(middle - radius - 8, middle + radius + 8),) * 2
        for frame, other, expected in zip(tried, others, whole, strict=True):
            mixed = other.copy()
            mixed[inside] = frame[inside]
            found = network(mixed[None, None])[0, 0][centre]
            if float(np.abs(found - expected).max()) >= NEGLIGIBLE:
                return True
        return False

    largest = (middle - 8) // STEP
    if matters(largest * STEP):
        return None
    return STEP * bisect.bisect_left(
        range(largest), True, key=lambda step: not matters(step * STEP)
    )


def middle_square(frame: _Frame, size: int) -> _Frame:
    """The middle of a frame, mirrored at its borders if it is too small."""
    short = [(max(0, size - side) // 2, -(-max(0, size - side) // 2)) for side in frame.shape]
    padded = np.pad(frame, short, mode="symmetric")
    top, left = ((side - size) // 2 for side in padded.shape)
    return np.ascontiguousarray(padded[top : top + size, left : left + size])
