"""Imperfections of real fields: vignetting, an uneven background, debris."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Largest share of the light that is lost at the frame's corners.
MOST_VIGNETTING = 0.5
#: Brightness of debris, in units of that of bright structures.
DEBRIS_LIGHT = (1.5, 12.0)
#: Standard deviation of its pieces, px, before they become ragged.
DEBRIS_PX = (1.0, 6.0)


def uneven(
    rng: np.random.Generator, size: int, haze: float, share: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Background light at each pixel, and the share of the light that arrives there.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : int
        Side of the frame, px.
    haze : float
        Mean background light in units of flux.
    share : float
        Fraction of the frames in which they are uneven.

    Returns
    -------
    haze, shading : ndarray of float32, shape (size, size)
    """
    y, x = np.mgrid[:size, :size].astype(np.float32) / (size / 2) - 1
    even = np.ones((size, size), np.float32)
    if rng.random() >= share:
        return haze * even, even
    row, column, strength = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0, 1)
    loss = MOST_VIGNETTING * strength * ((y - row) ** 2 + (x - column) ** 2) / 4.5
    # A slope and a bowl, like those of stray light and out-of-focus dye; nowhere below a tenth.
    down, right, bowl = rng.uniform(-1, 1, 3)
    slope = np.maximum(1 + 0.8 * (down * y + right * x) + 0.5 * bowl * (y**2 + x**2 - 0.7), 0.1)
    brighter = haze * float(rng.uniform(1.0, 5.0))
    return (brighter * slope).astype(np.float32), np.maximum(1 - loss, 0.3).astype(np.float32)


def with_debris(rng: np.random.Generator, flux: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add one to three small, ragged, bright pieces of debris to a specimen.

    Parameters
    ----------
    rng : numpy.random.Generator
    flux : ndarray of float32, shape (height, width)
    """
    dirty = flux.copy()
    for _ in range(int(rng.integers(1, 4))):
        row, column = (int(rng.integers(side)) for side in flux.shape)
        width = float(rng.uniform(*DEBRIS_PX))
        reach = int(3 * width) + 1
        rows = slice(max(row - reach, 0), row + reach + 1)
        columns = slice(max(column - reach, 0), column + reach + 1)
        y, x = np.mgrid[rows, columns][
            :, : flux.shape[0] - rows.start, : flux.shape[1] - columns.start
        ]
        stretch, turn = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
        along = np.cos(turn) * (x - column) + np.sin(turn) * (y - row)
        across = np.cos(turn) * (y - row) - np.sin(turn) * (x - column)
        piece = np.exp(-0.5 * ((along / width) ** 2 + (across / (stretch * width)) ** 2))
        piece *= rng.uniform(0.3, 1.0, piece.shape)
        dirty[rows, columns] += (rng.uniform(*DEBRIS_LIGHT) * piece).astype(np.float32)
    return dirty
