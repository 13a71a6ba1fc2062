"""Specimens: the light that a sharp image represents, without the scale of its camera."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from refocusd.errors import InputError


def flux_of(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """Flux of a sharp image, background 0 and bright structures about 1.

    Parameters
    ----------
    image : ndarray, shape (height, width)
        Any counts; 8-bit images have already lost their offset and gain.

    Returns
    -------
    ndarray of float32, same shape
        ``(image - P2) / (P99.9 - P2)``, negative values set to 0.

    Raises
    ------
    InputError
        If the image is constant.
    """
    values = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(values, [2.0, 99.9])
    if not high > low:
        raise InputError(f"an image of shape {values.shape} is constant: it shows no specimen")
    flux: NDArray[np.float32] = np.maximum((values - low) / (high - low), 0.0)
    return flux


def reflected(flux: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """The specimen continued by reflection, `margin` pixels on each side."""
    return np.pad(flux, margin, mode="symmetric")


def window(
    flux: NDArray[np.float32], size: int, zoom: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A random square window, turned, flipped and magnified; continued by reflection.

    Parameters
    ----------
    flux : ndarray of float32, shape (height, width)
    size : int
        Side of the window in pixels.
    zoom : float
        Magnification; a value below 1 shows more of the specimen.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (size, size)
    """
    need = round(size / zoom)
    # Reflection on both sides, so that the specimen's borders occur everywhere.
    pads = [(short // 2, short - short // 2) for short in (max(need - n, 0) for n in flux.shape)]
    if any(after for _, after in pads):
        flux = np.pad(flux, pads, mode="symmetric")
    top = int(rng.integers(flux.shape[0] - need + 1))
    left = int(rng.integers(flux.shape[1] - need + 1))
    cut = flux[top : top + need, left : left + need]
    if need != size:
        grid = np.linspace(0, need - 1, size, dtype=np.float32)
        rows, columns = np.meshgrid(grid, grid, indexing="ij")
        cut = scipy.ndimage.map_coordinates(cut, [rows, columns], order=1, mode="nearest")
    cut = np.rot90(cut, int(rng.integers(4)))
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    return np.ascontiguousarray(cut, dtype=np.float32)
