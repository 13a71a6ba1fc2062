"""Deconvolution with a known PSF: the baseline that a network has to beat.

===================  ==========================================================
`richardson_lucy`    W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy,
                     Astron. J. 79, 745 (1974); with total variation: N. Dey et al.,
                     Microsc. Res. Tech. 69, 260 (2006)
`wiener`             R. C. Gonzalez and R. E. Woods, Digital Image Processing,
                     section 5.8, with one noise-to-signal ratio for all frequencies
===================  ==========================================================

They work in Fourier space with reflected borders, because direct convolution with
a PSF of 60 px is slow, and zero-padded borders cause ringing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

#: Transfer function of the blur on the `rfft2` half-spectrum of a shape.
Transfer = Callable[[tuple[int, int]], NDArray[np.float32]]

MARGIN = 64
#: Median absolute value of a normal variable, in standard deviations.
_MEDIAN_ABSOLUTE = 0.6745


def richardson_lucy(
    light: NDArray[np.float32],
    transfer: Transfer,
    iterations: int,
    *,
    total_variation: float = 0.0,
) -> Iterator[NDArray[np.float32]]:
    """Estimates of the in-focus light, one per iteration.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        Background-free counts; negative ones are set to 0.
    transfer : callable
        Returns the transfer function of the assumed blur; its PSF must be symmetric.
    iterations : int
    total_variation : float
        Weight of the total variation (lambda of Dey et al., who use 0.002); 0 for none.

    Yields
    ------
    ndarray of float32, same shape
        After 1, 2, ... `iterations` iterations.
    """
    observed = _padded(np.maximum(light, 0))
    otf = transfer((observed.shape[0], observed.shape[1]))
    inner = tuple(slice(MARGIN, MARGIN + side) for side in light.shape)
    floor = np.float32(max(1e-3 * float(observed.mean()), 1e-6))
    mean = max(float(observed.mean()), 1e-6)
    estimate: NDArray[np.float32] = np.full(observed.shape, mean, np.float32)

    def through(image: NDArray[np.float32]) -> NDArray[np.float32]:
        spectrum = scipy.fft.rfft2(image) * otf
        return np.asarray(scipy.fft.irfft2(spectrum, s=observed.shape), dtype=np.float32)

    for _ in range(iterations):
        ratio = np.asarray(observed / np.maximum(through(estimate), floor), dtype=np.float32)
        # The PSF is symmetric, so correlation is the same as convolution.
        factor = np.maximum(through(ratio), np.float32(0))
        if total_variation > 0:
            factor /= 1 - np.float32(total_variation) * _curvature(estimate)
        estimate = estimate * factor
        yield estimate[inner]


def wiener(
    light: NDArray[np.float32],
    transfer: Transfer,
    ratios: Sequence[float],
) -> Iterator[NDArray[np.float32]]:
    """Estimates of the in-focus light, one per noise-to-signal ratio.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        Background-free counts.
    transfer : callable
        Returns the transfer function of the assumed blur; its PSF must be symmetric.
    ratios : sequence of float
        Ratios of noise power to signal power, the same at every frequency; above 0.

    Yields
    ------
    ndarray of float32, same shape
        ``mean + F^-1[H / (H^2 + ratio) F(light - mean)]``; not negative.
    """
    observed = _padded(light)
    mean = np.float32(observed.mean())
    otf = transfer((observed.shape[0], observed.shape[1]))
    spectrum = scipy.fft.rfft2(observed - mean)
    inner = tuple(slice(MARGIN, MARGIN + side) for side in light.shape)
    for ratio in ratios:
        restored = scipy.fft.irfft2(
            spectrum * (otf / (otf**2 + np.float32(ratio))), s=observed.shape
        )
        yield np.asarray(np.maximum(restored + mean, 0)[inner], dtype=np.float32)


def noise_to_signal(light: NDArray[np.float32]) -> float:
    """Ratio of a frame's noise variance to the variance of its signal.

    The noise is the median of the absolute differences of diagonal neighbours, of which structure
    affects less than half (after J. Immerkær, Comput. Vis. Image Underst. 64, 300, 1996).

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
    """
    mixed = light[1:, 1:] - light[1:, :-1] - light[:-1, 1:] + light[:-1, :-1]
    sigma = float(np.median(np.abs(mixed))) / (2 * _MEDIAN_ABSOLUTE)
    variance = float(light.var(dtype=np.float64))
    return max(sigma**2, 1e-12) / max(variance - sigma**2, 1e-3 * variance, 1e-12)


def _padded(light: NDArray[np.float32]) -> NDArray[np.float32]:
    observed = np.pad(light, MARGIN, mode="symmetric").astype(np.float32)
    # A fast length, because each iteration takes four transforms.
    shape = tuple(scipy.fft.next_fast_len(side, real=True) for side in observed.shape)
    grow = [(0, new - old) for new, old in zip(shape, observed.shape, strict=True)]
    return np.pad(observed, grow, mode="symmetric")


def _curvature(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divergence of the normalised gradient; between -4 and 4."""
    down = np.diff(image, axis=0, append=image[-1:])
    right = np.diff(image, axis=1, append=image[:, -1:])
    # Gradients below a thousandth of the mean count as flat.
    norm = np.sqrt(down**2 + right**2 + np.float32((1e-3 * float(image.mean())) ** 2 + 1e-12))
    down /= norm
    right /= norm
    divergence = np.diff(down, axis=0, prepend=np.float32(0))
    divergence += np.diff(right, axis=1, prepend=np.float32(0))
    return np.asarray(divergence, dtype=np.float32)
