"""A scientific camera: converts expected light to counts.

``counts = offset + (Poisson(electrons) + N(0, read_noise)) / gain``, rounded and
clipped; the variance of a pixel is ``(signal / gain) + (read_noise / gain)^2``
counts squared (EMVA standard 1288, linear model).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels


@dataclass(frozen=True, slots=True)
class Camera:
    """The parameters that turn light into counts.

    Parameters
    ----------
    offset : float
        Counts of a dark pixel.
    gain : float
        Electrons per count.
    read_noise : float
        Electrons, standard deviation.
    hot_fraction : float
        Fraction of pixels that are hot: an exponentially distributed amount, with a
        mean of a quarter of the brightest expectation, is added to them.
    hot_pixels : tuple of (y, x)
        Pixels that are hot in every exposure, by an amount drawn likewise.
    bits : int
        8 gives uint8; anything else up to 16 gives uint16.
    """

    offset: float = 100.0
    gain: float = 1.0
    read_noise: float = 3.0
    hot_fraction: float = 0.0
    bits: int = 12
    hot_pixels: tuple[tuple[int, int], ...] = ()

    @property
    def full_scale(self) -> int:
        """The largest count."""
        return int(2**self.bits - 1)

    def expose(self, signal: NDArray[np.float32], rng: np.random.Generator) -> Pixels:
        """One exposure.

        Parameters
        ----------
        signal : ndarray of float32, shape (height, width)
            Expected counts above the offset; not negative.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of uint8 or uint16, same shape
        """
        if self.hot_fraction > 0:
            hot = rng.random(signal.shape, dtype=np.float32) < self.hot_fraction
            heat = rng.exponential(0.25 * float(signal.max()) + 10.0, int(hot.sum()))
            signal = signal.copy()
            signal[hot] += heat.astype(np.float32)
        if self.hot_pixels:
            heat = rng.exponential(0.25 * float(signal.max()) + 10.0, len(self.hot_pixels))
            signal = signal.copy()
            rows, columns = np.array(self.hot_pixels).T
            signal[rows, columns] += heat.astype(np.float32)
        electrons = rng.poisson(signal * self.gain).astype(np.float32)
        electrons += self.read_noise * rng.standard_normal(signal.shape, dtype=np.float32)
        counts = np.rint(electrons / self.gain + self.offset)
        clipped = np.clip(counts, 0, self.full_scale)
        if self.bits == 8:
            return np.asarray(clipped, dtype=np.uint8)
        return np.asarray(clipped, dtype=np.uint16)
