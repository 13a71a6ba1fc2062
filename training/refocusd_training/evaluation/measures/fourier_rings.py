"""Fourier-ring correlation: the smallest detail at which a frame agrees with the truth.

W. O. Saxton and W. Baumeister, J. Microsc. 127, 127 (1982); the thresholds: P. B. Rosenthal
and R. Henderson, J. Mol. Biol. 333, 721 (2003); in light microscopy: R. P. J. Nieuwenhuizen
et al., Nat. Methods 10, 557 (2013).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.signal import windows

from refocusd.errors import InputError

#: Threshold between two frames that both have noise.
BETWEEN_NOISY = 1 / 7
#: Threshold to a truth without noise, for the same signal-to-noise ratio: sqrt(2 c / (1 + c)) for c = 1/7.
TO_NOISE_FREE = 0.5
#: Number of rings that are averaged, because a single ring with few frequencies is noisy.
SMOOTHED = 3


def ring_correlation(image: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Correlation of two frames on rings of equal spatial frequency.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
        The square in the middle is used, under a Tukey window, so that borders do not count.

    Returns
    -------
    ndarray of float64, shape (rings,)
        Ring k covers the frequencies from k to k + 1 cycles per side; the last one ends at Nyquist.

    Raises
    ------
    InputError
        If the shapes differ or a side is below 32 px.
    """
    if image.shape != truth.shape or image.ndim != 2 or min(image.shape) < 32:
        raise InputError(
            f"frames of shape {image.shape} and {truth.shape} have no ring correlation: give two "
            "of the same shape, at least 32 px a side"
        )
    side = min(image.shape) // 2 * 2
    window = np.outer(windows.tukey(side, 0.25), windows.tukey(side, 0.25))
    a, b = (scipy.fft.fft2(_middle(frame, side) * window) for frame in (image, truth))
    frequency = scipy.fft.fftfreq(side, 1 / side)
    ring = np.hypot(frequency[:, None], frequency[None, :]).astype(np.intp).ravel()

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(ring, values.ravel())[: side // 2], dtype=np.float64)

    norm = np.sqrt(summed(np.abs(a) ** 2) * summed(np.abs(b) ** 2))
    return np.asarray(summed((a * b.conj()).real) / np.maximum(norm, 1e-300))


def ring_resolution_um(
    image: NDArray[Any],
    truth: NDArray[Any],
    pixel_um: float,
    *,
    threshold: float = TO_NOISE_FREE,
) -> float:
    """Period of the finest structure that both frames show.

    It is the period at which the correlation, averaged over three rings, first falls below the threshold.

    Parameters
    ----------
    image, truth : ndarray of real numbers, shape (height, width)
    pixel_um : float
    threshold : float
        `TO_NOISE_FREE` or `BETWEEN_NOISY`.

    Returns
    -------
    float
        In um: at best two pixels (Nyquist), at worst the frame's side.
    """
    curve = ring_correlation(image, truth)
    side = 2 * curve.size
    padded = np.concatenate([curve[:1], curve, curve[-1:]])
    smooth = np.convolve(padded, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
    # Ring 0 is the mean, which has been subtracted.
    below = np.flatnonzero(smooth[1:] < threshold) + 1
    if below.size == 0:
        return 2 * pixel_um
    ring = int(below[0])
    if ring == 1:
        return side * pixel_um
    before, after = smooth[ring - 1], smooth[ring]
    crossed = ring - 1 + (before - threshold) / (before - after)
    # The middle of ring k is at k + 1/2.
    return float(side * pixel_um / min(crossed + 0.5, side / 2))


def _middle(frame: NDArray[Any], side: int) -> NDArray[np.float64]:
    top, left = ((length - side) // 2 for length in frame.shape)
    cut = frame[top : top + side, left : left + side].astype(np.float64)
    return np.asarray(cut - cut.mean())
