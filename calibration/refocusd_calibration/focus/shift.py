"""How far a plane lies sideways of the one before, and how alike the two are.

Cross-correlation by Fourier transform, once per plane, of the middle of the frame, not
whitened (a defocused plane has only noise at the frequencies that would raise), its
peak refined by a parabola.  A tenth of a pixel is all that is asked of it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.signal import windows

from refocusd.frame import Pixels

__all__ = ["Look", "compare_looks", "look_at"]

#: Side of the middle of the frame that is looked at, px.
SIDE = 384
#: Shifts above this share of that side are not found.
SHARE = 1 / 6


@dataclass(frozen=True, slots=True)
class Look:
    """The part of a plane that the next plane is compared with.

    Parameters
    ----------
    pixels : ndarray
        The middle of the frame.
    spectrum : ndarray of complex
        Of the same, less its mean and windowed.
    energy : float
        Its sum of squares.
    """

    pixels: Pixels
    spectrum: NDArray[np.complex64]
    energy: float


def look_at(frame: Pixels) -> Look:
    """Prepare the middle of a frame for comparison."""
    middle = frame[_middle(frame.shape[0]), _middle(frame.shape[1])]
    # Without a window the edges, which do not move, would hold the peak at zero.
    window = np.outer(*(windows.tukey(side, 0.25) for side in middle.shape)).astype(np.float32)
    image = (middle - np.float32(middle.mean())) * window
    return Look(middle.copy(), scipy.fft.rfft2(image), float((image**2).sum()))


def compare_looks(after: Look, before: Look) -> tuple[tuple[float, float], float]:
    """Shift down and right of a plane against the one before, px, and their correlation.

    Returns
    -------
    (float, float)
        At most a sixth of the middle; (0, 0) if either plane is constant.
    float
        Correlation with the shift undone, -1 to 1.
    """
    norm = math.sqrt(after.energy * before.energy)
    if norm <= 0:
        return (0.0, 0.0), 0.0
    height, width = after.pixels.shape
    product = after.spectrum * np.conj(before.spectrum)
    correlation = scipy.fft.irfft2(product, s=(height, width)) / norm
    reach = max(1, int(SHARE * min(height, width)))
    near = np.roll(correlation, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    row, column = np.unravel_index(int(np.argmax(near)), near.shape)
    dy = row - reach + _refined(near[:, column], int(row))
    dx = column - reach + _refined(near[row], int(column))
    return (float(dy), float(dx)), float(near[row, column])


def _middle(side: int) -> slice:
    start = max(0, (side - SIDE) // 2)
    return slice(start, start + min(side, SIDE))


def _refined(line: NDArray[np.float32], peak: int) -> float:
    """Where the parabola through a maximum and its neighbours has its own, from it."""
    if not 0 < peak < len(line) - 1:
        return 0.0
    left, top, right = (float(value) for value in line[peak - 1 : peak + 2])
    bend = left - 2 * top + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
