"""Richardson-Lucy deconvolution: what a network has to be better than.

W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy, Astron. J. 79, 745
(1974).  In Fourier space, with reflected borders, because a PSF of 60 px makes
direct convolution slow and bare borders ring.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from refocusd.optics import Optics
from refocusd_training.simulate.blur import Defocus, transfer

__all__ = ["richardson_lucy"]

MARGIN = 64


def richardson_lucy(
    light: NDArray[np.float32], optics: Optics, defocus: Defocus, iterations: int
) -> Iterator[NDArray[np.float32]]:
    """Estimates of the in-focus light, one an iteration.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        Background-free counts; negative ones are set to 0.
    optics : Optics
    defocus : Defocus
        Whose PSF is taken to be the blur.
    iterations : int

    Yields
    ------
    ndarray of float32, same shape
        After 1, 2, ... `iterations` iterations.
    """
    observed = np.pad(np.maximum(light, 0), MARGIN, mode="symmetric").astype(np.float32)
    # 2, 3 and 5 only: four transforms an iteration.
    shape = tuple(scipy.fft.next_fast_len(side, real=True) for side in observed.shape)
    grow = [(0, new - old) for new, old in zip(shape, observed.shape, strict=True)]
    observed = np.pad(observed, grow, mode="symmetric")
    otf = transfer(optics, defocus, observed.shape)
    inner = tuple(slice(MARGIN, MARGIN + side) for side in light.shape)
    floor = np.float32(max(1e-3 * float(observed.mean()), 1e-6))
    mean = max(float(observed.mean()), 1e-6)
    estimate: NDArray[np.float32] = np.full(observed.shape, mean, np.float32)

    def through(image: NDArray[np.float32]) -> NDArray[np.float32]:
        spectrum = scipy.fft.rfft2(image) * otf
        return np.asarray(scipy.fft.irfft2(spectrum, s=observed.shape), dtype=np.float32)

    for _ in range(iterations):
        ratio = np.asarray(observed / np.maximum(through(estimate), floor), dtype=np.float32)
        # The PSF is symmetric: correlating with it is convolving with it.
        estimate = estimate * np.maximum(through(ratio), np.float32(0))
        yield estimate[inner]
