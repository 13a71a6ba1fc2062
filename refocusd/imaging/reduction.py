"""Reduces frames until their blur has a given width, and enlarges them again.

A blurred frame holds nothing at high frequencies, so nothing is lost by working on fewer pixels.  Each
pixel of the reduced frame is the mean over its area, and frames are enlarged by cubic splines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Reduced frames have at least this side, px.
LEAST_SIDE_PX = 8


@dataclass(frozen=True, slots=True)
class Reduction:
    """Resamples frames of one size to a smaller one, and back.

    Parameters
    ----------
    whole, small : (int, int)
        Height and width, px; equal if nothing is reduced.
    """

    whole: tuple[int, int]
    small: tuple[int, int]

    @classmethod
    def to_blur(cls, shape: tuple[int, int], sigma_px: float, wanted_px: float) -> Reduction:
        """The reduction that makes a blur as narrow as wanted; it never enlarges.

        Parameters
        ----------
        shape : (int, int)
            Height and width of the frame, px.
        sigma_px : float
            Standard deviation of the blur, px.
        wanted_px : float
            The same in the reduced frame.
        """
        height, width = (_reduced_side(side, sigma_px / wanted_px) for side in shape)
        return cls((shape[0], shape[1]), (height, width))

    @property
    def factor(self) -> float:
        """Number of the frame's pixels, along a side, that become one."""
        return math.sqrt(math.prod(self.whole) / math.prod(self.small))

    def reduced(self, frame: Floats) -> Floats:
        """Reduce a frame of shape `whole` to shape `small`."""
        if self.small == self.whole:
            return frame
        return _resampled(frame, self.small, _averaging)

    def enlarged(self, small: Floats) -> Floats:
        """Enlarge a frame of shape `small` to shape `whole`."""
        if self.small == self.whole:
            return small
        coefficients = scipy.ndimage.spline_filter(small, 3, np.float32, mode="reflect")
        return _resampled(coefficients, self.whole, _cubic)


def _reduced_side(side: int, factor: float) -> int:
    wanted = round(side / max(1.0, factor))
    if factor <= 1 or wanted >= side:
        return side
    return min(side, max(int(scipy.fft.next_fast_len(wanted, real=True)), LEAST_SIDE_PX))


def _resampled(
    frame: Floats, shape: tuple[int, ...], matrix: Callable[[int, int], scipy.sparse.csr_array]
) -> Floats:
    """Resample a frame to another shape, one axis after the other."""
    across = matrix(frame.shape[0], shape[0]) @ frame
    return np.ascontiguousarray((matrix(frame.shape[1], shape[1]) @ across.T).T, dtype=np.float32)


@lru_cache(maxsize=16)
def _averaging(have: int, want: int) -> scipy.sparse.csr_array:
    """Matrix of the means over the pixels, and parts of pixels, that each new pixel covers."""
    edges = np.linspace(0, have, want + 1)
    rows, columns, weights = [], [], []
    for row in range(want):
        first, last = math.floor(edges[row] + 1e-9), math.ceil(edges[row + 1] - 1e-9)
        covered = np.arange(first, min(last, have))
        share = np.minimum(edges[row + 1], covered + 1) - np.maximum(edges[row], covered)
        rows.append(np.full(len(covered), row))
        columns.append(covered)
        weights.append(share / share.sum())
    return _sparse(
        np.concatenate(rows), np.concatenate(columns), np.concatenate(weights), want, have
    )


@lru_cache(maxsize=16)
def _cubic(have: int, want: int) -> scipy.sparse.csr_array:
    """Matrix of a cubic spline's values at the centres of the new pixels, from its coefficients."""
    places = (np.arange(want) + 0.5) * have / want - 0.5
    left = np.floor(places).astype(int)
    part = places - left
    weights = np.stack(
        [
            (1 - part) ** 3 / 6,
            2 / 3 - part**2 * (2 - part) / 2,
            2 / 3 - (1 - part) ** 2 * (1 + part) / 2,
            part**3 / 6,
        ]
    )
    columns = left + np.arange(-1, 3)[:, None]
    columns = np.where(columns < 0, -1 - columns, columns)
    columns = np.where(columns >= have, 2 * have - 1 - columns, columns)
    rows = np.broadcast_to(np.arange(want), columns.shape)
    return _sparse(rows.ravel(), columns.ravel(), weights.ravel(), want, have)


def _sparse(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    weights: NDArray[np.float64],
    want: int,
    have: int,
) -> scipy.sparse.csr_array:
    entries = (weights.astype(np.float32), (rows, columns))
    return scipy.sparse.csr_array(entries, shape=(want, have))
