"""Statistics of frames that a simulator must reproduce: spectra, and noise as a function of light.

For frames that do not show the same field, only statistics can be compared: the power at each
spatial frequency (which depends on the blur), and the variance at each brightness (which depends
on the camera).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
from numpy.typing import NDArray

#: Side of the blocks of the photon transfer curve, in px.
BLOCK = 16
#: Second difference along both axes: smooth structure cancels, and white noise keeps its variance
#: (J. Immerkaer, Comput. Vis. Image Underst. 64, 300, 1996).
_RESIDUAL = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0]) / 6.0
#: Standard deviation of a normal distribution over its median absolute deviation.
_PER_MAD = 1.4826


def spectrum_bands(count: int = 32, lowest: float = 0.006) -> NDArray[np.float64]:
    """Edges of bands of spatial frequency, evenly spaced in its logarithm, in cycles per px."""
    return np.geomspace(lowest, 0.5, count)


def radial_spectrum(image: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean power density in each band of spatial frequency.

    Parameters
    ----------
    image : ndarray, shape (height, width)
        Camera counts.
    edges : ndarray of float, shape (bands + 1,)
        Cycles per pixel.

    Returns
    -------
    ndarray of float, shape (bands,)
        Counts squared per pixel: white noise gives its variance in every band. A Hann window
        is applied, whose leakage is far below the spectrum of a blurred frame.
    """
    values = np.asarray(image, np.float64)
    window = np.outer(*(scipy.signal.windows.hann(side, sym=False) for side in values.shape))
    spectrum = np.abs(scipy.fft.rfft2((values - values.mean()) * window)) ** 2
    spectrum /= np.sum(window**2)
    frequency = np.hypot(
        scipy.fft.fftfreq(values.shape[0])[:, None], scipy.fft.rfftfreq(values.shape[1])[None]
    )
    # Each column of a half-spectrum counts twice, except the first (and the last of an even width).
    twice = np.full(spectrum.shape, 2.0)
    twice[:, 0] = 1.0
    if values.shape[1] % 2 == 0:
        twice[:, -1] = 1.0
    band = np.digitize(frequency.ravel(), edges) - 1
    inside = (band >= 0) & (band < len(edges) - 1)
    weight, count = twice.ravel()[inside], len(edges) - 1
    power = np.bincount(band[inside], weight * spectrum.ravel()[inside], count)
    return np.asarray(power / np.bincount(band[inside], weight, count), np.float64)


def log_spectral_distance(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Root mean square of the difference of two spectra's logarithms, in decades of power."""
    return float(np.sqrt(np.mean((np.log10(one) - np.log10(two)) ** 2)))


@dataclass(frozen=True, slots=True)
class PhotonTransfer:
    """Brightness and noise of blocks: ``mean`` in counts, ``variance`` in counts squared."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def binned(self, edges: Sequence[float], least: int = 20) -> list[tuple[float, float]]:
        """Mean and median variance of the blocks of each bin of brightness that has enough."""
        number = np.digitize(self.mean, edges)
        return [
            (float(self.mean[number == i].mean()), float(np.median(self.variance[number == i])))
            for i in range(1, len(edges))
            if np.count_nonzero(number == i) >= least
        ]


def photon_transfer(images: Iterable[NDArray[np.generic]]) -> PhotonTransfer:
    """Mean and noise variance of blocks of single frames.

    The noise is estimated from the median absolute value of the second difference, so that a hot
    pixel or an edge in a block has no effect. Frames with structures as small as a pixel give
    too high a value; frames far out of focus give the camera's noise.
    """
    means, variances = [], []
    for image in images:
        values = np.asarray(image, np.float64)
        residual = scipy.ndimage.convolve(values, _RESIDUAL)[2:-2, 2:-2]
        blocks = _blocks(residual)
        variances.append((_PER_MAD * np.median(np.abs(blocks), axis=1)) ** 2)
        means.append(_blocks(values[2:-2, 2:-2]).mean(axis=1))
    return PhotonTransfer(np.concatenate(means), np.concatenate(variances))


def _blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = (side // BLOCK for side in values.shape)
    cut = values[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cut.swapaxes(1, 2).reshape(rows * columns, BLOCK * BLOCK)


@dataclass(frozen=True, slots=True)
class NoiseFit:
    """A straight line through a photon transfer curve.

    Parameters
    ----------
    gain : float
        Electrons per count: the inverse of the slope.
    dark_variance : float
        Variance at the offset, in counts squared; without dark frames it depends on the offset
        that was assumed.
    """

    gain: float
    dark_variance: float


def fit_noise(curve: PhotonTransfer, offset: float, edges: Sequence[float]) -> NoiseFit:
    """Fit ``variance = (mean - offset) / gain + dark_variance`` to the bins of a curve.

    Parameters
    ----------
    curve : PhotonTransfer
    offset : float
        Counts of a dark pixel.
    edges : sequence of float
        Of the bins, in counts; all bins have the same weight, relative to their variance.
    """
    mean, variance = np.array(curve.binned(edges)).T
    slope, level = np.polyfit(mean - offset, variance, 1, w=1 / variance)
    return NoiseFit(gain=float(1 / slope), dark_variance=float(level))
